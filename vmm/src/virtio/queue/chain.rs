//! A buffer that the driver offers, in the same form whichever kind of ring it was in.
//!
//! Its descriptors are read once, when it is taken, and are a copy in our memory: a driver that changes them
//! afterwards changes nothing, and a device that gives another buffer back meanwhile may overwrite them
//! where they were.

use std::io;
use std::iter::Filter;
use std::slice::Iter;

use vm_memory::{Bytes, GuestAddress, GuestMemoryBackend};

use super::Broken;
use crate::machine::memory::GuestMemory;

/// A piece of a buffer. Nothing says that it is in memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Descriptor {
    /// Where it begins.
    pub address: GuestAddress,
    /// Its bytes.
    pub length: u32,
    /// Whether it is for the device to write; otherwise it is for the device to read.
    pub is_writable: bool,
}

/// By what the driver knows a buffer when it gets it back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Head {
    /// In split rings the index of its first descriptor, in packed ones whatever the driver chose.
    pub id: u16,
    /// How many entries of the ring it takes: 1 in split rings, where others are none of ours.
    pub entries: u16,
}

/// A buffer that the driver offers: descriptors one after the other, together less than 4 GiB.
#[derive(Debug, Clone, Copy)]
pub struct Chain<'a> {
    pub(super) head: Head,
    pub(super) descriptors: &'a [Descriptor],
}

impl<'a> Chain<'a> {
    /// By what it is given back.
    pub fn head(&self) -> Head {
        self.head
    }

    /// Its pieces in their order.
    pub fn descriptors(&self) -> &'a [Descriptor] {
        self.descriptors
    }

    /// Those that the device may write.
    pub fn writable(&self) -> Filter<Iter<'a, Descriptor>, impl FnMut(&&'a Descriptor) -> bool> {
        self.descriptors.iter().filter(|descriptor| descriptor.is_writable)
    }

    /// Those that the device may read.
    pub fn readable(&self) -> Filter<Iter<'a, Descriptor>, impl FnMut(&&'a Descriptor) -> bool> {
        self.descriptors.iter().filter(|descriptor| !descriptor.is_writable)
    }

    /// Reads what is for the device to read.
    ///
    /// # Errors
    /// [`Broken`] where it is not all in memory.
    pub fn reader<'b>(&self, memory: &'b GuestMemory) -> Result<Reader<'b>, Broken>
    where
        'a: 'b,
    {
        Pieces::new(self.descriptors, memory, false).map(Reader)
    }

    /// Writes what is for the device to write.
    ///
    /// # Errors
    /// [`Broken`] where it is not all in memory.
    pub fn writer<'b>(&self, memory: &'b GuestMemory) -> Result<Writer<'b>, Broken>
    where
        'a: 'b,
    {
        Pieces::new(self.descriptors, memory, true).map(Writer)
    }
}

/// The pieces of one direction that are left, all of them in memory.
#[derive(Clone)]
struct Pieces<'a> {
    memory: &'a GuestMemory,
    /// Of both directions; the first one may be done in part.
    rest: &'a [Descriptor],
    writable: bool,
    /// Bytes done of the first piece.
    done: u32,
    /// Bytes that are left of all of them, or fewer.
    left: usize,
}

impl<'a> Pieces<'a> {
    fn new(
        rest: &'a [Descriptor],
        memory: &'a GuestMemory,
        writable: bool,
    ) -> Result<Self, Broken> {
        let mut left = 0;
        for piece in rest.iter().filter(|piece| piece.is_writable == writable) {
            let length = piece.length as usize;
            if !memory.check_range(piece.address, length) {
                return Err(Broken);
            }
            left += length;
        }
        Ok(Pieces { memory, rest, writable, done: 0, left })
    }

    /// The next part of a piece, of at most so many bytes; none at the end.
    fn next(&mut self, most: usize) -> Option<(GuestAddress, usize)> {
        let most = most.min(self.left);
        if most == 0 {
            return None;
        }
        while let Some((piece, behind)) = self.rest.split_first() {
            let left = (piece.length - self.done) as usize;
            if piece.is_writable != self.writable || left == 0 {
                self.rest = behind;
                self.done = 0;
                continue;
            }
            let count = left.min(most);
            // It is in memory, so that there is no such sum that overflows.
            let start = GuestAddress(piece.address.0 + u64::from(self.done));
            self.done += count as u32;
            self.left -= count;
            return Some((start, count));
        }
        None
    }

    /// What begins `offset` bytes further on.
    fn behind(&self, offset: usize) -> Result<Self, Broken> {
        let mut behind = self.clone();
        let mut skip = offset;
        while skip > 0 {
            let (_, count) = behind.next(skip).ok_or(Broken)?;
            skip -= count;
        }
        Ok(behind)
    }
}

