//! One BAR of a passed-through device: mapped into the guest where it can be, trapped where it
//! must be, which is around the MSI-X table.

use std::os::fd::AsFd;
use std::ptr::NonNull;
use std::sync::{Arc, Mutex};

use rustix::mm::{MapFlags, ProtFlags, mmap, munmap};

use super::container::page_size;
use super::sys::{Device, RegionInfo};
use crate::bus::{Access, Bus};
use crate::error::{Result, Trying};
use crate::machine::memory::{Slot, Slots};
use crate::pci::msix::Msix;

/// Part of a BAR that belongs to MSI-X: the bytes the guest must not reach directly.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MsixPart {
    /// Offset of the table in the BAR and its length in bytes, if it is in this BAR.
    pub table: Option<(u64, u64)>,
    /// The same of the pending bits.
    pub pending: Option<(u64, u64)>,
}

/// The page-aligned ranges of a BAR that the guest may reach directly: what the kernel lets us
/// map, without any page that holds a byte of `trapped`.
pub fn direct_ranges(
    mappable: &[(u64, u64)],
    trapped: &[(u64, u64)],
    page: u64,
) -> Vec<(u64, u64)> {
    let mut holes: Vec<(u64, u64)> = trapped
        .iter()
        .map(|&(start, length)| {
            let end = start.saturating_add(length).checked_next_multiple_of(page);
            (start / page * page, end.unwrap_or(u64::MAX))
        })
        .collect();
    holes.sort_unstable();
    let mut ranges = Vec::new();
    for &(start, length) in mappable {
        let end = start.saturating_add(length) / page * page;
        let mut from = start.next_multiple_of(page);
        for &(hole, hole_end) in &holes {
            if hole >= end || hole_end <= from {
                continue;
            }
            if hole > from {
                ranges.push((from, hole - from));
            }
            from = from.max(hole_end);
        }
        if from < end {
            ranges.push((from, end - from));
        }
    }
    ranges
}

/// A mapping of part of a BAR in this process.
struct Mapping {
    offset: u64,
    length: u64,
    host: NonNull<u8>,
}

// SAFETY: the pointer is only passed on to KVM and to munmap, never followed.
unsafe impl Send for Mapping {}
// SAFETY: as above; no method follows the pointer.
unsafe impl Sync for Mapping {}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: the range was mapped by `BarRegion::new`, nothing refers to it, and its KVM slot
        // was removed when the BAR was hidden.
        let _ = unsafe { munmap(self.host.as_ptr().cast(), self.length as usize) };
    }
}

/// A memory BAR and its places in the guest.
pub struct BarRegion {
    name: String,
    info: RegionInfo,
    trap: Arc<Trap>,
    mappings: Vec<Mapping>,
    shown: Mutex<Vec<Slot>>,
    slots: Arc<Slots>,
    bus: Arc<Bus>,
}

impl BarRegion {
    /// Maps what can be mapped of the region.
    ///
    /// # Errors
    /// Where the kernel refuses a mapping that it announced.
    pub fn new(
        name: String,
        device: Arc<Device>,
        info: RegionInfo,
        msix: Option<(Arc<Mutex<Msix>>, MsixPart)>,
        slots: Arc<Slots>,
        bus: Arc<Bus>,
    ) -> Result<Self> {
        let trapped: Vec<_> =
            msix.iter().flat_map(|(_, part)| [part.table, part.pending]).flatten().collect();
        let mut mappings = Vec::new();
        for (offset, length) in direct_ranges(&info.mappable, &trapped, page_size()) {
            let protection = ProtFlags::READ | ProtFlags::WRITE;
            let at = info.offset + offset;
            // SAFETY: a new mapping at an address of the kernel's choice; its pointer is kept for
            // KVM and never followed here.
            let host = unsafe {
                mmap(
                    std::ptr::null_mut(),
                    length as usize,
                    protection,
                    MapFlags::SHARED,
                    device.as_fd(),
                    at,
                )
            }
            .system("map a BAR")?;
            if let Some(host) = NonNull::new(host.cast()) {
                mappings.push(Mapping { offset, length, host });
            }
        }
        let trap = Arc::new(Trap { device, start: info.offset, msix });
        Ok(BarRegion { name, info, trap, mappings, shown: Mutex::default(), slots, bus })
    }

