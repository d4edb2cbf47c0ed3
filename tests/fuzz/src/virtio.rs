//! A hostile driver and a virtio device. The fuzzer calls this, and so does a test of the crate
//! `assign-vmm` with all seeds and the corpus, which is why this file is part of both.
//!
//! The bytes are, zero where they end:
//! ```text
//! device        0 a network card · 6 one with two pairs of queues · 1 a disk · 2 a disk of two queues that is read-only
//!               3 a source of random numbers · 4 sockets between guest and host (vhost)
//!               5 a balloon · 7 a console of two ports (of bits 0 to 2); with bit 3, the good driver that
//!               comes in the end has packed rings; with bit 4, a card of one pair is one whose queues are
//!               the kernel's (vhost)
//! actions       until the end, each: what (bits 0 to 3) and how (bits 4 to 7, see `act`), then its
//!               operands
//! ```
//! Whatever the driver does: nothing panics, nothing outside of RAM is reached, and after a reset a
//! good driver is served.

use std::cell::OnceCell;

use vmm::pci::{capability, register};
use vmm::virtio::simulated::{CID, Kind, MAC, Machine, SECTORS};
use vmm::virtio::structures::{COMMON, DEVICE, MSIX_TABLE, NOTIFY, NOTIFY_STEP};

use crate::input::Input;

/// Actions and turns of the device beyond these tell nothing new, and take time.
const MOST_ACTIONS: usize = 96;
const MOST_TURNS: usize = 24;

/// Registers of the common configuration, and bits of the status (virtio 1.3, 4.1.4.3 and 2.1).
const DEVICE_FEATURES: u64 = 0x04;
const DRIVER_SELECT: u64 = 0x08;
const DRIVER_FEATURES: u64 = 0x0c;
const STATUS: u64 = 0x14;
const QUEUE_SELECT: u64 = 0x16;
const QUEUE_SIZE: u64 = 0x18;
const QUEUE_VECTOR: u64 = 0x1a;
const QUEUE_ENABLE: u64 = 0x1c;
const QUEUE_ADDRESSES: [u64; 3] = [0x20, 0x28, 0x30];
const FOUND: u8 = 1 | 2;
const DRIVER_OK: u8 = 4;
const FEATURES_OK: u8 = 8;
const NEEDS_RESET: u8 = 64;

const NEXT: u16 = 1;
const WRITE: u16 = 2;
const AVAILABLE: u16 = 1 << 7;
const USED: u16 = 1 << 15;
const MSIX_ON: u16 = 0x8000;
const RING_PACKED: u64 = 1 << 34;

/// Where a good driver has its queues: a console has six, a card with two pairs five, a balloon four, sockets have
/// three, and other devices two.
const BASES: [u64; 6] = [0, 0x4000, 0xc000, 0x2_0000, 0x2_2000, 0x2000];
const QUEUES: usize = 2;
const QUEUES_OF_SOCKETS: usize = 3;
const QUEUES_OF_BALLOON: usize = 4;
const QUEUES_OF_PAIRS: usize = 5;
const QUEUES_OF_PORTS: usize = 6;
/// Where a good driver has its buffers.
const BUFFER: u64 = 0x8000;
/// The header before each frame.
const HEADER: usize = 12;
const RECEIVE: usize = 0;
const TRANSMIT: usize = 1;
/// Of a balloon.
const INFLATE: usize = 0;
const STATISTICS: usize = 2;
const REPORT: usize = 3;
/// Of a console: messages about its ports, and the second one, which is a stream and no terminal.
const TOLD: usize = 2;
const TELLING: usize = 3;
const HEARD: usize = 4;
const SAID: usize = 5;
const STREAM: u8 = 1;
/// Requests to a disk: read, write, flush, identify, discard, write zeroes, and one that there is not.
const REQUESTS: [u32; 7] = [0, 1, 4, 8, 11, 13, 99];

/// What came of it.
#[derive(Debug, Default)]
pub struct Outcome {
    /// Buffers that the device gave back to the hostile driver.
    pub used: usize,
}

