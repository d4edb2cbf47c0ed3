//! The balloon.

use super::driver::Driver;
use super::*;
use crate::spec::{BalloonStats, GuestSays};
use crate::virtio::balloon::Balloon;

const VERSION_1: u64 = 1 << 32;
const PAGE: u64 = 4096;

const INFLATE: u16 = 0;
const DEFLATE: u16 = 1;
const STATS: u16 = 2;
const REPORT: u16 = 3;
const QUEUES: u16 = 5;

const STARTED: u8 = ACKNOWLEDGE_DRIVER | FEATURES_OK | DRIVER_OK;

/// A balloon and its driver.
struct Machine {
    driver: Driver,
    balloon: Arc<Balloon>,
}

impl Machine {
    fn new() -> Machine {
        let balloon = Arc::new(Balloon::new(2 * MIN_MEMORY, 0).unwrap());
        Machine { driver: Driver::new(balloon.clone()), balloon }
    }

    /// With split rings and with packed ones.
    fn both() -> [Machine; 2] {
        [Driver::new, Driver::packed].map(|driver| {
            let mut machine = Machine::new();
            machine.driver = driver(machine.balloon.clone());
            machine.driver.start(u64::MAX);
            machine.turn();
            machine
        })
    }

    /// A turn of the event loop for each queue.
    fn turn(&self) {
        (0..QUEUES.into()).for_each(|queue| self.balloon.ready(queue));
    }

    /// Offers a buffer of `pieces`, and returns how many turns it took until it was used, if it was.
    fn offer(&mut self, queue: u16, pieces: &[(u64, u32)]) -> Option<u32> {
        self.driver.choose(queue);
        let way = if queue >= REPORT { DESCRIPTOR_WRITE } else { 0 };
        for (index, (address, length)) in (0..).zip(pieces) {
            let last = usize::from(index) + 1 == pieces.len();
            let flags = way | if last { 0 } else { DESCRIPTOR_NEXT };
            self.driver.describe(index, *address, *length, flags);
        }
        self.driver.offer(&[0]);
        (1..100).find(|_| {
            self.balloon.ready(queue.into());
            self.driver.used() == self.driver.offered
        })
    }

    /// Has these pages go into the balloon or out of it.
    fn give(&mut self, queue: u16, pages: &[u32]) -> Option<u32> {
        let numbers: Vec<u8> = pages.iter().flat_map(|page| page.to_le_bytes()).collect();
        self.driver.put(BUFFER, &numbers);
        self.offer(queue, &[(BUFFER, numbers.len() as u32)])
    }

    fn config(&self, offset: u64) -> u32 {
        let mut bytes = [0; 4];
        self.driver.bar.read(DEVICE + offset, &mut bytes);
        u32::from_le_bytes(bytes)
    }

    fn generation(&self) -> u8 {
        let mut byte = [0];
        self.driver.bar.read(COMMON + 0x15, &mut byte);
        byte[0]
    }

    /// Why it was interrupted, other than for a queue.
    fn interrupt_status(&self) -> u8 {
        let mut byte = [0];
        self.driver.bar.read(STATUS, &mut byte);
        byte[0]
    }

    /// Asking the guest, where it can be asked.
    fn stats(&self) -> BalloonStats {
        self.balloon.stats()
    }

    fn fill(&self, pages: std::ops::Range<u64>) {
        let bytes = vec![7; ((pages.end - pages.start) * PAGE) as usize];
        self.driver.put(pages.start * PAGE, &bytes);
    }

    fn is_gone(&self, page: u64) -> bool {
        let bytes = self.driver.get(page * PAGE, PAGE as usize);
        let gone = bytes.iter().all(|byte| *byte == 0);
        assert!(gone || bytes.iter().all(|byte| *byte == 7), "page {page:#x} is whole or gone");
        gone
    }
}

