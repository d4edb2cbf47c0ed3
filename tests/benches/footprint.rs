//! What a guest costs its host in memory beside what the guest itself uses: `cargo bench -p benches --bench
//! footprint`.
//!
//! Counted is what is resident of each mapping of a process (`Rss` in /proc/PID/smaps, proc(5)), but for the
//! guest's own memory, once the guest is up and idle. Files that several processes have mapped count in each
//! of them. The same guest in QEMU is told beside it, and so is the command that stays with each guest.
//!
//! At the end ours is held against its goal, and a miss is an error.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use lab::{Host, Job, image, peer, setup};

/// The guest's memory: no other mapping is as large.
const MEMORY: u64 = 256 << 20;
/// What a guest's process may have besides.
const GOAL: u64 = 4096;
const UP: Duration = Duration::from_secs(120);
const CMDLINE: &str = "console=ttyS0 quiet lab=hold";

/// A guest: its name in the table, what stands in its document, and QEMU's options for the same.
struct Case {
    name: &'static str,
    document: &'static str,
    qemu: &'static str,
}

const CASES: [Case; 2] = [
    Case { name: "no device", document: "", qemu: "" },
    Case {
        name: "a network, a disk, random numbers",
        document: "  networks: [{name: lan, virtio: {bridge: bench}}]\n  disks: [{name: data, path: \
                   /root/data.raw}]\n  rng: true\n",
        qemu: "-netdev tap,id=lan,ifname=benchtap,script=/root/up,downscript=no -device \
               virtio-net-pci,netdev=lan,romfile= -drive \
               file=/root/data.raw,format=raw,if=none,id=data -device virtio-blk-pci,drive=data \
               -device virtio-rng-pci",
    },
];

/// KiB of a process that are resident, by what they are of.
#[derive(Debug, Default, PartialEq, Eq)]
struct Footprint {
    program: u64,
    libraries: u64,
    own: u64,
}

impl Footprint {
    /// Of what smaps tells of a process whose file is `program`.
    fn parse(smaps: &str, program: &str) -> Result<Self> {
        let mut all = Footprint::default();
        let mut counted = None;
        for line in smaps.lines() {
            let mut words = line.split_whitespace();
            let first = words.next().unwrap_or_default();
            if let Some((from, to)) = first.split_once('-') {
                let number = |text| u64::from_str_radix(text, 16).context("no address");
                let length = number(to)? - number(from)?;
                // address, permissions, offset, device, inode
                let file = words.nth(4).unwrap_or_default();
                counted = match file {
                    _ if length >= MEMORY => None,
                    _ if file == program => Some(&mut all.program),
                    _ if file.starts_with('/') && !file.starts_with("/dev/") => {
                        Some(&mut all.libraries)
                    }
                    _ => Some(&mut all.own),
                };
            } else if let ("Rss:", Some(counted)) = (first, &mut counted) {
                **counted += words.next().context("no size")?.parse::<u64>()?;
            }
        }
        ensure!(all.own > 0, "smaps tells nothing: {smaps}");
        Ok(all)
    }

    fn sum(&self) -> u64 {
        self.program + self.libraries + self.own
    }

    fn row(&self, guest: &str, process: &str) -> String {
        let Footprint { program, libraries, own } = self;
        format!("| {guest} | {process} | {program} | {libraries} | {own} | {} |", self.sum())
    }
}

fn document(case: &Case) -> String {
    format!(
        "apiVersion: assign/v1\nkind: Guest\nmetadata: {{name: bench}}\nspec:\n  memory: {{size: \
         {}MiB}}\n  boot: {{kernel: /boot/vmlinuz, initrd: /boot/guest.cpio, cmdline: \
         \"{CMDLINE}\"}}\n{}",
        MEMORY >> 20,
        case.document
    )
}

fn qemu(case: &Case) -> String {
    format!(
        "{} -machine q35 -accel kvm -cpu host -m {} -nodefaults -no-user-config -display none \
         -no-reboot -serial stdio -kernel /boot/vmlinuz -initrd /boot/guest.cpio -append \
         '{CMDLINE}' {}",
        peer::command(),
        MEMORY >> 20,
        case.qemu
    )
}

/// Starts a guest, and returns what `look` finds once it is up.
fn with_guest<T>(host: &Host, command: &str, look: impl FnOnce(&Host) -> Result<T>) -> Result<T> {
    let guest: Job = host.spawn(&format!("exec {command}"));
    guest.wait_for("guest: holding", UP)?;
    let found = look(host);
    guest.stdin("stop\n");
    guest.wait(UP)?;
    found
}

/// What the process has whose number `pid` prints, and whose file is `file`.
fn footprint(host: &Host, pid: &str, file: &str) -> Result<Footprint> {
    Footprint::parse(&host.ok(&format!("cat /proc/$({pid})/smaps")), file)
}

fn main() -> Result<()> {
    setup::ready()?;
    image::build_programs()?;
    let mut shape = Host::intel().qemu().bridge().limit(Duration::from_secs(900));
    for (number, case) in CASES.iter().enumerate() {
        shape = shape.file(&format!("root/guest{number}.yaml"), document(case));
    }
    let host = shape.boot()?;
    host.ok(
        "truncate -s 16M data.raw && ip link add bench type bridge && ip link set bench up && \
         printf '#!/bin/sh\\nip link set $1 master bench\\nip link set $1 up\\n' >up && chmod +x up",
    );
    println!("KiB of memory beside the guest's own, resident and idle:\n");
    println!("| guest | process | program | libraries | its own | in all |");
    println!("|---|---|---|---|---|---|");
    let mut missed = 0;
    for (number, case) in CASES.iter().enumerate() {
        let (vmm, command) =
            with_guest(&host, &format!("assign run -f guest{number}.yaml"), |host| {
                let vmm = footprint(host, "pidof assign-vmm", "/usr/bin/assign-vmm")?;
                Ok((vmm, footprint(host, "pidof assign", "/usr/bin/assign")?))
            })?;
        let theirs = with_guest(&host, &qemu(case), |host| {
            footprint(host, "pidof ld-linux-x86-64.so.2 qemu", "/opt/qemu/qemu")
        })?;
        println!("{}", vmm.row(case.name, "assign-vmm"));
        println!("{}", command.row(case.name, "assign run"));
        println!("{}", theirs.row(case.name, "QEMU"));
        missed += usize::from(vmm.sum() > GOAL);
    }
    println!(
        "\nassign-vmm: at most {GOAL} KiB: {}",
        if missed == 0 { "reached" } else { "MISSED" }
    );
    ensure!(missed == 0, "{missed} of {} goals were missed", CASES.len());
    Ok(())
}
