//! The command line: one file per verb, and what all verbs share.
//!
//! Results go to standard output, everything else to standard error. A verb returns its exit code
//! or a [`Failure`], which knows its own: 1 failed, 2 bad input, 3 refused to protect the host or
//! isolation (and `diff` returns 4 for differences).

use std::path::PathBuf;
use std::process::ExitCode;

use clap::error::ErrorKind;
use clap::{Args, Command, CommandFactory, FromArgMatches, Parser, Subcommand, ValueEnum};

use crate::failure::Failure;

mod apply;
mod attach;
mod balloon;
mod bind;
mod completions;
mod confirm;
mod console;
mod context;
mod detach;
mod device;
pub mod devices;
mod diff;
mod doctor;
mod error;
mod events;
mod examples;
mod files;
mod force;
mod groups;
mod host;
mod man;
pub mod output;
mod page;
mod pause;
mod plan;
mod prove;
mod ps;
mod recover;
mod release;
mod remove;
mod reset;
mod run;
mod schema;
mod show;
mod snapshot;
mod stats;
mod status;
mod stop;
mod topology;
mod usage;
mod validate;
mod vf;

pub use context::{Context, Wants};
pub use files::Files;
pub use output::Format;

/// What options of every command stand under.
const GLOBAL: &str = "Global options";

const EXIT_CODES: &str = "\
Exit codes: 0 done or nothing to do, 1 failed, 2 bad input, 3 refused to protect the host or \
isolation, 4 differences found (diff).";

/// Gives PCI devices to KVM guests, and takes them back.
#[derive(Debug, Parser)]
#[command(name = "assign", version, infer_subcommands = true)]
struct Cli {
    #[command(flatten)]
    global: Global,
    #[command(subcommand)]
    verb: Verb,
}

/// Options of every command.
#[derive(Debug, Args)]
#[command(next_help_heading = GLOBAL)]
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
    /// Read another host: a tree with sys, proc and dev, a saved snapshot, or `-` for one on
    /// standard input [default: /]
    #[arg(
        long,
        global = true,
        default_value = "/",
        value_name = "HOST",
        hide_default_value = true
    )]
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
    /// Say whether this host is ready, and what to do where it is not.
    ///
    /// Exit codes: 0 no problem (warnings are none), 1 a problem, 2 no such device.
    Doctor(doctor::Doctor),
    /// Show what this machine is, and what it can do for guests.
    Host(host::Host),
    /// List PCI devices: who has them, and who could have them.
    Devices(devices::Devices),
    /// Show everything about one device, and what to do with it next.
    Show(show::Show),
    /// List IOMMU groups: what can only be given away together.
    Groups(groups::Groups),
    /// Draw this host: its buses, ports, devices and IOMMU groups.
    Topology(topology::Topology),
    /// Create, list, set and destroy virtual functions (VFs).
    #[command(subcommand)]
    Vf(vf::Vf),
    /// Bind devices to a driver, vfio-pci or its variant by default.
    Bind(bind::Bind),
    /// Give devices back to the drivers they had before `bind`.
    Release(release::Release),
    /// Follow devices as they come, go, change drivers and reach for memory that is not theirs, or what
    /// happens to guests.
    Events(events::Events),
    /// Show that a device reaches the memory that is mapped for it and no other, by making it try.
    ///
    /// Exit codes: 0 isolated, 1 not isolated or not shown, 2 no such device, 3 refused.
    Prove(prove::Prove),
    /// Write everything known of this host as JSON, to keep, to send, and to look at elsewhere.
    ///
    /// It holds the host's hardware and network addresses and its kernel's command line.
    Snapshot(snapshot::Snapshot),
    /// Check policies and guests without looking at this host.
    Validate(validate::Validate),
    /// Print the JSON Schema of policies and guests, by which editors complete and check, that of events
    /// of guests, or the OpenAPI description of a guest's control socket.
    Schema(schema::Schema),
    /// Show what applying policies would change; changes nothing.
    Plan(plan::Plan),
    /// Make this host what policies say: all of it, or nothing.
    Apply(apply::Apply),
    /// Compare this host with policies; exit code 4 when it differs.
    Diff(diff::Diff),
    /// Take back what applying policies changed.
    Remove(remove::Remove),
    /// Finish or take back what an interrupted command left, and return what dead guests had.
    Recover(recover::Recover),
    /// Show policies with their pools, devices and conditions, and who has what.
    Status(status::Status),
    /// Start a guest; its console is this terminal, unless it is detached.
    Run(run::Run),
    /// List the guests that run.
    Ps(ps::Ps),
    /// End a running guest: by its power button, or when it has not heeded that in time.
    Stop(stop::Stop),
    /// Hold the CPUs of a running guest.
    Pause(pause::Pause),
    /// Let the CPUs of a paused guest go on.
    Resume(pause::Resume),
    /// Reset a running guest: what it has not written to its disks is lost.
    Reset(reset::Reset),
    /// Show the console of a running guest, and type to it.
    Console(console::Console),
    /// Say how much of its memory a running guest is to keep; it gives the rest back.
    Balloon(balloon::Balloon),
    /// Give a running guest devices.
    Attach(attach::Attach),
    /// Take a device from a running guest, which is asked first.
    Detach(detach::Detach),
    /// Show what is counted of a running guest: exits, interrupts, pinned memory, its start.
    Stats(stats::Stats),
    /// Print the completion script of a shell; it completes devices too.
    Completions(completions::Completions),
    /// Write the manual pages, one for each command.
    Man(man::Man),
    /// What `completions` asks at each Tab.
    #[command(name = "__complete", hide = true)]
    Complete(completions::Complete),
}

