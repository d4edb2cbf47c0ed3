//! How long a guest takes to start, beyond what its own kernel's clock counts: `cargo bench -p benches
//! --bench launch`; `-- TEXT` measures only the cases that have the text in their names.
//!
//! Measured in an emulated host whose clock counts instructions. A guest says what its clock shows as
//! the first thing its init does, and again when its first interface has a link; what this host's
//! clock shows since the command was started, less that, is what starting costs. All of it counts:
//! reading the host, choosing, leasing, the VMM, and the kernel's own time for pinning and resets.
//!
//! What happens beside the guest, or has a vCPU held, passes on the guest's clock as well. So the whole
//! time to the link, or to the init where there is no device, is told too, with all that the guest's
//! kernel does.
//!
//! The same guests are started by this machine's QEMU, in turns with ours in the same host. What it is
//! started by has nothing to find out: it is told the addresses of VFs that are ready.
//!
//! At the end the goals are held against what was measured, and a miss is an error. What stands in
//! their way is shown before that: the phases of one more start of each guest, which tells them.

mod turns;

use std::collections::BTreeMap;
use std::env;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use lab::{Host, image, peer, setup};
use turns::{LIMIT, MOST_HANGS, Turns, median, settle};

/// Turns of each.
const TURNS: usize = 3;

/// One kind of guest.
struct Case {
    name: &'static str,
    vfs: usize,
    memory: u32,
}

const NONE: &str = "no device, 512 MiB";
const ONE: &str = "1 VF, 512 MiB";
const SEVEN: &str = "7 VFs, 512 MiB";
const LARGE: &str = "1 VF, 1536 MiB";

const CASES: &[Case] = &[
    Case { name: NONE, vfs: 0, memory: 512 },
    Case { name: ONE, vfs: 1, memory: 512 },
    Case { name: SEVEN, vfs: 7, memory: 512 },
    Case { name: LARGE, vfs: 1, memory: 1536 },
];

/// What starting cost until the guest's init and until its link, and how long all of it took to the
/// later of the two, in seconds.
#[derive(Debug, Clone, Copy)]
struct Cost {
    up: f64,
    link: Option<f64>,
    whole: f64,
}

/// What all guests boot.
const CMDLINE: &str = "console=ttyS0 quiet mitigations=off lab=time";

/// The command that has QEMU start the same guest.
fn qemu(case: &Case) -> String {
    let vfs: String = (0..case.vfs)
        .map(|index| {
            format!(" -device vfio-pci,host=0000:01:{:02x}.{}", 0x10 + index / 4, index % 4 * 2)
        })
        .collect();
    format!(
        "{} -machine q35 -accel kvm -cpu host -m {} -nodefaults -no-user-config -display none \
         -no-reboot -serial stdio -kernel /boot/vmlinuz -initrd /boot/guest.cpio -append \
         '{CMDLINE}'{vfs}",
        peer::command(),
        case.memory
    )
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
         \"{CMDLINE}\"}}\n{networks}",
        case.memory
    )
}

const POLICY: &str = "apiVersion: assign/v1\nkind: Policy\nmetadata: {name: bench}\nspec: {pools: \
                      [{name: lan, from: {interface: eth0}, vfs: {count: 7}}]}\n";

/// Runs a command once in `host` and returns what starting the guest cost.
fn measure(host: &Host, command: &str) -> Result<Cost> {
    let job = host.spawn(&format!("exec lab-clock {command} </dev/null"));
    let output = job.wait(LIMIT).inspect_err(|_| job.kill())?;
    let cost = |what: &str| {
        let line = output.stdout.lines().find(|line| line.ends_with(what))?;
        let (here, rest) = line.split_once(' ')?;
        let there = rest.split_once("guest: clock ")?.1.split(' ').next()?;
        let here = here.parse::<f64>().ok()?;
        Some((here - there.parse::<f64>().ok()?, here))
    };
    let up = cost(" up").with_context(|| format!("no guest came up: {output:?}"))?;
    let link = cost(" link");
    Ok(Cost { up: up.0, link: link.map(|link| link.0), whole: link.unwrap_or(up).1 })
}

/// The turns of one command.
struct Starts<'a> {
    host: &'a Host,
    command: String,
    turns: Turns<Cost>,
}

impl<'a> Starts<'a> {
    fn of(host: &'a Host, command: String) -> Self {
        Starts { host, command, turns: Turns::new() }
    }

    /// One more.
    fn turn(&mut self) {
        self.turns.turn(self.host, || measure(self.host, &self.command));
    }

    /// Three cells of the table.
    fn cells(&self) -> String {
        match medians(&self.turns.measured) {
            Some(Medians { up, link, whole }) => {
                let link = link.map_or(String::new(), |time| format!("{time:.2}"));
                format!("{up:.2}{} | {link} | {whole:.2}", self.turns.hung())
            }
            None => "hangs | | ".to_owned(),
        }
    }
}

