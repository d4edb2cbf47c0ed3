//! All policies of this host at once, as after a boot: what one of them cannot have keeps none of the
//! others from being applied, each whole or not at all.

use ::policies::Policy;
use serde::Serialize;
use sriov::HostRoot;

use super::Operation;
use super::policies::{self, Report};
use crate::failure::{Failure, OwnReason, Reason};
use crate::plan::Plan;
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
/// one in their order.
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
            for policy in all {
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
