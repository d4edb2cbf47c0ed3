//! The file that an image is in.

use std::fs::File;
use std::io::{self, ErrorKind};
use std::os::unix::fs::FileExt;

use rustix::fs::FallocateFlags;

/// What an image asks of its file. Places are in bytes.
pub trait Storage: Send + Sync {
    /// Fills `bytes` with what is at `at`: zeroes beyond the file's end.
    ///
    /// # Errors
    /// The file's.
    fn read(&self, at: u64, bytes: &mut [u8]) -> io::Result<()>;

    /// Writes `bytes` at `at`; the file grows where it ends before that.
    ///
    /// # Errors
    /// The file's: a part of it may be written then.
    fn write(&self, at: u64, bytes: &[u8]) -> io::Result<()>;

    /// Zeroes that take no room, as long as they are within the file.
    ///
    /// # Errors
    /// `Unsupported` where there is no such thing, and the file's.
    fn punch(&self, at: u64, length: u64) -> io::Result<()>;

    /// Zeroes that keep their room.
    ///
    /// # Errors
    /// As [`Storage::punch`].
    fn zero(&self, at: u64, length: u64) -> io::Result<()>;

    /// All that was written before stays, whatever happens to the host.
    ///
    /// # Errors
    /// The file's: nothing is known of what was written.
    fn sync(&self) -> io::Result<()>;
}

impl Storage for File {
    fn read(&self, at: u64, mut bytes: &mut [u8]) -> io::Result<()> {
        let mut at = at;
        while !bytes.is_empty() {
            match self.read_at(bytes, at) {
                Ok(0) => {
                    bytes.fill(0);
                    break;
                }
                Ok(count) => {
                    at += count as u64;
                    bytes = &mut bytes[count..];
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    fn write(&self, at: u64, bytes: &[u8]) -> io::Result<()> {
        self.write_all_at(bytes, at)
    }

    fn punch(&self, at: u64, length: u64) -> io::Result<()> {
        let hole = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        Ok(rustix::fs::fallocate(self, hole, at, length)?)
    }

    fn zero(&self, at: u64, length: u64) -> io::Result<()> {
        let zeroes = FallocateFlags::ZERO_RANGE | FallocateFlags::KEEP_SIZE;
        Ok(rustix::fs::fallocate(self, zeroes, at, length)?)
    }

    fn sync(&self) -> io::Result<()> {
        Ok(rustix::fs::fdatasync(self)?)
    }
}

/// Writes zeroes, `length` bytes of them.
///
/// # Errors
/// The file's.
pub fn write_zeroes(storage: &dyn Storage, mut at: u64, mut length: u64) -> io::Result<()> {
    let zeroes = [0; 64 << 10];
    while length > 0 {
        let count = length.min(zeroes.len() as u64);
        storage.write(at, &zeroes[..count as usize])?;
        (at, length) = (at + count, length - count);
    }
    Ok(())
}
