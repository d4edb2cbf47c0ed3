//! A function's configuration space, read where it is needed and no further.
//!
//! Some devices hang when registers are read that nothing announced, which is why the kernel shows
//! only the first 64 bytes to those who are not root (drivers/pci/pci-sysfs.c, `pci_read_config`).
//! So the file is read in blocks of that size, each when a list of capabilities leads into it.
//! Reading a sleeping function's space wakes it up for as long as that takes.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

/// The whole space of a PCI Express function (PCIe section 7.2.2).
pub const SPACE: usize = 4096;
/// Where the extended capabilities begin, which conventional PCI does not have.
pub const EXTENDED: usize = 0x100;
/// Where the capabilities begin, and what readers without privilege get.
pub const HEADER: usize = 0x40;

/// Something that has a configuration space, or the first part of one.
pub trait ConfigSpace {
    /// `N` bytes from `at` on; `None` where not all of them are there to be read.
    fn bytes<const N: usize>(&mut self, at: usize) -> Option<[u8; N]>;

    /// A byte.
    fn byte(&mut self, at: usize) -> Option<u8> {
        self.bytes::<1>(at).map(|[byte]| byte)
    }

    /// A word, little-endian as all of the space is.
    fn word(&mut self, at: usize) -> Option<u16> {
        self.bytes(at).map(u16::from_le_bytes)
    }

    /// A double word.
    fn double(&mut self, at: usize) -> Option<u32> {
        self.bytes(at).map(u32::from_le_bytes)
    }
}

impl ConfigSpace for &[u8] {
    fn bytes<const N: usize>(&mut self, at: usize) -> Option<[u8; N]> {
        self.get(at..at.checked_add(N)?)?.try_into().ok()
    }
}

/// Bytes read at once.
const BLOCK: usize = 64;

/// The `config` file of a function.
#[derive(Debug)]
pub struct ConfigFile {
    file: File,
    seen: Box<[u8; SPACE]>,
    /// One bit for each block that was tried.
    tried: u64,
    /// One bit for each block that is in `seen`, whole.
    present: u64,
    failure: Option<io::Error>,
}

impl ConfigFile {
    /// Opens the file; nothing is read yet.
    ///
    /// # Errors
    /// There is none, or it may not be read.
    pub fn open(path: &Path) -> io::Result<ConfigFile> {
        Ok(ConfigFile::from(crate::attribute::open(path)?))
    }

    /// Why a read failed, if one did. That the file ends early is no failure.
    pub fn into_failure(self) -> Option<io::Error> {
        self.failure
    }

    fn has(&mut self, block: usize) -> bool {
        let bit = 1 << block;
        if self.tried & bit == 0 {
            self.tried |= bit;
            match self.read(block) {
                Ok(true) => self.present |= bit,
                Ok(false) => {}
                Err(error) => self.failure = Some(error),
            }
        }
        self.present & bit != 0
    }

    fn read(&mut self, block: usize) -> io::Result<bool> {
        let begin = block * BLOCK;
        let Some(room) = self.seen.get_mut(begin..begin + BLOCK) else { return Ok(false) };
        // Below SPACE, which a u64 holds.
        let read = self.file.read_at(room, begin as u64)?;
        Ok(read == BLOCK)
    }
}

impl From<File> for ConfigFile {
    fn from(file: File) -> ConfigFile {
        ConfigFile { file, seen: Box::new([0; SPACE]), tried: 0, present: 0, failure: None }
    }
}

impl ConfigSpace for ConfigFile {
    fn bytes<const N: usize>(&mut self, at: usize) -> Option<[u8; N]> {
        let end = at.checked_add(N).filter(|end| *end <= SPACE && N > 0)?;
        let mut blocks = at / BLOCK..=(end - 1) / BLOCK;
        if !blocks.all(|block| self.has(block)) {
            return None;
        }
        self.seen.get(at..end)?.try_into().ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(length: usize) -> (tempfile::TempDir, ConfigFile) {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let bytes: Vec<u8> = (0..length).map(|at| (at / BLOCK) as u8).collect();
        let path = directory.path().join("config");
        std::fs::write(&path, bytes).expect("written");
        let opened = ConfigFile::open(&path).expect("opened");
        (directory, opened)
    }

    #[test]
    fn only_what_is_asked_for_is_read() {
        let (_directory, mut file) = file(SPACE);
        assert_eq!(file.byte(0x41), Some(1));
        assert_eq!(file.double(0x13e), Some(0x0505_0404), "over the edge of two blocks");
        assert_eq!(file.tried, 0b11_0010);
        assert_eq!(file.double(SPACE - 2), None);
        assert_eq!(file.double(usize::MAX), None);
    }

    #[test]
    fn a_file_that_ends_early_is_no_failure() {
        let (_directory, mut file) = file(100);
        assert_eq!((file.byte(0x3f), file.byte(0x40), file.byte(0x100)), (Some(0), None, None));
        assert!(file.into_failure().is_none());
    }
}
