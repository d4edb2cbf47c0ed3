//! virtio over PCI (virtio 1.3, section 4.1): one BAR that holds the four structures and MSI-X.
//!
//! ```text
//! BAR 0   0x0000 common configuration   0x1000 interrupt status   0x2000 device configuration
//!         0x3000 notifications, 4 bytes a queue   0x4000 MSI-X table   0x5000 pending bits
//! ```

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use kvm_ioctls::{IoEventAddress, NoDatamatch, VmFd};
use virtio_queue::{Queue, QueueT};

use super::{Activation, F_VERSION_1, QueueInterrupt, VirtioDevice};
use crate::bus::{Access, Bus};
use crate::error::{Error, Result};
use crate::machine::interrupts::Interrupts;
use crate::machine::memory::GuestMemory;
use crate::pci::bar::{Allocator, BarKind, Bars, Windows};
use crate::pci::config::{ConfigSpace, Identity, touches};
use crate::pci::msix::{Emulated, Msix};
use crate::pci::root::PciFunction;
use crate::pci::{capability, register};

const VENDOR: u16 = 0x1af4;
const FIRST_MODERN_ID: u16 = 0x1040;

const BAR_SIZE: u64 = 0x8000;
const COMMON: u64 = 0;
const COMMON_SIZE: u64 = 0x3c;
const STATUS: u64 = 0x1000;
const DEVICE: u64 = 0x2000;
const NOTIFY: u64 = 0x3000;
const NOTIFY_STEP: u64 = 4;
const MSIX_TABLE: u64 = 0x4000;
const MSIX_PENDING: u64 = 0x5000;
const PART_SIZE: u64 = 0x1000;

/// Structure types of the vendor capabilities (virtio 1.3, 4.1.4).
const CFG_COMMON: u8 = 1;
const CFG_NOTIFY: u8 = 2;
const CFG_STATUS: u8 = 3;
const CFG_DEVICE: u8 = 4;
const CFG_WINDOW: u8 = 5;

/// Device status bits (virtio 1.3, 2.1).
const DRIVER_OK: u8 = 4;
const FEATURES_OK: u8 = 8;
const NEEDS_RESET: u8 = 64;

/// "No vector" (virtio 1.3, 4.1.5.1.2).
const NO_VECTOR: u16 = 0xffff;

/// A virtio device as a function on the guest's bus.
pub struct VirtioFunction {
    window: usize,
    msix_capability: usize,
    state: Mutex<State>,
    windows: Windows,
    bar: Arc<Structures>,
    bus: Arc<Bus>,
    vm: Arc<VmFd>,
}

struct State {
    config: ConfigSpace,
    bars: Bars,
}

/// What a virtio device needs of the machine.
pub struct Surroundings<'a> {
    /// For notifications that need no exit.
    pub vm: &'a Arc<VmFd>,
    /// Where its BAR answers.
    pub bus: &'a Arc<Bus>,
    /// Where its vectors go.
    pub interrupts: &'a Arc<Interrupts>,
    /// Where its BAR goes at start.
    pub allocator: &'a mut Allocator,
    /// Guest RAM.
    pub memory: &'a GuestMemory,
}

impl VirtioFunction {
    /// Puts `device` on the bus.
    ///
    /// # Errors
    /// [`Error::Spec`] where the PCI window is full.
    pub fn new(device: Arc<dyn VirtioDevice>, surroundings: Surroundings<'_>) -> Result<Self> {
        let mut config = ConfigSpace::new(Identity {
            vendor: VENDOR,
            device: FIRST_MODERN_ID + device.kind(),
            class: device.class(),
            revision: 1,
            subsystem: (VENDOR, FIRST_MODERN_ID + device.kind()),
        });
        for (kind, offset, length) in [
            (CFG_COMMON, COMMON, COMMON_SIZE),
            (CFG_STATUS, STATUS, 1),
            (CFG_DEVICE, DEVICE, PART_SIZE),
        ] {
            config.add_capability(capability::VENDOR, &structure(kind, offset, length, &[]), &[]);
        }
        let queues = device.queue_sizes().len() as u64;
        let step = (NOTIFY_STEP as u32).to_le_bytes();
        let notify = structure(CFG_NOTIFY, NOTIFY, queues * NOTIFY_STEP, &step);
        config.add_capability(capability::VENDOR, &notify, &[]);
        // Through the window a driver reaches the BAR by configuration accesses: it chooses BAR,
        // offset and length, and the data follows.
        let window = structure(CFG_WINDOW, 0, 0, &[0; 4]);
        let mut writable = vec![0; window.len()];
        writable[2] = 0xff;
        writable[6..14].fill(0xff);
        let window = config.add_capability(capability::VENDOR, &window, &writable);
        let vectors = queues as u16 + 1;
        let mut body = vec![];
        body.extend_from_slice(&(vectors - 1).to_le_bytes());
        body.extend_from_slice(&(MSIX_TABLE as u32).to_le_bytes());
        body.extend_from_slice(&(MSIX_PENDING as u32).to_le_bytes());
        let msix_capability = config.add_capability(capability::MSIX, &body, &[0, 0xc0]);

        let mut bars = Bars::default();
        bars.add(0, BarKind::Memory64 { prefetchable: false }, BAR_SIZE)
            .and_then(|()| surroundings.allocator.place(&mut bars))
            .map_err(Error::Spec)?;
        let msix = Msix::new(vectors, surroundings.interrupts.clone(), Box::new(Emulated));
        let bar = Arc::new(Structures {
            common: Mutex::new(Common::new(&*device)),
            device,
            msix: Arc::new(Mutex::new(msix)),
            memory: surroundings.memory.clone(),
            broken: Arc::default(),
        });
        Ok(VirtioFunction {
            window,
            msix_capability,
            state: Mutex::new(State { config, bars }),
            windows: surroundings.allocator.windows().clone(),
            bar,
            bus: surroundings.bus.clone(),
            vm: surroundings.vm.clone(),
        })
    }

