//! Modules of the kernel that a host needs to give devices away: loaded, built in, to be loaded, or
//! not there at all, which are four different remedies.

use serde::{Deserialize, Serialize};

use crate::facts::reader::Reader;
use crate::root::HostRoot;

/// Whether a part of the kernel is there.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Module {
    /// It works: loaded, or built in.
    Present,
    /// `modprobe` would find it.
    Loadable,
    /// This kernel has none.
    Missing,
    /// It is not loaded, and the kernel's list of modules is not there to tell more.
    #[default]
    Unknown,
}

/// The modules that matter.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Modules {
    /// KVM for Intel's CPUs.
    pub kvm_intel: Module,
    /// KVM for AMD's CPUs.
    pub kvm_amd: Module,
    /// The driver that hands PCI devices out.
    pub vfio_pci: Module,
    /// The mapper of DMA behind `/dev/vfio/vfio`.
    pub vfio_iommu_type1: Module,
    /// Its successor behind `/dev/iommu`.
    pub iommufd: Module,
    /// Virtio network in the kernel.
    pub vhost_net: Module,
    /// TAP interfaces.
    pub tun: Module,
}

impl Modules {
    /// Reads the facts for the kernel of this release.
    pub fn read(reader: &mut Reader, release: &str) -> Modules {
        let mut index = Index { release, lists: None };
        let mut find = |name: &str, sign: &str| {
            if reader.root.sys(sign).exists() {
                return Module::Present;
            }
            index.look_up(reader, name)
        };
        // Each sign is there for a built-in module as well: a device of class misc, a bus driver,
        // or a module with parameters.
        Modules {
            kvm_intel: find("kvm_intel", "module/kvm_intel"),
            kvm_amd: find("kvm_amd", "module/kvm_amd"),
            vfio_pci: find("vfio_pci", "bus/pci/drivers/vfio-pci"),
            vfio_iommu_type1: find("vfio_iommu_type1", "module/vfio_iommu_type1"),
            iommufd: find("iommufd", "class/misc/iommu"),
            vhost_net: find("vhost_net", "class/misc/vhost-net"),
            tun: find("tun", "class/misc/tun"),
        }
    }
}

/// The kernel's lists of modules, read when the first module is not loaded.
struct Index<'a> {
    release: &'a str,
    lists: Option<String>,
}

impl Index<'_> {
    fn look_up(&mut self, reader: &mut Reader, name: &str) -> Module {
        let release = self.release;
        let lists = self.lists.get_or_insert_with(|| {
            if !HostRoot::is_component(release) {
                return String::new();
            }
            let directory = reader.root.kernel_modules(release);
            let mut lists = reader.table(&directory.join("modules.dep"));
            lists.push_str(&reader.table(&directory.join("modules.builtin")));
            lists
        });
        if lists.is_empty() {
            return Module::Unknown;
        }
        // "kernel/drivers/vfio/pci/vfio-pci.ko.xz: …", built-in ones without the colon.
        let is_it = |line: &str| {
            let path = line.split(':').next().unwrap_or_default();
            let file = path.rsplit('/').next().unwrap_or_default();
            let stem = file.split_once(".ko").map(|(stem, _)| stem).unwrap_or_default();
            stem.len() == name.len() && stem.replace('-', "_") == name
        };
        if lists.lines().any(is_it) { Module::Loadable } else { Module::Missing }
    }
}
