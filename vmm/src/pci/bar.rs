//! Base address registers: what the guest writes into them and where that makes them decode.
//!
//! This is the whole decision, without side effects: [`Bars`] remembers the registers, and
//! [`Bars::changes`] says which BAR has to appear or disappear. A BAR decodes only while the
//! command register says so and only within a PCI window: a guest that points one at its own RAM,
//! at the configuration space or at the interrupt controllers merely loses it.

use std::ops::Range;

use super::register;

/// Number of BARs of an endpoint.
pub const BAR_COUNT: usize = 6;
/// Index of the expansion ROM, which has a register of its own beside those of the BARs.
pub const ROM_INDEX: usize = BAR_COUNT;

/// What kind of address a BAR takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BarKind {
    /// 32-bit memory.
    Memory32 {
        /// Reads have no side effects.
        prefetchable: bool,
    },
    /// 64-bit memory; takes the next register as well.
    Memory64 {
        /// Reads have no side effects.
        prefetchable: bool,
    },
    /// I/O ports.
    Io,
    /// The expansion ROM: 32-bit memory that decodes only where its own register says so as well (PCI
    /// Local Bus 3.0, section 6.2.5.2).
    Rom,
}

/// Bit of the ROM's register that lets it decode.
const ROM_ENABLE: u32 = 1;

impl BarKind {
    fn flags(self) -> u32 {
        let prefetch = |yes: bool| u32::from(yes) << 3;
        match self {
            // Its only one is the guest's to set.
            BarKind::Rom => 0,
            BarKind::Memory32 { prefetchable } => prefetch(prefetchable),
            BarKind::Memory64 { prefetchable } => 0b100 | prefetch(prefetchable),
            BarKind::Io => 1,
        }
    }

    /// Reads the kind from a BAR register's low bits.
    pub fn from_register(value: u32) -> Self {
        let prefetchable = value & 8 != 0;
        match (value & 1 != 0, value >> 1 & 3) {
            (true, _) => BarKind::Io,
            (false, 2) => BarKind::Memory64 { prefetchable },
            (false, _) => BarKind::Memory32 { prefetchable },
        }
    }
}

#[derive(Debug, Clone)]
struct Bar {
    kind: BarKind,
    size: u64,
    address: u64,
    /// By its own register, which only a ROM's can deny.
    enabled: bool,
    decoded: Option<u64>,
}

impl Bar {
    fn write_low(&mut self, value: u32) {
        let bits = match self.kind {
            BarKind::Io => !3,
            BarKind::Rom => !0x7ff,
            _ => !15,
        };
        self.address = (self.address & !0xffff_ffff | u64::from(value & bits)) & !(self.size - 1);
        if self.kind == BarKind::Rom {
            self.enabled = value & ROM_ENABLE != 0;
        }
    }
}

/// The register that a byte of configuration space belongs to: that of a BAR, or [`ROM_INDEX`].
fn register_at(at: usize) -> Option<usize> {
    match at {
        register::BARS..register::BARS_END => Some((at - register::BARS) / 4),
        register::ROM..register::ROM_END => Some(ROM_INDEX),
        _ => None,
    }
}

/// The memory and I/O ports a root complex forwards to devices.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Windows {
    /// For 32-bit BARs.
    pub low: Range<u64>,
    /// For 64-bit BARs.
    pub high: Range<u64>,
    /// I/O ports.
    pub ports: Range<u64>,
}

impl Windows {
    fn contains(&self, kind: BarKind, address: u64, size: u64) -> bool {
        let Some(end) = address.checked_add(size) else { return false };
        let within = |window: &Range<u64>| address >= window.start && end <= window.end;
        match kind {
            BarKind::Io => within(&self.ports),
            BarKind::Rom => within(&self.low),
            _ => within(&self.low) || within(&self.high),
        }
    }
}

/// A change of where one BAR decodes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BarChange {
    /// BAR `index` decodes at `address` no more.
    Hide {
        /// Which BAR.
        index: usize,
        /// Where it decoded.
        address: u64,
    },
    /// BAR `index` decodes at `address` from now on.
    Show {
        /// Which BAR.
        index: usize,
        /// Where it decodes.
        address: u64,
    },
}

