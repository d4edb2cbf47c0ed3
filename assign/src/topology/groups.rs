//! IOMMU groups: what can only be given away together, and whether it can.

use serde::Serialize;
use sriov::facts::iommu::Region;
use sriov::facts::names;
use sriov::isolation::{self, NotViable};
use sriov::{HostSnapshot, PciAddress, PciFunction};

use super::standing::wanted_by_firmware;
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
    /// It could be given to a guest.
    Free {
        /// How many devices that are.
        devices: usize,
        /// Whether all of them have to go together; else each may go without the others, and they
        /// to nobody else.
        together: bool,
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
                true => verdict(snapshot, &members),
                false => Verdict::No { why: "there is no IOMMU behind it".to_owned() },
            };
            let (others, reserved) = (group.others.clone(), group.reserved.clone());
            Group { group: *number, verdict, members, others, reserved }
        })
        .collect()
}

/// What one guest could get: everything in the group that is no bridge.
fn verdict(snapshot: &HostSnapshot, members: &[Member]) -> Verdict {
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
    if let Some(why) = devices.iter().find_map(|member| kept(snapshot, &devices, member)) {
        return Verdict::No { why };
    }
    let for_guests =
        |member: &&Member| member.driver.as_deref().is_some_and(isolation::is_vfio_driver);
    match devices.len() {
        0 => Verdict::Bridges,
        _ if devices.iter().all(|member| for_guests(member) || member.driver.is_none())
            && devices.iter().any(for_guests) =>
        {
            Verdict::Ready
        }
        count => {
            let alone =
                |member: &&Member| matches!(member.standing, Standing::Free | Standing::Ready);
            Verdict::Free { devices: count, together: !devices.iter().all(alone) }
        }
    }
}

/// What keeps a device when all these are given away together: bridges that a driver of the host
/// drives, devices of other buses, firmware, or a PF in other hands.
fn kept(snapshot: &HostSnapshot, devices: &[&Member], member: &Member) -> Option<String> {
    let together: Vec<PciAddress> = devices.iter().map(|member| member.address).collect();
    let function = snapshot.function(member.address)?;
    let mut causes = isolation::obstacles(snapshot, function, &together).into_iter();
    causes.find_map(|cause| match cause {
        NotViable::Neighbours { members, .. } => {
            let also: Vec<String> = members.iter().map(ToString::to_string).collect();
            Some(format!("it also holds {}", also.join(", ")))
        }
        NotViable::Reserved { region, .. } => Some(wanted_by_firmware(&region)),
        NotViable::PfGivenAway { pf, driver } => {
            Some(format!("{pf}, the PF of {}, is bound to {driver}", member.address))
        }
        NotViable::NoGroup { .. } => None,
    })
}
