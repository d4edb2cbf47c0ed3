//! Groups and containers: the type1 interface.

use std::ffi::CString;
use std::fs::File;
use std::io;
use std::mem::size_of;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

use vfio_bindings::bindings::vfio::*;
use vmm_sys_util::ioctl::{
    ioctl, ioctl_with_mut_ref, ioctl_with_ptr, ioctl_with_ref, ioctl_with_val,
};

use super::{ask, ask_growing, check, find_capability, number, read_u32, read_u64};

const GET_API_VERSION: u64 = number(0);
const CHECK_EXTENSION: u64 = number(1);
const SET_IOMMU: u64 = number(2);
const GROUP_GET_STATUS: u64 = number(3);
const GROUP_SET_CONTAINER: u64 = number(4);
const GROUP_GET_DEVICE_FD: u64 = number(6);
const IOMMU_GET_INFO: u64 = number(12);
const IOMMU_MAP_DMA: u64 = number(13);
const IOMMU_UNMAP_DMA: u64 = number(14);

/// An open `/dev/vfio/vfio`: an I/O address space.
pub struct Container(OwnedFd);

impl Container {
    /// From an open descriptor.
    pub fn new(descriptor: OwnedFd) -> Self {
        Container(descriptor)
    }

    /// The interface's version, 0 so far.
    pub fn api_version(&self) -> io::Result<i32> {
        // SAFETY: takes no argument; on a descriptor of another kind it fails.
        check(unsafe { ioctl(&self.0, GET_API_VERSION) })
    }

    /// Whether it offers the type1 IOMMU interface, version 2.
    pub fn has_type1v2(&self) -> io::Result<bool> {
        // SAFETY: the argument is a plain number.
        let answer = unsafe { ioctl_with_val(&self.0, CHECK_EXTENSION, VFIO_TYPE1v2_IOMMU.into()) };
        check(answer).map(|answer| answer > 0)
    }

    /// Chooses the type1 interface, version 2. There must be a group in the container.
    pub fn set_type1v2(&self) -> io::Result<()> {
        // SAFETY: the argument is a plain number.
        check(unsafe { ioctl_with_val(&self.0, SET_IOMMU, VFIO_TYPE1v2_IOMMU.into()) }).map(drop)
    }

    /// The ranges of I/O addresses that devices can use, inclusive at both ends; none where the
    /// kernel does not say.
    pub fn iova_ranges(&self) -> io::Result<Vec<(u64, u64)>> {
        let answer = self.ask_with_capabilities::<vfio_iommu_type1_info>(IOMMU_GET_INFO)?;
        let flags = read_u32(&answer, 4);
        let first = read_u32(&answer, 16);
        if flags & VFIO_IOMMU_INFO_CAPS == 0 {
            return Ok(Vec::new());
        }
        let Some(at) = find_capability(&answer, first, VFIO_IOMMU_TYPE1_INFO_CAP_IOVA_RANGE) else {
            return Ok(Vec::new());
        };
        let count = read_u32(&answer, at + 8) as usize;
        let ranges = answer.get(at + 16..).unwrap_or_default().chunks_exact(16).take(count);
        Ok(ranges.map(|range| (read_u64(range, 0), read_u64(range, 8))).collect())
    }

    /// Lets devices of this container reach `size` bytes of this process's memory at `host` under
    /// I/O address `iova`, for reading and writing. The pages are pinned.
    ///
    /// # Safety
    /// The memory must stay mapped until the container is closed or the range is unmapped, and be
    /// such that a device may change it at any time.
    pub unsafe fn map(&self, iova: u64, host: *mut u8, size: u64) -> io::Result<()> {
        let request = vfio_iommu_type1_dma_map {
            argsz: size_of::<vfio_iommu_type1_dma_map>() as u32,
            flags: VFIO_DMA_MAP_FLAG_READ | VFIO_DMA_MAP_FLAG_WRITE,
            vaddr: host as u64,
            iova,
            size,
        };
        // SAFETY: the structure is complete and outlives the call; the caller vouches for the
        // memory it names.
        check(unsafe { ioctl_with_ref(&self.0, IOMMU_MAP_DMA, &request) }).map(drop)
    }

    /// Takes away what was mapped from `iova` on for `size` bytes: whole mappings only, of which
    /// there may be none. Returns how many bytes that were.
    pub fn unmap(&self, iova: u64, size: u64) -> io::Result<u64> {
        let mut request = vfio_iommu_type1_dma_unmap {
            argsz: size_of::<vfio_iommu_type1_dma_unmap>() as u32,
            iova,
            size,
            ..Default::default()
        };
        // SAFETY: the structure is complete and outlives the call, which takes no bitmap with these
        // flags, so nothing lies behind it.
        check(unsafe { ioctl_with_mut_ref(&self.0, IOMMU_UNMAP_DMA, &mut request) })?;
        Ok(request.size)
    }

    /// Asks once for the size, and again with room for the capabilities.
    fn ask_with_capabilities<T>(&self, request: u64) -> io::Result<Vec<u8>> {
        ask_growing(size_of::<T>(), |structure| ask(&self.0, request, structure))
    }
}

impl AsFd for Container {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// An open `/dev/vfio/GROUP`.
pub struct Group(OwnedFd);

impl Group {
    /// From an open descriptor.
    pub fn new(descriptor: OwnedFd) -> Self {
        Group(descriptor)
    }

    /// Whether every device of the group is bound to VFIO or to nothing.
    pub fn is_viable(&self) -> io::Result<bool> {
        let mut status =
            vfio_group_status { argsz: size_of::<vfio_group_status>() as u32, flags: 0 };
        // SAFETY: the structure is complete, as large as `argsz` says, and outlives the call.
        check(unsafe { ioctl_with_mut_ref(&self.0, GROUP_GET_STATUS, &mut status) })?;
        Ok(status.flags & VFIO_GROUP_FLAGS_VIABLE != 0)
    }

    /// Moves the group's devices into the container's address space.
    pub fn set_container(&self, container: &Container) -> io::Result<()> {
        let descriptor = container.0.as_raw_fd();
        // SAFETY: the argument points to a descriptor number that is open during the call.
        check(unsafe { ioctl_with_ref(&self.0, GROUP_SET_CONTAINER, &descriptor) }).map(drop)
    }

    /// Opens the device with this full PCI address. The kernel resets it where it can.
    pub fn device(&self, address: &str) -> io::Result<File> {
        let name = CString::new(address).map_err(io::Error::other)?;
        // SAFETY: the argument is a string ended by NUL that outlives the call.
        let number = check(unsafe { ioctl_with_ptr(&self.0, GROUP_GET_DEVICE_FD, name.as_ptr()) })?;
        // SAFETY: the kernel just returned this new descriptor to us alone.
        Ok(unsafe { File::from_raw_fd(number) })
    }
}

impl AsRawFd for Group {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_raw_fd()
    }
}
