//! One request of the driver (virtio 1.3, 5.2.6): a header, data, and a byte for the outcome.

use vm_memory::{Bytes, GuestAddress, GuestMemoryBackend};

use super::image::Image;
use super::pieces::Range;
use super::{MOST_DISCARDED, MOST_ZEROED, SECTOR};
use crate::machine::memory::GuestMemory;
use crate::qcow2::Lease;
use crate::virtio::queue::{Broken, Chain, Head};

const HEADER: usize = 16;
const READ: u32 = 0;
const WRITE: u32 = 1;
const FLUSH: u32 = 4;
const IDENTIFY: u32 = 8;
const DISCARD: u32 = 11;
const WRITE_ZEROES: u32 = 13;
/// Flag of a range to be zeroed: it need not keep its place in the file.
const UNMAP: u32 = 1;

/// Most pieces of one transfer that the kernel takes (IOV_MAX).
const MOST_PIECES: usize = 1024;

/// What the driver hears in the end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Status {
    /// It is done.
    Ok = 0,
    /// It failed.
    Failed = 1,
    /// This device does nothing of the kind.
    Unsupported = 2,
}

/// Guest memory, and where on the disk it goes or comes from.
#[derive(Debug)]
pub struct Transfer {
    pub pieces: Vec<libc::iovec>,
    pub range: Range,
}

impl Transfer {
    /// What is left of it when `done` bytes are done: of its pieces, and where on the disk.
    pub fn left(&self, done: u64) -> (Range, u64) {
        let Range { offset, length } = self.range;
        (Range { offset: done, length: length.saturating_sub(done) }, offset + done)
    }
}

/// What is asked for.
#[derive(Debug)]
pub enum Operation {
    Read(Transfer),
    Write(Transfer),
    Flush,
    Discard(Range),
    Zero {
        range: Range,
        unmap: bool,
    },
    /// It needs no file, and is over.
    Over(Status),
}

impl Operation {
    /// Bytes that are moved between guest memory and the file.
    pub fn length(&self) -> u64 {
        match self {
            Operation::Read(transfer) | Operation::Write(transfer) => transfer.range.length,
            _ => 0,
        }
    }
}

/// A request whose data is in guest memory, all of it.
#[derive(Debug)]
pub struct Request {
    /// By which the driver knows it.
    pub head: Head,
    pub operation: Operation,
    /// Whether what it writes is to stay when it is over.
    pub durable: bool,
    /// What it has of the file, while it is carried out there.
    pub lease: Option<Lease>,
    /// Bytes that the device writes where it succeeds, the outcome among them.
    written: u32,
    outcome: GuestAddress,
}

/// A part of guest memory.
type Piece = (GuestAddress, u64);

impl Request {
    /// Reads the request that `chain` is.
    ///
    /// # Errors
    /// [`Broken`] where it is none: there is not even a place for its outcome.
    pub fn parse(
        chain: Chain<'_>,
        memory: &GuestMemory,
        image: &Image,
        durable: bool,
    ) -> Result<Request, Broken> {
        let head = chain.head();
        let (mut readable, mut writable) = (Vec::<Piece>::new(), Vec::<Piece>::new());
        for descriptor in chain.descriptors() {
            let piece = (descriptor.address, u64::from(descriptor.length));
            match (descriptor.is_writable, writable.is_empty()) {
                (true, _) => writable.push(piece),
                (false, true) => readable.push(piece),
                (false, false) => return Err(Broken),
            }
        }
        writable.retain(|(_, length)| *length > 0);
        let (start, length) = writable.last_mut().ok_or(Broken)?;
        *length -= 1;
        let outcome = start.0.checked_add(*length).map(GuestAddress).ok_or(Broken)?;
        if !memory.address_in_range(outcome) {
            return Err(Broken);
        }
        let mut header = [0; HEADER];
        take(memory, &mut readable, &mut header).ok_or(Broken)?;
        let word =
            |at: usize| u32::from_le_bytes(header[at..at + 4].try_into().unwrap_or_default());
        let sector = u64::from(word(8)) | u64::from(word(12)) << 32;
        let mut written = 1;
        let operation = match word(0) {
            READ => transfer(memory, image, sector, &writable).map(|transfer| {
                // A chain of descriptors has less than 4 GiB.
                written += transfer.range.length as u32;
                Operation::Read(transfer)
            }),
            WRITE if !image.is_read_only() => {
                transfer(memory, image, sector, &readable).map(Operation::Write)
            }
            FLUSH => Some(Operation::Flush),
            IDENTIFY => identify(memory, image, &writable).map(|length| {
                written += length;
                Operation::Over(Status::Ok)
            }),
            kind @ (DISCARD | WRITE_ZEROES) if !image.is_read_only() => {
                erase(memory, image, kind, &mut readable)
            }
            WRITE | DISCARD | WRITE_ZEROES => None,
            _ => Some(Operation::Over(Status::Unsupported)),
        };
        let operation = operation.unwrap_or(Operation::Over(Status::Failed));
        Ok(Request { head, operation, durable, lease: None, written, outcome })
    }