    fn update_bars(&self, state: &mut State) {
        for one in state.bars.moves(state.config.command(), &self.windows) {
            if let Some(from) = one.from {
                self.connect_kicks(from, false);
                self.bus.remove(from);
            }
            if let Some(to) = one.to {
                if self.bus.insert(to, BAR_SIZE, self.bar.clone()).is_err() {
                    state.bars.lost(one.index);
                    continue;
                }
                self.connect_kicks(to, true);
            }
        }
    }

    /// Lets the kernel turn notifications into kicks, or ends that. Where it cannot, they arrive
    /// as ordinary writes, only slower.
    fn connect_kicks(&self, base: u64, connect: bool) {
        for index in 0..self.bar.device.queue_sizes().len() as u16 {
            let Some(kick) = self.bar.device.kick(index) else { continue };
            let at = IoEventAddress::Mmio(base + NOTIFY + u64::from(index) * NOTIFY_STEP);
            let result = if connect {
                self.vm.register_ioevent(kick, &at, NoDatamatch)
            } else {
                self.vm.unregister_ioevent(kick, &at, NoDatamatch)
            };
            if let Err(error) = result {
                eprintln!("assign-vmm: virtio queue {index}: notifications: {error}");
            }
        }
    }

    /// The access that the window's fields ask for: offset into the BAR and length.
    fn window_access(&self, config: &ConfigSpace) -> Option<(u64, usize)> {
        let (bar, offset) = (config.u16(self.window + 4) & 0xff, config.u32(self.window + 8));
        let length = config.u32(self.window + 12);
        let fits = u64::from(offset) + u64::from(length) <= BAR_SIZE;
        (bar == 0 && fits && matches!(length, 1 | 2 | 4))
            .then_some((u64::from(offset), length as usize))
    }

    fn touches_window_data(&self, offset: usize, length: usize) -> bool {
        touches(offset, length, self.window + 16..self.window + 20)
    }
}

/// The body of a vendor capability (`struct virtio_pci_cap` after id and link).
fn structure(kind: u8, offset: u64, length: u64, extra: &[u8]) -> Vec<u8> {
    let mut body = vec![16 + extra.len() as u8, kind, 0, 0, 0, 0];
    body.extend_from_slice(&(offset as u32).to_le_bytes());
    body.extend_from_slice(&(length as u32).to_le_bytes());
    body.extend_from_slice(extra);
    body
}

impl PciFunction for VirtioFunction {
    fn read_config(&self, offset: usize, data: &mut [u8]) {
        let mut state = crate::lock(&self.state);
        if self.touches_window_data(offset, data.len())
            && let Some((at, length)) = self.window_access(&state.config)
        {
            let mut value = [0; 4];
            self.bar.read(at, &mut value[..length]);
            state.config.set(self.window + 16, &value);
        }
        state.config.read(offset, data);
        for (at, byte) in (offset..).zip(data) {
            if (register::BARS..register::BARS_END).contains(&at) {
                let value = state.bars.register((at - register::BARS) / 4);
                *byte = value.to_le_bytes()[at % 4];
            }
        }
    }

    fn write_config(&self, offset: usize, data: &[u8]) {
        let mut state = crate::lock(&self.state);
        state.config.write(offset, data);
        if touches(offset, data.len(), register::BARS..register::BARS_END) {
            state.bars.write(offset, data);
            self.update_bars(&mut state);
        }
        if touches(offset, data.len(), register::COMMAND..register::COMMAND + 2) {
            self.update_bars(&mut state);
        }
        let control = self.msix_capability + 2;
        if touches(offset, data.len(), control..control + 2) {
            let control = state.config.u16(control);
            crate::lock(&self.bar.msix).set_control(control);
        }
        if self.touches_window_data(offset, data.len())
            && let Some((at, length)) = self.window_access(&state.config)
            && length <= data.len()
            && offset == self.window + 16
        {
            self.bar.write(at, &data[..length]);
        }
    }
}

