//! Packed rings: a driver that shares nothing with them, and one that breaks their rules.

use std::collections::VecDeque;
use std::sync::{Condvar, Mutex};
use std::time::Duration;

use proptest::prelude::*;

use super::packed_driver::{PackedDriver, Piece};
use super::*;
use crate::virtio::queue::packed::Ring;
use crate::virtio::queue::setup::Setup;
use crate::virtio::queue::{Broken, Head, Queue, next_chain};
use crate::virtio::{F_EVENT_IDX, F_INDIRECT_DESC, F_RING_PACKED, F_VERSION_1};

const ALL: u64 = F_VERSION_1 | F_RING_PACKED | F_INDIRECT_DESC | F_EVENT_IDX;
const RING: u64 = 0x1000;
const DRIVER_EVENT: u64 = 0x8000;
const DEVICE_EVENT: u64 = 0x8004;
const TABLES: u64 = 0x10_000;
const SIZE: u64 = 0x40_000;
/// The most entries that a device of these tests takes.
const MOST: u16 = 64;

fn memory() -> GuestMemory {
    GuestMemory::from_ranges(&[(GuestAddress(0), SIZE as usize)]).unwrap()
}

fn setup(size: u16) -> Setup {
    Setup {
        most: MOST,
        size,
        is_ready: true,
        descriptors: RING,
        driver: DRIVER_EVENT,
        device: DEVICE_EVENT,
    }
}

fn both_sides(memory: &GuestMemory, size: u16, features: u64) -> (PackedDriver, Queue) {
    let at = [RING, DRIVER_EVENT, DEVICE_EVENT];
    let has_event_idx = features & F_EVENT_IDX != 0;
    let queue = Queue::new(setup(size), features, memory).unwrap();
    (PackedDriver::new(memory.clone(), size, at, has_event_idx), queue)
}

/// What the device sees of a buffer.
fn seen(queue: &mut Queue, memory: &GuestMemory) -> Result<Option<(Head, Vec<Piece>)>, Broken> {
    Ok(next_chain(queue, memory)?.map(|chain| {
        let pieces = chain.descriptors().iter().map(|piece| {
            (piece.address.0, piece.length, DESCRIPTOR_WRITE * u16::from(piece.is_writable))
        });
        (chain.head(), pieces.collect())
    }))
}

/// A table of these descriptors, in which all that means nothing is set.
fn table(memory: &GuestMemory, at: u64, pieces: &[Piece]) {
    for (place, (address, length, flags)) in (at..).step_by(16).zip(pieces) {
        memory.write_obj(*address, GuestAddress(place)).unwrap();
        memory.write_obj(*length, GuestAddress(place + 8)).unwrap();
        memory.write_obj(0xabcd_u16, GuestAddress(place + 12)).unwrap();
        memory.write_obj(flags | !DESCRIPTOR_WRITE, GuestAddress(place + 14)).unwrap();
    }
}

/// Both sides, and what each may expect of the other.
struct Model {
    memory: GuestMemory,
    driver: PackedDriver,
    queue: Queue,
    /// Buffers that the device has not taken yet.
    offered: VecDeque<(u16, Vec<Piece>)>,
    /// Those that it has, and which of them it may put back: the last one, at once.
    held: Vec<(Head, Vec<Piece>)>,
    last_taken: bool,
    /// Given back and not collected: ID, bytes, descriptors.
    given: VecDeque<(u16, u32, u16)>,
    device_sleeps: bool,
    /// How far the driver lets it get before it wants to be told.
    driver_sleeps: Option<u16>,
    unannounced: bool,
    untold: bool,
    numbers: u64,
}

impl Model {
    fn new(size: u16, features: u64) -> Model {
        let memory = memory();
        let (driver, queue) = both_sides(&memory, size, features);
        Model {
            memory,
            driver,
            queue,
            offered: VecDeque::new(),
            held: Vec::new(),
            last_taken: false,
            given: VecDeque::new(),
            device_sleeps: false,
            driver_sleeps: None,
            unannounced: false,
            untold: false,
            numbers: 0,
        }
    }

