//! What is changed in the tables goes to the file in an order in which it may be cut off anywhere, and
//! the host may lose all that was not synced, in any order:
//!
//! ```text
//! counts of what was taken ─ sync ─ L2 tables ─ sync ─ L1 entries ─ sync ─ what was let go is free
//! ```
//! So whatever the tables refer to is counted. What is counted and not referred to is room lost until
//! `qemu-img check` finds it, and no more. Data is written before the tables refer to it, and the first
//! sync is for that as well.

use std::io;

use super::cache::Kind;
use super::storage::Storage;
use super::tables::Tables;

/// Clusters let go beyond which it is time to free them.
const MANY: usize = 1 << 12;

impl Tables {
    /// Whether all that was written is on the file, though the host may not have it on its disk yet.
    pub fn is_written(&self) -> bool {
        !self.cache.is_changed() && self.map_changed.is_empty() && self.pending.is_empty()
    }

    /// Writes what is changed, and waits until it stays, as all of the disk's data that was written.
    ///
    /// # Errors
    /// The file's: what could not be written is still here, to be written later.
    pub fn commit(&mut self, storage: &dyn Storage) -> io::Result<()> {
        self.cache.write(storage, Kind::Counts)?;
        storage.sync()?;
        self.cache.written(Kind::Counts);
        if self.cache.is_changed() {
            self.cache.write(storage, Kind::Map)?;
            storage.sync()?;
            self.cache.written(Kind::Map);
        }
        if !self.map_changed.is_empty() {
            for index in &self.map_changed {
                let at = self.map_at + *index as u64 * 8;
                storage.write(at, &self.map[*index].to_be_bytes())?;
            }
            storage.sync()?;
            self.map_changed.clear();
        }
        self.free_pending(storage);
        Ok(())
    }

    /// Has room for a step of changes.
    ///
    /// # Errors
    /// Those of [`Tables::commit`].
    pub fn make_room(&mut self, storage: &dyn Storage) -> io::Result<()> {
        if self.cache.is_full() || self.pending.len() > MANY {
            self.commit(storage)?;
        }
        Ok(())
    }
}
