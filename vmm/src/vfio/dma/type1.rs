//! A container with groups in it.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, Weak};

use rustix::io::Errno;

use super::{DeviceFile, DmaMapper, Entrance, KvmFiles, Mapped, failed};
use crate::error::{Error, Result};
use crate::vfio::sys::{self, Device, type1::Container};

const FILE: &str = "/dev/vfio/vfio";

/// A container, of which the kernel makes an address space when the first group comes into it, and
/// none again when the last one goes.
pub struct Type1(Arc<Shared>);

/// What groups leave.
struct Shared {
    container: Container,
    kvm: Arc<KvmFiles>,
    groups: Mutex<Groups>,
}

#[derive(Default)]
struct Groups {
    inside: Vec<(u32, Weak<Group>)>,
    count: usize,
    filling: u64,
}

impl Type1 {
    /// Takes over an open container.
    pub fn new(container: OwnedFd, kvm: Arc<KvmFiles>) -> Result<Self> {
        let container = Container::new(container);
        let version = container.api_version().map_err(failed(FILE, "ask for its version", ""))?;
        let type1 = container.has_type1v2().map_err(failed(FILE, "ask for type1", ""))?;
        if version != 0 || !type1 {
            return Err(Error::Vfio {
                thing: FILE.into(),
                action: "use the type1 interface",
                source: io::Error::from(io::ErrorKind::Unsupported),
                remedy: "load the module vfio_iommu_type1",
            });
        }
        Ok(Type1(Arc::new(Shared { container, kvm, groups: Mutex::default() })))
    }

    fn enter(&self, number: u32, file: OwnedFd) -> Result<Arc<Group>> {
        let shared = &self.0;
        let name = format!("IOMMU group {number}");
        let file = sys::type1::Group::new(file);
        let viable = file.is_viable().map_err(failed(&name, "ask for its status", ""))?;
        if !viable {
            return Err(Error::Vfio {
                thing: name,
                action: "use the group",
                source: io::Error::other("it is not viable"),
                remedy: "bind every device of the group to vfio-pci, or to no driver",
            });
        }
        let mut groups = crate::lock(&shared.groups);
        file.set_container(&shared.container).map_err(failed(
            &name,
            "enter the container",
            "another process may be using the group",
        ))?;
        if groups.count == 0 {
            shared.container.set_type1v2().map_err(failed(
                FILE,
                "choose type1",
                "the platform may lack interrupt remapping",
            ))?;
            groups.filling += 1;
        }
        shared.kvm.add(&file)?;
        let group = Arc::new(Group { shared: shared.clone(), file: Some(file) });
        groups.inside.retain(|(_, group)| group.strong_count() > 0);
        groups.inside.push((number, Arc::downgrade(&group)));
        groups.count += 1;
        Ok(group)
    }
}

impl DmaMapper for Type1 {
    fn file(&self) -> &'static str {
        FILE
    }

    /// The groups are in the container, which is enough.
    fn wait_for_devices(&self) {}

    fn iova_ranges(&self) -> Result<Vec<(u64, u64)>> {
        self.0.container.iova_ranges().map_err(failed(FILE, "read the I/O address ranges", ""))
    }

    unsafe fn map(&self, iova: u64, host: *mut u8, length: u64, kind: Mapped) -> Result<()> {
        // SAFETY: the caller vouches for the memory.
        let mapped = unsafe { self.0.container.map(iova, host, length) };
        mapped.map_err(|source| {
            let (action, remedy) = match kind {
                Mapped::Memory => ("pin guest memory", pinning_remedy(&source)),
                Mapped::Registers => ("map a device's registers for other devices", ""),
            };
            failed(FILE, action, remedy)(source)
        })
    }

    fn unmap(&self, iova: u64, length: u64) -> Result<()> {
        let unmapped = self.0.container.unmap(iova, length);
        unmapped.map(drop).map_err(failed(FILE, "unmap a range of I/O addresses", ""))
    }

    fn admit(&self, file: DeviceFile) -> Result<Arc<dyn Entrance>> {
        match file {
            DeviceFile::Group { number, file } => Ok(self.enter(number, file)?),
            DeviceFile::SameGroup(number) => {
                let groups = crate::lock(&self.0.groups);
                let known = groups.inside.iter().filter(|(known, _)| *known == number);
                let group = known.filter_map(|(_, group)| group.upgrade()).next();
                Ok(group.ok_or_else(|| {
                    Error::Spec(format!("no device of IOMMU group {number} is here"))
                })?)
            }
            DeviceFile::Cdev { address, .. } => Err(Error::Spec(format!(
                "{address}: its own file is of no use in a container; its group's is"
            ))),
        }
    }

    fn filling(&self) -> Option<u64> {
        let groups = crate::lock(&self.0.groups);
        (groups.count > 0).then_some(groups.filling)
    }
}

/// A group in the container, as long as one of its devices, or somebody about to open one, holds it.
struct Group {
    shared: Arc<Shared>,
    /// None only while it is dropped.
    file: Option<sys::type1::Group>,
}

impl Entrance for Group {
    fn open(self: Arc<Self>, address: &str) -> Result<Device> {
        let opened = self.file.as_ref().map(|file| file.device(address));
        let opened = opened.unwrap_or_else(|| Err(io::Error::from(io::ErrorKind::NotFound)));
        let file = opened.map_err(failed(
            address,
            "open the device",
            "it must be bound to vfio-pci and have no other user",
        ))?;
        Ok(Device::new(file, self))
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        // Nobody may take the container for one with a group while the last one leaves it.
        let mut groups = crate::lock(&self.shared.groups);
        if let Some(file) = self.file.take() {
            self.shared.kvm.remove(&file);
        }
        groups.count -= 1;
    }
}

/// What to do where guest memory could not be pinned.
fn pinning_remedy(error: &io::Error) -> &'static str {
    match error.raw_os_error().map(Errno::from_raw_os_error) {
        Some(Errno::NOSPC) => {
            "the container's mappings are used up; raise the limit dma_entry_limit of the module \
             vfio_iommu_type1"
        }
        _ => super::pinning_remedy(error),
    }
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
