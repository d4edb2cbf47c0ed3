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

/// A step that was made for a policy.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Step {
    /// The policy's name.
    pub policy: String,
    /// What to change.
    pub change: Change,
}

impl State {
    /// Every policy that was applied and not removed, by name.
    pub fn applied(&self) -> Result<Vec<Applied>, Failure> {
        self.all(POLICIES)
    }
}

impl Transaction<'_> {
    /// Remembers that a policy holds, and what was changed for it this time.
    pub fn remember_policy(
        &self,
        policy: &Policy,
        boot_id: &str,
        changes: &[Change],
    ) -> Result<(), Failure> {
        let before = self.get::<Applied>(POLICIES, &policy.name)?;
        let mut all = before.filter(|known| known.boot_id == boot_id).map(|known| known.changes);
        let all_changes = match &mut all {
            Some(known) => {
                known.extend_from_slice(changes);
                std::mem::take(known)
            }
            None => changes.to_vec(),
        };
        let applied =
            Applied { policy: policy.clone(), boot_id: boot_id.to_owned(), changes: all_changes };
        self.put(POLICIES, &policy.name, &applied)?;
        self.note_applied(&policy.name)
    }

    /// The policy holds no more.
    pub fn forget_policy(&self, name: &str) -> Result<(), Failure> {
        self.remove(POLICIES, name)?;
        self.forget_conditions(name)
    }
}
