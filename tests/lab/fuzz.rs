//! `cargo lab fuzz`: builds the fuzz targets of `tests/fuzz`, and runs them for a while.
//!
//! ```text
//! corpus/NAME, seeds/NAME (read only) ─► target ─► work/NAME   new inputs   ─ --keep ─► corpus/NAME
//!                                                  found/NAME  what crashes
//! ```
//! Everything that is built or found lies in cargo's target folder, below `fuzz`: the checkout stays as
//! it is, unless what was found is to be kept.

mod build;
mod keep;
mod report;
mod target;

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::sync::Mutex;
use std::{io, thread};

use anyhow::{Context, Result, ensure};
use clap::Args;

use self::report::{Ending, Line, Stats};
use self::target::Target;
use crate::{binaries, progress, run};

/// How long a target runs where nothing else is said.
const SECONDS: u32 = 60;
/// Targets that run at a time: each has a CPU of its own, and the machine has other things to do.
const AT_A_TIME: usize = 2;
/// Seconds that an input may take. All take milliseconds at most.
const HANGS_AFTER: u32 = 10;
/// Where files are in memory.
const MEMORY_FOLDER: &str = "/dev/shm";
/// MiB that a target may use: several times as much as any does.
const MEMORY: u32 = 1024;

/// What is to be fuzzed, and how long.
#[derive(Debug, Clone, Default, PartialEq, Eq, Args)]
pub struct Wanted {
    /// Fuzz targets, of tests/fuzz/fuzz_targets [default: all]
    #[arg(value_name = "TARGET")]
    pub targets: Vec<String>,
    /// How long each target runs [default: 60]
    #[arg(long, value_name = "N", conflicts_with = "runs", value_parser = clap::value_parser!(u32).range(1..))]
    pub seconds: Option<u32>,
    /// How many inputs each target takes
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub runs: Option<u64>,
    /// Do not look at what is compared: twice as many inputs in a time, without a sense for magic numbers
    #[arg(long)]
    pub fast: bool,
    /// Put what is new and small into the corpus
    #[arg(long)]
    pub keep: bool,
}

/// Builds and runs the targets, and prints a line about each.
///
/// # Errors
/// Where there is no such target, one does not build or run, or files cannot be written. What a target
/// finds is no error but [`ExitCode::FAILURE`].
pub fn run(wanted: &Wanted) -> Result<ExitCode> {
    let targets = target::choose(&target::all()?, &wanted.targets)?;
    let programs = build::targets(&targets, !wanted.fast)?;
    let folder = build::folder(!wanted.fast)?;
    announce(wanted, targets.len());
    println!("{}", report::HEAD);
    let (queue, findings) = (Mutex::new(targets.iter()), Mutex::new(Vec::new()));
    let next = || queue.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).next();
    let work = || -> Result<()> {
        while let Some(target) = next() {
            let fuzzer = Fuzzer::new(target, &programs, &folder)?;
            let line = fuzzer.run(wanted)?;
            println!("{line}");
            let mut findings = findings.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
            findings.extend(line.ending.is_finding().then(|| fuzzer.finding(&line.ending)));
            drop(findings);
            if wanted.keep {
                fuzzer.keep()?;
            }
        }
        Ok(())
    };
    let cpus = thread::available_parallelism().map_or(1, usize::from);
    thread::scope(|scope| {
        let workers: Vec<_> = (0..AT_A_TIME.min(cpus)).map(|_| scope.spawn(work)).collect();
        workers.into_iter().try_for_each(|worker| match worker.join() {
            Ok(done) => done,
            Err(panic) => std::panic::resume_unwind(panic),
        })
    })?;
    let findings = findings.into_inner().unwrap_or_else(|poisoned| poisoned.into_inner());
    for finding in &findings {
        println!("\n{finding}");
    }
    if !wanted.keep {
        let work = near(&folder.join("work"));
        progress::note(format!("new inputs are in {work}, till the next time, or --keep"));
    }
    Ok(if findings.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn announce(wanted: &Wanted, targets: usize) {
    let each = match wanted.runs {
        Some(runs) => format!("{} inputs each", report::grouped(runs)),
        None => format!("{} s each", wanted.seconds.unwrap_or(SECONDS)),
    };
    let plural = if targets == 1 { "" } else { "s" };
    progress::note(format!("{targets} fuzz target{plural}, {each}"));
}

/// A target that is about to run.
struct Fuzzer<'t> {
    target: &'t Target,
    program: PathBuf,
    /// New inputs.
    work: PathBuf,
    /// Inputs that it fails on.
    found: PathBuf,
    log: PathBuf,
}

