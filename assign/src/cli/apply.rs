//! `assign apply`: makes the host what policies say, or leaves it as it was.

use std::io::{self, IsTerminal};

use clap::Args;

use super::{Context, Files, Format, confirm, output};
use crate::apply::policies::{self, Report};
use crate::failure::Failure;

/// Arguments of `assign apply`.
#[derive(Debug, Args)]
pub struct Apply {
    #[command(flatten)]
    files: Files,
}

impl Apply {
    pub fn run(&self, context: &Context) -> Result<u8, Failure> {
        let policies = self.files.policies()?;
        let report = policies::apply(&context.root, &context.state, &policies, |plan| match plan
            .steps
            .iter()
            .map(|step| &step.change)
            .find(|change| change.is_disruptive())
        {
            Some(change) => {
                confirm::ask(context, &change.device().to_string(), &change.action().to_string())
            }
            None => Ok(()),
        })?;
        show(context, &report, "nothing to do: the host is as the policies say")?;
        Ok(0)
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
