//! Where everything lies in the guest's physical address space.
//!
//! ```text
//! 0            RAM (the first MiB holds boot structures and, from 0xe0000, the ACPI tables)
//! 3 GiB        32-bit PCI window
//! 0xe000_0000  PCIe configuration space (ECAM), bus 0
//! 0xfec0_0000  I/O APIC          0xfee0_0000  local APICs and the MSI window
//! 0xfffb_c000  pages KVM needs on Intel hosts
//! 4 GiB        the rest of the RAM
//! above        64-bit PCI window, aligned to its size
//! ```
//! RAM stays clear of 0xfee0_0000, which no IOMMU translates, of what else the IOMMU of this host
//! reserves, and on AMD of [`HYPERTRANSPORT`]: where a device cannot reach RAM at an I/O address equal
//! to the guest's, there is none, and as much more behind the last of it.

use std::ops::Range;

use crate::error::{Error, Result};
use crate::spec::{AddressRange, MIN_MEMORY};

/// First byte of the 32-bit PCI window, and end of low RAM.
pub const LOW_RAM_END: u64 = 0xc000_0000;
/// 32-bit PCI window, for BARs that cannot hold more.
pub const WINDOW_32: Range<u64> = LOW_RAM_END..ECAM_BASE;
/// I/O ports of PCI devices, above those of devices at fixed ports.
pub const WINDOW_IO: Range<u64> = 0x1000..0x1_0000;
/// Configuration space of bus 0: 32 devices of 8 functions of 4 KiB (PCIe base spec 6.0, 7.2.2).
pub const ECAM_BASE: u64 = 0xe000_0000;
/// Size of it in bytes.
pub const ECAM_SIZE: u64 = 1 << 20;
/// The I/O APIC's page.
pub const IO_APIC: u64 = 0xfec0_0000;
/// The local APICs' page.
pub const LOCAL_APIC: u64 = 0xfee0_0000;
/// One page for KVM's identity map on Intel hosts, followed by three for its TSS.
pub const KVM_IDENTITY_MAP: u64 = 0xfffb_c000;
/// Three pages KVM needs on Intel hosts.
pub const KVM_TSS: u64 = KVM_IDENTITY_MAP + 0x1000;
/// First byte of high RAM.
pub const HIGH_RAM_START: u64 = 1 << 32;
/// End of the memory a real-mode BIOS would own; ordinary RAM resumes here.
pub const HIGH_MEMORY_START: u64 = 0x10_0000;
/// End of conventional memory; from here to 1 MiB no RAM is announced.
pub const CONVENTIONAL_END: u64 = 0xa_0000;
/// What firmware would own, which kernels search and do not use as RAM.
pub const FIRMWARE: Range<u64> = 0xe_0000..HIGH_MEMORY_START;
/// ACPI tables: all of that but the reset vector's page.
pub const ACPI_TABLES: Range<u64> = FIRMWARE.start..FIRMWARE.end - 0x1000;

/// Largest 64-bit PCI window: ample for a guest full of GPUs.
const WINDOW_64_SIZE: u64 = 1 << 40;
/// No BAR smaller than this needs the high window alone.
const WINDOW_64_LEAST: u64 = 1 << 34;

/// What AMD's processors keep for HyperTransport, for the IOMMU as for the CPU (AMD I/O Virtualization
/// Technology Specification 3.08, 2.1.4).
pub const HYPERTRANSPORT: AddressRange =
    AddressRange { first: 0xfd_0000_0000, last: 0xff_ffff_ffff };
/// RAM begins and ends at multiples of this around a reserved range, so that the IOMMU's large pages
/// go on beside it.
const GRAIN: u64 = 2 << 20;
/// More ranges of RAM than any IOMMU leaves; the memory maps of all ways to boot have room for them.
const MOST_RANGES: usize = 64;

/// The parts of the layout that depend on the guest's size, on the CPU and on the IOMMU.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Layout {
    /// RAM, ascending, at least one range.
    pub ram: Vec<Range<u64>>,
    /// 64-bit PCI window.
    pub window_64: Range<u64>,
}

