//! What of a device's configuration space a guest sees, and which writes reach the device.
//!
//! A read takes the device's bytes and lays the emulated ones over them; a write to an emulated
//! byte stays here and one to any other goes to the kernel, which has its own filter and is the one
//! that guards the bodies of capabilities whose headers are hidden here. Emulated are the BARs and the
//! ROM's register, the header type, the interrupt pin, the list of capabilities, MSI, and MSI-X
//! control. Only capabilities of the lists below are shown: an unknown one may let a guest do what we
//! did not think of, and SR-IOV, ARI, resizable BARs, ATS, PRI and PASID must not be seen at all.
//!
//! A device is not trusted: a dead one reads as ones, and a list may run in circles.

use std::ops::Range;

use crate::pci::config::touches;
use crate::pci::msi::MsiLayout;
use crate::pci::{capability, register};

/// Capabilities shown, besides MSI and MSI-X.
const SHOWN: [u8; 3] = [capability::POWER_MANAGEMENT, capability::VENDOR, capability::EXPRESS];

/// Extended capabilities shown: advanced error reporting, serial number, vendor-specific and
/// designated vendor-specific (PCIe base spec 6.0, 7.6 to 7.9).
const SHOWN_EXTENDED: [u16; 4] = [0x0001, 0x0003, 0x000b, 0x0023];

/// More capabilities than this cannot fit: 48 of at least 4 bytes, and 480 extended ones of 8.
const WALK_MAX: usize = 48;
const WALK_EXTENDED_MAX: usize = 480;

/// The MSI-X capability as the device describes it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MsixLayout {
    /// Offset of the capability.
    pub capability: usize,
    /// Vectors, 1 to 2048.
    pub vectors: u16,
    /// BAR and offset of the table.
    pub table: (usize, u64),
    /// BAR and offset of the pending bits.
    pub pending: (usize, u64),
}

/// The emulated part of a device's configuration space.
pub struct Filter {
    shadow: Box<[u8; register::END]>,
    emulated: Box<[bool; register::END]>,
    writable: Box<[u8; register::END]>,
    msix: Option<MsixLayout>,
    msi: Option<MsiLayout>,
    power: Option<usize>,
}

/// Bytes of the MSI-X capability.
const MSIX_SIZE: usize = 12;

/// Power management: offset of the control and status register in the capability, its power
/// state field, and the state in which a function answers to nothing but configuration accesses
/// (PCI power management specification 1.2, 3.2.4).
const POWER_CONTROL: usize = 4;
const POWER_STATE: u16 = 3;
const D3_HOT: u16 = 3;

impl Filter {
    /// Decides, from the `config` space of a device that was just reset: 256 or 4096 bytes.
    ///
    /// # Errors
    /// In words, where the device does not answer or is not an endpoint.
    pub fn new(config: &[u8]) -> Result<Self, String> {
        let mut shadow = Box::new([0; register::END]);
        let length = config.len().min(register::END);
        shadow[..length].copy_from_slice(&config[..length]);
        if length < register::EXTENDED || u16_at(&*shadow, register::ID) == 0xffff {
            return Err("it does not answer: its configuration space reads as ones. Release it, \
                        reset it or its slot, and try again"
                .into());
        }
        let header = shadow[register::HEADER_TYPE] & !register::MULTIFUNCTION;
        if header != 0 {
            return Err(format!("it is a bridge (header type {header}); give an endpoint"));
        }
        let mut filter = Filter {
            shadow,
            emulated: Box::new([false; register::END]),
            writable: Box::new([0; register::END]),
            msix: None,
            msi: None,
            power: None,
        };
        filter.shadow[register::HEADER_TYPE] = 0;
        filter.emulate(register::HEADER_TYPE, 1);
        // BARs and the ROM are served by `Bars`; the filter only keeps them from the device.
        filter.emulate(register::BARS, register::BARS_END - register::BARS);
        filter.clear(register::ROM, register::ROM_END - register::ROM);
        // The interrupt line is the guest's notepad, and there is no pin until it leads anywhere.
        filter.clear(register::INTERRUPT, 2);
        filter.writable[register::INTERRUPT] = 0xff;
        filter.link_capabilities(config);
        filter.link_extended(length);
        Ok(filter)
    }

