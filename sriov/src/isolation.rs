//! Whether a device can be given away without its neighbours.
//!
//! The IOMMU tells groups apart, not devices: a group can be opened only while every member is
//! bound to a vfio driver, or to none, or is a bridge whose driver does no DMA
//! (drivers/iommu/iommu.c, `iommu_group_claim_dma_owner`).

use serde::{Deserialize, Serialize};

mod acs;

pub use acs::{AcsControl, AcsGap, AcsLack, acs_path};

use crate::address::PciAddress;
use crate::facts::pci::PciFunction;
use crate::snapshot::HostSnapshot;
use crate::usage;

/// Why a device's group cannot be given away.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub enum NotViable {
    /// The device has no group: the host has no IOMMU, or the device is not behind it.
    #[error("it has no IOMMU group, so nothing would keep it from the host's memory")]
    NoGroup {
        /// How to get one.
        remedy: String,
    },
    /// Other devices of the group are in the host's hands.
    #[error("its IOMMU group {group} also holds {}{}", list(members), because(gaps))]
    Neighbours {
        /// The group's number.
        group: u32,
        /// The members in the way.
        members: Vec<Neighbour>,
        /// Why the group is so large, as far as it is known: where access control is missing.
        gaps: Vec<AcsGap>,
    },
}

impl NotViable {
    /// What a person can do about it.
    pub fn remedy(&self) -> String {
        match self {
            NotViable::NoGroup { remedy } => remedy.clone(),
            NotViable::Neighbours { .. } => {
                "Enable ACS on the port or choose another device.".to_owned()
            }
        }
    }
}

/// A member of a group that stands in the way.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Neighbour {
    /// Its address, or the name of a device of another bus.
    pub device: String,
    /// The driver that has it.
    pub driver: Option<String>,
    /// What the host uses it for, as a chain that starts above the device.
    pub carries: Option<String>,
}

impl std::fmt::Display for Neighbour {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let driver = self.driver.as_deref().unwrap_or("no PCI device");
        match &self.carries {
            Some(carries) => write!(f, "{} ({driver}, carries {carries})", self.device),
            None => write!(f, "{} ({driver})", self.device),
        }
    }
}

/// What was not read explains nothing.
fn because(gaps: &[AcsGap]) -> String {
    let known = gaps.iter().filter(|gap| gap.lack != AcsLack::Unread);
    let list: Vec<String> = known.map(AcsGap::to_string).collect();
    if list.is_empty() { String::new() } else { format!(", because {}", list.join(" and ")) }
}

fn list(members: &[Neighbour]) -> String {
    members.iter().map(Neighbour::to_string).collect::<Vec<_>>().join(", ")
}

/// Whether `device` could be given away as the host is now, when the devices in `together` are
/// given with it.
pub fn viability(
    snapshot: &HostSnapshot,
    device: &PciFunction,
    together: &[PciAddress],
) -> Result<(), NotViable> {
    let of_number = |number| Some((number, snapshot.iommu.groups.get(&number)?));
    let group = device.iommu_group.and_then(of_number);
    let Some((number, group)) = group.filter(|(_, group)| group.isolates) else {
        return Err(NotViable::NoGroup { remedy: snapshot.iommu.remedy().to_owned() });
    };
    let mut members: Vec<Neighbour> = in_the_way(snapshot, device, together)
        .into_iter()
        .map(|member| Neighbour {
            device: member.address.to_string(),
            driver: member.driver.clone(),
            carries: usage::of(snapshot, member).first().map(usage::Use::carried),
        })
        .collect();
    members.extend(group.others.iter().map(|name| Neighbour {
        device: name.clone(),
        driver: None,
        carries: None,
    }));
    if members.is_empty() {
        return Ok(());
    }
    Err(NotViable::Neighbours { group: number, members, gaps: acs_path(snapshot, device) })
}

/// The other members of a device's group that have to leave the host's drivers before it can be given
/// away; those in `together` are given with it.
pub fn in_the_way<'a>(
    snapshot: &'a HostSnapshot,
    device: &PciFunction,
    together: &[PciAddress],
) -> Vec<&'a PciFunction> {
    let group = device.iommu_group.and_then(|number| snapshot.iommu.groups.get(&number));
    let members = group.map(|group| group.members.as_slice()).unwrap_or_default();
    members
        .iter()
        .filter(|member| **member != device.address && !together.contains(member))
        .filter_map(|member| snapshot.function(*member))
        .filter(|member| stands_in_the_way(member))
        .collect()
}

/// Bound to a driver that does DMA of its own for the host.
fn stands_in_the_way(member: &PciFunction) -> bool {
    match member.driver.as_deref() {
        None => false,
        // These leave the DMA of their device to its owner (`driver_managed_dma`).
        Some("pcieport" | "pci-stub" | "shpchp") => false,
        Some(driver) => !is_vfio_driver(driver),
    }
}

/// Why groups may be larger than this host says: a kernel that was patched, and told to take ports
/// for isolating that say nothing of the kind (`pcie_acs_override`).
pub fn pretended(snapshot: &HostSnapshot) -> Option<&'static str> {
    let told = snapshot.platform.command_line.split_whitespace();
    let mut told = told.filter(|word| word.starts_with("pcie_acs_override="));
    told.next().map(|_| {
        "pcie_acs_override is on the kernel's command line: devices in different IOMMU groups may \
         still reach each other's memory"
    })
}

/// vfio-pci itself, or one of its variant drivers: all of them carry the word in their name.
pub fn is_vfio_driver(driver: &str) -> bool {
    driver.contains("vfio")
}