/// Where a queue is in RAM, and what the driver has put there.
#[derive(Debug, Clone, Copy)]
struct Queue {
    size: u16,
    /// Descriptors, available ring, used ring; of a packed ring, the ring and what each side wants to be told.
    at: [u64; 3],
    offered: u16,
    used: u16,
    packed: Packed,
}

/// Descriptors that packed rings are filled from.
const PLACES: usize = 8;

/// The driver's side of a packed ring, counted in descriptors since its start.
#[derive(Debug, Clone, Copy, Default)]
struct Packed {
    /// Address and length, flags, and which one is next.
    places: [((u64, u32), u16, u16); PLACES],
    offered: u32,
    used: u32,
    /// Descriptors of the buffers with the IDs 0 to 7.
    lists: [u16; PLACES],
    /// Of the buffer that was used last.
    written: u32,
}

impl Queue {
    fn new(size: u16, at: [u64; 3]) -> Queue {
        Queue { size, at, offered: 0, used: 0, packed: Packed::default() }
    }

    /// The place of a descriptor in a packed ring, and whether its end was passed an even number of times.
    fn turn(&self, count: u32) -> (u64, bool) {
        let size = u32::from(self.size.max(1));
        let place = self.at[0].wrapping_add(u64::from(count % size) * 16);
        (place, (count / size).is_multiple_of(2))
    }

    /// Where a good driver has queue `index`.
    fn good(index: usize, size: u16) -> Queue {
        let base = BASES[index];
        Queue::new(size, [base, base + 0x1000, base + 0x1400])
    }
}

thread_local! {
    /// Where all devices have their capability for MSI-X.
    static MSIX: OnceCell<u64> = const { OnceCell::new() };
}

struct Driver {
    kind: Kind,
    machine: Machine,
    queues: Vec<Queue>,
    /// Whether the driver has chosen packed rings.
    packed: bool,
    turns: usize,
    outcome: Outcome,
    /// Of the capabilities for MSI-X.
    msix: u64,
}

/// Any bytes.
pub fn virtio(bytes: &[u8]) {
    run(bytes);
}

/// The same, and what came of it.
pub fn run(bytes: &[u8]) -> Outcome {
    let mut input = Input(bytes);
    let device = input.byte();
    let kind = match device & 7 {
        0 if device & 16 != 0 => Kind::KernelNetwork,
        0 => Kind::Network { pairs: 1 },
        6 => Kind::Network { pairs: 2 },
        1 => Kind::Disk { read_only: false, queues: 1 },
        2 => Kind::Disk { read_only: true, queues: 2 },
        3 => Kind::Random,
        4 => Kind::Sockets,
        5 => Kind::Balloon,
        _ => Kind::Ports,
    };
    let good = if device & 8 != 0 { 0 } else { RING_PACKED };
    let mut driver = Driver::new(kind);
    for _ in 0..MOST_ACTIONS {
        if input.0.is_empty() {
            break;
        }
        driver.act(&mut input);
    }
    let outcome = std::mem::take(&mut driver.outcome);
    driver.machine.check();
    driver.be_good(!good);
    driver.machine.check();
    driver.machine.end();
    outcome
}

impl Driver {
    fn new(kind: Kind) -> Driver {
        let machine = Machine::new(kind).expect("a machine");
        let count = match kind {
            Kind::Network { pairs: 2 } => QUEUES_OF_PAIRS,
            Kind::Balloon => QUEUES_OF_BALLOON,
            Kind::Ports => QUEUES_OF_PORTS,
            Kind::Sockets => QUEUES_OF_SOCKETS,
            _ => QUEUES,
        };
        let queues = (0..count).map(|index| Queue::good(index, 8)).collect();
        let (packed, outcome) = (false, Outcome::default());
        let mut driver = Driver { kind, machine, queues, packed, turns: 0, outcome, msix: 0 };
        driver.msix = MSIX.with(|at| *at.get_or_init(|| driver.find_msix()));
        driver.decode();
        driver
    }

    fn find_msix(&self) -> u64 {
        let byte = |offset: u64| {
            let mut byte = [0];
            self.machine.read_config(offset, &mut byte);
            byte[0]
        };
        let mut at = u64::from(byte(register::CAPABILITIES as u64));
        while byte(at) != capability::MSIX {
            at = u64::from(byte(at + 1));
            assert_ne!(at, 0, "there is MSI-X");
        }
        at
    }

