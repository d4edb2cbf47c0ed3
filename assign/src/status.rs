//! How policies stand: what their pools have, who has it, and what holds of each policy. A pure
//! function of the host and what is remembered; nothing is written to find out.

use std::collections::{BTreeMap, HashSet};

use ::policies::{Driver, Policy, Pool, PoolDevices};
use serde::Serialize;
use sriov::isolation::is_vfio_driver;
use sriov::{HostSnapshot, MacAddress, PciAddress, PciFunction, VfRef, isolation, usage};

use crate::choose::{self, Lender};
use crate::drift::Drift;
use crate::plan::candidates;
use crate::state::conditions::{Kind, Noted, Status};
use crate::state::{Applied, Forced, Lease, Unreset};

mod conditions;

pub use conditions::{Condition, available};

/// Everything that is known beside the host.
#[derive(Debug, Default)]
pub struct Known {
    /// Policies that were applied.
    pub applied: Vec<Applied>,
    /// Policies that are in the files of this host.
    pub filed: Vec<Policy>,
    /// Every lease that was not released, and whether its process runs.
    pub leases: Vec<(Lease, bool)>,
    /// Devices that are as their last guest left them.
    pub unreset: Vec<Unreset>,
    /// How things were when a command last looked.
    pub noted: Vec<Noted>,
    /// What was taken by force.
    pub forced: Vec<Forced>,
    /// The command that left steps in the journal on this boot.
    pub interrupted: Option<String>,
    /// Whether a command is changing the host now.
    pub changing: bool,
    /// Whether the state is not for this user to see.
    pub hidden: bool,
}

impl Known {
    /// All policies that are told of: those that were applied, then those in files only.
    pub fn policies(&self) -> Vec<Policy> {
        let applied = self.applied.iter().map(|one| &one.policy);
        let is_new =
            |policy: &&Policy| self.applied.iter().all(|one| one.policy.name != policy.name);
        applied.chain(self.filed.iter().filter(is_new)).cloned().collect()
    }
}

/// How a host stands to its policies.
#[derive(Debug, Default, Serialize)]
pub struct Standing {
    /// Each policy, by name.
    pub policies: Vec<PolicyStanding>,
    /// Each device of their pools.
    pub devices: Vec<DeviceStanding>,
    /// What was taken by force, oldest first.
    pub forced: Vec<Forced>,
}

/// One policy.
#[derive(Debug, Serialize)]
pub struct PolicyStanding {
    /// Its name.
    pub name: String,
    /// Its pools.
    pub pools: Vec<PoolStanding>,
    /// What holds of it.
    pub conditions: Vec<Condition>,
}

/// One pool.
#[derive(Debug, Serialize)]
pub struct PoolStanding {
    /// Its name.
    pub name: String,
    /// The functions that feed it.
    pub functions: Vec<PciAddress>,
    /// The driver it wants.
    pub driver: Driver,
    /// Devices it is to have.
    pub wanted: usize,
    /// Devices that are there.
    pub there: usize,
    /// Devices that a guest could have now.
    pub free: usize,
    /// Devices that guests have.
    pub leased: usize,
}

/// One device of a pool.
#[derive(Debug, Serialize)]
pub struct DeviceStanding {
    /// The policy.
    pub policy: String,
    /// The pool.
    pub pool: String,
    /// The VF by its place, where it is one.
    pub vf: Option<VfRef>,
    /// The PF's interface, or the device's own.
    pub interface: Option<String>,
    /// Where it is.
    pub address: Option<PciAddress>,
    /// Its driver.
    pub driver: Option<String>,
    /// The address its PF has set for it.
    pub mac: Option<MacAddress>,
    /// How it stands.
    pub state: State,
    /// Why it stands so, where that is worth a word.
    pub because: Option<String>,
    /// Who has it.
    pub owner: Option<Owner>,
}

/// How a device stands. The words are stable.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum State {
    /// A guest can have it.
    Free,
    /// A guest has it.
    Leased,
    /// Its guest is gone; the next command that changes this host returns it.
    Returning,
    /// It is not there.
    Missing,
    /// It is not as its policy says.
    Drifted,
    /// Nothing has reset it since its last guest, which alone may have it again.
    NotReset,
    /// The host uses it.
    InUse,
    /// Its IOMMU group cannot be given away.
    NotIsolated,
}

/// Who has a device.
#[derive(Debug, Clone, Serialize)]
pub struct Owner {
    /// The guest.
    pub guest: String,
    /// Its process.
    pub pid: u32,
    /// Since when, in seconds since 1970.
    pub since: u64,
}

/// How the host stands; `drift` is what it was compared with for these policies.
pub fn standing(host: &HostSnapshot, known: &Known, drift: &Drift) -> Standing {
    let mut standing = Standing { forced: known.forced.clone(), ..Standing::default() };
    let leases: BTreeMap<PciAddress, &(Lease, bool)> =
        known.leases.iter().map(|lease| (lease.0.device, lease)).collect();
    let (policies, uses) = (known.policies(), usage::Index::of(host));
    let lenders = policies.iter().flat_map(|policy| {
        let Policy { pools, protection, .. } = policy;
        pools.iter().map(move |pool| Lender { pool, protection, is_planned: false })
    });
    let lendable = choose::lendable(host, lenders, &uses);
    let at = At { host, known, leases, uses, lendable };
    for policy in &policies {
        let mut pools = Vec::new();
        for pool in &policy.pools {
            let found = candidates::find(host, pool).accepted;
            let devices = at.devices(policy, pool, &found);
            let count = |state| devices.iter().filter(|one| one.state == state).count();
            let expected = pool.expect.map_or(0, |expect| expect.min as usize).max(found.len());
            pools.push(PoolStanding {
                name: pool.name.clone(),
                functions: found,
                driver: pool.driver,
                wanted: expected * pool.vfs().map_or(1, |(_, indexes)| indexes.iter().count()),
                there: devices.len() - count(State::Missing),
                free: count(State::Free),
                leased: count(State::Leased) + count(State::Returning),
            });
            standing.devices.extend(devices);
        }
        let conditions = conditions::of(host, known, drift, policy, &pools);
        standing.policies.push(PolicyStanding { name: policy.name.clone(), pools, conditions });
    }
    standing
}

