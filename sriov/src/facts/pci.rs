//! PCI functions, as `/sys/bus/pci/devices` shows them.

use std::collections::BTreeMap;
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::bars::{self, Bar};
use super::capabilities::Capabilities;
use super::config_space::ConfigFile;
use super::iov;
use super::link::{self, Link};
use super::names::{self, Names};
use super::reader::Reader;
use crate::address::{PciAddress, VfRef};
use crate::attribute;
use crate::nvme::NvmeFacts;
use crate::snapshot::Scope;
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
    /// What people call it; only in a snapshot that was read whole.
    pub names: Option<Names>,
    /// Its link, where it is on PCI Express; only in a snapshot that was read whole.
    pub link: Option<Link>,
    /// Its memory and I/O ranges; only in a snapshot that was read whole.
    pub bars: Vec<Bar>,
    /// Its power state as the kernel knows it, such as `D0` or `D3cold`; only in a snapshot that
    /// was read whole.
    pub power_state: Option<String>,
    /// What it says of itself; `None` where it was not asked, see [`Scope`](crate::Scope).
    pub capabilities: Option<Capabilities>,
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
            names: None,
            link: None,
            bars: Vec::new(),
            power_state: None,
            capabilities: None,
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
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
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

/// Every function, sorted by address; network interfaces and `vf_of` still to be filled in.
pub fn read_all(reader: &mut Reader, scope: Scope) -> Vec<PciFunction> {
    let devices = reader.root.pci_devices();
    let addresses = reader.entries(&devices);
    let mut functions: Vec<PciFunction> = addresses
        .iter()
        .filter_map(|name| name.parse().ok())
        .filter_map(|address| read_within(reader, address, scope))
        .collect();
    functions.sort_by_key(|function| function.address);
    functions
}

/// One function, as far as a plan needs it; `None` where it is not there, or does not say what it
/// is (noted).
pub fn read(reader: &mut Reader, address: PciAddress) -> Option<PciFunction> {
    read_within(reader, address, Scope::Planning)
}

/// The same, as far as `scope` says.
pub fn read_within(reader: &mut Reader, address: PciAddress, scope: Scope) -> Option<PciFunction> {
    let device = reader.root.pci_device(address);
    let at = |attribute: &str| device.join(attribute);
    let (vendor, device_id, class) = (
        reader.number(&at("vendor"))?,
        reader.number(&at("device"))?,
        reader.number::<u32>(&at("class"))?,
    );
    let mut function = PciFunction {
        vendor,
        device: device_id,
        subsystem_vendor: reader.number(&at("subsystem_vendor")).unwrap_or(0),
        subsystem_device: reader.number(&at("subsystem_device")).unwrap_or(0),
        class: class & 0xff_ffff,
        revision: reader.number(&at("revision")).unwrap_or(0),
        driver: reader.link_name(&at("driver")),
        driver_override: driver_override(reader, &at("driver_override")),
        iommu_group: iommu_group(reader, &at("iommu_group")),
        // -1 stands for "none".
        numa_node: reader.number::<i64>(&at("numa_node")).and_then(|node| node.try_into().ok()),
        parent: parent(reader, &device),
        sriov: iov::read(reader, address),
        reset_methods: reader
            .text(&at("reset_method"))
            .map(|text| text.split_whitespace().map(str::to_owned).collect())
            .unwrap_or_default(),
        boot_vga: reader.flag(&at("boot_vga")).unwrap_or(false),
        ..PciFunction::new(address)
    };
    if scope >= Scope::Whole {
        function.names = Some(names::of(&function));
        // Before anything wakes it.
        function.power_state = reader.text(&at("power_state"));
        function.link = link::read(reader, &device);
        function.bars = bars::read(reader, &at("resource"));
    }
    if scope >= Scope::Whole || (scope >= Scope::Planning && function.is_bridge()) {
        function.capabilities = capabilities(reader, &at("config"));
    }
    Some(function)
}

/// What the function says of itself; `None` where its configuration space is not shown, or cannot
/// be read (noted).
pub fn capabilities(reader: &mut Reader, config: &Path) -> Option<Capabilities> {
    let mut space = match ConfigFile::open(config) {
        Ok(space) => space,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return None,
        Err(error) => {
            reader.note(config, format!("its configuration space cannot be opened: {error}"));
            return None;
        }
    };
    let (capabilities, odd) = Capabilities::read(&mut space);
    match space.into_failure() {
        Some(error) => {
            reader.note(config, format!("its configuration space cannot be read: {error}"))
        }
        None => odd.into_iter().for_each(|text| reader.note(config, text)),
    }
    Some(capabilities)
}

/// The kernel shows an unset override as `(null)`.
pub(crate) fn driver_override(reader: &mut Reader, path: &Path) -> Option<String> {
    reader.text(path).filter(|text| !text.is_empty() && text != "(null)")
}

fn iommu_group(reader: &mut Reader, path: &Path) -> Option<u32> {
    let name = reader.link_name(path)?;
    let number = name.parse().ok();
    if number.is_none() {
        reader.note(path, format!("{name:?} is not an IOMMU group number"));
    }
    number
}

/// The link of a function names every bridge on its way, the nearest last but one.
fn parent(reader: &mut Reader, device: &Path) -> Option<PciAddress> {
    let result = attribute::link_target(device);
    let target = reader.accept(result)?;
    let above = target.parent()?;
    above.file_name()?.to_str()?.parse().ok()
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
