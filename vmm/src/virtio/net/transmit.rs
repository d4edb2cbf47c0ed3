//! Frames from the guest's buffers to the TAP (virtio 1.3, 5.1.6.2).
//!
//! A frame goes out of guest memory as it is there. Its header is copied first, so that what was looked at is
//! what is sent; what it asks of the TAP the kernel checks, which trusts it as little as we do.

use std::fs::File;

use vm_memory::{Bytes, GuestMemoryBackend};

use super::{BATCH, FRAME_MAX, HEADER, feature};
use crate::machine::memory::GuestMemory;
use crate::virtio::queue::{Broken, Chain, Fate, Progress, work_off};
use crate::virtio::{Activation, tap};

/// Moves frames from the buffers of queue `index` to `tap`.
///
/// # Errors
/// [`Broken`] where the rings or a buffer make no sense.
pub fn transmit(active: &mut Activation, index: usize, to: &File) -> Result<Progress, Broken> {
    let features = active.features;
    let mut pieces = Vec::new();
    work_off(active, index, BATCH, |memory, chain| {
        let mut header = [0; HEADER];
        let length = gather(memory, chain, &mut header, &mut pieces)?;
        if features & feature::CSUM == 0 {
            // No offload was agreed on, so the header says nothing; the TAP must not be told otherwise by a
            // guest that sets it all the same.
            header.fill(0);
        }
        if (1..=FRAME_MAX - HEADER).contains(&length) {
            // The first piece was left for it.
            pieces[0] = piece(header.as_ptr(), HEADER);
            tap::send(to, &pieces);
        }
        Ok(Fate::Used(0))
    })
}

fn piece(at: *const u8, length: usize) -> libc::iovec {
    libc::iovec { iov_base: at.cast_mut().cast(), iov_len: length }
}

/// Copies the header of a frame, and lists the pieces of the rest behind one that is left for the header. The
/// number of bytes in these, which is 0 also where the header is not whole.
fn gather(
    memory: &GuestMemory,
    chain: Chain<'_>,
    header: &mut [u8; HEADER],
    pieces: &mut Vec<libc::iovec>,
) -> Result<usize, Broken> {
    pieces.clear();
    pieces.push(piece(std::ptr::null(), 0));
    let (mut left, mut length) = (&mut header[..], 0);
    for descriptor in chain.readable() {
        let (address, whole) = (descriptor.address, descriptor.length as usize);
        let (now, later) = left.split_at_mut(whole.min(left.len()));
        memory.read_slice(now, address).map_err(|_| Broken)?;
        let rest = whole - now.len();
        if rest > 0 {
            let address = address.0.checked_add(now.len() as u64).ok_or(Broken)?;
            let slice = memory.get_slice(vm_memory::GuestAddress(address), rest);
            let slice = slice.map_err(|_| Broken)?;
            pieces.push(piece(slice.ptr_guard().as_ptr(), rest));
            length += rest;
        }
        left = later;
    }
    Ok(if left.is_empty() { length } else { 0 })
}
