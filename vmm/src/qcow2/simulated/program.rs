//! What is done with a disk, beside a model of the disk: a row of bytes.

use std::collections::BTreeMap;
use std::io;

use super::{Cluster, Disk, Shape};

/// One thing to do.
#[derive(Debug, Clone, Copy)]
pub enum Action {
    /// Write this byte over and over.
    Write(u64, u64, u8),
    /// Read.
    Read(u64, u64),
    /// Have it read as zeroes, with its room kept or not.
    Zero(u64, u64, bool),
    /// What was written stays.
    Flush,
}

/// What a disk should hold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Model(pub Vec<u8>);

impl Model {
    /// What is on a disk that was just made.
    pub fn of(shape: &Shape, clusters: &BTreeMap<u64, Cluster>) -> Model {
        let mut bytes = vec![0; shape.size as usize];
        for (number, what) in clusters {
            let from = (*number as usize) << shape.cluster_bits;
            let end = (from + (1 << shape.cluster_bits)).min(bytes.len());
            let byte = match what {
                Cluster::Data(byte) | Cluster::Packed(byte) | Cluster::Shared(byte) => *byte,
                Cluster::Zeroes => 0,
            };
            bytes[from..end].fill(byte);
        }
        Model(bytes)
    }

    /// The same for it.
    pub fn carry_out(&mut self, action: Action) {
        match action {
            Action::Write(offset, length, byte) => self.fill(offset, length, byte),
            Action::Zero(offset, length, _) => self.fill(offset, length, 0),
            Action::Read(..) | Action::Flush => {}
        }
    }

    fn fill(&mut self, offset: u64, length: u64, byte: u8) {
        self.0[offset as usize..(offset + length) as usize].fill(byte);
    }
}

/// Does it: what was read, if it reads.
///
/// # Errors
/// The disk's.
pub fn carry_out(disk: &Disk<'_>, action: Action) -> io::Result<Option<Vec<u8>>> {
    match action {
        Action::Write(offset, length, byte) => {
            disk.write(offset, &vec![byte; length as usize]).map(|()| None)
        }
        Action::Read(offset, length) => disk.read(offset, length as usize).map(Some),
        Action::Zero(offset, length, kept) => disk.qcow2.zero(offset, length, kept).map(|()| None),
        Action::Flush => disk.qcow2.flush().map(|()| None),
    }
}