#[test]
fn pages_go_into_the_balloon_and_come_back_empty() {
    for mut machine in Machine::both() {
        machine.fill(0x1000..0x1010);
        let pages = [0x1003, 0x1001, 0x100f, 0x1002, 0x1002];
        assert_eq!(machine.give(INFLATE, &pages), Some(1));
        for page in 0x1000..0x1010 {
            assert_eq!(machine.is_gone(page), pages.contains(&(page as u32)), "{page:#x}");
        }
        assert_eq!(machine.stats().inflated, 4 * PAGE);
        assert_eq!(machine.driver.pending(), 1 << (INFLATE + 1), "the driver is told");
        machine.fill(0x1001..0x1002);
        assert_eq!(machine.give(DEFLATE, &pages), Some(1));
        assert!(!machine.is_gone(0x1001), "taking a page back changes nothing");
    }
}

#[test]
fn page_numbers_without_ram_give_nothing() {
    for mut machine in Machine::both() {
        let end = (MIN_MEMORY / PAGE) as u32;
        machine.fill(u64::from(end) - 2..u64::from(end));
        assert_eq!(machine.give(INFLATE, &[u32::MAX, end, end - 1, 1 << 31, end + 1]), Some(1));
        assert_eq!(machine.stats().inflated, PAGE);
        assert!(machine.is_gone(u64::from(end) - 1) && !machine.is_gone(u64::from(end) - 2));
        // Not even a number, and no buffer at all.
        for (length, given) in [(3, PAGE), (0, PAGE)] {
            assert_eq!(machine.offer(INFLATE, &[(BUFFER, length)]), Some(1));
            assert_eq!(machine.stats().inflated, given);
        }
        // The numbers themselves are outside of RAM: the device stops, and its driver is told.
        assert_eq!(machine.offer(INFLATE, &[(4 * MIN_MEMORY, 64)]), None);
        assert_ne!(machine.driver.status() & NEEDS_RESET, 0);
        assert_eq!((machine.driver.pending() & 1, machine.interrupt_status()), (1, 2));
        machine.driver.start(u64::MAX);
        assert_eq!(machine.interrupt_status(), 0);
        assert_eq!(machine.give(INFLATE, &[0x1000]), Some(1));
    }
}

#[test]
fn a_large_buffer_is_worked_off_in_turns() {
    for (mut machine, place) in Machine::both().into_iter().zip([0, 2]) {
        let pages: Vec<u32> = (0..1000).map(|page| 0x1000 + page * 2).collect();
        machine.fill(0x1000..0x1800);
        let numbers: Vec<u8> = pages.iter().flat_map(|page| page.to_le_bytes()).collect();
        machine.driver.put(BUFFER, &numbers);
        machine.driver.choose(INFLATE);
        // In two pieces that end within a number.
        machine.driver.describe(0, BUFFER, 1030, DESCRIPTOR_NEXT);
        machine.driver.describe(1, BUFFER + 1030, 2970, 0);
        machine.driver.offer(&[0]);
        for turn in 1..=4u64 {
            assert_eq!(machine.driver.used(), 0);
            machine.balloon.ready(INFLATE.into());
            assert_eq!(machine.stats().inflated, (turn * 256).min(1000) * PAGE);
        }
        assert_eq!(machine.driver.used(), 1);
        assert!(
            (0x1000..0x1800).all(|page| machine.is_gone(page) == (page < 0x17d0 && page % 2 == 0))
        );
        // One that becomes shorter meanwhile ends, and the next begins at its beginning.
        machine.driver.choose(INFLATE);
        machine.driver.describe(0, BUFFER, 4000, 0);
        machine.driver.offer(&[0]);
        machine.balloon.ready(INFLATE.into());
        // In a packed ring it is behind the two of the first one.
        machine.driver.put(base(INFLATE) + 16 * place + 8, &8u32.to_le_bytes());
        machine.balloon.ready(INFLATE.into());
        assert_eq!(machine.driver.used(), 2);
        machine.fill(0x1000..0x1001);
        assert_eq!(machine.give(INFLATE, &[0x1000]), Some(1));
        assert!(machine.is_gone(0x1000));
    }
}

