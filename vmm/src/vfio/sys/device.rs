//! An open device, however it was opened: its regions and interrupts.

use std::any::Any;
use std::fs::File;
use std::io;
use std::mem::size_of;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use vfio_bindings::bindings::vfio::*;
use vmm_sys_util::eventfd::EventFd;

use super::{ask, ask_growing, find_capability, number, read_u32, read_u64};

/// What a device is asked by ioctl. The structure of each begins with its own length.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u64)]
pub enum Request {
    /// `vfio_device_info`.
    Describe = number(7),
    /// `vfio_region_info`.
    DescribeRegion = number(8),
    /// `vfio_irq_info`.
    DescribeInterrupt = number(9),
    /// `vfio_irq_set`.
    SetInterrupts = number(10),
}

/// The kernel behind an open device's descriptor, which is what can be mapped of it.
pub trait Kernel: AsFd + Send + Sync {
    /// Makes `request` of `structure`, in whose first word its length is filled in, and which is
    /// answered in place.
    ///
    /// # Errors
    /// The kernel's.
    fn ask(&self, request: Request, structure: &mut [u8]) -> io::Result<i32>;

    /// Reads exactly `data.len()` bytes at `offset` of the descriptor.
    ///
    /// # Errors
    /// The kernel's.
    fn read(&self, offset: u64, data: &mut [u8]) -> io::Result<()>;

    /// Writes all of `data` at `offset` of the descriptor.
    ///
    /// # Errors
    /// The kernel's.
    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()>;
}

impl Kernel for File {
    fn ask(&self, request: Request, structure: &mut [u8]) -> io::Result<i32> {
        ask(self, request as u64, structure)
    }

    fn read(&self, offset: u64, data: &mut [u8]) -> io::Result<()> {
        self.read_exact_at(data, offset)
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.write_all_at(data, offset)
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

/// What a device is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Traits {
    /// A PCI device.
    pub is_pci: bool,
    /// It was reset when it was opened, and can be again.
    pub resets: bool,
}

/// An open VFIO device. Dropped, it is closed before what it was opened by, as the kernel insists.
pub struct Device {
    kernel: Box<dyn Kernel>,
    _opened_by: Arc<dyn Any + Send + Sync>,
}

impl Device {
    /// From an open descriptor, and what must stay as long as that is open.
    pub fn new(file: impl Kernel + 'static, opened_by: Arc<dyn Any + Send + Sync>) -> Self {
        Device { kernel: Box::new(file), _opened_by: opened_by }
    }

    /// What it is.
    pub fn describe(&self) -> io::Result<Traits> {
        let mut answer = [0; size_of::<vfio_device_info>()];
        self.kernel.ask(Request::Describe, &mut answer)?;
        let flags = read_u32(&answer, 4);
        Ok(Traits {
            is_pci: flags & VFIO_DEVICE_FLAGS_PCI != 0,
            resets: flags & VFIO_DEVICE_FLAGS_RESET != 0,
        })
    }

    /// Describes region `index`.
    pub fn region(&self, index: u32) -> io::Result<RegionInfo> {
        let size = size_of::<vfio_region_info>();
        let answer = ask_growing(size, |structure| {
            structure[8..12].copy_from_slice(&index.to_ne_bytes());
            self.kernel.ask(Request::DescribeRegion, structure)
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
        let mut answer = [0; size_of::<vfio_irq_info>()];
        answer[8..12].copy_from_slice(&index.to_ne_bytes());
        self.kernel.ask(Request::DescribeInterrupt, &mut answer)?;
        let (flags, count) = (read_u32(&answer, 4), read_u32(&answer, 12));
        Ok(InterruptInfo { count, dynamic: flags & VFIO_IRQ_INFO_NORESIZE == 0 })
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
        for word in [0, flags, index, start, count] {
            request.extend_from_slice(&word.to_ne_bytes());
        }
        request.extend_from_slice(data);
        granted(self.kernel.ask(Request::SetInterrupts, &mut request)?)
    }

    /// Reads exactly `data.len()` bytes at `offset` of the descriptor.
    pub fn read(&self, offset: u64, data: &mut [u8]) -> io::Result<()> {
        self.kernel.read(offset, data)
    }

    /// Writes all of `data` at `offset` of the descriptor.
    pub fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.kernel.write(offset, data)
    }
}

/// What the kernel answered to a request for vectors: where it can have fewer only, their number, and
/// then it has enabled none (Linux drivers/vfio/pci/vfio_pci_intrs.c, `vfio_msi_enable`).
fn granted(answer: i32) -> io::Result<()> {
    match answer {
        0 => Ok(()),
        fewer => Err(io::Error::other(format!("the host can give it {fewer} vectors only"))),
    }
}

impl AsFd for Device {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.kernel.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fewer_vectors_than_asked_for_are_none() {
        granted(0).unwrap();
        let error = granted(3).unwrap_err().to_string();
        assert!(error.contains("3 vectors only"), "{error}");
    }
}
