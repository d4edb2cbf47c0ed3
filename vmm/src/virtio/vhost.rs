//! virtio-net whose frames the kernel moves (vhost-net): between the guest's rings and the TAP, without
//! us and without an exit.
//!
//! ```text
//! guest's notification ─ ioeventfd ─► kick ─► vhost's thread ─ TAP
//! guest's interrupt    ◄─ irqfd ─ the vector's event ◄─ call
//! ```
//! What is left to do here: features are agreed on, queues handed over when the driver is ready, and taken
//! back when it resets the device. The kernel checks every address of the rings against the memory that it
//! was told of, which is the guest's RAM.
//!
//! The offloads of checksums and of segmentation are between the guest and whoever receives its frames:
//! TAP and vhost hand on what stands in each frame's header.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, Mutex};

use virtio_queue::QueueT;
use vm_memory::{GuestAddress, GuestMemoryBackend};
use vmm_sys_util::eventfd::{EFD_CLOEXEC, EFD_NONBLOCK, EventFd};

use self::sys::{Rings, Vhost};
use super::net::{self, CLASS_ETHERNET, HEADER, KIND_NET, QUEUE_SIZES};
use super::{
    Activation, F_EVENT_IDX, F_INDIRECT_DESC, F_VERSION_1, Failure, Interrupt, VirtioDevice, tap,
};
use crate::descriptor::borrow;
use crate::error::{Error, Result, Trying};
use crate::machine::event_loop::{EventLoop, Ready, Trigger};
use crate::machine::memory::GuestMemory;
use crate::pci::vector::Source;
use crate::spec;
use crate::warnings::Warnings;

#[allow(unsafe_code)]
pub mod sys;

/// Feature bits of a network card (virtio 1.3, 5.1.3).
mod feature {
    /// The device takes frames whose checksum is not filled in.
    pub const CSUM: u64 = 1 << 0;
    /// The driver takes such.
    pub const GUEST_CSUM: u64 = 1 << 1;
    /// The driver takes TCP segments over IPv4 that are larger than a frame.
    pub const GUEST_TSO4: u64 = 1 << 7;
    /// The same over IPv6.
    pub const GUEST_TSO6: u64 = 1 << 8;
    /// The same with ECN.
    pub const GUEST_ECN: u64 = 1 << 9;
    /// The device takes such.
    pub const HOST_TSO4: u64 = 1 << 11;
    /// The same over IPv6.
    pub const HOST_TSO6: u64 = 1 << 12;
    /// The same with ECN.
    pub const HOST_ECN: u64 = 1 << 13;
    /// A frame may be spread over several buffers.
    pub const MRG_RXBUF: u64 = 1 << 15;
}

/// What TAP and header can do, whoever moves the frames.
const OFFLOADS: u64 = feature::CSUM
    | feature::GUEST_CSUM
    | feature::GUEST_TSO4
    | feature::GUEST_TSO6
    | feature::GUEST_ECN
    | feature::HOST_TSO4
    | feature::HOST_TSO6
    | feature::HOST_ECN;
/// What the kernel must be able to do, or not.
const OF_RINGS: u64 = feature::MRG_RXBUF | F_EVENT_IDX | F_INDIRECT_DESC;

/// Offloads that the TAP may use towards the guest, by what its driver takes (uapi/linux/if_tun.h, `TUN_F`).
fn offloads(features: u64) -> u64 {
    if features & feature::GUEST_CSUM == 0 {
        return 0;
    }
    let of = |bit, flag| if features & bit != 0 { flag } else { 0 };
    1 | of(feature::GUEST_TSO4, 2) | of(feature::GUEST_TSO6, 4) | of(feature::GUEST_ECN, 8)
}

