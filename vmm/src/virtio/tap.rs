//! The calls that make a TAP speak as virtio-net does (include/uapi/linux/if_tun.h).

use std::io;
use std::os::fd::{AsFd, AsRawFd};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};
use vmm_sys_util::ioctl::{ioctl_with_ref, ioctl_with_val};

use crate::error::{Result, Trying};

const TUNSETOFFLOAD: u64 = 0x4004_54d0;
const TUNSETVNETHDRSZ: u64 = 0x4004_54d8;
const TUNSETQUEUE: u64 = 0x4004_54d9;
/// Frames go to this descriptor too, or do not any more.
const IFF_ATTACH_QUEUE: u16 = 0x0200;
const IFF_DETACH_QUEUE: u16 = 0x0400;

/// `struct ifreq` (uapi/linux/if.h), of which `TUNSETQUEUE` reads the flags.
#[repr(C)]
struct Request {
    name: [u8; 16],
    flags: u16,
    rest: [u8; 22],
}

/// Gives frames on `tap` a header of `header` bytes.
///
/// # Errors
/// [`crate::error::Error::System`] where the descriptor is not a TAP with `IFF_VNET_HDR`.
pub fn set_header(tap: &impl AsRawFd, header: i32) -> Result<()> {
    // SAFETY: the argument is an int that outlives the call.
    check(unsafe { ioctl_with_ref(tap, TUNSETVNETHDRSZ, &header) })
        .system("set the TAP's header size")
}

/// Has no call on `tap` block.
///
/// # Errors
/// The kernel's.
pub fn set_nonblocking(tap: &impl AsFd) -> Result<()> {
    let flags = fcntl_getfl(tap).system("read the TAP's flags")?;
    fcntl_setfl(tap, flags | OFlags::NONBLOCK).system("set the TAP's flags")
}

/// Lets the TAP leave to the guest what `offloads` says (`TUN_F` flags).
///
/// # Errors
/// The kernel's.
pub fn set_offloads(tap: &impl AsRawFd, offloads: u64) -> Result<()> {
    // SAFETY: the argument is a plain number.
    check(unsafe { ioctl_with_val(tap, TUNSETOFFLOAD, offloads) }).system("set the TAP's offloads")
}

/// Has the interface hand frames to this descriptor of several, or no more. It must be another way so far.
///
/// # Errors
/// The kernel's, such as that the interface was not made for several (`IFF_MULTI_QUEUE`).
pub fn set_queue(tap: &impl AsRawFd, is_used: bool) -> Result<()> {
    let flags = if is_used { IFF_ATTACH_QUEUE } else { IFF_DETACH_QUEUE };
    let request = Request { name: [0; 16], flags, rest: [0; 22] };
    // SAFETY: the argument is one `struct ifreq` of 40 bytes, which outlives the call.
    check(unsafe { ioctl_with_ref(tap, TUNSETQUEUE, &request) }).system("set a queue of the TAP")
}

/// Whether the interface is no more: whoever has its descriptor still can do nothing with it.
pub fn is_gone(tap: &impl AsFd) -> bool {
    let mut wanted = [PollFd::new(tap, PollFlags::empty())];
    let found = poll(&mut wanted, Some(&Timespec::default()));
    found.is_ok() && wanted[0].revents().contains(PollFlags::ERR)
}

/// Sends a frame that is in these pieces, each of which is memory that stays mapped. What a TAP does not
/// take is lost, as on a wire.
pub fn send(tap: &impl AsRawFd, pieces: &[libc::iovec]) {
    let count = pieces.len() as libc::c_int;
    // SAFETY: the pieces are memory of this process, which the call reads only; guest RAM among it is
    // mapped until the process ends, and nobody holds references into it.
    let _ = unsafe { libc::writev(tap.as_raw_fd(), pieces.as_ptr(), count) };
}

/// What an ioctl came to.
pub(super) fn check(result: i32) -> io::Result<()> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_request_is_as_large_as_the_kernels() {
        assert_eq!(size_of::<Request>(), 40);
    }
}
