//! How fast a guest's disk is beside QEMU's: `cargo bench -p lab --bench disk`.
//!
//! The same guest reads and writes the same raw file, in a host whose clock counts instructions: in large
//! pieces, which is throughput, and in pages one after the other, which is latency. It does so past its
//! own memory for files (O_DIRECT). The file is in the host's memory, so that nothing is measured but the
//! way there. QEMU has it by threads and by io_uring, in turns with ours.
//!
//! At the end ours is held against the better of QEMU's, and a miss is an error.

mod turns;

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use lab::{Host, image, peer, setup};
use turns::{LIMIT, Turns, median};

/// Turns of each.
const TURNS: usize = 3;

/// What the guest does, by what it calls it: the bytes of a piece, and how many of them.
const WORK: [(&str, f64, f64); 4] = [
    ("write 1M", 1048576.0, 48.0),
    ("read 1M", 1048576.0, 48.0),
    ("write 4k", 4096.0, 1500.0),
    ("read 4k", 4096.0, 1500.0),
];

/// More than others take, and it is a miss: what repeated runs differ by.
const TOLERANCE: f64 = 1.02;

const FILE: &str = "/disks/root.raw";
const CMDLINE: &str = "console=ttyS0 quiet mitigations=off lab=disk";

fn ours() -> String {
    format!(
        "apiVersion: assign/v1\nkind: Guest\nmetadata: {{name: bench}}\nspec:\n  memory: {{size: \
         256MiB}}\n  boot: {{kernel: /boot/vmlinuz, initrd: /boot/guest.cpio, cmdline: \
         \"{CMDLINE}\"}}\n  disks: [{{name: root, path: {FILE}}}]\n"
    )
}

fn qemu(aio: &str) -> String {
    format!(
        "{} -machine q35 -accel kvm -cpu host -m 256 -nodefaults -no-user-config -display none \
         -no-reboot -serial stdio -kernel /boot/vmlinuz -initrd /boot/guest.cpio -append \
         '{CMDLINE}' -drive file={FILE},format=raw,if=none,id=root,aio={aio} -device \
         virtio-blk-pci,drive=root,romfile=",
        peer::command()
    )
}

/// Runs the guest once, and returns the seconds of each piece of [`WORK`].
fn measure(host: &Host, command: &str) -> Result<Vec<f64>> {
    let job = host.spawn(&format!("exec {command} </dev/null"));
    let output = job.wait(LIMIT).inspect_err(|_| job.kill())?;
    let seconds = |(what, _, count): &(&str, f64, f64)| {
        let (_, rest) = output.stdout.split_once(&format!("disk {what}: "))?;
        let mut words = rest.split_whitespace();
        let (begin, end) = (words.next()?.parse::<f64>().ok()?, words.next()?.parse::<f64>().ok()?);
        Some((end - begin) / count)
    };
    WORK.iter().map(seconds).collect::<Option<_>>().with_context(|| format!("{output:?}"))
}

fn main() -> Result<()> {
    setup::ready()?;
    image::build_programs()?;
    let host = Host::intel()
        .counted()
        .qemu()
        .file("root/guest.yaml", ours())
        .limit(Duration::from_secs(3000))
        .boot()?;
    host.ok(&format!("mkdir /disks && mount -t tmpfs none /disks && truncate -s 64M {FILE}"));
    let mut all = [
        ("assign", "assign run -f guest.yaml".to_owned(), Turns::new()),
        ("QEMU, threads", qemu("threads"), Turns::new()),
        ("QEMU, io_uring", qemu("io_uring"), Turns::new()),
    ];
    for _ in 0..=TURNS {
        for (_, command, turns) in &mut all {
            turns.turn(&host, || measure(&host, command));
        }
    }
    println!("Counted time, medians of {TURNS} turns:\n");
    println!("| | writes, MiB/s | reads, MiB/s | a write of 4 KiB, µs | a read of 4 KiB, µs |");
    println!("|---|---|---|---|---|");
    let mut medians = Vec::new();
    for (name, _, turns) in &mut all {
        turns.forget_first();
        let of = |at: usize| median(turns.measured.iter().map(|seconds| seconds[at]).collect());
        let seconds: Option<Vec<f64>> = (0..WORK.len()).map(of).collect();
        let seconds = seconds.with_context(|| format!("{name}: always hung"))?;
        let cells = WORK.iter().zip(&seconds).map(|((_, size, _), seconds)| match *size > 4096.0 {
            true => format!("{:.0}", size / seconds / 1048576.0),
            false => format!("{:.1}", seconds * 1e6),
        });
        println!("| {name}{} | {} |", turns.hung(), cells.collect::<Vec<_>>().join(" | "));
        medians.push(seconds);
    }
    println!();
    let mut missed = 0;
    for (at, (what, ..)) in WORK.iter().enumerate() {
        let times = medians[0][at] / medians[1][at].min(medians[2][at]);
        let verdict = if times <= TOLERANCE { "reached" } else { "MISSED" };
        println!("{what}: {times:.2} times QEMU's time, at most {TOLERANCE:.2}: {verdict}");
        missed += usize::from(times > TOLERANCE);
    }
    ensure!(missed == 0, "{missed} of {} goals were missed", WORK.len());
    Ok(())
}
