//! What can become of a device, in one word and its reason: the same for every list, tree and
//! picture.

use std::collections::BTreeMap;

use serde::Serialize;
use sriov::facts::iommu::Region;
use sriov::isolation::{self, Neighbour, NotViable};
use sriov::usage::{self, UseKind};
use sriov::{HostSnapshot, PciAddress, PciFunction};

use crate::state::Lease;

/// What can become of a device.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "state", rename_all = "kebab-case")]
pub enum Standing {
    /// A bridge or port: part of the way to others.
    Bridge,
    /// A guest has it.
    Guest {
        /// The guest's name.
        guest: String,
    },
    /// The host needs it.
    Host {
        /// What it carries, as a chain that starts above the device.
        carries: String,
    },
    /// It is bound for guests, and no guest has it.
    Ready,
    /// It could be given away.
    Free,
    /// It could be given away, but only together with others of its group.
    Together {
        /// Which others.
        with: String,
    },
    /// It cannot be given away, though the host does not need it.
    Blocked {
        /// Why.
        why: String,
    },
}

impl Standing {
    /// The word for it.
    pub fn word(&self) -> &'static str {
        match self {
            Standing::Bridge => "bridge",
            Standing::Guest { .. } => "guest",
            Standing::Host { .. } => "host",
            Standing::Ready => "ready",
            Standing::Free => "free",
            Standing::Together { .. } => "together",
            Standing::Blocked { .. } => "blocked",
        }
    }

    /// Whose it is, or what is in the way; nothing where the word says all.
    pub fn detail(&self) -> Option<&str> {
        match self {
            Standing::Guest { guest } => Some(guest),
            Standing::Host { carries } => Some(carries),
            Standing::Together { with } => Some(with),
            Standing::Blocked { why } => Some(why),
            Standing::Bridge | Standing::Ready | Standing::Free => None,
        }
    }
}

/// The standing of every function of a host.
#[derive(Debug)]
pub struct Standings {
    by_address: BTreeMap<PciAddress, Standing>,
}

/// What is said of a function that is not in the snapshot.
const UNKNOWN: Standing = Standing::Bridge;

impl Standings {
    /// Looks at each function once, and at each group once.
    pub fn new<'a>(snapshot: &'a HostSnapshot, leases: &'a [Lease]) -> Standings {
        let guests: BTreeMap<PciAddress, &str> =
            leases.iter().map(|lease| (lease.device, lease.guest.as_str())).collect();
        let uses = usage::Index::of(snapshot);
        let of_group = |lease: &'a Lease| Some((lease.group?, lease));
        let leased = leases.iter().filter_map(of_group).collect();
        let mut groups = Groups { snapshot, uses: &uses, leased, known: BTreeMap::new() };
        let standing = |function: &PciFunction| {
            let standing = if function.is_bridge() {
                Standing::Bridge
            } else if let Some(guest) = guests.get(&function.address) {
                Standing::Guest { guest: (*guest).to_owned() }
            } else if let Some(carries) = carries(&uses, function) {
                Standing::Host { carries }
            } else if let Some(blocked) = groups.blocks(function, &guests) {
                blocked
            } else if function.driver.as_deref().is_some_and(isolation::is_vfio_driver) {
                Standing::Ready
            } else {
                Standing::Free
            };
            (function.address, standing)
        };
        Standings { by_address: snapshot.functions.iter().map(standing).collect() }
    }

    /// One function's.
    pub fn of(&self, address: PciAddress) -> &Standing {
        self.by_address.get(&address).unwrap_or(&UNKNOWN)
    }
}

/// What the host needs a function for; a PF with VFs carries them.
fn carries(uses: &usage::Index<'_>, function: &PciFunction) -> Option<String> {
    let uses = uses.uses(function).into_iter();
    let gravest =
        uses.filter(|used| used.kind != UseKind::Bridge).map(|used| used.carried()).next();
    gravest.or_else(|| match function.sriov.as_ref()?.vfs.len() {
        0 => None,
        1 => Some("its VF".to_owned()),
        count => Some(format!("its {count} VFs")),
    })
}

/// The guest that has another device of a function's group, if one has: a group goes to one guest.
pub fn lease_of_group<'a>(leases: &'a [Lease], function: &PciFunction) -> Option<&'a Lease> {
    let group = function.iommu_group?;
    leases.iter().find(|lease| lease.group == Some(group))
}

/// What firmware does with a region, for those who would give its group away.
pub fn wanted_by_firmware(region: &Region) -> String {
    let Region { start, end, .. } = region;
    format!("firmware wants {start:#x} to {end:#x} mapped for it (RMRR or IVMD)")
}

