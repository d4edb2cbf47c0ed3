//! The file that a disk's contents are in, by plain system calls.

use std::fs::File;
use std::io::{self, ErrorKind, Seek, SeekFrom};
use std::os::fd::AsRawFd;
use std::sync::{Arc, Mutex, OnceLock};
use std::time::{Duration, Instant};

use rustix::fs::FallocateFlags;

use super::SECTOR;
use super::pieces::{self, Range};
use super::request::{Operation, Transfer};
use crate::event::Reporter;
use crate::qcow2::{Lease, Qcow2, Sink};
use crate::spec::{Disk, DiskFormat, GuestEvent};

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
    /// Of the file, in bytes.
    size: u64,
    format: DiskFormat,
    /// The disk in the file, once it is open.
    qcow2: OnceLock<Qcow2<File>>,
    serial: [u8; SERIAL],
    read_only: bool,
    reporter: Arc<Reporter>,
    told: Mutex<Option<Instant>>,
}

impl Image {
    /// What `file` holds, as large as it is now: a part of a sector at its end is not seen. Nothing of
    /// it is read before [`Image::open`].
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
            size,
            format: disk.format,
            qcow2: OnceLock::new(),
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

    /// Finds the disk in the file.
    ///
    /// # Errors
    /// The file's, and images that cannot be used.
    pub fn open(&self) -> io::Result<()> {
        if self.format == DiskFormat::Qcow2 {
            let found = Qcow2::open(self.file.try_clone()?, self.size, self.read_only)?;
            // It is opened once.
            let _ = self.qcow2.set(found);
        }
        Ok(())
    }

    /// What was written stays, as far as possible: this process ends.
    pub fn close(&self) {
        if let Some(qcow2) = self.qcow2.get().filter(|_| !self.read_only)
            && let Err(error) = qcow2.flush()
        {
            self.failed(&Operation::Flush, &error);
        }
    }

    /// Its size, in units of 512 bytes.
    pub fn sectors(&self) -> u64 {
        match self.format {
            DiskFormat::Raw => self.size / SECTOR,
            DiskFormat::Qcow2 => self.qcow2.get().map_or(0, Qcow2::size) / SECTOR,
        }
    }

    /// The unit in which room is given back, in the same units.
    pub fn granule(&self) -> u64 {
        self.qcow2.get().map_or(1, |qcow2| qcow2.cluster() / SECTOR)
    }

    /// Where in the file `operation` is carried out, which may be done there as long as the lease is;
    /// none where there is more to do ([`Image::carry_out`] does it).
    pub fn place(&self, operation: &Operation, durable: bool) -> Option<(u64, Option<Lease>)> {
        let (qcow2, (range, written)) = match (self.format, operation) {
            (
                DiskFormat::Raw,
                Operation::Read(Transfer { range, .. }) | Operation::Write(Transfer { range, .. }),
            ) => {
                return Some((range.offset, None));
            }
            (DiskFormat::Raw, _) => return Some((0, None)),
            (DiskFormat::Qcow2, operation) => (
                self.qcow2.get()?,
                match operation {
                    Operation::Read(Transfer { range, .. }) => (range, false),
                    // What is durable may have tables to wait for.
                    Operation::Write(Transfer { range, .. }) if !durable => (range, true),
                    Operation::Flush if self.qcow2.get()?.is_written() => return Some((0, None)),
                    _ => return None,
                },
            ),
        };
        qcow2.place(range.offset, range.length, written).map(|(at, lease)| (at, Some(lease)))
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
        if let Some(qcow2) = self.qcow2.get() {
            return self.carry_out_in(qcow2, operation, done, durable);
        }
        match operation {
            Operation::Read(transfer) => {
                let (left, at) = transfer.left(done);
                self.expect_all(left, self.read(&transfer.pieces, left, at)?)
            }
            Operation::Write(transfer) => {
                let (left, at) = transfer.left(done);
                self.expect_all(left, self.write(&transfer.pieces, left, at, durable)?)
            }
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

    /// The same for a disk in an image.
    fn carry_out_in(
        &self,
        qcow2: &Qcow2<File>,
        operation: &Operation,
        done: u64,
        durable: bool,
    ) -> io::Result<()> {
        match operation {
            Operation::Read(Transfer { pieces, range }) => {
                let mut to = Memory { image: self, pieces, done };
                return qcow2.read(range.offset + done, range.length - done, &mut to);
            }
            Operation::Write(Transfer { pieces, range }) => {
                let mut from = |place, length, at| {
                    let part = Range { offset: done + place, length };
                    self.expect_all(part, self.write(pieces, part, at, false)?)
                };
                qcow2.write(range.offset + done, range.length - done, &mut from)?;
            }
            Operation::Flush => return qcow2.flush(),
            Operation::Discard(range) => return qcow2.zero(range.offset, range.length, false),
            Operation::Zero { range, unmap } => qcow2.zero(range.offset, range.length, !unmap)?,
            Operation::Over(_) => return Ok(()),
        }
        if durable { qcow2.flush() } else { Ok(()) }
    }

    fn read(&self, pieces: &[libc::iovec], part: Range, at: u64) -> io::Result<u64> {
        pieces::transfer(pieces, part, at, |pieces, at| {
            // SAFETY: the pieces are guest memory, which stays mapped as long as the process, and which
            // nobody holds references into.
            unsafe { libc::preadv(self.file.as_raw_fd(), pieces.as_ptr(), count(pieces), at) }
        })
    }

    fn write(&self, pieces: &[libc::iovec], part: Range, at: u64, stays: bool) -> io::Result<u64> {
        let flags = if stays { libc::RWF_DSYNC } else { 0 };
        pieces::transfer(pieces, part, at, |pieces, at| {
            let file = self.file.as_raw_fd();
            // SAFETY: as above; they are only read.
            unsafe { libc::pwritev2(file, pieces.as_ptr(), count(pieces), at, flags) }
        })
    }

    fn expect_all(&self, part: Range, moved: u64) -> io::Result<()> {
        if moved == part.length { Ok(()) } else { Err(self.ends()) }
    }

    fn ends(&self) -> io::Error {
        let size = self.file.metadata().map_or(0, |metadata| metadata.len());
        let expected = self.sectors() * SECTOR;
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

/// Guest memory that a disk in an image is read to.
struct Memory<'t> {
    image: &'t Image,
    pieces: &'t [libc::iovec],
    /// Bytes of it that are read already.
    done: u64,
}

impl Sink for Memory<'_> {
    fn file(&mut self, place: u64, length: u64, at: u64) -> io::Result<()> {
        let part = Range { offset: self.done + place, length };
        let moved = self.image.read(self.pieces, part, at)?;
        // The file may end within the image's last cluster.
        self.zeroes(place + moved, length - moved);
        Ok(())
    }

    fn bytes(&mut self, place: u64, bytes: &[u8]) {
        pieces::put(self.pieces, self.done + place, bytes);
    }

    fn zeroes(&mut self, place: u64, length: u64) {
        pieces::clear(self.pieces, Range { offset: self.done + place, length });
    }
}
