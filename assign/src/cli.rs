//! The command line: one file per verb, and what all verbs share.
//!
//! Results go to standard output, everything else to standard error. A verb returns its exit code
//! or a [`Failure`], which knows its own: 1 failed, 2 bad input, 3 refused to protect the host or
//! isolation (and `diff` returns 4 for differences).

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand, ValueEnum};
use sriov::HostRoot;

use crate::failure::{Failure, OwnReason};
use crate::state::{DIRECTORY, State};

mod apply;
mod bind;
mod confirm;
mod device;
pub mod devices;
mod diff;
mod error;
mod events;
mod files;
mod force;
mod groups;
pub mod output;
mod plan;
mod release;
mod remove;
mod run;
mod topology;
mod validate;
mod vf;

pub use files::Files;
pub use output::Format;

const EXIT_CODES: &str = "\
Exit codes: 0 done or nothing to do, 1 failed, 2 bad input, 3 refused to protect the host or
isolation, 4 differences found (diff).";

/// Gives PCI devices to KVM guests, and takes them back.
#[derive(Debug, Parser)]
#[command(name = "assign", version, infer_subcommands = true, after_help = EXIT_CODES)]
struct Cli {
    #[command(flatten)]
    global: Global,
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Args)]
struct Global {
    /// How results are written: table, json or yaml [default: table]
    #[arg(
        short,
        long,
        global = true,
        value_enum,
        default_value_t,
        value_name = "FORMAT",
        hide_possible_values = true,
        hide_default_value = true
    )]
    output: Format,
    /// Read another host's tree: DIR/sys, DIR/proc and DIR/dev [default: /]
    #[arg(long, global = true, default_value = "/", value_name = "DIR", hide_default_value = true)]
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
    #[command(
        after_help = "Examples: assign devices, assign devices ethernet, assign devices 8086:10ca"
    )]
    Devices(devices::Devices),
    /// List IOMMU groups: what can only be given away together, and whether it can.
    Groups(groups::Groups),
    /// Draw this host: its buses, ports, devices and IOMMU groups.
    #[command(after_help = "Example: assign topology --format svg -O host.svg")]
    Topology(topology::Topology),
    /// Create, list and destroy virtual functions (VFs).
    #[command(subcommand)]
    Vf(vf::Vf),
    /// Bind devices to a driver: vfio-pci, or a variant of it, unless told otherwise.
    #[command(
        after_help = "Example: assign bind 01:10.0 01:10.2; `assign release` gives them back."
    )]
    Bind(bind::Bind),
    /// Give devices back to the drivers they had before `bind`.
    Release(release::Release),
    /// Follow devices as they come, go and change drivers, one line each.
    #[command(
        after_help = "Examples: assign events eth0; assign events --count 1 --for 10 01:10.0"
    )]
    Events(events::Events),
    /// Check policies and guests without looking at this host.
    Validate(validate::Validate),
    /// Show what applying policies would change; changes nothing.
    Plan(plan::Plan),
    /// Make this host what policies say: all of it, or nothing.
    #[command(
        after_help = "Example: assign apply -f edge-node.yaml; `assign remove` takes it back."
    )]
    Apply(apply::Apply),
    /// Compare this host with policies; exit code 4 when it differs.
    Diff(diff::Diff),
    /// Take back what applying policies changed.
    Remove(remove::Remove),
    /// Start a guest; its console is this terminal.
    #[command(after_help = "Example: assign run -f web-1.yaml; Ctrl-] stops the guest.")]
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
            Verb::Groups(verb) => verb.run(context),
            Verb::Topology(verb) => verb.run(context),
            Verb::Vf(verb) => verb.run(context),
            Verb::Bind(verb) => verb.run(context),
            Verb::Release(verb) => verb.run(context),
            Verb::Events(verb) => verb.run(context),
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
    let format = asked_format(std::env::args());
    if error.use_stderr() && format != Format::Table {
        let text = error.render().to_string();
        let message = text.trim_start_matches("error: ").lines().next().unwrap_or_default();
        let failure =
            Failure::bad_input(OwnReason::Usage, "command line", message.trim_end_matches('.'))
                .with_remedy("`assign --help` shows the commands.");
        error::print(&failure, format);
    } else {
        error.print().ok();
    }
    ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(2))
}

/// The `-o` of a command line that could not be parsed as a whole.
fn asked_format(arguments: impl Iterator<Item = String>) -> Format {
    let mut asked = Format::Table;
    let mut before = String::new();
    for argument in arguments {
        let value = match before.as_str() {
            "-o" | "--output" => Some(argument.as_str()),
            _ => argument.strip_prefix("--output=").or_else(|| argument.strip_prefix("-o")),
        };
        if let Some(format) = value.and_then(|value| Format::from_str(value, false).ok()) {
            asked = format;
        }
        before = argument;
    }
    asked
}
