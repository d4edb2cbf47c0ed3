//! Packed rings (virtio 1.3, 2.8), the device's side.
//!
//! ```text
//! descriptors   ┌─used─┬─used─┬─taken─┬─taken─┬─available─┬─available─┬─ … ─┐  and round again
//!                              ▲ next to be used           ▲ next to be taken
//! events        the driver says when it wants to be told of used buffers; the device, of available ones
//! ```
//! Driver and device write the same ring. Two flags of a descriptor tell whose turn it is, compared with a wrap
//! counter that changes each time the ring's end is passed, so that both ends of the row above know their
//! [`Position`] by themselves. A buffer is taken by reading all of its descriptors at once: the device writes
//! a used descriptor at the front of the row, over one of a buffer that may still be under way.

use std::sync::atomic::{Ordering, fence};

use vm_memory::{Bytes, GuestAddress, GuestMemoryBackend};

use super::Broken;
use super::chain::{Descriptor, Head};
use super::setup::Setup;
use crate::machine::memory::GuestMemory;

/// Flags of a descriptor (virtio 1.3, 2.8.1, 2.8.3, 2.8.6 and 2.8.7).
const NEXT: u16 = 1 << 0;
const WRITE: u16 = 1 << 1;
const INDIRECT: u16 = 1 << 2;
const AVAILABLE: u16 = 1 << 7;
const USED: u16 = 1 << 15;

/// Bytes of a descriptor: address, length, buffer ID, flags (virtio 1.3, 2.8.13).
const ENTRY: u64 = 16;
const LENGTH: u64 = 8;
const FLAGS: u64 = 14;

/// The most entries of a ring (virtio 1.3, 2.8).
const MOST_ENTRIES: u16 = 1 << 15;

/// What is wanted of events (virtio 1.3, 2.8.10): all, none, or that of one descriptor.
const EVENTS_ON: u16 = 0;
const EVENTS_OFF: u16 = 1;
const EVENTS_AT: u16 = 2;
const EVENTS: u16 = 3;
/// Bytes and alignment of an event suppression structure (virtio 1.3, 2.8.10.1).
const EVENT: u64 = 4;

/// A place in the ring, and how often its end was passed before: an odd or an even number of times.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Position {
    at: u16,
    /// The wrap counter, which is 1 at first (virtio 1.3, 2.8.1).
    wrap: bool,
}

impl Position {
    const START: Position = Position { at: 0, wrap: true };

    /// So many entries further on in a ring of `size`, at most all of them.
    fn after(self, entries: u16, size: u16) -> Position {
        // Rings have 2^15 entries at most.
        let at = self.at + entries;
        match at.checked_sub(size) {
            Some(at) => Position { at, wrap: !self.wrap },
            None => Position { at, ..self },
        }
    }

    /// So many entries back in a ring of `size`, at most all of them.
    fn before(self, entries: u16, size: u16) -> Position {
        // The whole round less these entries, and the round back.
        let position = self.after(size - entries, size);
        Position { wrap: !position.wrap, ..position }
    }

    /// Its number among those of two rounds, after which all positions come again.
    fn number(self, size: u16) -> u32 {
        u32::from(self.at) + if self.wrap { 0 } else { u32::from(size) }
    }
}

/// A descriptor as it is in memory.
struct Entry {
    address: u64,
    length: u32,
    id: u16,
    flags: u16,
}

impl Entry {
    fn read(memory: &GuestMemory, at: GuestAddress) -> Result<Entry, Broken> {
        let mut bytes = [0; ENTRY as usize];
        memory.read_slice(&mut bytes, at).map_err(|_| Broken)?;
        let word = u128::from_le_bytes(bytes);
        Ok(Entry {
            address: word as u64,
            length: (word >> 64) as u32,
            id: (word >> 96) as u16,
            flags: (word >> 112) as u16,
        })
    }
}

/// The device's side of a packed ring.
#[derive(Debug)]
pub struct Ring {
    size: u16,
    descriptors: GuestAddress,
    /// Event suppression: what the driver wants to be told, and what the device wants.
    driver: GuestAddress,
    device: GuestAddress,
    has_event_idx: bool,
    has_indirect: bool,
    next_taken: Position,
    next_used: Position,
    /// Entries that are taken and not used yet.
    taken: u16,
    /// Entries used since the driver was last told, or not told since it did not want to be.
    untold: u32,
}