#[test]
fn reported_pages_are_given_back_in_either_queue() {
    for queue in [REPORT, REPORT + 1] {
        for mut machine in Machine::both() {
            machine.fill(0x1000..0x1004);
            let pieces = [(0x1000 * PAGE, PAGE as u32), (0x1002 * PAGE + 1, 2 * PAGE as u32 - 1)];
            assert_eq!(machine.offer(queue, &pieces), Some(1));
            let gone = [0x1000, 0x1001, 0x1002, 0x1003].map(|page| machine.is_gone(page));
            assert_eq!(gone, [true, false, false, true], "whole pages only");
            assert_eq!((machine.stats().reported, machine.stats().inflated), (2 * PAGE, 0));
            // 40 MiB, of which a turn gives 16.
            let large = (8 << 20, 20 << 20);
            assert_eq!(machine.offer(queue, &[large, large]), Some(3));
            assert_eq!(machine.stats().reported, 2 * PAGE + (40 << 20));
            // Beyond RAM.
            assert_eq!(machine.offer(queue, &[(MIN_MEMORY - PAGE, 2 * PAGE as u32)]), None);
            assert_ne!(machine.driver.status() & NEEDS_RESET, 0);
            machine.driver.start(u64::MAX);
            assert_eq!(machine.offer(queue, &[(0x1000 * PAGE, PAGE as u32)]), Some(1));
        }
    }
}

#[test]
fn a_driver_hears_of_another_target_and_says_what_it_has_given() {
    let mut machine = Machine::new();
    machine.balloon.set_target(8 << 20).unwrap();
    assert_eq!((machine.config(0), machine.driver.pending()), (2048, 0), "nobody listens yet");
    machine.driver.start(u64::MAX);
    let (first, pending) = (machine.generation(), machine.driver.pending());
    assert_eq!((pending, machine.interrupt_status()), (0, 0));
    machine.balloon.set_target(16 << 20).unwrap();
    assert_eq!((machine.config(0), machine.driver.pending()), (4096, 1));
    assert_ne!(machine.generation(), first);
    assert_eq!([machine.interrupt_status(), machine.interrupt_status()], [2, 0], "read once");
    // The same again is no change.
    let before = machine.generation();
    machine.balloon.set_target(16 << 20).unwrap();
    assert_eq!((machine.generation(), machine.interrupt_status()), (before, 0));

    let write = |offset, bytes: &[u8]| machine.driver.bar.write(DEVICE + offset, bytes);
    write(4, &4096u32.to_le_bytes());
    assert_eq!((machine.config(4), machine.stats().actual), (4096, 16 << 20));
    write(6, &[1]);
    assert_eq!(machine.config(4), 4096 + (1 << 16));
    // Neither is there anything else to write, nor is more given than there is.
    write(0, &[0xff; 8]);
    write(8, &[0xff; 4]);
    write(0xffc, &[0xff; 8]);
    assert_eq!((machine.config(0), machine.config(4), machine.config(8)), (4096, u32::MAX, 0));
    assert_eq!(machine.stats().actual, 2 * MIN_MEMORY);

    // Of a guest that begins anew the balloon is empty, and the target stays.
    machine.driver.write(0x14, &[0]);
    let stats = machine.stats();
    assert_eq!((stats.driven, stats.actual, stats.target), (false, 0, 16 << 20));
    for target in [MIN_MEMORY + PAGE, 2 * MIN_MEMORY, u64::MAX, 100] {
        machine.balloon.set_target(target).unwrap_err();
    }
    machine.balloon.set_target(MIN_MEMORY).unwrap();
}

