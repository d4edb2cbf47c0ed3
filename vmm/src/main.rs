//! `assign-vmm`: one process, one guest. See [`vmm::spec`] for what it is told and what it answers.

use std::fs::File;
use std::io::Read;
use std::os::fd::RawFd;
use std::process::ExitCode;
use std::sync::Arc;

use vmm::descriptor::Inherited;
use vmm::error::{Error, Result};
use vmm::event::Reporter;
use vmm::machine::Machine;
use vmm::sandbox;
use vmm::spec::{Descriptor, GuestEvent, GuestSpec, StopReason};

const USAGE: &str = "usage: assign-vmm --spec FD\n\n\
    Runs the guest that the JSON document on descriptor FD describes. This program is started by \
    `assign run`; there is no reason to start it by hand.";

/// A spec is a few KiB; what is longer is no spec.
const SPEC_MAX: u64 = 1 << 20;

fn main() -> ExitCode {
    let Some(number) = spec_descriptor(std::env::args().skip(1)) else {
        eprintln!("{USAGE}");
        return ExitCode::from(2);
    };
    let mut inherited = Inherited::default();
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
        sandbox::enter(walls, reporter, !spec.cpus.bound.is_empty())?;
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

fn spec_descriptor(mut arguments: impl Iterator<Item = String>) -> Option<RawFd> {
    let (flag, number) = (arguments.next()?, arguments.next()?);
    (flag == "--spec" && arguments.next().is_none()).then(|| number.parse().ok()).flatten()
}

fn receive(number: RawFd, inherited: &mut Inherited) -> Result<(GuestSpec, Reporter)> {
    let mut text = String::new();
    File::from(inherited.take(Descriptor(number), "the spec")?)
        .take(SPEC_MAX)
        .read_to_string(&mut text)
        .map_err(|source| Error::System { action: "read the spec", source })?;
    let spec: GuestSpec =
        serde_json::from_str(&text).map_err(|error| Error::Spec(error.to_string()))?;
    let events = spec.events.map(|events| inherited.take(events, "the event pipe")).transpose()?;
    Ok((spec, Reporter::new(events.map(File::from))))
}
