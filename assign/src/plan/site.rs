//! The host of a plan with its indexes, so that each device costs the same however many there are:
//! who has leased what, what the host uses each for, and what the plan takes together.

use std::collections::{BTreeMap, HashMap, HashSet};

use ::policies::{Driver, Policy, Pool};
use sriov::facts::variant::Variants;
use sriov::isolation::{self, NotViable};
use sriov::{Binding, Change, HostSnapshot, MacAddress, PciAddress, PciFunction, Target, usage};

use super::mac::Macs;
use super::{Feed, Known};
use crate::failure::Failure;
use crate::state::Lease;

/// The host with what is known of it.
pub(super) struct Site<'a> {
    pub snapshot: &'a HostSnapshot,
    /// The addresses that its VFs are to have.
    pub macs: Macs<'a>,
    uses: usage::Index<'a>,
    leases: HashMap<PciAddress, &'a Lease>,
    variants: Option<&'a Variants>,
    /// Devices that the plan has bound to a vfio driver when it is done; those that are lent stay
    /// with the host's.
    together: HashSet<PciAddress>,
    /// Devices that pools lend: they leave the host's drivers together where they share a group.
    lent: HashSet<PciAddress>,
    /// Devices that were bound for a policy on this boot, with an override.
    bound: HashSet<Target>,
    /// How the host had those of them that it had.
    taken: HashMap<Target, Binding>,
    /// PFs whose new VFs the host had drivers bound to before a policy was applied on this boot.
    autoprobed: HashSet<PciAddress>,
}

