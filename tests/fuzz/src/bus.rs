//! A hostile guest and a bus that is full of emulated cards: it moves their BARs over each other and out of
//! their window, and uses what is there. The fuzzer calls this, and so does a test of the crate `assign-vmm`
//! with all seeds and the corpus, which is why this file is part of both.
//!
//! The bytes are, zero where they end:
//! ```text
//! cards         how many (bits 0 to 2), and how the kinds go on from the first (bits 3 to 5)
//! actions       until the end, each: what (bits 0 to 3) and whose (bits 4 to 7, see `act`), then its
//!               operands
//! ```
//! Whatever the guest does: where a BAR decodes its own card answers, and elsewhere nothing does; each queue
//! has a bell where its card is; and nothing is left when all are gone.

use std::ops::Range;

use vmm::machine::layout::{ECAM_BASE, ECAM_SIZE};
use vmm::pci::{capability, register};
use vmm::vfio::simulated::WINDOWS;
use vmm::virtio::simulated::{Crowd, Kind};
use vmm::virtio::structures::{BAR_SIZE, COMMON, MSIX_TABLE, NOTIFY, NOTIFY_STEP};

use crate::input::Input;

/// Actions beyond these tell nothing new, and take time.
const MOST_ACTIONS: usize = 128;
const KINDS: [Kind; 6] = [
    Kind::Random,
    Kind::Network { pairs: 1 },
    Kind::Disk { read_only: false, queues: 1 },
    Kind::Sockets,
    Kind::Balloon,
    Kind::KernelNetwork,
];
/// How many queues a card has (virtio 1.3, 4.1.4.3).
const NUM_QUEUES: u64 = 0x12;

/// What came of it.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Outcome {
    /// Where each card's BAR decodes in the end.
    pub decodes: Vec<Option<u64>>,
    /// Interrupts that KVM knows of.
    pub interrupts: usize,
}

struct Machine {
    crowd: Crowd,
    /// Queues of each card.
    queues: Vec<usize>,
    /// Where its BAR decodes.
    decodes: Vec<Option<u64>>,
    /// Where all cards have their capability for MSI-X.
    msix: usize,
}

/// Any bytes.
pub fn bus(bytes: &[u8]) {
    run(bytes);
}

/// The same, and what came of it.
pub fn run(bytes: &[u8]) -> Outcome {
    let mut input = Input(bytes);
    let cards = usize::from(input.byte());
    let kinds = KINDS.iter().cycle().skip(cards >> 3 & 7).take((cards & 7).max(1));
    let mut machine = Machine::new(&kinds.copied().collect::<Vec<_>>());
    for _ in 0..MOST_ACTIONS {
        if input.0.is_empty() {
            break;
        }
        machine.act(&mut input);
    }
    machine.end()
}

fn ecam(slot: usize, offset: usize) -> u64 {
    ECAM_BASE + ((slot as u64) << 15) + offset as u64
}

impl Machine {
    fn new(kinds: &[Kind]) -> Machine {
        let crowd = Crowd::new(kinds).expect("a machine");
        let queues = crowd.queues();
        let byte = |offset: usize| {
            let mut byte = [0];
            crowd.bus.read(ecam(1, offset), &mut byte);
            byte[0]
        };
        let mut msix = byte(register::CAPABILITIES).into();
        while byte(msix) != capability::MSIX {
            msix = byte(msix + 1).into();
            assert_ne!(msix, 0, "there is MSI-X");
        }
        Machine { decodes: vec![None; queues.len()], queues, crowd, msix }
    }