/// Who moves the frames of one card: the kernel.
pub trait Engine: Send + Sync {
    /// What it can do with rings.
    ///
    /// # Errors
    /// The kernel's.
    fn features(&self) -> Result<u64>;
    /// What was agreed on; while no queue is started.
    ///
    /// # Errors
    /// The kernel's.
    fn set_features(&self, features: u64) -> Result<()>;
    /// Lets `tap` leave to the driver what `offloads` says (`TUN_F` flags).
    ///
    /// # Errors
    /// The kernel's.
    fn set_offloads(&self, tap: &OwnedFd, offloads: u64) -> Result<()>;
    /// Where queue `index` is, which event says that the driver offered something, and which is
    /// signalled where it broke the queue; while it is not started.
    ///
    /// # Errors
    /// The kernel's.
    fn set_queue(&self, index: u32, rings: &Rings, kick: &EventFd, broken: &EventFd) -> Result<()>;
    /// The event to signal for the driver; none where it wants to hear nothing.
    ///
    /// # Errors
    /// The kernel's.
    fn set_call(&self, index: u32, call: Option<&EventFd>) -> Result<()>;
    /// Starts a queue on the TAP, or stops it: on return the kernel uses it no more.
    ///
    /// # Errors
    /// The kernel's.
    fn set_tap(&self, index: u32, tap: Option<BorrowedFd<'_>>) -> Result<()>;
}

/// Queues that the kernel has.
struct Active {
    vectors: Vec<u16>,
    failure: Failure,
}

struct Inner {
    engine: Box<dyn Engine>,
    /// Never held while a vector's lock is taken: [`Calls`] comes here with that held.
    active: Mutex<Option<Active>>,
    warnings: Warnings,
}

impl Inner {
    fn count(&self) -> std::ops::Range<u32> {
        0..QUEUE_SIZES.len() as u32
    }

    fn warn(&self, result: Result<()>) {
        if let Err(error) = result {
            self.warnings.say(error);
        }
    }

    fn stop(&self) {
        for index in self.count() {
            self.warn(self.engine.set_tap(index, None));
            self.warn(self.engine.set_call(index, None));
        }
    }
}

/// A network card that the kernel serves.
pub struct KernelNet {
    tap: OwnedFd,
    mac: [u8; 6],
    features: u64,
    kicks: [EventFd; 2],
    broken: EventFd,
    inner: Arc<Inner>,
}

impl KernelNet {
    /// A card on `tap`, served through `vhost`, an open `/dev/vhost-net`, which reaches `memory`.
    ///
    /// # Errors
    /// Where the descriptors are not what they should be, or the kernel lacks virtio 1.0.
    pub fn new(
        tap: OwnedFd,
        vhost: OwnedFd,
        spec: &spec::VirtioNet,
        memory: &GuestMemory,
    ) -> Result<Self> {
        tap::prepare(&tap, HEADER as i32)?;
        KernelNet::over(tap, Box::new(Vhost::new(vhost, memory)?), spec.mac)
    }

    /// A card on `tap`, served by `engine`.
    pub(super) fn over(tap: OwnedFd, engine: Box<dyn Engine>, mac: [u8; 6]) -> Result<Self> {
        let can = engine.features()?;
        if can & F_VERSION_1 == 0 {
            return Err(Error::Spec("the kernel's vhost-net knows no virtio 1.0".into()));
        }
        let event = || EventFd::new(EFD_CLOEXEC | EFD_NONBLOCK).system("create an event");
        let active = Mutex::new(None);
        let warnings = Warnings::new(net::name(mac));
        Ok(KernelNet {
            tap,
            mac,
            features: OFFLOADS | can & OF_RINGS,
            kicks: [event()?, event()?],
            broken: event()?,
            inner: Arc::new(Inner { engine, active, warnings }),
        })
    }

    /// Adds its descriptors to the event loop.
    ///
    /// # Errors
    /// Where they cannot be watched.
    pub fn listen(self: &Arc<Self>, events: &EventLoop) -> Result<()> {
        events.add(borrow(&self.broken), Trigger::Level, self.clone(), 0)?;
        Ok(())
    }

