//! A guest and a device that it was given, both hostile, and a host on which calls fail. The fuzzer
//! calls this, and so does a test of the crate `assign-vmm` with all seeds and the corpus, which is why
//! this file is part of both.
//!
//! The bytes are, in this order, zero where they end:
//! ```text
//! flags         1 devices reach each other · 2 RAM cannot be pinned · 4 BARs are not placed
//!               8 there are two of it · 16 only 256 bytes of configuration space
//!               32 vectors can be added · 64 its line is shared · 128 few vectors are granted
//! base          its configuration space: 0 nothing, or one that was recorded
//! fails         if not 0, one less than the calls that succeed before one fails
//! granted       vectors
//! BARs          six, each: bits 0 to 5 binary logarithm of the size, 0 none · 64 mappable ·
//!               128 only two parts of it, where four 16-bit numbers follow: how far from what is
//!               before and how long, twice, in units of 256 bytes
//! interrupts    three counts, 255 what the configuration space says
//! changes       how many, each: 16-bit offset in the configuration space, 32-bit value
//! actions       until the end, each: what and whose (see `act`), then its operands
//! ```
//! What must hold whatever they do is in the simulated machine, and in `check`.

use std::collections::BTreeSet;
use std::ops::Range;
use std::sync::Arc;

use vmm::bus::Access;
use vmm::pci::bar::{Allocator, BarKind, ROM_INDEX};
use vmm::pci::register;
use vmm::pci::root::PciFunction;
use vmm::vfio::device::VfioFunction;
use vmm::vfio::simulated::{Description, Endpoint, Shown, WINDOWS, World};

use crate::input::Input;

/// Configuration spaces of devices of the lab's host.
const RECORDED: [&[u8]; 6] = [
    include_bytes!("../seeds/config_space/igb"),
    include_bytes!("../seeds/config_space/igb-vf"),
    include_bytes!("../seeds/config_space/e1000e"),
    include_bytes!("../seeds/config_space/nvme"),
    include_bytes!("../seeds/config_space/ahci"),
    include_bytes!("../seeds/config_space/virtio-net"),
];
const PAGE: u64 = 4096;
/// Actions beyond these tell nothing new, and take time.
const MOST_ACTIONS: usize = 96;
/// Capabilities that a guest may see: power management, MSI, vendor-specific, PCI Express, MSI-X.
const SHOWN: [u8; 5] = [0x01, MSI, 0x09, 0x10, MSIX];
const MSI: u8 = 0x05;
const MSIX: u8 = 0x11;
/// Extended ones: error reporting, serial number, vendor-specific of both kinds.
const SHOWN_EXTENDED: [u16; 4] = [0x0001, 0x0003, 0x000b, 0x0023];

/// Any bytes.
pub fn passthrough(bytes: &[u8]) {
    let mut input = Input(bytes);
    let flags = input.byte();
    let (description, fails) = describe(flags, &mut input);
    let world = World::new(flags & 1 != 0);
    match flags & 2 {
        0 => world.pinned.open(),
        _ => world.pinned.give_up(),
    }
    if let Some(calls) = fails.checked_sub(1) {
        world.host.fail_after(calls.into());
    }
    let count = if flags & 8 == 0 { 1 } else { 2 };
    let mut allocator = Allocator::new(WINDOWS);
    let mut machine = Machine { devices: Vec::new(), verified: BTreeSet::new(), world };
    for _ in 0..count {
        let endpoint = Endpoint::new(&machine.world.host, description.clone()).expect("a file");
        let Ok((function, slot)) = machine.world.pass_through(&endpoint) else { continue };
        let mut device = Passed::new(&machine.world, endpoint, function.clone(), slot);
        if flags & 2 != 0 {
            device.endpoint.guard_command(register::COMMAND_MASTER);
        }
        if flags & 4 == 0 && function.place(&mut allocator).is_ok() {
            device.settle(&machine.world);
        }
        machine.devices.push(device);
        machine.check(Some(machine.devices.len() - 1));
    }
    for _ in 0..MOST_ACTIONS {
        if input.0.is_empty() {
            break;
        }
        let settled = machine.act(&mut input);
        machine.check(settled);
    }
    machine.end();
}

