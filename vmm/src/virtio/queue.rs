//! What all devices do with their queues.

use virtio_queue::{DescriptorChain, Queue, QueueOwnedT, QueueT};

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
/// [`Broken`] where the rings make no sense.
pub fn next_chain<'a>(
    queue: &mut Queue,
    memory: &'a GuestMemory,
) -> Result<Option<Chain<'a>>, Broken> {
    if let Some(chain) = queue.iter(memory)?.next() {
        return Ok(Some(chain));
    }
    if !queue.enable_notification(memory)? {
        return Ok(None);
    }
    // One came just now. A driver that took it back since would keep us here for ever.
    queue.iter(memory)?.next().map(Some).ok_or(Broken)
}
