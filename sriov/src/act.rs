//! Carrying out single changes, one file per subject. Each reads what it is about to change,
//! acts, and reads what came of it.

use std::time::{Duration, Instant};

use crate::address::PciAddress;
use crate::change::Target;
use crate::facts::iov;
use crate::facts::pci::{self, PciFunction};
use crate::facts::reader::Reader;
use crate::failure::{ChangeError, Reason};
use crate::root::HostRoot;
use crate::usage::{self, Use};

pub mod bind;
pub mod driver;
pub mod link;
mod made;
pub mod nvme;
pub mod vf_settings;
pub mod vfs;

/// What came of a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Done {
    /// The device was as wanted already.
    Already,
    /// It is now.
    Changed,
}

/// Time between two looks at something that is about to happen.
const LOOK_AGAIN: Duration = Duration::from_millis(20);

/// Looks until `seen` or the time is over; says which.
pub(crate) fn wait(limit: Duration, mut seen: impl FnMut() -> bool) -> bool {
    let end = Instant::now() + limit;
    loop {
        if seen() {
            return true;
        }
        if Instant::now() >= end {
            return false;
        }
        std::thread::sleep(LOOK_AGAIN);
    }
}

/// Where a target is now.
pub fn locate(root: &HostRoot, target: Target) -> Result<PciAddress, ChangeError> {
    match target {
        Target::Function(address) => Ok(address),
        Target::Vf(vf) => iov::vf_address(&mut Reader::new(root), vf).ok_or_else(|| {
            ChangeError::new(Reason::NoSuchDevice, vf, "there is no such VF now")
                .with_remedy("List the VFs with `assign vf list`.")
        }),
    }
}

/// One function as it is now.
fn function(root: &HostRoot, address: PciAddress) -> Result<PciFunction, ChangeError> {
    let mut reader = Reader::new(root);
    pci::read(&mut reader, address).ok_or_else(|| {
        let cause = reader.problems.first().map(|problem| problem.cause.clone());
        ChangeError::new(
            Reason::NoSuchDevice,
            address,
            cause.unwrap_or_else(|| "this host has no such PCI device".to_owned()),
        )
        .with_remedy("List the devices with `assign devices`.")
    })
}

/// Refuses when the host itself uses the function now.
fn refuse_if_used(root: &HostRoot, function: &PciFunction, tried: &str) -> Result<(), ChangeError> {
    refuse(function, tried, uses_now(root, function, tried)?.first())
}

/// Refuses when somebody set up the host to use the function. What came by router advertisement
/// comes again by itself, and does not keep an interface up that was down before.
fn refuse_if_configured(
    root: &HostRoot,
    function: &PciFunction,
    tried: &str,
) -> Result<(), ChangeError> {
    let used = uses_now(root, function, tried)?;
    refuse(function, tried, used.iter().find(|used| !used.autoconfigured))
}

/// Refuses when the host itself uses one of the functions now: one look at the host for all.
fn refuse_if_any_used(
    root: &HostRoot,
    functions: Vec<PciFunction>,
    tried: &str,
) -> Result<(), ChangeError> {
    let Some(first) = functions.first().map(|function| function.address) else { return Ok(()) };
    let uses =
        usage::now_each(root, functions.clone()).map_err(|why| unknown(first, tried, why))?;
    let mut both = functions.iter().zip(&uses);
    both.try_for_each(|(function, uses)| refuse(function, tried, uses.first()))
}

fn uses_now(root: &HostRoot, function: &PciFunction, tried: &str) -> Result<Vec<Use>, ChangeError> {
    usage::now(root, function).map_err(|why| unknown(function.address, tried, why))
}

/// What cannot be seen counts as a use: without the host's addresses, routes and mounts nobody
/// knows what a device carries.
fn unknown(device: PciAddress, tried: &str, usage::Unknown(cause): usage::Unknown) -> ChangeError {
    let message = format!("will not {tried}: whether the host needs it is not known ({cause})");
    ChangeError::new(Reason::UseUnknown, device, message)
        .with_remedy("Run assign as root, with /proc and /sys mounted.")
}

fn refuse(function: &PciFunction, tried: &str, used: Option<&Use>) -> Result<(), ChangeError> {
    let Some(used) = used else { return Ok(()) };
    let message = format!("will not {tried}: the host needs it ({used})");
    Err(ChangeError::new(Reason::HostUsesDevice, function.address, message)
        .with_remedy("Move what it carries elsewhere, or choose another device."))
}

/// Another process, or the kernel itself, came in between plan and act.
fn stale(thing: impl ToString, found: &str, expected: &str) -> ChangeError {
    ChangeError::new(Reason::Stale, thing, format!("it has {found} now, and had {expected}"))
        .with_remedy("Something else changed it in between: try again.")
}
