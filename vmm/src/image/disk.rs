//! The disk and its partitions, as bytes at places.

use std::fmt;
use std::fs::File;
use std::io::{self, ErrorKind, Seek, SeekFrom};
use std::os::unix::fs::FileExt;
use std::rc::Rc;

use crate::qcow2::Qcow2;
use crate::spec::DiskFormat;

/// A disk.
#[derive(Clone)]
pub struct Disk {
    contents: Rc<Contents>,
    /// In bytes.
    size: u64,
}

enum Contents {
    Raw(File),
    Qcow2(Box<Qcow2<File>>),
}

/// How large a file is, in bytes: a regular one or a block device.
///
/// # Errors
/// The kernel's, where it does not say.
pub fn size(file: &mut File) -> io::Result<u64> {
    file.seek(SeekFrom::End(0))
}

impl Disk {
    /// The one in `file`, which has `size` bytes, and is read here first.
    ///
    /// # Errors
    /// Images that cannot be used, and the file's.
    pub fn open(file: File, size: u64, format: DiskFormat) -> io::Result<Disk> {
        let (contents, size) = match format {
            DiskFormat::Raw => (Contents::Raw(file), size),
            DiskFormat::Qcow2 => {
                let disk = Qcow2::open(file, size, true)?;
                let size = disk.size();
                (Contents::Qcow2(Box::new(disk)), size)
            }
        };
        Ok(Disk { contents: Rc::new(contents), size })
    }

    /// All of it.
    pub fn whole(&self) -> Part {
        Part { disk: self.clone(), start: 0, size: self.size }
    }
}

impl fmt::Debug for Disk {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "a disk of {} bytes", self.size)
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
        let place = self.start + place;
        match &*self.disk.contents {
            Contents::Raw(file) => file.read_exact_at(bytes, place),
            Contents::Qcow2(disk) => disk.read_bytes(place, bytes),
        }
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
