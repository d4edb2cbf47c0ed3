//! The configuration space of a function that is emulated whole: bytes, and which bits of them the
//! guest may change.

use super::register;

/// Configuration space of 4 KiB with a mask of writable bits.
pub struct ConfigSpace {
    bytes: Box<[u8; register::END]>,
    writable: Box<[u8; register::END]>,
    next_capability: usize,
    last_link: usize,
}

/// The identity of an emulated function.
#[derive(Debug, Clone, Copy)]
pub struct Identity {
    /// Vendor id.
    pub vendor: u16,
    /// Device id.
    pub device: u16,
    /// Class code: base class, subclass, programming interface.
    pub class: u32,
    /// Revision id.
    pub revision: u8,
    /// Subsystem vendor and id.
    pub subsystem: (u16, u16),
}

impl ConfigSpace {
    /// An endpoint's header with no BAR and no capability. The command register's memory, master
    /// and INTx bits can be written.
    pub fn new(identity: Identity) -> Self {
        let mut space = ConfigSpace {
            bytes: Box::new([0; register::END]),
            writable: Box::new([0; register::END]),
            next_capability: register::HEADER_END,
            last_link: register::CAPABILITIES,
        };
        space.set(register::ID, &identity.vendor.to_le_bytes());
        space.set(register::ID + 2, &identity.device.to_le_bytes());
        let class = identity.class << 8 | u32::from(identity.revision);
        space.set(register::REVISION, &class.to_le_bytes());
        space.set(register::SUBSYSTEM, &identity.subsystem.0.to_le_bytes());
        space.set(register::SUBSYSTEM + 2, &identity.subsystem.1.to_le_bytes());
        let command =
            register::COMMAND_MEMORY | register::COMMAND_MASTER | register::COMMAND_INTX_DISABLE;
        space.allow(register::COMMAND, &command.to_le_bytes());
        // The interrupt line is the guest's own notepad.
        space.allow(register::INTERRUPT, &[0xff]);
        space
    }

    /// Appends a capability: its id, the bytes after the link, and which of their bits the guest
    /// may write. Returns its offset.
    ///
    /// # Panics
    /// Where conventional configuration space is full; what devices add is fixed at build time.
    pub fn add_capability(&mut self, id: u8, body: &[u8], writable: &[u8]) -> usize {
        let offset = self.next_capability;
        assert!(offset + 2 + body.len() <= register::EXTENDED, "too many capabilities");
        self.set(offset, &[id, 0]);
        self.set(offset + 2, body);
        self.allow(offset + 2, writable);
        self.bytes[self.last_link] = offset as u8;
        self.last_link = offset + 1;
        self.next_capability = (offset + 2 + body.len()).next_multiple_of(4);
        self.bytes[register::STATUS] |= register::STATUS_CAPABILITIES as u8;
        offset
    }

    /// Reads. Beyond the end there is nothing, which reads as ones.
    pub fn read(&self, offset: usize, data: &mut [u8]) {
        for (at, byte) in (offset..).zip(data) {
            *byte = self.bytes.get(at).copied().unwrap_or(0xff);
        }
    }

    /// Writes what may be written.
    pub fn write(&mut self, offset: usize, data: &[u8]) {
        for (at, &byte) in (offset..).zip(data) {
            if let (Some(old), Some(&mask)) = (self.bytes.get_mut(at), self.writable.get(at)) {
                *old = *old & !mask | byte & mask;
            }
        }
    }

    /// The command register.
    pub fn command(&self) -> u16 {
        self.u16(register::COMMAND)
    }

    /// A 16-bit register at `offset`, which lies within the space.
    pub fn u16(&self, offset: usize) -> u16 {
        u16::from_le_bytes([self.bytes[offset], self.bytes[offset + 1]])
    }

    /// A 32-bit register at `offset`, which lies within the space.
    pub fn u32(&self, offset: usize) -> u32 {
        u32::from(self.u16(offset)) | u32::from(self.u16(offset + 2)) << 16
    }

    /// Sets bytes regardless of what the guest may write.
    pub fn set(&mut self, offset: usize, data: &[u8]) {
        self.bytes[offset..offset + data.len()].copy_from_slice(data);
    }

    fn allow(&mut self, offset: usize, mask: &[u8]) {
        self.writable[offset..offset + mask.len()].copy_from_slice(mask);
    }
}

/// Whether `length` bytes at `offset` touch any of `range`.
pub fn touches(offset: usize, length: usize, range: std::ops::Range<usize>) -> bool {
    offset < range.end && offset.saturating_add(length) > range.start
}

#[cfg(test)]
mod tests {
    use super::*;

    fn space() -> ConfigSpace {
        ConfigSpace::new(Identity {
            vendor: 0x1af4,
            device: 0x1041,
            class: 0x02_00_00,
            revision: 1,
            subsystem: (0x1af4, 1),
        })
    }

    #[test]
    fn only_writable_bits_change() {
        let mut space = space();
        space.write(register::ID, &[0; 4]);
        space.write(register::COMMAND, &[0xff, 0xff]);
        assert_eq!(space.u32(register::ID), 0x1041_1af4);
        assert_eq!(space.command(), 0x0406);
        assert_eq!(space.u32(register::REVISION), 0x0200_0001);
    }

    #[test]
    fn capabilities_form_a_list() {
        let mut space = space();
        let first = space.add_capability(9, &[1, 2, 3], &[0, 0xff]);
        let second = space.add_capability(0x11, &[0; 10], &[]);
        let mut link = [0];
        space.read(register::CAPABILITIES, &mut link);
        assert_eq!(link[0] as usize, first);
        space.read(first + 1, &mut link);
        assert_eq!(link[0] as usize, second);
        space.write(first, &[0xff; 5]);
        assert_eq!(
            space.u32(first),
            0xff01_0009 & 0x00ff_ffff | (second as u32) << 8 & 0xff00 | 0xff00_0000
        );
    }

    #[test]
    fn accesses_past_the_end_are_harmless() {
        let mut space = space();
        let mut data = [0; 8];
        space.read(register::END - 4, &mut data);
        assert_eq!(data, [0, 0, 0, 0, 0xff, 0xff, 0xff, 0xff]);
        space.write(register::END - 1, &[1, 2, 3, 4]);
    }
}
