//! Which of a guest's networks get a virtual function, and why the others do not: a pure function
//! of the host as it was read, the pools and the leases.
//!
//! Every VF that was looked at and not chosen has its reason, so that "no VF" is never the whole
//! answer.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use policies::{Guest, GuestNetwork, Pool};
use serde::Serialize;
use sriov::{HostSnapshot, MacAddress, PciAddress, PciFunction, VfRef, isolation};

use super::reason::{Holder, NoVf, Rejected, Why};

/// Everything the choice is made from.
#[derive(Debug, Clone, Copy)]
pub struct World<'a> {
    /// The host as it is now.
    pub host: &'a HostSnapshot,
    /// All pools that guests may claim from.
    pub pools: &'a [Pool],
    /// Leased devices.
    pub holders: &'a BTreeMap<PciAddress, Holder>,
    /// Devices that were tried in this launch and could not be opened, with the reason.
    pub failed: &'a BTreeMap<PciAddress, String>,
}

/// How one network of a guest is connected.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "through", rename_all = "kebab-case")]
pub enum Connection {
    /// By a virtual function of its own.
    Vfio(Given),
    /// By a virtio device on a bridge.
    Virtio {
        /// The network's name in the guest's document.
        network: String,
        /// The bridge.
        bridge: String,
        /// Why it is no VF, where one was claimed.
        because: Option<NoVf>,
    },
}

impl Connection {
    /// The network's name.
    pub fn network(&self) -> &str {
        match self {
            Connection::Vfio(given) => &given.network,
            Connection::Virtio { network, .. } => network,
        }
    }
}

impl fmt::Display for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: ", self.network())?;
        match self {
            Connection::Vfio(given) => given.fmt(f),
            Connection::Virtio { bridge, because: None, .. } => write!(f, "virtio on {bridge}"),
            Connection::Virtio { bridge, because: Some(because), .. } => {
                write!(f, "virtio on {bridge}, because {because}")
            }
        }
    }
}

/// A virtual function chosen for a network.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Given {
    /// The network's name in the guest's document.
    pub network: String,
    /// The pool it comes from.
    pub pool: String,
    /// Which VF it is.
    pub vf: VfRef,
    /// Where it sits now.
    pub address: PciAddress,
    /// Its IOMMU group's number on this boot.
    pub group: u32,
    /// The interface of its PF, where that has one.
    pub interface: Option<String>,
    /// The address its PF has set for it, where that is set.
    pub mac: Option<MacAddress>,
}

impl fmt::Display for Given {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "VF {} of ", self.vf.index)?;
        match &self.interface {
            Some(interface) => f.write_str(interface)?,
            None => self.vf.pf.fmt(f)?,
        }
        write!(f, " ({}, group {}", self.address, self.group)?;
        if let Some(mac) = self.mac {
            write!(f, ", mac {mac}")?;
        }
        f.write_str(") through vfio")
    }
}

/// A network that can neither have a VF nor fall back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unconnected {
    /// Its name.
    pub network: String,
    /// Why it has no VF.
    pub because: NoVf,
}

/// Connects every network of `guest`, in its order.
///
/// # Errors
/// The first network that has neither a VF nor a fallback.
pub fn choose(guest: &Guest, world: World<'_>) -> Result<Vec<Connection>, Unconnected> {
    let mut connections: Vec<Connection> = Vec::new();
    for network in &guest.networks {
        let refused = match &network.claim {
            None => None,
            Some(claim) => match vf(network, &claim.pool, world, &connections) {
                Ok(given) => {
                    connections.push(Connection::Vfio(given));
                    continue;
                }
                Err(because) => Some(because),
            },
        };
        let name = network.name.clone();
        connections.push(match (&network.fallback, refused) {
            (Some(virtio), because) => {
                Connection::Virtio { network: name, bridge: virtio.bridge.clone(), because }
            }
            (None, Some(because)) => return Err(Unconnected { network: name, because }),
            // A network without claim has a virtio device; its document does not parse otherwise.
            (None, None) => continue,
        });
    }
    Ok(connections)
}

