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
//! RAM stays clear of 0xfee0_0000, which no IOMMU translates.

use std::ops::Range;

use crate::error::{Error, Result};

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

/// The parts of the layout that depend on the guest's size and on the CPU.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Layout {
    /// RAM, ascending, one or two ranges.
    pub ram: Vec<Range<u64>>,
    /// 64-bit PCI window.
    pub window_64: Range<u64>,
}

impl Layout {
    /// Lays out `memory` bytes of RAM for a CPU with `physical_bits` of physical address.
    ///
    /// # Errors
    /// [`Error::Spec`] where RAM and a PCI window do not fit below `2^physical_bits`.
    pub fn new(memory: u64, physical_bits: u8) -> Result<Self> {
        let limit = 1u64 << physical_bits.clamp(36, 52);
        let low = memory.min(LOW_RAM_END);
        let end = HIGH_RAM_START.checked_add(memory - low).filter(|&end| end < limit);
        let end = end.ok_or_else(|| {
            Error::Spec(format!("{memory} bytes of memory do not fit below the CPU's {limit:#x}"))
        })?;
        let ram = [0..low, HIGH_RAM_START..end].into_iter().filter(|range| !range.is_empty());
        let ram: Vec<_> = ram.collect();
        // The largest power of two that still fits above RAM, aligned to itself so that BARs of
        // any size can be aligned within it.
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

    /// End of RAM below 4 GiB.
    pub fn low_ram_end(&self) -> u64 {
        self.ram[0].end
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn small_guests_have_one_range() {
        let layout = Layout::new(512 << 20, 40).unwrap();
        assert_eq!(layout.ram, std::slice::from_ref(&(0..512 << 20)));
        assert!(layout.window_64.start >= HIGH_RAM_START && layout.window_64.end <= 1 << 40);
    }

    #[test]
    fn ram_never_covers_the_msi_window() {
        for gib in [1u64, 3, 4, 64, 512] {
            let layout = Layout::new(gib << 30, 46).unwrap();
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
        assert!(Layout::new(1 << 40, 40).is_err());
        assert!(Layout::new(u64::MAX - 4095, 52).is_err());
    }
}
