//! The IOMMU and its groups: what can only be given away together.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::pci::PciFunction;
use super::reader::Reader;
use crate::address::PciAddress;

/// The host's I/O virtualization.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Iommu {
    /// Whether the kernel translates DMA, so that a device can be given away in isolation.
    pub present: bool,
    /// What firmware offers, whether or not the kernel uses it.
    pub firmware: Option<IommuKind>,
    /// Groups by number. Numbers change between boots.
    pub groups: BTreeMap<u32, IommuGroup>,
}

/// Kinds of IOMMU on x86, by the ACPI table that announces them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum IommuKind {
    /// Intel VT-d (table DMAR).
    Intel,
    /// AMD-Vi (table IVRS).
    Amd,
}

/// Devices that the IOMMU cannot tell apart, or that reach each other behind its back.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct IommuGroup {
    /// PCI functions, sorted.
    pub members: Vec<PciAddress>,
    /// Devices of other buses, by the name the kernel gives them.
    pub others: Vec<String>,
}

/// The IOMMU facts, with the groups that the functions name.
pub fn read(reader: &mut Reader, functions: &[PciFunction]) -> Iommu {
    let mut groups: BTreeMap<u32, IommuGroup> = BTreeMap::new();
    for function in functions {
        if let Some(number) = function.iommu_group {
            groups.entry(number).or_default().members.push(function.address);
        }
    }
    let directory = reader.root.iommu_groups();
    for (number, group) in &mut groups {
        let devices = reader.entries(&directory.join(number.to_string()).join("devices"));
        group.others =
            devices.into_iter().filter(|name| name.parse::<PciAddress>().is_err()).collect();
    }
    let class = reader.root.iommu_class();
    let in_use = !reader.entries(&class).is_empty();
    Iommu { present: in_use || isolates(reader, &groups), firmware: firmware(reader), groups }
}

/// One group, with every member: for a look at one device alone.
pub fn read_group(reader: &mut Reader, number: u32) -> IommuGroup {
    let directory = reader.root.iommu_groups().join(number.to_string()).join("devices");
    let mut group = IommuGroup::default();
    for name in reader.entries(&directory) {
        match name.parse() {
            Ok(address) => group.members.push(address),
            Err(_) => group.others.push(name),
        }
    }
    group.members.sort();
    group
}

/// Whether any group is more than vfio's "no-IOMMU" stand-in, which isolates nothing and is named
/// so (drivers/vfio/group.c).
fn isolates(reader: &mut Reader, groups: &BTreeMap<u32, IommuGroup>) -> bool {
    let directory = reader.root.iommu_groups();
    groups.keys().any(|number| {
        let name = reader.text(&directory.join(number.to_string()).join("name"));
        name.as_deref() != Some("vfio-noiommu")
    })
}

fn firmware(reader: &Reader) -> Option<IommuKind> {
    let offers = |table| reader.root.acpi_table(table).exists();
    if offers("DMAR") {
        Some(IommuKind::Intel)
    } else if offers("IVRS") {
        Some(IommuKind::Amd)
    } else {
        None
    }
}

impl Iommu {
    /// How to get an IOMMU where there is none.
    pub fn remedy(&self) -> &'static str {
        match self.firmware {
            Some(IommuKind::Intel) => {
                "Boot the host with intel_iommu=on on its kernel command line."
            }
            Some(IommuKind::Amd) => {
                "Boot the host without amd_iommu=off and iommu=off on its kernel command line."
            }
            None => {
                "Enable VT-d or AMD-Vi in the firmware's settings, and on Intel boot the host \
                 with intel_iommu=on on its kernel command line."
            }
        }
    }
}