/// The BARs of one function, and its ROM.
#[derive(Debug, Clone, Default)]
pub struct Bars {
    bars: [Option<Bar>; BAR_COUNT + 1],
}

impl Bars {
    /// Adds BAR `index`, of a `size` that is a power of two and, for memory, at least 16 bytes; or, as
    /// [`ROM_INDEX`], the ROM, of 2 KiB to 16 MiB.
    ///
    /// # Errors
    /// In words, where the BAR cannot exist.
    pub fn add(&mut self, index: usize, kind: BarKind, size: u64) -> Result<(), String> {
        let (least, most) = match kind {
            BarKind::Io => (4, 1 << 31),
            BarKind::Memory32 { .. } => (16, 1 << 31),
            BarKind::Memory64 { .. } => (16, 1 << 62),
            BarKind::Rom => (2 << 10, 16 << 20),
        };
        let wide = matches!(kind, BarKind::Memory64 { .. });
        let is_wide = |bar: &Bar| matches!(bar.kind, BarKind::Memory64 { .. });
        let taken = |index: usize| {
            let below = index.checked_sub(1).and_then(|below| self.bars.get(below));
            let second_half = below.is_some_and(|bar| bar.as_ref().is_some_and(is_wide));
            second_half || self.bars.get(index).is_none_or(Option::is_some)
        };
        let is_misplaced = (index == ROM_INDEX) != (kind == BarKind::Rom);
        let second = index + 1;
        if is_misplaced || taken(index) || wide && (second >= BAR_COUNT || taken(second)) {
            return Err(format!("BAR {index} overlaps another BAR or the end of the registers"));
        }
        if !size.is_power_of_two() || !(least..=most).contains(&size) {
            return Err(format!("BAR {index} has an impossible size of {size:#x} bytes"));
        }
        self.bars[index] =
            Some(Bar { kind, size, address: 0, enabled: kind != BarKind::Rom, decoded: None });
        Ok(())
    }

