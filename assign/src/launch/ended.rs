//! How a guest ended: what its process was told apart by, in words for whoever ran it.

use policies::Guest;
use vmm::spec::StopReason;

use super::error;
use super::session::Ending;
use crate::cgroup::usage::OutOfMemory;
use crate::failure::Failure;
use crate::history::How;

/// How a guest ended, in one word.
pub fn how(ending: &Ending, out_of_memory: Option<OutOfMemory>) -> How {
    match ending {
        Ending::Asked => How::Stopped,
        Ending::DeviceError(_) => How::DeviceError,
        Ending::Killed(_) if out_of_memory.is_some() => How::OutOfMemory,
        Ending::Killed(_) => How::Killed,
        Ending::Guest(StopReason::PowerOff) => How::PoweredOff,
        Ending::Guest(StopReason::Reboot) => How::Rebooted,
        Ending::Guest(StopReason::Crash { triple_fault: true, .. }) => How::TripleFault,
        Ending::Guest(StopReason::Crash { .. }) => How::Crashed,
        Ending::Guest(StopReason::NoDevices { .. } | StopReason::Failed { .. }) => How::Failed,
    }
}

/// Whether `guest` ended as guests are to. `out_of_memory` says whether its process was ended for lack
/// of memory.
///
/// # Errors
/// Other than by itself or by request.
pub fn ended(
    guest: &Guest,
    ending: Ending,
    out_of_memory: Option<OutOfMemory>,
) -> Result<(), Failure> {
    match (ending, out_of_memory) {
        (Ending::Asked | Ending::Guest(StopReason::PowerOff | StopReason::Reboot), _) => Ok(()),
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_end_has_a_word_of_its_own() {
        let crash = |triple_fault| StopReason::Crash { triple_fault, detail: String::new() };
        let failed = StopReason::Failed { detail: String::new() };
        for (ending, out_of_memory, word) in [
            (Ending::Asked, None, How::Stopped),
            (Ending::Guest(StopReason::PowerOff), None, How::PoweredOff),
            (Ending::Guest(crash(true)), None, How::TripleFault),
            (Ending::Guest(crash(false)), None, How::Crashed),
            (Ending::Guest(failed), None, How::Failed),
            (Ending::Killed(9), None, How::Killed),
            (Ending::Killed(9), Some(OutOfMemory::Host), How::OutOfMemory),
            (Ending::Guest(StopReason::PowerOff), Some(OutOfMemory::Host), How::PoweredOff),
            (Ending::DeviceError("0000:01:10.0".to_owned()), None, How::DeviceError),
        ] {
            assert_eq!(how(&ending, out_of_memory), word, "{ending:?}");
        }
    }
}
