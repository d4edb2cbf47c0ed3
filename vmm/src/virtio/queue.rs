//! What all devices do with their queues.

use virtio_queue::{DescriptorChain, Queue, QueueOwnedT, QueueT};
use vmm_sys_util::eventfd::EventFd;

use super::Activation;
use crate::machine::memory::GuestMemory;

/// The driver broke its queue: the device stops until it is reset.
#[derive(Debug)]
pub struct Broken;

impl From<virtio_queue::Error> for Broken {
    fn from(_: virtio_queue::Error) -> Self {
        Broken
    }
}

/// A buffer that the driver offers: descriptors one after the other.
pub type Chain<'a> = DescriptorChain<&'a GuestMemory>;

/// The next buffer the driver offers. Where there is none, it is asked to tell of the next.
///
/// # Errors
/// [`Broken`] where the rings make no sense, or the buffer has more descriptors than a queue of this
/// device may have entries (virtio 1.3, 2.7.5.3.1): with a table of 65,535 of them, each buffer would
/// keep other devices waiting for milliseconds.
pub fn next_chain<'a>(
    queue: &mut Queue,
    memory: &'a GuestMemory,
) -> Result<Option<Chain<'a>>, Broken> {
    let most = usize::from(queue.max_size());
    let checked = |chain: Chain<'a>| match chain.clone().nth(most) {
        None => Ok(chain),
        Some(_) => Err(Broken),
    };
    if let Some(chain) = queue.iter(memory)?.next() {
        return checked(chain).map(Some);
    }
    if !queue.enable_notification(memory)? {
        return Ok(None);
    }
    // One came just now. A driver that took it back since would keep us here for ever.
    queue.iter(memory)?.next().ok_or(Broken).and_then(checked).map(Some)
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
        let head = chain.head_index();
        match each(memory, chain)? {
            Fate::Used(length) => queue.add_used(memory, head, length)?,
            Fate::Kept => queue.go_to_previous_position(),
            Fate::Idle => {
                queue.go_to_previous_position();
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
pub fn give_back(active: &mut Activation, index: usize, head: u16) -> Result<(), Broken> {
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
