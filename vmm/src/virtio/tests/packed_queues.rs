//! All queues of a device by packed rings, for [`Driver`](super::driver::Driver), which has descriptors in places
//! as a split ring has.

use std::collections::BTreeMap;

use super::packed_driver::{PackedDriver, Piece};
use super::*;

/// The queues.
#[derive(Default)]
pub struct PackedQueues(Vec<One>);

struct One {
    driver: PackedDriver,
    described: [Piece; QUEUE_SIZE as usize],
    used: u16,
    last: u16,
    written: BTreeMap<u16, u32>,
}

impl PackedQueues {
    /// Entries of each ring: as many as buffers of three descriptors in all places have, and more.
    pub const SIZE: u16 = 3 * QUEUE_SIZE + 3;

    /// Of which nothing is used yet.
    pub fn new(memory: &GuestMemory, count: u16, has_event_idx: bool) -> Self {
        let one = |queue| {
            let at = [0, 0x1000, 0x2000].map(|part| base(queue) + part);
            One {
                driver: PackedDriver::new(memory.clone(), Self::SIZE, at, has_event_idx),
                described: [(0, 0, 0); QUEUE_SIZE as usize],
                used: 0,
                last: 0,
                written: BTreeMap::new(),
            }
        };
        PackedQueues((0..count).map(one).collect())
    }

    fn at(&mut self, queue: u16) -> &mut One {
        &mut self.0[usize::from(queue)]
    }

    /// What is in the place `index`, before that of the next.
    pub fn describe(&mut self, queue: u16, index: u16, piece: Piece) {
        self.at(queue).described[usize::from(index)] = piece;
    }

    /// Offers what begins in the place `head`.
    pub fn offer(&mut self, queue: u16, head: u16) {
        let one = self.at(queue);
        let from = usize::from(head % QUEUE_SIZE);
        let places = one.described.iter().cycle().skip(from).take(QUEUE_SIZE.into());
        let mut list = Vec::new();
        for (address, length, flags) in places {
            list.push((*address, *length, flags & (DESCRIPTOR_WRITE | DESCRIPTOR_TABLE)));
            if flags & DESCRIPTOR_NEXT == 0 {
                break;
            }
        }
        one.last = one.driver.offer(&list);
    }

    /// How many were used.
    pub fn used(&mut self, queue: u16) -> u16 {
        let one = self.at(queue);
        while let Some((id, written)) = one.driver.collect() {
            one.used += 1;
            one.written.insert(id, written);
        }
        one.used
    }

    /// Bytes written into what was offered last.
    pub fn written(&mut self, queue: u16) -> u32 {
        self.used(queue);
        let one = self.at(queue);
        // Only a driver without sense is told of what it has not offered.
        one.written.get(&one.last).copied().unwrap_or(0)
    }
}
