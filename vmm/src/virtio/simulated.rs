//! Test support: a machine with one virtio device on its bus, without KVM, TAP, vhost, io_uring or threads.
//! Whoever tests is the guest, and has the device work by [`Machine::turn`].
//!
//! ```text
//! host    secret │ RAM 0 to 64 KiB │ secret │ RAM 128 to 144 KiB │ secret
//! ```
//! RAM has a hole, and secret bytes all around it in this process. A device that writes where there is
//! no RAM changes them, and one that reads there carries them out: [`Machine::check`] panics on both.
//! [`Host`] panics where interrupts are tied to events in another order than KVM takes.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::fs::File;
use std::ops::Range;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::os::unix::fs::FileExt;
use std::os::unix::net::UnixDatagram;
use std::sync::{Arc, Mutex};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{MemfdFlags, memfd_create};
use rustix::rand::{GetRandomFlags, getrandom};
use vm_memory::{Bytes, GuestAddress, GuestRegionMmap, MmapRegion, VolatileMemory};
use vmm_sys_util::eventfd::EventFd;

use self::kernel::Kernel;
use self::ports::Ports;
use super::VirtioDevice;
use super::balloon::Balloon;
use super::block::{Block, SECTOR};
use super::net::taps::Taps;
use super::net::{Config, Net, TOKEN_TAP};
use super::rng::Rng;
use super::transport::{Doorbells, Surroundings, VirtioFunction};
use super::vhost::net::KernelNet;
use super::vhost::vsock::Vsock;
use crate::bus::{Access, Bus};
use crate::descriptor::borrow;
use crate::error::Result;
use crate::event::Reporter;
use crate::machine::event_loop::Ready;
use crate::machine::interrupts::Delivery;
use crate::machine::memory::GuestMemory;
use crate::pci::bar::Allocator;
use crate::pci::register;
use crate::pci::root::RootComplex;
use crate::spec::{BALLOON_PAGE, BalloonStats, Descriptor, Disk, DiskFormat};
use crate::vfio::simulated::{Host, WINDOWS};

mod crowd;
mod kernel;
mod ports;

pub use self::crowd::Crowd;

/// Where there is RAM.
pub const RAM: [Range<u64>; 2] = [0..0x1_0000, 0x2_0000..0x2_4000];
/// Sectors of the disk.
pub const SECTORS: u64 = 64;
/// Address of the card.
pub const MAC: [u8; 6] = [2, 0, 0, 0, 0, 1];
/// CID of the guest.
pub const CID: u32 = 42;

/// Where the device is on the bus.
const SLOT: usize = 1;
const PAGE: usize = 4096;
/// Buffers of a queue of sockets in a turn: a ring can offer the same for ever.
const MOST_BUFFERS: usize = 512;
/// Requests of a disk's queue in a turn: one can be made that never ends.
const MOST_REQUESTS: usize = 512;
/// The most that a card hands out at a time.
const FRAME_MAX: usize = 1 << 17;

/// What the device is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A network card.
    Network {
        /// Of how many pairs of queues.
        pairs: u16,
    },
    /// A network card whose queues are the kernel's.
    KernelNetwork,
    /// A disk.
    Disk {
        /// It cannot be written to.
        read_only: bool,
        /// Of how many queues.
        queues: u16,
    },
    /// A source of random numbers.
    Random,
    /// Sockets between guest and host, whose queues are the kernel's.
    Sockets,
    /// A balloon.
    Balloon,
    /// A console of two ports: a console, and one that is none.
    Ports,
}

/// The machine.
pub struct Machine {
    /// What stands for KVM's interrupts.
    pub host: Arc<Host>,
    /// Its memory, as far as it is trapped.
    pub bus: Arc<Bus>,
    /// Its functions.
    root: RootComplex,
    /// Where the device's BAR is, while that is known: it is asked for at each access.
    bar: Cell<Option<u64>>,
    bells: Arc<Bells>,
    device: Device,
    ram: Ram,
}

enum Device {
    /// The card has one end of each wire, of which `taps` are copies.
    Network {
        card: Arc<Net>,
        taps: Vec<UnixDatagram>,
        wires: Vec<UnixDatagram>,
    },
    Disk {
        disk: Arc<Block>,
        file: File,
    },
    Random(Arc<Rng>),
    KernelNetwork {
        card: Arc<KernelNet>,
        kernel: Arc<Kernel>,
    },
    Sockets {
        vsock: Arc<Vsock>,
        kernel: Arc<Kernel>,
    },
    Balloon(Arc<Balloon>),
    Ports(Box<Ports>),
}