/// Offset of a BAR's register, or the ROM's.
fn register_of(index: usize) -> usize {
    if index == ROM_INDEX { register::ROM } else { register::BARS + index * 4 }
}

fn describe(flags: u8, input: &mut Input<'_>) -> (Description, u8) {
    let kind = input.byte();
    let base = usize::from(kind & 127) % (RECORDED.len() + 1);
    let (fails, granted) = (input.byte(), input.byte());
    let mut config = vec![0; if flags & 16 == 0 { register::END } else { register::EXTENDED }];
    let recorded = base.checked_sub(1).map(|base| RECORDED[base]).unwrap_or_default();
    for (byte, value) in config.iter_mut().zip(recorded) {
        *byte = *value;
    }
    if config[register::ID..][..2] == [0xff; 2] {
        // A VF has none; the kernel tells its PF's.
        config[register::ID..][..2].copy_from_slice(&[0x86, 0x80]);
    }
    let mut description = Description {
        dynamic: flags & 32 != 0,
        shared_line: flags & 64 != 0,
        rom: if kind & 128 != 0 { 16 << 10 } else { 0 },
        granted: (flags & 128 != 0).then_some(granted.into()),
        ..Description::default()
    };
    for bar in 0..description.bars.len() {
        let shape = input.byte();
        description.bars[bar] = if shape & 63 == 0 { 0 } else { 1 << (shape & 63) };
        if shape & 64 != 0 {
            let mut areas = Vec::new();
            let mut end = 0;
            for _ in 0..if shape & 128 == 0 { 0 } else { 2 } {
                let start = end + (u64::from(input.short()) << 8);
                let length = u64::from(input.short()) << 8;
                areas.push((start, length));
                end = start + length;
            }
            description.mappable[bar] = Some(areas);
        }
    }
    let counts: [u8; 3] = input.bytes();
    for _ in 0..input.byte() {
        let (offset, value) = (usize::from(input.short()), input.bytes::<4>());
        for (byte, value) in config.iter_mut().skip(offset % register::END).zip(value) {
            *byte = value;
        }
    }
    let read = |at: usize| config.get(at).copied().unwrap_or(0);
    let control = |wanted: u8| {
        let found = capabilities(read).into_iter().find(|(id, _)| *id == wanted);
        found.map(|(_, at)| u16::from_le_bytes([read(at + 2), read(at + 3)]))
    };
    let says = [
        u32::from(read(register::INTERRUPT + 1) != 0),
        control(MSI).map_or(0, |control| 1 << (control >> 1 & 7).min(5)),
        control(MSIX).map_or(0, |control| u32::from(control & 0x7ff) + 1),
    ];
    for (kind, count) in counts.into_iter().enumerate() {
        description.interrupts[kind] = if count == 255 { says[kind] } else { count.into() };
    }
    description.config = config;
    (description, fails)
}

/// Ids and offsets of the capabilities of a configuration space, as a guest finds them.
fn capabilities(read: impl Fn(usize) -> u8) -> Vec<(u8, usize)> {
    let mut found: Vec<(u8, usize)> = Vec::new();
    if u16::from(read(register::STATUS)) & register::STATUS_CAPABILITIES == 0 {
        return found;
    }
    let mut at = usize::from(read(register::CAPABILITIES) & !3);
    while at >= register::HEADER_END && !found.iter().any(|(_, other)| *other == at) {
        found.push((read(at), at));
        at = usize::from(read(at + 1) & !3);
    }
    found
}

