//! The source of random numbers.

use super::*;
use crate::virtio::rng::Rng;

/// Most that one buffer gets.
const MOST: usize = 4096;

/// A source and its driver.
struct Machine {
    bar: Structures,
    rng: Arc<Rng>,
    memory: GuestMemory,
    offered: u16,
}

impl Machine {
    fn started() -> Machine {
        let rng = Arc::new(Rng::new().unwrap());
        let memory = allocate(&Layout::new(MIN_MEMORY, 40, &[]).unwrap()).unwrap();
        let warnings = Arc::new(Warnings::new("test"));
        let mut msix = Msix::new(2, Arc::new(Nowhere), Box::new(Emulated), warnings);
        msix.set_control(MSIX_ON_ALL_MASKED);
        let bar = Structures::new(rng.clone(), msix, memory.clone());
        let mut machine = Machine { bar, rng, memory, offered: 0 };
        machine.start();
        machine
    }

    fn start(&mut self) {
        self.write(0x14, &[0]);
        self.offered = 0;
        self.memory.write_slice(&[0; 0x3000], GuestAddress(base(0))).unwrap();
        self.write(0x14, &[ACKNOWLEDGE_DRIVER]);
        self.write(0x08, &1u32.to_le_bytes());
        self.write(0x0c, &1u32.to_le_bytes());
        self.write(0x18, &QUEUE_SIZE.to_le_bytes());
        self.write(0x1a, &1u16.to_le_bytes());
        for (register, part) in [(0x20, 0), (0x28, 0x1000), (0x30, 0x2000)] {
            self.write(register, &(base(0) + part).to_le_bytes());
        }
        self.write(0x1c, &1u16.to_le_bytes());
        self.write(0x14, &[ACKNOWLEDGE_DRIVER | FEATURES_OK | DRIVER_OK]);
        assert_eq!(self.status(), ACKNOWLEDGE_DRIVER | FEATURES_OK | DRIVER_OK);
    }

    fn write(&self, offset: u64, data: &[u8]) {
        self.bar.write(COMMON + offset, data);
    }

    fn status(&self) -> u8 {
        let mut data = [0];
        self.bar.read(COMMON + 0x14, &mut data);
        data[0]
    }

    fn describe(&self, index: u16, address: u64, length: u32, flags: u16) {
        let mut bytes = address.to_le_bytes().to_vec();
        bytes.extend(length.to_le_bytes());
        bytes.extend(flags.to_le_bytes());
        bytes.extend(((index + 1) % QUEUE_SIZE).to_le_bytes());
        let entry = base(0) + 16 * u64::from(index);
        self.memory.write_slice(&bytes, GuestAddress(entry)).unwrap();
    }

    /// Offers the chain at `head`: how many bytes the source says that it has written, if it used it.
    fn offer(&mut self, head: u16) -> Option<u32> {
        let ring = base(0) + 0x1000;
        let slot = u64::from(self.offered % QUEUE_SIZE);
        self.memory.write_obj(head, GuestAddress(ring + 4 + slot * 2)).unwrap();
        self.offered = self.offered.wrapping_add(1);
        self.memory.write_obj(self.offered, GuestAddress(ring + 2)).unwrap();
        self.bar.write(NOTIFY, &[0, 0]);
        self.rng.ready(0);
        let used: u16 = self.memory.read_obj(GuestAddress(base(0) + 0x2002)).unwrap();
        (used == self.offered)
            .then(|| self.memory.read_obj(GuestAddress(base(0) + 0x2008 + slot * 8)).unwrap())
    }

    fn get(&self, length: usize) -> Vec<u8> {
        let mut bytes = vec![0; length];
        self.memory.read_slice(&mut bytes, GuestAddress(BUFFER)).unwrap();
        bytes
    }
}

/// How many of the 256 values are among these.
fn values(bytes: &[u8]) -> usize {
    bytes.iter().collect::<std::collections::BTreeSet<_>>().len()
}

#[test]
fn buffers_are_filled_with_what_is_different_each_time() {
    let mut machine = Machine::started();
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

#[test]
fn a_large_buffer_gets_what_one_turn_gives() {
    let mut machine = Machine::started();
    machine.describe(0, BUFFER, 1 << 20, DESCRIPTOR_WRITE);
    assert_eq!(machine.offer(0), Some(MOST as u32));
    let bytes = machine.get(2 * MOST);
    assert!(values(&bytes[..MOST]) > 236);
    assert_eq!(bytes[MOST..], [0; MOST]);
}

#[test]
fn what_cannot_be_written_gets_nothing() {
    let mut machine = Machine::started();
    for (length, flags) in [(64, 0), (0, DESCRIPTOR_WRITE)] {
        machine.describe(0, BUFFER, length, flags);
        assert_eq!(machine.offer(0), Some(0), "{length} {flags}");
    }
    assert_eq!(machine.get(64), [0; 64]);
    // No part of memory: the device stops, until it is reset.
    machine.describe(0, MIN_MEMORY * 4, 64, DESCRIPTOR_WRITE);
    assert_eq!(machine.offer(0), None);
    assert_ne!(machine.status() & NEEDS_RESET, 0);
    machine.start();
    machine.describe(0, BUFFER, 64, DESCRIPTOR_WRITE);
    assert_eq!(machine.offer(0), Some(64));
}

#[test]
fn rings_without_sense_are_survived() {
    let mut numbers = Numbers(0x9e37_79b9_7f4a_7c15);
    let mut machine = Machine::started();
    for round in 0..3000 {
        for _ in 0..numbers.next() % 40 {
            let at = base(0) + numbers.next() % 0x3000;
            let byte = [numbers.next() as u8];
            machine.memory.write_slice(&byte, GuestAddress(at)).unwrap();
        }
        machine.offer((numbers.next() % u64::from(QUEUE_SIZE)) as u16);
        machine.rng.ready(0);
        if machine.status() & NEEDS_RESET != 0 || round % 50 == 0 {
            machine.start();
        }
    }
    machine.start();
    machine.describe(0, BUFFER, 64, DESCRIPTOR_WRITE);
    assert_eq!(machine.offer(0), Some(64), "it still works");
}
