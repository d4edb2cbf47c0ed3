//! PCI functions, as `/sys/bus/pci/devices` shows them.

use std::collections::BTreeMap;
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::bars::Bar;
use super::capabilities::Capabilities;
use super::link::Link;
use super::names::Names;
use super::shown::Shown;
use crate::address::{PciAddress, VfRef};
use crate::nvme::NvmeFacts;

pub use super::function::{capabilities_of, read, read_all, read_within};
pub use crate::vf_settings::VfSettings;

/// One PCI function and its relations, by the names and numbers of this boot.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PciFunction {
    /// Where it sits.
    pub address: PciAddress,
    /// Vendor ID; for a VF the one of its PF, as sysfs shows it.
    pub vendor: u16,
    /// Device ID; for a VF the PF's `sriov_vf_device`.
    pub device: u16,
    /// Subsystem vendor ID, 0 where there is none.
    pub subsystem_vendor: u16,
    /// Subsystem device ID, 0 where there is none.
    pub subsystem_device: u16,
    /// Class code in 24 bits: base class, subclass, programming interface (0x020000 is Ethernet).
    pub class: u32,
    /// Revision ID.
    pub revision: u8,
    /// The driver it is bound to.
    pub driver: Option<String>,
    /// The only driver that may bind it (`driver_override`).
    pub driver_override: Option<String>,
    /// IOMMU group; `None` where there is no IOMMU. Numbers change between boots.
    pub iommu_group: Option<u32>,
    /// NUMA node; `None` where firmware names none.
    pub numa_node: Option<u32>,
    /// The bridge or root port right above it; `None` on a root bus.
    pub parent: Option<PciAddress>,
    /// Its network interfaces by name, sorted.
    pub netdevs: Vec<String>,
    /// What it is as a physical function; `None` where it has no SR-IOV capability.
    pub sriov: Option<PfFacts>,
    /// Whose virtual function it is, and which.
    pub vf_of: Option<VfRef>,
    /// How the kernel would reset it, preferred first (`reset_method`); empty where it cannot.
    pub reset_methods: Vec<String>,
    /// It is the display that firmware booted on (`boot_vga`).
    pub boot_vga: bool,
    /// Its serial number: an NVMe drive's own, as its driver shows it; of others the one of the PCI
    /// Express device (section 7.9.3), `00-1b-21-ff-ff-12-34-56`. `None` where there is none, and
    /// where it is not asked: virtual functions, bridges, and what sleeps.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub serial: Option<String>,
    /// What people call it; only in a snapshot that was read whole.
    pub names: Option<Names>,
    /// Its link, where it is on PCI Express. Of a snapshot for a plan, only the most it can do, and
    /// not of bridges and virtual functions; more only in one that was read whole.
    pub link: Option<Link>,
    /// Its memory and I/O ranges; only in a snapshot that was read whole.
    #[serde(default)]
    pub bars: Vec<Bar>,
    /// Its power state as the kernel knows it, such as `D0` or `D3cold`; only in a snapshot that
    /// was read whole.
    pub power_state: Option<String>,
    /// What it says of itself; `None` where it was not asked, see [`Scope`](crate::Scope).
    pub capabilities: Option<Capabilities>,
    /// What the host's driver showed of it before vfio had it; only where somebody remembers, see
    /// [`HostSnapshot::recall`](crate::HostSnapshot::recall).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub shown_before: Option<Box<Shown>>,
}

impl PciFunction {
    /// A function of which nothing is known but where it sits.
    pub fn new(address: PciAddress) -> PciFunction {
        PciFunction {
            address,
            vendor: 0,
            device: 0,
            subsystem_vendor: 0,
            subsystem_device: 0,
            class: 0,
            revision: 0,
            driver: None,
            driver_override: None,
            iommu_group: None,
            numa_node: None,
            parent: None,
            netdevs: Vec::new(),
            sriov: None,
            vf_of: None,
            reset_methods: Vec::new(),
            boot_vga: false,
            serial: None,
            names: None,
            link: None,
            bars: Vec::new(),
            power_state: None,
            capabilities: None,
            shown_before: None,
        }
    }

    /// Base class and subclass, the four digits people write (0x0200).
    pub fn class_code(&self) -> u16 {
        // 24 bits less 8 fit in 16.
        (self.class >> 8) as u16
    }

    /// A bridge of any kind: base class 06. Bridges are part of the path, never given away.
    pub fn is_bridge(&self) -> bool {
        self.class >> 16 == 0x06
    }
}

/// The SR-IOV side of a physical function.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PfFacts {
    /// Most VFs it can have (`sriov_totalvfs`).
    pub total: u16,
    /// VFs it has now (`sriov_numvfs`).
    pub present: u16,
    /// Whether the host binds drivers to new VFs by itself (`sriov_drivers_autoprobe`).
    pub autoprobe: bool,
    /// Device ID of its VFs.
    pub vf_device: u16,
    /// First VF's distance from the PF in routing IDs (PCIe section 9.3.3.9).
    pub offset: u16,
    /// Distance between VFs in routing IDs (PCIe section 9.3.3.10).
    pub stride: u16,
    /// Its VFs by index.
    pub vfs: BTreeMap<u16, PciAddress>,
    /// What the PF has set for its VFs, by index; empty where the kernel was not asked (a
    /// recorded tree) or the PF has no network interface.
    pub vf_settings: BTreeMap<u16, VfSettings>,
    /// Its NVMe controller and those of its VFs, where it is one whose VFs have to be set up;
    /// `None` too where it was not asked (a recorded tree).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub nvme: Option<NvmeFacts>,
}

/// The PCI function that a device of another class hangs below, from where its link points: the
/// last component that is an address, so that virtio and NVMe layers in between do not matter.
pub fn function_in(target: &Path) -> Option<PciAddress> {
    let components = target.components().rev();
    components.filter_map(|component| component.as_os_str().to_str()?.parse().ok()).next()
}

/// The same, with the functions on the way that are hosts of a PCI domain of their own, as Intel VMD
/// is: `0000:00:0e.0/pci10000:e0/10000:e0:06.0/…`. Whoever takes one takes all that is behind it.
pub fn functions_in(target: &Path) -> Vec<PciAddress> {
    let names: Vec<&str> = target.iter().filter_map(|name| name.to_str()).collect();
    let hosts = names.windows(2).filter(|pair| pair.get(1).is_some_and(|n| n.starts_with("pci")));
    let hosts = hosts.filter_map(|pair| pair.first()?.parse().ok());
    function_in(target).into_iter().chain(hosts).collect()
}
