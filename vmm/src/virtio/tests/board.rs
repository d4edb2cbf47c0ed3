//! The functions on their bus: BARs, notifications, the configuration window.

use std::sync::{Arc, Mutex};

use vmm_sys_util::eventfd::EventFd;

use super::{Nowhere, Numbers, card};
use crate::bus::Bus;
use crate::error::Result;
use crate::machine::interrupts::Delivery;
use crate::machine::layout::Layout;
use crate::machine::memory::allocate;
use crate::pci::bar::{Allocator, Windows};
use crate::pci::register;
use crate::pci::root::PciFunction;
use crate::spec::MIN_MEMORY;
use crate::spec::Memory;
use crate::virtio::structures::{NOTIFY, NOTIFY_STEP};
use crate::virtio::transport::{Doorbells, Surroundings, VirtioFunction};

/// Which addresses are connected.
#[derive(Default)]
struct Bells(Mutex<Vec<u64>>);

impl Doorbells for Bells {
    fn connect(&self, _: &EventFd, address: u64) -> Result<()> {
        crate::lock(&self.0).push(address);
        Ok(())
    }
    fn disconnect(&self, _: &EventFd, address: u64) -> Result<()> {
        let mut bells = crate::lock(&self.0);
        let at = bells.iter().position(|&one| one == address).expect("it was connected");
        bells.remove(at);
        Ok(())
    }
}

struct Board {
    functions: Vec<VirtioFunction>,
    bells: Arc<Bells>,
    bus: Arc<Bus>,
}

const HIGH: u64 = 1 << 36;

fn board(count: usize) -> Board {
    let (bells, bus) = (Arc::new(Bells::default()), Arc::new(Bus::default()));
    let doorbells: Arc<dyn Doorbells> = bells.clone();
    let interrupts: Arc<dyn Delivery> = Arc::new(Nowhere);
    let memory = allocate(&Layout::new(MIN_MEMORY, 40, &[]).unwrap(), &Memory::bytes(0)).unwrap();
    let windows = Windows { low: 0xc000_0000..0xe000_0000, high: HIGH..HIGH * 2, ports: 0..0 };
    let mut allocator = Allocator::new(windows);
    let functions = (0..count)
        .map(|_| {
            let surroundings = Surroundings {
                doorbells: &doorbells,
                bus: &bus,
                interrupts: &interrupts,
                allocator: &mut allocator,
                memory: &memory,
                packed_rings: false,
            };
            VirtioFunction::new(card().0, surroundings).unwrap()
        })
        .collect();
    Board { functions, bells, bus }
}

fn command(function: &VirtioFunction, value: u16) {
    function.write_config(register::COMMAND, &value.to_le_bytes());
}

fn identify(bus: &Bus, base: u64) -> u8 {
    let mut queues = [0];
    bus.read(base + 0x12, &mut queues);
    queues[0]
}

#[test]
fn notifications_follow_the_bar() {
    let Board { functions, bells, bus } = board(1);
    assert_eq!(identify(&bus, HIGH), 0xff);
    command(&functions[0], register::COMMAND_MEMORY);
    assert_eq!(identify(&bus, HIGH), 2);
    assert_eq!(*crate::lock(&bells.0), [HIGH + NOTIFY, HIGH + NOTIFY + NOTIFY_STEP]);
    functions[0].write_config(register::BARS, &0x10_0000u32.to_le_bytes());
    let moved = HIGH + 0x10_0000;
    assert_eq!((identify(&bus, HIGH), identify(&bus, moved)), (0xff, 2));
    assert_eq!(*crate::lock(&bells.0), [moved + NOTIFY, moved + NOTIFY + NOTIFY_STEP]);
    // Over the guest's RAM and the local APICs.
    functions[0].write_config(register::BARS + 4, &[0; 4]);
    functions[0].write_config(register::BARS, &0xfee0_0000u32.to_le_bytes());
    assert!(crate::lock(&bells.0).is_empty());
}

#[test]
fn two_bars_in_one_place_do_not_mix() {
    let Board { functions, bells, bus } = board(2);
    command(&functions[0], register::COMMAND_MEMORY);
    functions[1].write_config(register::BARS, &0u32.to_le_bytes());
    functions[1].write_config(register::BARS + 4, &16u32.to_le_bytes());
    command(&functions[1], register::COMMAND_MEMORY);
    assert_eq!(crate::lock(&bells.0).len(), 2, "the second is nowhere");
    command(&functions[0], 0);
    assert_eq!((identify(&bus, HIGH), crate::lock(&bells.0).len()), (0xff, 0));
    command(&functions[1], register::COMMAND_MEMORY);
    assert_eq!((identify(&bus, HIGH), crate::lock(&bells.0).len()), (2, 2), "it is tried again");
}

#[test]
fn configuration_accesses_without_sense_are_harmless() {
    let Board { functions, .. } = board(2);
    let mut numbers = Numbers(0x2545_f491_4f6c_dd1d);
    for _ in 0..200_000 {
        let function = &functions[numbers.next() as usize % 2];
        let width = 1 << (numbers.next() % 3);
        let limit = if numbers.next().is_multiple_of(8) { register::END } else { 0x100 };
        let offset = numbers.next() as usize % (limit - width + 1);
        let mut data = numbers.next().to_le_bytes();
        match numbers.next() % 3 {
            0 => function.read_config(offset, &mut data[..width]),
            1 => function.write_config(offset, &[0, 4, 0, 0][..width]),
            _ => function.write_config(offset, &data[..width]),
        }
    }
}

#[test]
fn the_window_reads_the_bar_without_memory_decoding() {
    let Board { functions, .. } = board(1);
    let read = |offset: usize, data: &mut [u8]| functions[0].read_config(offset, data);
    let mut at = [0];
    read(register::CAPABILITIES, &mut at);
    // The window is the vendor capability of type 5.
    let window = loop {
        let mut header = [0; 4];
        read(usize::from(at[0]), &mut header);
        if header[0] == 9 && header[3] == 5 {
            break usize::from(at[0]);
        }
        assert_ne!(header[1], 0, "there is a window");
        at = [header[1]];
    };
    let choose = |offset: u32, length: u32| {
        functions[0].write_config(window + 8, &offset.to_le_bytes());
        functions[0].write_config(window + 12, &length.to_le_bytes());
    };
    let data = || {
        let mut data = [0xee; 4];
        read(window + 16, &mut data);
        u32::from_le_bytes(data)
    };
    choose(0x12, 2);
    assert_eq!(data(), 2, "two queues");
    choose(0x16, 2);
    functions[0].write_config(window + 16, &[1, 0, 0, 0]);
    assert_eq!(data(), 1, "the queue selector");
    for (offset, length) in
        [(u32::MAX, 4), (0x7fff, 4), (0, 3), (0, u32::MAX), (u32::MAX, u32::MAX)]
    {
        choose(offset, length);
        data();
        functions[0].write_config(window + 16, &[0xff; 4]);
    }
}