impl<'a> Site<'a> {
    pub fn new(
        snapshot: &'a HostSnapshot,
        known: Known<'a>,
        feeds: &BTreeMap<PciAddress, Vec<Feed<'_>>>,
    ) -> Site<'a> {
        let (mut together, mut lent) = (HashSet::new(), HashSet::new());
        for (address, feeds) in feeds {
            for feed in feeds {
                let devices = match feed.pool.driver {
                    Driver::Host => &mut lent,
                    Driver::VfioPci | Driver::Auto => &mut together,
                };
                let Some(vfs) = feed.vfs() else {
                    devices.insert(*address);
                    continue;
                };
                let facts = snapshot.function(*address).and_then(|one| one.sriov.as_ref());
                let at = |index| facts.and_then(|facts| facts.vfs.get(&index)).copied();
                devices.extend(vfs.indexes.iter().filter_map(at));
            }
        }
        let boot_id = &snapshot.platform.boot_id;
        let (mut bound, mut autoprobed) = (HashSet::new(), HashSet::new());
        let mut taken = HashMap::new();
        for applied in known.applied.iter().filter(|applied| applied.boot_id == *boot_id) {
            bound.extend(applied.bound());
            taken.extend(applied.taken());
            autoprobed.extend(applied.autoprobed());
        }
        Site {
            snapshot,
            macs: Macs::of(snapshot),
            bound,
            taken,
            autoprobed,
            uses: usage::Index::of(snapshot),
            leases: known.leases.iter().map(|lease| (lease.device, lease)).collect(),
            variants: known.variants,
            together,
            lent,
        }
    }

    /// The step that gives a device of ours the override again that it had, or takes away one that
    /// would give it to another driver than the one it has.
    pub fn keep(&self, device: Target, function: &PciFunction, driver: &str) -> Option<Change> {
        let differs = match function.driver_override.as_deref() {
            Some(name) => name != driver,
            // One that had its driver beforehand had it by other means.
            None => self.bound.contains(&device),
        };
        let from = sriov::act::bind::binding(function);
        differs.then(|| Change::Restore { device, from, to: Binding::forced(driver) })
    }

    /// The step that gives a device back which a pool leaves to the host, where it was bound for
    /// guests: to the driver it had, or whichever the kernel finds. `mac` is the address that its PF is
    /// to have set for it. One that is lent comes back with its guest's end; one that got its driver
    /// by other means than an override keeps it.
    pub fn give_back(
        &self,
        device: Target,
        function: &PciFunction,
        mac: Option<MacAddress>,
    ) -> Option<Change> {
        let is_lent = self.lease(function.address).is_some_and(|lease| lease.loan.is_some());
        let is_kept = function.driver_override.is_some() || self.bound.contains(&device);
        let has_vfio = function.driver.as_deref().is_some_and(isolation::is_vfio_driver);
        if !has_vfio || !is_kept || is_lent {
            return None;
        }
        let from = sriov::act::bind::binding(function);
        Some(match self.taken.get(&device) {
            Some(had) => {
                let to = Binding { mac: mac.or(had.mac), ..had.clone() };
                Change::Restore { device, from, to }
            }
            None => Change::Yield { device, from },
        })
    }

    /// The refusal to keep a device for guests that the host has only lent to one: it goes back to the
    /// host with that guest's end.
    pub fn still_lent(&self, pool: &Pool, function: &PciFunction) -> Option<Failure> {
        let lease = self.lease(function.address).filter(|lease| lease.loan.is_some())?;
        let tried = format!("take it from the host for pool {}", pool.name);
        (pool.driver != Driver::Host).then(|| super::vfs::leased(lease, &tried))
    }

    /// Whether the host's drivers took new VFs of this PF when a policy was applied.
    pub fn found_autoprobe(&self, pf: PciAddress) -> bool {
        self.autoprobed.contains(&pf)
    }

    /// The guest that has a device.
    pub fn lease(&self, device: PciAddress) -> Option<&'a Lease> {
        self.leases.get(&device).copied()
    }

    /// What the host uses a function for, gravest first.
    pub fn uses(&self, function: &PciFunction) -> Vec<usage::Use> {
        self.uses.uses(function)
    }

    /// The driver for a device of a pool: the one it has, where that will do; `None` where it is left
    /// with the host's.
    pub fn driver(&self, wanted: Driver, function: &PciFunction) -> Option<String> {
        let has = function.driver.as_deref();
        match wanted {
            Driver::Host => None,
            Driver::VfioPci => Some("vfio-pci".to_owned()),
            // One that has a vfio driver was given away already, by whatever way.
            Driver::Auto => Some(match (has, self.variants) {
                (Some(has), _) if isolation::is_vfio_driver(has) => has.to_owned(),
                (_, Some(variants)) => variants.best_for(function).to_owned(),
                (_, None) => "vfio-pci".to_owned(),
            }),
        }
    }

    /// Whether a device's group can be given away once the plan is carried out. Those that are lent
    /// leave the host's drivers for each other, and for nobody else.
    pub fn viability(&self, pool: &Pool, function: &PciFunction) -> Result<(), NotViable> {
        let group = function.iommu_group.and_then(|group| self.snapshot.iommu.groups.get(&group));
        let members = group.map(|group| group.members.as_slice()).unwrap_or_default();
        let is_ours = |member: &&PciAddress| {
            let is_lent = pool.driver == Driver::Host && self.lent.contains(member);
            is_lent || self.together.contains(member)
        };
        let ours: Vec<PciAddress> = members.iter().filter(is_ours).copied().collect();
        isolation::viability(self.snapshot, function, &ours)
    }

    /// A step that takes devices from the host: as it is where the host does not need them, by force
    /// where the policy excepts each that it needs, and else the refusals.
    pub fn take(
        &self,
        policy: &Policy,
        devices: &[&PciFunction],
        step: Change,
    ) -> Result<Change, Vec<Failure>> {
        let (mut forced, mut lost, mut reasons, mut refusals) =
            (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        for function in devices {
            let uses = self.uses(function);
            let Some(first) = uses.first() else { continue };
            match policy.protection.exception(self.snapshot, function) {
                // A bridge is a way to others, and is nobody's to force.
                Some(exception) if !function.is_bridge() => {
                    forced.push(function.address);
                    lost.extend(uses.iter().map(ToString::to_string));
                    reasons.push(exception.because.clone());
                }
                _ => refusals.push(protected(function, first)),
            }
        }
        if !refusals.is_empty() {
            return Err(refusals);
        }
        if forced.is_empty() {
            return Ok(step);
        }
        reasons.dedup();
        let because = Some(reasons.join("; "));
        Ok(Change::Forced { step: Box::new(step), devices: forced, lost, because })
    }
}

/// The refusal to take a device that the host needs, and what would allow it.
fn protected(function: &PciFunction, used: &usage::Use) -> Failure {
    let failure = super::vfs::needed(function, used);
    let remedy = failure.remedy.clone().unwrap_or_default();
    failure.with_remedy(format!(
        "{remedy} If the host can do without that, say so in the policy: `protection: {{exceptions: \
         [{{device: \"{}\", because: …}}]}}`.",
        function.address
    ))
}
