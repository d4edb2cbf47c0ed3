//! Reference counts, and clusters of the file that are taken and given back.

use std::io::{self, ErrorKind};

use super::cache::Kind;
use super::damage;
use super::header::{COUNTS_AT, LARGEST_TABLE, be};
use super::storage::Storage;
use super::tables::{PLACE, Tables};

/// Most free clusters that are remembered one by one.
const MOST_FREE: usize = 1 << 14;

impl Tables {
    /// How many references there are to a cluster of the file, so its count says.
    ///
    /// # Errors
    /// The file's, and damage.
    pub fn count(&mut self, storage: &dyn Storage, cluster: u64) -> io::Result<u64> {
        let Some((at, shift)) = self.count_at(cluster)? else { return Ok(0) };
        let order = self.geometry.count_order;
        let part = self.cache.part(storage, at)?;
        let at = at as usize % part.len();
        Ok(get(&part[at..], order, shift))
    }

    /// Changes the count of a cluster that has a refcount block, to a number that fits.
    pub fn set_count(&mut self, storage: &dyn Storage, cluster: u64, count: u64) -> io::Result<()> {
        let place = self.count_at(cluster)?;
        let (at, shift) = place.ok_or_else(|| damage("a refcount block is not there"))?;
        let order = self.geometry.count_order;
        let part = self.cache.change(storage, at, Kind::Counts)?;
        let at = at as usize % part.len();
        put(&mut part[at..], order, shift, count);
        Ok(())
    }

    /// The place of a count: its byte, and in that its lowest bit.
    fn count_at(&self, cluster: u64) -> io::Result<Option<(u64, u32)>> {
        let counts = self.geometry.counts();
        let Ok(block) = usize::try_from(cluster / counts) else { return Ok(None) };
        let Some(block) = self.count_block(block)? else { return Ok(None) };
        let bit = (cluster % counts) << self.geometry.count_order;
        Ok(Some((block + bit / 8, (bit % 8) as u32)))
    }

    /// Takes up to `most` free clusters that follow each other: the first, and how many.
    ///
    /// # Errors
    /// The file's; damage; and an image that cannot grow any more.
    pub fn allocate(&mut self, storage: &dyn Storage, most: u64) -> io::Result<(u64, u64)> {
        let first = loop {
            let found = match self.free.pop_first() {
                Some(found) => found,
                None => self.search(storage)?,
            };
            if self.has_block(found)? {
                break found;
            }
            self.make_block(storage, found)?;
        };
        let mut count = 0;
        while count < most {
            let next = first + count;
            if count > 0 {
                let is_next = self.free.remove(&next)
                    || next == self.cursor
                        && self.has_block(next)?
                        && self.count(storage, next)? == 0;
                if !is_next {
                    break;
                }
            }
            match self.take(storage, next) {
                Ok(()) => count += 1,
                // The others are no worse for that.
                Err(_) if count > 0 => break,
                Err(error) => return Err(error),
            }
        }
        self.end = self.end.max(first + count);
        Ok((first, count))
    }

    /// Takes this free cluster.
    fn take(&mut self, storage: &dyn Storage, cluster: u64) -> io::Result<()> {
        self.expect_free(storage, cluster)?;
        self.set_count(storage, cluster, 1)?;
        self.pass(cluster, 1);
        Ok(())
    }

    /// These clusters are in use: nobody need look there again.
    fn pass(&mut self, first: u64, count: u64) {
        if self.cursor == first {
            self.cursor += count;
        }
    }

    /// # Errors
    /// Where the counts say that a cluster is free which is not.
    fn expect_free(&mut self, storage: &dyn Storage, cluster: u64) -> io::Result<()> {
        let is_used = self.reserved.contains(&cluster)
            || self.leases.has(cluster)
            || self.count(storage, cluster)? != 0;
        if is_used {
            let at = self.geometry.place(cluster);
            return Err(damage(format!("what is in use at {at:#x} has no reference count")));
        }
        Ok(())
    }

    /// Gives clusters back that were just taken and that nothing refers to.
    ///
    /// # Errors
    /// The file's.
    pub fn untake(&mut self, storage: &dyn Storage, first: u64, count: u64) -> io::Result<()> {
        for cluster in first..first + count {
            self.set_count(storage, cluster, 0)?;
            self.remember(cluster);
        }
        Ok(())
    }

