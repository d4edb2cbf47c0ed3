//! `--force DEVICE`: taking a device although the host uses it. Each device is named, nothing else
//! implies it, `--yes` least of all; and it is recorded. Not to be forced are bridges, devices that a
//! guest has leased, and devices that a process has open.

use clap::Args;
use sriov::{Change, HostRoot, HostSnapshot, PciAddress, PciFunction, usage};

use super::device;
use crate::failure::{Failure, OwnReason};
use crate::plan::vfs;

/// The devices that are to be taken by force.
#[derive(Debug, Default, Args)]
pub struct Force {
    /// Take this device although the host uses it: an address, a filesystem or the like is lost.
    /// Name each such device; this is recorded.
    #[arg(id = "force", long = "force", value_name = "DEVICE")]
    names: Vec<String>,
}

impl Force {
    /// As they were named.
    pub fn names(&self) -> &[String] {
        &self.names
    }

    /// The devices themselves, which have to be among those that the command is about.
    ///
    /// # Errors
    /// One is not on this host, or is none of them.
    pub fn find(
        &self,
        snapshot: &HostSnapshot,
        among: &[PciAddress],
    ) -> Result<Vec<PciAddress>, Failure> {
        let found = device::find_all(snapshot, &self.names)?;
        match found.iter().find(|function| !among.contains(&function.address)) {
            None => Ok(found.into_iter().map(|function| function.address).collect()),
            Some(other) => {
                let message = "is named with --force, and is not a device that this command takes";
                let list: Vec<String> = among.iter().map(PciAddress::to_string).collect();
                let remedy = match list.is_empty() {
                    true => "It takes none.".to_owned(),
                    false => format!("It takes {}.", list.join(", ")),
                };
                Err(Failure::bad_input(OwnReason::Usage, other.address, message)
                    .with_remedy(remedy))
            }
        }
    }
}

/// The refusal to take a device that the host needs, unless it may be taken by force and is.
pub fn carries(
    snapshot: &HostSnapshot,
    function: &PciFunction,
    forced: &[PciAddress],
) -> Option<Failure> {
    if function.is_bridge() {
        return vfs::carries(snapshot, function);
    }
    if forced.contains(&function.address) {
        return None;
    }
    let mut failure = vfs::carries(snapshot, function)?;
    let remedy = failure.remedy.take().unwrap_or_default();
    let force = format!("If the host can do without that, name it: --force {}.", function.address);
    Some(failure.with_remedy(format!("{remedy} {force}").trim_start()))
}

/// `step` as it is to be made: by force where it takes one of the `forced` devices and the host uses
/// that one. Warns about it.
pub fn step(
    root: &HostRoot,
    snapshot: &HostSnapshot,
    step: Change,
    takes: &[PciAddress],
    forced: &[PciAddress],
) -> Change {
    let devices: Vec<PciAddress> =
        takes.iter().filter(|device| forced.contains(device)).copied().collect();
    let lost = lost(root, snapshot, &devices);
    if lost.is_empty() {
        return step;
    }
    for use_ in &lost {
        anstream::eprintln!("assign: warning: by force, the host loses {use_}");
    }
    Change::Forced { step: Box::new(step), devices, lost, because: None }
}

/// What the host uses the devices for, as chains: looked at as closely as the step itself would, so
/// that what no snapshot shows (a disk that a process has open) is overridden and recorded too.
fn lost(root: &HostRoot, snapshot: &HostSnapshot, devices: &[PciAddress]) -> Vec<String> {
    let functions = devices.iter().filter_map(|device| snapshot.function(*device));
    let lost = |function: &PciFunction| match usage::now(root, function) {
        Ok(uses) => uses.iter().map(ToString::to_string).collect::<Vec<String>>(),
        Err(usage::Unknown(cause)) => {
            vec![format!("{} → what cannot be seen ({cause})", function.address)]
        }
    };
    functions.flat_map(lost).collect()
}
