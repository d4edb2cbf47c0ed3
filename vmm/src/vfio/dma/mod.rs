//! What memory devices reach, and how they are opened, by either of the kernel's interfaces.
//!
//! ```text
//! type1    group viable ─ into container ─ (first one) SET_IOMMU ─ to KVM ┐   ┌ device descriptor
//! iommufd  address space ───────────────── cdev to KVM ───────────────────┴─► ┴ bind ─ attach
//!          admit: quick, in order                                   open: slow, side by side
//! ```
//! [`DmaMapper`] is the address space, [`type1`] and [`iommufd`] are the two kinds of it. A device comes
//! in two steps. [`DmaMapper::admit`] takes over the file that the launcher opened; the [`Entrance`]
//! that it returns opens the device, which takes as long as its reset does. Both may also happen while
//! the guest runs: admit, open, then [`IoSpace::map_memory`], which does nothing where memory is mapped.
//!
//! Nobody takes a device out by name: dropped, it closes its own file, then leaves the address space,
//! then KVM, and a group does so after the last of its devices. With the last device of all, every
//! mapping goes, and with it the pins on guest memory.

mod iommufd;
mod type1;

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use kvm_bindings::{
    KVM_DEV_VFIO_FILE, KVM_DEV_VFIO_FILE_ADD, KVM_DEV_VFIO_FILE_DEL, kvm_create_device,
    kvm_device_attr, kvm_device_type_KVM_DEV_TYPE_VFIO,
};
use kvm_ioctls::{DeviceFd, VmFd};
use rustix::io::Errno;
use vm_memory::{GuestMemoryBackend, GuestMemoryRegion};

use super::sys::Device;
use crate::descriptor::Inherited;
use crate::error::{Error, Result, Trying};
use crate::machine::memory::GuestMemory;
use crate::spec;

/// An I/O address space that devices can be let into.
pub trait DmaMapper: Send + Sync {
    /// The file it is, for messages.
    fn file(&self) -> &'static str;

    /// Waits until the devices that were let in are so far that memory is mapped for all of them.
    fn wait_for_devices(&self);

    /// The ranges of I/O addresses that its devices can use, inclusive at both ends; none where the
    /// kernel does not say. Another device may leave fewer.
    ///
    /// # Errors
    /// [`Error::Vfio`] naming the file.
    fn iova_ranges(&self) -> Result<Vec<(u64, u64)>>;

    /// Lets the devices reach `length` bytes of this process's memory at `host` under I/O address
    /// `iova`, for reading and writing. Pages of memory are pinned by that.
    ///
    /// # Safety
    /// The memory must stay mapped until the range is unmapped or no device is left, and be such
    /// that a device may change it at any time.
    ///
    /// # Errors
    /// [`Error::Vfio`] naming the file, with the remedy.
    unsafe fn map(&self, iova: u64, host: *mut u8, length: u64, kind: Mapped) -> Result<()>;

    /// Takes away what was mapped there: whole mappings only. No device reaches it afterwards.
    ///
    /// # Errors
    /// [`Error::Vfio`] naming the file.
    fn unmap(&self, iova: u64, length: u64) -> Result<()>;

    /// Lets in what is reached by `file`.
    ///
    /// # Errors
    /// [`Error::Vfio`] naming the group or the file, with the remedy; [`Error::Spec`] where the file
    /// is of the other interface.
    fn admit(&self, file: DeviceFile) -> Result<Arc<dyn Entrance>>;

    /// Which filling of the address space this is, counted up: when the last device leaves, it is
    /// emptied. None while there is no device.
    fn filling(&self) -> Option<u64>;
}

/// What a mapping is of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mapped {
    /// Guest RAM.
    Memory,
    /// Registers of a device, for other devices to reach.
    Registers,
}

/// What the launcher opens to give a device to a guest.
#[derive(Debug)]
pub enum DeviceFile {
    /// `/dev/vfio/GROUP`, not yet in a container: for all devices of the group.
    Group {
        /// The group's number on this host.
        number: u32,
        /// The open file.
        file: OwnedFd,
    },
    /// A group that another device of the guest is in. Its file can be open once only.
    SameGroup(u32),
    /// `/dev/vfio/devices/vfioN`, not yet bound.
    Cdev {
        /// The device's address.
        address: String,
        /// The open file.
        file: OwnedFd,
    },
}