    /// The BARs there are: index, kind and size in bytes.
    pub fn iter(&self) -> impl Iterator<Item = (usize, BarKind, u64)> + '_ {
        let present = self.bars.iter().enumerate();
        present.filter_map(|(index, bar)| bar.as_ref().map(|bar| (index, bar.kind, bar.size)))
    }

    /// Sets where BAR `index` points, as firmware would.
    pub fn assign(&mut self, index: usize, address: u64) {
        if let Some(Some(bar)) = self.bars.get_mut(index) {
            bar.address = address & !(bar.size - 1);
        }
    }

    /// Register `number` (0 to 5, or [`ROM_INDEX`]) as the guest reads it.
    pub fn register(&self, number: usize) -> u32 {
        if let Some(Some(bar)) = self.bars.get(number) {
            let enabled = if bar.kind == BarKind::Rom && bar.enabled { ROM_ENABLE } else { 0 };
            return bar.address as u32 | bar.kind.flags() | enabled;
        }
        match number.checked_sub(1).and_then(|below| self.bars.get(below)) {
            Some(Some(bar)) if matches!(bar.kind, BarKind::Memory64 { .. }) => {
                (bar.address >> 32) as u32
            }
            _ => 0,
        }
    }

    /// Whether one of `length` bytes at `offset` (in configuration space) is of these registers.
    pub fn touches(offset: usize, length: usize) -> bool {
        (offset..offset + length).any(|at| register_at(at).is_some())
    }

    /// Lays the BAR registers over those of the bytes at `offset` (in configuration space) on that
    /// are theirs.
    pub fn overlay(&self, offset: usize, data: &mut [u8]) {
        for (at, byte) in (offset..).zip(data) {
            if let Some(number) = register_at(at) {
                *byte = self.register(number).to_le_bytes()[at % 4];
            }
        }
    }

    /// Takes what the guest wrote to the bytes of the BAR registers from `offset` (in
    /// configuration space) on. Address bits below the size read back as zero, which is how the
    /// guest learns the size.
    pub fn write(&mut self, offset: usize, data: &[u8]) {
        for (at, &byte) in (offset..).zip(data) {
            let Some(number) = register_at(at) else { continue };
            let shift = at % 4 * 8;
            let merged = self.register(number) & !(0xff << shift) | u32::from(byte) << shift;
            self.write_register(number, merged);
        }
    }

    fn write_register(&mut self, number: usize, value: u32) {
        if let Some(Some(bar)) = self.bars.get_mut(number) {
            bar.write_low(value);
        } else if let Some(Some(bar)) = number.checked_sub(1).and_then(|n| self.bars.get_mut(n))
            && matches!(bar.kind, BarKind::Memory64 { .. })
        {
            let mask = !(bar.size - 1);
            bar.address = (bar.address & 0xffff_ffff | u64::from(value) << 32) & mask;
        }
    }

    /// What has to change so that exactly the BARs decode that should, by the `command` register
    /// and the `windows`. All that is hidden comes before anything is shown, so that a BAR can take
    /// the place of another. The answer is taken as carried out, except where [`Bars::lost`] says
    /// otherwise: such a BAR is tried again with the next call.
    pub fn changes(&mut self, command: u16, windows: &Windows) -> Vec<BarChange> {
        let (mut hidden, mut shown) = (Vec::new(), Vec::new());
        for (index, bar) in self.bars.iter_mut().enumerate() {
            let Some(bar) = bar else { continue };
            let enable = match bar.kind {
                BarKind::Io => register::COMMAND_IO,
                _ => register::COMMAND_MEMORY,
            };
            let decodes = command & enable != 0
                && bar.enabled
                && windows.contains(bar.kind, bar.address, bar.size);
            let wanted = decodes.then_some(bar.address);
            if wanted == bar.decoded {
                continue;
            }
            hidden.extend(bar.decoded.map(|address| BarChange::Hide { index, address }));
            shown.extend(wanted.map(|address| BarChange::Show { index, address }));
            bar.decoded = wanted;
        }
        hidden.append(&mut shown);
        hidden
    }

    /// BAR `index` could not be made to decode: another one is in its place.
    pub fn lost(&mut self, index: usize) {
        if let Some(Some(bar)) = self.bars.get_mut(index) {
            bar.decoded = None;
        }
    }
}

/// Hands out addresses to BARs at start, as firmware would.
#[derive(Debug)]
pub struct Allocator {
    windows: Windows,
    low: u64,
    high: u64,
    ports: u64,
}

impl Allocator {
    /// With all of `windows` free.
    pub fn new(windows: Windows) -> Self {
        let (low, high, ports) = (windows.low.start, windows.high.start, windows.ports.start);
        Allocator { low, high, ports, windows }
    }

    /// Gives every memory BAR of `bars` a place: 64-bit ones in the high window.
    ///
    /// # Errors
    /// In words, naming the BAR that does not fit.
    pub fn place(&mut self, bars: &mut Bars) -> Result<(), String> {
        let all: Vec<_> = bars.iter().collect();
        for (index, kind, size) in all {
            // Memory BARs take at least a page each, so that no two share one.
            let (next, window, least) = match kind {
                BarKind::Memory32 { .. } | BarKind::Rom => (&mut self.low, &self.windows.low, 4096),
                BarKind::Memory64 { .. } => (&mut self.high, &self.windows.high, 4096),
                BarKind::Io => (&mut self.ports, &self.windows.ports, 4),
            };
            let taken = size.max(least);
            let place = next.checked_next_multiple_of(taken);
            let end = place.and_then(|place| place.checked_add(taken));
            match (place, end) {
                (Some(place), Some(end)) if end <= window.end => {
                    bars.assign(index, place);
                    *next = end;
                }
                _ => {
                    return Err(format!(
                        "BAR {index} of {size:#x} bytes does not fit into the guest's PCI window"
                    ));
                }
            }
        }
        Ok(())
    }