/// The same of its extended capabilities.
fn extended(read: impl Fn(usize) -> u8) -> Vec<(u16, usize)> {
    let mut found: Vec<(u16, usize)> = Vec::new();
    let mut at = register::EXTENDED;
    while at >= register::EXTENDED && !found.iter().any(|(_, other)| *other == at) {
        let header = u32::from_le_bytes([0, 1, 2, 3].map(|byte| read(at + byte)));
        if header == 0 || header == u32::MAX {
            break;
        }
        found.push((header as u16, at));
        at = (header >> 20) as usize & !3;
    }
    found
}

/// Capabilities and extended ones: id and offset.
type Lists = (Vec<(u8, usize)>, Vec<(u16, usize)>);

/// A BAR as the device has it.
struct Bar {
    index: usize,
    kind: BarKind,
    size: u64,
}

/// A passed-through device.
struct Passed {
    endpoint: Arc<Endpoint>,
    function: Arc<VfioFunction>,
    slot: usize,
    gone: bool,
    bars: Vec<Bar>,
    /// What the guest sees of its lists.
    lists: Lists,
    /// The guest sees a pin.
    has_line: bool,
    /// The guest has had MSI and MSI-X on at the same time, and has one of them on still.
    is_mixed: bool,
    /// Where each of `bars` decodes, as of the last time that the guest decided it.
    decodes: Vec<Option<u64>>,
}

impl Passed {
    fn new(
        world: &World,
        endpoint: Arc<Endpoint>,
        function: Arc<VfioFunction>,
        slot: usize,
    ) -> Self {
        let description = endpoint.description();
        let config = &description.config;
        let rom = Bar { index: ROM_INDEX, kind: BarKind::Rom, size: description.rom };
        let bars: Vec<_> = (0..description.bars.len())
            .filter(|index| description.bars[*index] != 0)
            .map(|index| {
                let at = register_of(index);
                let value = u32::from_le_bytes([0, 1, 2, 3].map(|byte| config[at + byte]));
                Bar { index, kind: BarKind::from_register(value), size: description.bars[index] }
            })
            .chain((description.rom > 0).then_some(rom))
            .collect();
        let decodes = vec![None; bars.len()];
        let mut device = Passed {
            endpoint,
            function,
            slot,
            gone: false,
            bars,
            lists: Default::default(),
            has_line: false,
            is_mixed: false,
            decodes,
        };
        device.lists = device.lists(world);
        device.has_line = device.see(world, register::INTERRUPT + 1) == 1;
        device.guard(world);
        device
    }

    /// A byte of its configuration space as the guest sees it.
    fn see(&self, world: &World, offset: usize) -> u8 {
        let mut byte = [0];
        world.host.unfailing(|| world.root.read(self.ecam(offset), &mut byte));
        byte[0]
    }

    fn see_word(&self, world: &World, offset: usize) -> u32 {
        let mut word = [0; 4];
        world.host.unfailing(|| world.root.read(self.ecam(offset), &mut word));
        u32::from_le_bytes(word)
    }

    fn ecam(&self, offset: usize) -> u64 {
        (self.slot as u64) << 15 | offset as u64
    }

    fn lists(&self, world: &World) -> Lists {
        let see = |offset: usize| self.see(world, offset);
        (capabilities(see), extended(see))
    }

    fn capability(&self, wanted: u8) -> Option<usize> {
        self.lists.0.iter().find(|(id, _)| *id == wanted).map(|(_, at)| *at)
    }

    /// The MSI-X table and its pending bits: BAR and bytes.
    fn msix(&self, world: &World) -> Vec<(usize, Range<u64>)> {
        let Some(at) = self.capability(MSIX) else { return Vec::new() };
        let vectors = u64::from(self.see_word(world, at) >> 16 & 0x7ff) + 1;
        let part = |at: usize, length: u64| {
            let value = self.see_word(world, at);
            let start = u64::from(value & !7);
            (value as usize & 7, start..start + length)
        };
        vec![part(at + 4, vectors * 16), part(at + 8, vectors.div_ceil(64) * 8)]
    }