impl Layout {
    /// Lays out `memory` bytes of RAM for a CPU with `physical_bits` of physical address, leaving out
    /// what is `reserved`.
    ///
    /// # Errors
    /// [`Error::Spec`] where RAM and a PCI window do not fit below `2^physical_bits`, or what is
    /// reserved leaves no room for a kernel at the bottom.
    pub fn new(memory: u64, physical_bits: u8, reserved: &[AddressRange]) -> Result<Self> {
        let limit = 1u64 << physical_bits.clamp(36, 52);
        let ram = ram(memory, limit, reserved)?;
        // The largest power of two that still fits above RAM, aligned to itself so that BARs of
        // any size can be aligned within it.
        let end = ram.last().map_or(0, |range| range.end).max(HIGH_RAM_START);
        let mut size = WINDOW_64_SIZE;
        while size >= WINDOW_64_LEAST {
            let start = end.next_multiple_of(size);
            if start.checked_add(size).is_some_and(|end| end <= limit) {
                return Ok(Layout { ram, window_64: start..start + size });
            }
            size >>= 1;
        }
        Err(Error::Spec(format!(
            "{memory} bytes of memory leave no room for PCI devices below the CPU's {limit:#x}"
        )))
    }

    /// End of the RAM that begins at 0, in which the kernel and all it is told lie.
    pub fn low_ram_end(&self) -> u64 {
        self.ram[0].end
    }
}

