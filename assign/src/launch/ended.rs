//! How a guest ended: what its process was told apart by, in words for whoever ran it.

use policies::Guest;
use vmm::spec::StopReason;

use super::error;
use super::session::Ending;
use crate::cgroup::usage::OutOfMemory;
use crate::failure::Failure;

/// How a guest ended that did what it was to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    /// It powered off.
    PoweredOff,
    /// We were asked to stop it.
    Stopped,
}

/// How `guest` ended. `out_of_memory` says whether its process was ended for lack of memory.
///
/// # Errors
/// Other than by itself or by request.
pub fn ended(
    guest: &Guest,
    ending: Ending,
    out_of_memory: Option<OutOfMemory>,
) -> Result<Ended, Failure> {
    match (ending, out_of_memory) {
        (Ending::Asked, _) => Ok(Ended::Stopped),
        (Ending::Guest(StopReason::PowerOff | StopReason::Reboot), _) => Ok(Ended::PoweredOff),
        (Ending::DeviceError(device), _) => Err(error::stopped_for(guest, &device)),
        (Ending::Guest(StopReason::Crash { detail, .. }), _) => Err(error::crashed(guest, &detail)),
        // The kernel ends whom it has chosen by a signal and says no more.
        (Ending::Killed(_), Some(cause)) => Err(error::out_of_memory(guest, cause)),
        (Ending::Killed(signal), None) => Err(error::killed(guest, signal)),
        (
            Ending::Guest(StopReason::Failed { detail } | StopReason::NoDevices { detail, .. }),
            _,
        ) => Err(error::failed(guest, &detail)),
    }
}
