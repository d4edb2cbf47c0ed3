//! Disks in qcow2 images (QEMU, docs/interop/qcow2).
//!
//! ```text
//! disk ─ map: L1, L2 ─► cluster of the file ◄─ counts: who refers to it, how often
//! ```
//! An image is hostile. What it says of itself is taken for no more than that: places are within the file,
//! tables and data apart, memory bounded. Where that is found not to be so, a request fails and the image
//! is left as it is. Nothing is read but the file that was handed to us.
//!
//! The tables are behind one lock. Data that is in its place goes past it, under a [`Lease`], and the
//! caller moves it as it likes; data that needs a new cluster is written with the lock held.
//!
//! Changes of tables stay in memory until somebody flushes ([`commit`] has the order). Whoever ends flushes
//! before: else what was written after the last flush is lost, as it is on a disk whose power goes.

mod cache;
mod commit;
mod compressed;
mod counts;
mod header;
mod lease;
mod map;
#[cfg(any(test, feature = "simulated"))]
pub mod simulated;
mod storage;
mod tables;
#[cfg(test)]
mod tests;
mod write;

use std::fmt::Display;
use std::io::{self, ErrorKind};
use std::sync::{Mutex, TryLockError};

pub use self::header::{HEADER, Header, MAGIC, Unusable};
pub use self::lease::Lease;
pub use self::storage::Storage;

use self::header::Compression;
use self::map::{Entry, Packed, Way};
use self::tables::{Geometry, Tables};

/// A disk in an image.
pub struct Qcow2<S> {
    storage: S,
    geometry: Geometry,
    compression: Compression,
    read_only: bool,
    tables: Mutex<Tables>,
    /// The cluster that was unpacked last.
    unpacked: Mutex<Option<(Packed, Vec<u8>)>>,
}

/// Where what is read goes. Places are counted from the first byte that was asked for.
pub trait Sink {
    /// Takes `length` bytes of the file, from `at` on: zeroes beyond its end.
    ///
    /// # Errors
    /// The file's.
    fn file(&mut self, place: u64, length: u64, at: u64) -> io::Result<()>;

    /// Takes these bytes.
    fn bytes(&mut self, place: u64, bytes: &[u8]);

    /// Takes zeroes.
    fn zeroes(&mut self, place: u64, length: u64);
}

/// Puts bytes of what is written into the file: from which place on, counted from the first byte, how many,
/// and where in the file.
pub type Source<'a> = &'a mut dyn FnMut(u64, u64, u64) -> io::Result<()>;

/// A part of the disk, all of one kind.
#[derive(Debug, Clone, Copy)]
enum Piece {
    Zeroes,
    File(u64),
    Packed(Packed),
}

impl<S: Storage> Qcow2<S> {
    /// The disk in a file of `length` bytes, which is not written to where it is `read_only`.
    ///
    /// # Errors
    /// The file's, and why it cannot be used, with what to do about it.
    pub fn open(storage: S, length: u64, read_only: bool) -> io::Result<Qcow2<S>> {
        let mut bytes = [0; HEADER];
        let bytes = &mut bytes[..length.min(HEADER as u64) as usize];
        storage.read(0, bytes)?;
        let header = Header::parse(bytes, !read_only).map_err(io::Error::other)?;
        let tables = Tables::read(&storage, &header, length, !read_only)?;
        Ok(Qcow2 {
            storage,
            geometry: tables.geometry,
            compression: header.compression,
            read_only,
            tables: Mutex::new(tables),
            unpacked: Mutex::default(),
        })
    }

    /// Size of the disk in bytes.
    pub fn size(&self) -> u64 {
        self.geometry.size
    }

    /// Bytes of a cluster: the unit in which room is taken and given back.
    pub fn cluster(&self) -> u64 {
        self.geometry.cluster()
    }

    /// Where in the file this part of the disk is, if it is in one piece there and that is known without
    /// waiting. Where it is to be `written`, it can be: the bytes are there as long as the lease is.
    pub fn place(&self, offset: u64, length: u64, written: bool) -> Option<(u64, Lease)> {
        let mut tables = match self.tables.try_lock() {
            Ok(tables) => tables,
            Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
            Err(TryLockError::WouldBlock) => return None,
        };
        let last = self.geometry.number(offset + length.checked_sub(1)?);
        let is_known = (self.geometry.number(offset)..=last).all(|cluster| tables.knows(cluster));
        if !is_known || written && (self.read_only || tables.autoclear != 0) {
            return None;
        }
        let (at, found) = match written {
            true => match self.run(&mut tables, offset, length, true).ok()? {
                (Way::Here(at), found) => (at, found),
                (Way::Anew, _) => return None,
            },
            false => match self.piece(&mut tables, offset, length).ok()? {
                (Piece::File(at), found) => (at, found),
                _ => return None,
            },
        };
        (found == length).then(|| (at, self.lease(&tables, at, length)))
    }

    /// Whether a flush has nothing to do but to sync the file; false where that is not known without
    /// waiting.
    pub fn is_written(&self) -> bool {
        self.tables.try_lock().is_ok_and(|tables| tables.is_written())
    }

    fn lease(&self, tables: &Tables, at: u64, length: u64) -> Lease {
        let last = self.geometry.number(at + length - 1);
        tables.leases.take(self.geometry.number(at), last)
    }

