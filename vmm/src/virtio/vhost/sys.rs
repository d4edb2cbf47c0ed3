//! The calls of vhost, and of its devices (include/uapi/linux/vhost.h).

use std::fs::File;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::sync::Arc;

use vm_memory::{GuestMemoryBackend, GuestMemoryRegion};
use vmm_sys_util::eventfd::EventFd;
use vmm_sys_util::ioctl::{ioctl, ioctl_with_mut_ref, ioctl_with_ptr, ioctl_with_ref};

use super::Engine;
use crate::error::{Result, Trying};
use crate::machine::memory::GuestMemory;
use crate::virtio::net::taps::Taps;
use crate::virtio::tap::check;

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
const VHOST_VSOCK_SET_RUNNING: u64 = 0x4004_af61;

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

/// What is behind the queues, by which the kernel's devices differ.
pub trait Backend: Send + Sync {
    /// Lets it do what the device's driver takes.
    ///
    /// # Errors
    /// The kernel's.
    fn set_features(&self, features: u64) -> Result<()>;
    /// As [`Engine::set_running`].
    ///
    /// # Errors
    /// The kernel's.
    fn set_running(&self, vhost: &OwnedFd, runs: bool) -> Result<()>;
}

/// An open device of vhost that is ours, and knows the guest's memory.
pub struct Vhost<B> {
    file: OwnedFd,
    backend: B,
}

impl<B: Backend> Vhost<B> {
    /// Takes `file` for this process, and lets it reach `memory`.
    ///
    /// # Errors
    /// [`crate::error::Error::System`] where it is no vhost device, or is somebody's.
    pub fn new(file: OwnedFd, memory: &GuestMemory, backend: B) -> Result<Self> {
        // SAFETY: it takes no argument.
        check(unsafe { ioctl(&file, VHOST_SET_OWNER) }).system("take over vhost")?;
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
            .system("tell vhost of the guest's memory")?;
        Ok(Vhost { file, backend })
    }
}

impl<B> Vhost<B> {
    fn number(&self, request: u64, index: u32, number: u32, action: &'static str) -> Result<()> {
        // SAFETY: the structure outlives the call, which reads it only.
        check(unsafe { ioctl_with_ref(&self.file, request, &VringState { index, number }) })
            .system(action)
    }

    fn event(
        &self,
        request: u64,
        index: u32,
        event: Option<&EventFd>,
        action: &'static str,
    ) -> Result<()> {
        let descriptor = event.map_or(NONE, EventFd::as_raw_fd);
        // SAFETY: as above. Of the descriptor the kernel takes a reference of its own.
        check(unsafe { ioctl_with_ref(&self.file, request, &VringFile { index, descriptor }) })
            .system(action)
    }
}

impl<B: Backend> Engine for Vhost<B> {
    fn features(&self) -> Result<u64> {
        let mut features = 0u64;
        // SAFETY: the number outlives the call, which writes it only.
        check(unsafe { ioctl_with_mut_ref(&self.file, VHOST_GET_FEATURES, &mut features) })
            .system("ask vhost what it can do")?;
        Ok(features)
    }

    fn set_features(&self, own: u64, all: u64) -> Result<()> {
        // SAFETY: the number outlives the call, which reads it only.
        check(unsafe { ioctl_with_ref(&self.file, VHOST_SET_FEATURES, &own) })
            .system("agree on features with vhost")?;
        self.backend.set_features(all)
    }

    fn set_queue(&self, index: u32, rings: &Rings, kick: &EventFd, broken: &EventFd) -> Result<()> {
        let Rings { size, descriptors, available, used } = *rings;
        self.number(VHOST_SET_VRING_NUM, index, size, "tell vhost a queue's size")?;
        self.number(VHOST_SET_VRING_BASE, index, 0, "tell vhost where a queue begins")?;
        let address = VringAddress { index, flags: 0, descriptors, used, available, log: 0 };
        // SAFETY: the structure outlives the call, which reads it only. The kernel checks that the addresses
        // are this process' own, and that they are in the memory that it was told of.
        check(unsafe { ioctl_with_ref(&self.file, VHOST_SET_VRING_ADDR, &address) })
            .system("tell vhost where a queue is")?;
        self.event(VHOST_SET_VRING_KICK, index, Some(kick), "give vhost a queue's notification")?;
        self.event(VHOST_SET_VRING_ERR, index, Some(broken), "give vhost an event for errors")
    }

    fn set_call(&self, index: u32, call: Option<&EventFd>) -> Result<()> {
        self.event(VHOST_SET_VRING_CALL, index, call, "give vhost a queue's interrupt")
    }

    fn set_running(&self, runs: bool) -> Result<()> {
        self.backend.set_running(&self.file, runs)
    }
}

/// The TAP behind a pair of a network card's queues, which was prepared for that.
pub struct Tap {
    /// All descriptors of it.
    pub taps: Arc<Taps>,
    /// Which one is this pair's.
    pub pair: usize,
}

impl Backend for Tap {
    /// They are of the interface, and not of one of its descriptors.
    fn set_features(&self, features: u64) -> Result<()> {
        if self.pair == 0 { self.taps.set_offloads(features) } else { Ok(()) }
    }

    fn set_running(&self, vhost: &OwnedFd, runs: bool) -> Result<()> {
        let descriptor = self.taps.get(self.pair).filter(|_| runs).map_or(NONE, File::as_raw_fd);
        let set = |index| {
            // SAFETY: the structure outlives the call, which reads it only. Of the TAP the kernel takes a
            // reference of its own.
            let set = unsafe {
                ioctl_with_ref(vhost, VHOST_NET_SET_BACKEND, &VringFile { index, descriptor })
            };
            check(set).system("give vhost-net the TAP")
        };
        // None is left out because another failed.
        (0..2).map(set).fold(Ok(()), Result::and)
    }
}

/// The host's sockets, which need no preparation.
pub struct Sockets;

impl Backend for Sockets {
    fn set_features(&self, _: u64) -> Result<()> {
        Ok(())
    }

    fn set_running(&self, vhost: &OwnedFd, runs: bool) -> Result<()> {
        // SAFETY: the number outlives the call, which reads it only.
        check(unsafe { ioctl_with_ref(vhost, VHOST_VSOCK_SET_RUNNING, &i32::from(runs)) })
            .system("start or stop vhost-vsock")
    }
}
