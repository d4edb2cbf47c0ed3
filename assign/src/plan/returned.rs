//! What a policy changed for devices that none of its pools wants any more, since a pool was dropped or
//! uses less: that goes back, in the same apply, as the removal of the policy would have it.
//!
//! ```text
//! a function that feeds no pool            all that was changed on it and its VFs
//! a VF of no pool, of a PF that feeds some its binding, its address and its settings
//! a PF that gets another number of VFs     nothing: they all go, and their changes with them
//! ```
//!
//! Only what is recorded as changed on this boot is taken back, and only what still is as it was left:
//! what somebody else changed since is theirs. So a plan on a host where all of it is back has no step.

use std::collections::{BTreeMap, BTreeSet};

use ::policies::{Policy, PoolDevices, Restore};
use sriov::isolation::is_vfio_driver;
use sriov::{Binding, Change, HostSnapshot, PciAddress, PciFunction, Target, Undo, VfRef};

use super::removal::{check_removal, with_memory};
use super::site::Site;
use super::{Feed, Known, candidates};
use crate::apply::settle::{about, settle};
use crate::failure::Failure;
use crate::state::{Applied, Step};

/// The steps back.
#[derive(Debug, Default)]
pub(super) struct Returned {
    pub steps: Vec<Step>,
    pub notes: Vec<String>,
}

/// The steps back of what `policies` changed and do not want any more. `feeds` is what they want.
pub(super) fn steps(
    site: &Site<'_>,
    policies: &[Policy],
    feeds: &BTreeMap<PciAddress, Vec<Feed<'_>>>,
    known: Known<'_>,
) -> Result<Returned, Vec<Failure>> {
    let boot_id = &site.snapshot.platform.boot_id;
    let here = known.applied.iter().filter(|applied| applied.boot_id == *boot_id);
    let is_planned =
        |applied: &&Applied| policies.iter().any(|one| one.name == applied.policy.name);
    let (planned, kept): (Vec<&Applied>, Vec<&Applied>) = here.partition(is_planned);
    let (mut returned, mut refusals) = (Returned::default(), Vec::new());
    for applied in planned {
        let Some(policy) = policies.iter().find(|one| one.name == applied.policy.name) else {
            continue;
        };
        if policy.release.restore == Restore::Keep {
            continue;
        }
        for function in functions(applied).iter().filter_map(|at| site.snapshot.function(*at)) {
            let wanted = Wanted::of(site.snapshot, function, feeds, &kept);
            let changes = back(site, applied, function, &wanted, &mut returned.notes);
            let checked = changes
                .iter()
                .try_for_each(|change| check_removal(site.snapshot, change, known.leases, &kept));
            match checked {
                Ok(()) => {
                    let step = |change| Step { returns: true, ..Step::of(policy, change) };
                    let changes = with_memory(site.snapshot, changes);
                    returned.steps.extend(changes.into_iter().map(step));
                }
                Err(failure) => refusals.push(failure),
            }
        }
    }
    if refusals.is_empty() { Ok(returned) } else { Err(refusals) }
}

/// The functions on which, or on whose VFs, something was changed.
fn functions(applied: &Applied) -> BTreeSet<PciAddress> {
    let function = |change: &Change| match change.device() {
        Target::Function(address) => address,
        Target::Vf(vf) => vf.pf,
    };
    applied.changes.iter().map(function).collect()
}

/// What pools want of a function.
enum Wanted {
    Nothing,
    /// The function itself, or so many VFs that it will have others.
    All,
    /// These of the VFs that are there.
    Vfs(BTreeSet<u16>),
}

impl Wanted {
    fn of(
        host: &HostSnapshot,
        function: &PciFunction,
        feeds: &BTreeMap<PciAddress, Vec<Feed<'_>>>,
        kept: &[&Applied],
    ) -> Wanted {
        let own = feeds.get(&function.address).into_iter().flatten().map(|feed| feed.pool);
        let others = kept.iter().flat_map(|applied| &applied.policy.pools);
        let others = others.filter(|pool| candidates::is_meant(host, pool, function));
        let present = function.sriov.as_ref().map_or(0, |facts| facts.present);
        let mut wanted: Option<BTreeSet<u16>> = None;
        for pool in own.chain(others) {
            match &pool.devices {
                PoolDevices::Vfs { count, indexes } if *count == present => {
                    wanted.get_or_insert_default().extend(indexes.iter());
                }
                _ => return Wanted::All,
            }
        }
        wanted.map_or(Wanted::Nothing, Wanted::Vfs)
    }
}

/// The steps by which a function is as it was, as far as nobody wants it otherwise.
fn back(
    site: &Site<'_>,
    applied: &Applied,
    function: &PciFunction,
    wanted: &Wanted,
    notes: &mut Vec<String>,
) -> Vec<Change> {
    let pf = function.address;
    let mut changes = match wanted {
        Wanted::All => return Vec::new(),
        Wanted::Nothing => {
            let is_own = |change: &&Change| match change.device() {
                Target::Function(at) => at == pf,
                Target::Vf(vf) => vf.pf == pf,
            };
            settle(&applied.changes.iter().filter(is_own).cloned().collect::<Vec<_>>())
        }
        Wanted::Vfs(indexes) => {
            let is_unwanted = |change: &&Change| match change.device() {
                Target::Vf(vf) => vf.pf == pf && !indexes.contains(&vf.index),
                Target::Function(_) => false,
            };
            let is_memory = |change: &&Change| matches!(change, Change::RememberVf { .. });
            let present = applied.on_present_vfs(pf).iter().filter(is_unwanted);
            let present = present.filter(|change| !is_memory(change)).cloned();
            let back = settle(&present.collect::<Vec<_>>());
            // One that went to the host's driver is with the host already.
            let back = back.into_iter().filter(|change| !matches!(change, Change::Retake { .. }));
            back.map(|change| to_the_host(site, function, change)).collect()
        }
    };
    // An interface that the host has begun to use stays up.
    if !changes.is_empty() && !site.uses(function).is_empty() {
        changes.retain(|change| !matches!(change, Change::SetLink { to: false, .. }));
    }
    still_ours(site.snapshot, changes, notes)
}

