//! `assign snapshot`: everything known of this host, to keep, to send, and to look at elsewhere.

use std::io::IsTerminal;

use clap::Args;
use sriov::facts::capabilities::Extent;
use sriov::{HostSnapshot, Scope};

use super::{Context, Format, output};
use crate::failure::Failure;

/// Arguments of `assign snapshot`.
#[derive(Debug, Args)]
pub struct Snapshot {
    /// A text to keep with it: where it comes from, what it shows.
    #[arg(long, value_name = "TEXT")]
    note: Option<String>,
}

impl Snapshot {
    pub fn run(&self, context: &Context) -> Result<u8, Failure> {
        let mut snapshot = context.snapshot(Scope::Whole);
        if self.note.is_some() {
            snapshot.to_mut().note.clone_from(&self.note);
        }
        // It is data: a table of it would be half of it.
        let format = match context.format {
            Format::Table => Format::Json,
            format => format,
        };
        output::value(format, snapshot.as_ref())?;
        if std::io::stderr().is_terminal() {
            tell(&snapshot);
        }
        Ok(0)
    }
}

/// What whoever keeps it should know.
fn tell(snapshot: &HostSnapshot) {
    let cut = snapshot.functions.iter().filter(|function| {
        let extent = function.capabilities.as_ref().map(|capabilities| capabilities.extent);
        extent == Some(Extent::Header)
    });
    match cut.count() {
        0 => {}
        count => anstream::eprintln!(
            "note: {count} devices show their capabilities to root only: they are not in it"
        ),
    }
    match snapshot.gone.len() {
        0 => {}
        count => anstream::eprintln!("note: {count} devices left while it was taken"),
    }
    match snapshot.problems.len() {
        0 => {}
        count => anstream::eprintln!("note: {count} things were odd: see `problems` in it"),
    }
}
