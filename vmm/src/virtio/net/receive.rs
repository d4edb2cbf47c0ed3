//! Frames from the TAP into the guest's buffers (virtio 1.3, 5.1.6.4).
//!
//! ```text
//! TAP ─ frame ─ a buffer, and another one, where a frame may be in several ─ all given back at once
//! ```
//! A frame is read once there is a buffer for it, so that others wait in the TAP. One for which the buffers
//! do not last waits here for the next ones.

use std::fs::File;
use std::io::{ErrorKind, Read};

use vm_memory::{Bytes, GuestAddress};

use super::{BATCH, FRAME_MAX, HEADER, feature};
use crate::machine::memory::GuestMemory;
use crate::virtio::Activation;
use crate::virtio::queue::{Broken, Chain, Head, Progress, next_chain};

/// Where the number of buffers is in the header (`num_buffers`, 2 bytes).
const NUM_BUFFERS: usize = 10;
/// Bytes that are moved before other devices get their turn.
const MOST_BYTES: usize = 1 << 20;

/// Of `flags` in the header: the checksum is not filled in.
const NEEDS_CSUM: u8 = 1;
/// Of `gso_type`: what the segment is that is larger than a frame.
const GSO_TCPV4: u8 = 1;
const GSO_TCPV6: u8 = 4;
const GSO_ECN: u8 = 0x80;

/// A frame on its way.
pub struct Arriving {
    frame: Box<[u8]>,
    /// Its bytes, with the header: 0 where there is none.
    length: usize,
    /// How many of them are in buffers.
    placed: usize,
    /// Those buffers: their heads, and how many bytes are in each.
    parts: Vec<(Head, u32)>,
    /// Where in guest memory both bytes of the number of buffers are.
    count_at: [GuestAddress; 2],
}

impl Default for Arriving {
    /// None yet.
    fn default() -> Arriving {
        Arriving {
            frame: vec![0; FRAME_MAX].into_boxed_slice(),
            length: 0,
            placed: 0,
            parts: Vec::new(),
            count_at: [GuestAddress(0); 2],
        }
    }
}

impl Arriving {
    /// What was on its way is lost.
    pub fn clear(&mut self) {
        self.length = 0;
        self.placed = 0;
        self.parts.clear();
    }

    /// Reads a frame that the driver takes; whether there was one.
    fn read(&mut self, mut tap: &File, features: u64) -> bool {
        for _ in 0..BATCH {
            let length = match tap.read(&mut self.frame) {
                Ok(0) => return false,
                Ok(length) => length,
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                Err(_) => return false,
            };
            if let Some((header, frame)) = self.frame[..length].split_first_chunk_mut()
                && !frame.is_empty()
                && make_fit(header, features)
            {
                self.clear();
                self.length = length;
                return true;
            }
        }
        false
    }

    /// Puts what is left of the frame into `chain`, as much as there is room for.
    fn place(&mut self, memory: &GuestMemory, chain: Chain<'_>) -> Result<(), Broken> {
        let (head, before) = (chain.head(), self.placed);
        for descriptor in chain.writable() {
            let left = &self.frame[self.placed..self.length];
            let now = &left[..left.len().min(descriptor.length as usize)];
            if now.is_empty() {
                continue;
            }
            memory.write_slice(now, descriptor.address).map_err(|_| Broken)?;
            for (at, place) in (NUM_BUFFERS..).zip(&mut self.count_at) {
                let within = at.checked_sub(self.placed).filter(|within| *within < now.len());
                if let Some(within) = within {
                    // It was just written to.
                    *place = GuestAddress(descriptor.address.0 + within as u64);
                }
            }
            self.placed += now.len();
        }
        self.parts.push((head, (self.placed - before) as u32));
        Ok(())
    }

    /// Says in the header in how many buffers the frame is.
    fn count(&self, memory: &GuestMemory) -> Result<(), Broken> {
        // No more than the queue has entries.
        let count = (self.parts.len() as u16).to_le_bytes();
        let mut each = self.count_at.iter().zip(count);
        each.try_for_each(|(at, byte)| memory.write_obj(byte, *at)).map_err(|_| Broken)
    }
}