    /// Makes the BAR appear at `address` of the guest. Returns whether there was room: another
    /// BAR may be there.
    ///
    /// # Errors
    /// Where KVM refuses; the BAR is then not shown at all.
    pub fn show(&self, address: u64) -> Result<bool> {
        if self.bus.insert(address, self.info.size, self.trap.clone()).is_err() {
            return Ok(false);
        }
        let mut shown = crate::lock(&self.shown);
        for mapping in &self.mappings {
            // SAFETY: the mapping lives as long as this region, which hides the BAR before it
            // goes; it is device memory that the guest may use as it likes.
            let added = unsafe {
                self.slots.add(address + mapping.offset, mapping.host.as_ptr(), mapping.length)
            };
            match added {
                Ok(slot) => shown.push(slot),
                Err(error) => {
                    drop(shown);
                    self.hide(address);
                    return Err(error);
                }
            }
        }
        Ok(true)
    }

    /// Takes the BAR away from where [`BarRegion::show`] put it.
    pub fn hide(&self, address: u64) {
        for slot in crate::lock(&self.shown).drain(..) {
            if let Err(error) = self.slots.remove(slot) {
                eprintln!("assign-vmm: {}: {error}", self.name);
            }
        }
        self.bus.remove(address);
    }
}

/// Answers what is not mapped, from the device or from the MSI-X state.
struct Trap {
    device: Arc<Device>,
    start: u64,
    msix: Option<(Arc<Mutex<Msix>>, MsixPart)>,
}

/// `offset` relative to a range of a BAR, if the access begins in it.
fn within(range: Option<(u64, u64)>, offset: u64) -> Option<usize> {
    let (start, length) = range?;
    let relative = offset.checked_sub(start)?;
    (relative < length).then_some(relative as usize)
}

impl Access for Trap {
    fn read(&self, offset: u64, data: &mut [u8]) {
        if let Some((msix, part)) = &self.msix {
            if let Some(at) = within(part.table, offset) {
                return crate::lock(msix).read_table(at, data);
            }
            if let Some(at) = within(part.pending, offset) {
                return crate::lock(msix).read_pending(at, data);
            }
        }
        if self.device.read(self.start + offset, data).is_err() {
            // A device that does not answer reads as ones on a real bus, too.
            data.fill(0xff);
        }
    }

    fn write(&self, offset: u64, data: &[u8]) {
        if let Some((msix, part)) = &self.msix {
            if let Some(at) = within(part.table, offset) {
                return crate::lock(msix).write_table(at, data);
            }
            if within(part.pending, offset).is_some() {
                return;
            }
        }
        // A write to a device that does not answer is lost on a real bus, too.
        let _ = self.device.write(self.start + offset, data);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_msix_table_is_never_mapped() {
        assert_eq!(direct_ranges(&[(0, 0x4000)], &[], 0x1000), [(0, 0x4000)]);
        assert_eq!(
            direct_ranges(&[(0, 0x4000)], &[(0, 48), (0x2000, 8)], 0x1000),
            [(0x1000, 0x1000), (0x3000, 0x1000)]
        );
        assert_eq!(direct_ranges(&[(0, 0x4000)], &[(0xff8, 16)], 0x1000), [(0x2000, 0x2000)]);
        assert_eq!(direct_ranges(&[(0, 0x1000)], &[(0x800, 16)], 0x1000), []);
        assert_eq!(
            direct_ranges(&[(0, 0x1000), (0x3000, 0x800)], &[], 0x1000),
            [(0, 0x1000)],
            "less than a page is not mapped"
        );
        assert_eq!(direct_ranges(&[(0, 0x1000)], &[(u64::MAX - 8, 16)], 0x1000), [(0, 0x1000)]);
    }
}