    /// Has the BAR answer, where it is at the start.
    fn decode(&self) {
        let command = register::COMMAND_MEMORY | register::COMMAND_MASTER;
        let start = vmm::vfio::simulated::WINDOWS.high.start.to_le_bytes();
        self.machine.write_config(register::COMMAND as u64, &[0, 0]);
        self.machine.write_config(register::BARS as u64, &start[..4]);
        self.machine.write_config(register::BARS as u64 + 4, &start[4..]);
        self.machine.write_config(register::COMMAND as u64, &command.to_le_bytes());
    }

    fn write(&self, offset: u64, data: &[u8]) {
        self.machine.bus.write(self.machine.bar().wrapping_add(offset), data);
    }

    fn read(&self, offset: u64, data: &mut [u8]) {
        self.machine.bus.read(self.machine.bar().wrapping_add(offset), data);
    }

    fn status(&self) -> u8 {
        let mut status = [0];
        self.read(COMMON + STATUS, &mut status);
        status[0]
    }

    /// Agrees on those of `features` that are there; the status is left for later.
    fn negotiate(&mut self, features: u64) {
        self.write(COMMON + STATUS, &[0]);
        self.write(COMMON + STATUS, &[FOUND]);
        for select in 0..2u32 {
            self.write(COMMON, &select.to_le_bytes());
            let mut offered = [0; 4];
            self.read(COMMON + DEVICE_FEATURES, &mut offered);
            let wanted = (features >> (32 * select)) as u32 & u32::from_le_bytes(offered);
            self.write(COMMON + DRIVER_SELECT, &select.to_le_bytes());
            self.write(COMMON + DRIVER_FEATURES, &wanted.to_le_bytes());
            self.packed = select == 1 && u64::from(wanted) << 32 & RING_PACKED != 0;
        }
        self.write(COMMON + STATUS, &[FOUND | FEATURES_OK]);
    }

    /// Tells the device of queue `index`.
    fn lay(&mut self, index: usize, queue: Queue) {
        self.queues[index] = queue;
        self.write(COMMON + QUEUE_SELECT, &(index as u16).to_le_bytes());
        self.write(COMMON + QUEUE_SIZE, &queue.size.to_le_bytes());
        self.write(COMMON + QUEUE_VECTOR, &(index as u16 + 1).to_le_bytes());
        for (offset, address) in QUEUE_ADDRESSES.into_iter().zip(queue.at) {
            self.write(COMMON + offset, &address.to_le_bytes());
        }
        self.write(COMMON + QUEUE_ENABLE, &1u16.to_le_bytes());
    }

    /// Resets the device and has it begin with good queues of `size`.
    fn begin(&mut self, features: u64, size: u16) {
        self.negotiate(features);
        for index in 0..self.queues.len() {
            let queue = Queue::good(index, size);
            self.machine.put(queue.at[0], &[0; 0x2000]);
            self.lay(index, queue);
        }
        self.write(COMMON + STATUS, &[FOUND | FEATURES_OK | DRIVER_OK]);
    }

    /// What is written by [`Driver::offer`] into a packed ring, or at once where rings are split.
    fn describe(&mut self, queue: usize, index: u16, piece: (u64, u32), flags: u16, next: u16) {
        if self.packed {
            let places = &mut self.queues[queue].packed.places;
            places[usize::from(index) % PLACES] = (piece, flags, next);
            return;
        }
        self.put_descriptor(queue, index, piece, flags, next);
    }

    /// Writes descriptor `index`, of which the last two fields are others in a packed ring.
    fn put_descriptor(&self, queue: usize, index: u16, piece: (u64, u32), third: u16, last: u16) {
        let mut bytes = piece.0.to_le_bytes().to_vec();
        bytes.extend(piece.1.to_le_bytes());
        bytes.extend(third.to_le_bytes());
        bytes.extend(last.to_le_bytes());
        self.machine.put(self.queues[queue].at[0] + u64::from(index) * 16, &bytes);
    }

