//! The file that a disk's contents are in, by plain system calls.

use std::fs::File;
use std::io::{self, ErrorKind, Seek, SeekFrom};
use std::os::fd::AsRawFd;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use rustix::fs::FallocateFlags;

use super::SECTOR;
use super::request::{Operation, Range, Transfer};
use crate::event::Reporter;
use crate::spec::{Disk, GuestEvent};

/// Bytes of a serial number (virtio 1.3, `VIRTIO_BLK_ID_BYTES`).
const SERIAL: usize = 20;

/// How long nothing is said of further failures: a guest tries again and again.
const QUIET: Duration = Duration::from_secs(10);

/// A hole where there was data: it reads as zeroes.
pub const HOLE: FallocateFlags = FallocateFlags::PUNCH_HOLE.union(FallocateFlags::KEEP_SIZE);
/// Zeroes that keep their place in the file.
pub const ZEROES: FallocateFlags = FallocateFlags::ZERO_RANGE.union(FallocateFlags::KEEP_SIZE);

/// A disk's contents.
pub struct Image {
    pub(super) file: File,
    name: String,
    sectors: u64,
    serial: [u8; SERIAL],
    read_only: bool,
    reporter: Arc<Reporter>,
    told: Mutex<Option<Instant>>,
}

impl Image {
    /// What `file` holds, as it is now: a part of a sector at its end is not seen.
    ///
    /// # Errors
    /// Where it has no size, as a pipe.
    pub fn new(mut file: File, disk: &Disk, reporter: Arc<Reporter>) -> io::Result<Image> {
        let size = file.seek(SeekFrom::End(0))?;
        let mut serial = [0; SERIAL];
        serial.iter_mut().zip(disk.serial.bytes()).for_each(|(to, from)| *to = from);
        Ok(Image {
            file,
            name: disk.name.clone(),
            sectors: size / SECTOR,
            serial,
            read_only: disk.read_only,
            reporter,
            told: Mutex::default(),
        })
    }

    /// What messages call the disk.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its size, in units of 512 bytes.
    pub fn sectors(&self) -> u64 {
        self.sectors
    }

    /// Its serial number, with zeroes at its end.
    pub fn serial(&self) -> &[u8; SERIAL] {
        &self.serial
    }

    /// Whether it cannot be written to.
    pub fn is_read_only(&self) -> bool {
        self.read_only
    }

    /// Carries out `operation`, of which `done` bytes are done already, and waits for it.
    ///
    /// # Errors
    /// The file's.
    pub fn carry_out(&self, operation: &Operation, done: u64, durable: bool) -> io::Result<()> {
        match operation {
            Operation::Read(transfer) => self.transfer(transfer, done, |pieces, offset| {
                // SAFETY: the pieces are guest memory, which stays mapped as long as the process, and
                // which nobody holds references into.
                unsafe {
                    libc::preadv(self.file.as_raw_fd(), pieces.as_ptr(), count(pieces), offset)
                }
            }),
            Operation::Write(transfer) => self.transfer(transfer, done, |pieces, offset| {
                let flags = if durable { libc::RWF_DSYNC } else { 0 };
                let file = self.file.as_raw_fd();
                // SAFETY: as above; they are only read.
                unsafe { libc::pwritev2(file, pieces.as_ptr(), count(pieces), offset, flags) }
            }),
            Operation::Flush => Ok(rustix::fs::fdatasync(&self.file)?),
            Operation::Discard(range) => match self.allocate(*range, HOLE) {
                // It was a hint.
                Err(error) if error.kind() == ErrorKind::Unsupported => Ok(()),
                done => done,
            },
            Operation::Zero { range, unmap } => {
                match self.allocate(*range, if *unmap { HOLE } else { ZEROES }) {
                    Err(error) if error.kind() == ErrorKind::Unsupported => {
                        self.write_zeroes(*range)
                    }
                    done => done,
                }?;
                if durable { Ok(rustix::fs::fdatasync(&self.file)?) } else { Ok(()) }
            }
            Operation::Over(_) => Ok(()),
        }
    }

    /// Calls `each` with what is left until nothing is.
    fn transfer(
        &self,
        transfer: &Transfer,
        mut done: u64,
        each: impl Fn(&[libc::iovec], i64) -> isize,
    ) -> io::Result<()> {
        let Range { offset, length } = transfer.range;
        while done < length {
            let left = without(&transfer.pieces, done);
            let at = i64::try_from(offset + done).map_err(io::Error::other)?;
            match each(&left, at) {
                0 => return Err(self.ends()),
                moved if moved > 0 => done += moved.unsigned_abs() as u64,
                _ => match io::Error::last_os_error() {
                    error if error.kind() == ErrorKind::Interrupted => {}
                    error => return Err(error),
                },
            }
        }
        Ok(())
    }

    fn ends(&self) -> io::Error {
        let size = self.file.metadata().map_or(0, |metadata| metadata.len());
        let expected = self.sectors * SECTOR;
        io::Error::other(format!("the file has {size} bytes; it had {expected} at the start"))
    }

    fn allocate(&self, range: Range, how: FallocateFlags) -> io::Result<()> {
        Ok(rustix::fs::fallocate(&self.file, how, range.offset, range.length)?)
    }

    fn write_zeroes(&self, Range { offset, length }: Range) -> io::Result<()> {
        use std::os::unix::fs::FileExt;
        let zeroes = [0; 64 << 10];
        let mut done = 0;
        while done < length {
            let count = (length - done).min(zeroes.len() as u64);
            self.file.write_all_at(&zeroes[..count as usize], offset + done)?;
            done += count;
        }
        Ok(())
    }

    /// Tells the launcher that `operation` failed, and not too often.
    pub fn failed(&self, operation: &Operation, error: &io::Error) {
        let mut told = crate::lock(&self.told);
        if told.is_some_and(|at| at.elapsed() < QUIET) {
            return;
        }
        *told = Some(Instant::now());
        drop(told);
        let at = |range: &Range| format!("{} bytes at {}", range.length, range.offset);
        let what = match operation {
            Operation::Read(transfer) => format!("read {}", at(&transfer.range)),
            Operation::Write(transfer) => format!("write {}", at(&transfer.range)),
            Operation::Discard(range) => format!("discard {}", at(range)),
            Operation::Zero { range, .. } => format!("zero {}", at(range)),
            Operation::Flush | Operation::Over(_) => "flush".to_owned(),
        };
        let detail = format!("cannot {what}: {error}");
        self.reporter.send(&GuestEvent::DiskError { disk: self.name.clone(), detail });
    }
}

fn count(pieces: &[libc::iovec]) -> libc::c_int {
    // A request has 1,024 at most.
    pieces.len() as libc::c_int
}

/// `pieces` but for their first `done` bytes.
fn without(pieces: &[libc::iovec], mut done: u64) -> Vec<libc::iovec> {
    let mut left = Vec::with_capacity(pieces.len());
    for piece in pieces {
        let skipped = done.min(piece.iov_len as u64);
        done -= skipped;
        if (skipped as usize) < piece.iov_len {
            left.push(libc::iovec {
                // SAFETY: it is within the piece.
                iov_base: unsafe { piece.iov_base.cast::<u8>().add(skipped as usize) }.cast(),
                iov_len: piece.iov_len - skipped as usize,
            });
        }
    }
    left
}
