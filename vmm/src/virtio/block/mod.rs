//! virtio-blk over a file or a block device (virtio 1.3, section 5.2), raw or a qcow2 image.
//!
//! ```text
//! driver ─ kick ─► lane: a queue and its thread ─ request ─► engine: io_uring, or system calls
//!        ◄ interrupt ──────────────────────────── result ──◄
//! ```
//! Each queue has a thread of its own, since a file may keep whoever uses it waiting. The engines are
//! made before this process shuts itself in, which takes the calls away that make them.

mod engine;
#[allow(unsafe_code)]
mod image;
#[allow(unsafe_code)]
mod pieces;
mod request;
#[allow(unsafe_code)]
mod ring;
mod worker;

use std::fs::File;
use std::os::fd::OwnedFd;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex};
use std::thread;

use vmm_sys_util::eventfd::{EFD_CLOEXEC, EventFd};

use self::engine::Engine;
use self::image::Image;
use self::worker::Lane;
use super::{Activation, VirtioDevice, queue, read_bytes};
use crate::devices::power::Stop;
use crate::error::{Error, Result, Trying};
use crate::event::Reporter;
use crate::sandbox::{self, Kind};
use crate::spec::{Disk, StopReason};

const KIND_BLOCK: u16 = 2;
const CLASS_MASS_STORAGE: u32 = 0x01_80_00;

/// Feature bits (virtio 1.3, 5.2.3).
const F_SEG_MAX: u64 = 1 << 2;
const F_READ_ONLY: u64 = 1 << 5;
const F_BLOCK_SIZE: u64 = 1 << 6;
const F_FLUSH: u64 = 1 << 9;
const F_QUEUES: u64 = 1 << 12;
const F_DISCARD: u64 = 1 << 13;
const F_WRITE_ZEROES: u64 = 1 << 14;

/// The unit of capacity and of places on the disk, in bytes, whatever the block size.
pub const SECTOR: u64 = 512;
/// Entries of each queue.
const QUEUE_SIZE: u16 = 256;
/// Most pieces of data of a request: header and status take a descriptor each.
const MOST_SEGMENTS: u32 = QUEUE_SIZE as u32 - 2;
/// Most sectors of a discard: 2 GiB, one call to the file.
const MOST_DISCARDED: u32 = (2 << 30) / SECTOR as u32;
/// Most sectors that are zeroed by one request: 16 MiB, which may have to be written.
const MOST_ZEROED: u32 = (16 << 20) / SECTOR as u32;

/// A disk.
pub struct Block {
    image: Arc<Image>,
    lanes: Vec<Arc<Lane>>,
    /// Of the lanes, until their threads have them.
    engines: Mutex<Vec<Engine>>,
    sizes: Vec<u16>,
}

impl Block {
    /// A disk whose contents are those of `file`, and whose failures `reporter` tells.
    ///
    /// # Errors
    /// [`Error::Spec`] where the file is none that can be a disk.
    pub fn new(file: OwnedFd, disk: &Disk, reporter: Arc<Reporter>) -> Result<Self> {
        Self::by(file, disk, reporter, Engine::new)
    }

    /// The same without io_uring.
    #[cfg(any(test, feature = "simulated"))]
    pub(super) fn by_calls(file: OwnedFd, disk: &Disk, reporter: Arc<Reporter>) -> Result<Self> {
        Self::by(file, disk, reporter, |_, _| Engine::calls())
    }

    fn by(
        file: OwnedFd,
        disk: &Disk,
        reporter: Arc<Reporter>,
        engine: impl Fn(&Image, &EventFd) -> Engine,
    ) -> Result<Self> {
        let image = Image::new(File::from(file), disk, reporter)
            .map_err(|error| Error::Spec(format!("disk {}: {error}", disk.name)))?;
        let mut lanes = Vec::new();
        let mut engines = Vec::new();
        for _ in 0..disk.queues {
            // Blocking: its thread waits for it.
            let kick = EventFd::new(EFD_CLOEXEC).system("create an event")?;
            engines.push(engine(&image, &kick));
            lanes.push(Arc::new(Lane::new(kick)));
        }
        let sizes = vec![QUEUE_SIZE; usize::from(disk.queues)];
        Ok(Block { image: Arc::new(image), lanes, engines: Mutex::new(engines), sizes })
    }

    /// Finds the disk in its file, which is read here first: once this process is shut in, and before
    /// anybody else looks at the disk.
    ///
    /// # Errors
    /// [`Error::Disk`] where what the file holds cannot be used.
    pub fn open(&self) -> Result<()> {
        let disk = self.image.name();
        self.image.open().map_err(|source| Error::Disk { disk: disk.to_owned(), source })
    }