/// The common configuration as the driver sees it.
struct Common {
    device_select: u32,
    driver_select: u32,
    driver_features: u64,
    config_vector: u16,
    status: u8,
    queue_select: u16,
    queues: Vec<(Queue, u16)>,
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
            // A size that is no power of two is a mistake in a device of ours; it gets no queue.
            queues: queues
                .filter_map(|&size| Queue::new(size).ok())
                .map(|queue| (queue, NO_VECTOR))
                .collect(),
            active: false,
        }
    }

    fn selected(&mut self) -> Option<&mut (Queue, u16)> {
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
struct Structures {
    common: Mutex<Common>,
    device: Arc<dyn VirtioDevice>,
    msix: Arc<Mutex<Msix>>,
    memory: GuestMemory,
    broken: Arc<AtomicBool>,
}

impl Structures {
    fn features(&self) -> u64 {
        self.device.features() | F_VERSION_1
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
            0x16 => select.into(),
            0x18..=0x37 => {
                let Some((queue, vector)) = common.selected() else { return 0 };
                match offset {
                    0x18 => queue.size().into(),
                    0x1a => (*vector).into(),
                    0x1c => queue.ready().into(),
                    0x1e => select.into(),
                    0x20 => queue.desc_table(),
                    0x24 => queue.desc_table() >> 32,
                    0x28 => queue.avail_ring(),
                    0x2c => queue.avail_ring() >> 32,
                    0x30 => queue.used_ring(),
                    0x34 => queue.used_ring() >> 32,
                    _ => 0,
                }
            }
            _ => 0,
        }
    }

    fn write_common(&self, offset: u64, value: u64, length: usize) {
        let mut common = crate::lock(&self.common);
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
                    0x18 => queue.set_size(value as u16),
                    0x1a => *queue_vector = vector,
                    0x1c => queue.set_ready(value == 1),
                    0x20 => queue.set_desc_table_address(low, high),
                    0x24 => queue.set_desc_table_address(None, low),
                    0x28 => queue.set_avail_ring_address(low, high),
                    0x2c => queue.set_avail_ring_address(None, low),
                    0x30 => queue.set_used_ring_address(low, high),
                    0x34 => queue.set_used_ring_address(None, low),
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
            *common = Common::new(&*self.device);
            return;
        }
        if status & FEATURES_OK != 0 {
            let unknown = common.driver_features & !self.features();
            if unknown != 0 || common.driver_features & F_VERSION_1 == 0 {
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
        let mut queues = Vec::new();
        let mut interrupts = Vec::new();
        for (queue, vector) in &mut common.queues {
            queue.set_event_idx(features & super::F_EVENT_IDX != 0);
            if !queue.is_valid(&self.memory) {
                return super::set_broken(&self.broken);
            }
            // Only this state's bookkeeping is copied; the rings themselves are in guest memory.
            let Ok(copy) = Queue::try_from(queue.state()) else {
                return super::set_broken(&self.broken);
            };
            queues.push(copy);
            interrupts.push(QueueInterrupt { msix: self.msix.clone(), vector: *vector });
        }
        self.device.activate(Activation {
            features,
            queues,
            interrupts,
            memory: self.memory.clone(),
            broken: self.broken.clone(),
        });
    }
}

impl Access for Structures {
    fn read(&self, offset: u64, data: &mut [u8]) {
        let (part, at) = (offset / PART_SIZE * PART_SIZE, offset % PART_SIZE);
        match part {
            COMMON => {
                let bytes = self.read_common(at).to_le_bytes();
                data.iter_mut().zip(bytes).for_each(|(to, from)| *to = from);
            }
            DEVICE => self.device.read_config(at, data),
            MSIX_TABLE => crate::lock(&self.msix).read_table(at as usize, data),
            MSIX_PENDING => crate::lock(&self.msix).read_pending(at as usize, data),
            // Interrupt status is for INTx only, which this transport does not have.
            _ => data.fill(0),
        }
    }

    fn write(&self, offset: u64, data: &[u8]) {
        let (part, at) = (offset / PART_SIZE * PART_SIZE, offset % PART_SIZE);
        let mut bytes = [0; 8];
        let length = data.len().min(8);
        bytes[..length].copy_from_slice(&data[..length]);
        match part {
            COMMON => self.write_common(at, u64::from_le_bytes(bytes), length),
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