impl Machine {
    /// With RAM that is all zeroes, and a device that the guest has not found yet.
    ///
    /// # Errors
    /// The kernel's, where descriptors are short.
    pub fn new(kind: Kind) -> Result<Machine> {
        let ram = RAM_OF_THREAD.with(Ram::clone);
        ram.clear();
        let device = Device::new(kind, &ram.memory)?;
        let (host, bus) = (Arc::new(Host::default()), Arc::new(Bus::default()));
        let bells = Arc::new(Bells::default());
        let (doorbells, interrupts): (Arc<dyn Doorbells>, Arc<dyn Delivery>) =
            (bells.clone(), host.clone());
        let surroundings = Surroundings {
            doorbells: &doorbells,
            bus: &bus,
            interrupts: &interrupts,
            allocator: &mut Allocator::new(WINDOWS),
            memory: &ram.memory,
            packed_rings: true,
        };
        let function = VirtioFunction::new(device.as_virtio(), surroundings)?;
        let root = RootComplex::new();
        root.put(SLOT, Arc::new(function));
        Ok(Machine { host, bus, root, bar: Cell::new(None), bells, device, ram })
    }

    /// Reads the device's configuration space.
    pub fn read_config(&self, offset: u64, data: &mut [u8]) {
        self.root.read((SLOT as u64) << 15 | offset, data);
    }

    /// Writes it.
    pub fn write_config(&self, offset: u64, data: &[u8]) {
        self.root.write((SLOT as u64) << 15 | offset, data);
        self.bar.set(None);
    }

    /// Where the device's BAR is, whether it decodes or not.
    pub fn bar(&self) -> u64 {
        self.bar.get().unwrap_or_else(|| {
            let mut bytes = [0; 8];
            self.read_config(register::BARS as u64, &mut bytes[..4]);
            self.read_config(register::BARS as u64 + 4, &mut bytes[4..]);
            let address = u64::from_le_bytes(bytes) & !0xf;
            self.bar.set(Some(address));
            address
        })
    }

    /// Writes RAM. Where there is none, nothing happens, or to a part of it.
    pub fn put(&self, address: u64, bytes: &[u8]) {
        let _ = self.ram.memory.write(bytes, GuestAddress(address));
    }

    /// Reads RAM: nothing where there is none.
    pub fn get(&self, address: u64, length: usize) -> Option<Vec<u8>> {
        let mut bytes = vec![0; length];
        self.ram.memory.read_slice(&mut bytes, GuestAddress(address)).ok().map(|()| bytes)
    }

    /// Has the device do what it was kicked for, as the event loop or its threads would.
    pub fn turn(&self) {
        self.device.turn();
    }

    /// Asks the guest for so many pages, if the device is a balloon.
    pub fn ask_for(&self, pages: u16) {
        if let Device::Balloon(balloon) = &self.device {
            balloon.set_target(u64::from(pages) * BALLOON_PAGE).expect("the guest has more");
        }
    }

    /// Asks what its driver has to say, without waiting for it; whether it can be asked.
    pub fn ask_for_statistics(&self) -> bool {
        matches!(&self.device, Device::Balloon(balloon) if balloon.ask())
    }

    /// What the balloon knows; nothing of another device.
    pub fn balloon(&self) -> Option<BalloonStats> {
        let Device::Balloon(balloon) = &self.device else { return None };
        Some(balloon.known())
    }

    /// A frame with its header comes in from outside for each pair of queues, if the device is a card.
    pub fn arrive(&self, frame: &[u8]) {
        let Device::Network { card, wires, .. } = &self.device else { return };
        for (token, wire) in (TOKEN_TAP..).zip(wires) {
            // One that nobody takes is lost when the wire is full.
            if wire.send(frame).is_ok() {
                card.ready(token);
            }
        }
    }

    /// The frames with their headers that a card has sent since the last time.
    ///
    /// # Panics
    /// Where one holds what is not in RAM.
    pub fn sent(&self) -> Vec<Vec<u8>> {
        let Device::Network { wires, .. } = &self.device else { return Vec::new() };
        let mut frames = Vec::new();
        FRAME.with_borrow_mut(|frame| {
            for wire in wires {
                while let Ok(length) = wire.recv(frame) {
                    self.ram.expect_no_secret(&frame[..length]);
                    frames.push(frame[..length].to_vec());
                }
            }
        });
        frames
    }

