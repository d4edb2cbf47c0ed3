//! The calls of vhost-net (include/uapi/linux/vhost.h).

use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd, RawFd};

use vm_memory::{GuestMemoryBackend, GuestMemoryRegion};
use vmm_sys_util::eventfd::EventFd;
use vmm_sys_util::ioctl::{ioctl, ioctl_with_mut_ref, ioctl_with_ptr, ioctl_with_ref};

use super::super::tap::{self, check};
use super::Engine;
use crate::error::{Result, Trying};
use crate::machine::memory::GuestMemory;

const VHOST_GET_FEATURES: u64 = 0x8008_af00;
const VHOST_SET_FEATURES: u64 = 0x4008_af00;
const VHOST_SET_OWNER: u64 = 0xaf01;
const VHOST_SET_MEM_TABLE: u64 = 0x4008_af03;
const VHOST_SET_VRING_NUM: u64 = 0x4008_af10;
const VHOST_SET_VRING_ADDR: u64 = 0x4028_af11;
const VHOST_SET_VRING_BASE: u64 = 0x4008_af12;
const VHOST_SET_VRING_KICK: u64 = 0x4008_af20;
const VHOST_SET_VRING_CALL: u64 = 0x4008_af21;
const VHOST_SET_VRING_ERR: u64 = 0x4008_af22;
const VHOST_NET_SET_BACKEND: u64 = 0x4008_af30;

/// In place of a descriptor: none.
const NONE: RawFd = -1;
/// Most ranges of memory, as the module has it unless it was told otherwise (`max_mem_regions`). A guest's
/// RAM has no more ([`crate::machine::layout`]).
const MOST_RANGES: usize = 64;

/// `struct vhost_vring_state`.
#[repr(C)]
struct VringState {
    index: u32,
    number: u32,
}

/// `struct vhost_vring_file`.
#[repr(C)]
struct VringFile {
    index: u32,
    descriptor: RawFd,
}

/// `struct vhost_vring_addr`.
#[repr(C)]
struct VringAddress {
    index: u32,
    flags: u32,
    descriptors: u64,
    used: u64,
    available: u64,
    log: u64,
}

/// `struct vhost_memory_region`.
#[repr(C)]
#[derive(Clone, Copy, Default)]
struct Range {
    guest: u64,
    size: u64,
    host: u64,
    flags: u64,
}

/// `struct vhost_memory`, with room for all ranges.
#[repr(C)]
struct Ranges {
    count: u32,
    padding: u32,
    ranges: [Range; MOST_RANGES],
}

/// A queue's place in this process, by addresses within guest RAM.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rings {
    /// Number of its entries.
    pub size: u32,
    /// Its descriptors.
    pub descriptors: u64,
    /// What the driver offers.
    pub available: u64,
    /// What it has back.
    pub used: u64,
}

/// An open `/dev/vhost-net` that is ours, and knows the guest's memory.
pub struct Vhost(OwnedFd);

impl Vhost {
    /// Takes `file` for this process, and lets it reach `memory`.
    ///
    /// # Errors
    /// [`crate::error::Error::System`] where it is no vhost device, or is somebody's.
    pub fn new(file: OwnedFd, memory: &GuestMemory) -> Result<Vhost> {
        // SAFETY: it takes no argument.
        check(unsafe { ioctl(&file, VHOST_SET_OWNER) }).system("take over vhost-net")?;
        let mut table = Ranges { count: 0, padding: 0, ranges: [Range::default(); MOST_RANGES] };
        for (place, region) in table.ranges.iter_mut().zip(memory.iter()) {
            *place = Range {
                guest: region.start_addr().0,
                size: region.len(),
                host: region.as_ptr() as u64,
                flags: 0,
            };
            table.count += 1;
        }
        // SAFETY: the table has as many ranges as it says, and outlives the call. The ranges are guest RAM,
        // which stays mapped until the process ends; the kernel writes to it as the guest does.
        check(unsafe { ioctl_with_ptr(&file, VHOST_SET_MEM_TABLE, &raw const table) })
            .system("tell vhost-net of the guest's memory")?;
        Ok(Vhost(file))
    }

    fn number(&self, request: u64, index: u32, number: u32, action: &'static str) -> Result<()> {
        // SAFETY: the structure outlives the call, which reads it only.
        check(unsafe { ioctl_with_ref(&self.0, request, &VringState { index, number }) })
            .system(action)
    }

    fn file(
        &self,
        request: u64,
        index: u32,
        descriptor: RawFd,
        action: &'static str,
    ) -> Result<()> {
        // SAFETY: as above. Of the descriptor the kernel takes a reference of its own.
        check(unsafe { ioctl_with_ref(&self.0, request, &VringFile { index, descriptor }) })
            .system(action)
    }
}

impl Engine for Vhost {
    fn features(&self) -> Result<u64> {
        let mut features = 0u64;
        // SAFETY: the number outlives the call, which writes it only.
        check(unsafe { ioctl_with_mut_ref(&self.0, VHOST_GET_FEATURES, &mut features) })
            .system("ask vhost-net what it can do")?;
        Ok(features)
    }

    fn set_features(&self, features: u64) -> Result<()> {
        // SAFETY: the number outlives the call, which reads it only.
        check(unsafe { ioctl_with_ref(&self.0, VHOST_SET_FEATURES, &features) })
            .system("agree on features with vhost-net")
    }

    fn set_offloads(&self, tap: &OwnedFd, offloads: u64) -> Result<()> {
        tap::set_offloads(tap, offloads)
    }

    fn set_queue(&self, index: u32, rings: &Rings, kick: &EventFd, broken: &EventFd) -> Result<()> {
        let Rings { size, descriptors, available, used } = *rings;
        self.number(VHOST_SET_VRING_NUM, index, size, "tell vhost-net a queue's size")?;
        self.number(VHOST_SET_VRING_BASE, index, 0, "tell vhost-net where a queue begins")?;
        let address = VringAddress { index, flags: 0, descriptors, used, available, log: 0 };
        // SAFETY: the structure outlives the call, which reads it only. The kernel checks that the addresses
        // are this process' own, and that they are in the memory that it was told of.
        check(unsafe { ioctl_with_ref(&self.0, VHOST_SET_VRING_ADDR, &address) })
            .system("tell vhost-net where a queue is")?;
        let kick = kick.as_raw_fd();
        self.file(VHOST_SET_VRING_KICK, index, kick, "give vhost-net a queue's notification")?;
        let broken = broken.as_raw_fd();
        self.file(VHOST_SET_VRING_ERR, index, broken, "give vhost-net an event for errors")
    }

    fn set_call(&self, index: u32, call: Option<&EventFd>) -> Result<()> {
        let call = call.map_or(NONE, EventFd::as_raw_fd);
        self.file(VHOST_SET_VRING_CALL, index, call, "give vhost-net a queue's interrupt")
    }

    fn set_tap(&self, index: u32, tap: Option<BorrowedFd<'_>>) -> Result<()> {
        let tap = tap.map_or(NONE, |tap| tap.as_raw_fd());
        self.file(VHOST_NET_SET_BACKEND, index, tap, "give vhost-net the TAP")
    }
}
