//! How devices and the memory they need arrive: what the kernel takes long for happens beside each
//! other, and beside the rest of the start.
//!
//! ```text
//! this thread      kernel and initrd into RAM ─ vCPUs run ─ devices awaited, onto the bus ─► gate
//! a thread each    device opened and reset ─────────────────┘                                  │
//! pin              RAM populated ─ RAM mapped and pinned ─► latch                              │
//! a vCPU           … looks for PCI devices: waits for the gate … makes one a bus master: waits for
//!                  the latch, and goes on
//! ```
//! A guest looks for devices long after it has begun, and a device cannot reach memory before the guest
//! has made it a bus master. So the vCPUs wait neither for resets nor for mappings: only those do that
//! read or write configuration space, in [`crate::pci::gate`], and the one that sets that bit, in
//! [`super::device`]. Where devices do not open or mappings fail, neither ever happens, and the machine
//! stops with [`StopReason::NoDevices`], for its launcher to start it again without.
//!
//! Where CPUs are short, populating memory stands back behind the vCPUs until one is held for it.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::thread::{self, JoinHandle};

use rustix::process::setpriority_process;

use super::dma::{Arrival, IoSpace};
use super::sys::Device;
use crate::devices::power::Stop;
use crate::error::{Error, Result, Trying};
use crate::event::Reporter;
use crate::machine::latch::Latch;
use crate::machine::memory::{GuestMemory, populate};
use crate::spec::{GuestEvent, Phase, StopReason};
use crate::timeline::Timeline;

/// How nice opening a device is to whoever else wants a CPU (see nice(2)). There is time until the guest
/// looks for devices; and a vCPU that waits for them leaves its CPU to this.
const OPENING: i32 = 19;

/// Devices that are being opened, each in a thread of its own, since each is reset by that, which takes
/// 100 ms and more, most of it waiting.
pub struct Opening(Vec<JoinHandle<Result<Device>>>);

impl Opening {
    /// Begins. `timeline` takes note of each.
    ///
    /// # Errors
    /// Where a thread cannot be started.
    pub fn begin(arrivals: Vec<Arrival>, timeline: &Arc<Timeline>) -> Result<Self> {
        let open = |Arrival { address, entrance }| {
            let timeline = timeline.clone();
            let work = move || {
                // Without it the guest starts a little later, and that is all.
                let _ = setpriority_process(None, OPENING);
                timeline.time(Phase::OpenDevice, Some(&address), || entrance.open(&address))
            };
            thread::Builder::new().name("open".into()).spawn(work).system("start a thread")
        };
        Ok(Opening(arrivals.into_iter().map(open).collect::<Result<_>>()?))
    }

    /// Waits for all, and returns them in their order.
    ///
    /// # Errors
    /// The first device's that failed, naming it.
    pub fn wait(self) -> Result<Vec<Device>> {
        // All of them, so that none is closed while another is in its reset.
        let opened: Vec<_> = self.0.into_iter().map(joined).collect();
        opened.into_iter().collect()
    }
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
    let wanted = latch.clone();
    let work = move || {
        let urgent = || wanted.is_awaited();
        // What is not found here is left to pinning, which says why it cannot be had.
        timeline.time(Phase::PopulateMemory, None, || populate(&memory, urgent)).ok();
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
