//! virtio devices whose queues the kernel works off (vhost), without us and without an exit.
//!
//! ```text
//! guest's notification ─ ioeventfd ─► kick ─► vhost's thread ─ a TAP, or sockets of the host
//! guest's interrupt    ◄─ irqfd ─ the vector's event ◄─ call
//! ```
//! What is left to do here: queues are handed over when the driver is ready, and taken back when it resets
//! the device ([`Queues`]). Addresses of buffers the kernel checks against the memory that it was told of,
//! which is the guest's RAM. Those of the rings it takes as they are, so each is checked here to be whole
//! in one range of RAM.
//!
//! [`net`] is a network card, of [`pairs`] of queues, [`vsock`] are sockets between guest and host, and [`sys`] has the calls.

use std::sync::{Arc, Mutex};

use vm_memory::{GuestAddress, GuestMemoryBackend};
use vmm_sys_util::eventfd::{EFD_CLOEXEC, EFD_NONBLOCK, EventFd};

use self::sys::Rings;
use super::{Activation, F_EVENT_IDX, F_INDIRECT_DESC, F_VERSION_1, Failure, Interrupt};
use crate::descriptor::borrow;
use crate::error::{Error, Result, Trying};
use crate::machine::event_loop::{EventLoop, Ready, Trigger};
use crate::pci::vector::Source;
use crate::warnings::Warnings;

pub mod net;
pub mod pairs;
#[allow(unsafe_code)]
pub mod sys;
pub mod vsock;

/// What the kernel may be able to do with any device's rings, or not.
const OF_RINGS: u64 = F_EVENT_IDX | F_INDIRECT_DESC;

/// Who works off the queues of one device: the kernel.
pub trait Engine: Send + Sync {
    /// What it can do.
    ///
    /// # Errors
    /// The kernel's.
    fn features(&self) -> Result<u64>;
    /// What was agreed on: `own` of what it can do itself, and `all` that concerns the device; while no
    /// queue is started.
    ///
    /// # Errors
    /// The kernel's.
    fn set_features(&self, own: u64, all: u64) -> Result<()>;
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
    /// Starts the queues that were set, or stops all: on return the kernel uses none any more. Those that are stopped
    /// already stay so.
    ///
    /// # Errors
    /// The kernel's; some may be started then.
    fn set_running(&self, runs: bool) -> Result<()>;
}

/// Queues that the kernel has.
struct Active {
    vectors: Vec<u16>,
    failure: Failure,
}

struct Inner {
    engine: Box<dyn Engine>,
    count: usize,
    /// Never held while a vector's lock is taken: [`Calls`] comes here with that held.
    active: Mutex<Option<Active>>,
    warnings: Warnings,
}

impl Inner {
    fn warn(&self, result: Result<()>) {
        if let Err(error) = result {
            self.warnings.say(error);
        }
    }

    fn stop(&self) {
        self.warn(self.engine.set_running(false));
        self.silence();
    }

    fn silence(&self) {
        for index in 0..self.count as u32 {
            self.warn(self.engine.set_call(index, None));
        }
    }
}

/// The queues of a device that are the kernel's while the driver uses them: the first ones of the device.
/// Others are the device's own.
pub struct Queues {
    features: u64,
    kicks: Vec<EventFd>,
    broken: EventFd,
    inner: Arc<Inner>,
}

impl Queues {
    /// `count` queues of the device that messages call `name`, which `engine` works off. Beside what rings
    /// can have, the device makes use of these `features` where the kernel has them.
    ///
    /// # Errors
    /// Where the kernel lacks virtio 1.0, or does not answer.
    pub fn new(
        engine: Box<dyn Engine>,
        count: usize,
        features: u64,
        name: String,
    ) -> Result<Queues> {
        let can = engine.features()?;
        if can & F_VERSION_1 == 0 {
            return Err(Error::Spec(format!("{name}: the kernel's vhost knows no virtio 1.0")));
        }
        let event = || EventFd::new(EFD_CLOEXEC | EFD_NONBLOCK).system("create an event");
        let (active, warnings) = (Mutex::new(None), Warnings::new(name));
        Ok(Queues {
            features: can & (OF_RINGS | features),
            kicks: (0..count).map(|_| event()).collect::<Result<_>>()?,
            broken: event()?,
            inner: Arc::new(Inner { engine, count, active, warnings }),
        })
    }

    /// Adds its descriptor to the event loop.
    ///
    /// # Errors
    /// Where it cannot be watched.
    pub fn listen(self: &Arc<Self>, events: &EventLoop) -> Result<()> {
        events.add(borrow(&self.broken), Trigger::Level, self.clone(), 0)?;
        Ok(())
    }

    /// Those features that the kernel has.
    pub fn features(&self) -> u64 {
        self.features
    }

    /// The event that a driver's notification of queue `index` signals; none of a queue that is not the
    /// kernel's.
    pub fn kick(&self, index: u16) -> Option<&EventFd> {
        self.kicks.get(usize::from(index))
    }

    /// Who signals the events of the device's vectors: the kernel.
    pub fn source(&self) -> Box<dyn Source> {
        Box::new(Calls(self.inner.clone()))
    }

    /// The driver is ready: hands the queues over.
    pub fn start(&self, activation: Activation) {
        let interrupts = || activation.interrupts.iter().take(self.inner.count);
        // Before the lock: see there.
        let calls: Vec<_> = interrupts().map(Interrupt::event).collect();
        let vectors = interrupts().map(Interrupt::vector).collect();
        let mut active = crate::lock(&self.inner.active);
        match self.hand_over(&activation, &calls) {
            Ok(()) => *active = Some(Active { vectors, failure: activation.failure }),
            Err(error) => {
                self.inner.stop();
                drop(active);
                self.inner.warnings.say(error);
                activation.failure.report();
            }
        }
    }

    fn hand_over(&self, activation: &Activation, calls: &[Option<Arc<EventFd>>]) -> Result<()> {
        let Activation { features, queues, memory, .. } = activation;
        let engine = &self.inner.engine;
        engine.set_features(features & (self.features | F_VERSION_1), *features)?;
        for ((index, queue), kick) in (0..).zip(queues).zip(&self.kicks) {
            // One that the driver does without.
            if !queue.is_ready() {
                continue;
            }
            let setup = queue.setup();
            let entries = usize::from(setup.size);
            let at = |address: u64, bytes: usize| {
                let whole = memory.get_slice(GuestAddress(address), bytes);
                let outside = |_| Error::Spec(format!("queue {index} is not in memory"));
                whole.map(|ring| ring.ptr_guard().as_ptr() as u64).map_err(outside)
            };
            // Their sizes: virtio 1.3, section 2.7.
            let rings = Rings {
                size: setup.size.into(),
                descriptors: at(setup.descriptors, 16 * entries)?,
                available: at(setup.driver, 6 + 2 * entries)?,
                used: at(setup.device, 6 + 8 * entries)?,
            };
            engine.set_queue(index, &rings, kick, &self.broken)?;
        }
        for (index, call) in (0..).zip(calls) {
            engine.set_call(index, call.as_deref())?;
        }
        engine.set_running(true)
    }

    /// Says that something about the device went wrong.
    pub fn warn(&self, error: Error) {
        self.inner.warn(Err(error));
    }

    /// The driver gave up the queues: on return the kernel has none.
    pub fn stop(&self) {
        let mut active = crate::lock(&self.inner.active);
        if active.take().is_some() {
            self.inner.stop();
        }
    }
}

impl Ready for Queues {
    /// The driver has broken a queue.
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

/// The device's vectors, whose events the kernel signals by itself.
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
            self.0.silence();
        }
    }
}