    /// Says what of the device nobody must reach.
    fn guard(&self, world: &World) {
        let endpoint = &self.endpoint;
        endpoint.guard_config(register::HEADER_TYPE..register::HEADER_TYPE + 1);
        endpoint.guard_config(register::BARS..register::BARS_END);
        endpoint.guard_config(register::ROM..register::CAPABILITIES + 1);
        endpoint.guard_config(register::INTERRUPT..register::INTERRUPT + 2);
        let own = |at: usize| endpoint.config::<1>(at)[0];
        let (shown, shown_extended) = &self.lists;
        let mut taken: Vec<Range<usize>> = Vec::new();
        for (id, at) in capabilities(own).into_iter().take(48) {
            let is_shown = shown.contains(&(id, at));
            let length = match id {
                MSIX => 12,
                MSI => match own(at + 3) & 1 | own(at + 2) >> 6 & 2 {
                    0 => 10,
                    1 => 20,
                    2 => 14,
                    _ => 24,
                },
                _ => 4,
            };
            let end = (at + length).min(register::EXTENDED);
            if taken.iter().any(|other| other.start < end && at < other.end) {
                assert!(!is_shown, "{id:#x} is shown at {at:#x}, within another");
                continue;
            }
            let emulated = match (is_shown, id) {
                (true, MSI | MSIX) => length,
                (true, _) => 2,
                (false, _) => 4,
            };
            taken.push(at..at + emulated);
            endpoint.guard_config(at..at + emulated);
        }
        for (_, at) in extended(own).into_iter().take(480) {
            endpoint.guard_config(at..at + 4);
        }
        for (bar, bytes) in self.msix(world) {
            endpoint.guard_bar(bar, bytes);
        }
        for (position, (id, at)) in shown.iter().enumerate() {
            assert!(SHOWN.contains(id), "capability {id:#x} is shown");
            assert!(capabilities(own).contains(&(*id, *at)), "{id:#x} at {at:#x} is not its own");
            let twice = shown[..position].iter().any(|(other, _)| other == id);
            assert!(!twice || ![MSI, MSIX].contains(id), "{id:#x} is shown twice");
        }
        for (id, at) in shown_extended {
            let stands_in = (*id, *at) == (0, register::EXTENDED);
            assert!(stands_in || SHOWN_EXTENDED.contains(id), "{id:#x} at {at:#x} is shown");
        }
    }

    /// The guest has just decided where its BARs decode.
    fn settle(&mut self, world: &World) {
        let mut command = u16::from_le_bytes(self.endpoint.config(register::COMMAND));
        let power = self.lists.0.iter().find(|(id, at)| *id == 1 && at + 8 <= register::EXTENDED);
        if let Some((_, at)) = power
            && self.endpoint.config::<1>(at + 4)[0] & 3 == 3
        {
            command = 0;
        }
        let decodes = |bar: &Bar| {
            let address = self.address(world, bar);
            let end = address.checked_add(bar.size)?;
            let within = |window: &Range<u64>| address >= window.start && end <= window.end;
            let decodes = match bar.kind {
                BarKind::Io => command & 1 != 0 && within(&WINDOWS.ports),
                BarKind::Rom => {
                    let enabled = self.see_word(world, register::ROM) & 1 != 0;
                    enabled && command & 2 != 0 && within(&WINDOWS.low)
                }
                _ => command & 2 != 0 && (within(&WINDOWS.low) || within(&WINDOWS.high)),
            };
            (decodes && !self.gone).then_some(address)
        };
        self.decodes = self.bars.iter().map(decodes).collect();
    }

    /// Where its registers say that a BAR is.
    fn address(&self, world: &World, bar: &Bar) -> u64 {
        let at = register_of(bar.index);
        let low = self.see_word(world, at);
        match bar.kind {
            BarKind::Io => u64::from(low & !3),
            BarKind::Rom => u64::from(low & !0x7ff),
            BarKind::Memory32 { .. } => u64::from(low & !15),
            BarKind::Memory64 { .. } => {
                u64::from(low & !15) | u64::from(self.see_word(world, at + 4)) << 32
            }
        }
    }

