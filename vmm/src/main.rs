//! `assign-vmm`: one process, one guest. See [`vmm::spec`] for what it is told and what it answers.

use std::fs::File;
use std::io::Read;
use std::os::fd::RawFd;
use std::process::ExitCode;
use std::sync::Arc;

use serde::Deserialize;
use vmm::descriptor::Inherited;
use vmm::error::{Error, Result};
use vmm::event::Reporter;
use vmm::machine::Machine;
use vmm::spec::{Descriptor, GuestEvent, GuestSpec, ImageSpec, StopReason};
use vmm::{image, sandbox};

const USAGE: &str = "usage: assign-vmm --spec FD | --read-boot FD\n\n\
    Runs the guest that the JSON document on descriptor FD describes, or reads what the boot loader on \
    a disk would boot. This program is started by `assign run`; there is no reason to start it by hand.";

/// A spec is a few KiB; what is longer is no spec.
const SPEC_MAX: u64 = 1 << 20;

fn main() -> ExitCode {
    let mut inherited = Inherited::default();
    let number = match task(std::env::args().skip(1)) {
        Some(Task::Run(number)) => number,
        Some(Task::ReadBoot(number)) => return read_boot(number, &mut inherited),
        None => {
            eprintln!("{USAGE}");
            return ExitCode::from(2);
        }
    };
    let (spec, reporter) = match receive(number, &mut inherited) {
        Ok(received) => received,
        Err(error) => {
            eprintln!("assign-vmm: {error}");
            return ExitCode::from(2);
        }
    };
    let reporter = Arc::new(reporter);
    let outcome = run(&spec, &mut inherited, &reporter);
    let reason = outcome.unwrap_or_else(|error| reason(&spec, &error));
    if !reporter.is_heard()
        && let StopReason::Failed { detail }
        | StopReason::NoDevices { detail, .. }
        | StopReason::Crash { detail, .. } = &reason
    {
        eprintln!("assign-vmm: {}: {detail}", spec.name);
    }
    let status = reason.exit_status();
    reporter.send(&GuestEvent::Stopped { reason });
    // vCPU threads may still be in the guest; the process takes them along.
    std::process::exit(status.into());
}

fn run(
    spec: &GuestSpec,
    inherited: &mut Inherited,
    reporter: &Arc<Reporter>,
) -> Result<StopReason> {
    let prepared = Machine::prepare(spec, inherited, reporter)?;
    if let Some(walls) = &spec.sandbox {
        // Threads that are pinned choose their CPUs later.
        let kind = sandbox::Kind::Any {
            binds: !spec.cpus.bound.is_empty(),
            places: spec.memory.nodes.iter().any(|node| node.host.is_some()),
            accepts: !spec.ports.is_empty(),
        };
        sandbox::enter(walls, reporter, kind)?;
    }
    Machine::build(spec, prepared, inherited, reporter)?.run()
}

/// What an error before the guest ran means for it.
fn reason(spec: &GuestSpec, error: &Error) -> StopReason {
    let detail = error.to_string();
    match error {
        Error::Vfio { thing, .. } | Error::Unfit { device: thing, .. } => {
            // Else it is a group or the container.
            let devices = spec.vfio.iter().flat_map(|vfio| &vfio.devices);
            let named = devices.map(|device| &device.address).find(|address| *address == thing);
            StopReason::NoDevices { device: named.cloned(), detail }
        }
        _ => StopReason::Failed { detail },
    }
}

/// What this process is for, with the descriptor that says more.
enum Task {
    Run(RawFd),
    ReadBoot(RawFd),
}

fn task(mut arguments: impl Iterator<Item = String>) -> Option<Task> {
    let (flag, number) = (arguments.next()?, arguments.next()?.parse().ok()?);
    match flag.as_str() {
        _ if arguments.next().is_some() => None,
        "--spec" => Some(Task::Run(number)),
        "--read-boot" => Some(Task::ReadBoot(number)),
        _ => None,
    }
}

fn read_boot(number: RawFd, inherited: &mut Inherited) -> ExitCode {
    let outcome =
        document::<ImageSpec>(number, inherited).and_then(|spec| image::serve(&spec, inherited));
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("assign-vmm: {error}");
            ExitCode::from(2)
        }
    }
}

fn receive(number: RawFd, inherited: &mut Inherited) -> Result<(GuestSpec, Reporter)> {
    let spec: GuestSpec = document(number, inherited)?;
    let events = spec.events.map(|events| inherited.take(events, "the event pipe")).transpose()?;
    Ok((spec, Reporter::new(events.map(File::from))))
}

/// What is written on a descriptor.
fn document<T: for<'t> Deserialize<'t>>(number: RawFd, inherited: &mut Inherited) -> Result<T> {
    let mut text = String::new();
    File::from(inherited.take(Descriptor(number), "the spec")?)
        .take(SPEC_MAX)
        .read_to_string(&mut text)
        .map_err(|source| Error::System { action: "read the spec", source })?;
    serde_json::from_str(&text).map_err(|error| Error::Spec(error.to_string()))
}
