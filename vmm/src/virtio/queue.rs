//! What all devices do with their queues, whichever kind of ring these have.
//!
//! [`setup`] is what the driver says of a queue, [`split`] or [`packed`] the ring that is made of it, and
//! [`chain`] a buffer that was offered there.

pub mod chain;
pub mod packed;
pub mod setup;
pub mod split;

use vmm_sys_util::eventfd::EventFd;

use self::chain::Descriptor;
pub use self::chain::{Chain, Head};
use self::setup::Setup;
use super::{Activation, F_EVENT_IDX, F_INDIRECT_DESC, F_RING_PACKED};
use crate::machine::memory::GuestMemory;

/// The driver broke its queue: the device stops until it is reset.
#[derive(Debug)]
pub struct Broken;

/// Feature bits of what queues here can do, for any device whose queues nobody else works off.
pub const FEATURES: u64 = F_EVENT_IDX | F_INDIRECT_DESC | F_RING_PACKED;

#[derive(Debug)]
enum Ring {
    Split(split::Ring),
    Packed(packed::Ring),
}

/// A queue in the device's hands.
#[derive(Debug)]
pub struct Queue {
    setup: Setup,
    ring: Ring,
    /// The descriptors of the buffer that was taken last.
    chain: Vec<Descriptor>,
}

impl Queue {
    /// What the driver has set up, with the `features` that were agreed on.
    ///
    /// # Errors
    /// [`Broken`] where it is not ready, not all in memory, or makes no sense.
    pub fn new(setup: Setup, features: u64, memory: &GuestMemory) -> Result<Self, Broken> {
        let [event_idx, indirect, packed] =
            [F_EVENT_IDX, F_INDIRECT_DESC, F_RING_PACKED].map(|feature| features & feature != 0);
        let ring = if packed {
            Ring::Packed(packed::Ring::new(&setup, event_idx, indirect, memory)?)
        } else {
            Ring::Split(split::Ring::new(&setup, event_idx, memory)?)
        };
        Ok(Queue { setup, ring, chain: Vec::new() })
    }

    /// One that the driver does without, and that nobody uses.
    ///
    /// # Errors
    /// [`Broken`] where no queue can have `most` entries.
    pub fn absent(most: u16) -> Result<Self, Broken> {
        let setup = Setup::new(most);
        let ring = Ring::Split(split::Ring::unchecked(&setup, false)?);
        Ok(Queue { setup, ring, chain: Vec::new() })
    }

    /// What the driver has said of it.
    pub fn setup(&self) -> &Setup {
        &self.setup
    }

    /// Whether the driver uses it at all.
    pub fn is_ready(&self) -> bool {
        self.setup.is_ready
    }

    /// Offers what was taken last again, which was not given back.
    pub fn put_back(&mut self, head: Head) {
        match &mut self.ring {
            Ring::Split(ring) => ring.put_back(),
            Ring::Packed(ring) => ring.put_back(head),
        }
    }

    /// Gives the driver a buffer back, into which so many bytes were written.
    ///
    /// # Errors
    /// [`Broken`] where there is no such buffer.
    pub fn add_used(
        &mut self,
        memory: &GuestMemory,
        head: Head,
        length: u32,
    ) -> Result<(), Broken> {
        match &mut self.ring {
            Ring::Split(ring) => ring.add_used(memory, head, length),
            Ring::Packed(ring) => ring.add_used(memory, head, length),
        }
    }

    /// Gives the driver several buffers back, and the bytes written into each. It sees none of them before
    /// all: where one thing is in several, a driver that looked in between would miss the rest (virtio 1.3,
    /// 5.1.6.4.2).
    ///
    /// # Errors
    /// [`Broken`] where there is no such buffer.
    pub fn add_used_together(
        &mut self,
        memory: &GuestMemory,
        used: &[(Head, u32)],
    ) -> Result<(), Broken> {
        match &mut self.ring {
            Ring::Split(ring) => ring.add_used_together(memory, used),
            Ring::Packed(ring) => ring.add_used_together(memory, used),
        }
    }

    /// Whether the driver wants to be told of what was given back since this was asked last.
    ///
    /// # Errors
    /// [`Broken`] where the rings make no sense.
    pub fn needs_notification(&mut self, memory: &GuestMemory) -> Result<bool, Broken> {
        match &mut self.ring {
            Ring::Split(ring) => ring.needs_notification(memory),
            Ring::Packed(ring) => ring.needs_notification(memory),
        }
    }

