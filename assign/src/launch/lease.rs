//! The guest's hold on its devices: taken before they are opened, given back after they are closed.
//!
//! The launcher owns the leases until the guest's process runs, then that process does: they end
//! with it, and it ends with the launcher. So after SIGKILL of either, nobody has to clean up, and
//! while the kernel still takes the process apart, the devices still count as held.
//!
//! A device of a pool with `driver: host` is the host's until here and again afterwards: it is lent
//! (see [`crate::apply::leases`]).

use std::collections::BTreeMap;

use sriov::isolation::is_vfio_driver;
use sriov::{HostRoot, HostSnapshot, PciAddress};

use crate::apply::leases::{self, NotTaken, Used};
use crate::choose::{Device, Holder};
use crate::failure::{Failure, OwnReason, Reason};
use crate::state::{self, Loan, Owner, State};

/// The driver that a lent device has with its guest.
const LENT_TO: &str = "vfio-pci";

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
    used: Used,
}

/// What came of taking a guest's devices.
#[derive(Debug)]
pub enum Taken<'a> {
    /// They are the guest's.
    All(Lease<'a>),
    /// Somebody was faster with one of them.
    TooLate,
    /// This one cannot be had, for this reason; another one may.
    Not(PciAddress, Failure),
}

impl<'a> Lease<'a> {
    /// Leases `devices` to `guest`, and binds those that the host lends. `host`
    /// is what they were chosen from.
    ///
    /// # Errors
    /// Why the state cannot be written; nothing is leased then.
    pub fn take(
        state: &'a State,
        root: &'a HostRoot,
        guest: &str,
        host: &HostSnapshot,
        devices: &[Device],
    ) -> Result<Taken<'a>, Failure> {
        let launcher = leases::this_process(root, guest)?;
        let entry = |device: &Device| entry(root, host, guest, device, launcher);
        let entries: Vec<state::Lease> = devices.iter().map(entry).collect();
        let held = entries.iter().map(|entry| entry.device).collect();
        if !entries.is_empty() {
            match leases::take(root, state, &entries) {
                Ok(()) => leases::note_availability(root, state, Some(host)),
                Err(NotTaken::Device(device, failure)) => return Ok(Taken::Not(device, failure)),
                Err(NotTaken::Failed(failure)) => match failure.reason {
                    Reason::Own(OwnReason::Leased) => return Ok(Taken::TooLate),
                    _ => return Err(failure),
                },
            }
        }
        let used = Used::No;
        Ok(Taken::All(Lease { state, root, launcher, owner: launcher, held, used }))
    }

    /// The guest's process runs: it is the owner from now on.
    ///
    /// # Errors
    /// Why the state cannot be written, or that the process has gone already.
    pub fn hand_to(&mut self, pid: u32) -> Result<(), Failure> {
        self.used = Used::Yes;
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

    /// Gives the devices back, lent ones to the host; the guest's process has ended. Tells what a
    /// person should know.
    ///
    /// # Errors
    /// Why one could not be given back. Its lease is dead once this process ends, and the next
    /// command that changes this host tries again.
    pub fn release(mut self) -> Result<(), Failure> {
        for note in self.end()? {
            anstream::eprintln!("assign: {note}");
        }
        Ok(())
    }

    fn end(&mut self) -> Result<Vec<String>, Failure> {
        let held = std::mem::take(&mut self.held);
        if held.is_empty() {
            return Ok(Vec::new());
        }
        // Where handing over stopped half way, either of the two may be the owner.
        leases::release(self.root, self.state, &held, [self.launcher, self.owner], self.used)
    }
}

impl Drop for Lease<'_> {
    fn drop(&mut self) {
        // The error that led here is reported; what could not be given back here is dead when
        // this process has ended, and the next command returns it.
        self.end().ok();
    }
}

fn entry(
    root: &HostRoot,
    host: &HostSnapshot,
    guest: &str,
    device: &Device,
    owner: Owner,
) -> state::Lease {
    state::Lease {
        vf: device.vf,
        pool: Some(device.pool.clone()),
        group: Some(device.group),
        loan: loan(host, device.address),
        ..state::Lease::new(root, device.address, guest, owner)
    }
}

/// What the host lends with a device: nothing where its pool bound it already.
fn loan(host: &HostSnapshot, device: PciAddress) -> Option<Loan> {
    let function = host.function(device)?;
    let is_given_away = function.driver.as_deref().is_some_and(is_vfio_driver);
    (!is_given_away).then(|| Loan {
        from: sriov::act::bind::original(host, function),
        driver: LENT_TO.to_owned(),
    })
}
