//! A passed-through PCI function.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use vfio_bindings::bindings::vfio::{VFIO_PCI_CONFIG_REGION_INDEX, VFIO_PCI_MSIX_IRQ_INDEX};

use super::container::{IoSpace, failed};
use super::filter::{Filter, MsixLayout, effective_command};
use super::region::{BarRegion, MsixPart};
use super::sys::{Device, RegionInfo};
use super::vectors::{Kind, VfioVectors};
use crate::bus::Bus;
use crate::error::{Error, Result};
use crate::machine::interrupts::Delivery;
use crate::machine::memory::Slots;
use crate::pci::bar::{Allocator, BAR_COUNT, BarChange, BarKind, Bars, Windows};
use crate::pci::config::touches;
use crate::pci::msix::{ENTRY_SIZE, Msix};
use crate::pci::register;
use crate::pci::root::PciFunction;
use crate::spec;
use crate::warnings::Warnings;

/// What a passed-through device needs of the machine.
pub struct Surroundings<'a> {
    /// Memory slots for its BARs.
    pub slots: &'a Arc<Slots>,
    /// Where trapped parts of its BARs answer.
    pub bus: &'a Arc<Bus>,
    /// Where its vectors go.
    pub interrupts: &'a Arc<dyn Delivery>,
    /// Where its BARs go at start.
    pub allocator: &'a mut Allocator,
}

/// A VFIO device as a function on the guest's bus.
pub struct VfioFunction {
    warnings: Arc<Warnings>,
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

