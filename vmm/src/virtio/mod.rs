//! virtio devices, for what no physical device is given. Version 1.x only (virtio 1.3): no legacy
//! interface, MSI-X, rings split or packed.
//!
//! [`transport`] is the PCI function any device plugs into and [`structures`] what is in its BAR; [`queue`] has
//! the driver's buffers, in rings of either kind; [`net`] is a device, over a [`tap`], and [`vhost::net`] the
//! same with the kernel's help, with which [`vhost::vsock`] has sockets too; [`block`] is one, over a file;
//! [`rng`] gives random numbers; [`balloon`] takes memory that the guest can do without; [`console`] has streams
//! of bytes between guest and host. For tests, `simulated` has a machine with one of them.

pub mod balloon;
pub mod block;
pub mod console;
pub mod net;
pub mod queue;
pub mod rng;
#[cfg(any(test, feature = "simulated"))]
#[allow(unsafe_code)]
pub mod simulated;
pub mod structures;
#[allow(unsafe_code)]
pub mod tap;
pub mod transport;
pub mod vhost;

#[cfg(test)]
mod tests;

use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use std::sync::{Arc, Mutex};

use vmm_sys_util::eventfd::EventFd;

use self::queue::Queue;
use crate::machine::memory::GuestMemory;
use crate::pci::msix::Msix;
use crate::pci::vector::{Emulated, Source};

/// Feature bit: virtio 1.0 or later (virtio 1.3, section 6).
pub const F_VERSION_1: u64 = 1 << 32;
/// Feature bit: descriptors may refer to tables of descriptors.
pub const F_INDIRECT_DESC: u64 = 1 << 28;
/// Feature bit: either side says at which index it wants to be told.
pub const F_EVENT_IDX: u64 = 1 << 29;

/// Feature bit: rings may be packed (virtio 1.3, 2.8).
pub const F_RING_PACKED: u64 = 1 << 34;

/// Reads what `config` has from `offset` on; zeroes beyond its end.
fn read_bytes(config: &[u8], offset: u64, data: &mut [u8]) {
    for (at, byte) in (offset..).zip(data) {
        *byte = usize::try_from(at).ok().and_then(|at| config.get(at)).copied().unwrap_or(0);
    }
}

/// A device behind the transport.
pub trait VirtioDevice: Send + Sync {
    /// What messages call it.
    fn name(&self) -> String;
    /// Device type (virtio 1.3, section 5).
    fn kind(&self) -> u16;
    /// PCI class code for it.
    fn class(&self) -> u32;
    /// Feature bits it offers.
    fn features(&self) -> u64;
    /// Whether it can work with these of its features together (virtio 1.3, 2.2.2). Most can with any.
    fn accepts(&self, features: u64) -> bool {
        let _ = features;
        true
    }
    /// Largest size of each of its queues: a power of two.
    fn queue_sizes(&self) -> &[u16];
    /// The event that a driver's notification of queue `index` signals.
    fn kick(&self, index: u16) -> Option<&EventFd>;
    /// Reads its configuration at `offset`; zeroes beyond its end.
    fn read_config(&self, offset: u64, data: &mut [u8]);
    /// Writes its configuration at `offset`. Most have nothing there that a driver writes.
    fn write_config(&self, offset: u64, data: &[u8]) {
        let _ = (offset, data);
    }
    /// Is another number after each change of its configuration, so that a driver that reads a field in
    /// parts notices (virtio 1.3, 4.1.4.3.1). Most never change theirs.
    fn config_generation(&self) -> u8 {
        0
    }
    /// Whether a driver may do without queue `index`, as where it knows nothing of what it is for. Such a
    /// queue is not [`ready`](Queue::is_ready) in [`Activation::queues`].
    fn may_lack(&self, index: usize) -> bool {
        let _ = index;
        false
    }
    /// Who signals its vectors' events. Without more it does that itself, by [`Interrupt::signal`].
    fn source(&self) -> Box<dyn Source> {
        Box::new(Emulated)
    }
    /// Whether its interrupts come to be by [`Interrupt::signal`], which counts them.
    fn is_counted(&self) -> bool {
        true
    }
    /// The driver is ready: the device may use its queues.
    fn activate(&self, activation: Activation);
    /// The driver gave up the queues: on return none is used any more.
    fn reset(&self);
}

/// What a device gets to work with.
pub struct Activation {
    /// Feature bits both sides agreed on.
    pub features: u64,
    /// Queues in order, all enabled and within guest memory, but for those that a driver
    /// [may do without](VirtioDevice::may_lack).
    pub queues: Vec<Queue>,
    /// Each queue's interrupt.
    pub interrupts: Vec<Interrupt>,
    /// How its driver is told that the device's configuration is another one.
    pub changed: Changed,
    /// Guest RAM.
    pub memory: GuestMemory,
    /// What to do when the driver breaks the rules of its queues.
    pub failure: Failure,
}

/// How the driver is told of something: of used buffers, or of a change of the device.
#[derive(Clone)]
pub struct Interrupt {
    msix: Arc<Mutex<Msix>>,
    vector: u16,
}

impl Interrupt {
    /// Tells the driver.
    pub fn signal(&self) {
        crate::lock(&self.msix).signal(self.vector);
    }

    /// The number of its vector.
    pub fn vector(&self) -> u16 {
        self.vector
    }

    /// The event whose signals tell the driver, for whoever does that in our place. None where the driver
    /// wants to hear nothing, or events are short.
    pub fn event(&self) -> Option<Arc<EventFd>> {
        crate::lock(&self.msix).event(self.vector)
    }
}

/// How the driver is told that the device's configuration or status has changed (virtio 1.3, 2.3 and 2.1.2).
#[derive(Clone)]
pub struct Changed {
    isr: Arc<AtomicU8>,
    interrupt: Interrupt,
}

/// The interrupt status bit of such a change (virtio 1.3, 4.1.4.5).
const ISR_CONFIG: u8 = 2;

impl Changed {
    /// Tells the driver.
    pub fn tell(&self) {
        self.isr.fetch_or(ISR_CONFIG, Ordering::AcqRel);
        self.interrupt.signal();
    }
}

/// The device's way to give up (virtio 1.3, 2.1.2).
#[derive(Clone)]
pub struct Failure {
    broken: Arc<AtomicBool>,
    changed: Changed,
}

impl Failure {
    /// The driver sees DEVICE_NEEDS_RESET from now on, until it resets the device.
    pub fn report(&self) {
        self.broken.store(true, Ordering::Release);
        self.changed.tell();
    }
}