    /// A program of the host comes to a port, or the first one leaves, or says `length` bytes, if the device is
    /// a console: which port and what, `how` says.
    pub fn happen(&self, how: u8, length: u16) {
        let Device::Ports(ports) = &self.device else { return };
        let port = usize::from(how & 1);
        match how >> 1 & 3 {
            0 => ports.come(port),
            1 => ports.leave(port),
            2 => ports.say(port, &vec![how; length.into()]),
            _ => drop(self.taken(port)),
        }
    }

    /// What programs of the host take from a port of a console.
    ///
    /// # Panics
    /// Where that is not in RAM.
    pub fn taken(&self, port: usize) -> Vec<u8> {
        let Device::Ports(ports) = &self.device else { return Vec::new() };
        let taken = ports.take(port);
        self.ram.expect_no_secret(&taken);
        taken
    }

    /// What is under way outside of the guest is lost: frames, and what programs are there.
    pub fn clear_wire(&self) {
        if let Device::Ports(ports) = &self.device {
            ports.clear();
        }
        let Device::Network { taps, wires, .. } = &self.device else { return };
        for (tap, wire) in taps.iter().zip(wires) {
            while tap.recv(&mut [0]).is_ok() || wire.recv(&mut [0]).is_ok() {}
        }
    }

    /// Takes the link of a card up or down.
    pub fn set_link(&self, up: bool) {
        if let Device::Network { card, .. } = &self.device {
            card.config.set_link(up);
        }
    }

    /// What is on the disk, of `length` bytes; nothing where there is no disk.
    pub fn on_disk(&self, sector: u64, length: usize) -> Option<Vec<u8>> {
        let Device::Disk { file, .. } = &self.device else { return None };
        let mut bytes = vec![0; length];
        file.read_exact_at(&mut bytes, sector * SECTOR).ok().map(|()| bytes)
    }

    /// Interrupts that the device has raised, or that the kernel has in its place.
    pub fn interrupts(&self) -> u64 {
        if let Some(kernel) = self.device.kernel() {
            return kernel.signals();
        }
        self.root.stats().iter().filter_map(|stats| stats.interrupts).sum()
    }

    /// # Panics
    /// Where a device has reached what is not RAM.
    pub fn check(&self) {
        self.ram.check();
        let Device::Disk { file, .. } = &self.device else { return };
        let size = CONTENTS.with(Vec::len);
        assert_eq!(file.metadata().map_or(0, |file| file.len()), size as u64);
        let now = self.on_disk(0, size).expect("it is as long as ever");
        CONTENTS.with(|before| self.ram.expect_no_secret_within(&now, before));
    }

    /// Takes the device off the bus.
    ///
    /// # Panics
    /// Where it leaves something behind.
    pub fn end(self) {
        self.write_config(register::COMMAND as u64, &[0, 0]);
        assert!(crate::lock(&self.bells.0).is_empty(), "notifications are left");
        let Machine { host, root, device, bus, .. } = self;
        device.as_virtio().reset();
        if let Some(kernel) = device.kernel() {
            assert!(!kernel.runs(), "the kernel uses queues after a reset");
        }
        drop((root, device, bus));
        assert_eq!((host.connected(), host.reserved()), (0, 0), "interrupts are left");
    }
}

