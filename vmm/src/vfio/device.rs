//! A passed-through PCI function.

use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Mutex};

use vfio_bindings::bindings::vfio::{VFIO_PCI_CONFIG_REGION_INDEX, VFIO_PCI_MSIX_IRQ_INDEX};
use vmm_sys_util::eventfd::EventFd;

use super::container::{IoSpace, failed};
use super::filter::{Filter, MsixLayout};
use super::region::{BarRegion, MsixPart};
use super::sys::{Device, InterruptInfo, RegionInfo};
use crate::bus::Bus;
use crate::error::{Error, Result};
use crate::machine::interrupts::Interrupts;
use crate::machine::memory::Slots;
use crate::pci::bar::{Allocator, BAR_COUNT, BarKind, Bars, Windows};
use crate::pci::config::touches;
use crate::pci::msix::{ENTRY_SIZE, Msix, Source};
use crate::pci::register;
use crate::pci::root::PciFunction;
use crate::spec;

/// What a passed-through device needs of the machine.
pub struct Surroundings<'a> {
    /// Memory slots for its BARs.
    pub slots: &'a Arc<Slots>,
    /// Where trapped parts of its BARs answer.
    pub bus: &'a Arc<Bus>,
    /// Where its vectors go.
    pub interrupts: &'a Arc<Interrupts>,
    /// Where its BARs go at start.
    pub allocator: &'a mut Allocator,
}

/// A VFIO device as a function on the guest's bus.
pub struct VfioFunction {
    address: String,
    device: Arc<Device>,
    config: RegionInfo,
    msix: Arc<Mutex<Msix>>,
    regions: BTreeMap<usize, BarRegion>,
    windows: Windows,
    state: Mutex<State>,
    // Keeps the groups open; dropped after the device, since the kernel insists on that order.
    _space: Arc<IoSpace>,
}

struct State {
    filter: Filter,
    bars: Bars,
}

impl VfioFunction {
    /// Opens, resets and describes the device.
    ///
    /// # Errors
    /// [`Error::Vfio`] or [`Error::Unfit`], naming the device.
    pub fn new(
        space: Arc<IoSpace>,
        spec: &spec::VfioDevice,
        surroundings: &mut Surroundings<'_>,
    ) -> Result<Self> {
        let address = spec.address.clone();
        let unfit = |reason: String| Error::Unfit { device: address.clone(), reason };
        let device = Arc::new(space.open(spec.group, &address)?);
        let (pci, resets) =
            device.is_pci_and_resets().map_err(failed(&address, "describe the device", ""))?;
        if !pci {
            return Err(unfit("it is not a PCI device".into()));
        }
        if resets {
            // Opening resets on most kernels, but none promises it.
            device.reset().map_err(failed(
                &address,
                "reset the device",
                "release it and check the host's log for its slot",
            ))?;
        }
        let config = device.region(VFIO_PCI_CONFIG_REGION_INDEX).map_err(failed(
            &address,
            "describe its configuration space",
            "",
        ))?;
        let mut bytes = vec![0; config.size.min(register::END as u64) as usize];
        device.read(config.offset, &mut bytes).map_err(failed(
            &address,
            "read its configuration space",
            "",
        ))?;
        let filter = Filter::new(&bytes).map_err(unfit)?;
        let layout = filter.msix().ok_or_else(|| {
            unfit("it has no MSI-X, and this version passes no other interrupts".into())
        })?;
        let interrupt = device.interrupt(VFIO_PCI_MSIX_IRQ_INDEX).map_err(failed(
            &address,
            "describe its interrupts",
            "",
        ))?;

        let source = Box::new(VfioVectors::new(device.clone(), interrupt));
        let msix = Msix::new(layout.vectors, surroundings.interrupts.clone(), source);
        let msix = Arc::new(Mutex::new(msix));
        let mut bars = Bars::default();
        let mut regions = BTreeMap::new();
        for index in 0..BAR_COUNT {
            let info =
                device.region(index as u32).map_err(failed(&address, "describe a BAR", ""))?;
            if info.size == 0 {
                continue;
            }
            let at = register::BARS + index * 4;
            let value = u32::from_le_bytes([0, 1, 2, 3].map(|byte| bytes[at + byte]));
            let kind = BarKind::from_register(value);
            bars.add(index, kind, info.size).map_err(unfit)?;
            if kind == BarKind::Io {
                continue;
            }
            let part = msix_part(&layout, index);
            if let Some((start, length)) = part.table
                && start.checked_add(length).is_none_or(|end| end > info.size)
            {
                return Err(unfit(format!("its MSI-X table passes the end of BAR {index}")));
            }
            let shared =
                (part.table.is_some() || part.pending.is_some()).then(|| (msix.clone(), part));
            let region = BarRegion::new(
                format!("{address} BAR {index}"),
                device.clone(),
                info,
                shared,
                surroundings.slots.clone(),
                surroundings.bus.clone(),
            )?;
            regions.insert(index, region);
        }
        if !regions.contains_key(&layout.table.0) {
            return Err(unfit("its MSI-X table is in a BAR it does not have".into()));
        }
        surroundings.allocator.place(&mut bars).map_err(unfit)?;
        let windows = surroundings.allocator.windows().clone();
        let state = Mutex::new(State { filter, bars });
        Ok(VfioFunction { address, device, config, msix, regions, windows, state, _space: space })
    }