/// Makes the header of a frame one for a driver with these features; whether that takes the frame. Frames
/// that another driver would have taken may wait in the TAP still.
fn make_fit(header: &mut [u8; HEADER], features: u64) -> bool {
    let [flags, kind, ..] = *header;
    let has = |feature| features & feature != 0;
    let fits = match kind & !GSO_ECN {
        0 => kind == 0,
        GSO_TCPV4 => has(feature::GUEST_TSO4),
        GSO_TCPV6 => has(feature::GUEST_TSO6),
        _ => false,
    };
    let fits = fits && (kind & GSO_ECN == 0 || has(feature::GUEST_ECN));
    if !has(feature::GUEST_CSUM) {
        header.fill(0);
    }
    header[NUM_BUFFERS..].copy_from_slice(&1u16.to_le_bytes());
    fits && (flags & NEEDS_CSUM == 0 || has(feature::GUEST_CSUM))
}

/// Moves frames from `tap` into the buffers of queue `index`.
///
/// # Errors
/// [`Broken`] where the rings or a buffer make no sense.
pub fn receive(
    active: &mut Activation,
    index: usize,
    tap: &File,
    arriving: &mut Arriving,
) -> Result<Progress, Broken> {
    let Activation { features, queues, interrupts, memory, .. } = active;
    let (queue, several) = (&mut queues[index], *features & feature::MRG_RXBUF != 0);
    let (mut progress, mut bytes) = (Progress::More, 0);
    for _ in 0..BATCH {
        let Some(chain) = next_chain(queue, memory)? else {
            progress = Progress::Done;
            break;
        };
        let head = chain.head();
        if arriving.length == 0 && !arriving.read(tap, *features) {
            queue.put_back(head);
            progress = Progress::Done;
            break;
        }
        arriving.place(memory, chain)?;
        if arriving.placed == arriving.length {
            arriving.count(memory)?;
            queue.add_used_together(memory, &arriving.parts)?;
        } else if !several {
            // Too small a buffer for this frame: the frame is lost, the buffer is not.
            queue.put_back(head);
        } else if arriving.parts.len() < usize::from(queue.setup().size) {
            continue;
        } else {
            // It has offered more buffers than it has entries, or such that hold nothing.
            return Err(Broken);
        }
        bytes += arriving.placed;
        arriving.clear();
        if bytes >= MOST_BYTES {
            break;
        }
    }
    if queue.needs_notification(memory)? {
        interrupts[index].signal();
    }
    Ok(progress)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_driver_gets_no_frame_of_a_kind_that_it_does_not_take() {
        let tso = feature::GUEST_CSUM | feature::GUEST_TSO4;
        for (flags, kind, features, fits) in [
            (0, 0, 0, true),
            (2, 0, 0, true),
            (NEEDS_CSUM, 0, 0, false),
            (NEEDS_CSUM, 0, feature::GUEST_CSUM, true),
            (NEEDS_CSUM, GSO_TCPV4, feature::GUEST_CSUM, false),
            (NEEDS_CSUM, GSO_TCPV4, tso, true),
            (NEEDS_CSUM, GSO_TCPV6, tso, false),
            (NEEDS_CSUM, GSO_TCPV4 | GSO_ECN, tso, false),
            (NEEDS_CSUM, GSO_TCPV4 | GSO_ECN, tso | feature::GUEST_ECN, true),
            (0, GSO_ECN, u64::MAX, false),
            (0, 3, u64::MAX, false),
        ] {
            let mut header = [7; HEADER];
            (header[0], header[1]) = (flags, kind);
            assert_eq!(make_fit(&mut header, features), fits, "{flags} {kind} {features:#x}");
            let takes = features & feature::GUEST_CSUM != 0;
            let rest = if takes { [flags, kind, 7] } else { [0; 3] };
            assert_eq!((&header[..3], &header[10..]), (&rest[..], &[1, 0][..]));
        }
    }
}
