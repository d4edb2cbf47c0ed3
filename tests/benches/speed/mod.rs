//! What a guest moves in ours and in QEMU: the same guest, in turns, by the wall clock.
//!
//! A host whose clock counts instructions would be steadier, but guests that wait for disks and networks
//! stand still there. So the host is one without that: what is measured differs by some percent from turn
//! to turn, most by what else this machine does meanwhile.

use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use lab::{Host, peer};

use crate::turns::{LIMIT, Turns, median};

/// Turns of each, after one that brings everything into memory.
const TURNS: usize = 9;

/// More than the time that QEMU takes, and it is a miss: what repeated runs differ by.
const TOLERANCE: f64 = 1.05;

/// One thing that the guest does: it prints `NAME: BEGIN END`, in seconds.
pub struct Work {
    pub name: &'static str,
    pub measure: Measure,
}

/// How what it took is told.
pub enum Measure {
    /// So many bytes were moved: MiB in a second.
    Bytes(f64),
    /// It was done so many times, one after the other: microseconds for each.
    Times(f64),
}

impl Work {
    fn unit(&self) -> &str {
        match self.measure {
            Measure::Bytes(_) => "MiB/s",
            Measure::Times(_) => "µs",
        }
    }

    fn told(&self, seconds: f64) -> String {
        match self.measure {
            Measure::Bytes(bytes) => format!("{:.0}", bytes / 1048576.0 / seconds),
            Measure::Times(count) => format!("{:.0}", seconds / count * 1e6),
        }
    }

    /// The seconds that it took, by what the guest printed.
    fn seconds(&self, output: &str) -> Option<f64> {
        let (_, rest) = output.split_once(&format!("guest: {}: ", self.name))?;
        let mut words = rest.split_whitespace();
        let (begin, end) = (words.next()?.parse::<f64>().ok()?, words.next()?.parse::<f64>().ok()?);
        Some(end - begin)
    }
}

/// One way to have the guest.
pub struct Way {
    pub name: &'static str,
    pub command: String,
}

/// The command that has QEMU start the lab's guest with 256 MiB, this kernel command line and these further
/// options.
pub fn qemu(cmdline: &str, options: &str) -> String {
    format!(
        "{} -machine q35 -accel kvm -cpu host -m 256 -nodefaults -no-user-config -display none \
         -no-reboot -serial stdio -kernel /boot/vmlinuz -initrd /boot/guest.cpio -append \
         '{cmdline}' {options}",
        peer::command()
    )
}

/// The document of the same guest, with these further lines of its `spec`.
pub fn document(cmdline: &str, lines: &str) -> String {
    format!(
        "apiVersion: assign/v1\nkind: Guest\nmetadata: {{name: bench}}\nspec:\n  memory: {{size: \
         256MiB}}\n  boot: {{kernel: /boot/vmlinuz, initrd: /boot/guest.cpio, cmdline: \
         \"{cmdline}\"}}\n{lines}"
    )
}

/// Runs the guest once, and returns the seconds of each piece of work.
fn measure(host: &Host, command: &str, work: &[Work]) -> Result<Vec<f64>> {
    let job = host.spawn(&format!("exec {command} </dev/null"));
    let output = job.wait(LIMIT).inspect_err(|_| job.kill())?;
    let seconds = work.iter().map(|work| work.seconds(&output.stdout)).collect::<Option<_>>();
    seconds.with_context(|| format!("{output:?}"))
}

/// Measures all `ways`, of which the first is ours, and prints a table.
///
/// # Errors
/// Where ours takes longer than the best of the others for any work, or there is nothing to hold it against.
pub fn compare(host: &Host, ways: &[Way], work: &[Work]) -> Result<()> {
    let mut all: Vec<Turns<Vec<f64>>> = ways.iter().map(|_| Turns::new()).collect();
    for round in 0..=TURNS {
        let mut order: Vec<usize> = (0..ways.len()).collect();
        // Whoever comes after the same one every time may have it easier, or harder.
        order.rotate_left(round % ways.len());
        for at in order {
            all[at].turn(host, || measure(host, &ways[at].command, work));
        }
    }
    println!("Medians of {TURNS} turns, and the least and the most:\n");
    let heads = work.iter().map(|work| format!("{}, {}", work.name, work.unit()));
    println!("| | {} |", heads.collect::<Vec<_>>().join(" | "));
    println!("|---|{}", "---|".repeat(work.len()));
    let mut medians = Vec::new();
    for (way, turns) in ways.iter().zip(&mut all) {
        turns.forget_first();
        let name = format!("{}{}", way.name, turns.hung());
        if turns.measured.is_empty() {
            println!("| {name} |{}", " none |".repeat(work.len()));
            continue;
        }
        let each = work.iter().enumerate().map(|(at, work)| {
            let mut seconds: Vec<f64> = turns.measured.iter().map(|turn| turn[at]).collect();
            seconds.sort_by(f64::total_cmp);
            let (least, most) = (seconds[0], seconds[seconds.len() - 1]);
            let median = median(seconds).unwrap_or(most);
            let told = [median, least, most].map(|seconds| work.told(seconds));
            (median, format!("{} ({} to {})", told[0], told[1], told[2]))
        });
        let (seconds, cells): (Vec<f64>, Vec<String>) = each.unzip();
        println!("| {name} | {} |", cells.join(" | "));
        medians.push((way.name, seconds));
    }
    println!();
    let Some(((first, ours), others)) = medians.split_first() else {
        bail!("no guest came to its end");
    };
    ensure!(*first == ways[0].name && !others.is_empty(), "there is nothing to compare");
    let mut missed = 0;
    for (at, work) in work.iter().enumerate() {
        let theirs = others.iter().map(|(_, seconds)| seconds[at]).fold(f64::INFINITY, f64::min);
        let times = ours[at] / theirs;
        let verdict = if times <= TOLERANCE { "reached" } else { "MISSED" };
        let name = work.name;
        println!("{name}: {times:.2} times QEMU's time, at most {TOLERANCE:.2}: {verdict}");
        missed += usize::from(times > TOLERANCE);
    }
    ensure!(missed == 0, "{missed} of {} goals were missed", work.len());
    Ok(())
}

/// How long a host of these benchmarks may live.
pub const HOST_TIME: Duration = Duration::from_secs(3000);