    /// The BARs that decode, and where.
    fn decoding(&self, ports: bool) -> impl Iterator<Item = (&Bar, u64)> {
        let decoding = self.bars.iter().zip(&self.decodes);
        let decoding = decoding.filter_map(|(bar, address)| address.map(|address| (bar, address)));
        decoding.filter(move |(bar, _)| (bar.kind == BarKind::Io) == ports)
    }

    /// Whether a page of a BAR can be given to the guest as it is.
    fn is_direct(&self, world: &World, bar: &Bar, page: u64) -> bool {
        let mappable = self.endpoint.description().mappable.get(bar.index);
        let Some(Some(areas)) = mappable else { return false };
        let whole = [(0, bar.size)];
        let areas = if areas.is_empty() { &whole[..] } else { areas };
        let within = |&(start, length): &(u64, u64)| {
            start + length <= bar.size && page >= start && page + PAGE <= start + length
        };
        let holds = |(index, bytes): (usize, Range<u64>)| {
            index == bar.index && bytes.start < page + PAGE && page < bytes.end
        };
        areas.iter().any(within) && !self.msix(world).into_iter().any(holds)
    }

    /// Pages of a BAR at which something may begin or end.
    fn edges(&self, world: &World, bar: &Bar) -> BTreeSet<u64> {
        let mut edges = vec![0, bar.size];
        let areas =
            self.endpoint.description().mappable.get(bar.index).into_iter().flatten().flatten();
        edges.extend(areas.flat_map(|(start, length)| [*start, start + length]));
        let trapped = self.msix(world).into_iter().filter(|(index, _)| *index == bar.index);
        edges.extend(trapped.flat_map(|(_, bytes)| [bytes.start, bytes.end]));
        let pages = edges.iter().flat_map(|edge| {
            let page = edge / PAGE * PAGE;
            [page.checked_sub(PAGE), Some(page), Some(page + PAGE)].into_iter().flatten()
        });
        pages.filter(|page| page + PAGE <= bar.size).collect()
    }
}

struct Machine {
    world: World,
    devices: Vec<Passed>,
    /// Mappings that are known to be of the right device.
    verified: BTreeSet<Shown>,
}

