//! One BAR of a passed-through device: mapped into the guest where it can be, trapped where it
//! must be, which is around the MSI-X table.

use std::ops::Range;
use std::os::fd::AsFd;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use rustix::mm::{MapFlags, ProtFlags, mmap, munmap};

use super::dma::{IoSpace, Mapped, page_size};
use super::sys::{Device, RegionInfo};
use crate::bus::{Access, Bus};
use crate::error::{Result, Trying};
use crate::machine::memory::{Slot, Slots};
use crate::pci::msix::Msix;
use crate::warnings::Warnings;

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
        // SAFETY: the range was mapped by `BarRegion::new`, nothing in this process refers to it,
        // and no KVM slot does: `BarRegion` removes its slots before it drops its mappings.
        let _ = unsafe { munmap(self.host.as_ptr().cast(), self.length as usize) };
    }
}

/// A BAR, of memory or of I/O ports, and its places in the guest.
pub struct BarRegion {
    warnings: Arc<Warnings>,
    info: RegionInfo,
    trap: Arc<Trap>,
    mappings: Vec<Mapping>,
    shown: Mutex<Shown>,
    slots: Arc<Slots>,
    bus: Arc<Bus>,
    peers: Option<Arc<IoSpace>>,
}

/// Where a BAR's mappings are now.
#[derive(Default)]
struct Shown {
    /// For the guest's CPUs.
    slots: Vec<Slot>,
    /// For its devices: I/O address and length in bytes.
    peers: Vec<(u64, u64)>,
}

impl BarRegion {
    /// Maps what can be mapped of the region, which is nothing of I/O ports; `bus` is theirs then.
    /// The guest's devices are to reach it if they are in an address space, `peers`. What the kernel
    /// announced and does not let be mapped is trapped.
    pub fn new(
        warnings: Arc<Warnings>,
        device: Arc<Device>,
        info: RegionInfo,
        msix: Option<(Arc<Mutex<Msix>>, MsixPart)>,
        slots: Arc<Slots>,
        bus: Arc<Bus>,
        peers: Option<Arc<IoSpace>>,
    ) -> Self {
        let trapped: Vec<_> =
            msix.iter().flat_map(|(_, part)| [part.table, part.pending]).flatten().collect();
        let mut mappings = Vec::new();
        for (offset, length) in direct_ranges(&info.mappable, &trapped, page_size()) {
            let protection = ProtFlags::READ | ProtFlags::WRITE;
            let at = info.offset + offset;
            // SAFETY: a new mapping at an address of the kernel's choice; its pointer is kept for
            // KVM and never followed here.
            let mapped = unsafe {
                mmap(
                    std::ptr::null_mut(),
                    length as usize,
                    protection,
                    MapFlags::SHARED,
                    device.as_fd(),
                    at,
                )
            };
            match mapped.system("map a BAR") {
                Ok(host) => mappings.extend(NonNull::new(host.cast()).map(|host| Mapping {
                    offset,
                    length,
                    host,
                })),
                // Every access is an exit then: slow, and as right.
                Err(error) => warnings.say(error),
            }
        }
        let trap = Arc::new(Trap { device, start: info.offset, msix, accesses: AtomicU64::new(0) });
        let shown = Mutex::default();
        BarRegion { warnings, info, trap, mappings, shown, slots, bus, peers }
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
                Ok(slot) => shown.slots.push(slot),
                Err(error) => {
                    drop(shown);
                    self.hide(address);
                    return Err(error);
                }
            }
        }
        self.show_to_peers(address, &mut shown);
        Ok(true)
    }

    /// Lets other devices reach the BAR where the CPUs do. The guest goes on without if that fails.
    fn show_to_peers(&self, address: u64, shown: &mut Shown) {
        let Some(space) = &self.peers else { return };
        for mapping in &self.mappings {
            let (at, host) = (address + mapping.offset, mapping.host.as_ptr());
            // SAFETY: the mapping lives as long as this region, which takes it from the devices
            // before it goes; it is device memory that the guest's devices may use as the guest does.
            let mapped = unsafe { space.mapper().map(at, host, mapping.length, Mapped::Registers) };
            match mapped {
                Ok(()) => shown.peers.push((at, mapping.length)),
                // The others would fail for the same reason.
                Err(error) => return self.warnings.say(error),
            }
        }
    }

    /// Takes the BAR away from where [`BarRegion::show`] put it.
    pub fn hide(&self, address: u64) {
        self.take_away(&mut crate::lock(&self.shown));
        self.bus.remove(address);
    }

    /// Accesses so far that were not direct: each has cost an exit.
    pub fn accesses(&self) -> u64 {
        self.trap.accesses.load(Ordering::Relaxed)
    }

    /// Whether neither the guest's CPUs nor its devices reach the mappings any more.
    fn take_away(&self, shown: &mut Shown) -> bool {
        if let Some(space) = &self.peers {
            shown.peers.retain(|&(at, length)| {
                let unmapped = space.mapper().unmap(at, length);
                unmapped.inspect_err(|error| self.warnings.say(error)).is_err()
            });
        }
        shown.slots.retain(|&slot| {
            let removed = self.slots.remove(slot);
            removed.inspect_err(|error| self.warnings.say(error)).is_err()
        });
        shown.peers.is_empty() && shown.slots.is_empty()
    }
}