impl Ring {
    /// Where the driver has put it. Its size need not be a power of two (virtio 1.3, 2.8.10.1).
    ///
    /// # Errors
    /// [`Broken`] where it is not all in memory, or not aligned.
    pub fn new(
        setup: &Setup,
        has_event_idx: bool,
        has_indirect: bool,
        memory: &GuestMemory,
    ) -> Result<Self, Broken> {
        let size = setup.size;
        if !setup.is_ready || !(1..=MOST_ENTRIES).contains(&size) {
            return Err(Broken);
        }
        let parts = [
            (setup.descriptors, ENTRY, u64::from(size) * ENTRY),
            (setup.driver, EVENT, EVENT),
            (setup.device, EVENT, EVENT),
        ];
        let is_right = |(address, alignment, length): &(u64, u64, u64)| {
            address.is_multiple_of(*alignment)
                && memory.check_range(GuestAddress(*address), *length as usize)
        };
        if !parts.iter().all(is_right) {
            return Err(Broken);
        }
        let [descriptors, driver, device] = parts.map(|(address, ..)| GuestAddress(address));
        let (next_taken, next_used) = (Position::START, Position::START);
        Ok(Ring {
            size,
            descriptors,
            driver,
            device,
            has_event_idx,
            has_indirect,
            next_taken,
            next_used,
            taken: 0,
            untold: 0,
        })
    }

    fn place(&self, position: Position) -> GuestAddress {
        // The whole ring is in memory.
        GuestAddress(self.descriptors.0 + u64::from(position.at) * ENTRY)
    }

    /// Whether the driver has offered what is to be taken next. Then all of the buffer can be seen.
    fn is_available(&self, memory: &GuestMemory) -> Result<bool, Broken> {
        let at = GuestAddress(self.place(self.next_taken).0 + FLAGS);
        let flags = memory.load(at, Ordering::Acquire).map(u16::from_le).map_err(|_| Broken)?;
        let (available, used) = (flags & AVAILABLE != 0, flags & USED != 0);
        let wrap = self.next_taken.wrap;
        Ok(available == wrap && used != wrap)
    }

    /// The next buffer, whose descriptors are put into `chain`, which is empty; none where there is none.
    ///
    /// # Errors
    /// [`Broken`] where the ring makes no sense, or there are more than `most` descriptors.
    pub fn take(
        &mut self,
        memory: &GuestMemory,
        most: usize,
        chain: &mut Vec<Descriptor>,
    ) -> Result<Option<Head>, Broken> {
        if !self.is_available(memory)? {
            return Ok(None);
        }
        // What is under way is not offered again (virtio 1.3, 2.8.17).
        let room = self.size - self.taken;
        let mut next = self.next_taken;
        let mut bytes = 0;
        for entries in 1..=room {
            let entry = Entry::read(memory, self.place(next))?;
            next = next.after(1, self.size);
            let is_last = entry.flags & NEXT == 0;
            if entry.flags & INDIRECT == 0 {
                put(&entry, most, chain, &mut bytes)?;
            } else if self.has_indirect && entries == 1 && is_last {
                read_table(memory, &entry, most, chain)?;
            } else {
                // A table is neither a part of a list nor has it others behind it (virtio 1.3, 2.8.19).
                return Err(Broken);
            }
            if is_last {
                self.next_taken = next;
                self.taken += entries;
                return Ok(Some(Head { id: entry.id, entries }));
            }
        }
        Err(Broken)
    }

    /// Offers again what was taken last.
    pub fn put_back(&mut self, head: Head) {
        self.next_taken = self.next_taken.before(head.entries, self.size);
        self.taken = self.taken.saturating_sub(head.entries);
    }

    /// Has the driver tell of the next buffer. Whether there is one already.
    ///
    /// # Errors
    /// [`Broken`] where the ring makes no sense.
    pub fn ask_for_more(&mut self, memory: &GuestMemory) -> Result<bool, Broken> {
        let Position { at, wrap } = self.next_taken;
        let event = if self.has_event_idx {
            // At once, so that nobody sees a place of another time: the place comes before the flags.
            u32::from(at | u16::from(wrap) << 15) | u32::from(EVENTS_AT) << 16
        } else {
            u32::from(EVENTS_ON) << 16
        };
        memory.store(event.to_le(), self.device, Ordering::Release).map_err(|_| Broken)?;
        // Either the driver sees what is wanted when it has offered something, or that is seen here.
        fence(Ordering::SeqCst);
        self.is_available(memory)
    }

    /// Gives a buffer back, into which so many bytes were written.
    ///
    /// # Errors
    /// [`Broken`] where the ring is not in memory.
    pub fn add_used(
        &mut self,
        memory: &GuestMemory,
        head: Head,
        length: u32,
    ) -> Result<(), Broken> {
        self.add_used_together(memory, &[(head, length)])
    }