/// The first VF of the pool that nothing speaks against, by PF and index.
fn vf(
    network: &GuestNetwork,
    pool: &str,
    world: World<'_>,
    before: &[Connection],
) -> Result<Given, NoVf> {
    let Some(pool) = world.pools.iter().find(|candidate| candidate.name == pool) else {
        let known = world.pools.iter().map(|pool| pool.name.clone()).collect();
        return Err(NoVf::NoSuchPool { pool: pool.to_owned(), known });
    };
    if !world.host.iommu.present {
        return Err(NoVf::NoIommu { remedy: world.host.iommu_remedy().to_owned() });
    }
    let feeds = |function: &&PciFunction| {
        function.sriov.is_some() && pool.from.matches(world.host, function).is_ok()
    };
    let mut rejected = Vec::new();
    for pf in world.host.functions.iter().filter(feeds) {
        let interface = world.host.port_of(pf).map(|port| port.name.clone());
        for index in pool.indexes() {
            let vf = VfRef { pf: pf.address, index };
            match examine(vf, world, before) {
                Ok((function, group)) => {
                    return Ok(Given {
                        network: network.name.clone(),
                        pool: pool.name.clone(),
                        vf,
                        address: function.address,
                        group,
                        interface,
                        mac: mac(pf, index),
                    });
                }
                Err(why) => {
                    let parent = interface.clone().unwrap_or_else(|| pf.address.to_string());
                    let device = match world.host.vf_address(vf) {
                        Some(address) => address.to_string(),
                        None => format!("VF {index} of {parent}"),
                    };
                    rejected.push(Rejected { device, why });
                }
            }
        }
    }
    let pool_name = pool.name.clone();
    Err(match rejected.is_empty() {
        true => NoVf::NoDevice { pool: pool_name, from: pool.from.to_string() },
        false => NoVf::NoneFree { pool: pool_name, vfs: rejected },
    })
}

fn mac(pf: &PciFunction, index: u16) -> Option<MacAddress> {
    let settings = pf.sriov.as_ref()?.vf_settings.get(&index)?;
    Some(settings.mac).filter(|mac| !mac.is_zero())
}

/// Whether nothing speaks against giving this VF; its function and group if so.
fn examine<'a>(
    vf: VfRef,
    world: World<'a>,
    before: &[Connection],
) -> Result<(&'a PciFunction, u32), Why> {
    let host = world.host;
    let function = host.vf_address(vf).and_then(|address| host.function(address));
    let function = function.ok_or(Why::Missing)?;
    if let Some(cause) = world.failed.get(&function.address) {
        return Err(Why::NotOpened { cause: cause.clone() });
    }
    if let Some(holder) = world.holders.get(&function.address) {
        return Err(Why::Leased { holder: holder.clone() });
    }
    let taken = before.iter().find_map(|connection| match connection {
        Connection::Vfio(given) if given.vf == vf => Some(given.network.clone()),
        _ => None,
    });
    if let Some(network) = taken {
        return Err(Why::TakenHere { network });
    }
    if function.driver.as_deref() != Some("vfio-pci") {
        let wanted = "vfio-pci".to_owned();
        return Err(Why::OtherDriver { driver: function.driver.clone(), wanted });
    }
    isolation::viability(host, function, &[])
        .map_err(|error| Why::NotIsolated { cause: error.to_string(), remedy: error.remedy() })?;
    let group = function.iommu_group.ok_or_else(|| Why::NotIsolated {
        cause: "it has no IOMMU group".to_owned(),
        remedy: host.iommu_remedy().to_owned(),
    })?;
    let members = host.iommu.groups.get(&group).map(|group| group.members.as_slice());
    for member in members.unwrap_or_default() {
        if let Some(holder) = world.holders.get(member) {
            return Err(Why::GroupLeased { group, device: *member, holder: holder.clone() });
        }
    }
    Ok((function, group))
}

/// The groups of the chosen devices, each once, in the order of their first device.
pub fn groups(connections: &[Connection]) -> Vec<u32> {
    let mut seen = BTreeSet::new();
    let group = |connection: &Connection| match connection {
        Connection::Vfio(given) => Some(given.group),
        Connection::Virtio { .. } => None,
    };
    connections.iter().filter_map(group).filter(|group| seen.insert(*group)).collect()
}

#[cfg(test)]
#[path = "choose_tests.rs"]
mod tests;
