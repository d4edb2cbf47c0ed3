//! Devices whose queues the kernel works off: what it is told, and when.

use std::os::fd::AsRawFd;
use std::sync::Mutex;

use super::*;
use crate::pci::msix::ENTRY_SIZE;
use crate::virtio::net::feature;
use crate::virtio::net::taps::Taps;
use crate::virtio::vhost::net::KernelNet;
use crate::virtio::vhost::sys::Rings;
use crate::virtio::vhost::vsock::Vsock;
use crate::virtio::vhost::{Engine, Queues};

#[derive(Debug, PartialEq, Eq)]
enum Call {
    Features { own: u64, all: u64 },
    Queue(u32, u32),
    Interrupt(u32, bool),
    Runs(bool),
}
use Call::{Features, Interrupt, Queue, Runs};

/// Takes note of what it is told. The events are by their descriptors, which tell them apart.
#[derive(Default)]
struct Record {
    calls: Mutex<Vec<Call>>,
    events: Mutex<[Option<i32>; 4]>,
    fails: bool,
}

impl Record {
    fn take(&self) -> Vec<Call> {
        std::mem::take(&mut crate::lock(&self.calls))
    }

    fn note(&self, call: Call) -> Result<()> {
        crate::lock(&self.calls).push(call);
        Ok(())
    }
}

struct Recorder(Arc<Record>);

impl Engine for Recorder {
    fn features(&self) -> Result<u64> {
        // Those of a kernel, some of which are not for us.
        Ok(1 << 1 | 1 << 15 | 1 << 26 | 1 << 27 | 1 << 28 | 1 << 29 | 1 << 32 | 1 << 33)
    }
    fn set_features(&self, own: u64, all: u64) -> Result<()> {
        self.0.note(Features { own, all })
    }
    fn set_queue(&self, index: u32, rings: &Rings, _: &EventFd, _: &EventFd) -> Result<()> {
        assert!(rings.available - rings.descriptors == 0x1000 && rings.used > rings.available);
        self.0.note(Queue(index, rings.size))
    }
    fn set_call(&self, index: u32, call: Option<&EventFd>) -> Result<()> {
        crate::lock(&self.0.events)[index as usize] = call.map(AsRawFd::as_raw_fd);
        self.0.note(Interrupt(index, call.is_some()))
    }
    fn set_running(&self, runs: bool) -> Result<()> {
        self.0.note(Runs(runs))?;
        match runs && self.0.fails {
            true => Err(crate::error::Error::Spec("no".into())),
            false => Ok(()),
        }
    }
}

/// A device, its queues, and what was told to their kernel.
struct Served {
    bar: Structures,
    queues: Arc<Queues>,
    record: Arc<Record>,
}

fn served<D: VirtioDevice + 'static>(
    fails: bool,
    make: impl FnOnce(Box<dyn Engine>) -> Result<D>,
    queues: impl FnOnce(&D) -> Arc<Queues>,
) -> Served {
    let record = Arc::new(Record { fails, ..Record::default() });
    let device = make(Box::new(Recorder(record.clone()))).unwrap();
    let (queues, vectors) = (queues(&device), device.queue_sizes().len() as u16 + 1);
    let memory = allocate(&Layout::new(MIN_MEMORY, 40, &[]).unwrap(), &Memory::bytes(0)).unwrap();
    let warnings = Arc::new(Warnings::new("test"));
    let msix = Msix::new(vectors, Arc::new(Nowhere), device.source(), warnings);
    Served { bar: Structures::new(Arc::new(device), msix, memory, true), queues, record }
}

fn card(fails: bool) -> Served {
    card_of(1, fails)
}

fn card_of(pairs: u16, fails: bool) -> Served {
    let make = |engine| {
        let taps = Arc::new(Taps::sockets(Vec::new()));
        KernelNet::over(engine, taps, Config::new([2, 0, 0, 0, 0, 1], pairs))
    };
    served(fails, make, |card| card.queues.clone())
}

fn sockets() -> Served {
    served(false, |engine| Vsock::over(engine, 0x8000_0003), |vsock| vsock.queues.clone())
}

fn start_with(bar: &Structures, queues: u16) -> u8 {
    negotiate(bar, u64::MAX);
    set_up(bar, queues);
    bar.write(COMMON + 0x14, &[ACKNOWLEDGE_DRIVER | FEATURES_OK | DRIVER_OK]);
    read(bar, 0x14, 1) as u8
}

fn start(bar: &Structures) -> u8 {
    start_with(bar, 2)
}

fn unmask(bar: &Structures, vector: usize) {
    bar.write(MSIX_TABLE + (vector * ENTRY_SIZE + 12) as u64, &[0; 4]);
}

const STOPPED: [Call; 3] = [Runs(false), Interrupt(0, false), Interrupt(1, false)];

/// What is told at the start, where this was agreed on.
fn started(own: u64, all: u64) -> [Call; 6] {
    let size = QUEUE_SIZE.into();
    [
        Features { own, all },
        Queue(0, size),
        Queue(1, size),
        Interrupt(0, true),
        Interrupt(1, true),
        Runs(true),
    ]
}

