//! virtio over PCI (virtio 1.3, section 4.1): one BAR that holds the four structures and MSI-X.
//!
//! ```text
//! BAR 0   0x0000 common configuration   0x1000 interrupt status   0x2000 device configuration
//!         0x3000 notifications, 4 bytes a queue   0x4000 MSI-X table   0x5000 pending bits
//! ```

use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};

use kvm_ioctls::{IoEventAddress, NoDatamatch, VmFd};
use vmm_sys_util::eventfd::EventFd;

use super::VirtioDevice;
use super::structures::{
    BAR_SIZE, COMMON, COMMON_SIZE, DEVICE, MSIX_PENDING, MSIX_TABLE, NOTIFY, NOTIFY_STEP,
    PART_SIZE, STATUS, Structures,
};
use crate::bus::{Access, Bus};
use crate::error::{Error, Result, Trying};
use crate::machine::interrupts::Delivery;
use crate::machine::memory::GuestMemory;
use crate::pci::bar::{Allocator, BarChange, BarKind, Bars, Windows};
use crate::pci::config::{ConfigSpace, Identity, touches};
use crate::pci::msix::Msix;
use crate::pci::root::PciFunction;
use crate::pci::{capability, register};
use crate::spec::DeviceStats;
use crate::warnings::Warnings;

const VENDOR: u16 = 0x1af4;
const FIRST_MODERN_ID: u16 = 0x1040;

/// Structure types of the vendor capabilities (virtio 1.3, 4.1.4).
const CFG_COMMON: u8 = 1;
const CFG_NOTIFY: u8 = 2;
const CFG_STATUS: u8 = 3;
const CFG_DEVICE: u8 = 4;
const CFG_WINDOW: u8 = 5;

/// A virtio device as a function on the guest's bus.
pub struct VirtioFunction {
    window: usize,
    msix_capability: usize,
    state: Mutex<State>,
    windows: Windows,
    bar: Arc<Structures>,
    bus: Arc<Bus>,
    doorbells: Arc<dyn Doorbells>,
    warnings: Arc<Warnings>,
}

struct State {
    config: ConfigSpace,
    bars: Bars,
}

/// Turns a write at an address of the guest into a signal, without leaving the kernel.
pub trait Doorbells: Send + Sync {
    /// A write at `address` signals `event`.
    ///
    /// # Errors
    /// [`Error::Kvm`] where KVM refuses.
    fn connect(&self, event: &EventFd, address: u64) -> Result<()>;
    /// Ends that.
    ///
    /// # Errors
    /// [`Error::Kvm`] where it was not connected.
    fn disconnect(&self, event: &EventFd, address: u64) -> Result<()>;
}

impl Doorbells for VmFd {
    fn connect(&self, event: &EventFd, address: u64) -> Result<()> {
        self.register_ioevent(event, &IoEventAddress::Mmio(address), NoDatamatch)
            .kvm("tie a write to an event")
    }

    fn disconnect(&self, event: &EventFd, address: u64) -> Result<()> {
        self.unregister_ioevent(event, &IoEventAddress::Mmio(address), NoDatamatch)
            .kvm("untie a write from an event")
    }
}

/// What a virtio device needs of the machine.
pub struct Surroundings<'a> {
    /// For notifications that need no exit.
    pub doorbells: &'a Arc<dyn Doorbells>,
    /// Where its BAR answers.
    pub bus: &'a Arc<Bus>,
    /// Where its vectors go.
    pub interrupts: &'a Arc<dyn Delivery>,
    /// Where its BAR goes at start.
    pub allocator: &'a mut Allocator,
    /// Guest RAM.
    pub memory: &'a GuestMemory,
    /// Whether its driver may choose packed rings, where the device has them.
    pub packed_rings: bool,
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
        let warnings = Arc::new(Warnings::new(device.name()));
        let interrupts = surroundings.interrupts.clone();
        let msix = Msix::new(vectors, interrupts, device.source(), warnings.clone());
        let Surroundings { memory, packed_rings, .. } = &surroundings;
        let bar = Arc::new(Structures::new(device, msix, (*memory).clone(), *packed_rings));
        Ok(VirtioFunction {
            window,
            msix_capability,
            state: Mutex::new(State { config, bars }),
            windows: surroundings.allocator.windows().clone(),
            bar,
            bus: surroundings.bus.clone(),
            doorbells: surroundings.doorbells.clone(),
            warnings,
        })
    }

    fn update_bars(&self, state: &mut State) {
        for change in state.bars.changes(state.config.command(), &self.windows) {
            match change {
                BarChange::Hide { address, .. } => {
                    self.each_doorbell(address, |kick, at| self.doorbells.disconnect(kick, at));
                    self.bus.remove(address);
                }
                BarChange::Show { index, address } => {
                    if self.bus.insert(address, BAR_SIZE, self.bar.clone()).is_err() {
                        state.bars.lost(index);
                        continue;
                    }
                    self.each_doorbell(address, |kick, at| self.doorbells.connect(kick, at));
                }
            }
        }
    }

    /// Where the kernel cannot turn notifications into kicks, they arrive as ordinary writes, only
    /// slower.
    fn each_doorbell(&self, base: u64, change: impl Fn(&EventFd, u64) -> Result<()>) {
        for index in 0..self.bar.device.queue_sizes().len() as u16 {
            let Some(kick) = self.bar.device.kick(index) else { continue };
            let at = base + NOTIFY + u64::from(index) * NOTIFY_STEP;
            if let Err(error) = change(kick, at) {
                self.warnings.say(format_args!("queue {index}: {error}"));
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
        state.bars.overlay(offset, data);
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

    fn stats(&self, slot: usize) -> Option<DeviceStats> {
        let exits = self.bar.accesses.load(Ordering::Relaxed);
        let counted = self.bar.device.is_counted();
        let interrupts = counted.then(|| crate::lock(&self.bar.msix).raised());
        Some(DeviceStats { slot, host: None, exits, interrupts })
    }
}
