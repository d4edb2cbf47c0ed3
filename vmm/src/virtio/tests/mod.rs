//! Drives the transport, the network card, the disk, the source of random numbers, the balloon and the console as
//! a driver would, and as none should.

mod balloon;
mod board;
mod card;
mod console;
mod disk;
mod driver;
mod kernel;
mod packed;
mod packed_driver;
mod packed_queues;
mod pairs;
mod qcow2;
mod rng;

use std::os::unix::net::UnixDatagram;
use std::sync::Arc;

use vm_memory::{Bytes, GuestAddress};
use vmm_sys_util::eventfd::EventFd;

use super::VirtioDevice;
use super::net::{Config, Net, TOKEN_TAP};
use super::structures::{
    COMMON, DEVICE, MSIX_PENDING, MSIX_TABLE, NOTIFY, NOTIFY_STEP, STATUS, Structures,
};
use crate::bus::Access;
use crate::error::Result;
use crate::machine::event_loop::Ready;
use crate::machine::interrupts::{Delivery, Gsi, Message};
use crate::machine::layout::Layout;
use crate::machine::memory::{GuestMemory, allocate};
use crate::pci::msix::Msix;
use crate::pci::vector::Emulated;
use crate::spec::{MIN_MEMORY, Memory};
use crate::warnings::Warnings;

const ACKNOWLEDGE_DRIVER: u8 = 3;
const DRIVER_OK: u8 = 4;
const FEATURES_OK: u8 = 8;
const NEEDS_RESET: u8 = 64;
const MSIX_ON_ALL_MASKED: u16 = 0xc000;

const DESCRIPTOR_NEXT: u16 = 1;
const DESCRIPTOR_WRITE: u16 = 2;
const DESCRIPTOR_TABLE: u16 = 4;
const QUEUE_SIZE: u16 = 8;
const RECEIVE: u16 = 0;
const TRANSMIT: u16 = 1;
const TAP: u32 = TOKEN_TAP;
const HEADER: usize = 12;

#[derive(Default)]
struct Nowhere;

impl Delivery for Nowhere {
    fn reserve(&self) -> Result<Gsi> {
        Ok(Gsi(24))
    }
    fn route(&self, _: Gsi, _: Message) -> Result<()> {
        Ok(())
    }
    fn connect(&self, _: Gsi, _: &EventFd) -> Result<()> {
        Ok(())
    }
    fn disconnect(&self, _: Gsi, _: &EventFd) -> Result<()> {
        Ok(())
    }
    fn release(&self, _: Gsi) {}
}

/// A card, what is at the other end of its wire, and its driver.
struct Guest {
    bar: Structures,
    net: Arc<Net>,
    memory: GuestMemory,
    wire: UnixDatagram,
    offered: [u16; 2],
}

fn card() -> (Arc<Net>, UnixDatagram) {
    let (tap, wire) = UnixDatagram::pair().unwrap();
    tap.set_nonblocking(true).unwrap();
    wire.set_nonblocking(true).unwrap();
    let config = Config::new([2, 0, 0, 0, 0, 1], 1);
    (Arc::new(Net::on_sockets(vec![tap.into()], config).unwrap()), wire)
}

impl Guest {
    fn new() -> Self {
        let (net, wire) = card();
        let memory =
            allocate(&Layout::new(MIN_MEMORY, 40, &[]).unwrap(), &Memory::bytes(0)).unwrap();
        let warnings = Arc::new(Warnings::new("test"));
        let mut msix = Msix::new(3, Arc::new(Nowhere), Box::new(Emulated), warnings);
        msix.set_control(MSIX_ON_ALL_MASKED);
        let bar = Structures::new(net.clone(), msix, memory.clone(), false);
        Guest { bar, net, memory, wire, offered: [0; 2] }
    }

    fn started() -> Self {
        Guest::started_with(u64::MAX)
    }

    /// With those of these features that are offered.
    fn started_with(features: u64) -> Self {
        let guest = Guest::new();
        guest.negotiate(features);
        guest.set_up_queues();
        guest.write(0x14, &[ACKNOWLEDGE_DRIVER | FEATURES_OK | DRIVER_OK]);
        assert_eq!(guest.status(), ACKNOWLEDGE_DRIVER | FEATURES_OK | DRIVER_OK);
        guest
    }

    fn write(&self, offset: u64, data: &[u8]) {
        self.bar.write(COMMON + offset, data);
    }