/// The phases of one more start, as `assign run --timeline` shows them. They are told early, so that one
/// that hangs later serves as well.
fn timeline(host: &Host, number: usize) -> Result<String> {
    let command = format!("exec assign run -f guest{number}.yaml --timeline </dev/null");
    let mut told = String::new();
    for _ in 0..=MOST_HANGS {
        let job = host.spawn(&command);
        if job.wait(LIMIT).is_err() {
            job.kill();
            settle(host);
        }
        told = job.output_so_far();
        if let Some((_, rest)) = told.split_once("what its start took:") {
            // The lines of the table alone begin with spaces.
            let lines = rest.lines().skip(1).take_while(|line| line.starts_with(' '));
            return Ok(lines.map(|line| format!("    {line}\n")).collect());
        }
    }
    bail!("no timeline: {told}")
}

/// Medians of a case, of each [`Cost`].
#[derive(Debug, Clone, Copy)]
struct Medians {
    up: f64,
    link: Option<f64>,
    whole: f64,
}

fn medians(costs: &[Cost]) -> Option<Medians> {
    let up = median(costs.iter().map(|cost| cost.up).collect())?;
    let whole = median(costs.iter().map(|cost| cost.whole).collect())?;
    Some(Medians { up, link: median(costs.iter().filter_map(|cost| cost.link).collect()), whole })
}

/// What a goal is about, how much it allows, and what came out.
fn goals(ours: &BTreeMap<&str, Medians>) -> Vec<(&'static str, f64, f64)> {
    let up = |name: &str| ours.get(name).map(|medians| medians.up);
    let mut goals = Vec::new();
    if let Some(none) = up(NONE) {
        // What Firecracker takes for the same, beside which it must be less.
        goals.push(("no device, 512 MiB: seconds to init", 0.18, none));
    }
    if let Some(one) = up(ONE) {
        goals.push(("1 VF, 512 MiB: seconds to init", 0.20, one));
        if let Some(seven) = up(SEVEN) {
            goals.push(("7 VFs: times what 1 VF takes", 1.1, seven / one));
        }
        if let Some(large) = up(LARGE) {
            goals.push(("seconds for each further GiB", 0.2, large - one));
        }
    }
    goals
}

fn main() -> Result<()> {
    // Cargo adds options of its own.
    let wanted: Vec<String> = env::args().skip(1).filter(|word| !word.starts_with('-')).collect();
    let is_wanted = |case: &Case| {
        wanted.is_empty() || wanted.iter().any(|text| case.name.contains(text.as_str()))
    };
    setup::ready()?;
    image::build_programs()?;
    let mut shape = Host::intel().igb(1).counted().qemu().limit(Duration::from_secs(3000));
    shape = shape.file("root/policy.yaml", POLICY);
    for (number, case) in CASES.iter().enumerate() {
        shape = shape.file(&format!("root/guest{number}.yaml"), guest(case));
    }
    let host = shape.boot()?;
    host.ok("assign apply -f policy.yaml");
    println!("Seconds of counted time beyond the guest's own clock, medians of {TURNS} turns:\n");
    println!("| guest | to init | to link | whole time | QEMU to init | to link | whole time |");
    println!("|---|---|---|---|---|---|---|");
    let mut all = BTreeMap::new();
    let mut timelines = Vec::new();
    for (number, case) in CASES.iter().enumerate().filter(|(_, case)| is_wanted(case)) {
        let mut ours = Starts::of(&host, format!("assign run -f guest{number}.yaml"));
        let mut theirs = Starts::of(&host, qemu(case));
        for _ in 0..=TURNS {
            ours.turn();
            theirs.turn();
        }
        for starts in [&mut ours, &mut theirs] {
            starts.turns.forget_first();
        }
        println!("| {} | {} | {} |", case.name, ours.cells(), theirs.cells());
        let ours = medians(&ours.turns.measured);
        all.insert(case.name, ours.with_context(|| format!("{}: always hung", case.name))?);
        timelines.push((case.name, timeline(&host, number)?));
    }
    println!("\nWhat one more start of each went through, with its phases told:");
    for (name, timeline) in timelines {
        println!("\n{name}:\n\n{timeline}");
    }
    let goals = goals(&all);
    for (what, allowed, found) in &goals {
        let verdict = if found <= allowed { "reached" } else { "MISSED" };
        println!("{what}: {found:.4}, at most {allowed:.2}: {verdict}");
    }
    let missed = goals.iter().filter(|(_, allowed, found)| found > allowed).count();
    ensure!(missed == 0, "{missed} of {} goals were missed", goals.len());
    Ok(())
}