impl<'t> Fuzzer<'t> {
    /// With an empty folder for new inputs; what it once failed on stays.
    fn new(target: &'t Target, programs: &Path, folder: &Path) -> Result<Fuzzer<'t>> {
        let work = folder.join("work").join(&target.name);
        let found = folder.join("found").join(&target.name);
        let log = folder.join("work").join(format!("{}.log", target.name));
        match fs::remove_dir_all(&work) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(error).with_context(|| format!("cannot empty {}", work.display()));
            }
            _ => {}
        }
        for folder in [&work, &found] {
            fs::create_dir_all(folder)
                .with_context(|| format!("cannot make {}", folder.display()))?;
        }
        Ok(Fuzzer { target, program: programs.join(&target.name), work, found, log })
    }

    fn run(&self, wanted: &Wanted) -> Result<Line> {
        let before = self.failures()?;
        let log = File::create(&self.log)
            .with_context(|| format!("cannot write {}", self.log.display()))?;
        let mut command = self.command(wanted);
        let both = log.try_clone().context("cannot share a log")?;
        command.stdin(Stdio::null()).stdout(both).stderr(log);
        let status =
            command.status().with_context(|| format!("cannot run {}", run::line(&command)))?;
        let text =
            fs::read(&self.log).with_context(|| format!("cannot read {}", self.log.display()))?;
        let text = String::from_utf8_lossy(&text);
        let new = self.failures()?.into_iter().find(|path| !before.contains(path));
        let ending = Ending::of(status, &text, new.as_deref());
        ensure!(
            !matches!(ending, Ending::Unknown),
            "{} ended with {status}, and says why in {}",
            self.target.name,
            self.log.display()
        );
        Ok(Line { name: self.target.name.clone(), stats: Stats::parse(&text), ending })
    }

    fn command(&self, wanted: &Wanted) -> Command {
        let mut command = Command::new(&self.program);
        command.current_dir(binaries::workspace());
        // Some have files, which are in memory then.
        if Path::new(MEMORY_FOLDER).is_dir() {
            command.env("TMPDIR", MEMORY_FOLDER);
        }
        command.arg(&self.work).args(self.target.inputs());
        command.args(self.target.options());
        match wanted.runs {
            Some(runs) => command.arg(format!("-runs={runs}")),
            None => command.arg(format!("-max_total_time={}", wanted.seconds.unwrap_or(SECONDS))),
        };
        command.arg(format!("-timeout={HANGS_AFTER}")).arg(format!("-rss_limit_mb={MEMORY}"));
        // A slash at the end: what follows is the name of a file.
        command.arg(format!("-artifact_prefix={}/", self.found.display()));
        command.args(["-print_final_stats=1", "-verbosity=1"]);
        command
    }

    /// What it has failed on so far.
    fn failures(&self) -> Result<Vec<PathBuf>> {
        let read = || fs::read_dir(&self.found)?.map(|entry| Ok(entry?.path())).collect();
        let read: io::Result<_> = read();
        read.with_context(|| format!("cannot read {}", self.found.display()))
    }

    /// What it has failed on, how to see that again, and what it says then.
    fn finding(&self, ending: &Ending) -> String {
        let name = &self.target.name;
        let Ending::Found { what, input: Some(input) } = ending else {
            return format!("{name}: {ending}\n  its log:   {}", near(&self.log));
        };
        let mut again = Command::new(near(&self.program));
        again.arg(near(input)).arg(format!("-timeout={HANGS_AFTER}"));
        again.current_dir(binaries::workspace());
        let mut finding = format!("{name}: {what}\n  again:     {}", run::line(&again));
        finding.push_str(&format!("\n  it says:   {}", said(&mut again)));
        finding
            .push_str("\n  Mend it, and keep the input under a name that says what it was in\n  ");
        finding.push_str(&near(&self.target.corpus()));
        finding
    }

    /// Puts what is new into the corpus.
    fn keep(&self) -> Result<()> {
        let kept = keep::merge(self.target, &self.program, &self.work)?;
        progress::note(format!("{}: {kept}", self.target.name));
        Ok(())
    }
}

/// A path as somebody in the checkout writes it.
fn near(path: &Path) -> String {
    path.strip_prefix(binaries::workspace()).unwrap_or(path).display().to_string()
}

/// What the panic of this program says. It ends by itself: a hang is one for libFuzzer too.
fn said(command: &mut Command) -> String {
    match command.stdin(Stdio::null()).output() {
        Ok(output) if output.status.success() => {
            "nothing by itself: something is left over from one input to the next".to_owned()
        }
        Ok(output) => {
            let here = format!("{}/", binaries::workspace().display());
            let said = String::from_utf8_lossy(&output.stderr).replace(&here, "");
            report::panic(&said).unwrap_or_else(|| format!("no panic ({})", output.status))
        }
        Err(error) => error.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Debug, Parser)]
    struct Line {
        #[command(flatten)]
        wanted: Wanted,
    }

    fn wanted(arguments: &[&str]) -> Result<Wanted, String> {
        let all = ["fuzz"].iter().chain(arguments);
        Line::try_parse_from(all).map(|line| line.wanted).map_err(|error| error.to_string())
    }

    #[test]
    fn a_time_or_a_number_limits_a_run() {
        assert_eq!(wanted(&[]).unwrap(), Wanted::default());
        let few = wanted(&["qcow2", "text", "--runs", "1000", "--keep", "--fast"]).unwrap();
        assert_eq!(
            (few.targets.len(), few.runs, few.seconds, few.keep, few.fast),
            (2, Some(1000), None, true, true)
        );
        for (arguments, expected) in [
            (&["--seconds", "1", "--runs", "1"][..], "cannot be used with"),
            (&["--seconds", "0"], "0 is not in 1.."),
            (&["--runs", "0"], "0 is not in 1.."),
            (&["--runs", "many"], "invalid value 'many'"),
        ] {
            let error = wanted(arguments).unwrap_err();
            assert!(error.contains(expected), "{error}");
        }
    }
}
