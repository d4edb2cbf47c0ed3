//! The root complex: ECAM accesses find the function they are for.

use std::sync::Arc;

use super::config::{ConfigSpace, Identity};
use crate::bus::Access;

/// One function on bus 0.
pub trait PciFunction: Send + Sync {
    /// Reads `data.len()` (1, 2 or 4) bytes of configuration space at `offset` below 4096.
    fn read_config(&self, offset: usize, data: &mut [u8]);
    /// Writes 1, 2 or 4 bytes of configuration space at `offset` below 4096.
    fn write_config(&self, offset: usize, data: &[u8]);
}

/// Devices that fit on the bus.
pub const SLOTS: usize = 32;

/// Bus 0 with a host bridge in slot 0.
pub struct RootComplex {
    slots: Vec<Arc<dyn PciFunction>>,
}

/// The bus is full.
#[derive(Debug, PartialEq, Eq)]
pub struct Full;

impl RootComplex {
    /// With nothing but the host bridge.
    pub fn new() -> Self {
        RootComplex { slots: vec![Arc::new(HostBridge::new())] }
    }

    /// Adds a device in the next free slot.
    ///
    /// # Errors
    /// [`Full`] where all slots are taken.
    pub fn add(&mut self, function: Arc<dyn PciFunction>) -> Result<(), Full> {
        if self.slots.len() >= SLOTS {
            return Err(Full);
        }
        self.slots.push(function);
        Ok(())
    }

    /// The slot that the next device gets.
    pub fn next_slot(&self) -> usize {
        self.slots.len()
    }

    /// The function at an offset into the ECAM, and the offset within its space.
    fn find(&self, offset: u64, length: usize) -> Option<(&dyn PciFunction, usize)> {
        let (bus, slot, function) = (offset >> 20, offset >> 15 & 31, offset >> 12 & 7);
        let register = (offset & 0xfff) as usize;
        if bus != 0 || function != 0 || !matches!(length, 1 | 2 | 4) || register + length > 4096 {
            return None;
        }
        self.slots.get(slot as usize).map(|function| (&**function, register))
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
        let mut root = RootComplex::new();
        for _ in 1..SLOTS {
            root.add(Arc::new(HostBridge::new())).unwrap();
        }
        assert_eq!(root.add(Arc::new(HostBridge::new())), Err(Full));
    }
}
