//! A device in this process's own hands, without a guest: to show what its DMA reaches.
//!
//! ```text
//! files ─► Probe: opened, which resets it ─► registers, bus mastering ─► Pages mapped, unmapped
//!                                                              dropped: closed, which resets it
//! ```
//! What a device may change is kept in [`Pages`], which outlive their mapping: dropped, a probe closes
//! the device before it lets go of them.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::ptr::NonNull;
use std::sync::Arc;

use rustix::mm::{MapFlags, ProtFlags, mmap, munmap};
use vfio_bindings::bindings::vfio::VFIO_PCI_CONFIG_REGION_INDEX;
use vm_memory::{Bytes, MmapRegion, VolatileMemory};

use super::dma::{failed, page_size};
use super::sys::iommufd::{AddressSpace, Cdev};
use super::sys::type1::{Container, Group};
use super::sys::{Device, RegionInfo};
use crate::error::Result;

/// Offset of the command register and its bits (PCI Local Bus 3.0, section 6.2.2).
const COMMAND: u64 = 4;
const COMMAND_MEMORY: u16 = 1 << 1;
const COMMAND_MASTER: u16 = 1 << 2;

/// The open files by which a device is had.
#[derive(Debug)]
pub enum Files {
    /// `/dev/vfio/vfio` and `/dev/vfio/GROUP`.
    Type1 {
        /// The container, with nothing set on it.
        container: OwnedFd,
        /// The group, not yet in a container.
        group: OwnedFd,
    },
    /// `/dev/iommu` and `/dev/vfio/devices/vfioN`.
    Iommufd {
        /// With nothing made in it.
        iommu: OwnedFd,
        /// Not yet bound.
        device: OwnedFd,
    },
}

/// The address space, and what the device was opened by.
enum Space {
    Type1 { _group: Group, container: Container },
    Iommufd { _cdev: Cdev, space: AddressSpace },
}

/// Pages of memory that a device may change at any time.
#[derive(Debug)]
pub struct Pages(MmapRegion<()>);

impl Pages {
    /// This many pages of zeros.
    ///
    /// # Errors
    /// There is no memory left.
    pub fn new(count: usize) -> io::Result<Pages> {
        let length = count * page_size() as usize;
        let pages = MmapRegion::new(length).map(Pages).map_err(io::Error::other)?;
        // Touched, so that each has a place.
        pages.write(0, &vec![0; length])?;
        Ok(pages)
    }

    /// Bytes.
    pub fn length(&self) -> usize {
        self.0.size()
    }

    /// What is there now.
    ///
    /// # Errors
    /// It reaches past the end.
    pub fn read(&self, offset: usize, length: usize) -> io::Result<Vec<u8>> {
        let mut bytes = vec![0; length];
        let slice = self.0.as_volatile_slice();
        slice.read_slice(&mut bytes, offset).map_err(io::Error::other)?;
        Ok(bytes)
    }

    /// Puts something there.
    ///
    /// # Errors
    /// It reaches past the end.
    pub fn write(&self, offset: usize, bytes: &[u8]) -> io::Result<()> {
        self.0.as_volatile_slice().write_slice(bytes, offset).map_err(io::Error::other)
    }

    /// Physical address of page number `page`, as long as it is mapped for a device: else the kernel
    /// may move it. None for those who may not know it, which takes CAP_SYS_ADMIN (Linux
    /// Documentation/admin-guide/mm/pagemap.rst).
    pub fn physical(&self, page: usize) -> Option<u64> {
        const PRESENT: u64 = 1 << 63;
        const FRAME: u64 = (1 << 55) - 1;
        let file = File::open("/proc/self/pagemap").ok()?;
        let mut entry = [0; 8];
        file.read_exact_at(&mut entry, (self.0.as_ptr() as u64 / page_size() + page as u64) * 8)
            .ok()?;
        let entry = u64::from_ne_bytes(entry);
        let frame = entry & FRAME;
        (entry & PRESENT != 0 && frame != 0).then_some(frame * page_size())
    }
}

