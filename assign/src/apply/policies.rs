//! Applying and removing policies.

use ::policies::{Guest, Policy, Restore};
use serde::Serialize;
use sriov::{Change, HostRoot, HostSnapshot, Target};

use super::{Operation, leases, seen, settle};
use crate::failure::{Failure, OwnReason};
use crate::inputs::Inputs;
use crate::plan::removal::{check_removal, with_memory};
use crate::plan::{Plan, Reasons};
use crate::state::{Applied, Intent, State, Step, Transaction};

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
    let applied = apply_or_refuse(root, state, wanted, confirm);
    if applied.is_err() {
        // What it found in the way, and how it left the host, is since now.
        seen::look(root, state);
    }
    applied
}

fn apply_or_refuse(
    root: &HostRoot,
    state: &State,
    wanted: &Wanted<'_>,
    confirm: impl FnOnce(&Plan) -> Result<(), Failure>,
) -> Result<Report, Failure> {
    let policies = wanted.policies;
    let names: Vec<&str> = policies.iter().map(|policy| policy.name.as_str()).collect();
    let mut operation = Operation::begin(root, state, format!("apply {}", names.join(" ")))?;
    let inputs = Inputs::read(root, state, policies)?;
    let mut host = state.look(root)?;
    let plan = inputs.plan(&host, policies, wanted.guests, Reasons::Few);
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
        match verify(root, state, policies) {
            Ok(after) => host = after,
            Err(error) => return Err(operation.roll_back(error)),
        }
    }
    let boot_id = operation.boot_id().to_owned();
    let changes = operation.done();
    operation.commit(|state| remember(state, policies, &boot_id, &made, &plan.steps))?;
    leases::note_availability(root, state, Some(&host));
    Ok(Report { changes, notes })
}

/// Remembers that policies hold, and the steps that were made for each, of `all` that were planned.
/// What was taken back for one is nothing that its removal would have to take back again.
pub(super) fn remember(
    state: &Transaction<'_>,
    policies: &[Policy],
    boot_id: &str,
    made: &[&Step],
    all: &[Step],
) -> Result<(), Failure> {
    policies.iter().try_for_each(|policy| {
        let is_own = |step: &&Step| step.policy == policy.name;
        let own = made.iter().copied().filter(is_own).filter(|step| !step.returns);
        let own: Vec<Change> = own.map(|step| step.change.clone()).collect();
        let returned = all.iter().filter(is_own).filter(|step| step.returns);
        let returned: Vec<Target> = returned.map(|step| step.change.device()).collect();
        state.remember_policy(policy, boot_id, &own, &returned)
    })
}

/// Success means observed: a fresh look at the host has to find nothing left to do, and nothing
/// against it, such as the IOMMU groups of VFs that were not there when the plan was made.
pub(super) fn verify(
    root: &HostRoot,
    state: &State,
    policies: &[Policy],
) -> Result<HostSnapshot, Failure> {
    let inputs = Inputs::read(root, state, policies)?;
    let host = state.look(root)?;
    let left = inputs.plan(&host, policies, &[], Reasons::Few);
    if let Some(refusal) = left.refusal() {
        return Err(refusal.clone());
    }
    match left.steps.first() {
        None => Ok(host),
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
    let removed = remove_or_refuse(root, state, names);
    seen::look(root, state);
    removed
}

fn remove_or_refuse(root: &HostRoot, state: &State, names: &[String]) -> Result<Report, Failure> {
    let mut operation = Operation::begin(root, state, format!("remove {}", names.join(" ")))?;
    let (leased, applied) = (state.leases(root)?, state.applied()?);
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
        check_removal(&snapshot, change, &leased, &kept)?;
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