    /// One action: of a card, or of any address.
    fn act(&mut self, input: &mut Input<'_>) {
        let action = input.byte();
        let whose = usize::from(action >> 4);
        let card = whose % self.queues.len();
        match action & 15 {
            0 => {
                let (offset, data) = (input.short(), input.bytes::<4>());
                let width = 1 << (offset >> 12 & 3).min(2);
                self.write_config(card, usize::from(offset) & 0xfff, &data[..width]);
            }
            1 => {
                let (offset, width) = (usize::from(input.short() & 0xfff), 1 << (whose & 3));
                let mut data = [0; 8];
                self.crowd.bus.read(ecam(card + 1, offset), &mut data[..width]);
                let is_whole = width <= 4 && offset + width <= register::END;
                assert!(is_whole || data[..width].iter().all(|byte| *byte == 0xff));
            }
            2 => self.write_config(card, register::COMMAND, &[input.byte(), input.byte()]),
            kind @ 3..=5 => {
                let place = input.short();
                let address = match kind {
                    3 => WINDOWS.high.start + u64::from(place) * BAR_SIZE / 8,
                    4 => WINDOWS.low.end - u64::from(place) * BAR_SIZE / 8,
                    // Over another card, or beside it.
                    _ => {
                        let other = usize::from(place) % self.queues.len();
                        let beside = u64::from(place >> 8 & 3) * BAR_SIZE;
                        self.address(other).wrapping_add(beside)
                    }
                };
                self.place(card, address);
            }
            6 => self.place(card, input.long()),
            7 => self.write_config(card, self.msix + 2, &[0, input.byte()]),
            8 => {
                let (vector, at) = (u64::from(input.byte() & 15), u64::from(input.byte()) & 15);
                let data = input.bytes::<8>();
                let width = if whose & 1 == 0 { 4 } else { 8 };
                let at = MSIX_TABLE + vector * 16 + at;
                self.write(self.address(card).wrapping_add(at), &data[..width]);
            }
            kind @ 9..=10 => {
                let offset = u64::from(input.short()) % (BAR_SIZE + 8);
                let (address, width) = (self.address(card).wrapping_add(offset), whose % 8 + 1);
                match kind {
                    9 => self.read(address, width),
                    _ => self.write(address, &input.bytes::<8>()[..width]),
                }
            }
            kind @ 11..=12 => {
                let (address, width) = (input.long(), whose % 8 + 1);
                match kind {
                    11 => self.read(address, width),
                    _ => self.write(address, &input.bytes::<8>()[..width]),
                }
            }
            13 => {
                let queue = u64::from(input.byte() & 7);
                let bell = NOTIFY + queue * NOTIFY_STEP;
                self.write(self.address(card).wrapping_add(bell), &[0, 0]);
                self.crowd.turn();
            }
            14 => self.set_up(card, input.byte()),
            _ => {
                // A slot that has no card, or no function of one.
                let (slot, offset) = (usize::from(input.byte()), usize::from(input.short()));
                let mut data = [0; 4];
                self.crowd.bus.read(ecam(slot & 31, offset & 0x7ffc), &mut data);
                let has = slot & 31 <= self.queues.len() && offset & 0x7ffc < register::END;
                assert!(has || data == [0xff; 4], "slot {slot} answers {data:x?}");
            }
        }
        self.check();
    }

    /// As a driver begins, with queues in RAM.
    fn set_up(&self, card: usize, until: u8) {
        let bar = self.address(card);
        let write = |at: u64, data: &[u8]| self.write(bar.wrapping_add(COMMON + at), data);
        write(0x14, &[0]);
        write(0x14, &[3]);
        for select in 0..2u32 {
            write(0x08, &select.to_le_bytes());
            write(0x0c, &[if select == 0 { 0 } else { 1 }, 0, 0, 0]);
        }
        write(0x14, &[11]);
        for queue in 0..self.queues[card] as u16 {
            write(0x16, &queue.to_le_bytes());
            write(0x18, &[8, 0]);
            write(0x1a, &(queue + 1).to_le_bytes());
            for (at, address) in [0x20, 0x28, 0x30].into_iter().zip([0u64, 0x400, 0x800]) {
                write(at, &(u64::from(queue) * 0x1000 + address).to_le_bytes());
            }
            write(0x1c, &[1, 0]);
        }
        write(0x14, &[until | 11]);
    }

    /// Where its registers say that a card's BAR is.
    fn address(&self, card: usize) -> u64 {
        let mut bytes = [0; 8];
        let (low, high) = bytes.split_at_mut(4);
        self.crowd.bus.read(ecam(card + 1, register::BARS), low);
        self.crowd.bus.read(ecam(card + 1, register::BARS + 4), high);
        u64::from_le_bytes(bytes) & !0xf
    }

