//! A passed-through PCI function.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, Weak};

use vfio_bindings::bindings::vfio::{
    VFIO_PCI_CONFIG_REGION_INDEX, VFIO_PCI_INTX_IRQ_INDEX, VFIO_PCI_MSI_IRQ_INDEX,
    VFIO_PCI_MSIX_IRQ_INDEX, VFIO_PCI_ROM_REGION_INDEX,
};

use vmm_sys_util::eventfd::EventFd;

use super::dma::{IoSpace, failed};
use super::filter::{Filter, MsixLayout, effective_command};
use super::intx::Intx;
use super::region::{BarRegion, MsixPart};
use super::rom::RomRegion;
use super::sys::{Device, RegionInfo, Traits};
use super::vectors::{Kind, VfioVectors};
use crate::bus::Bus;
use crate::error::{Error, Result};
use crate::machine::interrupts::{Delivery, Lines, pin_of_slot};
use crate::machine::latch::Latch;
use crate::machine::memory::Slots;
use crate::pci::bar::{Allocator, BAR_COUNT, BarChange, BarKind, Bars, ROM_INDEX, Windows};
use crate::pci::config::touches;
use crate::pci::msi::Msi;
use crate::pci::msix::{self, ENTRY_SIZE, Msix};
use crate::pci::register;
use crate::pci::root::PciFunction;
use crate::spec::{self, DeviceStats, Phase};
use crate::timeline::Timeline;
use crate::warnings::Warnings;

/// What a passed-through device needs of the machine.
pub struct Surroundings<'a> {
    /// Memory slots for its BARs.
    pub slots: &'a Arc<Slots>,
    /// Where trapped parts of its memory BARs answer.
    pub bus: &'a Arc<Bus>,
    /// Where its I/O BARs answer.
    pub ports: &'a Arc<Bus>,
    /// Where its vectors go.
    pub interrupts: &'a Arc<dyn Delivery>,
    /// Where its interrupt line goes.
    pub lines: &'a Arc<dyn Lines>,
    /// Where its BARs may decode.
    pub windows: &'a Windows,
    /// Opens when the device can reach guest memory.
    pub pinned: &'a Arc<Latch>,
    /// Takes note of a vCPU that waits for that.
    pub timeline: &'a Arc<Timeline>,
    /// The slot it is going to have.
    pub slot: usize,
}

/// A VFIO device as a function on the guest's bus.
pub struct VfioFunction {
    address: String,
    warnings: Arc<Warnings>,
    device: Arc<Device>,
    config: RegionInfo,
    msix: Option<Arc<Mutex<Msix>>>,
    regions: BTreeMap<usize, BarRegion>,
    rom: Option<RomRegion>,
    windows: Windows,
    state: Mutex<State>,
    pinned: Arc<Latch>,
    timeline: Arc<Timeline>,
    // Where the device reaches memory; it leaves that by itself.
    _space: Arc<IoSpace>,
}

struct State {
    filter: Filter,
    bars: Bars,
    msi: Option<Msi>,
    line: Option<Intx<Arc<Device>>>,
    /// The guest has enabled these.
    messages: Messages,
    /// It is taken away.
    gone: bool,
}

/// Kinds of messages that a guest has enabled; while there is one, the line is silent.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Messages {
    msi: bool,
    msix: bool,
}

impl Messages {
    fn any(self) -> bool {
        self.msi || self.msix
    }
}

