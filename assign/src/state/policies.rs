//! Policies that were applied, with what each changed, in order: what `assign remove` takes back.

use std::collections::{BTreeMap, BTreeSet};

use policies::Policy;
use serde::{Deserialize, Serialize};
use sriov::isolation::is_vfio_driver;
use sriov::{Binding, Change, PciAddress, Target};

use super::State;
use super::store::{Table, Transaction};
use crate::failure::Failure;

const POLICIES: Table = Table::new("policies");

/// A policy as it was applied.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Applied {
    /// The policy, resolved.
    pub policy: Policy,
    /// The boot that `changes` were made on. On another one they are gone by themselves.
    pub boot_id: String,
    /// What was changed for it, first to last, over all of its applies.
    pub changes: Vec<Change>,
}

impl Applied {
    /// Devices that were bound for it, and are kept for their driver by an override.
    pub fn bound(&self) -> BTreeSet<Target> {
        let mut bound = BTreeSet::new();
        for change in &self.changes {
            match change.plain() {
                Change::Bind { device, .. } => drop(bound.insert(*device)),
                Change::Restore { device, to, .. } if to.driver_override.is_none() => {
                    bound.remove(device);
                }
                Change::Restore { device, .. } => drop(bound.insert(*device)),
                Change::Yield { device, .. } => drop(bound.remove(device)),
                _ => {}
            }
        }
        bound
    }

    /// How the devices that are bound for it were with the host, as far as a driver of the host had
    /// them.
    pub fn taken(&self) -> BTreeMap<Target, Binding> {
        let mut taken: BTreeMap<Target, Binding> = BTreeMap::new();
        for change in &self.changes {
            match change.plain() {
                // Others come in the places of VFs that go.
                Change::SetVfCount { pf, .. } => {
                    taken.retain(|device, _| !matches!(device, Target::Vf(vf) if vf.pf == *pf))
                }
                Change::Bind { device, from, .. } => {
                    let by_host = from.driver.as_deref().is_some_and(|name| !is_vfio_driver(name));
                    if by_host {
                        taken.insert(*device, from.clone());
                    }
                }
                _ => {}
            }
        }
        taken
    }

    /// What was changed for VFs of `pf` that are there now: what earlier ones had went with them.
    pub fn on_present_vfs(&self, pf: PciAddress) -> &[Change] {
        let counts = |change: &Change| matches!(change.plain(), Change::SetVfCount { pf: own, .. } if *own == pf);
        let last = self.changes.iter().rposition(counts).map_or(0, |at| at + 1);
        self.changes.get(last..).unwrap_or_default()
    }

    /// Forgets what was changed on devices that are as they were again: all of a function with its VFs,
    /// or one VF of those that are there now.
    pub fn forget(&mut self, devices: &[Target]) {
        for device in devices {
            match device {
                Target::Function(function) => self.changes.retain(|change| match change.device() {
                    Target::Function(at) => at != *function,
                    Target::Vf(vf) => vf.pf != *function,
                }),
                Target::Vf(vf) => {
                    let kept = self.changes.len() - self.on_present_vfs(vf.pf).len();
                    let mut place = 0;
                    self.changes.retain(|change| {
                        place += 1;
                        place <= kept || change.device() != *device || is_memory(change)
                    });
                }
            }
        }
    }

    /// PFs whose new VFs the host bound drivers to by itself when the policy was applied.
    pub fn autoprobed(&self) -> BTreeSet<PciAddress> {
        let mut found = BTreeMap::new();
        for change in &self.changes {
            if let Change::SetAutoprobe { pf, from, .. } = change.plain() {
                found.entry(*pf).or_insert(*from);
            }
        }
        found.into_iter().filter_map(|(pf, on)| on.then_some(pf)).collect()
    }
}

/// Whether it is what a VF had that went: needed to make that one again, whatever comes of a later one.
fn is_memory(change: &Change) -> bool {
    matches!(change.plain(), Change::RememberVf { .. } | Change::RemakeVf { .. })
}

/// A step that was made for a policy.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Step {
    /// The policy's name.
    pub policy: String,
    /// What to change.
    pub change: Change,
    /// Whether it takes back what was changed for the policy before, which wants it no longer.
    #[serde(default, skip_serializing_if = "is_false")]
    pub returns: bool,
}

fn is_false(flag: &bool) -> bool {
    !flag
}

impl Step {
    /// A step that a policy wants.
    pub fn of(policy: &Policy, change: Change) -> Step {
        Step { policy: policy.name.clone(), change, returns: false }
    }
}

impl State {
    /// Every policy that was applied and not removed, by name.
    pub fn applied(&self) -> Result<Vec<Applied>, Failure> {
        self.all(POLICIES)
    }
}

impl Transaction<'_> {
    /// Remembers that a policy holds, and what was changed for it this time; what was changed earlier on
    /// devices that were `returned` is forgotten.
    pub fn remember_policy(
        &self,
        policy: &Policy,
        boot_id: &str,
        changes: &[Change],
        returned: &[Target],
    ) -> Result<(), Failure> {
        let before = self.get::<Applied>(POLICIES, &policy.name)?;
        if let Some(before) = &before {
            let pools = before.policy.pools.iter().map(|pool| pool.name.as_str());
            let is_gone = |name: &&str| policy.pools.iter().all(|pool| pool.name != *name);
            self.forget_choices(&pools.filter(is_gone).collect::<Vec<_>>())?;
        }
        let fresh =
            || Applied { policy: policy.clone(), boot_id: boot_id.to_owned(), changes: Vec::new() };
        let mut applied = before.filter(|known| known.boot_id == boot_id).unwrap_or_else(fresh);
        applied.policy = policy.clone();
        applied.forget(returned);
        applied.changes.extend_from_slice(changes);
        self.put(POLICIES, &policy.name, &applied)?;
        self.note_applied(&policy.name)
    }

    /// The policy holds no more, and what guests had of its pools is nobody's to have again.
    pub fn forget_policy(&self, name: &str) -> Result<(), Failure> {
        if let Some(gone) = self.get::<Applied>(POLICIES, name)? {
            let pools: Vec<&str> = gone.policy.pools.iter().map(|pool| &*pool.name).collect();
            self.forget_choices(&pools)?;
        }
        self.remove(POLICIES, name)?;
        self.forget_conditions(name)
    }
}
