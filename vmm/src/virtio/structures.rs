//! The structures in a virtio device's BAR (virtio 1.3, 4.1.4), and the state machine behind the
//! common configuration:
//!
//! ```text
//! reset ─ driver chooses features ─ FEATURES_OK, or not ─ sets up queues ─ DRIVER_OK: active
//!   active ─ the driver breaks a queue: DEVICE_NEEDS_RESET ─ writes status 0: reset
//! ```
//! Queues and their vectors can be changed until the device is active, and then no more: it works
//! on a copy that was checked against guest memory.

use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use super::queue::Queue;
use super::queue::setup::{Setup, set_address};
use super::{Activation, Changed, F_RING_PACKED, F_VERSION_1, Failure, Interrupt, VirtioDevice};
use crate::bus::Access;
use crate::machine::memory::GuestMemory;
use crate::pci::msix::Msix;

/// Size of the BAR in bytes.
pub const BAR_SIZE: u64 = 0x8000;
/// Offset of the common configuration.
pub const COMMON: u64 = 0;
/// Its size in bytes.
pub const COMMON_SIZE: u64 = 0x3c;
/// Offset of the interrupt status.
pub const STATUS: u64 = 0x1000;
/// Offset of the device's own configuration.
pub const DEVICE: u64 = 0x2000;
/// Offset of the notifications.
pub const NOTIFY: u64 = 0x3000;
/// Bytes from one queue's notification to the next one's.
pub const NOTIFY_STEP: u64 = 4;
/// Offset of the MSI-X table.
pub const MSIX_TABLE: u64 = 0x4000;
/// Offset of the pending bits.
pub const MSIX_PENDING: u64 = 0x5000;
/// Bytes of each part.
pub const PART_SIZE: u64 = 0x1000;

/// Device status bits (virtio 1.3, 2.1).
const DRIVER_OK: u8 = 4;
const FEATURES_OK: u8 = 8;
const NEEDS_RESET: u8 = 64;

/// "No vector" (virtio 1.3, 4.1.5.1.2).
const NO_VECTOR: u16 = 0xffff;

/// The common configuration as the driver sees it.
struct Common {
    device_select: u32,
    driver_select: u32,
    driver_features: u64,
    config_vector: u16,
    status: u8,
    queue_select: u16,
    queues: Vec<(Setup, u16)>,
    active: bool,
}

impl Common {
    fn new(device: &dyn VirtioDevice) -> Self {
        let queues = device.queue_sizes().iter();
        Common {
            device_select: 0,
            driver_select: 0,
            driver_features: 0,
            config_vector: NO_VECTOR,
            status: 0,
            queue_select: 0,
            queues: queues.map(|&size| (Setup::new(size), NO_VECTOR)).collect(),
            active: false,
        }
    }

    fn selected(&mut self) -> Option<&mut (Setup, u16)> {
        self.queues.get_mut(usize::from(self.queue_select))
    }
}

/// Half `select` (0 low, 1 high) of a 64-bit feature word.
fn half(features: u64, select: u32) -> u32 {
    match select {
        0 => features as u32,
        1 => (features >> 32) as u32,
        _ => 0,
    }
}

/// What answers in the BAR.
pub struct Structures {
    common: Mutex<Common>,
    /// The device behind it.
    pub(super) device: Arc<dyn VirtioDevice>,
    /// Its vectors: one for changes of the configuration, and one a queue.
    pub(super) msix: Arc<Mutex<Msix>>,
    memory: GuestMemory,
    /// Whether drivers may choose packed rings, where the device has them.
    packed_rings: bool,
    broken: Arc<AtomicBool>,
    /// Why the driver was interrupted last; reading it clears it (virtio 1.3, 4.1.4.5). Only changes of
    /// the configuration are told here: queues have vectors.
    isr: Arc<AtomicU8>,
    /// Accesses so far: each has cost an exit.
    pub(super) accesses: AtomicU64,
}

impl Structures {
    /// Of a `device` that was just reset, with packed rings if it can have them and is to.
    pub fn new(
        device: Arc<dyn VirtioDevice>,
        msix: Msix,
        memory: GuestMemory,
        packed_rings: bool,
    ) -> Self {
        Structures {
            common: Mutex::new(Common::new(&*device)),
            device,
            msix: Arc::new(Mutex::new(msix)),
            memory,
            packed_rings,
            broken: Arc::default(),
            isr: Arc::default(),
            accesses: AtomicU64::new(0),
        }
    }

    fn features(&self) -> u64 {
        let left_out = if self.packed_rings { 0 } else { F_RING_PACKED };
        (self.device.features() & !left_out) | F_VERSION_1
    }

    fn read_common(&self, offset: u64) -> u64 {
        let mut common = crate::lock(&self.common);
        let queues = common.queues.len() as u64;
        let select = common.queue_select;
        match offset {
            0x00 => common.device_select.into(),
            0x04 => half(self.features(), common.device_select).into(),
            0x08 => common.driver_select.into(),
            0x0c => half(common.driver_features, common.driver_select).into(),
            0x10 => common.config_vector.into(),
            0x12 => queues,
            0x14 => {
                let broken = self.broken.load(Ordering::Acquire);
                u64::from(common.status | if broken { NEEDS_RESET } else { 0 })
            }
            0x15 => self.device.config_generation().into(),
            0x16 => select.into(),
            0x18..=0x37 => {
                let Some((queue, vector)) = common.selected() else { return 0 };
                match offset {
                    0x18 => queue.size.into(),
                    0x1a => (*vector).into(),
                    0x1c => queue.is_ready.into(),
                    0x1e => select.into(),
                    0x20 => queue.descriptors,
                    0x24 => queue.descriptors >> 32,
                    0x28 => queue.driver,
                    0x2c => queue.driver >> 32,
                    0x30 => queue.device,
                    0x34 => queue.device >> 32,
                    _ => 0,
                }
            }
            _ => 0,
        }
    }

