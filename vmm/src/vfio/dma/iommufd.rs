//! An address space of iommufd with character devices in it.

use std::os::fd::OwnedFd;
use std::sync::{Arc, Condvar, Mutex, PoisonError};

use super::{DeviceFile, DmaMapper, Entrance, KvmFiles, Mapped, failed, pinning_remedy};
use crate::error::{Error, Result};
use crate::vfio::sys::Device;
use crate::vfio::sys::iommufd::{AddressSpace, Cdev};

const FILE: &str = "/dev/iommu";

/// One address space for all of a guest's devices.
pub struct Iommufd(Arc<Shared>);

/// What devices leave.
struct Shared {
    space: AddressSpace,
    kvm: Arc<KvmFiles>,
    devices: Mutex<Devices>,
    /// Wakes who waits for devices to be opened.
    opened: Condvar,
}

#[derive(Default)]
struct Devices {
    count: usize,
    /// Of these, how many are yet to be opened.
    opening: usize,
    filling: u64,
}

impl Iommufd {
    /// Takes over an open `/dev/iommu`.
    pub fn new(file: OwnedFd, kvm: Arc<KvmFiles>) -> Result<Self> {
        let space = AddressSpace::new(file).map_err(failed(
            FILE,
            "make an I/O address space",
            "the kernel needs CONFIG_IOMMUFD (Linux 6.6 or newer)",
        ))?;
        let (devices, opened) = (Mutex::default(), Condvar::new());
        Ok(Iommufd(Arc::new(Shared { space, kvm, devices, opened })))
    }
}

impl DmaMapper for Iommufd {
    fn file(&self) -> &'static str {
        FILE
    }

    /// Pages are pinned for the first device that is attached. Were memory mapped before that,
    /// attaching would do the pinning: the guest would wait for it, and where it failed, the device
    /// would be blamed.
    fn wait_for_devices(&self) {
        let devices = crate::lock(&self.0.devices);
        let waited = self.0.opened.wait_while(devices, |devices| devices.opening > 0);
        drop(waited.unwrap_or_else(PoisonError::into_inner));
    }

    fn iova_ranges(&self) -> Result<Vec<(u64, u64)>> {
        self.0.space.iova_ranges().map_err(failed(FILE, "read the I/O address ranges", ""))
    }

    unsafe fn map(&self, iova: u64, host: *mut u8, length: u64, kind: Mapped) -> Result<()> {
        // SAFETY: the caller vouches for the memory.
        let mapped = unsafe { self.0.space.map(iova, host, length) };
        mapped.map_err(|source| {
            let (action, remedy) = match kind {
                Mapped::Memory => ("pin guest memory", pinning_remedy(&source)),
                Mapped::Registers => (
                    "map a device's registers for other devices",
                    "iommufd cannot in this kernel; type1 can (`isolation: {iommu: type1}`)",
                ),
            };
            failed(FILE, action, remedy)(source)
        })
    }

    fn unmap(&self, iova: u64, length: u64) -> Result<()> {
        let unmapped = self.0.space.unmap(iova, length);
        unmapped.map_err(failed(FILE, "unmap a range of I/O addresses", ""))
    }

    fn admit(&self, file: DeviceFile) -> Result<Arc<dyn Entrance>> {
        let DeviceFile::Cdev { file, .. } = file else {
            return Err(Error::Spec("a group's file is of no use with iommufd".into()));
        };
        let cdev = Cdev::new(file);
        // Before it is bound, since its driver may ask for the guest then.
        self.0.kvm.add(&cdev)?;
        let mut devices = crate::lock(&self.0.devices);
        if devices.count == 0 {
            devices.filling += 1;
        }
        devices.count += 1;
        devices.opening += 1;
        let stage = Mutex::new(Stage::Admitted(Opening(self.0.clone())));
        Ok(Arc::new(Member { shared: self.0.clone(), cdev, stage }))
    }

    fn filling(&self) -> Option<u64> {
        let devices = crate::lock(&self.0.devices);
        (devices.count > 0).then_some(devices.filling)
    }
}

/// Somebody may wait until this is dropped.
struct Opening(Arc<Shared>);

impl Drop for Opening {
    fn drop(&mut self) {
        crate::lock(&self.0.devices).opening -= 1;
        self.0.opened.notify_all();
    }
}

/// How far a device has come.
enum Stage {
    Admitted(Opening),
    /// Binding or attaching is tried, or has failed.
    Opened,
    Attached,
}

/// A device in the address space, as long as it is open.
struct Member {
    shared: Arc<Shared>,
    cdev: Cdev,
    stage: Mutex<Stage>,
}

impl Entrance for Member {
    fn open(self: Arc<Self>, address: &str) -> Result<Device> {
        let before = std::mem::replace(&mut *crate::lock(&self.stage), Stage::Opened);
        // Dropped at the end, however that comes.
        let Stage::Admitted(_opening) = before else {
            return Err(Error::Spec(format!("{address}: it was opened before")));
        };
        self.cdev.bind(&self.shared.space).map_err(failed(
            address,
            "open the device",
            "neither the device nor its IOMMU group may have another user, and the group's devices \
             must all be bound to vfio-pci, or to no driver",
        ))?;
        self.cdev.attach(&self.shared.space).map_err(failed(
            address,
            "move the device into the guest's I/O address space",
            "the platform may lack interrupt remapping, or the IOMMU may reserve addresses that \
             the guest has memory at",
        ))?;
        *crate::lock(&self.stage) = Stage::Attached;
        let file = self.cdev.file().map_err(failed(address, "duplicate the device's file", ""))?;
        Ok(Device::new(file, self))
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        let mut devices = crate::lock(&self.shared.devices);
        if matches!(*crate::lock(&self.stage), Stage::Attached) {
            // A device that is gone has been detached by that.
            self.cdev.detach().ok();
        }
        self.shared.kvm.remove(&self.cdev);
        devices.count -= 1;
        if devices.count == 0 {
            // As a container does by itself.
            self.shared.space.unmap_all().ok();
        }
    }
}