    /// The windows it allocates from.
    pub fn windows(&self) -> &Windows {
        &self.windows
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WINDOWS: Windows =
        Windows { low: 0xc000_0000..0xe000_0000, high: 1 << 36..1 << 37, ports: 0x1000..0x1_0000 };

    fn igbvf() -> Bars {
        let mut bars = Bars::default();
        bars.add(0, BarKind::Memory64 { prefetchable: true }, 0x4000).unwrap();
        bars.add(3, BarKind::Memory32 { prefetchable: false }, 0x1000).unwrap();
        bars
    }

    fn write(bars: &mut Bars, number: usize, value: u32) {
        bars.write(register::BARS + number * 4, &value.to_le_bytes());
    }

    #[test]
    fn sizing_reads_back_the_size_and_the_kind() {
        let mut bars = igbvf();
        for number in 0..6 {
            write(&mut bars, number, u32::MAX);
        }
        let registers: Vec<_> = (0..6).map(|number| bars.register(number)).collect();
        assert_eq!(registers, [0xffff_c00c, 0xffff_ffff, 0, 0xffff_f000, 0, 0]);
    }

    #[test]
    fn a_rom_decodes_only_when_its_own_register_says_so() {
        let mut bars = igbvf();
        bars.add(ROM_INDEX, BarKind::Rom, 64 << 10).unwrap();
        let write = |bars: &mut Bars, value: u32| bars.write(register::ROM, &value.to_le_bytes());
        write(&mut bars, !ROM_ENABLE);
        assert_eq!(bars.register(ROM_INDEX), 0xffff_0000, "how a guest learns its size");
        Allocator::new(WINDOWS).place(&mut bars).unwrap();
        let place = bars.register(ROM_INDEX);
        let memory = register::COMMAND_MEMORY;
        assert_eq!(bars.changes(memory, &WINDOWS).len(), 2, "the BARs");
        write(&mut bars, place | ROM_ENABLE);
        assert_eq!(bars.register(ROM_INDEX), place | ROM_ENABLE);
        let (index, address) = (ROM_INDEX, u64::from(place));
        assert_eq!(bars.changes(memory, &WINDOWS), [BarChange::Show { index, address }]);
        write(&mut bars, place);
        assert_eq!(bars.changes(memory, &WINDOWS), [BarChange::Hide { index, address }]);
        let mut bytes = [0; 8];
        bars.overlay(register::ROM - 4, &mut bytes);
        assert_eq!(bytes[4..], place.to_le_bytes());
    }

    #[test]
    fn a_rom_is_no_bar_and_has_its_limits() {
        let mut bars = Bars::default();
        let rom = |bars: &mut Bars, index, size| bars.add(index, BarKind::Rom, size).unwrap_err();
        rom(&mut bars, 5, 64 << 10);
        rom(&mut bars, ROM_INDEX, 1 << 10);
        rom(&mut bars, ROM_INDEX, 32 << 20);
        bars.add(ROM_INDEX, BarKind::Memory32 { prefetchable: false }, 64 << 10).unwrap_err();
        bars.add(5, BarKind::Memory64 { prefetchable: false }, 64 << 10).unwrap_err();
        bars.add(ROM_INDEX, BarKind::Rom, 2 << 10).unwrap();
        rom(&mut bars, ROM_INDEX, 2 << 10);
    }

    #[test]
    fn a_bar_decodes_only_when_enabled_and_within_a_window() {
        let mut bars = igbvf();
        Allocator::new(WINDOWS).place(&mut bars).unwrap();
        assert_eq!(bars.changes(0, &WINDOWS), []);
        let shown = bars.changes(register::COMMAND_MEMORY, &WINDOWS);
        assert_eq!(shown.len(), 2);
        assert_eq!(shown[0], BarChange::Show { index: 0, address: 1 << 36 });
        assert_eq!(bars.changes(register::COMMAND_MEMORY, &WINDOWS), []);
        // Over guest RAM, over the configuration space, past the window's end, and wrapping.
        for (low, high) in [(0x10_0000, 0), (0xe000_0000, 0), (0, 0x20), (u32::MAX, u32::MAX)] {
            write(&mut bars, 0, low);
            write(&mut bars, 1, high);
            bars.changes(register::COMMAND_MEMORY, &WINDOWS);
            assert_eq!(bars.bars[0].as_ref().unwrap().decoded, None, "{high:#x}{low:08x}");
        }
    }

    #[test]
    fn a_move_leaves_the_old_place_before_it_takes_a_new_one() {
        let mut bars = igbvf();
        Allocator::new(WINDOWS).place(&mut bars).unwrap();
        bars.changes(register::COMMAND_MEMORY, &WINDOWS);
        write(&mut bars, 3, 0xc100_0000);
        let changes = bars.changes(register::COMMAND_MEMORY, &WINDOWS);
        let hide = BarChange::Hide { index: 3, address: 0xc000_0000 };
        let show = BarChange::Show { index: 3, address: 0xc100_0000 };
        assert_eq!(changes, [hide, show]);
        let gone = bars.changes(0, &WINDOWS);
        assert!(gone.iter().all(|one| matches!(one, BarChange::Hide { .. })) && gone.len() == 2);
    }

    #[test]
    fn a_bar_that_lost_its_place_gets_it_when_the_other_leaves() {
        let memory = BarKind::Memory32 { prefetchable: false };
        let mut bars = Bars::default();
        bars.add(0, memory, 0x1000).unwrap();
        bars.add(1, memory, 0x1000).unwrap();
        bars.assign(0, 0xc000_0000);
        bars.assign(1, 0xc000_0000);
        bars.changes(register::COMMAND_MEMORY, &WINDOWS);
        bars.lost(0);
        write(&mut bars, 1, 0xc100_0000);
        let changes = bars.changes(register::COMMAND_MEMORY, &WINDOWS);
        let expected = [
            BarChange::Hide { index: 1, address: 0xc000_0000 },
            BarChange::Show { index: 0, address: 0xc000_0000 },
            BarChange::Show { index: 1, address: 0xc100_0000 },
        ];
        assert_eq!(changes, expected);
    }

    #[test]
    fn ports_decode_by_their_own_bit_and_within_their_own_window() {
        let mut bars = Bars::default();
        bars.add(2, BarKind::Io, 0x40).unwrap();
        Allocator::new(WINDOWS).place(&mut bars).unwrap();
        assert_eq!(bars.register(2), 0x1001);
        assert_eq!(bars.changes(register::COMMAND_MEMORY, &WINDOWS), []);
        let shown = BarChange::Show { index: 2, address: 0x1000 };
        assert_eq!(bars.changes(register::COMMAND_IO, &WINDOWS), [shown]);
        // Over the console, and where only memory is.
        for place in [0x3c1, 0xc000_0001] {
            write(&mut bars, 2, place);
            bars.changes(register::COMMAND_IO, &WINDOWS);
            assert_eq!(bars.bars[2].as_ref().unwrap().decoded, None, "{place:#x}");
        }
        write(&mut bars, 2, u32::MAX);
        assert_eq!(bars.register(2), 0xffff_ffc1);
    }

    #[test]
    fn single_bytes_are_merged() {
        let mut bars = igbvf();
        write(&mut bars, 3, 0xc000_0000);
        bars.write(register::BARS + 3 * 4 + 2, &[0x12]);
        assert_eq!(bars.register(3), 0xc012_0000);
    }

    #[test]
    fn impossible_bars_are_refused() {
        let mut bars = Bars::default();
        let wide = BarKind::Memory64 { prefetchable: false };
        for (index, kind, size) in [
            (5, wide, 0x1000),
            (0, wide, 0),
            (0, wide, 0x1800),
            (6, BarKind::Io, 4),
            (0, BarKind::Memory32 { prefetchable: false }, 1 << 32),
        ] {
            assert!(bars.add(index, kind, size).is_err(), "{index} {kind:?} {size:#x}");
        }
        bars.add(0, wide, 16).unwrap();
        assert!(bars.add(1, BarKind::Io, 4).is_err());
    }

    #[test]
    fn the_allocator_refuses_what_does_not_fit() {
        let mut bars = Bars::default();
        bars.add(0, BarKind::Memory32 { prefetchable: false }, 1 << 30).unwrap();
        assert!(Allocator::new(WINDOWS).place(&mut bars).unwrap_err().contains("BAR 0"));
    }
}
