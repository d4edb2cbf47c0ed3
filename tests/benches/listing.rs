//! Whether listing devices takes no longer than `lspci` does, and a whole snapshot no longer than
//! `lspci -vv`: `cargo bench -p benches --bench listing`.
//!
//! Both read the same composed tree of 4,096 functions, as whole processes that take turns, and
//! what they write goes nowhere. Then the tree grows sixteenfold, to see that the time grows with
//! it and no faster.

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Instant;

use anyhow::{Context, Result, bail, ensure};

mod hosts;
mod program;

/// Turns of each.
const TURNS: usize = 11;

/// What the time for a function may grow by, where there are sixteen times as many.
const GROWTH: f64 = 1.5;

fn main() -> Result<()> {
    if Command::new("lspci").arg("--version").stdout(Stdio::null()).status().is_err() {
        bail!("lspci is not installed. Run: sudo apt-get install pciutils");
    }
    let assign = program::assign()?;
    let directory = Path::new("/dev/shm").join(format!("assign-listing-{}", std::process::id()));
    let result = measure(&assign, &directory);
    std::fs::remove_dir_all(&directory).context("the composed trees")?;
    ensure!(result?, "a goal is missed");
    Ok(())
}

/// Whether all goals are reached.
fn measure(assign: &Path, directory: &Path) -> Result<bool> {
    let mut reached = true;
    let tree = directory.join("4096");
    hosts::compose(&tree, 4096)?;
    println!("4,096 functions, {TURNS} turns, medians of whole processes in milliseconds");
    for (name, ours, theirs) in [
        ("a list", vec!["devices"], vec!["-D", "-nn"]),
        ("all of it", vec!["snapshot"], vec!["-D", "-vv"]),
    ] {
        let mut ours = our_command(assign, &tree, &ours);
        let mut theirs = their_command(&tree, &theirs);
        // The first of each brings files into memory.
        ensure!(lines(&mut ours)? >= 4096 && lines(&mut theirs)? >= 4096, "{name}: too few lines");
        let (mut our_times, mut their_times) = (Vec::new(), Vec::new());
        for _ in 0..TURNS {
            our_times.push(time(&mut ours)?);
            their_times.push(time(&mut theirs)?);
        }
        let (mine, other) = (median(&mut our_times), median(&mut their_times));
        println!(
            "  {name:9}  assign {mine:7.1}   lspci {other:7.1}   {:.2} times (goal: at most 1; {})",
            mine / other,
            if mine <= other { "reached" } else { "missed" }
        );
        reached &= mine <= other;
    }
    println!("growth, microseconds for a function");
    for verb in ["devices", "snapshot"] {
        let mut each = Vec::new();
        for count in [4096, 16_384, 65_536_u32] {
            let tree = directory.join(count.to_string());
            if !tree.exists() {
                hosts::compose(&tree, count)?;
            }
            let mut command = our_command(assign, &tree, &[verb]);
            let mut times = (0..3).map(|_| time(&mut command)).collect::<Result<Vec<f64>>>()?;
            each.push(1e3 * median(&mut times) / f64::from(count));
        }
        let growth = each.last().unwrap_or(&f64::NAN) / each.first().unwrap_or(&f64::NAN);
        println!(
            "  {verb:9}  at 4,096 {:5.1}   at 16,384 {:5.1}   at 65,536 {:5.1}   {growth:.2} times \
             (goal: at most {GROWTH}; {})",
            each[0],
            each[1],
            each[2],
            if growth <= GROWTH { "reached" } else { "missed" }
        );
        reached &= growth <= GROWTH;
    }
    Ok(reached)
}

fn our_command(assign: &Path, tree: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(assign);
    command.arg("--root").arg(tree).args(arguments);
    command
}

fn their_command(tree: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new("lspci");
    let path = format!("sysfs.path={}", tree.join("sys/bus/pci").display());
    command.args(arguments).args(["-A", "linux-sysfs", "-O", &path]);
    command
}

fn lines(command: &mut Command) -> Result<usize> {
    let output = command.stderr(Stdio::null()).output()?;
    ensure!(output.status.success(), "{command:?} failed");
    Ok(output.stdout.iter().filter(|byte| **byte == b'\n').count())
}

/// How long it takes, in milliseconds.
fn time(command: &mut Command) -> Result<f64> {
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    let begin = Instant::now();
    let status = command.status()?;
    let took = begin.elapsed();
    ensure!(status.success(), "{command:?} failed");
    Ok(took.as_secs_f64() * 1e3)
}

fn median(times: &mut [f64]) -> f64 {
    times.sort_by(f64::total_cmp);
    times[times.len() / 2]
}
