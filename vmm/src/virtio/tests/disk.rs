//! A disk's requests, by both engines.

use std::ops::{Deref, DerefMut};
use std::os::unix::fs::FileExt;
use std::time::{Duration, Instant};

use super::driver::Driver;
use std::fs::File;
use std::os::fd::OwnedFd;

use super::*;
use crate::devices::power::Stop;
use crate::event::Reporter;
use crate::spec::{Descriptor, Disk, DiskFormat};
use crate::virtio::block::Block;

pub const HEADER: u64 = BUFFER;
const OUTCOME: u64 = BUFFER + 0x100;
pub const DATA: u64 = BUFFER + 0x1000;
const SECTORS: u64 = 64;

pub const READ: u32 = 0;
pub const WRITE: u32 = 1;
pub const FLUSH: u32 = 4;
const IDENTIFY: u32 = 8;
pub const DISCARD: u32 = 11;
pub const WRITE_ZEROES: u32 = 13;

pub const OK: u8 = 0;
pub const FAILED: u8 = 1;
const UNSUPPORTED: u8 = 2;
/// No device writes that.
const NOTHING: u8 = 0xee;

pub const FLUSHES: u64 = 1 << 9;

/// A disk, its driver, its file and what it reports.
pub struct Machine {
    driver: Driver,
    pub block: Arc<Block>,
    pub file: File,
    pub reports: File,
}

impl Deref for Machine {
    type Target = Driver;

    fn deref(&self) -> &Driver {
        &self.driver
    }
}

impl DerefMut for Machine {
    fn deref_mut(&mut self) -> &mut Driver {
        &mut self.driver
    }
}

impl Machine {
    fn new(read_only: bool, by_calls: bool) -> Machine {
        let file = tempfile::tempfile().unwrap();
        // A part of a sector at the end is not seen.
        file.set_len(SECTORS * 512 + 100).unwrap();
        Machine::over(file, DiskFormat::Raw, read_only, by_calls)
    }

    pub fn over(file: File, format: DiskFormat, read_only: bool, by_calls: bool) -> Machine {
        let disk = Disk {
            name: "root".into(),
            file: Descriptor(-1),
            format,
            read_only,
            serial: "serial-1".into(),
            queues: 1,
        };
        let (reports, events) = std::io::pipe().unwrap();
        let reporter = Arc::new(Reporter::new(Some(OwnedFd::from(events).into())));
        let shared = file.try_clone().unwrap().into();
        let block = if by_calls {
            Block::by_calls(shared, &disk, reporter).unwrap()
        } else {
            let block = Block::new(shared, &disk, reporter).unwrap();
            assert!(block.has_ring(), "this kernel has no io_uring, or it is switched off");
            block
        };
        block.open().unwrap();
        block.start(&Arc::new(Stop::new(EventFd::new(0).unwrap()))).unwrap();
        let block = Arc::new(block);
        let driver = Driver::new(block.clone());
        let reports = OwnedFd::from(reports).into();
        Machine { driver, block, file, reports }
    }

    /// By both engines, with split rings and with packed ones.
    fn all() -> [Machine; 4] {
        [(false, false), (true, false), (false, true), (true, true)].map(|(by_calls, packed)| {
            let mut machine = Machine::new(false, by_calls);
            if packed {
                machine.driver = Driver::packed(machine.block.clone());
            }
            machine.started(u64::MAX)
        })
    }

    /// Resets the disk, and begins with those of `wanted` features that it offers.
    pub fn started(mut self, wanted: u64) -> Machine {
        self.start(wanted);
        self
    }

    /// Waits until all that was offered is used, or the disk stopped.
    pub fn wait(&self) -> bool {
        let end = Instant::now() + Duration::from_secs(20);
        while self.used() != self.offered {
            assert!(Instant::now() < end, "{} of {} are used", self.used(), self.offered);
            if self.status() & NEEDS_RESET != 0 {
                return false;
            }
            std::thread::yield_now();
        }
        true
    }