    fn take(&mut self, memory: &GuestMemory) -> Result<Option<Head>, Broken> {
        self.chain.clear();
        let most = self.setup.most.into();
        match &mut self.ring {
            Ring::Split(ring) => ring.take(memory, most, &mut self.chain),
            Ring::Packed(ring) => ring.take(memory, most, &mut self.chain),
        }
    }

    fn ask_for_more(&mut self, memory: &GuestMemory) -> Result<bool, Broken> {
        match &mut self.ring {
            Ring::Split(ring) => ring.ask_for_more(memory),
            Ring::Packed(ring) => ring.ask_for_more(memory),
        }
    }
}

/// The next buffer the driver offers. Where there is none, it is asked to tell of the next.
///
/// # Errors
/// [`Broken`] where the rings make no sense, or the buffer has more descriptors than a queue of this
/// device may have entries (virtio 1.3, 2.7.5.3.1 and 2.8.17): with a table of 65,535 of them, each buffer would
/// keep other devices waiting for milliseconds.
pub fn next_chain<'a>(
    queue: &'a mut Queue,
    memory: &GuestMemory,
) -> Result<Option<Chain<'a>>, Broken> {
    let head = match queue.take(memory)? {
        Some(head) => head,
        None if !queue.ask_for_more(memory)? => return Ok(None),
        // One came just now. A driver that took it back since would keep us here for ever.
        None => queue.take(memory)?.ok_or(Broken)?,
    };
    Ok(Some(Chain { head, descriptors: &queue.chain }))
}

/// Whether a queue is worked off.
pub enum Progress {
    /// It is, until the driver kicks.
    Done,
    /// Others get their turn before it goes on.
    More,
}

/// What became of a buffer.
pub enum Fate {
    /// The driver gets it back with this many bytes written into it.
    Used(u32),
    /// It is offered again.
    Kept,
    /// The same, and there is nothing for it now.
    Idle,
    /// The device has it, and gives it back later.
    Held,
}

/// Offers `each` the buffers of queue `index`, up to a `batch` of them, and tells the driver of those
/// used.
///
/// # Errors
/// [`Broken`] where the rings or a buffer make no sense.
pub fn work_off(
    active: &mut Activation,
    index: usize,
    batch: usize,
    mut each: impl FnMut(&GuestMemory, Chain<'_>) -> Result<Fate, Broken>,
) -> Result<Progress, Broken> {
    let memory = &active.memory;
    let queue = &mut active.queues[index];
    let mut progress = Progress::More;
    for _ in 0..batch {
        let Some(chain) = next_chain(queue, memory)? else {
            progress = Progress::Done;
            break;
        };
        let head = chain.head();
        match each(memory, chain)? {
            Fate::Used(length) => queue.add_used(memory, head, length)?,
            Fate::Kept => queue.put_back(head),
            Fate::Idle => {
                queue.put_back(head);
                progress = Progress::Done;
                break;
            }
            Fate::Held => {}
        }
    }
    if queue.needs_notification(memory)? {
        active.interrupts[index].signal();
    }
    Ok(progress)
}

/// Gives the driver a buffer back that the device [held](Fate::Held), and tells it.
///
/// # Errors
/// [`Broken`] where the rings make no sense.
pub fn give_back(active: &mut Activation, index: usize, head: Head) -> Result<(), Broken> {
    let (queue, memory) = (&mut active.queues[index], &active.memory);
    queue.add_used(memory, head, 0)?;
    if queue.needs_notification(memory)? {
        active.interrupts[index].signal();
    }
    Ok(())
}

/// Has an active device `work`, and comes back by `kick` where there is more to do. One whose driver
/// broke its queue stops.
pub fn turn(
    active: &mut Option<Activation>,
    kick: &EventFd,
    work: impl FnOnce(&mut Activation) -> Result<Progress, Broken>,
) {
    let Some(activation) = active else { return };
    match work(activation) {
        Ok(Progress::Done) => {}
        Ok(Progress::More) => {
            let _ = kick.write(1);
        }
        Err(Broken) => {
            activation.failure.report();
            *active = None;
        }
    }
}