/// A VF that was made for the policy had no driver when that took it: what no pool wants is as if the
/// kernel alone had made it.
fn to_the_host(site: &Site<'_>, pf: &PciFunction, change: Change) -> Change {
    let autoprobe = pf.sriov.as_ref().is_some_and(|facts| facts.autoprobe);
    match &change {
        Change::Restore { device, from, to }
            if (autoprobe || site.found_autoprobe(pf.address))
                && to.same_hands(&Binding::default()) =>
        {
            Change::Yield { device: *device, from: from.clone() }
        }
        _ => change,
    }
}

/// Without the steps whose end the host shows already, and without those about what is neither as it
/// was left nor as it was before: somebody else changed that.
fn still_ours(host: &HostSnapshot, changes: Vec<Change>, notes: &mut Vec<String>) -> Vec<Change> {
    let mut kept: BTreeMap<(u8, Target), bool> = BTreeMap::new();
    for change in changes.iter().filter(|one| !matches!(one, Change::RemakeVf { .. })) {
        kept.entry(about(change)).or_insert_with(|| {
            let last = changes.iter().rev().find(|other| about(other) == about(change));
            if last.is_none_or(|last| shows(host, last)) {
                return false;
            }
            let is_left = match change.undo() {
                Undo::Change(before) => shows(host, &before),
                Undo::Nothing | Undo::Impossible(_) => true,
            };
            if !is_left {
                notes.push(format!("not made: {change}: somebody else changed that since"));
            }
            is_left
        });
    }
    let is_kept = |change: &Change| kept.get(&about(change)) == Some(&true);
    let counted: BTreeSet<PciAddress> = changes
        .iter()
        .filter_map(|change| match change {
            Change::SetVfCount { pf, .. } if is_kept(change) => Some(*pf),
            _ => None,
        })
        .collect();
    let mut changes = changes;
    changes.retain(|change| match change {
        // VFs that are made as they were, and what keeps others from them until then.
        Change::RemakeVf { vf, .. } => counted.contains(&vf.pf) || !shows(host, change),
        Change::SetAutoprobe { pf, .. } => counted.contains(pf) || is_kept(change),
        _ => is_kept(change),
    });
    changes
}

/// Whether a host shows what a step makes. What is not there, or was not asked about, needs no step.
fn shows(host: &HostSnapshot, change: &Change) -> bool {
    let facts = |pf: &PciAddress| host.function(*pf).and_then(|pf| pf.sriov.as_ref());
    let port = |pf: &PciAddress| host.function(*pf).and_then(|pf| host.port_of(pf));
    let settings = |vf: &VfRef| facts(&vf.pf).and_then(|facts| facts.vf_settings.get(&vf.index));
    let hands = |device: &Target| {
        let address = match device {
            Target::Function(address) => Some(*address),
            Target::Vf(vf) => host.vf_address(*vf),
        };
        address.and_then(|at| host.function(at)).map(sriov::act::bind::binding)
    };
    let by_host = |now: &Binding| now.driver.as_deref().is_none_or(|name| !is_vfio_driver(name));
    let drive = |pf: &PciAddress| facts(pf).and_then(|facts| facts.nvme.as_ref());
    match change {
        Change::SetAutoprobe { pf, to, .. } => facts(pf).is_none_or(|now| now.autoprobe == *to),
        Change::SetVfCount { pf, to, .. } => facts(pf).is_none_or(|now| now.present == *to),
        Change::SetLink { pf, to, .. } => port(pf).is_none_or(|now| now.up == *to),
        Change::SetAcceptRa { pf, to, .. } => {
            port(pf).and_then(|now| now.accept_ra).is_none_or(|now| now == *to)
        }
        Change::SetVfMac { vf, to, .. } => settings(vf).is_none_or(|now| now.mac == *to),
        Change::SetVf { vf, setting } => {
            let now = settings(vf).and_then(|now| setting.from_now(now));
            now.is_none_or(|setting| setting.is_nothing())
        }
        Change::SetNvmePrimary { pf, to, .. } => drive(pf).is_none_or(|now| now.primary() == *to),
        Change::SetNvmeSecondary { vf, to, .. } => {
            let now = drive(&vf.pf).and_then(|now| now.secondaries.get(&vf.index));
            now.is_none_or(|now| now.state == *to)
        }
        Change::Bind { device, driver, .. } => {
            hands(device).is_none_or(|now| now.driver.as_ref() == Some(driver))
        }
        Change::Restore { device, to, .. } | Change::Retake { device, to } => {
            hands(device).is_none_or(|now| now.same_hands(to))
        }
        Change::Yield { device, .. } => {
            hands(device).is_none_or(|now| by_host(&now) && now.driver_override.is_none())
        }
        Change::RememberVf { vf, had } | Change::RemakeVf { vf, had } => {
            hands(&Target::Vf(*vf)).is_none_or(|now| now.same_hands(&had.binding))
        }
        Change::Forced { step, .. } => shows(host, step),
    }
}