/// The way to a device, or to all devices of a group.
pub trait Entrance: Send + Sync {
    /// Opens the device at `address`, which is reset by that, where it can be.
    ///
    /// # Errors
    /// [`Error::Vfio`] naming the device, with the remedy.
    fn open(self: Arc<Self>, address: &str) -> Result<Device>;
}

/// A device that was let in and is yet to be opened.
pub struct Arrival {
    /// Its address.
    pub address: String,
    /// The way to it.
    pub entrance: Arc<dyn Entrance>,
}

/// The devices' I/O address space, and whether guest memory is in it.
pub struct IoSpace {
    mapper: Box<dyn DmaMapper>,
    peer_to_peer: bool,
    /// The filling that holds guest memory.
    mapped: Mutex<Option<u64>>,
    /// Bytes of guest memory in it, also while more is being mapped.
    pinned: AtomicU64,
}

impl IoSpace {
    /// Takes over what `spec` names, and lets its devices in, in their order.
    ///
    /// # Errors
    /// [`Error::Vfio`] naming what failed.
    pub fn new(
        vm: &VmFd,
        spec: &spec::Vfio,
        inherited: &mut Inherited,
    ) -> Result<(Arc<Self>, Vec<Arrival>)> {
        let kvm = KvmFiles::new(vm)?;
        let mapper: Box<dyn DmaMapper> = match &spec.iommu {
            spec::Iommu::Type1 { container, .. } => {
                let container = inherited.take(*container, "the VFIO container")?;
                Box::new(type1::Type1::new(container, kvm)?)
            }
            spec::Iommu::Iommufd { descriptor } => {
                let file = inherited.take(*descriptor, "the iommufd")?;
                Box::new(iommufd::Iommufd::new(file, kvm)?)
            }
        };
        let peer_to_peer = spec.peer_to_peer;
        let space = IoSpace::of(mapper, peer_to_peer);
        let arrivals = space.admit(spec, inherited)?;
        Ok((Arc::new(space), arrivals))
    }

    /// One that nothing is in. `peer_to_peer`: devices are to reach each other's registers.
    pub fn of(mapper: Box<dyn DmaMapper>, peer_to_peer: bool) -> Self {
        IoSpace { mapper, peer_to_peer, mapped: Mutex::default(), pinned: AtomicU64::new(0) }
    }

    /// Lets in the devices of `spec`, in their order; its container or iommufd is of no use here.
    ///
    /// # Errors
    /// [`Error::Vfio`] naming what failed.
    pub fn admit(&self, spec: &spec::Vfio, inherited: &mut Inherited) -> Result<Vec<Arrival>> {
        // Kept until the devices have come: a group that nobody is in goes.
        let mut groups = Vec::new();
        if let spec::Iommu::Type1 { groups: named, .. } = &spec.iommu {
            for group in named {
                let number = group.number;
                let name = format!("IOMMU group {number}");
                groups.push(self.mapper.admit(match group.descriptor {
                    Some(file) => DeviceFile::Group { number, file: inherited.take(file, &name)? },
                    None => DeviceFile::SameGroup(number),
                })?);
            }
        }
        let arrival = |device: &spec::VfioDevice| {
            let address = device.address.clone();
            let entrance = match device.from {
                spec::DeviceSource::Group(index) => groups.get(index).cloned().ok_or_else(|| {
                    Error::Spec(format!("{address}: there is no group with index {index}"))
                }),
                spec::DeviceSource::Cdev(descriptor) => {
                    let file = inherited.take(descriptor, &address)?;
                    self.mapper.admit(DeviceFile::Cdev { address: address.clone(), file })
                }
            };
            Ok(Arrival { entrance: entrance?, address })
        };
        spec.devices.iter().map(arrival).collect()
    }

    /// The address space itself.
    pub fn mapper(&self) -> &dyn DmaMapper {
        &*self.mapper
    }

    /// The same, if devices are to reach each other's registers in it.
    pub fn peers(self: &Arc<Self>) -> Option<Arc<Self>> {
        self.peer_to_peer.then(|| self.clone())
    }