    /// The list that begins in this place, up to as many as there are: the first one is available last.
    fn offer_packed(&mut self, index: usize, head: u16) {
        let mut queue = self.queues[index];
        let (mut at, mut list) = (usize::from(head) % PLACES, Vec::new());
        for _ in 0..PLACES {
            let (piece, flags, next) = queue.packed.places[at];
            list.push((piece, flags));
            if flags & NEXT == 0 {
                break;
            }
            at = usize::from(next) % PLACES;
        }
        let id = queue.offered % PLACES as u16;
        for (count, ((address, length), flags)) in list.iter().enumerate().rev() {
            let (place, wrap) = queue.turn(queue.packed.offered.wrapping_add(count as u32));
            let flags = flags | if wrap { AVAILABLE } else { USED };
            let mut bytes = address.to_le_bytes().to_vec();
            bytes.extend(length.to_le_bytes());
            bytes.extend(id.to_le_bytes());
            bytes.extend(flags.to_le_bytes());
            self.machine.put(place, &bytes);
        }
        queue.packed.offered = queue.packed.offered.wrapping_add(list.len() as u32);
        queue.packed.lists[usize::from(id)] = list.len() as u16;
        queue.offered = queue.offered.wrapping_add(1);
        self.queues[index] = queue;
    }

    fn offer(&mut self, queue: usize, head: u16) {
        if self.packed {
            return self.offer_packed(queue, head);
        }
        let Queue { size, at, offered, .. } = self.queues[queue];
        let entry = at[1] + 4 + u64::from(offered % size) * 2;
        self.queues[queue].offered = offered.wrapping_add(1);
        self.machine.put(entry, &head.to_le_bytes());
        self.machine.put(at[1] + 2, &offered.wrapping_add(1).to_le_bytes());
    }

    fn kick(&self, queue: usize) {
        self.write(NOTIFY + queue as u64 * NOTIFY_STEP, &[0, 0]);
    }

    /// Lets the device work, and counts what came back.
    fn turn(&mut self) {
        self.machine.turn();
        self.machine.sent();
        for queue in &mut self.queues {
            if self.packed {
                self.outcome.used += collect(queue, &self.machine);
                continue;
            }
            let index = self.machine.get(queue.at[2] + 2, 2);
            let index = index.map_or(0, |bytes| u16::from_le_bytes([bytes[0], bytes[1]]));
            self.outcome.used += usize::from(index.wrapping_sub(queue.used).min(queue.size));
            queue.used = index;
        }
    }

    /// A disk's request in three descriptors, from the first one on.
    fn request(&mut self, queue: usize, kind: u32, sector: u64, length: u32) {
        let mut header = kind.to_le_bytes().to_vec();
        header.extend([0; 4]);
        header.extend(sector.to_le_bytes());
        self.machine.put(BUFFER, &header);
        self.machine.put(BUFFER + 16, &[0xee]);
        let way = if matches!(kind, 0 | 8) { WRITE } else { 0 };
        self.describe(queue, 0, (BUFFER, 16), NEXT, 1);
        self.describe(queue, 1, (BUFFER + 0x100, length), NEXT | way, 2);
        self.describe(queue, 2, (BUFFER + 16, 1), WRITE, 0);
    }

    /// Turns MSI-X on or off, with vectors that are masked or not.
    fn set_vectors(&self, control: u16, mask: u8) {
        self.machine.write_config(self.msix + 2, &control.to_le_bytes());
        for vector in 0..=self.queues.len() as u64 {
            let mut entry = 0xfee0_0000u64.to_le_bytes().to_vec();
            entry.extend([0x40 + vector as u8, 0, 0, 0, mask, 0, 0, 0]);
            self.write(MSIX_TABLE + vector * 16, &entry[..8]);
            self.write(MSIX_TABLE + vector * 16 + 8, &entry[8..]);
        }
    }

