//! Which device each claim of a guest gets, and why it gets no other: one pure function for
//! `assign plan`, which asks about all guests at once and on VFs that it has yet to make, and for
//! `assign run`, which asks about one guest on the host as it is.
//!
//! ```text
//! supply.rs   every device of every pool, what speaks against each, and the free ones in order
//! examine.rs  what speaks against a device, whoever asks
//! explain.rs  for one claim: why each other device of its pool was not taken
//! reason.rs   the words
//! ```
//!
//! A claim gets, in this order: what its guest holds now; what it had last time; the rest of an
//! IOMMU group of which its guest has a part, since nobody else can have that; then the pool's
//! devices in the pool's order, of the memory's node first where the claim prefers that, and of no
//! other node where it demands that. A guest whose memory names no node has it where the first of its
//! devices is that prefer to be near. What other guests had last time is taken last of all, for these
//! to find it again.
//!
//! Choosing looks at each device once, and then takes from sorted sets: thousands of guests on
//! thousands of devices cost hardly more than reading them.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use policies::{Claim, Guest, Isolation, Pool, Protection, Virtio};
use serde::{Deserialize, Serialize};
use sriov::{HostSnapshot, MacAddress, PciAddress, VfRef};

mod examine;
mod explain;
mod reason;
mod supply;

pub use examine::{Lender, are_vfs, by_force, holds, identity, lendable};
pub use reason::{Because, Holder, Rejected, SHOWN, Sum, Unmet, Why};
pub use supply::Supply;

/// A pool that guests may claim from.
#[derive(Debug, Clone)]
pub struct Offer {
    /// The policy it stands in.
    pub policy: String,
    /// What that policy demands of a device before it is given away.
    pub isolation: Isolation,
    /// What that policy lends although the host uses it.
    pub protection: Protection,
    /// The pool.
    pub pool: Pool,
    /// Where a plan makes it: the cards that feed it. Its devices are then what they will be, not
    /// what they are.
    pub planned: Option<Vec<PciAddress>>,
}

/// The device that a claim had, for it to have the same again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Previous {
    /// The guest.
    pub guest: String,
    /// The network or device of it.
    pub claim: String,
    /// The pool it was claimed from.
    pub pool: String,
    /// Which VF, where it was one.
    pub vf: Option<VfRef>,
    /// Where the device was, on the boot it was given; the PF where it was a VF.
    pub address: PciAddress,
    /// What tells that device, or the VF's PF, from others wherever it sits: see [`identity`].
    pub identity: String,
}

/// Everything the choice is made from.
#[derive(Debug, Clone, Copy)]
pub struct World<'a> {
    /// The host as it is now.
    pub host: &'a HostSnapshot,
    /// All pools that guests may claim from.
    pub offers: &'a [Offer],
    /// Leased devices.
    pub holders: &'a BTreeMap<PciAddress, Holder>,
    /// Devices that were tried in this launch and could not be opened, with the reason.
    pub failed: &'a BTreeMap<PciAddress, String>,
    /// What guests had before.
    pub previous: &'a [Previous],
    /// Whether guests that run are asked about as well, as a plan does: what they hold is theirs.
    pub runs: bool,
}

/// A device chosen for a claim.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Given {
    /// The pool it comes from.
    pub pool: String,
    /// Which VF it is, where it is one.
    pub vf: Option<VfRef>,
    /// Where it sits now; `None` for a VF that is to be made first.
    pub address: Option<PciAddress>,
    /// Its IOMMU group's number on this boot; `None` where that is not known yet.
    pub group: Option<u32>,
    /// Its NUMA node, where firmware names one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub node: Option<u32>,
    /// The interface of its PF, where it is a VF and that has one.
    pub interface: Option<String>,
    /// The address its PF has set for it, where that is set.
    pub mac: Option<MacAddress>,
    /// Why this one.
    pub because: Because,
    /// What the host loses by it, where it is lent although the host uses it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub by_force: Option<ByForce>,
}

/// A device that the host uses, and lends all the same, since a policy makes an exception for it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ByForce {
    /// What the host loses, from the device to what it carries.
    pub lost: Vec<String>,
    /// Why that is right, in the words of the policy.
    pub because: String,
}

impl fmt::Display for ByForce {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "by force: the host loses {} (allowed: {})", self.lost.join(", "), self.because)
    }
}

impl Given {
    /// The device by name: "VF 0 of eth0", or its address.
    pub fn device(&self) -> String {
        match (self.vf, &self.interface, self.address) {
            (Some(vf), Some(interface), _) => format!("VF {} of {interface}", vf.index),
            (Some(vf), None, _) => format!("VF {} of {}", vf.index, vf.pf),
            (None, _, Some(address)) => address.to_string(),
            // A whole device is always there.
            (None, _, None) => "a device".to_owned(),
        }
    }
}

impl fmt::Display for Given {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.device())?;
        let mut parts = Vec::new();
        if self.vf.is_some() {
            parts.push(match self.address {
                Some(address) => address.to_string(),
                None => "to be made".to_owned(),
            });
        }
        parts.extend(self.group.map(|group| format!("group {group}")));
        parts.extend(self.mac.map(|mac| format!("mac {mac}")));
        if !parts.is_empty() {
            write!(f, " ({})", parts.join(", "))?;
        }
        f.write_str(" through vfio")?;
        self.by_force.as_ref().map_or(Ok(()), |by_force| write!(f, ", {by_force}"))
    }
}

