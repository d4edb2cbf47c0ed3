//! VFIO's system calls as safe methods on owned descriptors. The structures and numbers are those
//! of Linux's include/uapi/linux/vfio.h.

use std::ffi::CString;
use std::fs::File;
use std::io;
use std::mem::size_of;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::fs::FileExt;

use vfio_bindings::bindings::vfio::*;
use vmm_sys_util::eventfd::EventFd;
use vmm_sys_util::ioctl::{
    ioctl, ioctl_with_mut_ptr, ioctl_with_mut_ref, ioctl_with_ptr, ioctl_with_ref, ioctl_with_val,
};

const fn number(offset: u32) -> u64 {
    (VFIO_TYPE as u64) << 8 | (VFIO_BASE + offset) as u64
}

const GET_API_VERSION: u64 = number(0);
const CHECK_EXTENSION: u64 = number(1);
const SET_IOMMU: u64 = number(2);
const GROUP_GET_STATUS: u64 = number(3);
const GROUP_SET_CONTAINER: u64 = number(4);
const GROUP_GET_DEVICE_FD: u64 = number(6);
const DEVICE_GET_INFO: u64 = number(7);
const DEVICE_GET_REGION_INFO: u64 = number(8);
const DEVICE_GET_IRQ_INFO: u64 = number(9);
const DEVICE_SET_IRQS: u64 = number(10);
const IOMMU_GET_INFO: u64 = number(12);
const IOMMU_MAP_DMA: u64 = number(13);

/// No answer with capabilities is larger than this: more is refused instead of allocated.
const ANSWER_MAX: usize = 64 << 10;

fn check(result: i32) -> io::Result<i32> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

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

    /// Asks once for the size, and again with room for the capabilities.
    fn ask_with_capabilities<T>(&self, request: u64) -> io::Result<Vec<u8>> {
        ask_growing(&self.0, request, size_of::<T>(), |_| {})
    }
}

impl AsFd for Container {
    fn as_fd(&self) -> std::os::fd::BorrowedFd<'_> {
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
    pub fn device(&self, address: &str) -> io::Result<Device> {
        let name = CString::new(address).map_err(io::Error::other)?;
        // SAFETY: the argument is a string ended by NUL that outlives the call.
        let number = check(unsafe { ioctl_with_ptr(&self.0, GROUP_GET_DEVICE_FD, name.as_ptr()) })?;
        // SAFETY: the kernel just returned this new descriptor to us alone.
        Ok(Device(unsafe { File::from_raw_fd(number) }))
    }
}

impl AsRawFd for Group {
    fn as_raw_fd(&self) -> std::os::fd::RawFd {
        self.0.as_raw_fd()
    }
}

/// A part of a device that can be read and written at an offset of its descriptor.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RegionInfo {
    /// Bytes; 0 where the region does not exist.
    pub size: u64,
    /// Where it begins in the device's descriptor.
    pub offset: u64,
    /// The ranges of it that can be mapped: offset within the region and size, in bytes.
    pub mappable: Vec<(u64, u64)>,
}

/// An interrupt index of a device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct InterruptInfo {
    /// Vectors.
    pub count: u32,
    /// Vectors can be added while others are enabled.
    pub dynamic: bool,
}

/// An open VFIO device.
pub struct Device(File);

impl Device {
    /// Whether it is a PCI device.
    pub fn is_pci(&self) -> io::Result<bool> {
        let mut info =
            vfio_device_info { argsz: size_of::<vfio_device_info>() as u32, ..Default::default() };
        // SAFETY: the structure is complete, as large as `argsz` says, and outlives the call.
        check(unsafe { ioctl_with_mut_ref(&self.0, DEVICE_GET_INFO, &mut info) })?;
        Ok(info.flags & VFIO_DEVICE_FLAGS_PCI != 0)
    }

    /// Describes region `index`.
    pub fn region(&self, index: u32) -> io::Result<RegionInfo> {
        let size = size_of::<vfio_region_info>();
        let answer = ask_growing(&self.0, DEVICE_GET_REGION_INFO, size, |request| {
            request[8..12].copy_from_slice(&index.to_ne_bytes());
        })?;
        let (flags, first) = (read_u32(&answer, 4), read_u32(&answer, 12));
        let (length, offset) = (read_u64(&answer, 16), read_u64(&answer, 24));
        let mut mappable = Vec::new();
        if flags & VFIO_REGION_INFO_FLAG_MMAP != 0 {
            mappable.push((0, length));
            if flags & VFIO_REGION_INFO_FLAG_CAPS != 0
                && let Some(at) = find_capability(&answer, first, VFIO_REGION_INFO_CAP_SPARSE_MMAP)
            {
                let count = read_u32(&answer, at + 8) as usize;
                let areas = answer.get(at + 16..).unwrap_or_default();
                mappable = areas
                    .chunks_exact(16)
                    .take(count)
                    .map(|area| (read_u64(area, 0), read_u64(area, 8)))
                    .filter(|(start, size)| {
                        start.checked_add(*size).is_some_and(|end| end <= length)
                    })
                    .collect();
            }
        }
        Ok(RegionInfo { size: length, offset, mappable })
    }

