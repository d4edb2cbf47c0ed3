//! What `assign` adds to the kernel's own time when it makes 7 VFs and binds them to vfio-pci:
//! `cargo bench -p benches --bench vfs`.
//!
//! Measured in an emulated host whose clock counts instructions, against the same writes to sysfs by
//! shell built-ins, which is as little as can be done. Both take turns; the VFs are unmade between
//! them, and that is not measured.

use anyhow::{Context, Result, ensure};
use lab::{Host, image, setup};

/// Turns of each.
const TURNS: usize = 5;

/// What we may cost at most, beside the bare writes.
const GOAL: f64 = 1.05;

/// The first line that tells the time in nanoseconds; `/proc/uptime` tells hundredths of a second.
const NOW: &str = "now() { while read -r a b ns c; do [ \"$a\" = now ] && break; done \
                   </proc/timer_list; echo \"$ns\"; }";

/// The writes that the kernel wants, in their order, and no more.
fn bare() -> String {
    let pf = "/sys/bus/pci/devices/0000:01:00.0";
    let mut lines =
        vec![format!("echo 0 >{pf}/sriov_drivers_autoprobe"), format!("echo 7 >{pf}/sriov_numvfs")];
    for vf in vfs() {
        lines.push(format!("echo vfio-pci >/sys/bus/pci/devices/{vf}/driver_override"));
        lines.push(format!("echo {vf} >/sys/bus/pci/drivers_probe"));
    }
    lines.push(format!("echo 1 >{pf}/sriov_drivers_autoprobe"));
    lines.join("\n")
}

fn vfs() -> impl Iterator<Item = String> {
    (0..7).map(|index| {
        let place = 2 * index;
        format!("0000:01:{:02x}.{}", 0x10 + place / 8, place % 8)
    })
}

/// Runs `work` once in `host` and returns how long it took there, in milliseconds.
fn measure(host: &Host, work: &str) -> Result<f64> {
    let output =
        host.ok(&format!("{NOW}\nbefore=$(now)\n{work}\nafter=$(now)\necho $before $after"));
    let last = output.lines().last().unwrap_or_default();
    let (before, after) = last.split_once(' ').context("two times")?;
    for vf in vfs() {
        let driver = host.ok(&format!("readlink /sys/bus/pci/devices/{vf}/driver"));
        ensure!(driver.trim().ends_with("/vfio-pci"), "{vf} is bound to {driver:?}");
    }
    host.ok("echo 0 >/sys/bus/pci/devices/0000:01:00.0/sriov_numvfs");
    Ok((after.parse::<f64>()? - before.parse::<f64>()?) / 1e6)
}

fn median(times: &mut [f64]) -> f64 {
    times.sort_by(f64::total_cmp);
    times[times.len() / 2]
}

fn main() -> Result<()> {
    setup::ready()?;
    image::build_programs()?;
    let host = Host::intel().igb(1).counted().limit(std::time::Duration::from_secs(1200)).boot()?;
    let (bare, ours) = (bare(), "assign vf create eth0 7 --driver vfio-pci >/dev/null");
    // The first of each brings files and modules into memory.
    measure(&host, &bare)?;
    measure(&host, ours)?;
    let (mut of_kernel, mut of_assign) = (Vec::new(), Vec::new());
    for _ in 0..TURNS {
        of_kernel.push(measure(&host, &bare)?);
        of_assign.push(measure(&host, ours)?);
    }
    println!("7 VFs made and bound to vfio-pci, {TURNS} turns, milliseconds of counted time");
    println!("  bare writes   {of_kernel:.1?}");
    println!("  assign        {of_assign:.1?}");
    let (kernel, assign) = (median(&mut of_kernel), median(&mut of_assign));
    let ratio = assign / kernel;
    println!(
        "  medians {kernel:.1} and {assign:.1}: {ratio:.3} times (goal: at most {GOAL}; {})",
        if ratio <= GOAL { "reached" } else { "missed" }
    );
    ensure!(ratio <= GOAL, "the goal is missed");
    Ok(())
}
