//! Groups into a container, the container into the IOMMU, guest RAM into the container.

use std::io;
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::thread::{self, Scope, ScopedJoinHandle};

use kvm_bindings::{
    KVM_DEV_VFIO_FILE, KVM_DEV_VFIO_FILE_ADD, kvm_create_device, kvm_device_attr,
    kvm_device_type_KVM_DEV_TYPE_VFIO,
};
use kvm_ioctls::{DeviceFd, VmFd};
use rustix::io::Errno;
use vm_memory::{GuestMemoryBackend, GuestMemoryRegion};

use super::sys::{Container, Device, Group};
use crate::descriptor::Inherited;
use crate::error::{Error, Result, Trying};
use crate::machine::memory::GuestMemory;
use crate::spec;

/// The devices' I/O address space with the groups in it. Dropping it closes devices' groups, so
/// the devices go first: each holds a reference.
pub struct IoSpace {
    groups: Vec<Group>,
    container: Container,
    // KVM counts the groups' users through this device.
    _kvm: DeviceFd,
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

impl IoSpace {
    /// Takes the container and its groups over.
    ///
    /// # Errors
    /// [`Error::Vfio`] naming the container or the group.
    pub fn new(vm: &VmFd, spec: &spec::Vfio, inherited: &mut Inherited) -> Result<Arc<Self>> {
        let mut wanted =
            kvm_create_device { type_: kvm_device_type_KVM_DEV_TYPE_VFIO, fd: 0, flags: 0 };
        let kvm = vm.create_device(&mut wanted).kvm("create its VFIO device")?;

        let what = "/dev/vfio/vfio";
        let container = Container::new(inherited.take(spec.container, "the VFIO container")?);
        let version = container.api_version().map_err(failed(what, "ask for its version", ""))?;
        let type1 = container.has_type1v2().map_err(failed(what, "ask for type1", ""))?;
        if version != 0 || !type1 {
            return Err(Error::Vfio {
                thing: what.into(),
                action: "use the type1 interface",
                source: io::Error::from(io::ErrorKind::Unsupported),
                remedy: "load the module vfio_iommu_type1",
            });
        }

        let mut groups = Vec::new();
        for group in &spec.groups {
            let name = format!("IOMMU group {}", group.number);
            let opened = Group::new(inherited.take(group.descriptor, &name)?);
            let viable = opened.is_viable().map_err(failed(&name, "ask for its status", ""))?;
            if !viable {
                return Err(Error::Vfio {
                    thing: name,
                    action: "use the group",
                    source: io::Error::other("it is not viable"),
                    remedy: "bind every device of the group to vfio-pci, or to no driver",
                });
            }
            opened.set_container(&container).map_err(failed(
                &name,
                "enter the container",
                "another process may be using the group",
            ))?;
            if groups.is_empty() {
                container.set_type1v2().map_err(failed(
                    what,
                    "choose type1",
                    "the platform may lack interrupt remapping",
                ))?;
            }
            let descriptor = opened.as_raw_fd();
            let attribute = kvm_device_attr {
                group: KVM_DEV_VFIO_FILE,
                attr: KVM_DEV_VFIO_FILE_ADD.into(),
                addr: &raw const descriptor as u64,
                flags: 0,
            };
            kvm.set_device_attr(&attribute).kvm("take note of a VFIO group")?;
            groups.push(opened);
        }
        if groups.is_empty() {
            return Err(Error::Spec("a VFIO container without a group".into()));
        }
        Ok(Arc::new(IoSpace { groups, container, _kvm: kvm }))
    }

    /// Begins to open all of `devices` at once, in their order: each is reset by that, which takes
    /// 100 ms and more, most of it waiting.
    ///
    /// # Errors
    /// Where a thread cannot be started. What a device's opening came to, its thread returns.
    pub fn open_all<'scope>(
        &'scope self,
        scope: &'scope Scope<'scope, '_>,
        devices: &'scope [spec::VfioDevice],
    ) -> Result<Vec<ScopedJoinHandle<'scope, Result<Device>>>> {
        let open = |device: &'scope spec::VfioDevice| {
            thread::Builder::new()
                .name("open".into())
                .spawn_scoped(scope, move || self.open(device.group, &device.address))
                .system("start a thread")
        };
        devices.iter().map(open).collect()
    }

    /// Opens the device at `address` in the group with this index.
    fn open(&self, group: usize, address: &str) -> Result<Device> {
        let group = self.groups.get(group).ok_or_else(|| {
            Error::Spec(format!("{address}: there is no group with index {group}"))
        })?;
        group.device(address).map_err(failed(
            address,
            "open the device",
            "it must be bound to vfio-pci and have no other user",
        ))
    }

    /// Maps all of guest `memory` for the devices, at I/O addresses equal to the guest's. Its pages
    /// are pinned by that.
    ///
    /// # Errors
    /// [`Error::Vfio`] naming the container, with the remedy.
    pub fn map_memory(&self, memory: &GuestMemory) -> Result<()> {
        let what = "/dev/vfio/vfio";
        let ranges = self.container.iova_ranges().map_err(failed(
            what,
            "read the I/O address ranges",
            "",
        ))?;
        for region in memory.iter() {
            let (start, size) = (region.start_addr().0, region.len());
            let last = start + (size - 1);
            let fits = |&(low, high): &(u64, u64)| start >= low && last <= high;
            if !ranges.is_empty() && !ranges.iter().any(fits) {
                return Err(Error::Vfio {
                    thing: what.into(),
                    action: "map guest memory",
                    source: io::Error::other(format!(
                        "the IOMMU reserves part of {start:#x} to {last:#x}"
                    )),
                    remedy: "give the guest less memory",
                });
            }
            // SAFETY: the region is anonymous RAM that the machine keeps until the process ends once
            // it runs, and no device masters the bus before this returns; nothing in this process
            // holds references into it.
            let mapped = unsafe { self.container.map(start, region.as_ptr(), size) };
            mapped.map_err(|source| {
                let remedy = pinning_remedy(&source);
                failed(what, "pin guest memory", remedy)(source)
            })?;
        }
        Ok(())
    }
}

/// What to do where guest memory could not be pinned.
fn pinning_remedy(error: &io::Error) -> &'static str {
    match error.raw_os_error().map(Errno::from_raw_os_error) {
        // The answer to both: the limit on locked memory and a host that has none left.
        Some(Errno::NOMEM) => {
            "raise RLIMIT_MEMLOCK (`ulimit -l`) above the guest's memory, or free host memory"
        }
        Some(Errno::NOSPC) => {
            "the container's mappings are used up; raise the limit \
                               dma_entry_limit of the module vfio_iommu_type1"
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
    use super::*;

    #[test]
    fn only_a_lack_of_memory_blames_the_limit() {
        let remedy = |errno: Errno| pinning_remedy(&errno.into());
        assert!(remedy(Errno::NOMEM).contains("RLIMIT_MEMLOCK"));
        assert!(remedy(Errno::NOSPC).contains("dma_entry_limit"));
        assert_eq!(remedy(Errno::INVAL), "");
    }
}