/// The host with what is known of it.
struct At<'a> {
    host: &'a HostSnapshot,
    known: &'a Known,
    leases: BTreeMap<PciAddress, &'a (Lease, bool)>,
    uses: usage::Index<'a>,
    /// Devices that leave the host together where they share a group.
    lendable: HashSet<PciAddress>,
}

impl At<'_> {
    fn devices(&self, policy: &Policy, pool: &Pool, found: &[PciAddress]) -> Vec<DeviceStanding> {
        let mut devices = Vec::new();
        for address in found {
            let Some(function) = self.host.function(*address) else { continue };
            let interface = self.host.port_of(function).map(|port| port.name.clone());
            if pool.devices == PoolDevices::Whole {
                devices.push(self.device(policy, pool, None, Some(function), interface));
                continue;
            }
            for index in pool.indexes() {
                let vf = VfRef { pf: *address, index };
                let at = self.host.vf_address(vf).and_then(|at| self.host.function(at));
                devices.push(self.device(policy, pool, Some(vf), at, interface.clone()));
            }
        }
        devices
    }

    fn device(
        &self,
        policy: &Policy,
        pool: &Pool,
        vf: Option<VfRef>,
        function: Option<&PciFunction>,
        interface: Option<String>,
    ) -> DeviceStanding {
        let (state, because) =
            function.map_or((State::Missing, None), |function| self.state(policy, pool, function));
        let lease = function.and_then(|function| self.leases.get(&function.address));
        let owner = lease.map(|(lease, _)| Owner {
            guest: lease.guest.clone(),
            pid: lease.owner.pid,
            since: lease.created,
        });
        let settings =
            vf.and_then(|vf| self.host.function(vf.pf)?.sriov.as_ref()?.vf_settings.get(&vf.index));
        DeviceStanding {
            policy: policy.name.clone(),
            pool: pool.name.clone(),
            vf,
            interface,
            address: function.map(|function| function.address),
            driver: function.and_then(|function| function.driver.clone()),
            mac: settings.map(|settings| settings.mac).filter(|mac| !mac.is_zero()),
            state,
            because,
            owner: owner.filter(|_| matches!(state, State::Leased | State::Returning)),
        }
    }

    fn state(
        &self,
        policy: &Policy,
        pool: &Pool,
        function: &PciFunction,
    ) -> (State, Option<String>) {
        let boot_id = &self.host.platform.boot_id;
        match self.leases.get(&function.address) {
            Some((_, true)) => return (State::Leased, None),
            Some((lease, false)) if lease.loan.is_some() && lease.boot_id == *boot_id => {
                return (State::Returning, Some("its guest is gone".to_owned()));
            }
            _ => {}
        }
        if let Some(one) = self.known.unreset.iter().find(|one| one.device == function.address) {
            return (State::NotReset, Some(one.because()));
        }
        let has = function.driver.as_deref();
        let is_given = has.is_some_and(is_vfio_driver);
        let is_right = match pool.driver {
            Driver::VfioPci => has == Some("vfio-pci"),
            Driver::Auto => is_given,
            Driver::Host => true,
        };
        if !is_right {
            return (State::Drifted, Some("it has another driver than its pool says".to_owned()));
        }
        let by_force = match is_given || pool.driver != Driver::Host {
            true => None,
            false => choose::by_force(self.host, &self.uses, &policy.protection, function),
        };
        if !is_given
            && by_force.is_none()
            && let Some(used) = self.uses.uses(function).first()
        {
            return (State::InUse, Some(used.to_string()));
        }
        let mates = isolation::in_the_way(self.host, function, &[]);
        let together = mates.iter().map(|mate| mate.address);
        let together: Vec<PciAddress> = together
            .filter(|mate| pool.driver == Driver::Host && self.lendable.contains(mate))
            .collect();
        match isolation::viability(self.host, function, &together) {
            Ok(()) => (State::Free, by_force.map(|by_force| by_force.to_string())),
            Err(cause) => (State::NotIsolated, Some(cause.to_string())),
        }
    }
}

/// How things are with each policy, as far as that can be told.
pub fn conditions_now(
    host: &HostSnapshot,
    known: &Known,
    drift: &Drift,
) -> Vec<(String, Kind, Status)> {
    let standing = standing(host, known, drift);
    let of = |policy: PolicyStanding| {
        let name = policy.name;
        let told = policy.conditions.into_iter().filter(|one| one.status != Status::Unknown);
        told.map(move |one| (name.clone(), one.kind, one.status))
    };
    standing.policies.into_iter().flat_map(of).collect()
}

/// Whether each policy has a device for another guest, where that is not as it was noted.
pub fn changed_availability(host: &HostSnapshot, known: &Known) -> Vec<(String, Kind, Status)> {
    let standing = standing(host, known, &Drift::default());
    let one = |policy: &PolicyStanding| {
        let now = available(&policy.pools).0;
        let is_noted = |one: &&Noted| one.policy == policy.name && one.kind == Kind::Available;
        let before = known.noted.iter().find(is_noted).map(|one| one.status);
        (before != Some(now)).then(|| (policy.name.clone(), Kind::Available, now))
    };
    standing.policies.iter().filter_map(one).collect()
}
