//! Character devices and I/O address spaces: the iommufd interface (Linux Documentation/userspace-api/
//! iommufd.rst).

use std::fs::File;
use std::io;
use std::mem::size_of;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};

use vfio_bindings::bindings::vfio::{
    vfio_device_attach_iommufd_pt, vfio_device_bind_iommufd, vfio_device_detach_iommufd_pt,
};
use vmm_sys_util::ioctl::{ioctl_with_mut_ref, ioctl_with_ref};

use super::{check, number};

const BIND_IOMMUFD: u64 = number(18);
const ATTACH_IOMMUFD_PT: u64 = number(19);
const DETACH_IOMMUFD_PT: u64 = number(20);

/// iommufd's own numbers (`IOMMUFD_TYPE` and `IOMMUFD_CMD_*`).
const fn command(number: u64) -> u64 {
    (b';' as u64) << 8 | number
}

const IOAS_ALLOC: u64 = command(0x81);
const IOAS_IOVA_RANGES: u64 = command(0x84);
const IOAS_MAP: u64 = command(0x85);
const IOAS_UNMAP: u64 = command(0x86);
const OPTION: u64 = command(0x87);

/// Map at the I/O address that is named, for reading and writing.
const MAP_FIXED_WRITEABLE_READABLE: u32 = 1 | 2 | 4;
/// Whose RLIMIT_MEMLOCK pinned pages count against.
const OPTION_RLIMIT_MODE: u32 = 0;
/// The process's, as with type1, and not all of the user's processes'.
const RLIMIT_OF_PROCESS: u64 = 1;
/// More ranges than any IOMMU leaves: what is beyond is refused instead of allocated.
const MOST_RANGES: u32 = 1024;

#[repr(C)]
struct IoasAlloc {
    size: u32,
    flags: u32,
    out_ioas_id: u32,
}

#[repr(C)]
struct IoasIovaRanges {
    size: u32,
    ioas_id: u32,
    num_iovas: u32,
    reserved: u32,
    allowed_iovas: u64,
    out_iova_alignment: u64,
}

#[repr(C)]
struct IoasMap {
    size: u32,
    flags: u32,
    ioas_id: u32,
    reserved: u32,
    user_va: u64,
    length: u64,
    iova: u64,
}

#[repr(C)]
struct IoasUnmap {
    size: u32,
    ioas_id: u32,
    iova: u64,
    length: u64,
}

#[repr(C)]
struct OptionValue {
    size: u32,
    option_id: u32,
    op: u16,
    reserved: u16,
    object_id: u32,
    val64: u64,
}

/// An open `/dev/iommu` with one I/O address space in it.
pub struct AddressSpace {
    file: OwnedFd,
    id: u32,
}

impl AddressSpace {
    /// Makes an address space in an open `/dev/iommu`.
    pub fn new(file: OwnedFd) -> io::Result<Self> {
        // Only while nothing is in it, and only by who may: others have the limit of all processes of
        // their user together.
        count_by_process(&file).ok();
        let mut request =
            IoasAlloc { size: size_of::<IoasAlloc>() as u32, flags: 0, out_ioas_id: 0 };
        // SAFETY: the structure is complete, as large as `size` says, and outlives the call.
        check(unsafe { ioctl_with_mut_ref(&file, IOAS_ALLOC, &mut request) })?;
        Ok(AddressSpace { file, id: request.out_ioas_id })
    }