    /// Describes interrupt index `index`.
    pub fn interrupt(&self, index: u32) -> io::Result<InterruptInfo> {
        let mut info =
            vfio_irq_info { argsz: size_of::<vfio_irq_info>() as u32, index, ..Default::default() };
        // SAFETY: the structure is complete, as large as `argsz` says, and outlives the call.
        check(unsafe { ioctl_with_mut_ref(&self.0, DEVICE_GET_IRQ_INFO, &mut info) })?;
        Ok(InterruptInfo { count: info.count, dynamic: info.flags & VFIO_IRQ_INFO_NORESIZE == 0 })
    }

    /// Lets the device signal `events`, from vector `start` of `index` on; `None` leaves a vector
    /// silent. The first call for an index enables it.
    pub fn enable_interrupts(
        &self,
        index: u32,
        start: u32,
        events: &[Option<&EventFd>],
    ) -> io::Result<()> {
        let descriptors = events.iter().map(|event| event.map_or(-1, |event| event.as_raw_fd()));
        let data: Vec<u8> = descriptors.flat_map(i32::to_ne_bytes).collect();
        let flags = VFIO_IRQ_SET_DATA_EVENTFD | VFIO_IRQ_SET_ACTION_TRIGGER;
        self.set_interrupts(index, flags, start, events.len() as u32, &data)
    }

    /// Disables all vectors of `index`.
    pub fn disable_interrupts(&self, index: u32) -> io::Result<()> {
        let flags = VFIO_IRQ_SET_DATA_NONE | VFIO_IRQ_SET_ACTION_TRIGGER;
        self.set_interrupts(index, flags, 0, 0, &[])
    }

    /// Lets the device signal `event` when its INTx line is asserted; the line is masked then.
    pub fn enable_line(&self, event: &EventFd) -> io::Result<()> {
        self.enable_interrupts(VFIO_PCI_INTX_IRQ_INDEX, 0, &[Some(event)])
    }

    /// Unmasks the INTx line whenever `event` is signalled.
    pub fn unmask_line_by(&self, event: &EventFd) -> io::Result<()> {
        let flags = VFIO_IRQ_SET_DATA_EVENTFD | VFIO_IRQ_SET_ACTION_UNMASK;
        let data = event.as_raw_fd().to_ne_bytes();
        self.set_interrupts(VFIO_PCI_INTX_IRQ_INDEX, flags, 0, 1, &data)
    }

    /// Disables the INTx line.
    pub fn disable_line(&self) -> io::Result<()> {
        self.disable_interrupts(VFIO_PCI_INTX_IRQ_INDEX)
    }

    fn set_interrupts(
        &self,
        index: u32,
        flags: u32,
        start: u32,
        count: u32,
        data: &[u8],
    ) -> io::Result<()> {
        let size = size_of::<vfio_irq_set>() + data.len();
        let mut request = Vec::with_capacity(size);
        for word in [size as u32, flags, index, start, count] {
            request.extend_from_slice(&word.to_ne_bytes());
        }
        request.extend_from_slice(data);
        // SAFETY: the request is as long as its first word says and outlives the call; the
        // kernel copies it byte by byte, so alignment does not matter.
        check(unsafe { ioctl_with_ptr(&self.0, DEVICE_SET_IRQS, request.as_ptr()) }).map(drop)
    }

    /// Reads exactly `data.len()` bytes at `offset` of the descriptor.
    pub fn read(&self, offset: u64, data: &mut [u8]) -> io::Result<()> {
        self.0.read_exact_at(data, offset)
    }

    /// Writes all of `data` at `offset` of the descriptor.
    pub fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.0.write_all_at(data, offset)
    }
}

impl AsFd for Device {
    fn as_fd(&self) -> std::os::fd::BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// Asks with a structure of `size` bytes whose first word is its size, and, where the answer says
/// that it needs more room for capabilities, once more with that.
fn ask_growing(
    descriptor: &impl AsRawFd,
    request: u64,
    size: usize,
    fill: impl Fn(&mut [u8]),
) -> io::Result<Vec<u8>> {
    let mut wanted = size;
    for _ in 0..3 {
        let mut buffer = vec![0; wanted];
        buffer[..4].copy_from_slice(&(wanted as u32).to_ne_bytes());
        fill(&mut buffer);
        // SAFETY: the buffer is as long as its first word says and outlives the call; the kernel
        // copies bytes in and out, so alignment does not matter.
        check(unsafe { ioctl_with_mut_ptr(descriptor, request, buffer.as_mut_ptr()) })?;
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
