//! The source of random numbers.

use super::driver::Driver;
use super::*;
use crate::virtio::rng::Rng;

/// Most that one buffer gets.
const MOST: usize = 4096;

/// The least that a driver accepts.
const VERSION_1: u64 = 1 << 32;

/// A source and its driver.
struct Machine {
    driver: Driver,
    rng: Arc<Rng>,
}

impl Machine {
    /// With split rings and with packed ones.
    fn both() -> [Machine; 2] {
        [Driver::new, Driver::packed].map(|driver| {
            let rng = Arc::new(Rng::new().unwrap());
            let mut driver = driver(rng.clone());
            driver.start(VERSION_1);
            Machine { driver, rng }
        })
    }

    fn describe(&self, index: u16, address: u64, length: u32, flags: u16) {
        self.driver.describe(index, address, length, flags);
    }

    /// Offers the chain at `head`: how many bytes the source says that it has written, if it used it.
    fn offer(&mut self, head: u16) -> Option<u32> {
        self.driver.offer(&[head]);
        self.rng.ready(0);
        (self.driver.used() == self.driver.offered).then(|| self.driver.written())
    }

    fn get(&self, length: usize) -> Vec<u8> {
        self.driver.get(BUFFER, length)
    }
}

/// How many of the 256 values are among these.
fn values(bytes: &[u8]) -> usize {
    bytes.iter().collect::<std::collections::BTreeSet<_>>().len()
}

#[test]
fn buffers_are_filled_with_what_is_different_each_time() {
    for mut machine in Machine::both() {
        // An odd length, in two pieces.
        machine.describe(0, BUFFER, 1000, DESCRIPTOR_WRITE | DESCRIPTOR_NEXT);
        machine.describe(1, BUFFER + 1000, 2001, DESCRIPTOR_WRITE);
        assert_eq!(machine.offer(0), Some(3001));
        let first = machine.get(3100);
        // Of 3001 random bytes, 2 values are missing one time in 700, 20 never.
        assert!(values(&first[..3001]) > 236, "{}", values(&first[..3001]));
        assert_eq!(first[3001..], [0; 99], "nothing beyond");
        assert_eq!(machine.offer(0), Some(3001));
        assert_ne!(machine.get(3100), first);
    }
}

#[test]
fn a_large_buffer_gets_what_one_turn_gives() {
    for mut machine in Machine::both() {
        machine.describe(0, BUFFER, 1 << 20, DESCRIPTOR_WRITE);
        assert_eq!(machine.offer(0), Some(MOST as u32));
        let bytes = machine.get(2 * MOST);
        assert!(values(&bytes[..MOST]) > 236);
        assert_eq!(bytes[MOST..], [0; MOST]);
    }
}

#[test]
fn what_cannot_be_written_gets_nothing() {
    for mut machine in Machine::both() {
        for (length, flags) in [(64, 0), (0, DESCRIPTOR_WRITE)] {
            machine.describe(0, BUFFER, length, flags);
            assert_eq!(machine.offer(0), Some(0), "{length} {flags}");
        }
        assert_eq!(machine.get(64), [0; 64]);
        // No part of memory: the device stops, until it is reset.
        machine.describe(0, MIN_MEMORY * 4, 64, DESCRIPTOR_WRITE);
        assert_eq!(machine.offer(0), None);
        assert_ne!(machine.driver.status() & NEEDS_RESET, 0);
        machine.driver.start(VERSION_1);
        machine.describe(0, BUFFER, 64, DESCRIPTOR_WRITE);
        assert_eq!(machine.offer(0), Some(64));
    }
}

#[test]
fn rings_without_sense_are_survived() {
    let mut numbers = Numbers(0x9e37_79b9_7f4a_7c15);
    for mut machine in Machine::both() {
        for round in 0..3000 {
            for _ in 0..numbers.next() % 40 {
                let at = base(0) + numbers.next() % 0x3000;
                let byte = [numbers.next() as u8];
                machine.driver.put(at, &byte);
            }
            machine.offer((numbers.next() % u64::from(QUEUE_SIZE)) as u16);
            machine.rng.ready(0);
            if machine.driver.status() & NEEDS_RESET != 0 || round % 50 == 0 {
                machine.driver.start(VERSION_1);
            }
        }
        machine.driver.start(VERSION_1);
        machine.describe(0, BUFFER, 64, DESCRIPTOR_WRITE);
        assert_eq!(machine.offer(0), Some(64), "it still works");
    }
}