#[test]
fn the_kernel_gets_the_queues_when_the_driver_is_ready_and_loses_them_at_a_reset() {
    let Served { bar, record, .. } = card(false);
    assert_eq!(start(&bar), ACKNOWLEDGE_DRIVER | FEATURES_OK | DRIVER_OK);
    let own = 1 << 15 | 1 << 28 | 1 << 29 | 1 << 32;
    // The address, the status, and what the TAP does.
    let others = 1 << 5 | 1 << 16 | 0b11_1011_1000_0011;
    assert_eq!(record.take(), started(own, own | others));
    bar.write(COMMON + 0x14, &[0]);
    assert_eq!(record.take(), STOPPED);
    bar.write(COMMON + 0x14, &[0]);
    assert_eq!(record.take(), [], "it has none");
}

#[test]
fn sockets_keep_the_queue_for_events_from_the_kernel() {
    let Served { bar, record, .. } = sockets();
    let mut config = [0xff; 12];
    bar.read(DEVICE, &mut config);
    assert_eq!(config, [3, 0, 0, 0x80, 0, 0, 0, 0, 0, 0, 0, 0]);
    assert_eq!(start_with(&bar, 3), ACKNOWLEDGE_DRIVER | FEATURES_OK | DRIVER_OK);
    let agreed = 1 << 1 | 1 << 28 | 1 << 29 | 1 << 32;
    assert_eq!(record.take(), started(agreed, agreed));
    crate::lock(&bar.msix).set_control(0x8000);
    unmask(&bar, 3);
    assert_eq!(record.take(), [], "no interrupt of the kernel's");
    unmask(&bar, 2);
    assert_eq!(record.take(), [Interrupt(1, true)]);
    bar.write(NOTIFY + 2 * NOTIFY_STEP, &[2, 0]);
    bar.write(COMMON + 0x14, &[0]);
    assert_eq!(record.take(), STOPPED);
    // One that sets up no queue for events is not ready.
    assert_eq!(start_with(&bar, 2) & NEEDS_RESET, NEEDS_RESET);
    assert_eq!(record.take(), []);
}

#[test]
fn the_kernel_gets_the_pairs_that_a_driver_has_and_no_commands() {
    let told = |record: &Record| {
        let calls = record.take().into_iter();
        let told = calls.filter(|call| matches!(call, Queue(..) | Runs(_)));
        told.collect::<Vec<_>>()
    };
    let size = QUEUE_SIZE.into();
    let Served { bar, record, .. } = card_of(2, false);
    assert_eq!(start_with(&bar, 5), ACKNOWLEDGE_DRIVER | FEATURES_OK | DRIVER_OK);
    let all = [Queue(0, size), Queue(1, size), Queue(2, size), Queue(3, size), Runs(true)];
    assert_eq!(told(&record), all);
    bar.write(COMMON + 0x14, &[0]);
    assert_eq!(told(&record), [Runs(false)]);
    // One that has set up one pair, and one that knows of no other.
    assert_eq!(start_with(&bar, 2), ACKNOWLEDGE_DRIVER | FEATURES_OK | DRIVER_OK);
    assert_eq!(told(&record), [Queue(0, size), Queue(1, size), Runs(true)]);
    bar.write(COMMON + 0x14, &[0]);
    record.take();
    negotiate(&bar, !(feature::MQ | feature::CTRL_VQ));
    set_up(&bar, 5);
    bar.write(COMMON + 0x14, &[ACKNOWLEDGE_DRIVER | FEATURES_OK | DRIVER_OK]);
    assert_eq!(told(&record), [Queue(0, size), Queue(1, size), Runs(true)]);
}

#[test]
fn vectors_that_are_made_anew_are_told() {
    let Served { bar, record, .. } = card(false);
    let msix = bar.msix.clone();
    crate::lock(&msix).set_control(0x8000);
    start(&bar);
    record.take();
    unmask(&bar, 2);
    assert_eq!(record.take(), [Interrupt(1, true)]);
    let before = crate::lock(&record.events)[1];
    crate::lock(&msix).set_control(0);
    assert_eq!(record.take(), [Interrupt(0, false), Interrupt(1, false)]);
    // So that its number is not given again.
    let _taken = [0; 8].map(|_| EventFd::new(0).unwrap());
    crate::lock(&msix).set_control(0x8000);
    assert_eq!(record.take(), [Interrupt(1, true)]);
    assert_ne!(crate::lock(&record.events)[1], before);
}

#[test]
fn what_the_kernel_refuses_or_finds_broken_is_the_drivers_to_reset() {
    let Served { bar, record, .. } = card(true);
    assert_eq!(start(&bar) & NEEDS_RESET, NEEDS_RESET);
    assert!(record.take().ends_with(&STOPPED));

    let Served { bar, queues, record } = card(false);
    start(&bar);
    record.take();
    queues.ready(0);
    assert_eq!(read(&bar, 0x14, 1) as u8 & NEEDS_RESET, NEEDS_RESET);
    assert_eq!(record.take(), STOPPED);
    queues.ready(0);
    assert_eq!(record.take(), [], "it has none any more");
}