    fn step(&mut self, what: u8, how: u8) {
        match what {
            0..=2 => self.offer(u64::from(how & 3) + 1, how & 4 != 0),
            3 if self.driver.is_to_tell() => {
                (self.device_sleeps, self.unannounced) = (false, false)
            }
            3 => self.unannounced = false,
            4..=6 => self.take(),
            7 if self.last_taken => {
                let (head, pieces) = self.held.pop().unwrap();
                self.queue.put_back(head);
                self.offered.push_front((head.id, pieces));
                // It looks again by itself.
                (self.last_taken, self.device_sleeps) = (false, false);
            }
            8..=9 if !self.held.is_empty() => self.give_back(usize::from(how) % self.held.len()),
            10 => {
                self.untold = false;
                if self.queue.needs_notification(&self.memory).unwrap() {
                    self.driver_sleeps = None;
                }
            }
            11 => self.collect(),
            12 => self.listen(u16::from(how) % 4),
            13 => {
                self.driver.ignore();
                self.driver_sleeps = None;
            }
            _ => {}
        }
        self.expect_nobody_sleeps_in();
    }

    fn offer(&mut self, count: u64, by_table: bool) {
        if self.driver.free < if by_table { 1 } else { count as i32 } {
            return;
        }
        let pieces: Vec<Piece> = (0..count)
            .map(|_| {
                self.numbers += 1;
                let flags = if self.numbers.is_multiple_of(3) { DESCRIPTOR_WRITE } else { 0 };
                (self.numbers, self.numbers as u32 % 99, flags)
            })
            .collect();
        let id = if by_table {
            // No more than 64 tables are in use at a time.
            let at = TABLES + self.numbers % 512 * 64;
            table(&self.memory, at, &pieces);
            let of = (at, 16 * count as u32, DESCRIPTOR_TABLE | DESCRIPTOR_WRITE);
            self.driver.offer(&[of])
        } else {
            self.driver.offer(&pieces)
        };
        self.offered.push_back((id, pieces));
        self.unannounced = true;
    }

    fn take(&mut self) {
        match seen(&mut self.queue, &self.memory).unwrap() {
            Some((head, pieces)) => {
                let expected = self.offered.pop_front().unwrap();
                assert_eq!((head.id, &pieces), (expected.0, &expected.1));
                assert_eq!(self.driver.length_of(head.id), Some(head.entries));
                self.held.push((head, pieces));
                self.last_taken = true;
            }
            None => {
                assert!(self.offered.is_empty(), "it does not see {:?}", self.offered);
                (self.device_sleeps, self.last_taken) = (true, false);
            }
        }
    }

    fn give_back(&mut self, index: usize) {
        let (head, pieces) = self.held.swap_remove(index);
        let written = pieces[0].1;
        self.queue.add_used(&self.memory, head, written).unwrap();
        self.given.push_back((head.id, written, head.entries));
        (self.untold, self.last_taken) = (true, false);
    }

    fn collect(&mut self) {
        while let Some((id, written)) = self.driver.collect() {
            let (expected, bytes, _) = self.given.pop_front().unwrap();
            assert_eq!((id, written), (expected, bytes));
        }
        assert!(self.given.is_empty(), "the driver does not see {:?}", self.given);
    }

    fn listen(&mut self, ahead: u16) {
        self.collect();
        let ahead = if self.queue.setup().size > 4 { ahead } else { 0 };
        self.driver.listen(ahead);
        self.driver_sleeps = Some(ahead);
    }

    fn expect_nobody_sleeps_in(&self) {
        let missed = self.device_sleeps && !self.unannounced && !self.offered.is_empty();
        assert!(!missed, "the device does not know of {:?}", self.offered);
        let used: u16 = self.given.iter().map(|(.., entries)| entries).sum();
        let missed = !self.untold && self.driver_sleeps.is_some_and(|ahead| used > ahead);
        assert!(!missed, "the driver does not know of {:?}", self.given);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(1500) })]

    #[test]
    fn whatever_the_order_all_buffers_come_back_and_nobody_sleeps_in(
        size in 1u16..=9,
        events in any::<bool>(),
        steps in proptest::collection::vec((0u8..14, any::<u8>()), 1..300),
    ) {
        let mut model = Model::new(size, if events { ALL } else { ALL & !F_EVENT_IDX });
        for (what, how) in steps {
            model.step(what, how);
        }
        // In the end all is taken, given back and collected.
        while !model.offered.is_empty() {
            model.take();
        }
        while !model.held.is_empty() {
            model.give_back(0);
        }
        model.collect();
        prop_assert_eq!(model.driver.free, i32::from(size));
    }
}

