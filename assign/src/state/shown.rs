//! What drivers showed of the devices that were taken from them, wherever it was written down: with
//! the steps of policies, of a command at work or killed, of `assign bind`, and with leases. So what
//! a selector means does not change by taking it.

use std::collections::BTreeMap;

use sriov::facts::shown::Shown;
use sriov::{Binding, Change, HostRoot, HostSnapshot, PciAddress, Scope, Target};

use super::State;
use crate::failure::Failure;

impl State {
    /// The host as it is now, with what is remembered of devices that vfio has.
    ///
    /// # Errors
    /// The state cannot be read.
    pub fn look(&self, root: &HostRoot) -> Result<HostSnapshot, Failure> {
        self.look_within(root, Scope::Planning)
    }

    /// The same, as far as `scope` says.
    ///
    /// # Errors
    /// The state cannot be read.
    pub fn look_within(&self, root: &HostRoot, scope: Scope) -> Result<HostSnapshot, Failure> {
        let mut host = HostSnapshot::read_within(root, scope);
        self.recall(root, &mut host)?;
        Ok(host)
    }

    /// Adds to a snapshot of the host what is remembered of devices that vfio has.
    ///
    /// # Errors
    /// The state cannot be read.
    pub fn recall(&self, root: &HostRoot, host: &mut HostSnapshot) -> Result<(), Failure> {
        if !host.has_silent_functions() {
            return Ok(());
        }
        // What is later knows better.
        let mut known = BTreeMap::new();
        let boot_id = &host.platform.boot_id;
        for applied in self.applied()?.iter().filter(|applied| applied.boot_id == *boot_id) {
            applied.changes.iter().for_each(|change| add_step(&mut known, change));
        }
        for original in self.originals(root, boot_id)? {
            add(&mut known, original.device, &original.binding);
        }
        for lease in self.leases_of(boot_id)? {
            if let Some(loan) = &lease.loan {
                add(&mut known, lease.device, &loan.from);
            }
        }
        for entry in self.journal()?.iter().filter(|entry| entry.boot_id == *boot_id) {
            add_step(&mut known, &entry.change);
        }
        host.recall(&known);
        Ok(())
    }
}

fn add_step(known: &mut BTreeMap<PciAddress, Shown>, change: &Change) {
    if let Change::Bind { device: Target::Function(device), from, .. } = change.plain() {
        add(known, *device, from);
    }
}

fn add(known: &mut BTreeMap<PciAddress, Shown>, device: PciAddress, from: &Binding) {
    if let Some(shown) = &from.shown {
        known.insert(device, (**shown).clone());
    }
}