    /// The ranges of I/O addresses that the attached devices can use, inclusive at both ends.
    pub fn iova_ranges(&self) -> io::Result<Vec<(u64, u64)>> {
        let mut count: u32 = 16;
        loop {
            let mut ranges = vec![[0_u64; 2]; count as usize];
            let mut request = IoasIovaRanges {
                size: size_of::<IoasIovaRanges>() as u32,
                ioas_id: self.id,
                num_iovas: count,
                reserved: 0,
                allowed_iovas: ranges.as_mut_ptr() as u64,
                out_iova_alignment: 0,
            };
            // SAFETY: the structure is complete and as large as `size` says; it and the array, of
            // as many pairs of numbers as it says, outlive the call.
            let answer =
                check(unsafe { ioctl_with_mut_ref(&self.file, IOAS_IOVA_RANGES, &mut request) });
            match answer {
                Ok(_) => {
                    ranges.truncate(request.num_iovas as usize);
                    return Ok(ranges.into_iter().map(|[first, last]| (first, last)).collect());
                }
                // It says how many there are.
                Err(error)
                    if error.raw_os_error() == Some(MESSAGE_SIZE)
                        && (count + 1..=MOST_RANGES).contains(&request.num_iovas) =>
                {
                    count = request.num_iovas;
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// Lets attached devices reach `length` bytes of this process's memory at `host` under I/O
    /// address `iova`, for reading and writing. The pages are pinned as soon as a device is attached.
    ///
    /// # Safety
    /// The memory must stay mapped until the address space is gone or the range is unmapped, and be
    /// such that a device may change it at any time.
    pub unsafe fn map(&self, iova: u64, host: *mut u8, length: u64) -> io::Result<()> {
        let request = IoasMap {
            size: size_of::<IoasMap>() as u32,
            flags: MAP_FIXED_WRITEABLE_READABLE,
            ioas_id: self.id,
            reserved: 0,
            user_va: host as u64,
            length,
            iova,
        };
        // SAFETY: the structure is complete and outlives the call; the caller vouches for the
        // memory it names.
        check(unsafe { ioctl_with_ref(&self.file, IOAS_MAP, &request) }).map(drop)
    }

    /// Takes away what was mapped from `iova` on for `length` bytes: whole mappings only.
    pub fn unmap(&self, iova: u64, length: u64) -> io::Result<()> {
        let mut request =
            IoasUnmap { size: size_of::<IoasUnmap>() as u32, ioas_id: self.id, iova, length };
        // SAFETY: the structure is complete, as large as `size` says, and outlives the call.
        check(unsafe { ioctl_with_mut_ref(&self.file, IOAS_UNMAP, &mut request) }).map(drop)
    }

    /// Takes away all that is mapped.
    pub fn unmap_all(&self) -> io::Result<()> {
        self.unmap(0, u64::MAX)
    }
}

/// Counts pinned pages against this process's limit instead of its user's, who may have other guests.
/// Takes CAP_SYS_RESOURCE.
fn count_by_process(file: &OwnedFd) -> io::Result<()> {
    let request = OptionValue {
        size: size_of::<OptionValue>() as u32,
        option_id: OPTION_RLIMIT_MODE,
        op: 0,
        reserved: 0,
        object_id: 0,
        val64: RLIMIT_OF_PROCESS,
    };
    // SAFETY: the structure is complete, as large as `size` says, and outlives the call.
    check(unsafe { ioctl_with_ref(file, OPTION, &request) }).map(drop)
}

/// `EMSGSIZE`.
const MESSAGE_SIZE: i32 = rustix::io::Errno::MSGSIZE.raw_os_error();

/// An open `/dev/vfio/devices/vfioN`. Until it is bound, no more can be done with it.
pub struct Cdev(File);

impl Cdev {
    /// From an open descriptor.
    pub fn new(descriptor: OwnedFd) -> Self {
        Cdev(File::from(descriptor))
    }

    /// Opens the device for users of that iommufd. The kernel resets it where it can, and lets it
    /// reach no memory so far.
    pub fn bind(&self, space: &AddressSpace) -> io::Result<()> {
        let mut request = vfio_device_bind_iommufd {
            argsz: size_of::<vfio_device_bind_iommufd>() as u32,
            iommufd: space.file.as_raw_fd(),
            ..Default::default()
        };
        // SAFETY: the structure is complete, as large as `argsz` says, and outlives the call.
        check(unsafe { ioctl_with_mut_ref(&self.0, BIND_IOMMUFD, &mut request) }).map(drop)
    }

    /// Moves the bound device into the address space.
    pub fn attach(&self, space: &AddressSpace) -> io::Result<()> {
        let mut request = vfio_device_attach_iommufd_pt {
            argsz: size_of::<vfio_device_attach_iommufd_pt>() as u32,
            pt_id: space.id,
            ..Default::default()
        };
        // SAFETY: as above.
        check(unsafe { ioctl_with_mut_ref(&self.0, ATTACH_IOMMUFD_PT, &mut request) }).map(drop)
    }

    /// Takes it out again: it reaches no memory then.
    pub fn detach(&self) -> io::Result<()> {
        let request = vfio_device_detach_iommufd_pt {
            argsz: size_of::<vfio_device_detach_iommufd_pt>() as u32,
            ..Default::default()
        };
        // SAFETY: as above.
        check(unsafe { ioctl_with_ref(&self.0, DETACH_IOMMUFD_PT, &request) }).map(drop)
    }

    /// The same open file once more, to use the device by.
    pub fn file(&self) -> io::Result<File> {
        self.0.try_clone()
    }
}

impl AsRawFd for Cdev {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_raw_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn structures_are_as_large_as_the_kernels() {
        assert_eq!(size_of::<IoasAlloc>(), 12);
        assert_eq!(size_of::<IoasIovaRanges>(), 32);
        assert_eq!(size_of::<IoasMap>(), 40);
        assert_eq!(size_of::<IoasUnmap>(), 24);
        assert_eq!(size_of::<OptionValue>(), 24);
        assert_eq!(IOAS_MAP, 0x3b85);
    }

    #[test]
    fn a_file_that_is_no_iommufd_is_refused() {
        let null = || OwnedFd::from(File::open("/dev/null").unwrap());
        assert!(AddressSpace::new(null()).is_err());
        let space = AddressSpace { file: null(), id: 1 };
        assert!(space.iova_ranges().is_err());
        assert!(space.unmap_all().is_err());
        assert!(count_by_process(&null()).is_err());
        let cdev = Cdev::new(null());
        assert!(cdev.bind(&space).is_err());
        assert!(cdev.attach(&space).is_err());
        assert!(cdev.detach().is_err());
    }
}