    /// Gives several buffers back, of which the driver sees none before all: it looks at the first one's place.
    ///
    /// # Errors
    /// [`Broken`] where the ring is not in memory.
    pub fn add_used_together(
        &mut self,
        memory: &GuestMemory,
        used: &[(Head, u32)],
    ) -> Result<(), Broken> {
        let first = self.next_used;
        for (head, length) in used {
            self.fill(memory, *head, *length)?;
            if self.next_used != first {
                self.pass(memory, self.next_used, *length)?;
            }
            self.next_used = self.next_used.after(head.entries, self.size);
            self.taken = self.taken.saturating_sub(head.entries);
            self.untold = self.untold.saturating_add(head.entries.into());
        }
        used.first().map_or(Ok(()), |(_, length)| self.pass(memory, first, *length))
    }

    /// Writes what is used next, all but its flags.
    fn fill(&self, memory: &GuestMemory, head: Head, length: u32) -> Result<(), Broken> {
        let mut bytes = [0; (FLAGS - LENGTH) as usize];
        bytes[..4].copy_from_slice(&length.to_le_bytes());
        bytes[4..].copy_from_slice(&head.id.to_le_bytes());
        let at = GuestAddress(self.place(self.next_used).0 + LENGTH);
        memory.write_slice(&bytes, at).map_err(|_| Broken)
    }

    /// Writes the flags of the used descriptor there: from then on it is the driver's.
    fn pass(&self, memory: &GuestMemory, position: Position, length: u32) -> Result<(), Broken> {
        let turn = if position.wrap { AVAILABLE | USED } else { 0 };
        let flags = turn | if length > 0 { WRITE } else { 0 };
        let at = GuestAddress(self.place(position).0 + FLAGS);
        memory.store(flags.to_le(), at, Ordering::Release).map_err(|_| Broken)
    }

    /// Whether the driver wants to be told of what was given back since this was asked last.
    ///
    /// # Errors
    /// [`Broken`] where the ring is not in memory.
    pub fn needs_notification(&mut self, memory: &GuestMemory) -> Result<bool, Broken> {
        let used = std::mem::take(&mut self.untold);
        if used == 0 {
            return Ok(false);
        }
        // Either the driver sees what was given back when it has said what it wants, or that is seen here.
        fence(Ordering::SeqCst);
        let event = memory.load(self.driver, Ordering::Acquire).map(u32::from_le);
        let event = event.map_err(|_| Broken)?;
        let (place, flags) = (event as u16, (event >> 16) as u16 & EVENTS);
        Ok(match flags {
            EVENTS_OFF => false,
            EVENTS_AT if self.has_event_idx => {
                let wanted = Position { at: place & !(1 << 15), wrap: place >> 15 != 0 };
                self.has_just_passed(wanted, used)
            }
            // The one value that is left says nothing (virtio 1.3, 2.8.10): rather once too often.
            _ => true,
        })
    }

    /// Whether the position is among the `used` entries before the next one. One that is not in the ring may
    /// be there or not.
    fn has_just_passed(&self, position: Position, used: u32) -> bool {
        let round = 2 * u32::from(self.size);
        let behind = self.next_used.number(self.size) + round - position.number(self.size) % round;
        (1..=used).contains(&(behind % round)) || used >= round
    }
}

/// The descriptors of a table: one after the other, whatever their flags but [`WRITE`] say (virtio 1.3, 2.8.7).
fn read_table(
    memory: &GuestMemory,
    table: &Entry,
    most: usize,
    chain: &mut Vec<Descriptor>,
) -> Result<(), Broken> {
    let length = u64::from(table.length);
    let end = table.address.checked_add(length).ok_or(Broken)?;
    if length == 0 || !length.is_multiple_of(ENTRY) || length / ENTRY > most as u64 {
        return Err(Broken);
    }
    let mut bytes = 0;
    for at in (table.address..end).step_by(ENTRY as usize) {
        put(&Entry::read(memory, GuestAddress(at))?, most, chain, &mut bytes)?;
    }
    Ok(())
}

/// Puts a descriptor at the end of `chain`, which has so many `bytes`.
fn put(
    entry: &Entry,
    most: usize,
    chain: &mut Vec<Descriptor>,
    bytes: &mut u32,
) -> Result<(), Broken> {
    *bytes = bytes.checked_add(entry.length).ok_or(Broken)?;
    if chain.len() == most {
        return Err(Broken);
    }
    let address = GuestAddress(entry.address);
    let is_writable = entry.flags & WRITE != 0;
    chain.push(Descriptor { address, length: entry.length, is_writable });
    Ok(())
}