    fn remember(&mut self, cluster: u64) {
        if self.free.len() < MOST_FREE {
            self.free.insert(cluster);
        } else {
            self.rescan = true;
        }
    }

    /// The first cluster from the cursor on whose count is zero.
    fn search(&mut self, storage: &dyn Storage) -> io::Result<u64> {
        loop {
            if self.cursor >= self.end && std::mem::take(&mut self.rescan) {
                self.cursor = 1;
            }
            let Some((at, shift)) = self.count_at(self.cursor)? else { return Ok(self.cursor) };
            let order = self.geometry.count_order;
            let part = self.cache.part(storage, at)?;
            let from = at as usize % part.len();
            // Counts of whole bytes are looked at together, others one by one.
            let passed = match order {
                0..3 => u64::from(get(&part[from..], order, shift) != 0),
                _ => {
                    let mut counts = part[from..].chunks_exact(1 << (order - 3));
                    let all = counts.len();
                    let free = counts.position(|count| count.iter().all(|byte| *byte == 0));
                    free.unwrap_or(all) as u64
                }
            };
            if passed == 0 {
                return Ok(self.cursor);
            }
            self.cursor += passed;
        }
    }

    fn has_block(&self, cluster: u64) -> io::Result<bool> {
        Ok(self.count_at(cluster)?.is_some())
    }

    /// Makes the refcount block that has the count of `at`, in the cluster `at` itself. It is on the
    /// file before the refcount table says so.
    fn make_block(&mut self, storage: &dyn Storage, at: u64) -> io::Result<()> {
        let geometry = self.geometry;
        let index = at / geometry.counts();
        if index >= self.counts.len() as u64 {
            return self.grow(storage, at);
        }
        self.expect_free(storage, at)?;
        let place = geometry.place(at);
        if place & !PLACE != 0 {
            return Err(full());
        }
        self.cache.forget(place, geometry.cluster());
        self.end = self.end.max(at + 1);
        storage.write(place, &self.block(index, at..at + 1))?;
        storage.sync()?;
        storage.write(self.counts_at + index * 8, &place.to_be_bytes())?;
        self.counts[index as usize] = place;
        self.reserved.insert(at);
        self.pass(at, 1);
        Ok(())
    }

    /// A refcount block where these clusters are in use, as far as it has their counts.
    fn block(&self, index: u64, used: std::ops::Range<u64>) -> Vec<u8> {
        let (order, counts) = (self.geometry.count_order, self.geometry.counts());
        let mut block = vec![0; self.geometry.cluster() as usize];
        let first = index * counts;
        for cluster in used.start.max(first)..used.end.min(first + counts) {
            let bit = (cluster - first) << order;
            put(&mut block[(bit / 8) as usize..], order, (bit % 8) as u32, 1);
        }
        block
    }

    /// Makes a larger refcount table, from the cluster `at` on, which the present one does not reach.
    ///
    /// ```text
    /// at ─► │ refcount blocks, of these clusters │ table │
    /// ```
    /// All of that is on the file before the header says so.
    fn grow(&mut self, storage: &dyn Storage, at: u64) -> io::Result<()> {
        let geometry = self.geometry;
        let (cluster, counts) = (geometry.cluster(), geometry.counts());
        let (mut blocks, mut clusters) = (1, 1);
        let (first, last) = loop {
            let last = (at + blocks + clusters - 1) / counts;
            let entries = (last + 1).max(self.counts.len() as u64 * 3 / 2);
            let wanted = (last + 1 - at / counts, (entries * 8).div_ceil(cluster));
            if wanted.1 * cluster > LARGEST_TABLE {
                return Err(full());
            }
            if wanted.0 <= blocks && wanted.1 <= clusters {
                break (at / counts, last);
            }
            (blocks, clusters) = (blocks.max(wanted.0), clusters.max(wanted.1));
        };
        let area = at..at + blocks + clusters;
        if geometry.place(area.end) & !PLACE != 0 {
            return Err(full());
        }
        for cluster in area.clone() {
            self.expect_free(storage, cluster)?;
        }
        self.cache.forget(geometry.place(at), (blocks + clusters) * cluster);
        self.end = self.end.max(area.end);
        let mut table = self.counts.clone();
        table.resize((clusters * cluster / 8) as usize, 0);
        for (index, place) in (first..=last).zip(at..) {
            storage.write(geometry.place(place), &self.block(index, area.clone()))?;
            table[index as usize] = geometry.place(place);
        }
        let table_at = geometry.place(at + blocks);
        let bytes: Vec<u8> = table.iter().flat_map(|entry| entry.to_be_bytes()).collect();
        storage.write(table_at, &bytes)?;
        storage.sync()?;
        let mut fields = table_at.to_be_bytes().to_vec();
        fields.extend((clusters as u32).to_be_bytes());
        // Within a sector.
        storage.write(COUNTS_AT, &fields)?;
        let old = geometry.number(self.counts_at);
        let old = old..old + (self.counts.len() as u64 * 8).div_ceil(cluster);
        (self.counts, self.counts_at) = (table, table_at);
        self.pass(at, area.end - at);
        self.reserved.extend(area);
        for cluster in old {
            self.let_go(cluster);
        }
        Ok(())
    }

