//! The calls that make a TAP speak as virtio-net does (include/uapi/linux/if_tun.h).

use std::io;
use std::os::fd::OwnedFd;

use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};
use vmm_sys_util::ioctl::{ioctl_with_ref, ioctl_with_val};

use crate::error::{Result, Trying};

const TUNSETOFFLOAD: u64 = 0x4004_54d0;
const TUNSETVNETHDRSZ: u64 = 0x4004_54d8;

/// Gives frames on `tap` a header of `header` bytes, without offloads, and never blocks.
///
/// # Errors
/// [`crate::error::Error::System`] where the descriptor is not a TAP with `IFF_VNET_HDR`.
pub fn prepare(tap: &OwnedFd, header: i32) -> Result<()> {
    // SAFETY: the argument is an int that outlives the call.
    check(unsafe { ioctl_with_ref(tap, TUNSETVNETHDRSZ, &header) })
        .system("set the TAP's header size")?;
    set_offloads(tap, 0)?;
    let flags = fcntl_getfl(tap).system("read the TAP's flags")?;
    fcntl_setfl(tap, flags | OFlags::NONBLOCK).system("set the TAP's flags")
}

/// Lets the TAP leave to the guest what `offloads` says (`TUN_F` flags).
///
/// # Errors
/// The kernel's.
pub fn set_offloads(tap: &OwnedFd, offloads: u64) -> Result<()> {
    // SAFETY: the argument is a plain number.
    check(unsafe { ioctl_with_val(tap, TUNSETOFFLOAD, offloads) }).system("set the TAP's offloads")
}

/// What an ioctl came to.
pub(super) fn check(result: i32) -> io::Result<()> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}