/// A device that was opened.
pub struct Probe {
    address: String,
    // Closed before what it was opened by, and before what it may change is let go of.
    device: Device,
    config: RegionInfo,
    command: u16,
    space: Arc<Space>,
    mapped: Vec<(u64, Arc<Pages>)>,
}

impl Probe {
    /// Opens the device with this full address, which resets it where the kernel can. It reaches no
    /// memory so far.
    ///
    /// # Errors
    /// [`Error::Vfio`](crate::error::Error::Vfio) naming the device or file, with the remedy.
    pub fn open(address: &str, files: Files) -> Result<Probe> {
        let cannot_open = "it must be bound to vfio-pci and have no other user";
        let (space, file) = match files {
            Files::Type1 { container, group } => {
                let (container, group) = (Container::new(container), Group::new(group));
                group.set_container(&container).map_err(failed(
                    address,
                    "move its IOMMU group into a container",
                    "every device of the group must be bound to vfio-pci, or to no driver",
                ))?;
                container.set_type1v2().map_err(failed(
                    "/dev/vfio/vfio",
                    "choose type1",
                    "load vfio_iommu_type1; the platform may lack interrupt remapping",
                ))?;
                let file = group.device(address);
                let file = file.map_err(failed(address, "open the device", cannot_open))?;
                (Space::Type1 { _group: group, container }, file)
            }
            Files::Iommufd { iommu, device } => {
                let space = AddressSpace::new(iommu);
                let space = space.map_err(failed("/dev/iommu", "make an I/O address space", ""))?;
                let cdev = Cdev::new(device);
                cdev.bind(&space).map_err(failed(address, "open the device", cannot_open))?;
                cdev.attach(&space).map_err(failed(
                    address,
                    "move the device into an I/O address space",
                    "the platform may lack interrupt remapping",
                ))?;
                let file = cdev.file();
                let file = file.map_err(failed(address, "duplicate the device's file", ""))?;
                (Space::Iommufd { _cdev: cdev, space }, file)
            }
        };
        let space = Arc::new(space);
        let device = Device::new(file, space.clone());
        let config = device.region(VFIO_PCI_CONFIG_REGION_INDEX);
        let config = config.map_err(failed(address, "find its configuration space", ""))?;
        let mut command = [0; 2];
        let read = device.read(config.offset + COMMAND, &mut command);
        read.map_err(failed(address, "read its configuration space", ""))?;
        let command = u16::from_le_bytes(command);
        let (address, mapped) = (address.to_owned(), Vec::new());
        Ok(Probe { address, device, config, command, space, mapped })
    }

    /// Lets the device answer at its registers and start transfers of its own.
    ///
    /// # Errors
    /// Its configuration space cannot be written.
    pub fn enable(&self) -> Result<()> {
        self.write_command(self.command | COMMAND_MEMORY | COMMAND_MASTER)
    }

    /// Puts the command register back as it was found, after which the device transfers nothing.
    ///
    /// # Errors
    /// Its configuration space cannot be written.
    pub fn disable(&self) -> Result<()> {
        self.write_command(self.command & !COMMAND_MASTER)
    }

    fn write_command(&self, command: u16) -> Result<()> {
        let written = self.device.write(self.config.offset + COMMAND, &command.to_le_bytes());
        written.map_err(failed(&self.address, "write its command register", ""))
    }

    /// The registers behind BAR `index`. The device stays open as long as they are kept: drop them
    /// first.
    ///
    /// # Errors
    /// There are none, or they cannot be mapped.
    pub fn bar(&self, index: u32) -> Result<Bar> {
        let bar = self.device.region(index).and_then(|info| Bar::new(&self.device, &info));
        bar.map_err(failed(&self.address, "map its registers", ""))
    }