    /// One action of the hostile driver.
    fn act(&mut self, input: &mut Input<'_>) {
        let action = input.byte();
        let how = usize::from(action >> 4);
        let (queue, width) = (how % self.queues.len(), how % 8 + 1);
        match action & 15 {
            0 => {
                let offset = input.short().into();
                self.write(offset, &input.few(width));
            }
            1 => {
                let offset = input.short().into();
                self.read(offset, &mut [0; 8][..width]);
            }
            2 => {
                let (offset, width) = (input.short(), 1 << (how % 3));
                self.machine.write_config(u64::from(offset & 0xfff), &input.bytes::<4>()[..width]);
            }
            3 => {
                let offset = u64::from(input.short() & 0xfff);
                self.machine.read_config(offset, &mut [0; 4][..1 << (how % 3)]);
            }
            4 => {
                let address = input.word().into();
                self.machine.put(address, &input.few(how + 1));
            }
            5 => {
                // What it does without: indirect descriptors, event indexes, flushes, frames in several
                // buffers; and what it does only where it says so: packed rings, which can have a size that
                // is no power of two.
                let without = u64::from(input.byte());
                let bit = |at: u32, feature: u32| (without >> at & 1) << feature;
                let without_it = bit(0, 28) | bit(1, 29) | bit(2, 9) | bit(4, 15);
                let features = !(without_it | bit(3, 34) ^ RING_PACKED);
                let less = u16::from(features & RING_PACKED != 0 && how > 1);
                self.begin(features, (1 << how.min(9)) - less);
            }
            6 => {
                let size = 1 << (input.byte() & 15);
                let at = [(); 3].map(|()| u64::from(input.short()) << 2);
                self.lay(queue, Queue::new(size, at));
            }
            7 => self.write(COMMON + STATUS, &[input.byte()]),
            8 => {
                let (index, address) = (input.byte(), input.word());
                let (length, flags, next) = (input.short(), input.byte(), input.byte());
                let piece = (address.into(), length.into());
                let (index, flags, next) = (index.into(), u16::from(flags), next.into());
                if self.packed && flags & 32 != 0 {
                    // In the ring itself, whoever's turn it is.
                    let flags = flags & 31 | (flags & 8) << 4 | (flags & 16) << 11;
                    self.put_descriptor(queue, index, piece, next, flags);
                } else {
                    self.describe(queue, index, piece, flags, next);
                }
            }
            9 => {
                let head = input.byte();
                self.offer(queue, head.into());
            }
            10 => self.kick(queue),
            11 if self.turns < MOST_TURNS => {
                self.turns += 1;
                self.turn();
            }
            11 => {}
            12 => {
                let (length, fill) = (input.short(), input.byte());
                self.machine.ask_for(length);
                self.machine.set_link(fill & 2 != 0);
                if fill & 1 != 0 {
                    self.machine.ask_for_statistics();
                }
                self.machine.happen(fill, length);
                let mut frame = vec![fill; length.into()];
                // What a TAP hands out has a header of some sense.
                if fill & 8 == 0 {
                    frame.iter_mut().take(HEADER).for_each(|byte| *byte = 0);
                }
                self.machine.arrive(&frame);
            }
            13 => {
                let (kind, sector, length) = (input.byte(), input.short(), input.short());
                let kind = REQUESTS[usize::from(kind) % REQUESTS.len()];
                if matches!(self.kind, Kind::Disk { .. }) {
                    self.request(queue, kind, sector.into(), length.into());
                } else {
                    let (way, at) = (WRITE * u16::from(kind == 0), BUFFER + u64::from(sector));
                    self.describe(queue, 0, (at, length.into()), way, 0);
                }
                self.offer(queue, 0);
                self.kick(queue);
            }
            14 => self.set_vectors((how as u16) << 12, input.byte()),
            // Without packed rings where all bits are set.
            _ => self.negotiate(input.long() ^ RING_PACKED),
        }
    }