impl Device {
    fn new(kind: Kind, memory: &GuestMemory) -> Result<Device> {
        use crate::error::Trying;
        Ok(match kind {
            Kind::Network { pairs } => {
                let (mut ends, mut taps, mut wires) = (Vec::new(), Vec::new(), Vec::new());
                for _ in 0..pairs {
                    let (tap, wire) = UnixDatagram::pair().system("make a wire")?;
                    tap.set_nonblocking(true).system("set up a wire")?;
                    wire.set_nonblocking(true).system("set up a wire")?;
                    taps.push(tap.try_clone().system("share a wire")?);
                    wires.push(wire);
                    ends.push(OwnedFd::from(tap));
                }
                let card = Arc::new(Net::on_sockets(ends, Config::new(MAC, pairs))?);
                Device::Network { card, taps, wires }
            }
            Kind::Disk { read_only, queues } => {
                let file = DISK_OF_THREAD.with(File::try_clone).system("share a file")?;
                file.set_len(SECTORS * SECTOR).system("cut a file off")?;
                CONTENTS.with(|bytes| file.write_all_at(bytes, 0)).system("fill a file")?;
                let disk = Disk {
                    name: "disk".into(),
                    file: Descriptor(-1),
                    format: DiskFormat::Raw,
                    read_only,
                    serial: "serial-1".into(),
                    queues,
                };
                let shared = file.try_clone().system("share a file")?;
                let disk = Block::by_calls(shared.into(), &disk, Arc::new(Reporter::new(None)))?;
                Device::Disk { disk: Arc::new(disk), file }
            }
            Kind::Random => Device::Random(Arc::new(Rng::new()?)),
            Kind::KernelNetwork => {
                let kernel = Kernel::new(memory.clone());
                let taps = Arc::new(Taps::sockets(Vec::new()));
                let card = KernelNet::over(Box::new(kernel.clone()), taps, Config::new(MAC, 1))?;
                let card = Arc::new(card);
                Device::KernelNetwork { card, kernel }
            }
            Kind::Sockets => {
                let kernel = Kernel::new(memory.clone());
                let vsock = Arc::new(Vsock::over(Box::new(kernel.clone()), CID)?);
                Device::Sockets { vsock, kernel }
            }
            // A guest so small has none: it is said to have more.
            Kind::Balloon => Device::Balloon(Arc::new(Balloon::new(1 << 30, 0)?)),
            Kind::Ports => Device::Ports(Box::new(Ports::new()?)),
        })
    }

    fn as_virtio(&self) -> Arc<dyn VirtioDevice> {
        match self {
            Device::Network { card, .. } => card.clone(),
            Device::Disk { disk, .. } => disk.clone(),
            Device::Random(rng) => rng.clone(),
            Device::KernelNetwork { card, .. } => card.clone(),
            Device::Sockets { vsock, .. } => vsock.clone(),
            Device::Balloon(balloon) => balloon.clone(),
            Device::Ports(ports) => ports.console.clone(),
        }
    }

    /// Does what it was kicked for.
    fn turn(&self) {
        let kicked =
            |device: &dyn VirtioDevice, queue: u16| device.kick(queue).is_some_and(is_signalled);
        match self {
            Device::Network { card, .. } => {
                let queues = card.queue_sizes().len() as u16;
                for queue in (0..queues).filter(|queue| kicked(&**card, *queue)) {
                    card.ready(queue.into());
                }
            }
            Device::Disk { disk, .. } => disk.turn(MOST_REQUESTS),
            Device::Random(rng) if kicked(&**rng, 0) => rng.ready(0),
            Device::Random(_) => {}
            Device::KernelNetwork { card, kernel } => {
                if kernel.turn(MOST_BUFFERS) {
                    card.queues.ready(0);
                }
            }
            Device::Sockets { vsock, kernel } => {
                if kernel.turn(MOST_BUFFERS) {
                    vsock.queues.ready(0);
                }
            }
            Device::Balloon(balloon) => {
                let queues = balloon.queue_sizes().len() as u16;
                for queue in (0..queues).filter(|queue| kicked(&**balloon, *queue)) {
                    balloon.ready(queue.into());
                }
            }
            Device::Ports(ports) => {
                let console = &ports.console;
                let queues = console.queue_sizes().len() as u16;
                for queue in (0..queues).filter(|queue| kicked(&**console, *queue)) {
                    console.ready(queue.into());
                }
            }
        }
    }

    /// What works off its queues, where that is the kernel.
    fn kernel(&self) -> Option<&Kernel> {
        match self {
            Device::KernelNetwork { kernel, .. } | Device::Sockets { kernel, .. } => Some(kernel),
            _ => None,
        }
    }
}

fn is_signalled(event: &EventFd) -> bool {
    let mut wanted = [PollFd::from_borrowed_fd(borrow(event), PollFlags::IN)];
    matches!(poll(&mut wanted, Some(&Timespec::default())), Ok(1))
}

/// Whether `event` was signalled, which it is no more. Never waits.
pub(super) fn take_signal(event: &EventFd) -> bool {
    is_signalled(event) && event.read().is_ok()
}

/// Which event each address signals.
#[derive(Default)]
struct Bells(Mutex<BTreeMap<u64, RawFd>>);

impl Doorbells for Bells {
    fn connect(&self, event: &EventFd, address: u64) -> Result<()> {
        let before = crate::lock(&self.0).insert(address, event.as_raw_fd());
        assert_eq!(before, None, "{address:#x} signals another event");
        Ok(())
    }