    fn start(&self, activation: &Activation, calls: &[Option<Arc<EventFd>>]) -> Result<()> {
        let Activation { features, queues, memory, .. } = activation;
        let engine = &self.inner.engine;
        // Those of the TAP are not the engine's.
        engine.set_features(features & (OF_RINGS | F_VERSION_1))?;
        engine.set_offloads(&self.tap, offloads(*features))?;
        for ((index, queue), kick) in (0..).zip(queues).zip(&self.kicks) {
            let at = |address: u64| {
                let host = memory.get_host_address(GuestAddress(address));
                let outside = |_| Error::Spec(format!("queue {index} is not in memory"));
                host.map(|host| host as u64).map_err(outside)
            };
            let rings = Rings {
                size: queue.size().into(),
                descriptors: at(queue.desc_table())?,
                available: at(queue.avail_ring())?,
                used: at(queue.used_ring())?,
            };
            engine.set_queue(index, &rings, kick, &self.broken)?;
        }
        for (index, call) in (0..).zip(calls) {
            engine.set_call(index, call.as_deref())?;
        }
        self.inner.count().try_for_each(|index| engine.set_tap(index, Some(self.tap.as_fd())))
    }
}

impl Ready for KernelNet {
    fn ready(&self, _token: u32) {
        let _ = self.broken.read();
        let mut active = crate::lock(&self.inner.active);
        if let Some(Active { failure, .. }) = active.take() {
            self.inner.stop();
            drop(active);
            failure.report();
        }
    }
}

impl VirtioDevice for KernelNet {
    fn name(&self) -> String {
        net::name(self.mac)
    }

    fn kind(&self) -> u16 {
        KIND_NET
    }

    fn class(&self) -> u32 {
        CLASS_ETHERNET
    }

    fn features(&self) -> u64 {
        net::F_MAC | self.features
    }

    fn queue_sizes(&self) -> &[u16] {
        &QUEUE_SIZES
    }

    fn kick(&self, index: u16) -> Option<&EventFd> {
        self.kicks.get(usize::from(index))
    }

    fn read_config(&self, offset: u64, data: &mut [u8]) {
        net::read_config(self.mac, offset, data);
    }

    fn source(&self) -> Box<dyn Source> {
        Box::new(Calls(self.inner.clone()))
    }

    fn is_counted(&self) -> bool {
        false
    }

    fn activate(&self, activation: Activation) {
        // Before the lock: see there.
        let calls: Vec<_> = activation.interrupts.iter().map(Interrupt::event).collect();
        let vectors = activation.interrupts.iter().map(Interrupt::vector).collect();
        let mut active = crate::lock(&self.inner.active);
        match self.start(&activation, &calls) {
            Ok(()) => *active = Some(Active { vectors, failure: activation.failure }),
            Err(error) => {
                self.inner.stop();
                drop(active);
                self.inner.warnings.say(error);
                activation.failure.report();
            }
        }
    }

    fn reset(&self) {
        let mut active = crate::lock(&self.inner.active);
        if active.take().is_some() {
            self.inner.stop();
        }
    }
}

/// The card's vectors, whose events the kernel signals by itself.
struct Calls(Arc<Inner>);

impl Source for Calls {
    fn turn_on(&mut self) -> Result<()> {
        Ok(())
    }

    fn attach(&mut self, first: u16, events: &[Arc<EventFd>]) -> Result<()> {
        let active = crate::lock(&self.0.active);
        let vectors = active.iter().flat_map(|active| &active.vectors);
        for (index, vector) in (0..).zip(vectors) {
            let at = vector.checked_sub(first).map(usize::from);
            if let Some(event) = at.and_then(|at| events.get(at)) {
                self.0.engine.set_call(index, Some(event))?;
            }
        }
        Ok(())
    }

    fn detach_all(&mut self) {
        let active = crate::lock(&self.0.active);
        if active.is_some() {
            for index in self.0.count() {
                self.0.warn(self.0.engine.set_call(index, None));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tap_does_what_the_driver_takes() {
        let tso = feature::GUEST_TSO4 | feature::GUEST_ECN;
        assert_eq!(offloads(0), 0);
        assert_eq!(offloads(tso), 0, "without checksums nothing");
        assert_eq!(offloads(tso | feature::GUEST_CSUM), 1 | 2 | 8);
        assert_eq!(offloads(u64::MAX), 15);
    }
}