/// Fills what is neither a hole nor reserved from the bottom on.
fn ram(memory: u64, limit: u64, reserved: &[AddressRange]) -> Result<Vec<Range<u64>>> {
    let mut holes: Vec<_> = std::iter::once(LOW_RAM_END..HIGH_RAM_START).collect();
    // What lies beyond the CPU's reach is in nobody's way.
    let reachable = reserved.iter().filter(|range| range.first < limit);
    holes.extend(reachable.map(|range| {
        let end = range.last.saturating_add(1).checked_next_multiple_of(GRAIN);
        range.first / GRAIN * GRAIN..end.unwrap_or(u64::MAX)
    }));
    holes.sort_unstable_by_key(|hole| hole.start);
    let (mut ram, mut left, mut from) = (Vec::new(), memory, 0);
    for hole in holes.into_iter().chain(std::iter::once(limit..u64::MAX)) {
        let room = hole.start.saturating_sub(from);
        let size = room.min(left);
        if size > 0 {
            ram.push(from..from + size);
            left -= size;
        }
        from = from.max(hole.end);
    }
    if left > 0 {
        let without = if reserved.is_empty() { "" } else { ", without what the IOMMU reserves" };
        return Err(Error::Spec(format!(
            "{memory} bytes of memory do not fit below the CPU's {limit:#x}{without}"
        )));
    }
    let least = MIN_MEMORY.min(memory);
    if ram.first().is_none_or(|range| range.start > 0 || range.end < least) {
        return Err(Error::Spec(format!(
            "the IOMMU reserves addresses below {least:#x}, where the guest's kernel has to lie"
        )));
    }
    if ram.len() > MOST_RANGES {
        return Err(Error::Spec(format!(
            "the IOMMU reserves so much that memory falls into {} parts; at most {MOST_RANGES} are \
             possible",
            ram.len()
        )));
    }
    Ok(ram)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn range(first: u64, last: u64) -> AddressRange {
        AddressRange { first, last }
    }

    #[test]
    fn small_guests_have_one_range() {
        let layout = Layout::new(512 << 20, 40, &[]).unwrap();
        assert_eq!(layout.ram, std::slice::from_ref(&(0..512 << 20)));
        assert!(layout.window_64.start >= HIGH_RAM_START && layout.window_64.end <= 1 << 40);
    }

    #[test]
    fn ram_never_covers_the_msi_window() {
        for gib in [1u64, 3, 4, 64, 512] {
            let layout = Layout::new(gib << 30, 46, &[]).unwrap();
            let total: u64 = layout.ram.iter().map(|range| range.end - range.start).sum();
            assert_eq!(total, gib << 30);
            assert!(layout.ram.iter().all(|r| r.end <= LOW_RAM_END || r.start >= HIGH_RAM_START));
            assert!(layout.window_64.start >= layout.ram.last().unwrap().end);
            let size = layout.window_64.end - layout.window_64.start;
            assert!(layout.window_64.start.is_multiple_of(size));
        }
    }

    #[test]
    fn too_much_memory_is_refused() {
        assert!(Layout::new(1 << 40, 40, &[]).is_err());
        assert!(Layout::new(u64::MAX - 4095, 52, &[]).is_err());
        let all_high = range(HIGH_RAM_START, u64::MAX);
        let error = Layout::new(4 << 30, 40, &[all_high]).unwrap_err().to_string();
        assert!(error.contains("without what the IOMMU reserves"), "{error}");
    }

    #[test]
    fn a_large_guest_goes_on_behind_hypertransport() {
        let layout = Layout::new(2 << 40, 48, &[HYPERTRANSPORT]).unwrap();
        let [low, middle, high] = &layout.ram[..] else { panic!("{layout:x?}") };
        assert_eq!((low.clone(), middle.start), (0..LOW_RAM_END, HIGH_RAM_START));
        assert_eq!((middle.end, high.start), (0xfd_0000_0000, 1 << 40));
        let small = Layout::new(1 << 40, 48, &[]).unwrap();
        assert_eq!(small.ram.len(), 2, "not for Intel");
    }

    #[test]
    fn the_kernel_has_room_or_is_refused() {
        let error =
            |first, last| Layout::new(1 << 30, 40, &[range(first, last)]).unwrap_err().to_string();
        for (first, last) in [(0, 0), (0xa_0000, 0xb_ffff), (32 << 20, 33 << 20)] {
            assert!(error(first, last).contains("the guest's kernel has to lie"));
        }
        Layout::new(1 << 30, 40, &[range(MIN_MEMORY, MIN_MEMORY)]).unwrap();
        let comb: Vec<_> = (1..100).map(|at| range(at << 30, at << 30)).collect();
        let error = Layout::new(200 << 30, 40, &comb).unwrap_err().to_string();
        assert!(error.contains("at most 64"), "{error}");
    }

    proptest! {
        #[test]
        fn ram_is_whole_and_lies_beside_what_is_reserved(
            mib in 64u64..1 << 22,
            bits in 30u8..60,
            reserved in prop::collection::vec((any::<u64>(), 0u8..64, any::<u32>()), 0..8),
        ) {
            let memory = mib << 20;
            let reserved: Vec<_> = reserved
                .into_iter()
                .map(|(first, shift, length)| {
                    let first = first >> shift;
                    range(first, first.saturating_add(length.into()))
                })
                .collect();
            let Ok(layout) = Layout::new(memory, bits, &reserved) else { return Ok(()) };
            let total: u64 = layout.ram.iter().map(|range| range.end - range.start).sum();
            prop_assert_eq!(total, memory);
            prop_assert!(layout.low_ram_end() >= MIN_MEMORY && layout.ram[0].start == 0);
            let limit = 1u64 << bits.clamp(36, 52);
            let window = layout.window_64.clone();
            prop_assert!(window.start >= HIGH_RAM_START && window.end <= limit);
            let hole = LOW_RAM_END..HIGH_RAM_START;
            let mut before = 0;
            for ram in &layout.ram {
                prop_assert!(!ram.is_empty() && ram.start >= before, "ascending, apart");
                prop_assert!(ram.start.is_multiple_of(GRAIN), "large pages can begin");
                before = ram.end;
                prop_assert!(ram.end <= hole.start || ram.start >= hole.end);
                prop_assert!(ram.end <= window.start);
                for range in &reserved {
                    prop_assert!(ram.end <= range.first || ram.start > range.last);
                }
            }
        }
    }
}