    /// The device's MSI-X, if it has any.
    pub fn msix(&self) -> Option<MsixLayout> {
        self.msix
    }

    /// The device's MSI, if it has any.
    pub fn msi(&self) -> Option<MsiLayout> {
        self.msi
    }

    /// Shows an interrupt pin: INTA#, since the guest sees a device of one function.
    pub fn show_pin(&mut self) {
        self.shadow[register::INTERRUPT + 1] = 1;
    }

    /// Lays the emulated bytes over what was read from the device at `offset`.
    pub fn overlay(&self, offset: usize, data: &mut [u8]) {
        for (at, byte) in (offset..register::END).zip(data) {
            if self.emulated[at] {
                *byte = self.shadow[at];
            }
        }
    }

    /// Takes what of a write is for emulated bytes, and returns which parts of `data` are for the
    /// device.
    pub fn write(&mut self, offset: usize, data: &[u8]) -> Vec<Range<usize>> {
        let mut passed: Vec<Range<usize>> = Vec::new();
        for (index, (at, &byte)) in (offset..register::END).zip(data).enumerate() {
            if self.emulated[at] {
                let mask = self.writable[at];
                self.shadow[at] = self.shadow[at] & !mask | byte & mask;
            } else {
                match passed.last_mut() {
                    Some(last) if last.end == index => last.end += 1,
                    _ => passed.push(index..index + 1),
                }
            }
        }
        passed
    }

    /// Offset of the power management control register, if the device has one.
    pub fn power_control(&self) -> Option<usize> {
        self.power
    }

    /// Whether any of `length` bytes at `offset` is not emulated.
    pub fn reaches_device(&self, offset: usize, length: usize) -> bool {
        (offset..register::END).take(length).any(|at| !self.emulated[at])
    }

    /// MSI-X message control as the guest wrote it, if `length` bytes at `offset` touch it.
    pub fn msix_control(&self, offset: usize, length: usize) -> Option<u16> {
        let at = self.msix?.capability + 2;
        touches(offset, length, at..at + 2).then(|| u16_at(&*self.shadow, at))
    }

    /// The bytes of the MSI capability as the guest wrote them, if `length` bytes at `offset` touch
    /// any.
    pub fn msi_registers(&self, offset: usize, length: usize) -> Option<&[u8]> {
        let layout = self.msi?;
        let range = layout.capability..layout.capability + layout.size();
        touches(offset, length, range.clone()).then(|| &self.shadow[range])
    }

    fn emulate(&mut self, offset: usize, length: usize) {
        self.emulated[offset..offset + length].fill(true);
    }

    fn clear(&mut self, offset: usize, length: usize) {
        self.shadow[offset..offset + length].fill(0);
        self.emulate(offset, length);
    }

    /// Rebuilds the list so that it holds what is shown, in the device's order and places.
    fn link_capabilities(&mut self, config: &[u8]) {
        self.emulate(register::CAPABILITIES, 1);
        let status = u16_at(&*self.shadow, register::STATUS);
        let mut next = match status & register::STATUS_CAPABILITIES {
            0 => 0,
            _ => usize::from(self.shadow[register::CAPABILITIES] & !3),
        };
        let mut link = register::CAPABILITIES;
        self.shadow[link] = 0;
        let mut seen = [false; 256];
        for _ in 0..WALK_MAX {
            if next < register::HEADER_END || next + 4 > register::EXTENDED || seen[next] {
                break;
            }
            seen[next] = true;
            let (at, id) = (next, config[next]);
            next = usize::from(config[at + 1] & !3);
            let length = emulated_length(config, at);
            if self.emulated[at..at + length].contains(&true) {
                // Its place is another one's already, which a guest could rewrite it through.
                continue;
            }
            let shown = match id {
                capability::MSIX => self.take_msix(at),
                capability::MSI => self.take_msi(at),
                _ => SHOWN.contains(&id),
            };
            if id == capability::POWER_MANAGEMENT && at + 8 <= register::EXTENDED {
                self.power.get_or_insert(at + POWER_CONTROL);
            }
            if shown {
                self.shadow[link] = at as u8;
                link = at + 1;
                self.shadow[link] = 0;
                self.emulate(at, 2);
            } else {
                // Keep what is hidden from being found by its place.
                self.clear(at, 4);
            }
        }
    }