    /// What was written stays, as far as possible: this process ends.
    pub fn close(&self) {
        self.image.close();
    }

    #[cfg(test)]
    pub(super) fn has_ring(&self) -> bool {
        crate::lock(&self.engines).iter().all(|engine| matches!(engine, Engine::Ring { .. }))
    }

    /// Works off those of its queues that the driver has kicked, on the caller's thread and up to
    /// `most` requests of each, instead of [`Block::start`].
    #[cfg(any(test, feature = "simulated"))]
    pub(super) fn turn(&self, most: usize) {
        let mut engines = crate::lock(&self.engines);
        for (lane, engine) in self.lanes.iter().zip(&mut *engines) {
            if super::simulated::take_signal(&lane.kick) {
                worker::turn(lane, &self.image, engine, most);
            }
        }
    }

    /// Starts the threads of its queues. One that fails by a bug of ours stops the machine.
    ///
    /// # Errors
    /// [`Error::System`] where threads are short.
    pub fn start(&self, stop: &Arc<Stop>) -> Result<()> {
        let engines = std::mem::take(&mut *crate::lock(&self.engines));
        for (lane, engine) in self.lanes.iter().zip(engines) {
            let (lane, image, stop) = (lane.clone(), self.image.clone(), stop.clone());
            let work = move || {
                let work = || {
                    sandbox::restrict(Kind::Disk);
                    worker::work(&lane, &image, engine)
                };
                let detail = match catch_unwind(AssertUnwindSafe(work)) {
                    Ok(error) => format!("disk {}: {error}", image.name()),
                    Err(_) => format!("disk {}: its thread panicked; this is a bug", image.name()),
                };
                stop.request(StopReason::Failed { detail });
            };
            thread::Builder::new()
                .name("disk".into())
                .spawn(work)
                .system("start a disk's thread")?;
        }
        Ok(())
    }
}

/// `struct virtio_blk_config` as far as `write_zeroes_may_unmap` (virtio 1.3, 5.2.4).
fn config(image: &Image, queues: usize) -> [u8; 60] {
    let mut config = [0; 60];
    let mut put = |at: usize, bytes: &[u8]| config[at..at + bytes.len()].copy_from_slice(bytes);
    put(0, &image.sectors().to_le_bytes());
    put(12, &MOST_SEGMENTS.to_le_bytes());
    put(20, &(SECTOR as u32).to_le_bytes());
    put(34, &(queues as u16).to_le_bytes());
    put(36, &MOST_DISCARDED.to_le_bytes());
    put(40, &1u32.to_le_bytes());
    put(44, &(image.granule() as u32).to_le_bytes());
    put(48, &MOST_ZEROED.to_le_bytes());
    put(52, &1u32.to_le_bytes());
    put(56, &[1]);
    config
}

impl VirtioDevice for Block {
    fn name(&self) -> String {
        format!("virtio-blk {}", self.image.name())
    }

    fn kind(&self) -> u16 {
        KIND_BLOCK
    }

    fn class(&self) -> u32 {
        CLASS_MASS_STORAGE
    }

    fn features(&self) -> u64 {
        let writes =
            if self.image.is_read_only() { F_READ_ONLY } else { F_DISCARD | F_WRITE_ZEROES };
        let common = F_SEG_MAX | F_BLOCK_SIZE | F_FLUSH | F_QUEUES;
        common | writes | queue::FEATURES
    }

    fn queue_sizes(&self) -> &[u16] {
        &self.sizes
    }

    fn kick(&self, index: u16) -> Option<&EventFd> {
        self.lanes.get(usize::from(index)).map(|lane| &lane.kick)
    }

    fn read_config(&self, offset: u64, data: &mut [u8]) {
        read_bytes(&config(&self.image, self.lanes.len()), offset, data);
    }

    fn activate(&self, activation: Activation) {
        let Activation { features, queues, interrupts, memory, failure, .. } = activation;
        let failure = Arc::new(failure);
        // Who does not flush wants what is written to stay.
        let durable = features & F_FLUSH == 0;
        for (lane, (queue, interrupt)) in self.lanes.iter().zip(queues.into_iter().zip(interrupts))
        {
            lane.begin(queue, interrupt, memory.clone(), failure.clone(), durable);
        }
    }

    fn reset(&self) {
        self.lanes.iter().for_each(|lane| lane.end());
    }
}
