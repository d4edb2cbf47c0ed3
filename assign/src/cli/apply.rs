//! `assign apply`: makes the host what policies say, or leaves it as it was.

use std::fs::File;
use std::io::{self, IsTerminal, Read};
use std::path::{Path, PathBuf};

use clap::{ArgGroup, Args};

use super::{Context, Files, Format, output};
use crate::apply::policies::{self, Report, Wanted};
use crate::failure::{Failure, OwnReason};
use crate::plan::Plan;
use crate::plan::saved::{LONGEST, SavedPlan};

pub mod all;

/// Arguments of `assign apply`.
#[derive(Debug, Args)]
#[command(
    override_usage = "assign apply [OPTIONS] --file <FILE>...\n       \
                      assign apply [OPTIONS] --all\n       \
                      assign apply [OPTIONS] <PLAN>",
    group(ArgGroup::new("wanted").required(true).args(["files", "all", "plan"])),
)]
pub struct Apply {
    /// A plan that `assign plan --save` kept: exactly that is done, or nothing where the host has
    /// moved on since.
    #[arg(value_name = "PLAN")]
    plan: Option<PathBuf>,
    /// A file or folder of policies and guests, or `-` for standard input; may be repeated.
    #[arg(short, long = "file", value_name = "FILE")]
    files: Vec<PathBuf>,
    /// Every policy of /etc/assign, as at each boot: one that cannot be applied keeps none of the
    /// others from it.
    #[arg(long)]
    all: bool,
    /// The folder for --all [default: etc/assign below the root]
    #[arg(long, value_name = "DIR", requires = "all")]
    config: Option<PathBuf>,
}

impl Apply {
    pub fn run(&self, context: &Context) -> Result<u8, Failure> {
        if self.all {
            return all::run(context, self.config.as_deref());
        }
        let ask = |plan: &Plan| confirm(context, plan);
        let report = match &self.plan {
            Some(file) => {
                let name = file.display().to_string();
                let (saved, documents) = SavedPlan::read(&name, &read(file)?)?;
                let boot_id = sriov::facts::platform::boot_id(&context.root);
                let wanted = Wanted {
                    policies: &documents.policies,
                    guests: &documents.guests,
                    check: &|plan| saved.check(&name, &boot_id, plan),
                };
                policies::apply_checked(&context.root, &context.state, &wanted, ask)?
            }
            None => {
                let policies = Files { files: self.files.clone() }.policies()?;
                policies::apply(&context.root, &context.state, &policies, ask)?
            }
        };
        show(context, &report, "nothing to do: the host is as the policies say")?;
        Ok(0)
    }
}

/// One byte more than a plan may have, for it to be seen.
fn read(file: &Path) -> Result<Vec<u8>, Failure> {
    let mut text = Vec::new();
    let opened = File::open(file);
    let read = opened.and_then(|opened| opened.take(LONGEST + 1).read_to_end(&mut text));
    read.map_err(|error| {
        let message = format!("cannot be read: {error}");
        Failure::bad_input(OwnReason::File, file.display(), message)
            .with_remedy("Name a plan that `assign plan --save` kept, or files with -f.")
    })?;
    Ok(text)
}

/// Asks about the first step that somebody may notice.
fn confirm(context: &Context, plan: &Plan) -> Result<(), Failure> {
    let mut changes = plan.steps.iter().map(|step| &step.change);
    match changes.find(|change| change.is_disruptive()) {
        Some(change) => {
            let (device, action) = (change.device().to_string(), change.action().to_string());
            super::confirm::ask(context, &device, &action)
        }
        None => Ok(()),
    }
}

/// What was done, for people and programs.
pub fn show(context: &Context, report: &Report, nothing: &str) -> Result<(), Failure> {
    output::value(context.format, report)?;
    if context.format != Format::Table {
        return Ok(());
    }
    // On a terminal each step was told as it was made.
    let told = io::stdout().is_terminal() && io::stderr().is_terminal();
    for change in report.changes.iter().filter(|_| !told) {
        output::text_out(&change.to_string())?;
    }
    for note in &report.notes {
        output::text_out(&format!("note: {note}"))?;
    }
    match report.changes.len() {
        0 => output::text_out(nothing),
        1 => output::text_out("1 step made"),
        count => output::text_out(&format!("{count} steps made")),
    }
}