impl VfioFunction {
    /// Describes the device, which was just opened in `space`.
    ///
    /// # Errors
    /// [`Error::Vfio`] or [`Error::Unfit`], naming the device.
    pub fn new(
        space: Arc<IoSpace>,
        device: Device,
        spec: &spec::VfioDevice,
        surroundings: &Surroundings<'_>,
    ) -> Result<Self> {
        let address = spec.address.clone();
        let unfit = |reason: String| Error::Unfit { device: address.clone(), reason };
        let device = Arc::new(device);
        // It is not reset once more, for another 100 ms: opening does that, fails where a reset is
        // in another's way, and has the kernel announce resets only where this one worked (Linux
        // drivers/vfio/pci/vfio_pci_core.c, `vfio_pci_core_enable`, which every driver of PCI
        // devices for VFIO calls).
        let traits = device.describe().map_err(failed(&address, "describe the device", ""))?;
        check_traits(traits, spec.resettable).map_err(unfit)?;
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
        let mut filter = Filter::new(&bytes).map_err(unfit)?;
        let warnings = Arc::new(Warnings::new(&address));
        let describe = |index: u32| {
            let described = device.interrupt(index);
            described.map_err(failed(&address, "describe its interrupts", ""))
        };
        let source = |index: u32| {
            let kind = Kind { device: device.clone(), index };
            Ok(Box::new(VfioVectors::new(kind, describe(index)?, warnings.clone())))
        };
        let interrupts = surroundings.interrupts;
        let layout = filter.msix();
        let msix = match layout {
            Some(layout) => {
                let source = source(VFIO_PCI_MSIX_IRQ_INDEX)?;
                let table = Msix::new(layout.vectors, interrupts.clone(), source, warnings.clone());
                Some(Arc::new(Mutex::new(table)))
            }
            None => None,
        };
        let msi = match filter.msi() {
            Some(layout) => {
                let source = source(VFIO_PCI_MSI_IRQ_INDEX)?;
                Some(Msi::new(layout, interrupts.clone(), source, warnings.clone()))
            }
            None => None,
        };
        let has_line = describe(VFIO_PCI_INTX_IRQ_INDEX)?.count > 0;
        let line = match has_line {
            true => {
                let pin = pin_of_slot(surroundings.slot);
                let mut line = Intx::new(device.clone(), surroundings.lines.clone(), pin)?;
                match line.turn_on() {
                    Ok(()) => {
                        filter.show_pin();
                        Some(line)
                    }
                    // Messages are better anyway.
                    Err(_) if msi.is_some() || msix.is_some() => None,
                    Err(error) => {
                        return Err(unfit(format!(
                            "{error}, and it has no other interrupts. Its host interrupt may be \
                             shared with another device: put the card into another slot"
                        )));
                    }
                }
            }
            false => None,
        };
        let mut bars = Bars::default();
        let (mut memory, mut ports) = (BTreeMap::new(), BTreeMap::new());
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
            match kind {
                // Whatever is said of it: a mapping at a port's number would lie in guest RAM.
                BarKind::Io => ports.insert(index, RegionInfo { mappable: Vec::new(), ..info }),
                _ => memory.insert(index, info),
            };
        }
        let rom = device.region(VFIO_PCI_ROM_REGION_INDEX);
        let rom = rom.map_err(failed(&address, "describe its ROM", ""))?;
        // A guest can do without one that cannot be shown.
        let rom = bars
            .add(ROM_INDEX, BarKind::Rom, rom.size)
            .is_ok()
            .then(|| RomRegion::new(device.clone(), rom, surroundings.bus.clone()));
        if let Some(layout) = &layout {
            check_msix(layout, |bar| memory.get(&bar).map(|info| info.size)).map_err(unfit)?;
        }
        let mut regions = BTreeMap::new();
        let buses = [(memory, surroundings.bus), (ports, surroundings.ports)];
        for (index, info, bus) in buses
            .into_iter()
            .flat_map(|(bars, bus)| bars.into_iter().map(move |(i, r)| (i, r, bus)))
        {
            let part = layout.as_ref().map(|layout| msix_part(layout, index));
            let part = part.filter(|part| part.table.is_some() || part.pending.is_some());
            let region = BarRegion::new(
                warnings.clone(),
                device.clone(),
                info,
                msix.clone().zip(part),
                surroundings.slots.clone(),
                bus.clone(),
                space.peers(),
            );
            regions.insert(index, region);
        }
        let windows = surroundings.windows.clone();
        let messages = Messages::default();
        let state = Mutex::new(State { filter, bars, msi, line, messages, gone: false });
        let (pinned, timeline) = (surroundings.pinned.clone(), surroundings.timeline.clone());
        Ok(VfioFunction {
            address,
            warnings,
            device,
            config,
            msix,
            regions,
            rom,
            windows,
            state,
            pinned,
            timeline,
            _space: space,
        })
    }

    /// Its address on the host.
    pub fn address(&self) -> &str {
        &self.address
    }

    /// Gives its BARs places, as firmware would at start, and shows those that decode already: a VF's
    /// memory always does (Linux drivers/vfio/pci/vfio_pci_config.c, `vfio_config_init`), and a guest
    /// that finds it so need not say it. Without, they have none until the guest gives them some.
    ///
    /// # Errors
    /// [`Error::Unfit`] where the guest's PCI window is full.
    pub fn place(&self, allocator: &mut Allocator) -> Result<()> {
        let mut state = crate::lock(&self.state);
        let placed = allocator.place(&mut state.bars);
        placed.map_err(|reason| Error::Unfit { device: self.address.clone(), reason })?;
        if let Some(command) = self.command_after(&state.filter, 0, &[]) {
            self.update_bars(&mut state, command);
        }
        Ok(())
    }

    /// Takes it from the guest: its BARs first, then its interrupts, each cut off before the device is
    /// silenced. It must be off its bus; what the guest still does with it fails as if nothing were
    /// there.
    pub fn shut_down(&self) {
        let mut state = crate::lock(&self.state);
        let state = &mut *state;
        state.gone = true;
        self.update_bars(state, 0);
        if let Some(msix) = &self.msix {
            crate::lock(msix).set_control(0);
        }
        // Turned off as it goes, as is the line.
        state.msi = None;
        if let Some(mut line) = state.line.take() {
            self.warn(line.turn_off());
        }
    }

    /// Has the kernel signal `event` for the notice with this index. False where it has none such.
    pub fn notify(&self, index: u32, event: &EventFd) -> bool {
        let described = self.device.interrupt(index);
        if !described.is_ok_and(|info| info.count > 0) {
            return false;
        }
        let enabled = self.device.enable_interrupts(index, 0, &[Some(event)]);
        enabled.inspect_err(|error| self.warnings.say(error)).is_ok()
    }

    /// The device, for as long as it is open, and no longer.
    pub fn device(&self) -> Weak<Device> {
        Arc::downgrade(&self.device)
    }

    /// Waits until the device reaches guest memory; false where it never will.
    fn wait_for_memory(&self) -> bool {
        self.pinned.hold(&self.timeline, Phase::HoldBusMaster, Some(&self.address))
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

    /// Does what the guest's write of `length` bytes at `offset` says about interrupts. Only one kind
    /// at a time: the line goes silent before messages begin, and speaks again when they end.
    fn update_interrupts(&self, state: &mut State, offset: usize, length: usize) {
        let control = state.filter.msix_control(offset, length);
        let registers = state.filter.msi_registers(offset, length);
        if control.is_none() && registers.is_none() {
            return;
        }
        let mut wanted = state.messages;
        if let Some(control) = control {
            wanted.msix = control & msix::CONTROL_ENABLE != 0;
        }
        if let Some(registers) = registers {
            wanted.msi = Msi::enables(registers);
        }
        let before = std::mem::replace(&mut state.messages, wanted);
        if let (Some(line), false, true) = (&mut state.line, before.any(), wanted.any()) {
            self.warn(line.turn_off());
        }
        if let (Some(msix), Some(control)) = (&self.msix, control) {
            crate::lock(msix).set_control(control);
        }
        if let (Some(msi), Some(registers)) = (&mut state.msi, registers) {
            msi.set(registers);
        }
        if let (Some(line), true, false) = (&mut state.line, before.any(), wanted.any()) {
            self.warn(line.turn_on());
        }
    }

    fn warn(&self, result: Result<()>) {
        if let Err(error) = result {
            self.warnings.say(error);
        }
    }

    /// Lays the pending bits of MSI over what is read at `offset`.
    fn overlay_pending(&self, state: &State, offset: usize, data: &mut [u8]) {
        let Some(msi) = &state.msi else { return };
        let Some(range) = msi.layout().pending() else { return };
        let start = msi.layout().capability + range.start;
        if touches(offset, data.len(), start..start + 4) {
            let pending = msi.pending().to_le_bytes();
            for (at, byte) in (offset..).zip(data) {
                if let Some(bits) = at.checked_sub(start).and_then(|at| pending.get(at)) {
                    *byte = *bits;
                }
            }
        }
    }

    /// Shows and hides BARs as `command` and the BARs now say.
    fn update_bars(&self, state: &mut State, command: u16) {
        for change in state.bars.changes(command, &self.windows) {
            match change {
                BarChange::Hide { index: ROM_INDEX, address } => {
                    self.rom.iter().for_each(|rom| rom.hide(address));
                }
                BarChange::Show { index: ROM_INDEX, address } => {
                    if !self.rom.as_ref().is_some_and(|rom| rom.show(address)) {
                        state.bars.lost(ROM_INDEX);
                    }
                }
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
        if state.gone {
            return data.fill(0xff);
        }
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
        self.overlay_pending(&state, offset, data);
    }

    fn write_config(&self, offset: usize, data: &[u8]) {
        // The vCPU is held here until there is memory for the device to reach. Where there will be
        // none the machine stops, and the device never gets the write.
        if makes_master(offset, data) && !self.wait_for_memory() {
            return;
        }
        let mut state = crate::lock(&self.state);
        let state = &mut *state;
        if state.gone {
            return;
        }
        let decides = |at: usize| touches(offset, data.len(), at..at + 2);
        let decoding =
            decides(register::COMMAND) || state.filter.power_control().is_some_and(decides);
        if decoding
            && let Some(before) = self.command_after(&state.filter, 0, &[])
            && let Some(command) = self.command_after(&state.filter, offset, data)
        {
            // What ends is hidden before the device stops to answer, or another vCPU would fault on
            // its mappings.
            self.update_bars(state, before & command);
        }
        for piece in state.filter.write(offset, data) {
            let at = offset + piece.start;
            if (offset + piece.end) as u64 <= self.config.size {
                // The kernel filters what it must; a write it refuses is lost, as on a real bus.
                let _ = self.device.write(self.config.offset + at as u64, &data[piece]);
            }
        }
        let moves = Bars::touches(offset, data.len());
        if moves {
            state.bars.write(offset, data);
        }
        if (decoding || moves)
            && let Some(command) = self.command_after(&state.filter, 0, &[])
        {
            self.update_bars(state, command);
        }
        self.update_interrupts(state, offset, data.len());
    }

    fn stats(&self, slot: usize) -> Option<DeviceStats> {
        let exits = self.regions.values().map(BarRegion::accesses).sum();
        Some(DeviceStats { slot, host: Some(self.address.clone()), exits, interrupts: None })
    }
}

/// Whether a write lets the device reach memory by itself, as a bus master (PCI 3.0, 6.2.2).
fn makes_master(offset: usize, data: &[u8]) -> bool {
    let command = register::COMMAND.checked_sub(offset).and_then(|at| data.get(at));
    command.is_some_and(|&low| u16::from(low) & register::COMMAND_MASTER != 0)
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

/// Refuses what is no PCI device, and one of which the host knows a way to reset it, and which yet
/// has not been: it is broken, and holds what its last user left.
fn check_traits(traits: Traits, resettable: bool) -> Result<(), String> {
    if !traits.is_pci {
        return Err("it is not a PCI device".into());
    }
    if resettable && !traits.resets {
        return Err(
            "its reset failed, so what its last user left may still be in it. The kernel's \
                    log may say why; making a VF anew, or powering the card off and on, helps"
                .into(),
        );
    }
    Ok(())
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
    use crate::bus::Access;
    use crate::vfio::simulated::{Description, Endpoint, WINDOWS, World};

    const KIB: u64 = 1 << 10;

    /// A device with these BARs, by their registers and sizes in bytes. All can be mapped.
    fn endpoint(world: &World, command: u16, bars: &[(u32, u64)]) -> Arc<Endpoint> {
        let mut description =
            Description { config: vec![0; register::EXTENDED], ..Description::default() };
        description.config[register::ID] = 0x86;
        description.config[register::COMMAND..][..2].copy_from_slice(&command.to_le_bytes());
        for (index, (value, size)) in bars.iter().enumerate() {
            let at = register::BARS + index * 4;
            description.config[at..at + 4].copy_from_slice(&value.to_le_bytes());
            description.bars[index] = *size;
            description.mappable[index] = Some(Vec::new());
        }
        Endpoint::new(&world.host, description).unwrap()
    }

    /// Where the guest's CPUs reach devices.
    fn shown(world: &World) -> Vec<u64> {
        let mut places: Vec<_> = world.host.slots().iter().map(|slot| slot.guest).collect();
        places.sort_unstable();
        places
    }

    fn write(world: &World, slot: usize, register: usize, value: u32) {
        world.root.write((slot << 15 | register) as u64, &value.to_le_bytes());
    }

    #[test]
    fn ports_are_never_mapped_into_memory() {
        let world = World::new(true);
        let endpoint = endpoint(&world, 0, &[(1, 16 * KIB)]);
        let (_function, slot) = world.pass_through(&endpoint).unwrap();
        write(&world, slot, register::BARS, 0xc001);
        write(&world, slot, register::COMMAND, register::COMMAND_IO.into());
        assert!(shown(&world).is_empty());
        let mut data = [0xee; 4];
        world.ports.read(0xc000, &mut data);
        assert_eq!(data, [0; 4], "the device answers at its ports");
    }

    #[test]
    fn what_decodes_from_the_beginning_is_shown_when_it_has_a_place() {
        let world = World::new(false);
        let endpoint = endpoint(&world, register::COMMAND_MEMORY, &[(0, 16 * KIB)]);
        let (function, _) = world.pass_through(&endpoint).unwrap();
        assert!(shown(&world).is_empty());
        function.place(&mut Allocator::new(WINDOWS)).unwrap();
        assert_eq!(shown(&world), [WINDOWS.low.start]);
        function.shut_down();
        assert!(shown(&world).is_empty());
    }

    #[test]
    fn a_rom_is_shown_as_it_is_and_cannot_be_written() {
        let world = World::new(false);
        let description = Description {
            config: endpoint(&world, 0, &[]).description().config.clone(),
            rom: 4 * KIB,
            ..Description::default()
        };
        let endpoint = Endpoint::new(&world.host, description).unwrap();
        endpoint.write_rom(4 * KIB - 2, b"OM").unwrap();
        let (function, slot) = world.pass_through(&endpoint).unwrap();
        function.place(&mut Allocator::new(WINDOWS)).unwrap();
        let place = WINDOWS.low.start;
        let last = || {
            let mut data = [0; 2];
            world.memory.read(place + 4 * KIB - 2, &mut data);
            data
        };
        write(&world, slot, register::COMMAND, register::COMMAND_MEMORY.into());
        assert_eq!(last(), [0xff; 2], "it is off");
        write(&world, slot, register::ROM, place as u32 | 1);
        assert_eq!(&last(), b"OM");
        world.memory.write(place + 4 * KIB - 2, b"xx");
        assert_eq!(&last(), b"OM");
        write(&world, slot, register::COMMAND, 0);
        assert_eq!(last(), [0xff; 2]);
        write(&world, slot, register::COMMAND, register::COMMAND_MEMORY.into());
        function.shut_down();
        assert_eq!(last(), [0xff; 2], "it is gone with its device");
    }

    #[test]
    fn a_place_is_taken_when_another_device_has_left_it() {
        let world = World::new(false);
        let [first, second] = [(); 2].map(|()| endpoint(&world, 0, &[(0, 4 * KIB)]));
        let (_first, one) = world.pass_through(&first).unwrap();
        let (_second, two) = world.pass_through(&second).unwrap();
        let (place, elsewhere) = (0xc000_0000, 0xc100_0000);
        for slot in [one, two] {
            write(&world, slot, register::BARS, place);
            write(&world, slot, register::COMMAND, register::COMMAND_MEMORY.into());
        }
        assert_eq!(shown(&world), [u64::from(place)], "the second one has lost it");
        write(&world, one, register::BARS, elsewhere);
        write(&world, two, register::COMMAND, register::COMMAND_MEMORY.into());
        assert_eq!(shown(&world), [place, elsewhere].map(u64::from));
    }

    #[test]
    fn a_device_whose_reset_failed_is_not_used() {
        let traits = |is_pci, resets| Traits { is_pci, resets };
        assert_eq!(check_traits(traits(true, true), true), Ok(()));
        // One that nobody can reset is its launcher's decision.
        assert_eq!(check_traits(traits(true, false), false), Ok(()));
        assert!(check_traits(traits(true, false), true).unwrap_err().contains("reset failed"));
        assert!(check_traits(traits(false, true), true).unwrap_err().contains("not a PCI"));
    }

    #[test]
    fn only_a_write_of_the_bit_itself_makes_a_master() {
        let all = [0xff; 4];
        assert!(makes_master(4, &[4]) && makes_master(4, &[6, 0]) && makes_master(4, &all));
        // No vCPU makes such an access to configuration space, and were it to, it would count.
        assert!(makes_master(2, &[0, 0, 4, 0]));
        assert!(!makes_master(4, &[0xfb, 0xff, 0xff, 0xff]));
        assert!(!makes_master(5, &all) && !makes_master(0, &all) && !makes_master(6, &all));
        assert!(!makes_master(4, &[]));
    }

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