impl Machine {
    /// One action. Returns whose BARs the guest has decided by it.
    fn act(&mut self, input: &mut Input<'_>) -> Option<usize> {
        let (what, whose) = (input.byte(), input.byte());
        let count = self.devices.len().max(1);
        let number = usize::from(whose) % count;
        let world = &self.world;
        let device = self.devices.get(number)?;
        // Of the first bits of whose it is there is no need any more.
        let choice = usize::from(whose >> 1);
        match what % 16 {
            0 => {
                let (offset, data) = (usize::from(input.short()) % register::END, input.bytes());
                self.write_config(number, offset, data, 1 << (choice % 3))
            }
            1 => {
                let value = input.byte();
                self.write_config(number, register::COMMAND, [value, 0, 0, 0], 2)
            }
            2 | 3 => {
                let place = input.short();
                let bar = device.bars.get(choice % device.bars.len().max(1))?;
                let at = register_of(bar.index);
                let address = match (bar.kind, what % 16) {
                    (BarKind::Io, _) => WINDOWS.ports.start + u64::from(place),
                    // With the bit that enables it, or without.
                    (BarKind::Rom, which) => {
                        (WINDOWS.low.start + (u64::from(place) << 12)) | u64::from(which & 1)
                    }
                    (BarKind::Memory64 { .. }, 2) => WINDOWS.high.start + (u64::from(place) << 20),
                    _ => WINDOWS.low.start + (u64::from(place) << 12),
                };
                let wide = matches!(bar.kind, BarKind::Memory64 { .. });
                let bytes = address.to_le_bytes();
                let (low, high) = bytes.split_at(4);
                let (low, high) = (low.try_into().expect("4"), high.try_into().expect("4"));
                let settled = self.write_config(number, at, low, 4);
                self.check(settled);
                if wide { self.write_config(number, at + 4, high, 4) } else { settled }
            }
            4 => {
                let control = input.byte();
                let at = device.capability(MSIX)?;
                self.write_config(number, at + 3, [control, 0, 0, 0], 1)
            }
            5 => {
                let control = input.byte();
                let at = device.capability(MSI)?;
                self.write_config(number, at + 2, [control, 0, 0, 0], 2)
            }
            6 => {
                let state = input.byte();
                let at = device.capability(1)?;
                self.write_config(number, at + 4, [state, 0, 0, 0], 2)
            }
            7 => {
                let (vector, data) = (u64::from(input.byte()), input.long().to_le_bytes());
                let (index, bytes) = device.msix(world).into_iter().next()?;
                let bar = device.bars.iter().find(|bar| bar.index == index)?;
                let address = device.address(world, bar).wrapping_add(bytes.start + vector * 16);
                let half = (choice as u64 & 1) * 8;
                world.memory.write(address.wrapping_add(half), &data);
                None
            }
            8 | 9 => {
                let (offset, data) = (u64::from(input.word()), input.long().to_le_bytes());
                let bar = device.bars.get(choice % device.bars.len().max(1))?;
                let address = device.address(world, bar).wrapping_add(offset % (bar.size + 8));
                let length = 1 << (offset >> 30);
                self.access(bar.kind == BarKind::Io, address, &data[..length], what % 16 == 9);
                None
            }
            10 => {
                let (address, data) = (input.long(), input.long().to_le_bytes());
                let length = 1 << (choice & 3);
                self.access(choice & 4 != 0, address, &data[..length], choice & 8 != 0);
                None
            }
            11 => {
                world.host.fail_after(choice as u32);
                None
            }
            12 => {
                device.endpoint.set_dead(choice & 1 != 0);
                None
            }
            13 => {
                let (offset, data) = (usize::from(input.short()), input.bytes::<4>());
                device.endpoint.change_config(offset % register::END, &data);
                None
            }
            14 => {
                let offset = usize::from(input.short());
                let length = 1 << (choice % 3);
                let mut data = vec![0; length];
                match choice & 64 {
                    // A vCPU that found it before it was taken away.
                    0 => device.function.read_config(offset % (register::END - 3), &mut data),
                    _ => world.root.read(device.ecam(offset % register::END), &mut data),
                }
                let refused = self.world.host.has_refused();
                assert!(refused || !device.gone || data.iter().all(|byte| *byte == 0xff));
                None
            }
            _ => {
                let device = &mut self.devices[number];
                world.root.take(device.slot);
                device.function.shut_down();
                device.gone = true;
                device.settle(world);
                Some(number)
            }
        }
    }

    /// What the guest writes to configuration space. Returns whose BARs it has decided by that.
    fn write_config(
        &mut self,
        number: usize,
        offset: usize,
        data: [u8; 4],
        length: usize,
    ) -> Option<usize> {
        let (world, device) = (&self.world, &mut self.devices[number]);
        if device.gone {
            // A vCPU that found it before.
            device.function.write_config(offset.min(register::END - 4), &data[..length]);
            return None;
        }
        world.root.write(device.ecam(offset), &data[..length]);
        let touches = |range: Range<usize>| offset < range.end && range.start < offset + length;
        let power = device.lists.0.iter().find(|(id, at)| *id == 1 && at + 8 <= register::EXTENDED);
        let decides = touches(register::COMMAND..register::COMMAND + 2)
            || touches(register::BARS..register::BARS_END)
            || touches(register::ROM..register::ROM_END)
            || power.is_some_and(|(_, at)| touches(at + 4..at + 6));
        // What crosses the end of configuration space reaches nothing, and the machine stops over a
        // bus master without RAM.
        let low = register::COMMAND.checked_sub(offset).filter(|at| *at < length);
        let masters = low.is_some_and(|at| u16::from(data[at]) & register::COMMAND_MASTER != 0);
        let is_lost = offset + length > register::END || masters && !world.pinned.is_open();
        if !decides || is_lost {
            return None;
        }
        device.settle(world);
        Some(number)
    }