    fn disconnect(&self, event: &EventFd, address: u64) -> Result<()> {
        let before = crate::lock(&self.0).remove(&address);
        assert_eq!(before, Some(event.as_raw_fd()), "{address:#x} does not signal it");
        Ok(())
    }
}

thread_local! {
    /// One for all machines of a thread, one after the other.
    static RAM_OF_THREAD: Ram = Ram::new().expect("memory");
    /// The same of disks.
    static DISK_OF_THREAD: File =
        memfd_create(c"disk", MemfdFlags::CLOEXEC).expect("memory").into();
    /// What is on a disk at first.
    static CONTENTS: Vec<u8> =
        (0..SECTORS * SECTOR).map(|at| (at / SECTOR + at % 7) as u8).collect();
    /// Room for a frame.
    static FRAME: RefCell<Vec<u8>> = RefCell::new(vec![0; FRAME_MAX]);
}

/// RAM, and what is around it in this process.
#[derive(Clone)]
struct Ram {
    memory: GuestMemory,
    whole: &'static MmapRegion,
    secret: [u8; 16],
    /// What each gap holds: the secret, again and again.
    gap: [u8; PAGE],
}

/// Where in the whole mapping each range of RAM is.
fn place(index: usize) -> Range<usize> {
    let length = |range: &Range<u64>| (range.end - range.start) as usize;
    let start = PAGE + RAM[..index].iter().map(|range| length(range) + PAGE).sum::<usize>();
    start..start + length(&RAM[index])
}

impl Ram {
    fn new() -> std::io::Result<Ram> {
        let other = std::io::Error::other::<vm_memory::mmap::MmapRegionError>;
        let whole = MmapRegion::new(place(RAM.len() - 1).end + PAGE).map_err(other)?;
        // It stays mapped until the process ends, so that what refers to it may.
        let whole: &'static MmapRegion = Box::leak(Box::new(whole));
        let mut regions = Vec::new();
        for (index, range) in RAM.iter().enumerate() {
            let part = place(index);
            let start = whole.as_ptr().wrapping_add(part.start);
            // SAFETY: the part is within the mapping, which is never unmapped, and nobody holds
            // references into it.
            let region =
                unsafe { MmapRegion::build_raw(start, part.len(), whole.prot(), whole.flags()) };
            let region = GuestRegionMmap::new(region.map_err(other)?, GuestAddress(range.start));
            regions.push(region.ok_or(std::io::ErrorKind::InvalidInput)?);
        }
        let memory = GuestMemory::from_regions(regions).map_err(std::io::Error::other)?;
        let mut secret = [0; 16];
        getrandom(&mut secret, GetRandomFlags::empty())?;
        let gap = std::array::from_fn(|at| secret[at % secret.len()]);
        let ram = Ram { memory, whole, secret, gap };
        for place in ram.gaps() {
            let place = ram.whole.get_slice(place.start, place.len());
            place.map_err(std::io::Error::other)?.copy_from(&gap);
        }
        Ok(ram)
    }

    fn clear(&self) {
        const MOST: usize = (RAM[0].end - RAM[0].start) as usize;
        static ZEROES: [u8; MOST] = [0; MOST];
        for range in RAM {
            let zeroes = &ZEROES[..(range.end - range.start) as usize];
            self.memory.write_slice(zeroes, GuestAddress(range.start)).expect("it is RAM");
        }
    }

    /// What is around RAM.
    fn gaps(&self) -> impl Iterator<Item = Range<usize>> {
        (0..=RAM.len()).map(|index| {
            let start = if index == 0 { 0 } else { place(index - 1).end };
            start..start + PAGE
        })
    }

    fn check(&self) {
        for gap in self.gaps() {
            let mut bytes = [0; PAGE];
            self.whole.get_slice(gap.start, PAGE).expect("it is mapped").copy_to(&mut bytes);
            assert!(bytes == self.gap, "something was written beside RAM, at {gap:x?}");
        }
    }

    fn expect_no_secret(&self, bytes: &[u8]) {
        let holds = bytes.windows(self.secret.len()).any(|part| part == self.secret);
        assert!(!holds, "something was read from beside RAM");
    }

    /// The same, of what was written since there was `before`: most of it is the same.
    fn expect_no_secret_within(&self, now: &[u8], before: &[u8]) {
        if now == before {
            return;
        }
        let size = SECTOR as usize;
        for at in (0..now.len()).step_by(size) {
            if now[at..at + size] != before[at..at + size] {
                self.expect_no_secret(&now[at..at + size]);
            }
        }
    }
}
