//! The guest's hold on its devices: taken before they are opened, given back after they are closed.
//!
//! The launcher owns the leases until the guest's process runs, then that process does: they end
//! with it, and it ends with the launcher. So after SIGKILL of either, nobody has to clean up, and
//! while the kernel still takes the process apart, the devices still count as held.

use std::collections::BTreeMap;

use sriov::{HostRoot, PciAddress};

use super::choose::{Connection, Given};
use super::reason::Holder;
use crate::failure::{Failure, OwnReason, Reason};
use crate::state::{self, Owner, State};

/// Who holds which device now.
///
/// # Errors
/// Why the state cannot be read.
pub fn holders(state: &State, root: &HostRoot) -> Result<BTreeMap<PciAddress, Holder>, Failure> {
    let leases = state.leases(root)?;
    let holder = |lease: state::Lease| {
        (lease.device, Holder { guest: lease.guest, pid: Some(lease.owner.pid) })
    };
    Ok(leases.into_iter().map(holder).collect())
}

/// Refuses where a guest of this name runs with a device. One without has no lease, and nothing to
/// be mistaken for.
///
/// # Errors
/// That it runs, or why the state cannot be read.
pub fn check_name(state: &State, root: &HostRoot, guest: &str) -> Result<(), Failure> {
    match state.leases(root)?.iter().find(|lease| lease.guest == guest) {
        Some(lease) => Err(state::leases::runs(lease)),
        None => Ok(()),
    }
}

/// Leases on all devices of one guest. Dropping it gives them back as well, for the ways out that
/// have an error to report already.
#[derive(Debug)]
pub struct Lease<'a> {
    state: &'a State,
    root: &'a HostRoot,
    launcher: Owner,
    owner: Owner,
    held: Vec<PciAddress>,
}

impl<'a> Lease<'a> {
    /// Leases every VF of `connections` to `guest`; `None` where somebody was faster.
    ///
    /// # Errors
    /// Why the state cannot be written; nothing is leased then.
    pub fn take(
        state: &'a State,
        root: &'a HostRoot,
        guest: &str,
        connections: &[Connection],
    ) -> Result<Option<Lease<'a>>, Failure> {
        let launcher = Owner::this(root).ok_or_else(|| {
            Failure::failed(OwnReason::State, guest, "/proc does not show this process")
                .with_remedy("Mount it: `mount -t proc proc /proc`.")
        })?;
        let given = |connection: &Connection| match connection {
            Connection::Vfio(given) => Some(entry(root, guest, given, launcher)),
            Connection::Virtio { .. } => None,
        };
        let entries: Vec<state::Lease> = connections.iter().filter_map(given).collect();
        let held = entries.iter().map(|entry| entry.device).collect();
        if !entries.is_empty() {
            match state.take_leases(root, &entries) {
                Ok(()) => {}
                Err(failure) if failure.reason == Reason::Own(OwnReason::Leased) => {
                    return Ok(None);
                }
                Err(failure) => return Err(failure),
            }
        }
        Ok(Some(Lease { state, root, launcher, owner: launcher, held }))
    }

    /// The guest's process runs: it is the owner from now on.
    ///
    /// # Errors
    /// Why the state cannot be written, or that the process has gone already.
    pub fn hand_to(&mut self, pid: u32) -> Result<(), Failure> {
        self.move_to(pid)
    }

    /// The guest's process has ended and another one is to follow: the launcher is the owner again.
    /// False where somebody else has a device by now.
    pub fn take_back(&mut self) -> bool {
        self.move_to(self.launcher.pid).is_ok()
    }

    fn move_to(&mut self, pid: u32) -> Result<(), Failure> {
        let mut owner = self.owner;
        for device in &self.held {
            owner = self.state.set_lease_owner(self.root, *device, &self.owner, pid)?;
        }
        self.owner = owner;
        Ok(())
    }

    /// Gives the devices back.
    ///
    /// # Errors
    /// Why the state cannot be written. The leases are dead all the same once this process ends.
    pub fn release(mut self) -> Result<(), Failure> {
        self.end()
    }

    fn end(&mut self) -> Result<(), Failure> {
        let mut result = Ok(());
        for device in std::mem::take(&mut self.held) {
            // Where handing over stopped half way, either of the two may be the owner; a release
            // by another one does nothing.
            for owner in [self.launcher, self.owner] {
                result = result.and(self.state.release_lease(device, &owner));
            }
        }
        result
    }
}

impl Drop for Lease<'_> {
    fn drop(&mut self) {
        // The error that led here is reported; what could not be given back here is dead when
        // this process has ended.
        self.end().ok();
    }
}

fn entry(root: &HostRoot, guest: &str, given: &Given, owner: Owner) -> state::Lease {
    state::Lease {
        vf: Some(given.vf),
        pool: Some(given.pool.clone()),
        group: Some(given.group),
        ..state::Lease::new(root, given.address, guest, owner)
    }
}