    /// Maps all of guest `memory` for the devices, at I/O addresses equal to the guest's, if there
    /// are devices and it is not mapped. Its pages are pinned by that.
    ///
    /// With iommufd this waits for devices that were let in and are yet to be opened, so another
    /// thread has to do that, or has to have done it.
    ///
    /// # Errors
    /// [`Error::Vfio`] naming the file, with the remedy; nothing of the memory is mapped then.
    pub fn map_memory(&self, memory: &GuestMemory) -> Result<()> {
        let mut mapped = crate::lock(&self.mapped);
        let filling = self.mapper.filling();
        if filling.is_none() || *mapped == filling {
            return Ok(());
        }
        let regions = || memory.iter().map(|region| (region.start_addr().0, region.len()));
        let clear = || {
            self.pinned.store(0, Ordering::Relaxed);
            for (start, size) in regions() {
                // A range of which nothing is mapped is refused, and is what is wanted.
                self.mapper.unmap(start, size).ok();
            }
        };
        *mapped = None;
        // Were a device to leave just as memory was mapped before, some of it could be left.
        clear();
        let done = self.map_regions(memory);
        match done {
            Ok(()) => *mapped = filling,
            Err(_) => clear(),
        }
        done
    }

    /// Bytes of guest memory that are pinned for the devices now.
    pub fn pinned_bytes(&self) -> u64 {
        // The last device takes all mappings along.
        self.mapper.filling().map_or(0, |_| self.pinned.load(Ordering::Relaxed))
    }

    fn map_regions(&self, memory: &GuestMemory) -> Result<()> {
        self.mapper.wait_for_devices();
        let ranges = self.mapper.iova_ranges()?;
        for region in memory.iter() {
            let (start, last) = (region.start_addr().0, region.last_addr().0);
            let fits = |&(low, high): &(u64, u64)| start >= low && last <= high;
            if !ranges.is_empty() && !ranges.iter().any(fits) {
                return Err(Error::Vfio {
                    thing: self.mapper.file().into(),
                    action: "map guest memory",
                    source: io::Error::other(format!(
                        "the IOMMU reserves part of {start:#x} to {last:#x}"
                    )),
                    remedy: "start the guest anew with all its devices, for its memory to be laid out \
                             around that, or give it less",
                });
            }
            // SAFETY: the region is anonymous RAM that the machine keeps until the process ends once
            // it runs, and no device masters the bus before this returns; nothing in this process
            // holds references into it.
            unsafe { self.mapper.map(start, region.as_ptr(), region.len(), Mapped::Memory)? };
            self.pinned.fetch_add(region.len(), Ordering::Relaxed);
        }
        Ok(())
    }
}

/// The files that KVM knows to be devices': it decides by them what a guest's caches may do, and they
/// can tell drivers which guest it is.
struct KvmFiles(DeviceFd);

impl KvmFiles {
    fn new(vm: &VmFd) -> Result<Arc<Self>> {
        let mut wanted =
            kvm_create_device { type_: kvm_device_type_KVM_DEV_TYPE_VFIO, fd: 0, flags: 0 };
        let device = vm.create_device(&mut wanted).kvm("create its VFIO device")?;
        Ok(Arc::new(KvmFiles(device)))
    }

    fn add(&self, file: &impl AsRawFd) -> Result<()> {
        // Its guest can do without the device, so it is the device's failure.
        let added = self.set(KVM_DEV_VFIO_FILE_ADD, file).map_err(io::Error::from);
        added.map_err(failed("KVM", "take note of a VFIO file", ""))
    }

    /// KVM holds a file until it is told, or until the VM ends.
    fn remove(&self, file: &impl AsRawFd) {
        // It fails for what was not added only.
        self.set(KVM_DEV_VFIO_FILE_DEL, file).ok();
    }

    fn set(&self, action: u32, file: &impl AsRawFd) -> std::result::Result<(), kvm_ioctls::Error> {
        let descriptor = file.as_raw_fd();
        self.0.set_device_attr(&kvm_device_attr {
            group: KVM_DEV_VFIO_FILE,
            attr: action.into(),
            addr: &raw const descriptor as u64,
            flags: 0,
        })
    }
}

