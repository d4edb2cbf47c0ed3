//! How long a guest takes to start, beyond what its own kernel's clock counts: `cargo bench -p lab
//! --bench launch`; `-- TEXT` measures only the cases that have the text in their names.
//!
//! Measured in an emulated host whose clock counts instructions. A guest says what its clock shows as
//! the first thing its init does, and again when its first interface has a link; what this host's
//! clock shows since the command was started, less that, is what starting costs. All of it counts:
//! reading the host, choosing, leasing, the VMM, and the kernel's own time for pinning and resets.

use std::env;
use std::time::Duration;

use anyhow::{Context, Result};
use lab::{Host, image, setup};

/// Turns of each.
const TURNS: usize = 3;

/// One kind of guest.
struct Case {
    name: &'static str,
    vfs: usize,
    memory: u32,
}

const CASES: &[Case] = &[
    Case { name: "no device, 512 MiB", vfs: 0, memory: 512 },
    Case { name: "1 VF, 512 MiB", vfs: 1, memory: 512 },
    Case { name: "7 VFs, 512 MiB", vfs: 7, memory: 512 },
    Case { name: "1 VF, 1536 MiB", vfs: 1, memory: 1536 },
];

/// What starting cost until the guest's init and until its link, in seconds.
#[derive(Debug, Clone, Copy)]
struct Cost {
    up: f64,
    link: Option<f64>,
}

fn guest(case: &Case) -> String {
    let networks: Vec<String> =
        (0..case.vfs).map(|index| format!("{{name: net{index}, claim: {{pool: lan}}}}")).collect();
    let networks = match networks.is_empty() {
        true => String::new(),
        false => format!("  networks: [{}]\n", networks.join(", ")),
    };
    format!(
        "apiVersion: assign/v1\nkind: Guest\nmetadata: {{name: bench}}\nspec:\n  memory: {{size: \
         {}MiB}}\n  boot: {{kernel: /boot/vmlinuz, initrd: /boot/guest.cpio, cmdline: \
         \"console=ttyS0 quiet mitigations=off lab=time\"}}\n{networks}",
        case.memory
    )
}

const POLICY: &str = "apiVersion: assign/v1\nkind: Policy\nmetadata: {name: bench}\nspec: {pools: \
                      [{name: lan, from: {interface: eth0}, vfs: {count: 7}}]}\n";

/// Runs a command once in `host` and returns what starting the guest cost.
fn measure(host: &Host, command: &str) -> Result<Cost> {
    let output = host.run_within(&format!("lab-clock {command}"), Duration::from_secs(300))?;
    let cost = |what: &str| {
        let line = output.stdout.lines().find(|line| line.ends_with(what))?;
        let (here, rest) = line.split_once(' ')?;
        let there = rest.split_once("guest: clock ")?.1.split(' ').next()?;
        Some(here.parse::<f64>().ok()? - there.parse::<f64>().ok()?)
    };
    let up = cost(" up").with_context(|| format!("no guest came up: {output:?}"))?;
    Ok(Cost { up, link: cost(" link") })
}

fn median(mut times: Vec<f64>) -> Option<f64> {
    times.sort_by(f64::total_cmp);
    times.get(times.len() / 2).copied()
}

fn main() -> Result<()> {
    // Cargo adds options of its own.
    let wanted: Vec<String> = env::args().skip(1).filter(|word| !word.starts_with('-')).collect();
    let is_wanted = |case: &Case| {
        wanted.is_empty() || wanted.iter().any(|text| case.name.contains(text.as_str()))
    };
    setup::ready()?;
    image::build_programs()?;
    let mut shape = Host::intel().igb(1).counted().limit(Duration::from_secs(3000));
    shape = shape.file("root/policy.yaml", POLICY);
    for (number, case) in CASES.iter().enumerate() {
        shape = shape.file(&format!("root/guest{number}.yaml"), guest(case));
    }
    let host = shape.boot()?;
    host.ok("assign apply -f policy.yaml");
    println!("seconds of counted time beyond the guest's own clock, medians of {TURNS} turns");
    println!("{:24} {:>8} {:>8}", "", "to init", "to link");
    for (number, case) in CASES.iter().enumerate().filter(|(_, case)| is_wanted(case)) {
        let command = format!("assign run -f guest{number}.yaml");
        // The first brings files into memory.
        measure(&host, &command)?;
        let mut costs = Vec::new();
        for _ in 0..TURNS {
            costs.push(measure(&host, &command)?);
        }
        let up = median(costs.iter().map(|cost| cost.up).collect());
        let link = median(costs.iter().filter_map(|cost| cost.link).collect());
        let shown = |time: Option<f64>| time.map_or("-".to_owned(), |time| format!("{time:.3}"));
        println!("{:24} {:>8} {:>8}", case.name, shown(up), shown(link));
    }
    Ok(())
}