/// Wakes another thread, which waits no longer than any of these tests takes.
#[derive(Default)]
struct Bell(Mutex<bool>, Condvar);

impl Bell {
    fn ring(&self) {
        *self.0.lock().unwrap() = true;
        self.1.notify_one();
    }

    fn wait(&self, who: &str) {
        let rung = self.0.lock().unwrap();
        let patience = Duration::from_secs(30);
        let (mut rung, waited) = self.1.wait_timeout_while(rung, patience, |rung| !*rung).unwrap();
        assert!(!waited.timed_out(), "the {who} was not told");
        *rung = false;
    }
}

/// As [`Model`], with each side on a thread of its own: none of them misses what the other does between two
/// of its steps.
#[test]
fn no_side_sleeps_in_while_the_other_works() {
    const BUFFERS: u32 = 60_000;
    for (size, features) in [(2, ALL), (5, ALL), (3, ALL & !F_EVENT_IDX)] {
        let memory = memory();
        let (mut driver, mut queue) = both_sides(&memory, size, features);
        let (to_device, to_driver) = (&Bell::default(), &Bell::default());
        let of_device = &memory;
        std::thread::scope(|scope| {
            scope.spawn(move || {
                let (mut given, mut held) = (0, VecDeque::new());
                while given < BUFFERS {
                    let next = seen(&mut queue, of_device).unwrap();
                    let is_idle = next.is_none();
                    held.extend(next.map(|(head, _)| head));
                    // Two at a time come back the other way round.
                    if is_idle || held.len() > 1 {
                        while let Some(head) = held.pop_back() {
                            queue.add_used(of_device, head, given).unwrap();
                            given += 1;
                        }
                        if queue.needs_notification(of_device).unwrap() {
                            to_driver.ring();
                        }
                    }
                    if is_idle && given < BUFFERS {
                        to_device.wait("device");
                    }
                }
            });
            let (mut offered, mut collected) = (0, 0);
            while collected < BUFFERS {
                while offered < BUFFERS && driver.free > 1 {
                    let pieces = [(64, 8, 0), (128, 8, DESCRIPTOR_WRITE)];
                    driver.offer(&pieces[..1 + offered as usize % 2]);
                    offered += 1;
                    if driver.is_to_tell() {
                        to_device.ring();
                    }
                }
                driver.ignore();
                let before = collected;
                while driver.collect().is_some() {
                    collected += 1;
                }
                if collected > before || collected == BUFFERS {
                    continue;
                }
                driver.listen(0);
                match driver.collect() {
                    Some(_) => collected += 1,
                    None => to_driver.wait("driver"),
                }
            }
        });
    }
}

/// The moment that threads hardly ever meet.
#[test]
fn what_is_offered_after_the_device_looked_is_seen_when_it_asks_for_more() {
    let memory = memory();
    let (mut driver, _) = both_sides(&memory, 5, ALL);
    let mut ring = Ring::new(&setup(5), true, true, &memory).unwrap();
    for _ in 0..20 {
        let mut chain = Vec::new();
        assert!(ring.take(&memory, 9, &mut chain).unwrap().is_none());
        driver.offer(&[(0, 1, 0)]);
        driver.is_to_tell();
        assert!(ring.ask_for_more(&memory).unwrap());
        let head = ring.take(&memory, 9, &mut chain).unwrap().unwrap();
        ring.add_used(&memory, head, 0).unwrap();
        assert!(driver.collect().is_some());
        assert!(!ring.ask_for_more(&memory).unwrap());
    }
}

/// Writes descriptor `index` of the ring as it is.
fn describe(memory: &GuestMemory, index: u64, (address, length, flags): Piece) {
    let place = RING + 16 * index;
    memory.write_obj(address, GuestAddress(place)).unwrap();
    memory.write_obj(length, GuestAddress(place + 8)).unwrap();
    memory.write_obj(u16::MAX, GuestAddress(place + 12)).unwrap();
    memory.write_obj(flags | 1 << 7, GuestAddress(place + 14)).unwrap();
}