    /// What a good driver asks for after a reset is done.
    fn be_good(&mut self, features: u64) {
        self.decode();
        self.set_vectors(MSIX_ON, 0);
        self.begin(features, 8);
        assert_eq!(self.status(), FOUND | FEATURES_OK | DRIVER_OK, "the device is reset");
        self.machine.clear_wire();
        let before = self.machine.interrupts();
        let queue = match self.kind {
            Kind::Network { pairs } => {
                if pairs > 1 {
                    self.use_pairs(pairs);
                }
                self.send_and_receive()
            }
            Kind::Disk { queues, .. } => {
                let queue = usize::from(queues) - 1;
                self.read_sector(queue);
                queue
            }
            Kind::Random => {
                self.describe(0, 0, (BUFFER, 64), WRITE, 0);
                assert_eq!(self.serve(0), 64);
                let numbers = self.machine.get(BUFFER, 64).expect("RAM");
                assert_ne!(numbers, [0; 64], "they are random");
                0
            }
            Kind::Sockets => {
                let mut cid = [0xff; 9];
                self.read(DEVICE, &mut cid[..8]);
                self.read(DEVICE + 8, &mut cid[8..]);
                assert_eq!(cid, [CID as u8, 0, 0, 0, 0, 0, 0, 0, 0], "it is the guest's");
                self.hand_to_kernel()
            }
            Kind::KernelNetwork => {
                let mut mac = [0xff; 7];
                self.read(DEVICE, &mut mac);
                assert_eq!(mac[..6], MAC, "it has its address");
                self.hand_to_kernel()
            }
            Kind::Balloon => self.give_pages(),
            Kind::Ports => self.speak(),
        };
        assert_eq!(self.queues[queue].used, 1, "it is used");
        assert!(self.machine.interrupts() > before, "its driver is told");
        assert_eq!(self.status() & NEEDS_RESET, 0);
    }

    /// Offers what begins with the first descriptor, and says how many bytes the device wrote.
    fn serve(&mut self, queue: usize) -> u32 {
        self.offer(queue, 0);
        self.kick(queue);
        self.turn();
        if self.packed {
            return self.queues[queue].packed.written;
        }
        let Queue { size, at, used, .. } = self.queues[queue];
        let entry = at[2] + 4 + u64::from(used.wrapping_sub(1) % size) * 8;
        let written = self.machine.get(entry + 4, 4).expect("RAM");
        u32::from_le_bytes([written[0], written[1], written[2], written[3]])
    }

    /// Asks a card for so many pairs of queues, and for one more.
    fn use_pairs(&mut self, pairs: u16) {
        let queue = usize::from(pairs) * 2;
        for (count, answer) in [(pairs, 0), (pairs + 1, 1)] {
            self.machine.put(BUFFER, &[4, 0, count as u8, 0, 0xee]);
            self.describe(queue, 0, (BUFFER, 4), NEXT, 1);
            self.describe(queue, 1, (BUFFER + 4, 1), WRITE, 0);
            self.offer(queue, 0);
            self.kick(queue);
            self.turn();
            assert_eq!(self.machine.get(BUFFER + 4, 1), Some(vec![answer]), "{count} pairs");
        }
    }

    /// The kernel takes what is sent.
    fn hand_to_kernel(&mut self) -> usize {
        self.describe(TRANSMIT, 0, (BUFFER, 44), 0, 0);
        self.serve(TRANSMIT);
        TRANSMIT
    }

    /// Pages of a balloon, and others that are free: these are empty then, and no others.
    fn give_pages(&mut self) -> usize {
        let (given, kept, free) = (0xb000, 0xa000, 0x2_3000);
        for page in [given, kept, free] {
            self.machine.put(page, &[0xee; 4096]);
        }
        // There is one of these, and the last one there can be; then the first one behind RAM.
        let pages = [(given >> 12) as u32, u32::MAX, 0x10];
        self.machine.put(BUFFER, pages.map(u32::to_le_bytes).as_flattened());
        self.describe(INFLATE, 0, (BUFFER, 12), 0, 0);
        assert_eq!(self.serve(INFLATE), 0);
        self.describe(REPORT, 0, (free, 4096), WRITE, 0);
        assert_eq!(self.serve(REPORT), 0);
        let holds = [given, kept, free].map(|page| self.machine.get(page, 4096));
        assert_eq!(holds, [0, 0xee, 0].map(|byte| Some(vec![byte; 4096])));

        self.machine.put(BUFFER, &[4, 0, 9, 0, 0, 0, 0, 0, 0, 0]);
        self.describe(STATISTICS, 0, (BUFFER, 10), 0, 0);
        self.serve(STATISTICS);
        let said = self.machine.balloon().and_then(|balloon| balloon.said);
        assert_eq!(said.and_then(|said| said.free), Some(9));
        assert!(self.machine.ask_for_statistics());
        self.machine.ask_for(7);
        let mut wanted = [0; 4];
        self.read(DEVICE, &mut wanted);
        assert_eq!(wanted, [7, 0, 0, 0]);
        INFLATE
    }