impl Drop for BarRegion {
    fn drop(&mut self) {
        let gone = self.take_away(&mut crate::lock(&self.shown));
        if !gone {
            // The guest may still reach the mappings: better that they stay than that something
            // else comes to lie there.
            std::mem::take(&mut self.mappings).into_iter().for_each(std::mem::forget);
        }
    }
}

/// Answers what is not mapped, from the device or from the MSI-X state.
struct Trap {
    device: Arc<Device>,
    start: u64,
    msix: Option<(Arc<Mutex<Msix>>, MsixPart)>,
    accesses: AtomicU64,
}

/// Who answers for a byte of a BAR, and the offset within what is theirs.
#[derive(Debug, PartialEq, Eq)]
enum Owner {
    Table(usize),
    Pending(usize),
    Device(u64),
}

impl MsixPart {
    /// Whose the byte at `offset` of the BAR is, and how many from there on are the same's.
    fn owner(&self, offset: u64) -> (Owner, u64) {
        let mut rest = u64::MAX;
        let table = (self.table, Owner::Table as fn(usize) -> Owner);
        for (range, owner) in [table, (self.pending, Owner::Pending)] {
            let Some((start, length)) = range else { continue };
            match offset.checked_sub(start) {
                Some(at) if at < length => return (owner(at as usize), length - at),
                Some(_) => {}
                None => rest = rest.min(start - offset),
            }
        }
        (Owner::Device(offset), rest)
    }

    /// Divides an access of `length` bytes at `offset` by whose they are. A guest may make one
    /// that begins in a register of the device and ends in the table, or the other way round.
    fn divide(&self, offset: u64, length: usize) -> Vec<(Owner, Range<usize>)> {
        let mut pieces = Vec::with_capacity(1);
        let mut from = 0;
        while from < length {
            let (owner, rest) = self.owner(offset + from as u64);
            let until = length.min(from.saturating_add(rest as usize));
            pieces.push((owner, from..until));
            from = until;
        }
        pieces
    }
}

impl Trap {
    fn read_device(&self, offset: u64, data: &mut [u8]) {
        if self.device.read(self.start + offset, data).is_err() {
            // A device that does not answer reads as ones on a real bus, too.
            data.fill(0xff);
        }
    }

    fn write_device(&self, offset: u64, data: &[u8]) {
        // A write to a device that does not answer is lost on a real bus, too.
        let _ = self.device.write(self.start + offset, data);
    }
}

impl Access for Trap {
    fn read(&self, offset: u64, data: &mut [u8]) {
        self.accesses.fetch_add(1, Ordering::Relaxed);
        let Some((msix, part)) = &self.msix else { return self.read_device(offset, data) };
        for (owner, piece) in part.divide(offset, data.len()) {
            let data = &mut data[piece];
            match owner {
                Owner::Table(at) => crate::lock(msix).read_table(at, data),
                Owner::Pending(at) => crate::lock(msix).read_pending(at, data),
                Owner::Device(at) => self.read_device(at, data),
            }
        }
    }

    fn write(&self, offset: u64, data: &[u8]) {
        self.accesses.fetch_add(1, Ordering::Relaxed);
        let Some((msix, part)) = &self.msix else { return self.write_device(offset, data) };
        for (owner, piece) in part.divide(offset, data.len()) {
            match owner {
                Owner::Table(at) => crate::lock(msix).write_table(at, &data[piece]),
                // Pending bits are for reading only.
                Owner::Pending(_) => {}
                Owner::Device(at) => self.write_device(at, &data[piece]),
            }
        }
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
    #[test]
    fn an_access_across_the_table_is_divided() {
        let part = MsixPart { table: Some((0x10, 0x20)), pending: Some((0x30, 8)) };
        assert_eq!(part.divide(0, 8), [(Owner::Device(0), 0..8)]);
        assert_eq!(
            part.divide(0xc, 8),
            [(Owner::Device(0xc), 0..4), (Owner::Table(0), 4..8)],
            "the device's own table is not reached"
        );
        assert_eq!(part.divide(0x2c, 8), [(Owner::Table(0x1c), 0..4), (Owner::Pending(0), 4..8)]);
        assert_eq!(part.divide(0x36, 4), [(Owner::Pending(6), 0..2), (Owner::Device(0x38), 2..4)]);
        let far = MsixPart { table: None, pending: Some((0x30, 8)) };
        assert_eq!(far.divide(0x40, 4), [(Owner::Device(0x40), 0..4)]);
        assert_eq!(far.divide(0x40, 0), []);
    }
}