    fn read(&self, offset: u64, width: usize) -> u64 {
        read(&self.bar, offset, width)
    }

    fn status(&self) -> u8 {
        self.read(0x14, 1) as u8
    }

    fn negotiate(&self, mask: u64) {
        negotiate(&self.bar, mask);
    }

    fn set_up_queues(&self) {
        set_up_queues(&self.bar);
    }

    /// Writes descriptor `index`: address, length, flags, and the index after it, or 0 after the last, as
    /// the next.
    fn describe(&self, queue: u16, index: u16, address: u64, length: u32, flags: u16) {
        let mut bytes = address.to_le_bytes().to_vec();
        bytes.extend(length.to_le_bytes());
        bytes.extend(flags.to_le_bytes());
        bytes.extend(((index + 1) % QUEUE_SIZE).to_le_bytes());
        self.put(base(queue) + 16 * u64::from(index), &bytes);
    }

    /// Offers the chain at `head` and kicks.
    fn offer(&mut self, queue: u16, head: u16) {
        let count = &mut self.offered[usize::from(queue)];
        let ring = base(queue) + 0x1000;
        let entry = ring + 4 + u64::from(*count % QUEUE_SIZE) * 2;
        *count = count.wrapping_add(1);
        let count = *count;
        self.put(entry, &head.to_le_bytes());
        self.put(ring + 2, &count.to_le_bytes());
        self.bar.write(NOTIFY + u64::from(queue) * NOTIFY_STEP, &queue.to_le_bytes());
        self.net.ready(u32::from(queue));
    }

    fn used(&self, queue: u16) -> u16 {
        let mut index = [0; 2];
        self.memory.read_slice(&mut index, GuestAddress(base(queue) + 0x2002)).unwrap();
        u16::from_le_bytes(index)
    }

    fn put(&self, address: u64, bytes: &[u8]) {
        self.memory.write_slice(bytes, GuestAddress(address)).unwrap();
    }

    fn get(&self, address: u64, length: usize) -> Vec<u8> {
        let mut bytes = vec![0; length];
        self.memory.read_slice(&mut bytes, GuestAddress(address)).unwrap();
        bytes
    }

    /// Which vectors are pending: bit 0 for the configuration, then the queues.
    fn pending(&self) -> u8 {
        let mut data = [0];
        self.bar.read(MSIX_PENDING, &mut data);
        data[0]
    }
}

fn read(bar: &Structures, offset: u64, width: usize) -> u64 {
    let mut data = [0; 8];
    bar.read(COMMON + offset, &mut data[..width]);
    u64::from_le_bytes(data)
}

/// Accepts those features of `mask` that are offered.
fn negotiate(bar: &Structures, mask: u64) {
    bar.write(COMMON + 0x14, &[ACKNOWLEDGE_DRIVER]);
    for select in 0..2u32 {
        bar.write(COMMON, &select.to_le_bytes());
        bar.write(COMMON + 0x08, &select.to_le_bytes());
        let wanted = read(bar, 0x04, 4) as u32 & (mask >> (32 * select)) as u32;
        bar.write(COMMON + 0x0c, &wanted.to_le_bytes());
    }
    bar.write(COMMON + 0x14, &[ACKNOWLEDGE_DRIVER | FEATURES_OK]);
}

/// Both queues of a card.
fn set_up_queues(bar: &Structures) {
    set_up(bar, 2);
}

/// The first queues of a device, with the vectors after the configuration's.
fn set_up(bar: &Structures, queues: u16) {
    bar.write(COMMON + 0x10, &0u16.to_le_bytes());
    for queue in 0..queues {
        bar.write(COMMON + 0x16, &queue.to_le_bytes());
        bar.write(COMMON + 0x18, &QUEUE_SIZE.to_le_bytes());
        bar.write(COMMON + 0x1a, &(queue + 1).to_le_bytes());
        for (register, part) in [(0x20, 0), (0x28, 0x1000), (0x30, 0x2000)] {
            bar.write(COMMON + register, &(base(queue) + part).to_le_bytes());
        }
        bar.write(COMMON + 0x1c, &1u16.to_le_bytes());
    }
}

fn base(queue: u16) -> u64 {
    0x10_0000 + u64::from(queue) * 0x1_0000
}

const BUFFER: u64 = 0x20_0000;

/// Numbers without a pattern, the same each time (Marsaglia's xorshift).
struct Numbers(u64);

impl Numbers {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }
}
