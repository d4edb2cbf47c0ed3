//! From what a host is and what it should be to the steps in between: a pure function. No file, no
//! clock, no system call; the same input gives the same plan, here or on another machine.
//!
//! ```text
//! candidates.rs  which PFs feed a pool, and why the others do not
//! conflicts.rs   what two pools cannot both have
//! nvme.rs        what the VFs of a drive need to work
//! vfs.rs         the steps of one PF, in an order that argues for itself
//! mac.rs         the address of a VF
//! ```
//!
//! What must not be done is a refusal, each with its reason; a plan with a refusal is not carried
//! out at all.

use std::collections::BTreeMap;

use ::policies::{Policy, Pool};
use serde::Serialize;
use sriov::{HostSnapshot, PciAddress, PciFunction, usage};

use crate::failure::{Failure, OwnReason};
use crate::state::{Applied, Lease, Step};

pub mod candidates;
mod conflicts;
pub mod mac;
mod nvme;
pub mod vfs;

pub use candidates::{Candidates, Rejected};

/// What is to be done, or why it is not.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Plan {
    /// Steps in order; none when the host is as wanted.
    pub steps: Vec<Step>,
    /// What a person should know before.
    pub notes: Vec<String>,
    /// Why nothing is to be done.
    pub refusals: Vec<Failure>,
    /// Which devices feed which pool.
    pub pools: Vec<Candidates>,
}

impl Plan {
    /// Whether somebody may notice the steps, so that they are asked first.
    pub fn is_disruptive(&self) -> bool {
        self.steps.iter().any(|step| step.change.is_disruptive())
    }

    /// The gravest refusal: bad input before protection, since it has to be mended first.
    pub fn refusal(&self) -> Option<&Failure> {
        let bad_input = |failure: &&Failure| failure.class == sriov::Class::BadInput;
        self.refusals.iter().find(bad_input).or_else(|| self.refusals.first())
    }
}

/// What is known beside the host itself.
#[derive(Debug, Clone, Copy)]
pub struct Known<'a> {
    /// Leases that are alive.
    pub leases: &'a [Lease],
    /// Policies applied before; those that are planned again are taken from the new text.
    pub applied: &'a [Applied],
}

/// A pool that a PF feeds, and the policy it stands in.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Feed<'a> {
    pub policy: &'a Policy,
    pub pool: &'a Pool,
}

/// Plans for `policies` on the host as it is.
pub fn plan(snapshot: &HostSnapshot, policies: &[Policy], known: Known<'_>) -> Plan {
    let mut plan = Plan::default();
    let mut feeds: BTreeMap<PciAddress, Vec<Feed<'_>>> = BTreeMap::new();
    for policy in policies {
        for pool in &policy.pools {
            let candidates = candidates::find(snapshot, pool);
            plan.refusals.extend(candidates.refusal(pool));
            for pf in &candidates.accepted {
                feeds.entry(*pf).or_default().push(Feed { policy, pool });
            }
            plan.pools.push(candidates);
        }
    }
    let pool_wanted = policies.iter().any(|policy| !policy.pools.is_empty());
    if pool_wanted && !snapshot.iommu.present {
        plan.refusals.push(no_iommu(snapshot));
    }
    let others: Vec<&Policy> = known
        .applied
        .iter()
        .map(|applied| &applied.policy)
        .filter(|applied| policies.iter().all(|policy| policy.name != applied.name))
        .collect();
    for (address, feeds) in &feeds {
        let Some(pf) = snapshot.function(*address) else { continue };
        plan.refusals.extend(conflicts::find(snapshot, pf, feeds, &others));
        plan.notes.extend(disturbance(snapshot, pf, feeds));
        match vfs::steps(snapshot, pf, feeds, known.leases) {
            Ok(steps) => plan.steps.extend(steps),
            Err(refusals) => plan.refusals.extend(refusals),
        }
    }
    if !plan.refusals.is_empty() {
        plan.steps.clear();
    }
    plan
}

fn no_iommu(snapshot: &HostSnapshot) -> Failure {
    let message = "no IOMMU is in use, so a device in a guest could reach all memory, and none is \
                   given away";
    let remedy = format!(
        "{} Until then, guests with a virtio fallback start with that.",
        snapshot.iommu.remedy()
    );
    Failure::refused(OwnReason::NoIommu, "this host", message).with_remedy(remedy)
}

/// Some NICs (igb) reset their link when VFs come or go.
fn disturbance(snapshot: &HostSnapshot, pf: &PciFunction, feeds: &[Feed<'_>]) -> Option<String> {
    let present = pf.sriov.as_ref()?.present;
    let used = usage::of(snapshot, pf).into_iter().next()?;
    let changes = feeds.iter().any(|feed| feed.pool.count() != Some(present));
    changes.then(|| format!("{used}: may lose its link for a moment while its VFs are made"))
}