    fn take_msix(&mut self, at: usize) -> bool {
        if self.msix.is_some() || at + MSIX_SIZE > register::EXTENDED {
            return false;
        }
        let control = u16_at(&*self.shadow, at + 2);
        let place = |at: usize, shadow: &[u8]| {
            let value = u32_at(shadow, at);
            ((value & 7) as usize, u64::from(value & !7))
        };
        self.msix = Some(MsixLayout {
            capability: at,
            vectors: (control & 0x7ff) + 1,
            table: place(at + 4, &*self.shadow),
            pending: place(at + 8, &*self.shadow),
        });
        self.emulate(at, MSIX_SIZE);
        // Enable and mask-all are off after a reset, and writable.
        self.shadow[at + 3] &= !0xc0;
        self.writable[at + 3] = 0xc0;
        true
    }

    fn take_msi(&mut self, at: usize) -> bool {
        let layout = MsiLayout::new(at, u16_at(&*self.shadow, at + 2));
        let size = layout.size();
        if self.msi.is_some() || at + size > register::EXTENDED {
            return false;
        }
        self.msi = Some(layout);
        self.clear(at + 2, size - 2);
        self.shadow[at + 2..at + 4].copy_from_slice(&layout.control().to_le_bytes());
        self.writable[at..at + size].copy_from_slice(&layout.writable());
        true
    }

    fn link_extended(&mut self, length: usize) {
        if length < register::END {
            self.clear(register::EXTENDED, 4);
            return;
        }
        let mut seen = vec![false; register::END];
        let mut next = register::EXTENDED;
        let mut link: Option<usize> = None;
        for _ in 0..WALK_EXTENDED_MAX {
            if next < register::EXTENDED || next + 4 > register::END || seen[next] {
                break;
            }
            seen[next] = true;
            let (at, header) = (next, u32_at(&*self.shadow, next));
            if header == 0 || header == u32::MAX {
                break;
            }
            next = (header >> 20) as usize & !3;
            self.emulate(at, 4);
            let id = (header & 0xffff) as u16;
            if !SHOWN_EXTENDED.contains(&id) {
                self.clear(at, 4);
                if at != register::EXTENDED {
                    continue;
                }
            }
            // The first header always stands, as an empty one if need be, since the list starts
            // there (PCIe base spec 6.0, 7.6.1).
            self.set_next(at, 0);
            if let Some(link) = link {
                self.set_next(link, at);
            }
            link = Some(at);
        }
        if link.is_none() {
            self.clear(register::EXTENDED, 4);
        }
    }

    fn set_next(&mut self, at: usize, next: usize) {
        let header = u32_at(&*self.shadow, at) & 0x000f_ffff | (next as u32) << 20;
        self.shadow[at..at + 4].copy_from_slice(&header.to_le_bytes());
    }
}

/// How many bytes of the capability at `at` may be emulated, as far as there is room.
fn emulated_length(config: &[u8], at: usize) -> usize {
    let length = match config[at] {
        capability::MSIX => MSIX_SIZE,
        capability::MSI => MsiLayout::new(at, u16_at(config, at + 2)).size(),
        _ => 4,
    };
    length.min(register::EXTENDED - at)
}

/// The command register as far as it decides where BARs decode: a function that is powered down
/// decodes nothing.
pub fn effective_command(command: u16, power_control: Option<u16>) -> u16 {
    match power_control {
        Some(control) if control & POWER_STATE == D3_HOT => {
            command & !(register::COMMAND_MEMORY | register::COMMAND_IO)
        }
        _ => command,
    }
}