#[test]
fn what_breaks_the_rules_of_a_ring_is_an_error() {
    const NEXT: u16 = DESCRIPTOR_NEXT;
    const TABLE: u16 = DESCRIPTOR_TABLE;
    let long = 16 * (u32::from(MOST) + 1);
    let cases: &[(&str, u64, &[Piece])] = &[
        ("a list in a circle", ALL, &[(0, 1, NEXT); 8]),
        ("4 GiB", ALL, &[(0, u32::MAX, NEXT), (0, 1, 0)]),
        ("a table that nobody agreed on", ALL & !F_INDIRECT_DESC, &[(TABLES, 16, TABLE)]),
        ("a table and more", ALL, &[(TABLES, 16, TABLE | NEXT), (0, 1, 0)]),
        ("more and a table", ALL, &[(0, 1, NEXT), (TABLES, 16, TABLE)]),
        ("an empty table", ALL, &[(TABLES, 0, TABLE)]),
        ("a table of no whole number", ALL, &[(TABLES, 24, TABLE)]),
        ("too long a table", ALL, &[(TABLES, long, TABLE)]),
        ("a table as long as can be", ALL, &[(TABLES, u32::MAX - 15, TABLE)]),
        ("a table that is not in memory", ALL, &[(SIZE - 16, 32, TABLE)]),
        ("a table at the end of all addresses", ALL, &[(u64::MAX - 15, 32, TABLE)]),
    ];
    for (what, features, descriptors) in cases {
        let memory = memory();
        let (_, mut queue) = both_sides(&memory, 8, *features);
        for (index, descriptor) in (0..).zip(*descriptors) {
            describe(&memory, index, *descriptor);
        }
        assert!(next_chain(&mut queue, &memory).is_err(), "{what}");
    }
}

#[test]
fn no_more_is_taken_than_the_ring_holds() {
    let memory = memory();
    let (mut driver, mut queue) = both_sides(&memory, 4, ALL);
    for _ in 0..4 {
        driver.offer(&[(0, 1, 0)]);
        assert!(next_chain(&mut queue, &memory).unwrap().is_some());
    }
    assert!(next_chain(&mut queue, &memory).unwrap().is_none());
    // Of these, the device has none back yet.
    driver.offer(&[(0, 1, 0)]);
    assert!(next_chain(&mut queue, &memory).is_err());
}

#[test]
fn what_is_wanted_of_events_without_sense_is_survived() {
    let memory = memory();
    let (mut driver, mut queue) = both_sides(&memory, 5, ALL);
    let mut numbers = Numbers(7);
    for _ in 0..1000 {
        let event = GuestAddress(DRIVER_EVENT);
        memory.write_obj(numbers.next() as u32, event).unwrap();
        driver.offer(&[(0, 1, 0)]);
        let (head, _) = seen(&mut queue, &memory).unwrap().unwrap();
        queue.add_used(&memory, head, 0).unwrap();
        queue.needs_notification(&memory).unwrap();
        assert!(driver.collect().is_some());
    }
    // A value that says nothing is taken as one that wants all.
    for (event, told) in [(0, true), (1 << 16, false), (3 << 16, true)] {
        memory.write_obj(event, GuestAddress(DRIVER_EVENT)).unwrap();
        driver.offer(&[(0, 1, 0)]);
        let (head, _) = seen(&mut queue, &memory).unwrap().unwrap();
        queue.add_used(&memory, head, 0).unwrap();
        assert_eq!(queue.needs_notification(&memory).unwrap(), told, "{event:#x}");
        assert!(!queue.needs_notification(&memory).unwrap(), "once");
        driver.collect();
    }
}

#[test]
fn rings_that_are_not_in_memory_or_not_aligned_are_refused() {
    let memory = memory();
    let right = setup(33);
    assert!(Queue::new(right, ALL, &memory).is_ok(), "no power of two");
    for wrong in [
        Setup { is_ready: false, ..right },
        Setup { descriptors: RING + 8, ..right },
        Setup { descriptors: SIZE - 32 * 16, ..right },
        Setup { descriptors: u64::MAX - 15, ..right },
        Setup { driver: SIZE, ..right },
        Setup { driver: DRIVER_EVENT + 2, ..right },
        Setup { device: u64::MAX - 3, ..right },
        Setup { device: DEVICE_EVENT + 1, ..right },
    ] {
        assert!(Queue::new(wrong, ALL, &memory).is_err(), "{wrong:?}");
    }
    assert!(Queue::new(right, ALL & !F_RING_PACKED, &memory).is_err(), "a split one of 33");
}
