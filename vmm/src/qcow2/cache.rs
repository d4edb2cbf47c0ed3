//! The parts of second-level tables that are in memory: of the map (L2 tables) and of the reference
//! counts (refcount blocks). It is of a fixed size, whatever the image.
//!
//! What is changed here is on the file only after [`super::commit`], which keeps the order.

use std::collections::HashMap;
use std::io;

use super::storage::Storage;

/// Largest part of a table, in bytes.
const LARGEST: u64 = 4096;
/// Most parts: 2 MiB.
const MOST: usize = 512;
/// Changed parts beyond which it is time to write them.
const MANY: usize = MOST / 2;

/// What a part belongs to: the order of writing is by this.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Reference counts.
    Counts,
    /// The map.
    Map,
}

#[derive(Debug)]
struct Part {
    at: u64,
    bytes: Box<[u8]>,
    /// Whether it is changed.
    changed: Option<Kind>,
    /// Whether it was used since the hand came by.
    used: bool,
}

/// Parts of tables by their places.
#[derive(Debug)]
pub struct Cache {
    /// Bytes of a part: a power of two, a cluster at most.
    pub part: u64,
    parts: Vec<Part>,
    places: HashMap<u64, usize>,
    hand: usize,
    changed: usize,
}

impl Cache {
    /// An empty one for tables of a `cluster` each.
    pub fn new(cluster: u64) -> Cache {
        let part = cluster.min(LARGEST);
        Cache { part, parts: Vec::new(), places: HashMap::new(), hand: 0, changed: 0 }
    }

    /// Whether the part that has the byte `at` is here.
    pub fn has(&self, at: u64) -> bool {
        self.places.contains_key(&(at & !(self.part - 1)))
    }

    /// Whether so much is changed that it is to be written before more is.
    pub fn is_full(&self) -> bool {
        self.changed > MANY
    }

    /// Whether anything is changed.
    pub fn is_changed(&self) -> bool {
        self.changed > 0
    }

    /// The part with the byte `at`: it begins at a multiple of its size.
    ///
    /// # Errors
    /// The file's, and where everything here is changed.
    pub fn part(&mut self, storage: &dyn Storage, at: u64) -> io::Result<&[u8]> {
        let index = self.find(storage, at)?;
        Ok(&self.parts[index].bytes)
    }

    /// The part with the byte `at`, to be changed.
    ///
    /// # Errors
    /// As [`Cache::part`].
    pub fn change(&mut self, storage: &dyn Storage, at: u64, kind: Kind) -> io::Result<&mut [u8]> {
        let index = self.find(storage, at)?;
        let part = &mut self.parts[index];
        if part.changed.replace(kind).is_none() {
            self.changed += 1;
        }
        Ok(&mut part.bytes)
    }

    fn find(&mut self, storage: &dyn Storage, at: u64) -> io::Result<usize> {
        let at = at & !(self.part - 1);
        if let Some(index) = self.places.get(&at) {
            self.parts[*index].used = true;
            return Ok(*index);
        }
        let mut bytes = vec![0; self.part as usize].into_boxed_slice();
        storage.read(at, &mut bytes)?;
        let part = Part { at, bytes, changed: None, used: true };
        let index = if self.parts.len() < MOST {
            self.parts.push(part);
            self.parts.len() - 1
        } else {
            let index = self.unused().ok_or_else(|| io::Error::other("its tables do not fit"))?;
            self.places.remove(&self.parts[index].at);
            self.parts[index] = part;
            index
        };
        self.places.insert(at, index);
        Ok(index)
    }

    /// One that was not used for long and is not changed.
    fn unused(&mut self) -> Option<usize> {
        for _ in 0..2 * self.parts.len() {
            let index = self.hand;
            self.hand = (index + 1) % self.parts.len();
            let part = &mut self.parts[index];
            if part.changed.is_none() && !std::mem::take(&mut part.used) {
                return Some(index);
            }
        }
        None
    }

    /// Forgets what it has of the `length` bytes at `at`, none of which is changed: they are written in
    /// another way.
    pub fn forget(&mut self, at: u64, length: u64) {
        for at in (at..at + length).step_by(self.part as usize) {
            let Some(index) = self.places.remove(&at) else { continue };
            debug_assert!(self.parts[index].changed.is_none());
            self.parts.swap_remove(index);
            if let Some(moved) = self.parts.get(index) {
                self.places.insert(moved.at, index);
            }
        }
        self.hand = 0;
    }

    /// Writes what is changed of this kind. It stays changed until [`Cache::written`].
    ///
    /// # Errors
    /// The file's.
    pub fn write(&self, storage: &dyn Storage, kind: Kind) -> io::Result<()> {
        let mut changed: Vec<&Part> =
            self.parts.iter().filter(|part| part.changed == Some(kind)).collect();
        changed.sort_unstable_by_key(|part| part.at);
        changed.into_iter().try_for_each(|part| storage.write(part.at, &part.bytes))
    }

    /// What is changed of this kind is on the file, to stay.
    pub fn written(&mut self, kind: Kind) {
        for part in self.parts.iter_mut().filter(|part| part.changed == Some(kind)) {
            part.changed = None;
            self.changed -= 1;
        }
    }
}
