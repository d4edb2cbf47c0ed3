//! A card that the kernel serves: what the kernel is told, and when.

use std::os::fd::{AsRawFd, BorrowedFd};
use std::sync::Mutex;

use super::*;
use crate::pci::msix::ENTRY_SIZE;
use crate::virtio::vhost::sys::Rings;
use crate::virtio::vhost::{Engine, KernelNet};

#[derive(Debug, PartialEq, Eq)]
enum Call {
    Features(u64),
    Offloads(u64),
    Queue(u32, u32),
    Interrupt(u32, bool),
    Tap(u32, bool),
}
use Call::{Features, Interrupt, Offloads, Queue, Tap};

/// Takes note of what it is told. The events are by their descriptors, which tell them apart.
#[derive(Default)]
struct Record {
    calls: Mutex<Vec<Call>>,
    events: Mutex<[Option<i32>; 2]>,
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
        Ok(1 << 15 | 1 << 26 | 1 << 27 | 1 << 28 | 1 << 29 | 1 << 32 | 1 << 33)
    }
    fn set_features(&self, features: u64) -> Result<()> {
        self.0.note(Features(features))
    }
    fn set_offloads(&self, _: &OwnedFd, offloads: u64) -> Result<()> {
        self.0.note(Offloads(offloads))
    }
    fn set_queue(&self, index: u32, rings: &Rings, _: &EventFd, _: &EventFd) -> Result<()> {
        assert!(rings.available - rings.descriptors == 0x1000 && rings.used > rings.available);
        self.0.note(Queue(index, rings.size))
    }
    fn set_call(&self, index: u32, call: Option<&EventFd>) -> Result<()> {
        crate::lock(&self.0.events)[index as usize] = call.map(AsRawFd::as_raw_fd);
        self.0.note(Interrupt(index, call.is_some()))
    }
    fn set_tap(&self, index: u32, tap: Option<BorrowedFd<'_>>) -> Result<()> {
        self.0.note(Tap(index, tap.is_some()))?;
        match tap.is_some() && self.0.fails {
            true => Err(crate::error::Error::Spec("no".into())),
            false => Ok(()),
        }
    }
}

/// The card, and what was told to its kernel.
fn card(fails: bool) -> (Structures, Arc<KernelNet>, Arc<Record>) {
    let record = Arc::new(Record { fails, ..Record::default() });
    let (tap, _) = UnixDatagram::pair().unwrap();
    let net = KernelNet::over(tap.into(), Box::new(Recorder(record.clone())), [2, 0, 0, 0, 0, 1]);
    let net = Arc::new(net.unwrap());
    let memory = allocate(&Layout::new(MIN_MEMORY, 40, &[]).unwrap(), &Memory::bytes(0)).unwrap();
    let warnings = Arc::new(Warnings::new("test"));
    let msix = Msix::new(3, Arc::new(Nowhere), net.source(), warnings);
    (Structures::new(net.clone(), msix, memory), net, record)
}

fn start(bar: &Structures) -> u8 {
    negotiate(bar, u64::MAX);
    set_up_queues(bar);
    bar.write(COMMON + 0x14, &[ACKNOWLEDGE_DRIVER | FEATURES_OK | DRIVER_OK]);
    read(bar, 0x14, 1) as u8
}

fn unmask(bar: &Structures, vector: usize) {
    bar.write(MSIX_TABLE + (vector * ENTRY_SIZE + 12) as u64, &[0; 4]);
}

const STOPPED: [Call; 4] = [Tap(0, false), Interrupt(0, false), Tap(1, false), Interrupt(1, false)];

#[test]
fn the_kernel_gets_the_queues_when_the_driver_is_ready_and_loses_them_at_a_reset() {
    let (bar, _net, record) = card(false);
    assert_eq!(start(&bar), ACKNOWLEDGE_DRIVER | FEATURES_OK | DRIVER_OK);
    let agreed = 1 << 15 | 1 << 28 | 1 << 29 | 1 << 32;
    let started = [
        Features(agreed),
        Offloads(15),
        Queue(0, QUEUE_SIZE.into()),
        Queue(1, QUEUE_SIZE.into()),
        Interrupt(0, true),
        Interrupt(1, true),
        Tap(0, true),
        Tap(1, true),
    ];
    assert_eq!(record.take(), started);
    bar.write(COMMON + 0x14, &[0]);
    assert_eq!(record.take(), STOPPED);
    bar.write(COMMON + 0x14, &[0]);
    assert_eq!(record.take(), [], "it has none");
}

#[test]
fn vectors_that_are_made_anew_are_told() {
    let (bar, _net, record) = card(false);
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
    let (bar, _net, record) = card(true);
    assert_eq!(start(&bar) & NEEDS_RESET, NEEDS_RESET);
    assert!(record.take().ends_with(&STOPPED));

    let (bar, net, record) = card(false);
    start(&bar);
    record.take();
    net.ready(0);
    assert_eq!(read(&bar, 0x14, 1) as u8 & NEEDS_RESET, NEEDS_RESET);
    assert_eq!(record.take(), STOPPED);
    net.ready(0);
    assert_eq!(record.take(), [], "it has none any more");
}
