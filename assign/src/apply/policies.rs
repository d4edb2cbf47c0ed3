//! Applying and removing policies.

use ::policies::{Guest, Policy, Pool, Restore};
use serde::Serialize;
use sriov::{Change, HostRoot, HostSnapshot, PciAddress, PciFunction, Target};

use super::{Operation, settle};
use crate::failure::{Failure, OwnReason};
use crate::inputs::Inputs;
use crate::plan::{Plan, Reasons, candidates, vfs};
use crate::state::{Applied, Intent, Lease, State, Step, Transaction};

/// What an apply or remove did.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Report {
    /// The changes made, first to last.
    pub changes: Vec<Change>,
    /// What a person should know.
    pub notes: Vec<String>,
}

/// The plan for `policies` on the host as it is now.
///
/// # Errors
/// The state cannot be read.
pub fn plan_now(root: &HostRoot, state: &State, policies: &[Policy]) -> Result<Plan, Failure> {
    let inputs = Inputs::read(root, state, policies)?;
    Ok(inputs.plan(&state.look(root)?, policies, &[], Reasons::Few))
}

/// What is to be applied, and under which condition.
pub struct Wanted<'a> {
    /// The policies.
    pub policies: &'a [Policy],
    /// Guests that are planned for as well.
    pub guests: &'a [Guest],
    /// What the plan has to be, before anything else is made of it.
    pub check: &'a dyn Fn(&Plan) -> Result<(), Failure>,
}

/// Makes the host what `policies` say. `confirm` is asked about a plan that somebody may notice.
///
/// # Errors
/// A refusal, with nothing done; or a step's failure, with the steps before it taken back.
pub fn apply(
    root: &HostRoot,
    state: &State,
    policies: &[Policy],
    confirm: impl FnOnce(&Plan) -> Result<(), Failure>,
) -> Result<Report, Failure> {
    apply_checked(root, state, &Wanted { policies, guests: &[], check: &|_| Ok(()) }, confirm)
}

/// The same under a condition.
///
/// # Errors
/// As [`apply`], or the condition's.
pub fn apply_checked(
    root: &HostRoot,
    state: &State,
    wanted: &Wanted<'_>,
    confirm: impl FnOnce(&Plan) -> Result<(), Failure>,
) -> Result<Report, Failure> {
    let policies = wanted.policies;
    let names: Vec<&str> = policies.iter().map(|policy| policy.name.as_str()).collect();
    let mut operation = Operation::begin(root, state, format!("apply {}", names.join(" ")))?;
    let inputs = Inputs::read(root, state, policies)?;
    let plan = inputs.plan(&state.look(root)?, policies, wanted.guests, Reasons::Few);
    (wanted.check)(&plan)?;
    if let Some(refusal) = plan.refusal() {
        return Err(refusal.clone());
    }
    if plan.is_disruptive() {
        confirm(&plan)?;
    }
    operation.intend(Intent { policies: policies.to_vec(), steps: plan.steps.clone() });
    let changes: Vec<Change> = plan.steps.iter().map(|step| step.change.clone()).collect();
    let made = match operation.perform_each(&changes) {
        Ok(made) => made,
        Err(error) => return Err(operation.roll_back(error)),
    };
    let made: Vec<&Step> =
        plan.steps.iter().zip(made).filter_map(|(step, made)| made.then_some(step)).collect();
    let mut notes = plan.notes;
    if !plan.steps.is_empty() {
        notes.extend(operation.await_links());
        if let Err(error) = verify(root, state, policies) {
            return Err(operation.roll_back(error));
        }
    }
    let boot_id = operation.boot_id().to_owned();
    let changes = operation.done();
    operation.commit(|state| remember(state, policies, &boot_id, &made))?;
    Ok(Report { changes, notes })
}

/// Remembers that policies hold, and the steps that were made for each.
pub(super) fn remember(
    state: &Transaction<'_>,
    policies: &[Policy],
    boot_id: &str,
    made: &[&Step],
) -> Result<(), Failure> {
    policies.iter().try_for_each(|policy| {
        let own = made.iter().filter(|step| step.policy == policy.name);
        let own: Vec<Change> = own.map(|step| step.change.clone()).collect();
        state.remember_policy(policy, boot_id, &own)
    })
}

/// Success means observed: a fresh look at the host has to find nothing left to do, and nothing
/// against it, such as the IOMMU groups of VFs that were not there when the plan was made.
pub(super) fn verify(root: &HostRoot, state: &State, policies: &[Policy]) -> Result<(), Failure> {
    let left = plan_now(root, state, policies)?;
    if let Some(refusal) = left.refusal() {
        return Err(refusal.clone());
    }
    match left.steps.first() {
        None => Ok(()),
        Some(step) => {
            let message = format!(
                "after all steps the host is not as planned: \"{}\" is still to be done",
                step.change
            );
            Err(Failure::failed(OwnReason::NotAsPlanned, step.change.device(), message)
                .with_remedy(
                    "Something else may be changing it: look at the kernel's log (dmesg).",
                ))
        }
    }
}

/// What removing `applied` would do.
pub fn plan_removal(root: &HostRoot, applied: &Applied) -> Vec<Change> {
    // After a boot the kernel has forgotten all of it.
    match applied.boot_id == sriov::facts::platform::boot_id(root) {
        true => settle::settle(&applied.changes),
        false => Vec::new(),
    }
}

/// Takes back exactly what the policies changed. One that was not applied is noted.
///
/// # Errors
/// A guest or another policy uses what would go; or a step's failure, with the steps before it
/// taken back.
pub fn remove(root: &HostRoot, state: &State, names: &[String]) -> Result<Report, Failure> {
    let mut operation = Operation::begin(root, state, format!("remove {}", names.join(" ")))?;
    let (leases, applied) = (state.leases(root)?, state.applied()?);
    let (gone, mut kept): (Vec<&Applied>, Vec<&Applied>) =
        applied.iter().partition(|applied| names.contains(&applied.policy.name));
    // Of what was applied before the last boot, nothing is left that anybody could lose.
    kept.retain(|applied| applied.boot_id == operation.boot_id());
    let mut report = Report::default();
    let mut changes = Vec::new();
    // The last one applied goes first, as it may stand on the others.
    for name in names.iter().rev() {
        match gone.iter().find(|applied| applied.policy.name == *name) {
            Some(one) if one.policy.release.restore == Restore::Keep => {
                let note =
                    format!("policy {name} says `restore: keep`: its devices stay as they are");
                report.notes.push(note);
            }
            Some(policy) => changes.extend(plan_removal(root, policy)),
            None => report.notes.push(format!("policy {name} is not applied")),
        }
    }
    // All of it before any of it: a guest is not to notice even what is taken back at once.
    let snapshot = state.look(root)?;
    for change in &changes {
        check_removal(&snapshot, change, &leases, &kept)?;
    }
    let changes = with_memory(&snapshot, changes);
    match operation.perform_what_is_left(&changes) {
        Ok(left) => report.notes.extend(left),
        Err(error) => return Err(operation.roll_back(error)),
    }
    report.changes = operation.done();
    operation.commit(|state| names.iter().try_for_each(|name| state.forget_policy(name)))?;
    Ok(report)
}

/// The same, remembering what VFs have that go: should a later step fail, they are to have it again,
/// before any driver of the host takes them.
fn with_memory(snapshot: &HostSnapshot, changes: Vec<Change>) -> Vec<Change> {
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
fn check_removal(
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