    /// Tells the driver's memory how it ended, and how many bytes of it were written.
    pub fn end(&self, memory: &GuestMemory, status: Status) -> Result<u32, Broken> {
        memory.write_obj(status as u8, self.outcome).map_err(|_| Broken)?;
        Ok(if status == Status::Ok { self.written } else { 1 })
    }
}

/// Copies the first bytes of `pieces`, and leaves the rest of them.
fn take(memory: &GuestMemory, pieces: &mut Vec<Piece>, into: &mut [u8]) -> Option<()> {
    let mut filled = 0;
    let mut used = 0;
    for (address, length) in pieces.iter_mut() {
        let count = (*length).min((into.len() - filled) as u64);
        memory.read_slice(&mut into[filled..filled + count as usize], *address).ok()?;
        filled += count as usize;
        *length -= count;
        if *length > 0 {
            *address = GuestAddress(address.0.checked_add(count)?);
            break;
        }
        used += 1;
    }
    pieces.drain(..used);
    (filled == into.len()).then_some(())
}

/// Nothing where it is not in guest memory, not on the disk, or no whole number of sectors.
fn transfer(
    memory: &GuestMemory,
    image: &Image,
    sector: u64,
    pieces: &[Piece],
) -> Option<Transfer> {
    let pieces = pieces.iter().filter(|(_, length)| *length > 0);
    let pieces = pieces.map(|(address, length)| {
        let slice = memory.get_slice(*address, usize::try_from(*length).ok()?).ok()?;
        Some(libc::iovec { iov_base: slice.ptr_guard_mut().as_ptr().cast(), iov_len: slice.len() })
    });
    let pieces = pieces.collect::<Option<Vec<_>>>()?;
    let length = pieces.iter().map(|piece| piece.iov_len as u64).sum();
    if pieces.len() > MOST_PIECES {
        return None;
    }
    Some(Transfer { pieces, range: range(image, sector, length)? })
}

fn range(image: &Image, sector: u64, length: u64) -> Option<Range> {
    let whole = length.is_multiple_of(SECTOR);
    let end = sector.checked_add(length / SECTOR)?;
    (whole && end <= image.sectors()).then(|| Range { offset: sector * SECTOR, length })
}

/// Writes the serial number into the guest's buffer: 20 bytes, with zeroes at the end of a shorter one.
fn identify(memory: &GuestMemory, image: &Image, writable: &[Piece]) -> Option<u32> {
    let mut rest = &image.serial()[..];
    for (address, length) in writable {
        let (now, later) = rest.split_at(rest.len().min(usize::try_from(*length).ok()?));
        memory.write_slice(now, *address).ok()?;
        rest = later;
    }
    Some((image.serial().len() - rest.len()) as u32)
}

/// One range: start, length and flags.
fn erase(
    memory: &GuestMemory,
    image: &Image,
    kind: u32,
    readable: &mut Vec<Piece>,
) -> Option<Operation> {
    let mut bytes = [0; 16];
    take(memory, readable, &mut bytes)?;
    let sector = u64::from_le_bytes(bytes[..8].try_into().ok()?);
    let count = u32::from_le_bytes(bytes[8..12].try_into().ok()?);
    let flags = u32::from_le_bytes(bytes[12..].try_into().ok()?);
    let (most, known) = if kind == DISCARD { (MOST_DISCARDED, 0) } else { (MOST_ZEROED, UNMAP) };
    if flags & !known != 0 {
        return Some(Operation::Over(Status::Unsupported));
    }
    let is_more = readable.iter().any(|(_, length)| *length > 0);
    if count > most || is_more {
        return None;
    }
    let range = range(image, sector, u64::from(count) * SECTOR)?;
    Some(match kind {
        _ if count == 0 => Operation::Over(Status::Ok),
        DISCARD => Operation::Discard(range),
        _ => Operation::Zero { range, unmap: flags & UNMAP != 0 },
    })
}
