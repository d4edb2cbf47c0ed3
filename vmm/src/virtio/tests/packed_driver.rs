//! The driver's side of a packed ring: by the text of virtio 1.3, 2.8, and sharing nothing with the device's side.

use std::collections::BTreeMap;
use std::sync::atomic::{Ordering, fence};

use vm_memory::{Bytes, GuestAddress};

use crate::machine::memory::GuestMemory;

const NEXT: u16 = 1;
const AVAIL: u16 = 1 << 7;
const USED: u16 = 1 << 15;

/// Address, length, and of the flags those of writing and of tables.
pub type Piece = (u64, u32, u16);

/// A driver of one queue.
pub struct PackedDriver {
    memory: GuestMemory,
    size: u16,
    /// Where the ring is, and the two structures of event suppression: the driver's and the device's.
    at: [u64; 3],
    has_event_idx: bool,
    next: u16,
    wrap: bool,
    next_used: u16,
    used_wrap: bool,
    /// Descriptors that are free.
    pub free: i32,
    /// How many descriptors the list of each buffer has.
    lists: BTreeMap<u16, u16>,
    ids: u16,
    /// Descriptors made available since the device was last told, or need not be.
    unannounced: u16,
}

impl PackedDriver {
    /// Of a ring of `size`, which is all zeroes.
    pub fn new(memory: GuestMemory, size: u16, at: [u64; 3], has_event_idx: bool) -> Self {
        PackedDriver {
            memory,
            size,
            at,
            has_event_idx,
            next: 0,
            wrap: true,
            next_used: 0,
            used_wrap: true,
            free: size.into(),
            lists: BTreeMap::new(),
            ids: 0xfff0,
            unannounced: 0,
        }
    }

    /// Makes a buffer available (2.8.21): its ID.
    pub fn offer(&mut self, list: &[Piece]) -> u16 {
        let id = self.ids;
        self.ids = self.ids.wrapping_add(7);
        let mut first = (0, 0);
        for (index, (address, length, flags)) in list.iter().enumerate() {
            let mut flags = flags | if self.wrap { AVAIL } else { USED };
            if index + 1 < list.len() {
                flags |= NEXT;
            }
            let place = self.at[0] + 16 * u64::from(self.next);
            self.memory.write_obj(address.to_le(), GuestAddress(place)).unwrap();
            self.memory.write_obj(length.to_le(), GuestAddress(place + 8)).unwrap();
            self.memory.write_obj(id.to_le(), GuestAddress(place + 12)).unwrap();
            // The first one is made available when all others are.
            if index == 0 {
                first = (place + 14, flags);
            } else {
                self.memory.write_obj(flags.to_le(), GuestAddress(place + 14)).unwrap();
            }
            self.next += 1;
            if self.next == self.size {
                self.next = 0;
                self.wrap = !self.wrap;
            }
        }
        self.memory.store(first.1.to_le(), GuestAddress(first.0), Ordering::Release).unwrap();
        self.free -= list.len() as i32;
        self.unannounced = self.unannounced.saturating_add(list.len() as u16);
        self.lists.insert(id, list.len() as u16);
        id
    }

    /// Whether the device is to be told of what was made available since this was asked last.
    pub fn is_to_tell(&mut self) -> bool {
        fence(Ordering::SeqCst);
        let count = std::mem::take(&mut self.unannounced);
        let at = GuestAddress(self.at[2]);
        let event = u32::from_le(self.memory.load(at, Ordering::Acquire).unwrap());
        match event >> 16 {
            0 => count > 0,
            1 => false,
            2 => {
                assert!(self.has_event_idx, "the device must not");
                let (mut at, mut wrap) = (self.next, self.wrap);
                (0..count).any(|_| {
                    if at == 0 {
                        (at, wrap) = (self.size, !wrap);
                    }
                    at -= 1;
                    u32::from(at) | u32::from(wrap) << 15 == event & 0xffff
                })
            }
            _ => panic!("the device says {event:#x}"),
        }
    }

    /// Wants to be told as soon as the descriptor is used that is so many behind the next one; without event
    /// indexes, of any.
    pub fn listen(&mut self, ahead: u16) {
        let (at, wrap) = if self.next_used + ahead < self.size {
            (self.next_used + ahead, self.used_wrap)
        } else {
            (self.next_used + ahead - self.size, !self.used_wrap)
        };
        let place = u32::from(at) | u32::from(wrap) << 15;
        self.say(if self.has_event_idx { place | 2 << 16 } else { 0 });
        fence(Ordering::SeqCst);
    }

    /// Wants to be told of nothing.
    pub fn ignore(&mut self) {
        self.say(1 << 16);
    }

    fn say(&self, event: u32) {
        self.memory.store(event.to_le(), GuestAddress(self.at[1]), Ordering::Release).unwrap();
    }

    /// The next used buffer (2.8.22), and how many bytes were written into it.
    pub fn collect(&mut self) -> Option<(u16, u32)> {
        let place = self.at[0] + 16 * u64::from(self.next_used);
        let flags = self.memory.load::<u16>(GuestAddress(place + 14), Ordering::Acquire).unwrap();
        let flags = u16::from_le(flags);
        if [AVAIL, USED].map(|flag| flags & flag != 0) != [self.used_wrap; 2] {
            return None;
        }
        let length = u32::from_le(self.memory.read_obj(GuestAddress(place + 8)).unwrap());
        let id = u16::from_le(self.memory.read_obj(GuestAddress(place + 12)).unwrap());
        // Only a driver without sense gets back what it has not offered.
        let count = self.lists.remove(&id).unwrap_or(1);
        self.next_used += count;
        if self.next_used >= self.size {
            self.next_used -= self.size;
            self.used_wrap = !self.used_wrap;
        }
        self.free += i32::from(count);
        Some((id, length))
    }

    /// How many descriptors the buffer `id` has, until it is collected.
    pub fn length_of(&self, id: u16) -> Option<u16> {
        self.lists.get(&id).copied()
    }
}