/// What keeps a function where it is, whatever becomes of its neighbours.
fn kept(snapshot: &HostSnapshot, function: &PciFunction) -> Option<String> {
    let alone =
        [isolation::reserved(snapshot, function), isolation::pf_given_away(snapshot, function)];
    alone.into_iter().flatten().find_map(|cause| match cause {
        NotViable::Reserved { region, .. } => Some(wanted_by_firmware(&region)),
        NotViable::PfGivenAway { pf, driver } => Some(format!("its PF {pf} is bound to {driver}")),
        NotViable::NoGroup { .. } | NotViable::Neighbours { .. } => None,
    })
}

/// What stands in the way in each group, looked up once a group: a group may hold all of a host.
struct Groups<'a> {
    snapshot: &'a HostSnapshot,
    uses: &'a usage::Index<'a>,
    /// Who has a device of a group.
    leased: BTreeMap<u32, &'a Lease>,
    known: BTreeMap<u32, Vec<InTheWay>>,
}

/// A member that stands in the others' way.
struct InTheWay {
    neighbour: Neighbour,
    /// It could be given away as well, were it not for the others.
    free: bool,
}

impl Groups<'_> {
    fn blocks(
        &mut self,
        function: &PciFunction,
        guests: &BTreeMap<PciAddress, &str>,
    ) -> Option<Standing> {
        let number = match function.iommu_group {
            Some(number) if self.isolates(number) => number,
            _ => return Some(Standing::Blocked { why: "no IOMMU".to_owned() }),
        };
        if let Some(lease) = self.leased.get(&number) {
            let Lease { device, guest, .. } = lease;
            return Some(Standing::Blocked {
                why: format!("guest {guest} has {device} beside it"),
            });
        }
        if let Some(why) = kept(self.snapshot, function) {
            return Some(Standing::Blocked { why });
        }
        if !self.known.contains_key(&number) {
            let found = self.in_the_way(number).into_iter();
            let in_the_way = |neighbour| {
                let free = self.is_free(&neighbour, guests);
                InTheWay { neighbour, free }
            };
            let found = found.map(in_the_way).collect();
            self.known.insert(number, found);
        }
        let own = function.address.to_string();
        let known = self.known.get(&number).into_iter().flatten();
        let mut others = known.filter(|member| member.neighbour.device != own);
        let first = others.next()?;
        let (mut more, mut free) = (0, first.free);
        for other in others {
            more += 1;
            free &= other.free;
        }
        let and_more = if more > 0 { format!(" and {more} more") } else { String::new() };
        let first = &first.neighbour;
        Some(match free {
            true => Standing::Together { with: format!("{}{and_more}", first.device) },
            false => {
                Standing::Blocked { why: format!("shares group {number} with {first}{and_more}") }
            }
        })
    }

    /// Whether a neighbour could be given away as well.
    fn is_free(&self, neighbour: &Neighbour, guests: &BTreeMap<PciAddress, &str>) -> bool {
        let address = neighbour.device.parse().ok();
        let function = address.and_then(|address| self.snapshot.function(address));
        function.is_some_and(|function| {
            !function.is_bridge()
                && !guests.contains_key(&function.address)
                && carries(self.uses, function).is_none()
                && kept(self.snapshot, function).is_none()
        })
    }

    fn isolates(&self, number: u32) -> bool {
        self.snapshot.iommu.groups.get(&number).is_some_and(|group| group.isolates)
    }

    /// Every member that stands in another's way. Two members tell all: each is left out by itself.
    fn in_the_way(&self, number: u32) -> Vec<Neighbour> {
        let group = self.snapshot.iommu.groups.get(&number);
        let members = group.into_iter().flat_map(|group| &group.members);
        let members = members.filter_map(|member| self.snapshot.function(*member));
        let mut found: Vec<Neighbour> = Vec::new();
        for member in members.take(2) {
            for cause in isolation::obstacles(self.snapshot, member, &[]) {
                let NotViable::Neighbours { members, .. } = cause else { continue };
                let new = |neighbour: &Neighbour| !found.contains(neighbour);
                let new: Vec<Neighbour> = members.into_iter().filter(new).collect();
                found.extend(new);
            }
        }
        // The gravest neighbour first: one that carries something.
        found.sort_by(|a, b| {
            (a.carries.is_none(), &a.device).cmp(&(b.carries.is_none(), &b.device))
        });
        found
    }
}