    fn place(&mut self, card: usize, address: u64) {
        let bytes = address.to_le_bytes();
        self.write_config(card, register::BARS, &bytes[..4]);
        self.write_config(card, register::BARS + 4, &bytes[4..]);
    }

    /// A write to configuration space, after which it may be decided anew where its BAR decodes.
    fn write_config(&mut self, card: usize, offset: usize, data: &[u8]) {
        self.crowd.bus.write(ecam(card + 1, offset), data);
        let touches = |range: Range<usize>| offset < range.end && range.start < offset + data.len();
        let decides = touches(register::COMMAND..register::COMMAND + 2)
            || touches(register::BARS..register::BARS_END);
        if !decides || offset + data.len() > register::END {
            return;
        }
        let mut command = [0; 2];
        self.crowd.bus.read(ecam(card + 1, register::COMMAND), &mut command);
        let address = self.address(card);
        let within = |window: &Range<u64>| {
            let end = address.checked_add(BAR_SIZE);
            end.is_some_and(|end| address >= window.start && end <= window.end)
        };
        let is_on = u16::from_le_bytes(command) & register::COMMAND_MEMORY != 0;
        let decodes = is_on && (within(&WINDOWS.low) || within(&WINDOWS.high));
        // Where there is another one, it has to wait until it is moved or turned on again.
        let others = self.decodes.iter().enumerate().filter(|(other, _)| *other != card);
        let taken = others.filter_map(|(_, at)| *at).any(|at| at.abs_diff(address) < BAR_SIZE);
        self.decodes[card] = (decodes && !taken).then_some(address);
    }

    /// A write to what is no configuration space: a register of a BAR may say that it is there, too.
    fn write(&self, address: u64, data: &[u8]) {
        if address.wrapping_sub(ECAM_BASE) >= ECAM_SIZE {
            self.crowd.bus.write(address, data);
        }
    }

    fn read(&self, address: u64, width: usize) {
        let mut data = [0; 8];
        self.crowd.bus.read(address, &mut data[..width]);
        let within = |start: u64, length: u64| {
            address.checked_sub(start).is_some_and(|at| at + width as u64 <= length)
        };
        let answers = within(ECAM_BASE, ECAM_SIZE)
            || self.decodes.iter().flatten().any(|start| within(*start, BAR_SIZE));
        let data = &data[..width];
        assert!(answers || data.iter().all(|byte| *byte == 0xff), "{address:#x}: {data:x?}");
    }

    /// See the top of this file.
    fn check(&self) {
        let bus = &self.crowd.bus;
        let mut taken: Vec<_> =
            self.decodes.iter().flatten().map(|at| *at..*at + BAR_SIZE).collect();
        taken.push(ECAM_BASE..ECAM_BASE + ECAM_SIZE);
        taken.push(u64::MAX..u64::MAX);
        taken.sort_by_key(|range| range.start);
        let mut from = 0;
        for range in taken {
            if range.start > from {
                let gap = from..range.start;
                assert!(bus.is_free(&gap), "something is left within {gap:x?}");
            }
            from = from.max(range.end);
        }
        let mut bells = 0;
        for (queues, at) in self.queues.iter().zip(&self.decodes) {
            let Some(at) = at else { continue };
            let mut count = [0; 2];
            bus.read(at + COMMON + NUM_QUEUES, &mut count);
            assert_eq!(
                usize::from(u16::from_le_bytes(count)),
                *queues,
                "another card is at {at:#x}"
            );
            bells += queues;
        }
        // Sockets have no bell for events, which the device sends.
        assert!(self.crowd.bells() <= bells, "a bell is left");
    }

    /// Turns all of it off.
    fn end(mut self) -> Outcome {
        let (decodes, interrupts) = (self.decodes.clone(), self.crowd.host.connected());
        for card in 0..self.queues.len() {
            self.write_config(card, register::COMMAND, &[0, 0]);
        }
        self.check();
        assert!(self.crowd.bus.is_free(&(0..ECAM_BASE)), "a card answers still");
        self.crowd.end();
        Outcome { decodes, interrupts }
    }
}