    /// Shows and hides BARs as the command register and the BARs now say.
    fn update_bars(&self, state: &mut State) {
        let mut command = [0; 2];
        let at = self.config.offset + register::COMMAND as u64;
        if self.device.read(at, &mut command).is_err() {
            return;
        }
        for one in state.bars.moves(u16::from_le_bytes(command), &self.windows) {
            let Some(region) = self.regions.get(&one.index) else { continue };
            if let Some(from) = one.from {
                region.hide(from);
            }
            if let Some(to) = one.to {
                match region.show(to) {
                    Ok(true) => {}
                    Ok(false) => state.bars.lost(one.index),
                    Err(error) => {
                        eprintln!("assign-vmm: {}: BAR {}: {error}", self.address, one.index);
                        state.bars.lost(one.index);
                    }
                }
            }
        }
    }
}

impl PciFunction for VfioFunction {
    fn read_config(&self, offset: usize, data: &mut [u8]) {
        let state = crate::lock(&self.state);
        data.fill(0);
        let there = (offset + data.len()) as u64 <= self.config.size;
        if there
            && state.filter.reaches_device(offset, data.len())
            && self.device.read(self.config.offset + offset as u64, data).is_err()
        {
            data.fill(0xff);
        }
        state.filter.overlay(offset, data);
        for (at, byte) in (offset..).zip(data) {
            if (register::BARS..register::BARS_END).contains(&at) {
                let value = state.bars.register((at - register::BARS) / 4);
                *byte = value.to_le_bytes()[at % 4];
            }
        }
    }

    fn write_config(&self, offset: usize, data: &[u8]) {
        let mut state = crate::lock(&self.state);
        let passes = state.filter.write(offset, data);
        if passes && (offset + data.len()) as u64 <= self.config.size {
            // The kernel filters what it must; a write it refuses is lost, as on a real bus.
            let _ = self.device.write(self.config.offset + offset as u64, data);
        }
        if touches(offset, data.len(), register::BARS..register::BARS_END) {
            state.bars.write(offset, data);
            self.update_bars(&mut state);
        }
        if touches(offset, data.len(), register::COMMAND..register::COMMAND + 2) {
            self.update_bars(&mut state);
        }
        if let Some(control) = state.filter.msix_control(offset, data.len()) {
            crate::lock(&self.msix).set_control(control);
        }
    }
}

fn msix_part(layout: &MsixLayout, index: usize) -> MsixPart {
    let vectors = u64::from(layout.vectors);
    let part =
        |(bar, offset): (usize, u64), length: u64| (bar == index).then_some((offset, length));
    MsixPart {
        table: part(layout.table, vectors * ENTRY_SIZE as u64),
        pending: part(layout.pending, vectors.div_ceil(64) * 8),
    }
}

/// The device as the source of its vectors' signals.
struct VfioVectors {
    device: Arc<Device>,
    info: InterruptInfo,
    /// Events by vector; the kernel holds vectors up to its length.
    attached: Vec<Option<EventFd>>,
}

impl VfioVectors {
    fn new(device: Arc<Device>, info: InterruptInfo) -> Self {
        VfioVectors { device, info, attached: Vec::new() }
    }
}

impl Source for VfioVectors {
    fn attach(&mut self, number: u16, event: &EventFd) -> Result<()> {
        let trying = |source: io::Error| Error::System {
            action: "let the device signal an interrupt vector",
            source,
        };
        let number = usize::from(number);
        if number as u32 >= self.info.count {
            return Err(trying(io::Error::from(io::ErrorKind::InvalidInput)));
        }
        let grows = number >= self.attached.len();
        if grows {
            self.attached.resize_with(number + 1, || None);
        }
        self.attached[number] = Some(event.try_clone().map_err(trying)?);
        let index = VFIO_PCI_MSIX_IRQ_INDEX;
        if grows && !self.info.dynamic {
            // This kernel cannot add vectors to enabled ones: all anew, or nothing changes.
            self.device.disable_interrupts(index).map_err(trying)?;
            let events: Vec<_> = self.attached.iter().map(Option::as_ref).collect();
            return self.device.enable_interrupts(index, 0, &events).map_err(trying);
        }
        self.device.enable_interrupts(index, number as u32, &[Some(event)]).map_err(trying)
    }

    fn detach_all(&mut self) {
        if !self.attached.is_empty()
            && let Err(error) = self.device.disable_interrupts(VFIO_PCI_MSIX_IRQ_INDEX)
        {
            eprintln!("assign-vmm: cannot disable a device's interrupts: {error}");
        }
        self.attached.clear();
    }
}