/// A failed step on `thing`.
pub(super) fn failed(
    thing: &str,
    action: &'static str,
    remedy: &'static str,
) -> impl FnOnce(io::Error) -> Error {
    let thing = thing.to_owned();
    move |source| Error::Vfio { thing, action, source, remedy }
}

/// What to do where guest memory could not be pinned, by either interface.
fn pinning_remedy(error: &io::Error) -> &'static str {
    match error.raw_os_error().map(Errno::from_raw_os_error) {
        // The answer to both: the limit on locked memory and a host that has none left.
        Some(Errno::NOMEM) => {
            "raise RLIMIT_MEMLOCK (`ulimit -l`) above the guest's memory, or free host memory"
        }
        _ => "",
    }
}

/// Bytes of a page, the grain of mappings.
pub(super) fn page_size() -> u64 {
    rustix::param::page_size() as u64
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering};

    use super::*;
    use crate::machine::layout::Layout;
    use crate::machine::memory::allocate;
    use crate::spec::Memory;

    /// Remembers what is mapped, and refuses what lies beyond its end.
    struct Pretended {
        mapped: Mutex<Vec<(u64, u64)>>,
        end: u64,
        filling: AtomicU64,
    }

    fn pretended(end: u64) -> Arc<Pretended> {
        Arc::new(Pretended { mapped: Mutex::default(), end, filling: AtomicU64::new(1) })
    }

    impl DmaMapper for Arc<Pretended> {
        fn file(&self) -> &'static str {
            "/dev/pretended"
        }

        fn wait_for_devices(&self) {}

        fn iova_ranges(&self) -> Result<Vec<(u64, u64)>> {
            Ok(vec![(0, self.end - 1)])
        }

        unsafe fn map(&self, iova: u64, _: *mut u8, length: u64, kind: Mapped) -> Result<()> {
            assert_eq!(kind, Mapped::Memory);
            crate::lock(&self.mapped).push((iova, length));
            Ok(())
        }

        fn unmap(&self, iova: u64, length: u64) -> Result<()> {
            crate::lock(&self.mapped).retain(|mapping| *mapping != (iova, length));
            Ok(())
        }

        fn admit(&self, file: DeviceFile) -> Result<Arc<dyn Entrance>> {
            Err(Error::Spec(format!("{file:?}")))
        }

        fn filling(&self) -> Option<u64> {
            Some(self.filling.load(Ordering::Relaxed)).filter(|filling| *filling > 0)
        }
    }

    fn space(mapper: &Arc<Pretended>) -> IoSpace {
        IoSpace::of(Box::new(mapper.clone()), false)
    }

    #[test]
    fn memory_is_mapped_once_a_filling() {
        let memory = allocate(&Layout::new(4 << 30, 40, &[]).unwrap(), &Memory::bytes(0)).unwrap();
        let all = [(0, 3 << 30), (4 << 30, 1 << 30)];
        let mapper = pretended(1 << 40);
        let space = space(&mapper);
        mapper.filling.store(0, Ordering::Relaxed);
        space.map_memory(&memory).unwrap();
        assert!(crate::lock(&mapper.mapped).is_empty(), "for no device");
        mapper.filling.store(1, Ordering::Relaxed);
        for filling in [1, 1, 2, 2] {
            mapper.filling.store(filling, Ordering::Relaxed);
            space.map_memory(&memory).unwrap();
            assert_eq!(*crate::lock(&mapper.mapped), all);
            assert_eq!(space.pinned_bytes(), 4 << 30);
        }
        mapper.filling.store(0, Ordering::Relaxed);
        assert_eq!(space.pinned_bytes(), 0, "the last device is gone");
    }

    #[test]
    fn what_cannot_be_mapped_leaves_nothing_behind() {
        let memory = allocate(&Layout::new(4 << 30, 40, &[]).unwrap(), &Memory::bytes(0)).unwrap();
        let mapper = pretended((5 << 30) - 1);
        let space = space(&mapper);
        let error = space.map_memory(&memory).unwrap_err().to_string();
        assert_eq!(space.pinned_bytes(), 0);
        assert!(error.starts_with("/dev/pretended: cannot map guest memory"), "{error}");
        assert!(error.contains("0x100000000 to 0x13fffffff"), "{error}");
        assert!(crate::lock(&mapper.mapped).is_empty());
    }
}
