//! The root complex: ECAM accesses find the function they are for.

use std::sync::{Arc, PoisonError, RwLock};

use super::config::{ConfigSpace, Identity};
use crate::bus::Access;
use crate::spec::DeviceStats;

/// One function on bus 0.
pub trait PciFunction: Send + Sync {
    /// Reads `data.len()` (1, 2 or 4) bytes of configuration space at `offset` below 4096.
    fn read_config(&self, offset: usize, data: &mut [u8]);
    /// Writes 1, 2 or 4 bytes of configuration space at `offset` below 4096.
    fn write_config(&self, offset: usize, data: &[u8]);
    /// What has been counted of it, as the device in this slot; none of what is part of the board.
    fn stats(&self, _slot: usize) -> Option<DeviceStats> {
        None
    }
}

/// Devices that fit on the bus.
pub const SLOTS: usize = 32;

/// Bus 0 with a host bridge in slot 0. Functions come and go while vCPUs run.
pub struct RootComplex {
    slots: RwLock<[Option<Arc<dyn PciFunction>>; SLOTS]>,
}

/// The bus is full.
#[derive(Debug, PartialEq, Eq)]
pub struct Full;

impl RootComplex {
    /// With nothing but the host bridge.
    pub fn new() -> Self {
        let mut slots = [const { None }; SLOTS];
        slots[0] = Some(Arc::new(HostBridge::new()) as Arc<dyn PciFunction>);
        RootComplex { slots: RwLock::new(slots) }
    }

    /// The first free slot. Only one thread at a time may add devices.
    ///
    /// # Errors
    /// [`Full`] where all are taken.
    pub fn free_slot(&self) -> Result<usize, Full> {
        let slots = self.slots.read().unwrap_or_else(PoisonError::into_inner);
        slots.iter().position(Option::is_none).ok_or(Full)
    }

    /// Puts a device into a slot that [`RootComplex::free_slot`] named.
    pub fn put(&self, slot: usize, function: Arc<dyn PciFunction>) {
        let mut slots = self.slots.write().unwrap_or_else(PoisonError::into_inner);
        slots[slot] = Some(function);
    }

    /// Empties a slot; what was there is answering its last accesses.
    pub fn take(&self, slot: usize) -> Option<Arc<dyn PciFunction>> {
        let mut slots = self.slots.write().unwrap_or_else(PoisonError::into_inner);
        slots.get_mut(slot).and_then(Option::take)
    }

    /// What has been counted of each device.
    pub fn stats(&self) -> Vec<DeviceStats> {
        let slots = self.slots.read().unwrap_or_else(PoisonError::into_inner).clone();
        let stats = |(slot, function): (usize, Option<Arc<dyn PciFunction>>)| function?.stats(slot);
        slots.into_iter().enumerate().filter_map(stats).collect()
    }

    /// The function at an offset into the ECAM, and the offset within its space.
    fn find(&self, offset: u64, length: usize) -> Option<(Arc<dyn PciFunction>, usize)> {
        let (bus, slot, function) = (offset >> 20, offset >> 15 & 31, offset >> 12 & 7);
        let register = (offset & 0xfff) as usize;
        if bus != 0 || function != 0 || !matches!(length, 1 | 2 | 4) || register + length > 4096 {
            return None;
        }
        let slots = self.slots.read().unwrap_or_else(PoisonError::into_inner);
        Some((slots.get(slot as usize)?.clone()?, register))
    }
}

impl Default for RootComplex {
    fn default() -> Self {
        Self::new()
    }
}

impl Access for RootComplex {
    fn read(&self, offset: u64, data: &mut [u8]) {
        match self.find(offset, data.len()) {
            Some((function, register)) => function.read_config(register, data),
            None => data.fill(0xff),
        }
    }

    fn write(&self, offset: u64, data: &[u8]) {
        if let Some((function, register)) = self.find(offset, data.len()) {
            function.write_config(register, data);
        }
    }
}

/// A host bridge with an id that kernels know and have no quirks for.
struct HostBridge(ConfigSpace);

impl HostBridge {
    fn new() -> Self {
        HostBridge(ConfigSpace::new(Identity {
            vendor: 0x1b36,
            device: 0x0008,
            class: 0x06_00_00,
            revision: 0,
            subsystem: (0, 0),
        }))
    }
}

impl PciFunction for HostBridge {
    fn read_config(&self, offset: usize, data: &mut [u8]) {
        self.0.read(offset, data);
    }

    fn write_config(&self, _offset: usize, _data: &[u8]) {}
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn absent_functions_read_as_ones() {
        let root = RootComplex::new();
        let mut data = [0; 4];
        root.read(0, &mut data);
        assert_eq!(data, [0x36, 0x1b, 0x08, 0x00]);
        for offset in [1 << 12, 1 << 15, 31 << 15, 1 << 20, u64::MAX] {
            data = [0; 4];
            root.read(offset, &mut data);
            assert_eq!(data, [0xff; 4], "{offset:#x}");
            root.write(offset, &data);
        }
    }

    #[test]
    fn the_bus_has_an_end() {
        let root = RootComplex::new();
        for slot in 1..SLOTS {
            assert_eq!(root.free_slot(), Ok(slot));
            root.put(slot, Arc::new(HostBridge::new()));
        }
        assert_eq!(root.free_slot(), Err(Full));
    }

    #[test]
    fn an_empty_slot_reads_as_ones_until_it_is_filled_again() {
        let root = RootComplex::new();
        let third = |root: &RootComplex| {
            let mut data = [0; 4];
            root.read(3 << 15, &mut data);
            u32::from_le_bytes(data)
        };
        for slot in 1..5 {
            root.put(slot, Arc::new(HostBridge::new()));
        }
        assert_eq!(third(&root), 0x0008_1b36);
        assert!(root.take(3).is_some() && root.take(3).is_none() && root.take(99).is_none());
        assert_eq!(third(&root), u32::MAX);
        assert_eq!(root.free_slot(), Ok(3));
        root.put(3, Arc::new(HostBridge::new()));
        assert_eq!(third(&root), 0x0008_1b36);
    }
}