    /// Says something about a port.
    fn tell(&mut self, port: u8, event: u8) {
        self.machine.put(BUFFER, &[port, 0, 0, 0, event, 0, 1, 0]);
        self.describe(TELLING, 0, (BUFFER, 8), 0, 0);
        self.serve(TELLING);
    }

    /// What is said next about a port: its number, about what, whether it is so, and what follows.
    fn told(&mut self) -> (u8, u8, u8, Vec<u8>) {
        self.describe(TOLD, 0, (BUFFER, 64), WRITE, 0);
        let length = self.serve(TOLD) as usize;
        let bytes = self.machine.get(BUFFER, length).expect("RAM");
        (bytes[0], bytes[4], bytes[6], bytes[8..].to_vec())
    }

    /// With a program of the host, after both were told of each other.
    fn speak(&mut self) -> usize {
        let none = Vec::new;
        self.tell(0, 0);
        assert_eq!([self.told(), self.told()], [(0, 1, 1, none()), (1, 1, 1, none())], "two ports");
        self.tell(STREAM, 3);
        assert_eq!(self.told(), (STREAM, 7, 1, b"agent".to_vec()), "its name");
        self.tell(STREAM, 6);
        self.machine.happen(STREAM, 0);
        assert_eq!(self.told(), (STREAM, 6, 1, none()), "somebody is there");
        self.machine.happen(STREAM | 2 << 1, 7);
        self.describe(HEARD, 0, (BUFFER, 64), WRITE, 0);
        assert_eq!(self.serve(HEARD), 7);
        let said = [STREAM | 2 << 1; 7];
        assert_eq!(self.machine.get(BUFFER, 7), Some(said.to_vec()));
        self.describe(SAID, 0, (BUFFER, 7), 0, 0);
        self.serve(SAID);
        assert_eq!(self.machine.taken(STREAM.into()), said);
        SAID
    }

    fn send_and_receive(&mut self) -> usize {
        let mut frame = vec![0; HEADER];
        frame.extend(MAC.repeat(20));
        self.machine.put(BUFFER, &frame);
        self.describe(TRANSMIT, 0, (BUFFER, frame.len() as u32), 0, 0);
        self.offer(TRANSMIT, 0);
        self.kick(TRANSMIT);
        self.machine.turn();
        assert_eq!(self.machine.sent(), [frame.clone()], "it is on the wire");
        self.describe(RECEIVE, 0, (BUFFER, 2048), WRITE, 0);
        self.machine.put(BUFFER, &[0; 2048]);
        self.offer(RECEIVE, 0);
        self.machine.arrive(&frame);
        self.turn();
        frame[HEADER - 2] = 1;
        assert_eq!(self.machine.get(BUFFER, frame.len()), Some(frame), "it is received");
        RECEIVE
    }

    fn read_sector(&mut self, queue: usize) {
        let sector = SECTORS - 1;
        self.request(queue, REQUESTS[0], sector, 512);
        assert_eq!(self.serve(queue), 513);
        assert_eq!(self.machine.get(BUFFER + 16, 1), Some(vec![0]), "it is done");
        assert_eq!(self.machine.get(BUFFER + 0x100, 512), self.machine.on_disk(sector, 512));
    }
}

/// Takes back what was used in a packed ring: how many buffers these are.
fn collect(queue: &mut Queue, machine: &Machine) -> usize {
    for count in 0..usize::from(queue.size) {
        let (place, wrap) = queue.turn(queue.packed.used);
        let Some(bytes) = machine.get(place.wrapping_add(8), 8) else { return count };
        let half = |at: usize| u16::from_le_bytes([bytes[at], bytes[at + 1]]);
        let flags = half(6);
        if [AVAILABLE, USED].map(|flag| flags & flag != 0) != [wrap; 2] {
            return count;
        }
        let list = queue.packed.lists[usize::from(half(4)) % PLACES];
        queue.packed.used = queue.packed.used.wrapping_add(list.max(1).into());
        queue.packed.written = u32::from(half(0)) | u32::from(half(2)) << 16;
        queue.used = queue.used.wrapping_add(1);
    }
    queue.size.into()
}