/// What is for the device to read of a buffer.
#[derive(Clone)]
pub struct Reader<'a>(Pieces<'a>);

impl Reader<'_> {
    /// Bytes that are left.
    pub fn available_bytes(&self) -> usize {
        self.0.left
    }

    /// Leaves the first `offset` bytes here, and gives what is behind them.
    ///
    /// # Errors
    /// [`Broken`] where there are not as many.
    pub fn split_at(&mut self, offset: usize) -> Result<Self, Broken> {
        let behind = self.0.behind(offset)?;
        self.0.left = offset;
        Ok(Reader(behind))
    }
}

impl io::Read for Reader<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let mut filled = 0;
        while let Some((start, count)) = self.0.next(buffer.len() - filled) {
            let part = &mut buffer[filled..filled + count];
            self.0.memory.read_slice(part, start).map_err(io::Error::other)?;
            filled += count;
        }
        Ok(filled)
    }
}

/// What is for the device to write of a buffer.
#[derive(Clone)]
pub struct Writer<'a>(Pieces<'a>);

impl Writer<'_> {
    /// Bytes that are left.
    pub fn available_bytes(&self) -> usize {
        self.0.left
    }

    /// Leaves the first `offset` bytes here, and gives what is behind them.
    ///
    /// # Errors
    /// [`Broken`] where there are not as many.
    pub fn split_at(&mut self, offset: usize) -> Result<Self, Broken> {
        let behind = self.0.behind(offset)?;
        self.0.left = offset;
        Ok(Writer(behind))
    }
}

impl io::Write for Writer<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let mut written = 0;
        while let Some((start, count)) = self.0.next(bytes.len() - written) {
            let part = &bytes[written..written + count];
            self.0.memory.write_slice(part, start).map_err(io::Error::other)?;
            written += count;
        }
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};

    use super::*;

    fn piece(address: u64, length: u32, is_writable: bool) -> Descriptor {
        Descriptor { address: GuestAddress(address), length, is_writable }
    }

    fn chain(descriptors: &[Descriptor]) -> Chain<'_> {
        Chain { head: Head { id: 0, entries: 1 }, descriptors }
    }

    /// Two ranges that are next to each other, and a hole.
    fn memory() -> GuestMemory {
        let ranges = [(0, 0x1000), (0x1000, 0x1000), (0x4000, 0x1000)];
        GuestMemory::from_ranges(&ranges.map(|(at, size)| (GuestAddress(at), size))).unwrap()
    }

    #[test]
    fn each_direction_is_one_row_of_bytes() {
        let memory = memory();
        let pieces = [
            piece(0x10, 3, false),
            piece(0x9999_9999, 0, false),
            piece(0xffe, 4, false),
            piece(0x4000, 2, true),
            piece(0x4ffe, 2, true),
        ];
        memory.write_slice(b"abc", GuestAddress(0x10)).unwrap();
        memory.write_slice(b"defg", GuestAddress(0xffe)).unwrap();
        let mut reader = chain(&pieces).reader(&memory).unwrap();
        assert_eq!(reader.available_bytes(), 7);
        let mut behind = reader.split_at(2).unwrap();
        let (mut first, mut second) = ([0; 8], [0; 8]);
        assert_eq!((reader.read(&mut first).unwrap(), &first[..2]), (2, &b"ab"[..]));
        assert_eq!((behind.read(&mut second[..1]).unwrap(), second[0]), (1, b'c'));
        assert_eq!((behind.read(&mut second).unwrap(), &second[..4]), (4, &b"defg"[..]));
        assert!(behind.split_at(1).is_err(), "nothing is left");

        let mut writer = chain(&pieces).writer(&memory).unwrap();
        assert_eq!(writer.available_bytes(), 4);
        writer.split_at(1).unwrap().write_all(b"xyz").unwrap();
        writer.write_all(b"w").unwrap();
        assert!(writer.write_all(b"!").is_err(), "it is full");
        let mut end = [0; 2];
        memory.read_slice(&mut end, GuestAddress(0x4ffe)).unwrap();
        assert_eq!(&end, b"yz");
    }

    #[test]
    fn what_is_not_in_memory_is_refused_before_anything_is_read() {
        let memory = memory();
        for (address, length) in [(0x1ffe, 3), (0x3fff, 2), (u64::MAX, 1), (u64::MAX - 1, u32::MAX)]
        {
            let pieces = [piece(0, 8, false), piece(address, length, false)];
            assert!(chain(&pieces).reader(&memory).is_err(), "{address:#x}");
            assert_eq!(chain(&pieces).writer(&memory).map(|writer| writer.0.left).ok(), Some(0));
        }
    }
}