    /// The ranges of I/O addresses that can be mapped, inclusive at both ends; none where the kernel
    /// does not say.
    ///
    /// # Errors
    /// The kernel's.
    pub fn iova_ranges(&self) -> Result<Vec<(u64, u64)>> {
        let ranges = match &*self.space {
            Space::Type1 { container, .. } => container.iova_ranges(),
            Space::Iommufd { space, .. } => space.iova_ranges(),
        };
        ranges.map_err(failed(&self.address, "read the I/O address ranges", ""))
    }

    /// Lets the device reach page number `page` of these at an I/O address, for reading and writing.
    ///
    /// # Errors
    /// Something is there, or no memory can be there.
    pub fn map(&mut self, iova: u64, pages: &Arc<Pages>, page: usize) -> Result<()> {
        let length = page_size();
        let at = page.saturating_mul(length as usize);
        if at >= pages.length() {
            let error = io::Error::from(io::ErrorKind::InvalidInput);
            return Err(failed(&self.address, "map memory for it", "")(error));
        }
        let host = pages.0.as_ptr().wrapping_add(at);
        // Kept first: the device closes before these are let go of.
        self.mapped.push((iova, pages.clone()));
        // SAFETY: the page is within a mapping of its own that is only read and written as volatile
        // memory; it stays until the range is unmapped or the device is closed.
        let mapped = unsafe {
            match &*self.space {
                Space::Type1 { container, .. } => container.map(iova, host, length),
                Space::Iommufd { space, .. } => space.map(iova, host, length),
            }
        };
        mapped.map_err(|error| {
            self.mapped.pop();
            failed(&self.address, "map memory for it", "")(error)
        })
    }

    /// Takes away what was mapped at an I/O address.
    ///
    /// # Errors
    /// Nothing was, or the kernel's.
    pub fn unmap(&mut self, iova: u64) -> Result<()> {
        let cannot = failed(&self.address, "take memory from it", "");
        let at = self.mapped.iter().position(|(mapped, _)| *mapped == iova);
        let Some(at) = at else { return Err(cannot(io::ErrorKind::NotFound.into())) };
        let length = page_size();
        let unmapped = match &*self.space {
            Space::Type1 { container, .. } => container.unmap(iova, length).map(drop),
            Space::Iommufd { space, .. } => space.unmap(iova, length),
        };
        unmapped.map_err(cannot)?;
        self.mapped.remove(at);
        Ok(())
    }
}

/// Registers of a device, mapped into this process. Offsets are in bytes and aligned.
pub struct Bar {
    host: NonNull<u8>,
    length: usize,
}

impl Bar {
    fn new(device: &Device, info: &RegionInfo) -> io::Result<Bar> {
        // From the beginning, which is all that is needed of a device that is known.
        let length = info.mappable.iter().find(|(start, _)| *start == 0).map(|(_, size)| *size);
        let length = length.filter(|length| *length > 0).ok_or(io::ErrorKind::Unsupported)?;
        let length = usize::try_from(length).map_err(io::Error::other)?;
        let protection = ProtFlags::READ | ProtFlags::WRITE;
        // SAFETY: a new mapping at an address of the kernel's choice.
        let host = unsafe {
            mmap(
                std::ptr::null_mut(),
                length,
                protection,
                MapFlags::SHARED,
                device.as_fd(),
                info.offset,
            )
        }?;
        let host = NonNull::new(host.cast()).ok_or(io::ErrorKind::OutOfMemory)?;
        Ok(Bar { host, length })
    }

    /// Where a register of this type is; none outside the registers, or not aligned.
    fn place<T>(&self, offset: usize) -> io::Result<*mut T> {
        let size = size_of::<T>();
        let is_inside = offset.checked_add(size).is_some_and(|end| end <= self.length);
        if !is_inside || !offset.is_multiple_of(size) {
            return Err(io::Error::from(io::ErrorKind::InvalidInput));
        }
        // SAFETY: the offset is within the mapping.
        Ok(unsafe { self.host.as_ptr().add(offset) }.cast())
    }