    /// The request `kind` at `sector` with `length` bytes at [`DATA`]: its outcome, and how many bytes
    /// the disk says that it wrote.
    pub fn ask(&mut self, kind: u32, sector: u64, length: u32) -> (u8, u32) {
        let mut header = kind.to_le_bytes().to_vec();
        header.extend([0; 4]);
        header.extend(sector.to_le_bytes());
        self.put(HEADER, &header);
        self.put(OUTCOME, &[NOTHING]);
        let way = if matches!(kind, READ | IDENTIFY) { DESCRIPTOR_WRITE } else { 0 };
        self.describe(0, HEADER, 16, DESCRIPTOR_NEXT);
        // In two pieces, the second of them odd.
        let (first, second) = (length / 2, length - length / 2);
        self.describe(1, DATA, first, DESCRIPTOR_NEXT | way);
        self.describe(2, DATA + u64::from(first), second, DESCRIPTOR_NEXT | way);
        self.describe(3, OUTCOME, 1, DESCRIPTOR_WRITE);
        self.offer(&[0]);
        assert!(self.wait(), "the disk stopped");
        (self.get(OUTCOME, 1)[0], self.written())
    }

    pub fn erase(&mut self, kind: u32, sector: u64, count: u32, flags: u32) -> u8 {
        let mut range = sector.to_le_bytes().to_vec();
        range.extend(count.to_le_bytes());
        range.extend(flags.to_le_bytes());
        self.put(DATA, &range);
        self.ask(kind, 0, 16).0
    }

    fn on_file(&self, sector: u64, length: usize) -> Vec<u8> {
        let mut bytes = vec![0; length];
        self.file.read_exact_at(&mut bytes, sector * 512).unwrap();
        bytes
    }
}

pub fn pattern(length: usize) -> Vec<u8> {
    (0..length).map(|at| (at * 7 + at / 512) as u8 | 1).collect()
}

#[test]
fn what_is_written_is_on_the_file_and_is_read_back() {
    for mut guest in Machine::all() {
        guest.put(DATA, &pattern(4096));
        assert_eq!(guest.ask(WRITE, 3, 4096), (OK, 1));
        assert_eq!(guest.on_file(3, 4096), pattern(4096));
        assert_eq!(guest.ask(FLUSH, 0, 0), (OK, 1));
        guest.put(DATA, &[0; 4096]);
        assert_eq!(guest.ask(READ, 4, 1024), (OK, 1025));
        assert_eq!(guest.get(DATA, 1025), [&pattern(4096)[512..1536], &[0]].concat());
        assert_eq!(guest.ask(READ, SECTORS - 1, 512), (OK, 513));
    }
}

#[test]
fn without_flushes_writes_are_durable_and_work_as_well() {
    for mut guest in Machine::all() {
        guest.start(!FLUSHES);
        guest.put(DATA, &pattern(512));
        assert_eq!(guest.ask(WRITE, 0, 512), (OK, 1));
        assert_eq!(guest.on_file(0, 512), pattern(512));
        assert_eq!(guest.erase(WRITE_ZEROES, 0, 1, 0), OK);
        assert_eq!(guest.on_file(0, 512), [0; 512]);
    }
}

#[test]
fn the_driver_learns_what_the_disk_is() {
    for mut guest in Machine::all() {
        let config = |offset: u64, width: usize| {
            let mut data = [0; 8];
            guest.bar.read(DEVICE + offset, &mut data[..width]);
            u64::from_le_bytes(data)
        };
        assert_eq!((config(0, 8), config(20, 4), config(34, 2)), (SECTORS, 512, 1));
        assert_eq!(config(0x1000 - 8, 8), 0, "beyond its end");
        assert_eq!(guest.ask(IDENTIFY, 0, 20), (OK, 21));
        assert_eq!(guest.get(DATA, 20), b"serial-1\0\0\0\0\0\0\0\0\0\0\0\0");
        guest.put(DATA, &[9; 20]);
        assert_eq!(guest.ask(IDENTIFY, 0, 5), (OK, 6));
        assert_eq!(guest.get(DATA, 6), b"seria\x09");
    }
}

