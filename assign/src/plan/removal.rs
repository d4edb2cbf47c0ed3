//! What taking back has to respect, be it all of a policy or what it no longer wants: guests and other
//! policies lose nothing by it, and a step that fails leaves no VF without what it had.

use ::policies::{Policy, Pool};
use sriov::{Change, HostSnapshot, PciAddress, PciFunction, Target};

use super::{candidates, vfs};
use crate::failure::{Failure, OwnReason};
use crate::state::{Applied, Lease};

/// Steps back that remember what VFs have that go: should a later step fail, they are to have it again,
/// before any driver of the host takes them.
pub(crate) fn with_memory(snapshot: &HostSnapshot, changes: Vec<Change>) -> Vec<Change> {
    let mut steps = Vec::new();
    for change in changes {
        let Change::SetVfCount { pf, to: 0, .. } = change else {
            steps.push(change);
            continue;
        };
        let function = snapshot.function(pf);
        let facts = function.and_then(|function| Some((function, function.sriov.as_ref()?)));
        let remembered =
            facts.map_or_else(Vec::new, |(pf, facts)| vfs::remember(snapshot, pf, facts));
        let is_on = facts.is_some_and(|(_, facts)| facts.autoprobe);
        let guard = |from, to| Change::SetAutoprobe { pf, from, to };
        let guarded = is_on && !remembered.is_empty();
        steps.extend(guarded.then(|| guard(true, false)));
        steps.extend(remembered);
        steps.push(change);
        steps.extend(guarded.then(|| guard(false, true)));
    }
    steps
}

/// Neither a guest nor a policy that stays may lose a VF, or its way to the network.
pub(crate) fn check_removal(
    snapshot: &HostSnapshot,
    change: &Change,
    leases: &[Lease],
    kept: &[&Applied],
) -> Result<(), Failure> {
    let leased = |at: PciAddress| leases.iter().find(|lease| lease.device == at);
    match change {
        Change::SetVfMac { .. }
        | Change::SetNvmeSecondary { .. }
        | Change::SetVf { .. }
        | Change::RememberVf { .. }
        | Change::RemakeVf { .. }
        | Change::Bind { .. }
        | Change::Restore { .. }
        | Change::Yield { .. }
        | Change::Retake { .. } => {
            let at = match change.device() {
                Target::Vf(vf) => snapshot.vf_address(vf),
                Target::Function(address) => Some(address),
            };
            match at.and_then(leased) {
                Some(lease) => Err(vfs::leased(lease, &change.action().to_string())),
                None => Ok(()),
            }
        }
        Change::SetVfCount { pf, .. } | Change::SetLink { pf, to: false, .. } => {
            let Some(function) = snapshot.function(*pf) else { return Ok(()) };
            let Some(facts) = &function.sriov else { return Ok(()) };
            match change {
                Change::SetVfCount { .. } => vfs::check_free(snapshot, facts, leases)?,
                _ => {
                    if let Some(lease) = facts.vfs.values().find_map(|vf| leased(*vf)) {
                        let tried = "take the link from its PF";
                        return Err(vfs::leased(lease, tried));
                    }
                }
            }
            match kept.iter().find_map(|applied| uses(snapshot, &applied.policy, function)) {
                Some((policy, pool)) => Err(used(change, policy, pool)),
                None => Ok(()),
            }
        }
        // An NVMe PF is reset when it has no VFs, so nobody can lose one by it.
        Change::SetLink { .. }
        | Change::SetAutoprobe { .. }
        | Change::SetAcceptRa { .. }
        | Change::SetNvmePrimary { .. } => Ok(()),
        Change::Forced { step, .. } => check_removal(snapshot, step, leases, kept),
    }
}

fn uses<'a>(
    snapshot: &HostSnapshot,
    policy: &'a Policy,
    pf: &PciFunction,
) -> Option<(&'a Policy, &'a Pool)> {
    let mut pools = policy.pools.iter();
    let pool = pools.find(|pool| candidates::is_meant(snapshot, pool, pf))?;
    Some((policy, pool))
}

fn used(change: &Change, policy: &Policy, pool: &Pool) -> Failure {
    let message = format!(
        "will not {}: pool {} of policy {}, which stays, has VFs of it",
        change.action(),
        pool.name,
        policy.name
    );
    Failure::refused(OwnReason::UsedByPolicy, change.device(), message)
        .with_remedy(format!("Remove {} as well, or first.", policy.name))
}
