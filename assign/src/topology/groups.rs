//! IOMMU groups: what can only be given away together, and whether it can.

use serde::Serialize;
use sriov::facts::iommu::{Region, RegionKind};
use sriov::facts::names;
use sriov::isolation::{self, NotViable};
use sriov::{HostSnapshot, PciAddress, PciFunction};

use super::{Standing, Standings};

/// One group.
#[derive(Debug, Serialize)]
pub struct Group {
    /// Its number on this boot.
    pub group: u32,
    /// Whether it can be given to a guest, and why not.
    #[serde(flatten)]
    pub verdict: Verdict,
    /// Its PCI functions.
    pub members: Vec<Member>,
    /// Members that are no PCI functions, by the kernel's name.
    pub others: Vec<String>,
    /// Addresses that its devices cannot use as others.
    pub reserved: Vec<Region>,
}

/// A function of a group.
#[derive(Debug, Serialize)]
pub struct Member {
    /// Where it sits.
    pub address: PciAddress,
    /// What it is called.
    pub name: String,
    /// What kind of device it is.
    pub class: String,
    /// Its driver.
    pub driver: Option<String>,
    /// Its interfaces.
    pub interfaces: Vec<String>,
    /// What can become of it.
    #[serde(flatten)]
    pub standing: Standing,
}

/// What can become of a group as a whole.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "verdict", rename_all = "kebab-case")]
pub enum Verdict {
    /// It holds bridges only, which are never given away.
    Bridges,
    /// It could be given to a guest, all its devices together.
    Free {
        /// How many that are.
        devices: usize,
    },
    /// All its devices are bound for guests, and no guest has it.
    Ready,
    /// A guest has it.
    Guest {
        /// The guest's name.
        guest: String,
    },
    /// It cannot be given away.
    No {
        /// Why.
        why: String,
    },
}

/// Every group, by number.
pub fn all(snapshot: &HostSnapshot, standings: &Standings) -> Vec<Group> {
    let groups = snapshot.iommu.groups.iter();
    groups
        .map(|(number, group)| {
            let functions = group.members.iter().filter_map(|member| snapshot.function(*member));
            let functions: Vec<&PciFunction> = functions.collect();
            let member = |function: &&PciFunction| Member {
                address: function.address,
                name: names::device(function),
                class: names::short_class(function.class_code()).to_owned(),
                driver: function.driver.clone(),
                interfaces: function.netdevs.clone(),
                standing: standings.of(function.address).clone(),
            };
            let members: Vec<Member> = functions.iter().map(member).collect();
            let verdict = match group.isolates {
                true => verdict(snapshot, &members, &group.reserved),
                false => Verdict::No { why: "there is no IOMMU behind it".to_owned() },
            };
            let (others, reserved) = (group.others.clone(), group.reserved.clone());
            Group { group: *number, verdict, members, others, reserved }
        })
        .collect()
}

/// What one guest could get: everything in the group that is no bridge.
fn verdict(snapshot: &HostSnapshot, members: &[Member], reserved: &[Region]) -> Verdict {
    let devices: Vec<&Member> =
        members.iter().filter(|member| member.standing != Standing::Bridge).collect();
    for member in &devices {
        if let Standing::Guest { guest } = &member.standing {
            return Verdict::Guest { guest: guest.clone() };
        }
    }
    for member in &devices {
        if let Standing::Host { carries } = &member.standing {
            return Verdict::No { why: format!("{} carries {carries}", member.address) };
        }
    }
    if let Some(NotViable::Neighbours { members, .. }) = not_viable(snapshot, &devices) {
        let also: Vec<String> = members.iter().map(ToString::to_string).collect();
        return Verdict::No { why: format!("it also holds {}", also.join(", ")) };
    }
    let for_guests =
        |member: &&Member| member.driver.as_deref().is_some_and(isolation::is_vfio_driver);
    // The kernel refuses such a device to a guest (drivers/iommu/iommu.c, `require_direct`).
    let wanted = reserved.iter().find(|region| region.kind == RegionKind::Direct);
    if let Some(region) = wanted.filter(|_| !devices.is_empty()) {
        let why = format!(
            "firmware wants {:#x} to {:#x} mapped for it (RMRR or IVMD)",
            region.start, region.end
        );
        return Verdict::No { why };
    }
    match devices.len() {
        0 => Verdict::Bridges,
        _ if devices.iter().all(|member| for_guests(member) || member.driver.is_none())
            && devices.iter().any(for_guests) =>
        {
            Verdict::Ready
        }
        devices => Verdict::Free { devices },
    }
}

/// What is left in the way when all these are given away together: bridges that a driver of the
/// host drives, and devices of other buses.
fn not_viable(snapshot: &HostSnapshot, devices: &[&Member]) -> Option<NotViable> {
    let together: Vec<PciAddress> = devices.iter().map(|member| member.address).collect();
    let first = snapshot.function(*together.first()?)?;
    isolation::viability(snapshot, first, &together).err()
}
