//! virtio-rng (virtio 1.3, section 5.4): random numbers of the host's kernel, for a guest that has just
//! begun and has none of its own.

use std::io::{self, Write};
use std::sync::{Arc, Mutex};

use rustix::io::Errno;
use rustix::rand::{GetRandomFlags, getrandom};
use vmm_sys_util::eventfd::{EFD_CLOEXEC, EFD_NONBLOCK, EventFd};

use super::queue::{self, Broken, Chain, Fate, work_off};
use super::{Activation, VirtioDevice};
use crate::descriptor::borrow;
use crate::error::{Result, Trying};
use crate::machine::event_loop::{EventLoop, Ready, Trigger};
use crate::machine::memory::GuestMemory;

const KIND_ENTROPY: u16 = 4;
/// None of the classes that there are.
const CLASS_OTHER: u32 = 0xff_00_00;
const QUEUE_SIZES: [u16; 1] = [64];

/// Most bytes for one buffer: a driver that offers more gets the others for its next one.
const MOST: usize = 4096;
/// Buffers filled before other devices get their turn.
const BATCH: usize = 16;
/// As much as getrandom(2) gives without being interrupted.
const PIECE: usize = 256;

/// A source of random numbers.
pub struct Rng {
    kick: EventFd,
    active: Mutex<Option<Activation>>,
}

impl Rng {
    /// A source that gives at once what it is asked for.
    ///
    /// # Errors
    /// The kernel's. On a host that has just begun, this waits until its kernel has random numbers.
    pub fn new() -> Result<Self> {
        random(&mut [0], GetRandomFlags::empty())
            .map_err(io::Error::from)
            .system("have random numbers")?;
        let kick = EventFd::new(EFD_CLOEXEC | EFD_NONBLOCK).system("create an event")?;
        Ok(Rng { kick, active: Mutex::default() })
    }

    /// Adds its descriptor to the event loop.
    ///
    /// # Errors
    /// Where it cannot be watched.
    pub fn listen(self: &Arc<Self>, events: &EventLoop) -> Result<()> {
        events.add(borrow(&self.kick), Trigger::Level, self.clone(), 0)?;
        Ok(())
    }
}

/// Fills a piece of at most [`PIECE`] bytes.
fn random(piece: &mut [u8], flags: GetRandomFlags) -> std::result::Result<(), Errno> {
    let length = piece.len();
    loop {
        match getrandom(&mut *piece, flags) {
            Ok(given) if given == length => return Ok(()),
            Ok(_) | Err(Errno::INTR) => {}
            Err(error) => return Err(error),
        }
    }
}

/// Fills a buffer, or as much of it as one gets.
fn fill(memory: &GuestMemory, chain: Chain<'_>) -> std::result::Result<Fate, Broken> {
    let mut writer = chain.writer(memory)?;
    let wanted = writer.available_bytes().min(MOST);
    let mut given = 0;
    while given < wanted {
        let mut piece = [0; PIECE];
        let piece = &mut piece[..PIECE.min(wanted - given)];
        random(piece, GetRandomFlags::NONBLOCK).map_err(|_| Broken)?;
        writer.write_all(piece).map_err(|_| Broken)?;
        given += piece.len();
    }
    Ok(Fate::Used(given as u32))
}

impl Ready for Rng {
    fn ready(&self, _token: u32) {
        let _ = self.kick.read();
        let active = &mut *crate::lock(&self.active);
        queue::turn(active, &self.kick, |active| work_off(active, 0, BATCH, fill));
    }
}

impl VirtioDevice for Rng {
    fn name(&self) -> String {
        "virtio-rng".to_owned()
    }

    fn kind(&self) -> u16 {
        KIND_ENTROPY
    }

    fn class(&self) -> u32 {
        CLASS_OTHER
    }

    fn features(&self) -> u64 {
        queue::FEATURES
    }

    fn queue_sizes(&self) -> &[u16] {
        &QUEUE_SIZES
    }

    fn kick(&self, index: u16) -> Option<&EventFd> {
        (index == 0).then_some(&self.kick)
    }

    /// It has none (virtio 1.3, 5.4.4).
    fn read_config(&self, _offset: u64, data: &mut [u8]) {
        data.fill(0);
    }

    fn activate(&self, activation: Activation) {
        *crate::lock(&self.active) = Some(activation);
        // Buffers may be there already.
        let _ = self.kick.write(1);
    }

    fn reset(&self) {
        *crate::lock(&self.active) = None;
    }
}
