//! Split rings (virtio 1.3, 2.7), by the crate `virtio-queue`.

use virtio_queue::{Queue, QueueOwnedT, QueueState, QueueT};

use super::Broken;
use super::chain::{Descriptor, Head};
use super::setup::Setup;
use crate::machine::memory::GuestMemory;

/// The device's side of a split ring.
#[derive(Debug)]
pub struct Ring(Queue);

impl Ring {
    /// Where the driver has put it.
    ///
    /// # Errors
    /// [`Broken`] where it is not all in memory, or not aligned, or of a size that is no power of two.
    pub fn new(setup: &Setup, event_idx: bool, memory: &GuestMemory) -> Result<Self, Broken> {
        let ring = Ring::unchecked(setup, event_idx)?;
        if ring.0.is_valid(memory) { Ok(ring) } else { Err(Broken) }
    }

    /// The same, wherever it may be.
    pub(super) fn unchecked(setup: &Setup, event_idx: bool) -> Result<Self, Broken> {
        let state = QueueState {
            max_size: setup.most,
            next_avail: 0,
            next_used: 0,
            event_idx_enabled: event_idx,
            size: setup.size,
            ready: setup.is_ready,
            desc_table: setup.descriptors,
            avail_ring: setup.driver,
            used_ring: setup.device,
        };
        Ok(Ring(Queue::try_from(state)?))
    }

    /// The next buffer, whose descriptors are put into `chain`, which is empty; none where there is none.
    ///
    /// # Errors
    /// [`Broken`] where the rings make no sense, or there are more than `most` descriptors.
    pub fn take(
        &mut self,
        memory: &GuestMemory,
        most: usize,
        chain: &mut Vec<Descriptor>,
    ) -> Result<Option<Head>, Broken> {
        let Some(found) = self.0.iter(memory)?.next() else { return Ok(None) };
        let head = Head { id: found.head_index(), entries: 1 };
        for descriptor in found {
            if chain.len() == most {
                return Err(Broken);
            }
            chain.push(Descriptor {
                address: descriptor.addr(),
                length: descriptor.len(),
                is_writable: descriptor.is_write_only(),
            });
        }
        Ok(Some(head))
    }

    /// Offers again what was taken last.
    pub fn put_back(&mut self) {
        self.0.go_to_previous_position();
    }

    /// Has the driver tell of the next buffer. Whether there is one already.
    ///
    /// # Errors
    /// [`Broken`] where the rings make no sense.
    pub fn ask_for_more(&mut self, memory: &GuestMemory) -> Result<bool, Broken> {
        Ok(self.0.enable_notification(memory)?)
    }

    /// Gives a buffer back, into which so many bytes were written.
    ///
    /// # Errors
    /// [`Broken`] where there is no such buffer.
    pub fn add_used(
        &mut self,
        memory: &GuestMemory,
        head: Head,
        length: u32,
    ) -> Result<(), Broken> {
        Ok(self.0.add_used(memory, head.id, length)?)
    }

    /// Whether the driver wants to be told of what was given back since this was asked last.
    ///
    /// # Errors
    /// [`Broken`] where the rings make no sense.
    pub fn needs_notification(&mut self, memory: &GuestMemory) -> Result<bool, Broken> {
        Ok(self.0.needs_notification(memory)?)
    }
}

impl From<virtio_queue::Error> for Broken {
    fn from(_: virtio_queue::Error) -> Self {
        Broken
    }
}