        let warnings = Arc::new(Warnings::new(&address));
        let kind = Kind { device: device.clone(), index: VFIO_PCI_MSIX_IRQ_INDEX };
        let source = Box::new(VfioVectors::new(kind, interrupt, warnings.clone()));
        let interrupts = surroundings.interrupts.clone();
        let msix = Msix::new(layout.vectors, interrupts, source, warnings.clone());
        let msix = Arc::new(Mutex::new(msix));
        let mut bars = Bars::default();
        let mut memory = BTreeMap::new();
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
            if kind != BarKind::Io {
                memory.insert(index, info);
            }
        }
        check_msix(&layout, |bar| memory.get(&bar).map(|info| info.size)).map_err(unfit)?;
        let mut regions = BTreeMap::new();
        for (index, info) in memory {
            let part = msix_part(&layout, index);
            let shared =
                (part.table.is_some() || part.pending.is_some()).then(|| (msix.clone(), part));
            let region = BarRegion::new(
                warnings.clone(),
                device.clone(),
                info,
                shared,
                surroundings.slots.clone(),
                surroundings.bus.clone(),
            )?;
            regions.insert(index, region);
        }
        surroundings.allocator.place(&mut bars).map_err(unfit)?;
        let windows = surroundings.allocator.windows().clone();
        let state = Mutex::new(State { filter, bars });
        Ok(VfioFunction { warnings, device, config, msix, regions, windows, state, _space: space })
    }

    /// The command register as far as it decides where BARs decode, as it would be after a write
    /// of `data` at `offset`. None where the device does not answer.
    fn command_after(&self, filter: &Filter, offset: usize, data: &[u8]) -> Option<u16> {
        let register = |at: usize| {
            let mut bytes = [0; 2];
            self.device.read(self.config.offset + at as u64, &mut bytes).ok()?;
            for (at, &byte) in (offset..).zip(data).filter(|(to, _)| (at..at + 2).contains(to)) {
                bytes[at % 2] = byte;
            }
            Some(u16::from_le_bytes(bytes))
        };
        let power = filter.power_control().map(register);
        Some(effective_command(register(register::COMMAND)?, power.flatten()))
    }

    /// Shows and hides BARs as `command` and the BARs now say.
    fn update_bars(&self, state: &mut State, command: u16) {
        for change in state.bars.changes(command, &self.windows) {
            match change {
                BarChange::Hide { index, address } => {
                    if let Some(region) = self.regions.get(&index) {
                        region.hide(address);
                    }
                }
                BarChange::Show { index, address } => {
                    let Some(region) = self.regions.get(&index) else { continue };
                    match region.show(address) {
                        Ok(true) => continue,
                        Ok(false) => {}
                        Err(error) => self.warnings.say(format_args!("BAR {index}: {error}")),
                    }
                    state.bars.lost(index);
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
        state.bars.overlay(offset, data);
    }

    fn write_config(&self, offset: usize, data: &[u8]) {
        let mut state = crate::lock(&self.state);
        let state = &mut *state;
        let decides = |at: usize| touches(offset, data.len(), at..at + 2);
        let decoding =
            decides(register::COMMAND) || state.filter.power_control().is_some_and(decides);
        if decoding
            && let Some(command) = self.command_after(&state.filter, offset, data)
            && command & register::COMMAND_MEMORY == 0
        {
            // Before the device stops to answer, or another vCPU would fault on its mappings.
            self.update_bars(state, command);
        }
        for piece in state.filter.write(offset, data) {
            let at = offset + piece.start;
            if (offset + piece.end) as u64 <= self.config.size {
                // The kernel filters what it must; a write it refuses is lost, as on a real bus.
                let _ = self.device.write(self.config.offset + at as u64, &data[piece]);
            }
        }
        let moves = touches(offset, data.len(), register::BARS..register::BARS_END);
        if moves {
            state.bars.write(offset, data);
        }
        if (decoding || moves)
            && let Some(command) = self.command_after(&state.filter, 0, &[])
        {
            self.update_bars(state, command);
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

/// Refuses an MSI-X structure that is not within a memory BAR, of which `size_of` gives the size in
/// bytes, or lies over the other one.
fn check_msix(layout: &MsixLayout, size_of: impl Fn(usize) -> Option<u64>) -> Result<(), String> {
    let vectors = u64::from(layout.vectors);
    let check = |what: &str, (bar, offset): (usize, u64), length: u64| {
        let size = size_of(bar)
            .ok_or_else(|| format!("its MSI-X {what} is in BAR {bar}, which it does not have"))?;
        let end = offset.checked_add(length).filter(|&end| end <= size);
        end.ok_or_else(|| format!("its MSI-X {what} passes the end of BAR {bar}"))
    };
    let table_end = check("table", layout.table, vectors * ENTRY_SIZE as u64)?;
    let pending_end = check("pending bits", layout.pending, vectors.div_ceil(64) * 8)?;
    let ((bar, table), (other, pending)) = (layout.table, layout.pending);
    if bar == other && table < pending_end && pending < table_end {
        return Err("its MSI-X table and pending bits overlap".into());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn odd_msix_places_are_refused() {
        let size_of = |bar| (bar == 3).then_some(0x4000);
        let check = |table, pending| {
            let layout = MsixLayout { capability: 0x70, vectors: 65, table, pending };
            check_msix(&layout, size_of)
        };
        check((3, 0), (3, 0x2000)).unwrap();
        check((3, 0), (3, 65 * 16)).unwrap();
        check((3, 16), (3, 0)).unwrap();
        for (table, pending, reason) in [
            ((0, 0), (3, 0), "BAR 0, which it does not have"),
            ((7, 0), (3, 0), "BAR 7, which"),
            ((3, 0), (4, 0), "pending bits is in BAR 4"),
            ((3, 0x4000 - 64 * 16), (3, 0), "table passes the end of BAR 3"),
            ((3, 0), (3, 0x4000 - 8), "pending bits passes the end"),
            ((3, 0xffff_fff8), (3, 0), "passes the end"),
            ((3, 0), (3, 65 * 16 - 8), "overlap"),
            ((3, 8), (3, 0), "overlap"),
        ] {
            let error = check(table, pending).unwrap_err();
            assert!(error.contains(reason), "{error}");
        }
    }
}