#[test]
fn what_is_erased_reads_as_zeroes_and_nothing_else_does() {
    for mut guest in Machine::all() {
        for (kind, flags) in [(DISCARD, 0), (WRITE_ZEROES, 0), (WRITE_ZEROES, 1)] {
            guest.put(DATA, &pattern(8192));
            assert_eq!(guest.ask(WRITE, 0, 8192).0, OK);
            assert_eq!(guest.erase(kind, 1, 8, flags), OK);
            let expected = [&pattern(8192)[..512], &[0; 4096], &pattern(8192)[4608..]].concat();
            assert!(guest.on_file(0, 8192) == expected, "{kind} {flags}");
        }
        assert_eq!(guest.file.metadata().unwrap().len(), SECTORS * 512 + 100);
        for (kind, sector, count, flags, outcome) in [
            (DISCARD, 0, 1, 1, UNSUPPORTED),
            (WRITE_ZEROES, 0, 1, 2, UNSUPPORTED),
            (DISCARD, SECTORS, 1, 0, FAILED),
            (WRITE_ZEROES, u64::MAX, 1, 0, FAILED),
            (WRITE_ZEROES, 0, u32::MAX, 0, FAILED),
            (DISCARD, 0, 0, 0, OK),
        ] {
            assert_eq!(guest.erase(kind, sector, count, flags), outcome, "{kind} {sector} {count}");
        }
        // Two ranges, where one is announced.
        assert_eq!(guest.ask(DISCARD, 0, 32).0, FAILED);
    }
}

#[test]
fn what_is_not_on_the_disk_is_an_error_that_leaves_it_working() {
    for mut guest in Machine::all() {
        for (kind, sector, length) in [
            (READ, SECTORS, 512),
            (READ, SECTORS - 1, 1024),
            (WRITE, u64::MAX, 512),
            (WRITE, u64::MAX / 512, 512),
            (READ, 0, 511),
            (WRITE, 0, 513),
        ] {
            assert_eq!(guest.ask(kind, sector, length), (FAILED, 1), "{kind} {sector} {length}");
        }
        assert_eq!(guest.ask(2, 0, 512), (UNSUPPORTED, 1));
        assert_eq!(guest.ask(u32::MAX, 0, 512), (UNSUPPORTED, 1));
        // Outside of guest memory.
        guest.describe(1, 1 << 40, 512, DESCRIPTOR_NEXT | DESCRIPTOR_WRITE);
        guest.describe(2, OUTCOME, 1, DESCRIPTOR_WRITE);
        guest.put(HEADER, &[0; 16]);
        guest.offer(&[0]);
        assert!(guest.wait());
        assert_eq!(guest.get(OUTCOME, 1), [FAILED]);
        assert_eq!(guest.ask(READ, 0, 512), (OK, 513));
    }
}

#[test]
fn a_disk_that_is_read_only_is_never_written_to() {
    for by_calls in [false, true] {
        let mut guest = Machine::new(true, by_calls).started(u64::MAX);
        assert_ne!(guest.features() & 1 << 5, 0, "it says so");
        guest.put(DATA, &pattern(512));
        assert_eq!(guest.ask(WRITE, 0, 512), (FAILED, 1));
        assert_eq!(guest.erase(WRITE_ZEROES, 0, 1, 0), FAILED);
        assert_eq!(guest.erase(DISCARD, 0, 1, 0), FAILED);
        assert_eq!(guest.on_file(0, 512), [0; 512]);
        assert_eq!(guest.ask(READ, 0, 512).0, OK);
    }
}

#[test]
fn a_file_that_was_cut_off_is_an_error_that_is_told_once() {
    use std::io::{BufRead, BufReader};

    for mut guest in Machine::all() {
        guest.file.set_len(1024).unwrap();
        assert_eq!(guest.ask(READ, 0, 1024), (OK, 1025), "what is left is there");
        assert_eq!(guest.ask(READ, 1, 1024), (FAILED, 1));
        assert_eq!(guest.ask(READ, 9, 512), (FAILED, 1));
        let mut line = String::new();
        let mut reports = BufReader::new(guest.reports.try_clone().unwrap());
        reports.read_line(&mut line).unwrap();
        for part in ["disk-error", "\"root\"", "read 1024 bytes at 512", "1024 bytes; it had 32768"]
        {
            assert!(line.contains(part), "{line}");
        }
        guest.file.set_len(SECTORS * 512).unwrap();
        assert_eq!(guest.ask(READ, 9, 512), (OK, 513));
        drop(guest.driver.bar);
        assert_eq!(reports.buffer(), b"", "told within ten seconds");
    }
}