    /// A reference to `cluster` is gone: from the tables here, not yet from the file.
    pub fn let_go(&mut self, cluster: u64) {
        *self.pending.entry(cluster).or_default() += 1;
    }

    /// # Errors
    /// Where a reference of the disk's data to `cluster` is not to be let go: a table is there, or its
    /// count does not know of it.
    pub fn expect_data(&mut self, storage: &dyn Storage, cluster: u64) -> io::Result<()> {
        if self.reserved.contains(&cluster) {
            let at = self.geometry.place(cluster);
            return Err(damage(format!("the disk's data and a table are both at {at:#x}")));
        }
        self.expect_counted(storage, cluster)
    }

    /// # Errors
    /// Where a reference to `cluster` is to be let go that its count does not know of.
    pub fn expect_counted(&mut self, storage: &dyn Storage, cluster: u64) -> io::Result<()> {
        let gone = self.pending.get(&cluster).copied().unwrap_or_default();
        if self.count(storage, cluster)? > gone {
            return Ok(());
        }
        let at = self.geometry.place(cluster);
        Err(damage(format!("the reference count of what is at {at:#x} is too small")))
    }

    /// Frees what was let go, as the file does not refer to it any more, and gives its room back to the
    /// host. What cannot be freed now stays pending. The counts are written later.
    pub fn free_pending(&mut self, storage: &dyn Storage) {
        let mut holes: Vec<std::ops::Range<u64>> = Vec::new();
        for (cluster, gone) in std::mem::take(&mut self.pending) {
            let is_kept = self.cache.is_full() || self.leases.has(cluster);
            match if is_kept { None } else { self.lower(storage, cluster, gone).ok() } {
                None => drop(self.pending.insert(cluster, gone)),
                Some(1..) => {}
                Some(0) => match holes.last_mut() {
                    Some(hole) if hole.end == cluster => hole.end += 1,
                    _ => holes.push(cluster..cluster + 1),
                },
            }
        }
        for hole in holes {
            let length = (hole.end - hole.start) << self.geometry.cluster_bits;
            // Where there are no holes, the room is used again all the same.
            let _ = storage.punch(self.geometry.place(hole.start), length);
            for cluster in hole {
                self.reserved.remove(&cluster);
                self.remember(cluster);
            }
        }
    }

    /// The count of `cluster` is less by `gone`: what is left of it.
    fn lower(&mut self, storage: &dyn Storage, cluster: u64, gone: u64) -> io::Result<u64> {
        let left = self.count(storage, cluster)?.saturating_sub(gone);
        self.set_count(storage, cluster, left)?;
        Ok(left)
    }
}

/// The count that begins here.
fn get(bytes: &[u8], order: u32, shift: u32) -> u64 {
    match order {
        0..3 => u64::from(bytes[0] >> shift) & ((1 << (1 << order)) - 1),
        _ => be(&bytes[..1 << (order - 3)]),
    }
}

fn put(bytes: &mut [u8], order: u32, shift: u32, count: u64) {
    match order {
        0..3 => {
            let mask = ((1_u16 << (1 << order)) - 1) as u8;
            bytes[0] = bytes[0] & !(mask << shift) | (count as u8 & mask) << shift;
        }
        _ => {
            let width = 1 << (order - 3);
            bytes[..width].copy_from_slice(&count.to_be_bytes()[8 - width..]);
        }
    }
}

fn full() -> io::Error {
    io::Error::new(ErrorKind::StorageFull, "the image cannot grow any more")
}
