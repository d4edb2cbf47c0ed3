//! An image's tables: the first levels in memory, parts of the second levels in the [`Cache`].
//!
//! ```text
//! L1 table ─► L2 tables ─► guest data              refcount table ─► refcount blocks: a count for each
//!  (map)       (map parts)                          (counts)          (counts parts)  cluster of the file
//! ```

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::sync::Arc;

use super::cache::Cache;
use super::damage;
use super::header::{AUTOCLEAR_AT, Header, be};
use super::lease::Leases;
use super::storage::Storage;

/// A table of the second level, or a cluster of data, of which this entry is the only user.
pub const OWNED: u64 = 1 << 63;
/// Bits 9 to 55: where the table or the cluster is.
pub const PLACE: u64 = 0x00ff_ffff_ffff_fe00;

/// Sizes that follow from the header.
#[derive(Debug, Clone, Copy)]
pub struct Geometry {
    /// A cluster has two to the power of this bytes.
    pub cluster_bits: u32,
    /// A count has two to the power of this bits.
    pub count_order: u32,
    /// 2 or 3.
    pub version: u32,
    /// Bytes of the disk.
    pub size: u64,
}

impl Geometry {
    /// Bytes of a cluster.
    pub fn cluster(&self) -> u64 {
        1 << self.cluster_bits
    }

    /// Entries of an L2 table.
    pub fn entries(&self) -> u64 {
        self.cluster() / 8
    }

    /// Counts of a refcount block.
    pub fn counts(&self) -> u64 {
        (self.cluster() * 8) >> self.count_order
    }

    /// The number of the cluster that has this byte.
    pub fn number(&self, at: u64) -> u64 {
        at >> self.cluster_bits
    }

    /// Where the cluster of this number begins.
    pub fn place(&self, number: u64) -> u64 {
        number << self.cluster_bits
    }
}

/// See the top of this file.
pub struct Tables {
    pub geometry: Geometry,
    /// Entries of the L1 table: as many as the disk needs.
    pub map: Vec<u64>,
    pub map_at: u64,
    /// Those of its entries that are changed.
    pub map_changed: BTreeSet<usize>,
    /// Entries of the refcount table.
    pub counts: Vec<u64>,
    pub counts_at: u64,
    pub cache: Cache,
    /// Clusters of the header and of all tables that are in use: no data goes there.
    pub reserved: BTreeSet<u64>,
    /// Clusters that nothing refers to any more, with the number of references that were let go. They
    /// are free once that is on the file to stay.
    pub pending: BTreeMap<u64, u64>,
    /// Free clusters behind the cursor.
    pub free: BTreeSet<u64>,
    /// All clusters before this one are in use, free or pending, unless `rescan` is set.
    pub cursor: u64,
    /// Whether there may be free clusters behind the cursor that are not in `free`.
    pub rescan: bool,
    /// The file has this number of clusters, the last of which may be a part of one.
    pub end: u64,
    /// Autoclear features that are still on the file.
    pub autoclear: u64,
    pub leases: Arc<Leases>,
}

impl Tables {
    /// Those of an image in a file of `length` bytes. The counts are wanted only where it is to be
    /// `written` to, and then the first levels are looked through.
    ///
    /// # Errors
    /// The file's, and damage.
    pub fn read(
        storage: &dyn Storage,
        header: &Header,
        length: u64,
        written: bool,
    ) -> io::Result<Tables> {
        let geometry = Geometry {
            cluster_bits: header.cluster_bits,
            count_order: header.count_order,
            version: header.version,
            size: header.size,
        };
        let mut tables = Tables {
            geometry,
            map: table(storage, header.map_at, header.map_entries * 8)?,
            map_at: header.map_at,
            map_changed: BTreeSet::new(),
            counts: Vec::new(),
            counts_at: header.counts_at,
            cache: Cache::new(geometry.cluster()),
            reserved: BTreeSet::new(),
            pending: BTreeMap::new(),
            free: BTreeSet::new(),
            cursor: 1,
            rescan: false,
            end: length.div_ceil(geometry.cluster()),
            autoclear: header.autoclear,
            leases: Arc::default(),
        };
        if written {
            let bytes = header.counts_clusters * geometry.cluster();
            tables.counts = table(storage, header.counts_at, bytes)?;
            tables.reserve(bytes)?;
        }
        Ok(tables)
    }

    /// Notes the clusters of all tables, none of which may be of two.
    fn reserve(&mut self, counts_bytes: u64) -> io::Result<()> {
        let geometry = self.geometry;
        let clusters = |at: u64, bytes: u64| {
            let first = geometry.number(at);
            first..first + bytes.div_ceil(geometry.cluster())
        };
        let mut all = vec![0];
        all.extend(clusters(self.map_at, self.map.len() as u64 * 8));
        all.extend(clusters(self.counts_at, counts_bytes));
        for index in 0..self.map.len() {
            all.extend(self.map_table(index)?.map(|at| geometry.number(at)));
        }
        for index in 0..self.counts.len() {
            all.extend(self.count_block(index)?.map(|at| geometry.number(at)));
        }
        for number in all {
            if !self.reserved.insert(number) {
                let at = geometry.place(number);
                return Err(damage(format!("two of its tables are at {at:#x}")));
            }
            if number >= self.end {
                return Err(damage("a table is beyond the end of its file"));
            }
        }
        Ok(())
    }

    /// Where the L2 table of this number is, if there is one.
    ///
    /// # Errors
    /// Damage.
    pub fn map_table(&self, index: usize) -> io::Result<Option<u64>> {
        let entry = self.map.get(index).copied().unwrap_or_default();
        self.table_at(entry & !OWNED, "L1 table")
    }

    /// Where the refcount block of this number is, if there is one.
    ///
    /// # Errors
    /// Damage.
    pub fn count_block(&self, index: usize) -> io::Result<Option<u64>> {
        let entry = self.counts.get(index).copied().unwrap_or_default();
        self.table_at(entry, "refcount table")
    }

    fn table_at(&self, at: u64, what: &str) -> io::Result<Option<u64>> {
        let is_place = at.is_multiple_of(self.geometry.cluster()) && at & !PLACE == 0;
        match at {
            0 => Ok(None),
            at if is_place && self.geometry.number(at) < self.end => Ok(Some(at)),
            at => Err(damage(format!("its {what} has an entry {at:#x}"))),
        }
    }

    /// What autoclear features promise is not kept from now on.
    ///
    /// # Errors
    /// The file's.
    pub fn begin_writing(&mut self, storage: &dyn Storage) -> io::Result<()> {
        if self.autoclear != 0 {
            storage.write(AUTOCLEAR_AT, &[0; 8])?;
            storage.sync()?;
            self.autoclear = 0;
        }
        Ok(())
    }
}

fn table(storage: &dyn Storage, at: u64, bytes: u64) -> io::Result<Vec<u64>> {
    // The header's limits are kept: [`super::header::LARGEST_TABLE`].
    let mut table = vec![0; bytes as usize];
    storage.read(at, &mut table)?;
    Ok(table.chunks_exact(8).map(be).collect())
}