fn u16_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes([bytes[at], bytes[at + 1]])
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from(u16_at(bytes, at)) | u32::from(u16_at(bytes, at + 2)) << 16
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An igb VF as its registers read after a reset: MSI-X at 0x70, PCIe at 0xa0, then AER at
    /// 0x100, ARI at 0x150 and SR-IOV's neighbour TPH at 0x1a0; and vital product data at 0x90.
    fn igbvf() -> Vec<u8> {
        let mut config = vec![0; register::END];
        config[..4].copy_from_slice(&[0x86, 0x80, 0xca, 0x10]);
        config[register::STATUS] = 0x10;
        config[register::HEADER_TYPE] = 0x80;
        config[register::CAPABILITIES] = 0x70;
        config[0x70..0x7c].copy_from_slice(&[0x11, 0x90, 2, 0x80, 3, 0, 0, 0, 3, 0x20, 0, 0]);
        config[0x90..0x94].copy_from_slice(&[0x03, 0xa0, 0xff, 0xff]);
        config[0xa0..0xa4].copy_from_slice(&[0x10, 0x00, 2, 0]);
        config[0x100..0x104].copy_from_slice(&(0x150 << 20 | 0x1_0001u32).to_le_bytes());
        config[0x150..0x154].copy_from_slice(&(0x1a0 << 20 | 0x1_000eu32).to_le_bytes());
        config[0x1a0..0x1a4].copy_from_slice(&0x1_0003u32.to_le_bytes());
        config
    }

    fn view(filter: &Filter, device: &[u8], offset: usize) -> u32 {
        let mut data = [0; 4];
        data.copy_from_slice(&device[offset..offset + 4]);
        filter.overlay(offset, &mut data);
        u32::from_le_bytes(data)
    }

    #[test]
    fn only_listed_capabilities_are_shown() {
        let device = igbvf();
        let filter = Filter::new(&device).unwrap();
        assert_eq!(view(&filter, &device, 0x34) & 0xff, 0x70);
        assert_eq!(view(&filter, &device, 0x70) & 0xffff, 0xa011);
        assert_eq!(view(&filter, &device, 0xa0) & 0xffff, 0x0010);
        assert_eq!(view(&filter, &device, 0x90), 0);
        assert_eq!(view(&filter, &device, 0x100), 0x1a0 << 20 | 0x1_0001);
        assert_eq!(view(&filter, &device, 0x150), 0);
        assert_eq!(view(&filter, &device, 0x1a0), 0x1_0003);
        assert_eq!(view(&filter, &device, 0x0c) >> 16 & 0xff, 0, "one function");
    }

    #[test]
    fn a_hidden_first_extended_capability_leaves_an_empty_header() {
        let mut device = igbvf();
        device[0x100..0x104].copy_from_slice(&(0x1a0 << 20 | 0x1_0010u32).to_le_bytes());
        let filter = Filter::new(&device).unwrap();
        assert_eq!(view(&filter, &device, 0x100), 0x1a0 << 20);
    }

    #[test]
    fn msix_control_is_ours_also_as_part_of_a_dword() {
        let device = igbvf();
        let mut filter = Filter::new(&device).unwrap();
        let layout = filter.msix().unwrap();
        assert_eq!((layout.vectors, layout.table, layout.pending), (3, (3, 0), (3, 0x2000)));
        assert_eq!(filter.write(0x70, &[0, 0, 0, 0xff]), []);
        assert_eq!(filter.msix_control(0x70, 4), Some(0xc002));
        assert_eq!(filter.msix_control(0x74, 4), None);
        let whole = std::slice::from_ref(&(0..2));
        assert_eq!(filter.write(register::COMMAND, &[7, 0]), whole, "the command is the device's");
        assert_eq!(filter.write(register::BARS, &[0xff; 4]), []);
    }

    /// A card with MSI of 4 vectors, 64 bits of address and masks at 0x50, written to by the host.
    fn card() -> Vec<u8> {
        let mut config = igbvf();
        config[0x71] = 0x50;
        config[0x50..0x54].copy_from_slice(&[0x05, 0xa0, 0x85, 0x03]);
        config[0x54..0x68].fill(0xee);
        config
    }

    #[test]
    fn msi_is_ours_and_starts_empty() {
        let device = card();
        let mut filter = Filter::new(&device).unwrap();
        let layout = filter.msi().unwrap();
        assert_eq!((layout.capability, layout.vectors, layout.size()), (0x50, 4, 24));
        assert_eq!(view(&filter, &device, 0x50), 0x0184_a005, "no extended data, not enabled");
        assert_eq!(view(&filter, &device, 0x54), 0);
        assert_eq!(filter.write(0x52, &[0xff; 22]), []);
        assert_eq!(view(&filter, &device, 0x50), 0x01f5_a005);
        assert_eq!(view(&filter, &device, 0x5c), 0xffff);
        assert_eq!(view(&filter, &device, 0x60), 0xf, "masks of its 4 vectors");
        assert_eq!(view(&filter, &device, 0x64), 0, "pending bits");
        assert_eq!(filter.msi_registers(0x64, 8).map(<[u8]>::len), Some(24));
        assert_eq!(filter.msi_registers(0x68, 4), None);
        let mut device = card();
        device[0x71] = 0xf0;
        device[0xf0..0xf4].copy_from_slice(&[0x05, 0, 0x80, 1]);
        assert_eq!(Filter::new(&device).unwrap().msi(), None, "it would pass the end");
    }

    #[test]
    fn a_pin_is_shown_only_where_it_leads_somewhere() {
        let mut device = igbvf();
        device[register::INTERRUPT..register::INTERRUPT + 2].copy_from_slice(&[11, 3]);
        let mut filter = Filter::new(&device).unwrap();
        assert_eq!(view(&filter, &device, register::INTERRUPT) & 0xffff, 0);
        filter.show_pin();
        assert_eq!(filter.write(register::INTERRUPT, &[7, 9]), []);
        assert_eq!(view(&filter, &device, register::INTERRUPT) & 0xffff, 0x107);
    }

    #[test]
    fn emulated_bytes_never_reach_the_device() {
        let mut filter = Filter::new(&igbvf()).unwrap();
        // Across the end of MSI-X, of a hidden capability, and around the header type.
        let last_half = std::slice::from_ref(&(2..4));
        assert_eq!(filter.write(0x7a, &[0xff; 4]), last_half);
        assert_eq!(filter.write(0x92, &[0xff; 4]), last_half);
        assert_eq!(filter.write(0x0c, &[0xff; 4]), [0..2, 3..4]);
        assert_eq!(filter.write(register::END - 1, &[0xff; 4]), std::slice::from_ref(&(0..1)));
    }

    #[test]
    fn a_function_that_is_powered_down_decodes_nothing() {
        assert_eq!(effective_command(6, None), 6);
        assert_eq!(effective_command(6, Some(0x100)), 6);
        assert_eq!(effective_command(7, Some(0x103)), 4);
        let mut device = igbvf();
        device[0x91] = 0x40;
        device[0x40..0x42].copy_from_slice(&[capability::POWER_MANAGEMENT, 0xa0]);
        assert_eq!(Filter::new(&device).unwrap().power_control(), Some(0x44));
    }

    #[test]
    fn a_capability_within_another_is_not_shown() {
        let mut device = card();
        // Power management within MSI, whose address a guest may write.
        device[0x51] = 0x54;
        device[0x54..0x56].copy_from_slice(&[capability::POWER_MANAGEMENT, 0xa0]);
        let mut filter = Filter::new(&device).unwrap();
        assert_eq!(view(&filter, &device, 0x50) & 0xffff, 0xa005, "the one after it is");
        filter.write(0x54, &[0x10, 0x90]);
        assert_eq!(view(&filter, &device, 0x54) & 0xffff, 0x9010, "plain bits of MSI's address");
        // The other way round, MSI has no place.
        device[0x34] = 0x54;
        device[0x55] = 0x50;
        let filter = Filter::new(&device).unwrap();
        assert_eq!((filter.msi(), filter.power_control()), (None, Some(0x58)));
    }

    #[test]
    fn hostile_lists_end() {
        let mut device = igbvf();
        device[0x71] = 0x70;
        device[0x1a0..0x1a4].copy_from_slice(&(0x100 << 20 | 0x1_0003u32).to_le_bytes());
        let filter = Filter::new(&device).unwrap();
        assert_eq!(view(&filter, &device, 0x70) & 0xffff, 0x0011);
        assert_eq!(view(&filter, &device, 0x1a0), 0x1_0003);
        device[register::CAPABILITIES] = 0xfc;
        device[0xfc] = capability::MSIX;
        assert_eq!(Filter::new(&device).unwrap().msix(), None, "it would pass the end");
        assert!(Filter::new(&[0xff; register::END]).is_err());
        assert!(Filter::new(&[0; 64]).is_err());
        device[register::HEADER_TYPE] = 1;
        assert!(Filter::new(&device).is_err_and(|text| text.contains("bridge")));
    }
}
