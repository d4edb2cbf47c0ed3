//! Writing to the disk, and giving back what it does not need any more.

use std::io::{self, ErrorKind};

use super::map::{Entry, Way};
use super::storage::{Storage, write_zeroes};
use super::tables::{OWNED, Tables};
use super::{Qcow2, Source};

/// Most bytes of data that are written while the tables wait.
const LONGEST: u64 = 4 << 20;

impl<S: Storage> Qcow2<S> {
    /// Writes `length` bytes from `offset` on, all of them within the disk.
    ///
    /// # Errors
    /// The file's, and damage: a part of it may be written.
    pub fn write(&self, offset: u64, length: u64, from: Source<'_>) -> io::Result<()> {
        self.expect_writable(offset, length)?;
        let (mut done, mut is_full) = (0, false);
        while done < length {
            let mut tables = self.tables_for_writing()?;
            let (way, found) = self.run(&mut tables, offset + done, length - done, true)?;
            let mut source = |place, length, at| from(done + place, length, at);
            done += match way {
                Way::Here(at) => {
                    let _lease = self.lease(&tables, at, found);
                    drop(tables);
                    source(0, found, at)?;
                    found
                }
                Way::Anew => {
                    match self.write_anew(&mut tables, offset + done, found, &mut source) {
                        // There may be room that only waits to be freed.
                        Err(error) if error.kind() == ErrorKind::StorageFull && !is_full => {
                            is_full = true;
                            tables.commit(&self.storage)?;
                            0
                        }
                        written => written?,
                    }
                }
            };
        }
        Ok(())
    }

