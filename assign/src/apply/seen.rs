//! Since when policies are as they are: noted by whoever looked anyway and may write it down. It is for
//! people to read; what cannot be noted is told, and no reason to stop.

use ::policies::Policy;
use sriov::{HostRoot, HostSnapshot};

use crate::drift::{self, Drift};
use crate::failure::Failure;
use crate::inputs::Inputs;
use crate::plan::Reasons;
use crate::state::State;
use crate::status::{self, Known};

/// Looks at the host and notes how it stands to all policies that were applied on this boot. Where none
/// was, nothing is looked at.
pub fn look(root: &HostRoot, state: &State) {
    let looked = || -> Result<(), Failure> {
        let applied = state.applied()?;
        if applied.is_empty() {
            return Ok(());
        }
        let policies: Vec<Policy> = applied.into_iter().map(|one| one.policy).collect();
        let inputs = Inputs::read(root, state, &policies)?;
        let host = state.look(root)?;
        let plan = inputs.plan(&host, &policies, &[], Reasons::Few);
        let drift = drift::compare(&host, &policies, &inputs.applied, &plan);
        write_down(root, state, &host, &policies, &drift)
    };
    tell(looked());
}

/// Notes what was seen of a host that was compared with `policies`: those of them that are applied as
/// they were compared.
pub fn note(
    root: &HostRoot,
    state: &State,
    host: &HostSnapshot,
    policies: &[Policy],
    drift: &Drift,
) {
    tell(write_down(root, state, host, policies, drift));
}

fn tell(noted: Result<(), Failure>) {
    if let Err(failure) = noted {
        anstream::eprintln!("assign: since when policies are as they are is not noted: {failure}");
    }
}

fn write_down(
    root: &HostRoot,
    state: &State,
    host: &HostSnapshot,
    policies: &[Policy],
    drift: &Drift,
) -> Result<(), Failure> {
    let boot_id = &host.platform.boot_id;
    let mut applied = state.applied()?;
    applied.retain(|one| one.boot_id == *boot_id && policies.contains(&one.policy));
    if applied.is_empty() || state.is_hidden() {
        return Ok(());
    }
    let alive = |lease: crate::state::Lease| {
        let alive = lease.is_alive(root);
        (lease, alive)
    };
    let journal = state.journal()?;
    let left = journal.first().filter(|entry| entry.boot_id == *boot_id);
    let known = Known {
        applied,
        leases: state.leases_ever()?.into_iter().map(alive).collect(),
        unreset: state.unreset(root)?,
        interrupted: left.map(|entry| entry.operation.clone()),
        changing: state.is_host_locked(),
        ..Known::default()
    };
    state.note_conditions(&status::conditions_now(host, &known, drift))
}
