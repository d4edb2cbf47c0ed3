//! virtio devices, for what no physical device is given. Version 1.x only (virtio 1.3): no legacy
//! interface, split rings, MSI-X.
//!
//! [`transport`] is the PCI function any device plugs into; [`net`] is a device.

pub mod net;
pub mod transport;

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use virtio_queue::Queue;

use crate::machine::memory::GuestMemory;
use crate::pci::msix::Msix;

/// Feature bit: virtio 1.0 or later (virtio 1.3, section 6).
pub const F_VERSION_1: u64 = 1 << 32;
/// Feature bit: descriptors may refer to tables of descriptors.
pub const F_INDIRECT_DESC: u64 = 1 << 28;
/// Feature bit: either side says at which index it wants to be told.
pub const F_EVENT_IDX: u64 = 1 << 29;

/// A device behind the transport.
pub trait VirtioDevice: Send + Sync {
    /// Device type (virtio 1.3, section 5).
    fn kind(&self) -> u16;
    /// PCI class code for it.
    fn class(&self) -> u32;
    /// Feature bits it offers.
    fn features(&self) -> u64;
    /// Largest size of each of its queues: a power of two.
    fn queue_sizes(&self) -> &[u16];
    /// The event that a driver's notification of queue `index` signals.
    fn kick(&self, index: u16) -> Option<&vmm_sys_util::eventfd::EventFd>;
    /// Reads its configuration at `offset`; zeroes beyond its end.
    fn read_config(&self, offset: u64, data: &mut [u8]);
    /// The driver is ready: the device may use its queues.
    fn activate(&self, activation: Activation);
    /// The driver gave up the queues: on return none is used any more.
    fn reset(&self);
}

/// What a device gets to work with.
pub struct Activation {
    /// Feature bits both sides agreed on.
    pub features: u64,
    /// Queues in order, all enabled and within guest memory.
    pub queues: Vec<Queue>,
    /// Each queue's interrupt.
    pub interrupts: Vec<QueueInterrupt>,
    /// Guest RAM.
    pub memory: GuestMemory,
    /// Set when the driver broke its queues; it then sees DEVICE_NEEDS_RESET.
    pub broken: Arc<AtomicBool>,
}

/// How a queue's driver is told of used buffers.
pub struct QueueInterrupt {
    msix: Arc<Mutex<Msix>>,
    vector: u16,
}

impl QueueInterrupt {
    /// Tells the driver.
    pub fn signal(&self) {
        crate::lock(&self.msix).signal(self.vector);
    }
}

/// Notes that the driver broke the rules of its queues.
pub fn set_broken(broken: &AtomicBool) {
    broken.store(true, Ordering::Release);
}