    /// What the guest reads or writes by an address.
    fn access(&self, ports: bool, address: u64, data: &[u8], writes: bool) {
        let bus = if ports { &self.world.ports } else { &self.world.memory };
        if writes {
            return bus.write(address, data);
        }
        let mut read = vec![0; data.len()];
        bus.read(address, &mut read);
        let mut decoding = self.devices.iter().flat_map(|device| device.decoding(ports));
        let within = |(bar, start): (&Bar, u64)| {
            address.checked_sub(start).is_some_and(|at| at + data.len() as u64 <= bar.size)
        };
        let is_nothing = !decoding.any(within);
        if is_nothing && !self.world.host.has_refused() {
            assert!(read.iter().all(|byte| *byte == 0xff), "{address:#x} answers {read:x?}");
        }
    }

    /// What holds whatever has happened, unless a call has failed. `settled` is whose BARs the guest
    /// has just decided.
    fn check(&mut self, settled: Option<usize>) {
        let misuse = self.world.host.take_misuse();
        for device in &mut self.devices {
            let both = device.messages(&self.world);
            device.is_mixed |= both == (true, true);
            if both == (false, false) {
                device.is_mixed = false;
            }
        }
        if self.world.host.has_refused() {
            return;
        }
        // MSI and MSI-X at the same time, which a guest must not ask for, is refused by the kernel.
        let mixed = |text: &String| text.starts_with("another kind is on");
        let is_mixed = self.devices.iter().any(|device| device.is_mixed);
        let misuse: Vec<_> = misuse.iter().filter(|text| !is_mixed || !mixed(text)).collect();
        assert!(misuse.is_empty(), "{misuse:?}");
        for device in &self.devices {
            device.check_interrupts(&self.world);
        }
        self.check_buses();
        self.check_mappings();
        if let Some(number) = settled {
            self.check_shown(&self.devices[number]);
        }
    }

    /// Nothing answers where no BAR decodes.
    fn check_buses(&self) {
        let buses = [(&self.world.memory, false), (&self.world.ports, true)];
        for (bus, ports) in buses {
            let decoding = self.devices.iter().flat_map(|device| device.decoding(ports));
            let mut taken: Vec<_> = decoding.map(|(bar, start)| start..start + bar.size).collect();
            taken.sort_by_key(|range| range.start);
            taken.push(u64::MAX..u64::MAX);
            let mut from = 0;
            for range in taken {
                if range.start > from {
                    let gap = from..range.start;
                    assert!(bus.is_free(&gap), "something is left within {gap:x?}");
                }
                from = from.max(range.end);
            }
        }
    }

    /// What the guest reaches directly is of the BAR that decodes there.
    fn check_mappings(&mut self) {
        let (slots, peers) = (self.world.host.slots(), self.world.host.peers());
        let all: BTreeSet<_> = slots.iter().copied().collect();
        match self.world.has_peers() {
            true => assert_eq!(all, peers.into_iter().collect(), "peers reach something else"),
            false => assert!(peers.is_empty()),
        }
        self.verified.retain(|shown| all.contains(shown));
        for shown in &all {
            let is_of = |device: &Passed| {
                device.decoding(false).any(|(bar, start)| {
                    let at = shown.guest.checked_sub(start);
                    let at = at.filter(|at| at + shown.length <= bar.size);
                    // SAFETY: what is in a slot is a mapping of a device.
                    at.is_some_and(|at| unsafe { device.endpoint.is_at(shown.host, bar.index, at) })
                })
            };
            if self.verified.insert(*shown) {
                assert!(self.devices.iter().any(is_of), "{shown:x?} is of no BAR that decodes");
            }
        }
    }