    fn tables_for_writing(&self) -> io::Result<std::sync::MutexGuard<'_, Tables>> {
        let mut tables = crate::lock(&self.tables);
        tables.begin_writing(&self.storage)?;
        tables.make_room(&self.storage)?;
        Ok(tables)
    }

    /// How to write at `offset`, and for how much of `most` bytes that holds: in one piece of the file, or
    /// in one part of an L2 table.
    pub(super) fn run(
        &self,
        tables: &mut Tables,
        offset: u64,
        most: u64,
        joined: bool,
    ) -> io::Result<(Way, u64)> {
        let cluster = self.cluster();
        let way = tables.way(&self.storage, offset)?;
        let mut found = cluster - offset % cluster;
        let most = most.min(if way == Way::Anew { LONGEST } else { u64::MAX });
        while joined && found < most {
            let next = offset + found;
            let is_same = match (way, tables.way(&self.storage, next)) {
                (Way::Here(at), Ok(Way::Here(next))) => next == at + found,
                (Way::Anew, Ok(Way::Anew)) => {
                    // One part of a table is changed at a time.
                    let entries = tables.cache.part / 8;
                    !self.geometry.number(next).is_multiple_of(entries)
                }
                _ => false,
            };
            if !is_same {
                break;
            }
            found += cluster;
        }
        Ok((way, found.min(most)))
    }

    /// Writes up to `most` bytes at `offset` to clusters that are taken for them, and has the map refer to
    /// these: how many bytes that were. What was around them in the old clusters is copied.
    fn write_anew(
        &self,
        tables: &mut Tables,
        offset: u64,
        most: u64,
        from: Source<'_>,
    ) -> io::Result<u64> {
        let (geometry, storage, cluster) = (self.geometry, &self.storage, self.cluster());
        let (first, inside) = (geometry.number(offset), offset % cluster);
        tables.own_table(storage, first)?;
        let wanted = (inside + most).div_ceil(cluster);
        for number in first..first + wanted {
            let old = tables.entry(storage, number)?;
            for used in tables.used(old) {
                tables.expect_data(storage, used)?;
            }
        }
        let end = tables.end;
        let (taken, count) = tables.allocate(storage, wanted)?;
        let length = most.min(count * cluster - inside);
        let at = geometry.place(taken);
        // What the file did not have yet is zeroes.
        let is_hole = taken >= end;
        let (last, tail) = (first + count - 1, (inside + length - 1) % cluster + 1..cluster);
        let filled = self
            .fill(tables, first, 0..inside, at, is_hole)
            .and_then(|()| self.fill(tables, last, tail, at + (count - 1) * cluster, is_hole))
            .and_then(|()| from(0, length, at + inside));
        if let Err(error) = filled {
            tables.untake(storage, taken, count)?;
            return Err(error);
        }
        let entries = (taken..taken + count).map(|number| geometry.place(number) | OWNED);
        tables.set_entries(storage, first, entries)?;
        Ok(length)
    }

    /// Writes what the disk has in a part of a cluster to the cluster at `at` of the file.
    fn fill(
        &self,
        tables: &mut Tables,
        number: u64,
        part: std::ops::Range<u64>,
        at: u64,
        is_hole: bool,
    ) -> io::Result<()> {
        let length = part.end - part.start;
        if length == 0 {
            return Ok(());
        }
        let at = at + part.start;
        let mut bytes = vec![0; length as usize];
        match tables.entry(&self.storage, number)? {
            Entry::Nowhere | Entry::Zeroes(_) if is_hole => return Ok(()),
            Entry::Nowhere | Entry::Zeroes(_) => return write_zeroes(&self.storage, at, length),
            Entry::Data { cluster, .. } => {
                self.storage.read(self.geometry.place(cluster) + part.start, &mut bytes)?;
            }
            Entry::Packed(packed) => self.unpack(packed, |cluster| {
                bytes.copy_from_slice(&cluster[part.start as usize..part.end as usize]);
            })?,
        }
        self.storage.write(at, &bytes)
    }

    /// Has `length` bytes from `offset` on read as zeroes. The room of whole clusters is given back,
    /// unless it is to be `kept`.
    ///
    /// # Errors
    /// The file's, and damage: a part of it may be done.
    pub fn zero(&self, offset: u64, length: u64, kept: bool) -> io::Result<()> {
        self.expect_writable(offset, length)?;
        let cluster = self.cluster();
        let mut done = 0;
        while done < length {
            let (from, left) = (offset + done, length - done);
            let mut tables = self.tables_for_writing()?;
            let number = self.geometry.number(from);
            let is_zero =
                matches!(tables.entry(&self.storage, number)?, Entry::Nowhere | Entry::Zeroes(_));
            let rest = cluster - from % cluster;
            // The disk may end within a cluster.
            let is_whole = rest == cluster && left >= cluster.min(self.size() - from);
            let (way, _) = self.run(&mut tables, from, left, false)?;
            let found = rest.min(left);
            done += match way {
                _ if is_whole && !kept => self.forget(&mut tables, from, left)?,
                _ if is_zero => self.piece(&mut tables, from, left)?.1,
                Way::Here(at) => {
                    let _lease = self.lease(&tables, at, found);
                    drop(tables);
                    self.zero_here(at, found, kept)?;
                    found
                }
                Way::Anew if is_whole => self.forget(&mut tables, from, found)?,
                Way::Anew => {
                    let mut zeroes = |_, length, at| write_zeroes(&self.storage, at, length);
                    self.write_anew(&mut tables, from, found, &mut zeroes)?
                }
            };
        }
        Ok(())
    }

    fn zero_here(&self, at: u64, length: u64, kept: bool) -> io::Result<()> {
        let done = match kept {
            true => self.storage.zero(at, length),
            false => self.storage.punch(at, length),
        };
        match done {
            Err(error) if error.kind() == ErrorKind::Unsupported => {
                write_zeroes(&self.storage, at, length)
            }
            done => done,
        }
    }

    /// Has the map know nothing of the whole clusters from `offset` on, as many as one part of it has: how
    /// many bytes that were.
    fn forget(&self, tables: &mut Tables, offset: u64, most: u64) -> io::Result<u64> {
        let (cluster, storage) = (self.cluster(), &self.storage);
        let first = self.geometry.number(offset);
        if tables.map_table(tables.index(first))?.is_none() {
            let entries = self.geometry.entries();
            return Ok(((entries - first % entries) * cluster).min(most));
        }
        let entries = tables.cache.part / 8;
        let whole = match offset + most == self.size() {
            true => most.div_ceil(cluster),
            false => most / cluster,
        };
        let count = whole.min(entries - first % entries);
        let mut is_any = false;
        for number in first..first + count {
            let old = tables.entry(storage, number)?;
            is_any |= old != Entry::Nowhere;
            for used in tables.used(old) {
                tables.expect_data(storage, used)?;
            }
        }
        if is_any {
            tables.own_table(storage, first)?;
            tables.set_entries(storage, first, (0..count).map(|_| 0))?;
        }
        Ok((count * cluster).min(most))
    }

    fn expect_writable(&self, offset: u64, length: u64) -> io::Result<()> {
        self.expect_within(offset, length)?;
        if self.read_only { Err(ErrorKind::ReadOnlyFilesystem.into()) } else { Ok(()) }
    }
}
