//! The command line: one file per verb, and what all verbs share.
//!
//! Results go to standard output, everything else to standard error. A verb returns its exit code
//! or a [`Failure`], which knows its own: 1 failed, 2 bad input, 3 refused to protect the host or
//! isolation (and `diff` returns 4 for differences).

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};
use sriov::HostRoot;

use crate::failure::{Failure, OwnReason};
use crate::state::{DIRECTORY, State};

mod apply;
mod bind;
mod confirm;
mod device;
mod devices;
mod diff;
mod error;
mod files;
pub mod output;
mod plan;
mod release;
mod remove;
mod run;
mod validate;
mod vf;

pub use files::Files;
pub use output::Format;

/// Gives PCI devices to KVM guests, and takes them back.
#[derive(Debug, Parser)]
#[command(name = "assign", version, propagate_version = true, infer_subcommands = true)]
struct Cli {
    #[command(flatten)]
    global: Global,
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Args)]
struct Global {
    /// How results are written.
    #[arg(short, long, global = true, value_enum, default_value_t, value_name = "FORMAT")]
    output: Format,
    /// Read another host's tree: DIR/sys, DIR/proc and DIR/dev.
    #[arg(long, global = true, default_value = "/", value_name = "DIR")]
    root: PathBuf,
    /// Where leases and applied policies are remembered [default: var/lib/assign below the root]
    #[arg(long, global = true, value_name = "DIR")]
    state: Option<PathBuf>,
    /// Do what is disruptive without a question.
    #[arg(long, global = true)]
    yes: bool,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// List PCI devices: who has them, and who could have them.
    Devices(devices::Devices),
    /// Create, list and destroy virtual functions (VFs).
    #[command(subcommand)]
    Vf(vf::Vf),
    /// Bind devices to a driver, vfio-pci unless told otherwise.
    Bind(bind::Bind),
    /// Give devices back to the drivers they had before `bind`.
    Release(release::Release),
    /// Check policies and guests without looking at this host.
    Validate(validate::Validate),
    /// Show what applying policies would change; changes nothing.
    Plan(plan::Plan),
    /// Make this host what policies say: all of it, or nothing.
    Apply(apply::Apply),
    /// Compare this host with policies; exit code 4 when it differs.
    Diff(diff::Diff),
    /// Take back what applying policies changed.
    Remove(remove::Remove),
    /// Start a guest; its console is this terminal.
    Run(run::Run),
}

/// What every verb gets.
#[derive(Debug)]
pub struct Context {
    /// The host.
    pub root: HostRoot,
    /// What is remembered about it.
    pub state: State,
    /// How results are written.
    pub format: Format,
    /// Whether disruptive steps are confirmed beforehand.
    pub yes: bool,
}

/// Parses the command line and does what it says.
pub fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => return usage(&error),
    };
    let Global { output, root, state, yes } = cli.global;
    let state = state.unwrap_or_else(|| root.join(DIRECTORY.trim_start_matches('/')));
    let root = HostRoot::at(root);
    let context = Context { root, state: State::at(state), format: output, yes };
    match cli.verb.run(&context) {
        Ok(code) => ExitCode::from(code),
        Err(failure) => {
            error::print(&failure, context.format);
            ExitCode::from(failure.exit_code())
        }
    }
}

impl Verb {
    fn run(&self, context: &Context) -> Result<u8, Failure> {
        match self {
            Verb::Devices(verb) => verb.run(context),
            Verb::Vf(verb) => verb.run(context),
            Verb::Bind(verb) => verb.run(context),
            Verb::Release(verb) => verb.run(context),
            Verb::Validate(verb) => verb.run(context),
            Verb::Plan(verb) => verb.run(context),
            Verb::Apply(verb) => verb.run(context),
            Verb::Diff(verb) => verb.run(context),
            Verb::Remove(verb) => verb.run(context),
            Verb::Run(verb) => verb.run(context),
        }
    }
}

/// Clap prints help and version as well as errors; a program that asked for JSON gets JSON.
fn usage(error: &clap::Error) -> ExitCode {
    let wants_json = std::env::args().any(|argument| argument.contains("json"));
    if error.use_stderr() && wants_json {
        let text = error.render().to_string();
        let message = text.trim_start_matches("error: ").lines().next().unwrap_or_default();
        let failure =
            Failure::bad_input(OwnReason::Usage, "command line", message.trim_end_matches('.'))
                .with_remedy("`assign --help` shows the commands.");
        error::print(&failure, Format::Json);
    } else {
        error.print().ok();
    }
    ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(2))
}
