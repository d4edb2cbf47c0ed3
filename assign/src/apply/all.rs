//! All policies of this host at once, as after a boot: what one of them cannot have keeps none of the
//! others from being applied, each whole or not at all.

use std::collections::BTreeSet;

use ::policies::Policy;
use serde::Serialize;
use sriov::{HostRoot, HostSnapshot};

use super::Operation;
use super::policies::{self, Report};
use crate::failure::{Failure, OwnReason, Reason};
use crate::plan::Plan;
use crate::plan::conflicts::{self, Conflict};
use crate::state::State;

/// What came of applying all policies.
#[derive(Debug, Default, Serialize)]
pub struct All {
    /// The policies that hold now.
    pub policies: Vec<String>,
    /// What was done.
    #[serde(flatten)]
    pub report: Report,
    /// Why others do not.
    pub failures: Vec<Failure>,
}

/// Makes the host what `all` say, which are all policies it is to have. Those of another boot that
/// are not among them are forgotten: nothing of them is left. Together where that can be, else one by
/// one in their order, without those that contradict each other: none of these wins by its name.
///
/// # Errors
/// Nothing could be tried: the state cannot be used, another command has the lock, or what was left
/// by one that was killed cannot be undone.
pub fn apply(
    root: &HostRoot,
    state: &State,
    all: &[Policy],
    confirm: &dyn Fn(&Plan) -> Result<(), Failure>,
) -> Result<All, Failure> {
    let mut done = All { report: close_other_boots(root, state, all)?, ..All::default() };
    if all.is_empty() {
        return Ok(done);
    }
    match policies::apply(root, state, all, confirm) {
        Ok(report) => done.add(all, report),
        Err(failure) if all.len() == 1 || !is_of_one(&failure) => done.failures.push(failure),
        Err(_) => {
            let contradicting = contradictions(&state.look(root)?, all, &mut done.failures);
            for policy in all.iter().filter(|one| !contradicting.contains(&one.name.as_str())) {
                let one = std::slice::from_ref(policy);
                match policies::apply(root, state, one, confirm) {
                    Ok(report) => done.add(one, report),
                    Err(failure) => {
                        let goes_on = is_of_one(&failure);
                        done.failures.push(failure);
                        if !goes_on {
                            break;
                        }
                    }
                }
            }
        }
    }
    Ok(done)
}

impl All {
    fn add(&mut self, policies: &[Policy], report: Report) {
        self.policies.extend(policies.iter().map(|policy| policy.name.clone()));
        self.report.changes.extend(report.changes);
        self.report.notes.extend(report.notes);
    }
}

/// The names of policies that cannot all be had, with a failure for each reason. One by one, whichever
/// came first would take what the other one wants: then the name of a file would decide, and another
/// boot after a renaming another way.
fn contradictions<'a>(
    host: &HostSnapshot,
    all: &'a [Policy],
    failures: &mut Vec<Failure>,
) -> BTreeSet<&'a str> {
    let mut names = BTreeSet::new();
    for Conflict { policies: [one, other], failure } in conflicts::among(host, all) {
        names.extend([one.name.as_str(), other.name.as_str()]);
        let remedy = failure.remedy.clone().unwrap_or_default();
        failures.push(match one.name == other.name {
            true => failure,
            false => failure.with_remedy(format!(
                "Neither was applied, since neither wins by its name. {remedy}"
            )),
        });
    }
    names
}

/// Whether other policies may fare better.
fn is_of_one(failure: &Failure) -> bool {
    !matches!(
        failure.reason,
        Reason::Own(OwnReason::State | OwnReason::Locked | OwnReason::Interrupted)
    )
}

/// Undoes what was left by commands that were killed, drops the leases of guests that are gone, and
/// forgets policies that were applied before the last boot and are no more.
fn close_other_boots(root: &HostRoot, state: &State, all: &[Policy]) -> Result<Report, Failure> {
    let operation = Operation::begin(root, state, "apply --all")?;
    let boot_id = operation.boot_id().to_owned();
    let applied = state.applied()?;
    let others = applied.iter().filter(|one| all.iter().all(|new| new.name != one.policy.name));
    let (here, gone): (Vec<_>, Vec<_>) = others.partition(|one| one.boot_id == boot_id);
    let mut report = Report::default();
    for one in &gone {
        let name = &one.policy.name;
        report.notes.push(format!(
            "policy {name} was applied before the last boot, and none of these files holds it: \
             forgotten"
        ));
    }
    for one in &here {
        let name = &one.policy.name;
        report.notes.push(format!(
            "policy {name} is applied, and none of these files holds it: it stays; `assign remove \
             {name}` takes it back"
        ));
    }
    operation
        .commit(|state| gone.iter().try_for_each(|one| state.forget_policy(&one.policy.name)))?;
    Ok(report)
}