    /// Each BAR that decodes answers, or another one is there; and its pages are reached directly
    /// where they can be.
    fn check_shown(&self, device: &Passed) {
        for ports in [false, true] {
            let bus = if ports { &self.world.ports } else { &self.world.memory };
            for (bar, start) in device.decoding(ports) {
                let place = start..start + bar.size;
                assert!(!bus.is_free(&place), "BAR {} is not at {start:#x}", bar.index);
                let others = self.devices.iter().flat_map(|other| other.decoding(ports));
                let meets = |(other, at): &(&Bar, u64)| *at < place.end && start < at + other.size;
                if others.filter(meets).count() > 1 {
                    continue;
                }
                let slots = self.world.host.slots();
                for page in device.edges(&self.world, bar) {
                    let at = start + page;
                    let is_mapped =
                        slots.iter().any(|slot| slot.guest <= at && at < slot.guest + slot.length);
                    let direct = !ports && device.is_direct(&self.world, bar, page);
                    assert_eq!(is_mapped, direct, "page {page:#x} of BAR {}", bar.index);
                }
            }
        }
    }

    /// Takes all of it away, and looks for what is left. Nothing fails any more.
    fn end(self) {
        let Machine { world, devices, .. } = self;
        let refused = world.host.has_refused();
        let (mut endpoints, mut lists) = (Vec::new(), Vec::new());
        world.host.unfailing(|| {
            for device in devices {
                device.endpoint.set_dead(false);
                device.endpoint.change_config(register::STATUS, &[0x10, 0]);
                if !device.gone {
                    lists.push((device.lists.clone(), device.lists(&world)));
                    world.root.take(device.slot);
                    device.function.shut_down();
                }
                endpoints.push(device.endpoint);
            }
            let host = &world.host;
            assert!(host.slots().is_empty(), "{:x?} are left", host.slots());
            assert!(host.peers().is_empty(), "{:x?} are left", host.peers());
            // One whose event KVM did not let go of is not given to another.
            assert!(host.reserved() <= host.connected(), "interrupts are left");
            for bus in [&world.memory, &world.ports] {
                assert!(bus.is_free(&(0..u64::MAX)), "something answers still");
            }
            if !refused {
                assert_eq!(host.connected(), 0, "events are left");
                assert!(endpoints.iter().all(|endpoint| endpoint.interrupts().is_none()));
            }
        });
        for (before, after) in lists {
            assert!(before.0.is_empty() || before.0 == after.0, "{before:x?} became {after:x?}");
            assert_eq!(before.1, after.1);
        }
    }
}

impl Passed {
    /// Whether the guest has MSI and MSI-X on.
    fn messages(&self, world: &World) -> (bool, bool) {
        let is_on = |id: u8, at: usize, bit: u8| {
            let capability = self.capability(id).filter(|_| !self.gone);
            capability.is_some_and(|start| self.see(world, start + at) & bit != 0)
        };
        (is_on(MSI, 2, 1), is_on(MSIX, 3, 0x80))
    }

    /// The kind of interrupts that the guest has chosen is the one that is on.
    fn check_interrupts(&self, world: &World) {
        let [_, msi, msix] = self.endpoint.description().interrupts;
        let on = self.endpoint.interrupts();
        let expected = match self.messages(world) {
            (false, false) => (self.has_line && !self.gone).then_some(0),
            _ if self.is_mixed => return assert_ne!(on, Some(0), "its line is on with messages"),
            (true, _) => {
                let start = self.capability(MSI).expect("it is on");
                let control = self.see_word(world, start) >> 16;
                let wanted = 1 << (control >> 4 & 7).min(control >> 1 & 7);
                (wanted <= msi).then_some(1)
            }
            (_, true) => (msix > 0).then_some(2),
        };
        assert_eq!(on, expected, "kind of interrupts that are on");
    }
}