    fn write_common(&self, offset: u64, value: u64, length: usize) {
        let mut common = crate::lock(&self.common);
        let is_packed = common.driver_features & F_RING_PACKED != 0;
        let (active, vectors) = (common.active, common.queues.len() as u16 + 1);
        // A vector the table does not have reads back as none, which tells the driver.
        let vector = if (value as u16) < vectors { value as u16 } else { NO_VECTOR };
        let low = Some(value as u32);
        let high = (length == 8).then_some((value >> 32) as u32);
        match offset {
            0x00 => common.device_select = value as u32,
            0x08 => common.driver_select = value as u32,
            0x0c if common.status & FEATURES_OK == 0 => match common.driver_select {
                0 => {
                    common.driver_features =
                        common.driver_features & !0xffff_ffff | (value & 0xffff_ffff);
                }
                1 => {
                    common.driver_features = common.driver_features & 0xffff_ffff | value << 32;
                }
                _ => {}
            },
            0x10 => common.config_vector = vector,
            0x14 => self.set_status(&mut common, value as u8),
            0x16 => common.queue_select = value as u16,
            0x18..=0x37 if !active => {
                let Some((queue, queue_vector)) = common.selected() else { return };
                match offset {
                    0x18 => queue.set_size(value as u16, is_packed),
                    0x1a => *queue_vector = vector,
                    0x1c => queue.is_ready = value == 1,
                    0x20 => set_address(&mut queue.descriptors, low, high),
                    0x24 => set_address(&mut queue.descriptors, None, low),
                    0x28 => set_address(&mut queue.driver, low, high),
                    0x2c => set_address(&mut queue.driver, None, low),
                    0x30 => set_address(&mut queue.device, low, high),
                    0x34 => set_address(&mut queue.device, None, low),
                    _ => {}
                }
            }
            _ => {}
        }
    }

    fn set_status(&self, common: &mut Common, mut status: u8) {
        if status == 0 {
            self.device.reset();
            self.broken.store(false, Ordering::Release);
            self.isr.store(0, Ordering::Release);
            *common = Common::new(&*self.device);
            return;
        }
        if status & FEATURES_OK != 0 {
            let unknown = common.driver_features & !self.features();
            let version_1 = common.driver_features & F_VERSION_1 != 0;
            if unknown != 0 || !version_1 || !self.device.accepts(common.driver_features) {
                status &= !FEATURES_OK;
            }
        }
        common.status = status & !NEEDS_RESET;
        let ready = status & (FEATURES_OK | DRIVER_OK) == FEATURES_OK | DRIVER_OK;
        if !ready || common.active {
            return;
        }
        common.active = true;
        let features = common.driver_features;
        let interrupt = |vector| Interrupt { msix: self.msix.clone(), vector };
        let config_vector = common.config_vector;
        let changed = || Changed { isr: self.isr.clone(), interrupt: interrupt(config_vector) };
        let failure = Failure { broken: self.broken.clone(), changed: changed() };
        let mut queues = Vec::new();
        let mut interrupts = Vec::new();
        for (index, (setup, vector)) in common.queues.iter().enumerate() {
            let is_left_out = !setup.is_ready && self.device.may_lack(index);
            let queue = if is_left_out {
                Queue::absent(setup.most)
            } else {
                Queue::new(*setup, features, &self.memory)
            };
            let Ok(queue) = queue else { return failure.report() };
            queues.push(queue);
            interrupts.push(interrupt(*vector));
        }
        let (memory, changed) = (self.memory.clone(), changed());
        let activation = Activation { features, queues, interrupts, changed, memory, failure };
        self.device.activate(activation);
    }
}

impl Access for Structures {
    fn read(&self, offset: u64, data: &mut [u8]) {
        self.accesses.fetch_add(1, Ordering::Relaxed);
        let (part, at) = (offset / PART_SIZE * PART_SIZE, offset % PART_SIZE);
        match part {
            COMMON => {
                let bytes = self.read_common(at).to_le_bytes();
                data.iter_mut().zip(bytes).for_each(|(to, from)| *to = from);
            }
            STATUS if at == 0 => {
                data.fill(0);
                if let Some(status) = data.first_mut() {
                    *status = self.isr.swap(0, Ordering::AcqRel);
                }
            }
            DEVICE => self.device.read_config(at, data),
            MSIX_TABLE => crate::lock(&self.msix).read_table(at as usize, data),
            MSIX_PENDING => crate::lock(&self.msix).read_pending(at as usize, data),
            _ => data.fill(0),
        }
    }

    fn write(&self, offset: u64, data: &[u8]) {
        self.accesses.fetch_add(1, Ordering::Relaxed);
        let (part, at) = (offset / PART_SIZE * PART_SIZE, offset % PART_SIZE);
        let mut bytes = [0; 8];
        let length = data.len().min(8);
        bytes[..length].copy_from_slice(&data[..length]);
        match part {
            COMMON => self.write_common(at, u64::from_le_bytes(bytes), length),
            DEVICE => self.device.write_config(at, data),
            NOTIFY => {
                if let Some(kick) = self.device.kick((at / NOTIFY_STEP) as u16) {
                    // A full counter means that it is kicked already.
                    let _ = kick.write(1);
                }
            }
            MSIX_TABLE => crate::lock(&self.msix).write_table(at as usize, data),
            _ => {}
        }
    }
}