    /// Reads 32 bits.
    ///
    /// # Errors
    /// They are not within the registers.
    pub fn read32(&self, offset: usize) -> io::Result<u32> {
        let place = self.place::<u32>(offset)?;
        // SAFETY: within the mapping and aligned; registers are read as they are.
        Ok(u32::from_le(unsafe { place.read_volatile() }))
    }

    /// Reads 64 bits at once.
    ///
    /// # Errors
    /// They are not within the registers.
    pub fn read64(&self, offset: usize) -> io::Result<u64> {
        let place = self.place::<u64>(offset)?;
        // SAFETY: as above.
        Ok(u64::from_le(unsafe { place.read_volatile() }))
    }

    /// Writes 32 bits.
    ///
    /// # Errors
    /// They are not within the registers.
    pub fn write32(&self, offset: usize, value: u32) -> io::Result<()> {
        let place = self.place::<u32>(offset)?;
        // SAFETY: within the mapping and aligned. What the device does by it is kept to memory that is
        // mapped for it, which is of `Pages`.
        unsafe { place.write_volatile(value.to_le()) };
        Ok(())
    }

    /// Writes 64 bits at once.
    ///
    /// # Errors
    /// They are not within the registers.
    pub fn write64(&self, offset: usize, value: u64) -> io::Result<()> {
        let place = self.place::<u64>(offset)?;
        // SAFETY: as above.
        unsafe { place.write_volatile(value.to_le()) };
        Ok(())
    }
}

impl Drop for Bar {
    fn drop(&mut self) {
        // SAFETY: mapped by `Bar::new`, and nothing refers to it any more.
        let _ = unsafe { munmap(self.host.as_ptr().cast(), self.length) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bar(length: usize) -> Bar {
        let (protection, flags) = (ProtFlags::READ | ProtFlags::WRITE, MapFlags::PRIVATE);
        // SAFETY: a new mapping at an address of the kernel's choice.
        let host =
            unsafe { rustix::mm::mmap_anonymous(std::ptr::null_mut(), length, protection, flags) };
        Bar { host: NonNull::new(host.unwrap().cast()).unwrap(), length }
    }

    #[test]
    fn registers_are_reached_within_their_bounds_only() {
        let bar = bar(4096);
        bar.write64(0x80, 0x1122_3344_5566_7788).unwrap();
        assert_eq!(bar.read32(0x84).unwrap(), 0x1122_3344);
        assert_eq!(bar.read64(0x80).unwrap(), 0x1122_3344_5566_7788);
        bar.write32(4092, 7).unwrap();
        assert_eq!(bar.read32(4092).unwrap(), 7);
        for wrong in [4092, 4096, 0x84, usize::MAX - 7] {
            assert!(bar.read64(wrong).is_err() && bar.write64(wrong, 0).is_err(), "{wrong:#x}");
        }
        assert!(bar.read32(4096).is_err() && bar.write32(2, 0).is_err());
    }

    #[test]
    fn pages_hold_what_is_written_and_no_more() {
        let pages = Pages::new(2).unwrap();
        pages.write(4090, b"across").unwrap();
        assert_eq!(pages.read(4088, 10).unwrap(), b"\0\0across\0\0");
        assert!(pages.write(pages.length() - 1, b"ab").is_err());
        assert!(pages.read(pages.length(), 1).is_err());
    }

    #[test]
    fn a_file_that_is_no_container_is_named() {
        let null = || OwnedFd::from(File::open("/dev/null").unwrap());
        let files = Files::Type1 { container: null(), group: null() };
        let error = Probe::open("0000:01:10.0", files).err().unwrap().to_string();
        assert!(error.starts_with("0000:01:10.0: cannot move its IOMMU group"), "{error}");
        let files = Files::Iommufd { iommu: null(), device: null() };
        let error = Probe::open("0000:01:10.0", files).err().unwrap().to_string();
        assert!(error.starts_with("/dev/iommu: cannot make"), "{error}");
    }
}
