//! The map: which cluster of the disk is where in the file.

use std::io;
use std::ops::Range;

use super::cache::Kind;
use super::damage;
use super::header::be;
use super::storage::Storage;
use super::tables::{OWNED, PLACE, Tables};

/// An entry of an L2 table: where a cluster of the disk is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Entry {
    /// Nowhere: it reads as zeroes.
    Nowhere,
    /// It reads as zeroes, and has this cluster of the file all the same.
    Zeroes(u64),
    /// In this cluster of the file, which is its alone where it is `owned`.
    Data { cluster: u64, owned: bool },
    /// Compressed.
    Packed(Packed),
}

/// Where a compressed cluster is in the file, in bytes. It may end before that.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Packed {
    pub at: u64,
    pub length: u64,
}

/// What is to be done to write somewhere.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// The bytes at this place of the file are the disk's.
    Here(u64),
    /// Clusters are to be taken for it.
    Anew,
}

impl Tables {
    /// The L2 entry of a cluster of the disk as it is on the file, in a table that is there.
    fn entry_at(&self, table: u64, cluster: u64) -> u64 {
        table + cluster % self.geometry.entries() * 8
    }

    /// The number of the L2 table for a cluster of the disk.
    pub fn index(&self, cluster: u64) -> usize {
        (cluster / self.geometry.entries()) as usize
    }

    /// Where a cluster of the disk is.
    ///
    /// # Errors
    /// The file's, and damage.
    pub fn entry(&mut self, storage: &dyn Storage, cluster: u64) -> io::Result<Entry> {
        let Some(table) = self.map_table(self.index(cluster))? else { return Ok(Entry::Nowhere) };
        let at = self.entry_at(table, cluster);
        let part = self.cache.part(storage, at)?;
        let entry = be(&part[at as usize % part.len()..][..8]);
        self.decode(entry)
    }

    /// Whether the entry of a cluster is in memory.
    pub fn knows(&self, cluster: u64) -> bool {
        match self.map_table(self.index(cluster)) {
            Ok(Some(table)) => self.cache.has(self.entry_at(table, cluster)),
            _ => true,
        }
    }

    fn decode(&self, entry: u64) -> io::Result<Entry> {
        let geometry = self.geometry;
        let bad = || damage(format!("an L2 table has an entry {entry:#x}"));
        if entry & 1 << 62 != 0 {
            // The number of sectors besides the first takes the place of the highest bits of the place.
            let bits = 62 - (geometry.cluster_bits - 8);
            let descriptor = entry & ((1 << 62) - 1);
            let (at, more) = (descriptor & ((1 << bits) - 1), descriptor >> bits);
            let length = (more + 1) * 512 - at % 512;
            if entry & OWNED != 0 || at >> 56 != 0 || geometry.number(at) >= self.end || at == 0 {
                return Err(bad());
            }
            return Ok(Entry::Packed(Packed { at, length }));
        }
        let (place, owned, zeroes) = (entry & PLACE, entry & OWNED != 0, entry & 1 != 0);
        let cluster = geometry.number(place);
        let is_odd = entry & !(PLACE | OWNED | 1) != 0
            || !place.is_multiple_of(geometry.cluster())
            || cluster >= self.end
            || zeroes && geometry.version < 3
            || owned && place == 0;
        match (place, zeroes) {
            _ if is_odd => Err(bad()),
            (0, _) => Ok(Entry::Nowhere),
            (_, true) => Ok(Entry::Zeroes(cluster)),
            (_, false) => Ok(Entry::Data { cluster, owned }),
        }
    }

    /// The clusters of the file that an entry refers to.
    pub fn used(&self, entry: Entry) -> Range<u64> {
        match entry {
            Entry::Nowhere => 0..0,
            Entry::Zeroes(cluster) | Entry::Data { cluster, .. } => cluster..cluster + 1,
            Entry::Packed(Packed { at, length }) => {
                self.geometry.number(at)..self.geometry.number(at + length - 1) + 1
            }
        }
    }

    /// How to write to the `offset`th byte of the disk.
    ///
    /// # Errors
    /// The file's, and damage.
    pub fn way(&mut self, storage: &dyn Storage, offset: u64) -> io::Result<Way> {
        let geometry = self.geometry;
        let number = geometry.number(offset);
        match self.entry(storage, number)? {
            Entry::Data { cluster, owned: true } if self.owns_table(number) => {
                if self.reserved.contains(&cluster) {
                    let at = geometry.place(cluster);
                    return Err(damage(format!("the disk's data and a table are both at {at:#x}")));
                }
                Ok(Way::Here(geometry.place(cluster) + offset % geometry.cluster()))
            }
            _ => Ok(Way::Anew),
        }
    }

    fn owns_table(&self, cluster: u64) -> bool {
        self.map.get(self.index(cluster)).is_some_and(|entry| entry & OWNED != 0)
    }

    /// Gives the disk's `cluster` an L2 table that can be changed.
    ///
    /// # Errors
    /// The file's, and damage: nothing is changed then.
    pub fn own_table(&mut self, storage: &dyn Storage, cluster: u64) -> io::Result<()> {
        let geometry = self.geometry;
        let index = self.index(cluster);
        let old = self.map_table(index)?;
        if old.is_some() && self.owns_table(cluster) {
            return Ok(());
        }
        let mut table = vec![0; geometry.cluster() as usize];
        if let Some(old) = old {
            self.expect_counted(storage, geometry.number(old))?;
            // It is as it is on the file: what is shared is never changed.
            storage.read(old, &mut table)?;
        }
        let (taken, _) = self.allocate(storage, 1)?;
        let place = geometry.place(taken);
        self.cache.forget(place, geometry.cluster());
        if let Err(error) = storage.write(place, &table) {
            self.untake(storage, taken, 1)?;
            return Err(error);
        }
        self.reserved.insert(taken);
        self.map[index] = place | OWNED;
        self.map_changed.insert(index);
        if let Some(old) = old {
            self.let_go(geometry.number(old));
        }
        Ok(())
    }

    /// Has the entries of the disk's clusters from `first` on be these, in one L2 table that can be
    /// changed, and lets go of what they were.
    ///
    /// # Errors
    /// The file's, and damage: those before it are changed then.
    pub fn set_entries(
        &mut self,
        storage: &dyn Storage,
        first: u64,
        entries: impl Iterator<Item = u64>,
    ) -> io::Result<()> {
        for (cluster, entry) in (first..).zip(entries) {
            let old = self.entry(storage, cluster)?;
            let table = self.map_table(self.index(cluster))?;
            let at = self.entry_at(table.ok_or_else(|| damage("an L2 table is gone"))?, cluster);
            let part = self.cache.change(storage, at, Kind::Map)?;
            let from = at as usize % part.len();
            part[from..from + 8].copy_from_slice(&entry.to_be_bytes());
            for used in self.used(old) {
                self.let_go(used);
            }
        }
        Ok(())
    }
}