    /// Reads `length` bytes from `offset` on, all of them within the disk.
    ///
    /// # Errors
    /// The file's, and damage.
    pub fn read(&self, offset: u64, length: u64, to: &mut dyn Sink) -> io::Result<()> {
        self.expect_within(offset, length)?;
        let mut done = 0;
        while done < length {
            let mut tables = crate::lock(&self.tables);
            let (piece, found) = self.piece(&mut tables, offset + done, length - done)?;
            match piece {
                Piece::Zeroes => {
                    drop(tables);
                    to.zeroes(done, found);
                }
                Piece::File(at) => {
                    let _lease = self.lease(&tables, at, found);
                    drop(tables);
                    to.file(done, found, at)?;
                }
                Piece::Packed(packed) => {
                    let _lease = self.lease(&tables, packed.at, packed.length);
                    drop(tables);
                    let from = ((offset + done) % self.cluster()) as usize;
                    self.unpack(packed, |cluster| {
                        to.bytes(done, &cluster[from..from + found as usize]);
                    })?;
                }
            }
            done += found;
        }
        Ok(())
    }

    /// Fills `bytes` with what the disk has from `offset` on.
    ///
    /// # Errors
    /// As [`Qcow2::read`].
    pub fn read_bytes(&self, offset: u64, bytes: &mut [u8]) -> io::Result<()> {
        let length = bytes.len() as u64;
        self.read(offset, length, &mut Bytes { storage: &self.storage, bytes })
    }

    /// The piece that begins at `offset`, and how much of `most` bytes it has.
    fn piece(&self, tables: &mut Tables, offset: u64, most: u64) -> io::Result<(Piece, u64)> {
        let cluster = self.cluster();
        let inside = offset % cluster;
        let first = self.geometry.number(offset);
        let mut found = cluster - inside;
        let piece = match tables.entry(&self.storage, first)? {
            Entry::Packed(packed) => return Ok((Piece::Packed(packed), found.min(most))),
            Entry::Nowhere | Entry::Zeroes(_) => Piece::Zeroes,
            Entry::Data { cluster, .. } => Piece::File(self.geometry.place(cluster) + inside),
        };
        while found < most {
            let next = match tables.entry(&self.storage, self.geometry.number(offset + found)) {
                Ok(next) => next,
                // Whoever comes there is told.
                Err(_) => break,
            };
            let is_same = match (piece, next) {
                (Piece::Zeroes, Entry::Nowhere | Entry::Zeroes(_)) => true,
                (Piece::File(at), Entry::Data { cluster, .. }) => {
                    self.geometry.place(cluster) == at + found
                }
                _ => false,
            };
            if !is_same {
                break;
            }
            found += cluster;
        }
        Ok((piece, found.min(most)))
    }

    /// Shows `look` what a compressed cluster holds.
    fn unpack(&self, packed: Packed, look: impl FnOnce(&[u8])) -> io::Result<()> {
        let mut unpacked = crate::lock(&self.unpacked);
        if let Some((at, cluster)) = &*unpacked
            && *at == packed
        {
            look(cluster);
            return Ok(());
        }
        // Of nobody's until it is whole.
        let mut cluster = match unpacked.take() {
            Some((_, cluster)) => cluster,
            None => vec![0; self.cluster() as usize],
        };
        // 4 MiB at most.
        let mut bytes = vec![0; packed.length as usize];
        self.storage.read(packed.at, &mut bytes)?;
        compressed::unpack(self.compression, &bytes, &mut cluster)?;
        look(&cluster);
        *unpacked = Some((packed, cluster));
        Ok(())
    }

    /// What was written before stays.
    ///
    /// # Errors
    /// The file's.
    pub fn flush(&self) -> io::Result<()> {
        let mut tables = crate::lock(&self.tables);
        if tables.is_written() {
            drop(tables);
            return self.storage.sync();
        }
        tables.commit(&self.storage)
    }

    fn expect_within(&self, offset: u64, length: u64) -> io::Result<()> {
        let end = offset.checked_add(length);
        let is_within = end.is_some_and(|end| end <= self.geometry.size);
        if is_within { Ok(()) } else { Err(ErrorKind::UnexpectedEof.into()) }
    }
}

#[cfg(test)]
impl<S> Qcow2<S> {
    /// Whoever transfers data at the moment.
    fn leases(&self) -> std::sync::Arc<lease::Leases> {
        crate::lock(&self.tables).leases.clone()
    }
}

/// Bytes of ours that a disk is read to.
struct Bytes<'t> {
    storage: &'t dyn Storage,
    bytes: &'t mut [u8],
}

impl Bytes<'_> {
    fn part(&mut self, place: u64, length: u64) -> &mut [u8] {
        &mut self.bytes[place as usize..(place + length) as usize]
    }
}

impl Sink for Bytes<'_> {
    fn file(&mut self, place: u64, length: u64, at: u64) -> io::Result<()> {
        let storage = self.storage;
        storage.read(at, self.part(place, length))
    }

    fn bytes(&mut self, place: u64, bytes: &[u8]) {
        self.part(place, bytes.len() as u64).copy_from_slice(bytes);
    }

    fn zeroes(&mut self, place: u64, length: u64) {
        self.part(place, length).fill(0);
    }
}

/// The image contradicts itself.
fn damage(what: impl Display) -> io::Error {
    let remedy = "`qemu-img check` looks through it when no guest has it";
    io::Error::new(ErrorKind::InvalidData, format!("the image is damaged: {what}; {remedy}"))
}