/// How one network of a guest is connected.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "through", rename_all = "kebab-case")]
pub enum Connection {
    /// By a device of its own.
    Vfio {
        /// The network's name in the guest's document.
        network: String,
        /// The device.
        #[serde(flatten)]
        given: Given,
    },
    /// By a virtio device.
    Virtio {
        /// The network's name in the guest's document.
        network: String,
        /// What of the host it is connected to.
        #[serde(flatten)]
        end: Virtio,
        /// Why it is no device of its own, where one was claimed.
        because: Option<Unmet>,
    },
}

impl Connection {
    /// The network's name.
    pub fn network(&self) -> &str {
        match self {
            Connection::Vfio { network, .. } | Connection::Virtio { network, .. } => network,
        }
    }
}

impl fmt::Display for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: ", self.network())?;
        match self {
            Connection::Vfio { given, .. } => given.fmt(f),
            Connection::Virtio { end, because: None, .. } => write!(f, "virtio on {end}"),
            Connection::Virtio { end, because: Some(because), .. } => {
                write!(f, "virtio on {end}, because {because}")
            }
        }
    }
}

/// What became of a claim in a guest's `devices`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "outcome", rename_all = "kebab-case")]
pub enum DeviceChoice {
    /// It has a device.
    Given {
        /// Its name in the guest's document.
        device: String,
        /// The device.
        #[serde(flatten)]
        given: Given,
    },
    /// It is optional, and the guest starts without it.
    Without {
        /// Its name in the guest's document.
        device: String,
        /// Why there is none.
        because: Unmet,
    },
}

impl fmt::Display for DeviceChoice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            DeviceChoice::Given { device, given } => write!(f, "{device}: {given}"),
            DeviceChoice::Without { device, because } => {
                write!(f, "{device}: left out, because {because}")
            }
        }
    }
}

/// Everything that was chosen for a guest.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Choice {
    /// Its networks, in the order of its document.
    pub networks: Vec<Connection>,
    /// Its other devices, in the order of its document.
    pub devices: Vec<DeviceChoice>,
    /// The NUMA node its memory comes from: as its document says, or that of the first device whose
    /// claim prefers a near one; `None` leaves it to the kernel.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory_node: Option<u32>,
}

impl Choice {
    /// Every device that the guest gets, with the name of its claim: networks first.
    pub fn given(&self) -> impl Iterator<Item = (&str, &Given)> {
        let networks = self.networks.iter().filter_map(|connection| match connection {
            Connection::Vfio { network, given } => Some((network.as_str(), given)),
            Connection::Virtio { .. } => None,
        });
        networks.chain(self.devices.iter().filter_map(|choice| match choice {
            DeviceChoice::Given { device, given } => Some((device.as_str(), given)),
            DeviceChoice::Without { .. } => None,
        }))
    }
}

/// A chosen device that is there, for those who lease and open it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Device {
    /// The network or device of the guest that claims it.
    pub claim: String,
    /// The pool it comes from; none where it was named by a person.
    pub pool: Option<String>,
    /// Where it sits.
    pub address: PciAddress,
    /// Which VF it is, where it is one.
    pub vf: Option<VfRef>,
    /// Its IOMMU group.
    pub group: u32,
}

impl Choice {
    /// The chosen devices, networks first; those that are not there are left out.
    pub fn devices(&self) -> Vec<Device> {
        let device = |(claim, given): (&str, &Given)| {
            Some(Device {
                claim: claim.to_owned(),
                pool: Some(given.pool.clone()),
                address: given.address?,
                vf: given.vf,
                group: given.group?,
            })
        };
        self.given().filter_map(device).collect()
    }
}

/// The groups of devices, each once, in the order of their first device.
pub fn groups(devices: &[Device]) -> Vec<u32> {
    let mut seen = BTreeSet::new();
    devices.iter().map(|device| device.group).filter(|group| seen.insert(*group)).collect()
}

/// A claim without which its guest does not start.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unconnected {
    /// The network or device.
    pub claim: String,
    /// Whether it is a network, which could fall back.
    pub network: bool,
    /// Why it has no device.
    pub because: Unmet,
}

/// A claim of a guest, and where it stands there.
#[derive(Debug, Clone, Copy)]
pub struct Asked<'a> {
    /// The network's or device's name.
    pub name: &'a str,
    /// What is claimed.
    pub claim: &'a Claim,
    /// Whether it is a network.
    pub network: bool,
}

/// The claims of a guest: of its networks, then of its devices.
pub fn claims(guest: &Guest) -> impl Iterator<Item = Asked<'_>> {
    let networks = guest.networks.iter().filter_map(|network| {
        let claim = network.claim.as_ref()?;
        Some(Asked { name: &network.name, claim, network: true })
    });
    networks.chain(guest.devices.iter().map(|device| {
        let policies::GuestDevice { name, claim, .. } = device;
        Asked { name, claim, network: false }
    }))
}

/// `guest` as if all it asked for were one device of `pool`: for a device that it gets while it runs.
pub fn asking_for(guest: &Guest, pool: &str) -> Guest {
    let claim = Claim { pool: pool.to_owned(), numa: policies::NumaChoice::default() };
    let device =
        policies::GuestDevice { name: format!("a device of {pool}"), claim, optional: false };
    Guest { networks: Vec::new(), devices: vec![device], ..guest.clone() }
}

/// Chooses for every claim of `guest`, on the host as it is.
///
/// # Errors
/// The first claim that the guest does not start without.
pub fn choose(guest: &Guest, world: World<'_>) -> Result<Choice, Unconnected> {
    let mut supply = Supply::new(world, std::slice::from_ref(guest));
    supply.decide();
    supply.choice(0)
}

#[cfg(test)]
mod tests;