#[test]
fn a_request_without_a_place_for_its_outcome_stops_the_disk_until_it_is_reset() {
    for mut guest in Machine::all() {
        for chain in 0..4u16 {
            match chain {
                0 => guest.describe(0, HEADER, 16, 0),
                1 => guest.describe(0, 1 << 40, 16, DESCRIPTOR_WRITE),
                2 => guest.describe(0, OUTCOME, 0, DESCRIPTOR_WRITE),
                _ => {
                    guest.describe(0, OUTCOME, 1, DESCRIPTOR_WRITE | DESCRIPTOR_NEXT);
                    guest.describe(1, HEADER, 16, 0);
                }
            }
            guest.offer(&[0]);
            assert!(!guest.wait(), "{chain}");
            guest.start(u64::MAX);
            assert_eq!(guest.ask(READ, 0, 512), (OK, 513));
        }
    }
}

#[test]
fn many_requests_at_a_time_all_come_back() {
    for mut guest in Machine::all() {
        let mut header = READ.to_le_bytes().to_vec();
        header.extend([0; 12]);
        guest.put(HEADER, &header);
        guest.describe(0, HEADER, 16, DESCRIPTOR_NEXT);
        guest.describe(1, DATA, 512, DESCRIPTOR_NEXT | DESCRIPTOR_WRITE);
        guest.describe(2, OUTCOME, 1, DESCRIPTOR_WRITE);
        for _ in 0..500 {
            guest.offer(&[0; QUEUE_SIZE as usize]);
            assert!(guest.wait());
        }
    }
}

#[test]
fn a_reset_waits_for_what_reaches_into_guest_memory() {
    for mut guest in Machine::all() {
        guest.file.write_all_at(&[0xaa; 512 * SECTORS as usize], 0).unwrap();
        for _ in 0..300 {
            let mut header = READ.to_le_bytes().to_vec();
            header.extend([0; 12]);
            guest.put(HEADER, &header);
            guest.describe(0, HEADER, 16, DESCRIPTOR_NEXT);
            guest.describe(1, DATA, 512 * SECTORS as u32, DESCRIPTOR_NEXT | DESCRIPTOR_WRITE);
            guest.describe(2, OUTCOME, 1, DESCRIPTOR_WRITE);
            guest.offer(&[0; QUEUE_SIZE as usize]);
            guest.write(0x14, &[0]);
            guest.put(DATA, &[0x55; 512 * SECTORS as usize]);
            std::thread::yield_now();
            let now = guest.get(DATA, 512 * SECTORS as usize);
            assert!(now.iter().all(|byte| *byte == 0x55), "written after the reset");
            guest.start(u64::MAX);
        }
        assert_eq!(guest.ask(READ, 0, 512), (OK, 513));
    }
}

#[test]
fn rings_without_sense_are_harmless() {
    for mut guest in Machine::all() {
        let mut numbers = Numbers(0x9e37_79b9_7f4a_7c15);
        for _ in 0..3_000 {
            for index in 0..QUEUE_SIZE {
                let number = numbers.next();
                let address = match number % 4 {
                    0 => HEADER,
                    1 => DATA + number % 4096,
                    2 => OUTCOME,
                    _ => numbers.next() >> (numbers.next() % 64),
                };
                let length = (numbers.next() >> (32 + numbers.next() % 32)) as u32;
                guest.describe(index, address, length, (numbers.next() % 8) as u16);
            }
            let kind = [READ, WRITE, FLUSH, IDENTIFY, DISCARD, WRITE_ZEROES, 99];
            let kind = kind[numbers.next() as usize % 7];
            guest.put(HEADER, &kind.to_le_bytes());
            guest.put(HEADER + 8, &(numbers.next() % (2 * SECTORS)).to_le_bytes());
            guest.offer(&[numbers.next() as u16 % (QUEUE_SIZE + 1)]);
            if guest.status() & NEEDS_RESET != 0 || numbers.next().is_multiple_of(16) {
                guest.start(u64::MAX);
            }
        }
        guest.start(u64::MAX);
        guest.file.set_len(SECTORS * 512).unwrap();
        assert_eq!(guest.ask(READ, 0, 512), (OK, 513));
    }
}
