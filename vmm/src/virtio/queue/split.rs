//! Split rings (virtio 1.3, 2.7), by the crate `virtio-queue`.

use std::sync::atomic::{Ordering, fence};

use virtio_queue::{Queue, QueueOwnedT, QueueState, QueueT};
use vm_memory::{Bytes, GuestAddress};

use super::Broken;
use super::chain::{Descriptor, Head};
use super::setup::Setup;
use crate::machine::memory::GuestMemory;

/// The device's side of a split ring.
#[derive(Debug)]
pub struct Ring {
    queue: Queue,
    /// The index of used buffers when it was asked last whether the driver is to be told.
    told: u16,
}

impl Ring {
    /// Where the driver has put it.
    ///
    /// # Errors
    /// [`Broken`] where it is not all in memory, or not aligned, or of a size that is no power of two.
    pub fn new(setup: &Setup, event_idx: bool, memory: &GuestMemory) -> Result<Self, Broken> {
        let ring = Ring::unchecked(setup, event_idx)?;
        if ring.queue.is_valid(memory) { Ok(ring) } else { Err(Broken) }
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
        Ok(Ring { queue: Queue::try_from(state)?, told: 0 })
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
        let Some(found) = self.queue.iter(memory)?.next() else { return Ok(None) };
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
        self.queue.go_to_previous_position();
    }

    /// Has the driver tell of the next buffer. Whether there is one already.
    ///
    /// # Errors
    /// [`Broken`] where the rings make no sense.
    pub fn ask_for_more(&mut self, memory: &GuestMemory) -> Result<bool, Broken> {
        Ok(self.queue.enable_notification(memory)?)
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
        Ok(self.queue.add_used(memory, head.id, length)?)
    }

    /// Gives several buffers back, of which the driver sees none before all.
    ///
    /// # Errors
    /// [`Broken`] where there is no such buffer.
    pub fn add_used_together(
        &mut self,
        memory: &GuestMemory,
        used: &[(Head, u32)],
    ) -> Result<(), Broken> {
        let Some((&(last, length), others)) = used.split_last() else { return Ok(()) };
        let (first, size) = (self.queue.next_used(), self.queue.size());
        for (at, (head, length)) in (0u16..).zip(others) {
            if head.id >= size {
                return Err(Broken);
            }
            let place = u64::from(first.wrapping_add(at) % size);
            let entry = [u32::from(head.id).to_le_bytes(), length.to_le_bytes()];
            let address = self.queue.used_ring().checked_add(4 + 8 * place).ok_or(Broken)?;
            memory.write_slice(entry.as_flattened(), GuestAddress(address)).map_err(|_| Broken)?;
        }
        // The index moves on with the last one only.
        self.queue.set_next_used(first.wrapping_add(others.len() as u16));
        self.add_used(memory, last, length)
    }

    /// Whether the driver wants to be told of what was given back since this was asked last. Not by the
    /// crate's own count, which knows nothing of what was given back together.
    ///
    /// # Errors
    /// [`Broken`] where the rings make no sense.
    pub fn needs_notification(&mut self, memory: &GuestMemory) -> Result<bool, Broken> {
        let now = self.queue.next_used();
        let before = std::mem::replace(&mut self.told, now);
        if now == before || !self.queue.event_idx_enabled() {
            return Ok(now != before);
        }
        // What was given back is to be seen before it is asked (virtio 1.3, 2.7.10).
        fence(Ordering::SeqCst);
        let behind = 4 + 2 * u64::from(self.queue.size());
        let address = self.queue.avail_ring().checked_add(behind).ok_or(Broken)?;
        let event = memory.load(GuestAddress(address), Ordering::Relaxed).map_err(|_| Broken)?;
        let event = u16::from_le(event);
        Ok(now.wrapping_sub(event).wrapping_sub(1) < now.wrapping_sub(before))
    }
}

impl From<virtio_queue::Error> for Broken {
    fn from(_: virtio_queue::Error) -> Self {
        Broken
    }
}
