//! How devices and the memory they need arrive: what the kernel takes long for happens beside each
//! other, and beside the rest of the start.
//!
//! ```text
//! this thread      kernel and initrd into RAM ─ BARs, interrupts ─ vCPUs run ─ (event loop)
//! a thread each    device opened and reset ──┘                       │
//! pin              RAM populated ─ RAM mapped and pinned ─► latch    │ sets bus master: waits for
//!                                                             └──────┴─► the latch, then goes on
//! ```
//! A device cannot reach memory before the guest has made it a bus master, so the vCPUs need not wait
//! for the mappings: only the one that sets that bit, in [`super::device`]. Where the mappings fail,
//! that bit is never set, and the machine stops with [`StopReason::NoDevices`], for its launcher to
//! start it again without.
//!
//! Devices are open before the first vCPU runs. A reset moves a device's BARs away and back, while
//! the guest has not found the device yet: nothing is gained by having it see that, and emulated
//! hosts have been seen to die of it.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::thread::{self, JoinHandle};

use super::dma::{Arrival, IoSpace};
use super::sys::Device;
use crate::devices::power::Stop;
use crate::error::{Error, Result, Trying};
use crate::event::Reporter;
use crate::machine::latch::Latch;
use crate::machine::memory::{GuestMemory, populate};
use crate::spec::{GuestEvent, Phase, StopReason};
use crate::timeline::Timeline;

/// Opens the devices at once, each in a thread of its own, since each is reset by that, which takes
/// 100 ms and more, most of it waiting; on this thread, does what is to be done `meanwhile`. Returns
/// the devices in their order. `timeline` takes note of each.
///
/// # Errors
/// The first of: what went wrong meanwhile, with a device.
pub fn open<T>(
    arrivals: Vec<Arrival>,
    timeline: &Arc<Timeline>,
    meanwhile: impl FnOnce() -> Result<T>,
) -> Result<(T, Vec<Device>)> {
    let open = |Arrival { address, entrance }| {
        let timeline = timeline.clone();
        let work =
            move || timeline.time(Phase::OpenDevice, Some(&address), || entrance.open(&address));
        thread::Builder::new().name("open".into()).spawn(work).system("start a thread")
    };
    let opening: Vec<_> = arrivals.into_iter().map(open).collect::<Result<_>>()?;
    let done = meanwhile();
    let devices = opening.into_iter().map(joined).collect::<Result<_>>();
    Ok((done?, devices?))
}

/// What the thread came to.
fn joined<T>(thread: JoinHandle<Result<T>>) -> Result<T> {
    let panicked = |_| Error::System {
        action: "open a device",
        source: std::io::Error::other("its thread panicked; this is a bug"),
    };
    thread.join().map_err(panicked)?
}

/// Begins to pin `memory` for the devices of `space`. The latch opens when they can reach it; where
/// that fails, the machine is stopped and the latch given up, in this order. `timeline` takes note of
/// it, and `reporter` tells when it is done.
///
/// # Errors
/// Where a thread cannot be started.
pub fn pin(
    space: &Arc<IoSpace>,
    memory: &GuestMemory,
    stop: &Arc<Stop>,
    timeline: &Arc<Timeline>,
    reporter: &Arc<Reporter>,
) -> Result<Arc<Latch>> {
    let (space, memory, stop) = (space.clone(), memory.clone(), stop.clone());
    let (timeline, reporter) = (timeline.clone(), reporter.clone());
    let latch = Arc::new(Latch::default());
    let pinned = latch.clone();
    let work = move || {
        timeline.time(Phase::PopulateMemory, None, || populate(&memory));
        timeline.time(Phase::PinMemory, None, || space.map_memory(&memory))?;
        // Now, and not when each vCPU comes round to it: whoever hears of this finds it whole.
        timeline.end_all(Phase::HoldBusMaster);
        Ok(())
    };
    thread::Builder::new()
        .name("pin".into())
        .spawn(move || {
            finish(work, &pinned, &stop);
            if pinned.is_open() {
                reporter.send(&GuestEvent::Pinned);
            }
        })
        .system("start a thread")?;
    Ok(latch)
}

/// Does the `work` and tells what came of it.
fn finish(work: impl FnOnce() -> Result<()>, latch: &Latch, stop: &Stop) {
    let detail = match catch_unwind(AssertUnwindSafe(work)) {
        Ok(Ok(())) => return latch.open(),
        Ok(Err(error)) => error.to_string(),
        Err(_) => "the thread that pins memory panicked; this is a bug".to_owned(),
    };
    stop.request(StopReason::NoDevices { device: None, detail });
    latch.give_up();
}

#[cfg(test)]
mod tests {
    use vmm_sys_util::eventfd::EventFd;

    use super::*;

    fn finished(work: impl FnOnce() -> Result<()>) -> (bool, Option<StopReason>) {
        let (latch, stop) = (Latch::default(), Stop::new(EventFd::new(0).unwrap()));
        finish(work, &latch, &stop);
        (latch.pass(), stop.reason())
    }

    #[test]
    fn whatever_becomes_of_pinning_nobody_waits_for_ever() {
        assert_eq!(finished(|| Ok(())), (true, None));
        let no_room = || Err(Error::Spec("no room".into()));
        let panics = || panic!("as a bug would");
        for (outcome, expected) in [(finished(no_room), "no room"), (finished(panics), "a bug")] {
            let (false, Some(StopReason::NoDevices { device: None, detail })) = outcome else {
                panic!("{outcome:?}")
            };
            assert!(detail.contains(expected), "{detail}");
        }
    }
}
