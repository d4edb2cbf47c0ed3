//! The disk and its partitions, as bytes at places.

use std::fs::File;
use std::io::{self, ErrorKind, Seek, SeekFrom};
use std::os::unix::fs::FileExt;
use std::rc::Rc;

/// A disk.
#[derive(Debug, Clone)]
pub struct Disk {
    file: Rc<File>,
    /// In bytes.
    size: u64,
}

impl Disk {
    /// The one in `file`, a regular file or a block device.
    ///
    /// # Errors
    /// The kernel's, where it does not say how large the file is.
    pub fn new(mut file: File) -> io::Result<Disk> {
        let size = file.seek(SeekFrom::End(0))?;
        Ok(Disk { file: Rc::new(file), size })
    }

    /// All of it.
    pub fn whole(&self) -> Part {
        Part { disk: self.clone(), start: 0, size: self.size }
    }
}

/// A part of a disk, or all of it.
#[derive(Debug, Clone)]
pub struct Part {
    disk: Disk,
    start: u64,
    size: u64,
}

impl Part {
    /// In bytes.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// A part of this one; `None` where it is empty or not within.
    pub fn part(&self, start: u64, size: u64) -> Option<Part> {
        let end = start.checked_add(size)?;
        let is_within = size > 0 && end <= self.size;
        is_within.then(|| Part { disk: self.disk.clone(), start: self.start + start, size })
    }

    /// Fills `bytes` with what is at `place`, from the beginning of the part.
    ///
    /// # Errors
    /// `UnexpectedEof` where the part has no such bytes, and the kernel's.
    pub fn read(&self, place: u64, bytes: &mut [u8]) -> io::Result<()> {
        let end = place.checked_add(bytes.len() as u64);
        if end.is_none_or(|end| end > self.size) {
            return Err(io::Error::new(ErrorKind::UnexpectedEof, "it ends before that"));
        }
        self.disk.file.read_exact_at(bytes, self.start + place)
    }

    /// Whether `bytes` are at `place`.
    pub fn has(&self, place: u64, bytes: &[u8]) -> bool {
        let mut found = vec![0; bytes.len()];
        self.read(place, &mut found).is_ok() && found == bytes
    }
}

/// The 16 bits, little-endian, at a place of `bytes`, which are long enough.
pub fn half(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes([bytes[at], bytes[at + 1]])
}

/// The 32 bits there.
pub fn word(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes([0, 1, 2, 3].map(|byte| bytes[at + byte]))
}

/// The 64 bits there.
pub fn long(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes([0, 1, 2, 3, 4, 5, 6, 7].map(|byte| bytes[at + byte]))
}
