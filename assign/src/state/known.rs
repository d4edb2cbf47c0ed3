//! What was read of the database, kept until somebody writes it.
//!
//! A launch asks for what is remembered some twenty times, and opening the database takes as long as
//! all that it is asked for. Whether it was written since is told by its header: it has the number of
//! the last transaction and the checksums of what that one left.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::sync::{Arc, Mutex, PoisonError};

/// Bytes at the start of the file that every commit changes: redb's own are the first 320.
const HEADER: usize = 512;

/// Keys and values of a table, in the order of the keys.
pub(super) type Entries = Vec<(Vec<u8>, Vec<u8>)>;

/// What tells a database from others, and from what it was before it was written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Mark {
    device: u64,
    inode: u64,
    header: Vec<u8>,
}

impl Mark {
    /// That of the database in this file. Nobody may be writing it meanwhile.
    pub(super) fn of(file: &File) -> io::Result<Mark> {
        let metadata = file.metadata()?;
        let mut header = Vec::with_capacity(HEADER);
        file.take(HEADER as u64).read_to_end(&mut header)?;
        Ok(Mark { device: metadata.dev(), inode: metadata.ino(), header })
    }
}

/// All that the database had when it was read.
#[derive(Debug)]
pub(super) struct Content {
    pub(super) mark: Mark,
    pub(super) tables: BTreeMap<String, Entries>,
}

impl Content {
    /// The entries of a table; none where there is no such table.
    pub(super) fn entries(&self, table: &str) -> &[(Vec<u8>, Vec<u8>)] {
        self.tables.get(table).map_or(&[], Vec::as_slice)
    }
}

/// The last that was read.
#[derive(Debug, Default)]
pub(super) struct Known(Mutex<Option<Arc<Content>>>);

impl Known {
    /// What was read of the database that has this mark.
    pub(super) fn of(&self, mark: &Mark) -> Option<Arc<Content>> {
        let last = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        last.as_ref().filter(|content| content.mark == *mark).cloned()
    }

    /// Keeps this in place of what was read before.
    pub(super) fn keep(&self, content: Arc<Content>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(content);
    }
}