/// Offers what a driver says of its memory: what each number is, and the number.
fn say(machine: &mut Machine, head: u16, statistics: &[(u16, u64)]) {
    let bytes: Vec<u8> = statistics
        .iter()
        .flat_map(|(tag, value)| [&tag.to_le_bytes()[..], &value.to_le_bytes()].concat())
        .collect();
    let at = BUFFER + u64::from(head) * 0x1000;
    machine.driver.put(at, &bytes);
    machine.driver.choose(STATS);
    machine.driver.describe(head, at, bytes.len() as u32, 0);
    machine.driver.offer(&[head]);
    machine.turn();
}

#[test]
fn a_guest_is_asked_what_it_says_of_its_memory() {
    for mut machine in Machine::both() {
        assert_eq!(machine.stats().said, None, "it has not said anything");
        say(&mut machine, 0, &[(4, 5 << 20), (5, 60 << 20), (99, 1), (6, 7 << 20), (4, 6 << 20)]);
        assert_eq!(machine.driver.used(), 0, "its buffer is kept");
        // It answers when it is asked: on another thread, as the event loop is.
        let balloon = machine.balloon.clone();
        let asked = std::thread::spawn(move || balloon.stats());
        let is_told = || machine.driver.pending() & 1 << (STATS + 1) != 0;
        while !is_told() {
            std::thread::yield_now();
        }
        assert_eq!(machine.driver.used(), 1, "its driver has the buffer again");
        say(&mut machine, 0, &[(4, 1 << 20), (7, u64::MAX)]);
        let said = asked.join().unwrap().said.expect("it has said something");
        let expected = GuestSays {
            age_ms: said.age_ms,
            free: Some(1 << 20),
            caches: Some(u64::MAX),
            total: None,
            available: None,
        };
        assert_eq!(said, expected, "no more than what it said last");
        // Two buffers at a time are one too many.
        say(&mut machine, 1, &[(4, 3 << 20)]);
        assert_eq!(machine.driver.used(), 2);
        // Who does not answer is not waited for long, and has said what he has.
        assert_eq!(machine.stats().said.and_then(|said| said.free), Some(3 << 20));
        machine.driver.start(u64::MAX);
        assert_eq!(machine.stats().said, None);
    }
}

#[test]
fn a_driver_may_do_without_statistics_and_reports_but_not_without_pages() {
    let mut machine = Machine::new();
    for queues in [vec![0, 1], vec![0, 1, 2, 3], vec![0, 1, 2, 4]] {
        machine.driver.queues = queues;
        machine.driver.choose(0);
        machine.driver.start(VERSION_1);
        machine.turn();
        assert_eq!(machine.give(INFLATE, &[0x1000]), Some(1));
        assert_eq!(machine.driver.status(), STARTED);
    }
    for queues in [vec![0, 2, 3], vec![1], vec![]] {
        machine.driver.queues = queues;
        machine.driver.choose(0);
        machine.driver.begin(VERSION_1);
        assert_ne!(machine.driver.status() & NEEDS_RESET, 0);
    }
}

#[test]
fn rings_without_sense_are_survived() {
    let mut numbers = Numbers(0x9e37_79b9_7f4a_7c15);
    for mut machine in Machine::both() {
        for round in 0..3000 {
            for _ in 0..numbers.next() % 40 {
                let queue = (numbers.next() % u64::from(QUEUES)) as u16;
                let at = base(queue) + numbers.next() % 0x3000;
                machine.driver.put(at, &[numbers.next() as u8]);
            }
            machine.driver.choose((numbers.next() % u64::from(QUEUES)) as u16);
            machine.driver.offer(&[(numbers.next() % u64::from(QUEUE_SIZE)) as u16]);
            machine.turn();
            if machine.driver.status() & NEEDS_RESET != 0 || round % 50 == 0 {
                machine.driver.start(u64::MAX);
            }
        }
        machine.driver.start(u64::MAX);
        machine.fill(0x1000..0x1001);
        assert_eq!(machine.give(INFLATE, &[0x1000]), Some(1), "it still works");
        assert!(machine.is_gone(0x1000));
    }
}