/// Parses the command line and does what it says.
pub fn main() -> ExitCode {
    let parsed = command().try_get_matches().and_then(|matches| Cli::from_arg_matches(&matches));
    let cli = match parsed {
        Ok(cli) => cli,
        Err(error) => return usage(&error),
    };
    let Global { output, root, state, yes } = cli.global;
    let done = Context::new(&root, state, output, yes, cli.verb.wants())
        .and_then(|context| cli.verb.run(&context));
    match done {
        Ok(code) => ExitCode::from(code),
        Err(failure) => {
            error::print(&failure, output);
            ExitCode::from(failure.exit_code())
        }
    }
}

/// The command line with its examples and what else there is to know.
fn command() -> Command {
    add_examples(Cli::command(), "")
}

fn add_examples(command: Command, verb: &str) -> Command {
    let names: Vec<String> =
        command.get_subcommands().map(|below| below.get_name().to_owned()).collect();
    let command = names.into_iter().fold(command, |command, name| {
        let path = format!("{verb} {name}");
        command.mut_subcommand(name, |below| add_examples(below, path.trim_start()))
    });
    let examples = examples::help(verb).unwrap_or_default();
    let command = match verb {
        "" => command.after_help(format!("{examples}\n\n{EXIT_CODES}")),
        _ if examples.is_empty() => command,
        _ => command.after_help(examples.clone()),
    };
    match examples::prose(verb) {
        [] => command,
        prose => {
            let shown = format!("{}\n\n{examples}", prose.join("\n\n"));
            command.after_long_help(shown.trim_end().to_owned())
        }
    }
}

impl Verb {
    /// What it wants of the host. Whatever changes one wants the host itself.
    fn wants(&self) -> Wants {
        match self {
            Verb::Doctor(_)
            | Verb::Host(_)
            | Verb::Devices(_)
            | Verb::Groups(_)
            | Verb::Topology(_)
            | Verb::Vf(vf::Vf::List(_))
            | Verb::Show(_)
            | Verb::Snapshot(_)
            | Verb::Plan(_)
            | Verb::Status(_)
            | Verb::Diff(_) => Wants::Facts,
            Verb::Validate(_)
            | Verb::Schema(_)
            | Verb::Completions(_)
            | Verb::Man(_)
            | Verb::Complete(_) => Wants::Nothing,
            Verb::Vf(_)
            | Verb::Bind(_)
            | Verb::Release(_)
            | Verb::Events(_)
            | Verb::Prove(_)
            | Verb::Apply(_)
            | Verb::Remove(_)
            | Verb::Recover(_)
            | Verb::Run(_)
            | Verb::Ps(_)
            | Verb::Stop(_)
            | Verb::Pause(_)
            | Verb::Resume(_)
            | Verb::Reset(_)
            | Verb::Console(_)
            | Verb::Balloon(_)
            | Verb::Attach(_)
            | Verb::Detach(_)
            | Verb::Stats(_) => Wants::Host,
        }
    }

    fn run(&self, context: &Context) -> Result<u8, Failure> {
        match self {
            Verb::Doctor(verb) => verb.run(context),
            Verb::Host(verb) => verb.run(context),
            Verb::Devices(verb) => verb.run(context),
            Verb::Show(verb) => verb.run(context),
            Verb::Groups(verb) => verb.run(context),
            Verb::Topology(verb) => verb.run(context),
            Verb::Vf(verb) => verb.run(context),
            Verb::Bind(verb) => verb.run(context),
            Verb::Release(verb) => verb.run(context),
            Verb::Events(verb) => verb.run(context),
            Verb::Prove(verb) => verb.run(context),
            Verb::Snapshot(verb) => verb.run(context),
            Verb::Validate(verb) => verb.run(context),
            Verb::Schema(verb) => verb.run(context),
            Verb::Plan(verb) => verb.run(context),
            Verb::Apply(verb) => verb.run(context),
            Verb::Diff(verb) => verb.run(context),
            Verb::Remove(verb) => verb.run(context),
            Verb::Recover(verb) => verb.run(context),
            Verb::Status(verb) => verb.run(context),
            Verb::Run(verb) => verb.run(context),
            Verb::Ps(verb) => verb.run(context),
            Verb::Stop(verb) => verb.run(context),
            Verb::Pause(verb) => verb.run(context),
            Verb::Resume(verb) => verb.run(context),
            Verb::Reset(verb) => verb.run(context),
            Verb::Console(verb) => verb.run(context),
            Verb::Balloon(verb) => verb.run(context),
            Verb::Attach(verb) => verb.run(context),
            Verb::Detach(verb) => verb.run(context),
            Verb::Stats(verb) => verb.run(context),
            Verb::Completions(verb) => verb.run(context),
            Verb::Man(verb) => verb.run(context),
            Verb::Complete(verb) => verb.run(context),
        }
    }
}

/// Clap prints help and version as well as errors; those are told as all others are.
fn usage(error: &clap::Error) -> ExitCode {
    let arguments: Vec<String> =
        std::env::args_os().map(|argument| argument.to_string_lossy().into_owned()).collect();
    let format = asked_format(arguments.iter().cloned());
    let is_help = error.kind() == ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand;
    if !error.use_stderr() || (is_help && format == Format::Table) {
        error.print().ok();
    } else {
        error::print(&usage::failure(error, &arguments), format);
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
