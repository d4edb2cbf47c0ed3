//! Which device answers at an address: one [`Bus`] for memory-mapped I/O and one for I/O ports.
//!
//! Devices come and go while vCPUs run (a guest moves a BAR), so the lock is held for the look-up
//! only: a device's own handler may change the bus it was reached through.

use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError, RwLock};

/// Something that answers accesses within a range. Offsets are relative to the range's start, and
/// an access never crosses its end.
pub trait Access: Send + Sync {
    /// Fills `data` with what a read at `offset` returns.
    fn read(&self, offset: u64, data: &mut [u8]);
    /// Takes a write of `data` at `offset`.
    fn write(&self, offset: u64, data: &[u8]);
}

struct Range {
    length: u64,
    device: Arc<dyn Access>,
}

/// A range could not be added because another one is there.
#[derive(Debug, PartialEq, Eq)]
pub struct Overlap;

/// An address space of devices. Reads of nothing give all ones, writes to nothing are dropped, as
/// on a PCI bus.
#[derive(Default)]
pub struct Bus {
    ranges: RwLock<BTreeMap<u64, Range>>,
}

impl Bus {
    /// Lets `device` answer `length` bytes from `base` on.
    ///
    /// # Errors
    /// [`Overlap`] where a byte of the range is taken, or it is empty or passes 2^64.
    pub fn insert(&self, base: u64, length: u64, device: Arc<dyn Access>) -> Result<(), Overlap> {
        let mut ranges = self.ranges.write().unwrap_or_else(PoisonError::into_inner);
        find_room(&ranges, base, length)?;
        ranges.insert(base, Range { length, device });
        Ok(())
    }

    /// Test support: whether nothing is in a range that is not empty.
    #[cfg(any(test, feature = "simulated"))]
    pub fn is_free(&self, range: &std::ops::Range<u64>) -> bool {
        let ranges = self.ranges.read().unwrap_or_else(PoisonError::into_inner);
        find_room(&ranges, range.start, range.end - range.start).is_ok()
    }

    /// Removes the range that starts at `base`, if there is one.
    pub fn remove(&self, base: u64) {
        self.ranges.write().unwrap_or_else(PoisonError::into_inner).remove(&base);
    }

    /// Reads at `address`.
    pub fn read(&self, address: u64, data: &mut [u8]) {
        match self.find(address, data.len()) {
            Some((device, offset)) => device.read(offset, data),
            None => data.fill(0xff),
        }
    }

    /// Writes at `address`.
    pub fn write(&self, address: u64, data: &[u8]) {
        if let Some((device, offset)) = self.find(address, data.len()) {
            device.write(offset, data);
        }
    }

    fn find(&self, address: u64, length: usize) -> Option<(Arc<dyn Access>, u64)> {
        let ranges = self.ranges.read().unwrap_or_else(PoisonError::into_inner);
        let (start, range) = ranges.range(..=address).next_back()?;
        let offset = address - start;
        let end = offset.checked_add(length as u64)?;
        (end <= range.length).then(|| (range.device.clone(), offset))
    }
}

fn find_room(ranges: &BTreeMap<u64, Range>, base: u64, length: u64) -> Result<(), Overlap> {
    let end = base.checked_add(length).filter(|_| length > 0).ok_or(Overlap)?;
    let neighbour = ranges.range(..end).next_back();
    let is_taken = |(start, range): (&u64, &Range)| start.saturating_add(range.length) > base;
    if neighbour.is_some_and(is_taken) { Err(Overlap) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Fixed(u8);

    impl Access for Fixed {
        fn read(&self, offset: u64, data: &mut [u8]) {
            data.fill(self.0.wrapping_add(offset as u8));
        }
        fn write(&self, _: u64, _: &[u8]) {}
    }

    fn read(bus: &Bus, address: u64) -> u8 {
        let mut byte = [0];
        bus.read(address, &mut byte);
        byte[0]
    }

    #[test]
    fn each_address_has_one_device() {
        let bus = Bus::default();
        bus.insert(0x1000, 0x100, Arc::new(Fixed(1))).unwrap();
        bus.insert(0x1100, 0x100, Arc::new(Fixed(2))).unwrap();
        for (base, length) in [(0x0fff, 2), (0x1000, 1), (0x10ff, 1), (0xf00, 0x1000), (0x11ff, 9)]
        {
            assert_eq!(bus.insert(base, length, Arc::new(Fixed(3))), Err(Overlap), "{base:#x}");
        }
        assert_eq!((read(&bus, 0x1000), read(&bus, 0x1101)), (1, 3));
        assert_eq!((read(&bus, 0xfff), read(&bus, 0x1200)), (0xff, 0xff));
    }

    #[test]
    fn nothing_crosses_the_end_of_a_range() {
        let bus = Bus::default();
        bus.insert(0x1000, 4, Arc::new(Fixed(0))).unwrap();
        let mut data = [0; 4];
        bus.read(0x1002, &mut data);
        assert_eq!(data, [0xff; 4]);
        assert_eq!(bus.insert(u64::MAX, 2, Arc::new(Fixed(0))), Err(Overlap));
        assert_eq!(bus.insert(0x2000, 0, Arc::new(Fixed(0))), Err(Overlap));
    }

    #[test]
    fn a_removed_range_is_free_again() {
        let bus = Bus::default();
        bus.insert(0x1000, 0x1000, Arc::new(Fixed(7))).unwrap();
        bus.remove(0x1000);
        assert_eq!(read(&bus, 0x1000), 0xff);
        bus.insert(0x1800, 0x1000, Arc::new(Fixed(7))).unwrap();
    }
}
