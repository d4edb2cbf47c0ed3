//! The system calls of VFIO and iommufd as safe methods on owned descriptors. The structures and
//! numbers are those of Linux's include/uapi/linux/vfio.h and iommufd.h.
//!
//! [`type1`] and [`iommufd`] are the two ways to a device and to the memory it reaches; [`device`]
//! is what both end in. Here is what they share: how an answer with capabilities is read.

pub mod device;
pub mod iommufd;
pub mod type1;

use std::io;
use std::os::fd::AsRawFd;

use vfio_bindings::bindings::vfio::{VFIO_BASE, VFIO_TYPE};
use vmm_sys_util::ioctl::ioctl_with_mut_ptr;

pub use self::device::{Device, InterruptInfo, Kernel, RegionInfo, Request, Traits};

const fn number(offset: u32) -> u64 {
    (VFIO_TYPE as u64) << 8 | (VFIO_BASE + offset) as u64
}

/// No answer with capabilities is larger than this: more is refused instead of allocated.
const ANSWER_MAX: usize = 64 << 10;

fn check(result: i32) -> io::Result<i32> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

/// Asks with a structure, in whose first word its length in bytes is filled in.
fn ask(descriptor: &impl AsRawFd, request: u64, structure: &mut [u8]) -> io::Result<i32> {
    let size = structure.len() as u32;
    structure[..4].copy_from_slice(&size.to_ne_bytes());
    // SAFETY: the structure is as long as its first word says and outlives the call; the kernel
    // copies bytes in and out, so alignment does not matter.
    check(unsafe { ioctl_with_mut_ptr(descriptor, request, structure.as_mut_ptr()) })
}

/// Asks with a structure of `size` bytes and, where the answer's first word says that it needs more
/// room for capabilities, once more with that.
fn ask_growing(size: usize, ask: impl Fn(&mut [u8]) -> io::Result<i32>) -> io::Result<Vec<u8>> {
    let mut wanted = size;
    for _ in 0..3 {
        let mut buffer = vec![0; wanted];
        ask(&mut buffer)?;
        let needed = read_u32(&buffer, 0) as usize;
        if needed <= wanted {
            return Ok(buffer);
        }
        if needed > ANSWER_MAX {
            break;
        }
        wanted = needed;
    }
    Err(io::Error::other("the kernel's answer does not fit"))
}

/// Offset of capability `id` in an answer; the chain is followed forwards only, so it ends.
fn find_capability(answer: &[u8], first: u32, id: u32) -> Option<usize> {
    let mut at = first as usize;
    while at != 0 && at + 8 <= answer.len() {
        let header = read_u32(answer, at);
        if header & 0xffff == id {
            return Some(at);
        }
        let next = read_u32(answer, at + 4) as usize;
        if next <= at {
            return None;
        }
        at = next;
    }
    None
}

fn read_u32(bytes: &[u8], at: usize) -> u32 {
    let word = bytes.get(at..at + 4).and_then(|word| word.try_into().ok());
    word.map_or(0, u32::from_ne_bytes)
}

fn read_u64(bytes: &[u8], at: usize) -> u64 {
    let word = bytes.get(at..at + 8).and_then(|word| word.try_into().ok());
    word.map_or(0, u64::from_ne_bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_capability_chain_that_turns_back_ends() {
        let mut answer = vec![0; 64];
        answer[32..36].copy_from_slice(&7u32.to_ne_bytes());
        answer[36..40].copy_from_slice(&32u32.to_ne_bytes());
        assert_eq!(find_capability(&answer, 32, 7), Some(32));
        assert_eq!(find_capability(&answer, 32, 1), None);
        assert_eq!(find_capability(&answer, 60, 7), None);
        assert_eq!(find_capability(&answer, 0, 7), None);
    }
}
