//! Whether a device can be given away without its neighbours.
//!
//! The IOMMU tells groups apart, not devices: a group can be opened only while every member is
//! bound to a vfio driver, or to none, or is a bridge whose driver does no DMA
//! (drivers/iommu/iommu.c, `iommu_group_claim_dma_owner`).

use serde::{Deserialize, Serialize};

mod acs;

pub use acs::{AcsControl, AcsGap, AcsLack, acs_path};

use crate::address::PciAddress;
use crate::facts::iommu::{IommuGroup, Region, RegionKind};
use crate::facts::pci::PciFunction;
use crate::snapshot::HostSnapshot;
use crate::usage;

/// Why a device cannot be given away by itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub enum NotViable {
    /// The device has no group: the host has no IOMMU, or the device is not behind it.
    #[error("it has no IOMMU group, so nothing would keep it from the host's memory")]
    NoGroup {
        /// How to get one.
        remedy: String,
    },
    /// Firmware has devices of the group use memory of its own, which the kernel keeps mapped for
    /// them: it gives such a group to nobody (drivers/iommu/iommu.c, `require_direct`).
    #[error(
        "firmware wants {:#x}-{:#x} mapped for its IOMMU group {group} (a direct region: RMRR or \
         IVMD), so that the kernel does not let it go",
        region.start,
        region.end
    )]
    Reserved {
        /// The group's number.
        group: u32,
        /// The first such region.
        region: Region,
    },
    /// It is a VF whose PF a guest has, or is about to: who opens the VF has to know a secret of who
    /// opened the PF (drivers/vfio/pci/vfio_pci_core.c, `vfio_pci_validate_vf_token`).
    #[error(
        "its PF {pf} is bound to {driver}, so that the VF opens only for those who know the VF token \
         of the PF's user"
    )]
    PfGivenAway {
        /// Its PF.
        pf: PciAddress,
        /// The PF's driver.
        driver: String,
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
            NotViable::Reserved { .. } => {
                "Look in the firmware's settings for what shares memory with the device (remote \
                 management, \"HP Shared Memory\", legacy USB), switch it off for this slot, or \
                 choose another device."
                    .to_owned()
            }
            NotViable::PfGivenAway { pf, .. } => {
                format!("Give the PF back to the host: `assign release {pf}`.")
            }
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
/// given with it; the first of the [`obstacles`].
pub fn viability(
    snapshot: &HostSnapshot,
    device: &PciFunction,
    together: &[PciAddress],
) -> Result<(), NotViable> {
    obstacles(snapshot, device, together).into_iter().next().map_or(Ok(()), Err)
}

/// Everything that keeps `device` from being given away as the host is now, when the devices in
/// `together` are given with it. First what no choice of devices helps against.
pub fn obstacles(
    snapshot: &HostSnapshot,
    device: &PciFunction,
    together: &[PciAddress],
) -> Vec<NotViable> {
    let Some((number, group)) = isolating_group(snapshot, device) else {
        return vec![NotViable::NoGroup { remedy: snapshot.iommu.remedy().to_owned() }];
    };
    let alone = [reserved(snapshot, device), pf_given_away(snapshot, device)];
    let mut found: Vec<NotViable> = alone.into_iter().flatten().collect();
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
    if !members.is_empty() {
        let gaps = acs_path(snapshot, device);
        found.push(NotViable::Neighbours { group: number, members, gaps });
    }
    found
}

/// A device's group, where there is an IOMMU behind it.
fn isolating_group<'a>(
    snapshot: &'a HostSnapshot,
    device: &PciFunction,
) -> Option<(u32, &'a IommuGroup)> {
    let number = device.iommu_group?;
    let group = snapshot.iommu.groups.get(&number)?;
    group.isolates.then_some((number, group))
}

/// The obstacle that a direct region of the device's group is. One that is only there until a driver
/// takes the device (`direct-relaxable`) is none.
pub fn reserved(snapshot: &HostSnapshot, device: &PciFunction) -> Option<NotViable> {
    let (number, group) = isolating_group(snapshot, device)?;
    let region = group.reserved.iter().find(|region| region.kind == RegionKind::Direct)?;
    Some(NotViable::Reserved { group: number, region: region.clone() })
}

/// The obstacle that a PF in a guest's hands is to its VFs.
pub fn pf_given_away(snapshot: &HostSnapshot, device: &PciFunction) -> Option<NotViable> {
    let pf = snapshot.function(device.vf_of?.pf)?;
    let driver = pf.driver.as_deref().filter(|driver| is_vfio_driver(driver))?;
    Some(NotViable::PfGivenAway { pf: pf.address, driver: driver.to_owned() })
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
