//! Devices that change hands with a guest: taken for it, lent by the host while it lives, and
//! returned when it is gone, by whoever notices.
//!
//! ```text
//! lease (with how the device was) ─► bind ─► the guest has it ─► closed, which resets it
//!                                                                  └─► address, driver ─► lease ends
//! ```
//!
//! The lease is the journal here: it is on the disk before the device is touched, says how the device
//! was, and goes last. So a kill at any point leaves a dead lease, and giving back is the same steps
//! from wherever they stopped.
//!
//! All of it happens under [`State::lock_host`]. Who returns a dead guest's device makes itself the
//! lease's owner first; so neither the launcher that comes late nor another command touches a device
//! that is being returned, or has its next guest.

use std::thread::sleep;
use std::time::{Duration, Instant};

use sriov::facts::platform;
use sriov::isolation::is_vfio_driver;
use sriov::{
    Change, HostRoot, HostSnapshot, PciAddress, Reason as HostReason, Undo, attribute, vfio,
};

use super::policies::Report;
use super::recover;
use crate::cgroup;
use crate::control;
use crate::failure::{Failure, OwnReason, Reason};
use crate::state::conditions::{Kind, Noted, Status};
use crate::state::{Lease, Owner, State, Transaction, Unreset};
use crate::status::{self, Known};

/// How long a killed guest's process may take to let go of its devices: a reset takes 100 ms for each,
/// and memory that was pinned is freed first.
const LETS_GO: Duration = Duration::from_secs(5);
const LOOK_AGAIN: Duration = Duration::from_millis(20);
/// How long a launcher whose guest has ended waits for another command, which may be making a hundred
/// VFs. When that is over, the lease stays and the next command returns the device.
const PATIENCE: Duration = Duration::from_secs(120);

/// This process, as an owner.
///
/// # Errors
/// `/proc` does not show it.
pub fn this_process(root: &HostRoot, thing: &str) -> Result<Owner, Failure> {
    Owner::this(root).ok_or_else(|| {
        Failure::failed(OwnReason::State, thing, "/proc does not show this process")
            .with_remedy("Mount it: `mount -t proc proc /proc`.")
    })
}

/// Puts right what killed commands and dead guests left, before a guest's devices are chosen: those
/// that come back by it can be chosen as well. Where nothing was left, the host is not waited for.
///
/// # Errors
/// Another command changes the host, or what was left cannot be undone.
pub fn tidy(root: &HostRoot, state: &State) -> Result<(), Failure> {
    cgroup::tidy(root);
    control::tidy(root);
    let dead = state.leases_ever()?.iter().any(|lease| !lease.is_alive(root));
    if dead || !state.journal()?.is_empty() {
        let _host = state.lock_host()?;
        tidy_locked(root, state)?;
    }
    Ok(())
}

fn tidy_locked(root: &HostRoot, state: &State) -> Result<(), Failure> {
    recover::recover(root, state)?;
    tell(&return_dead(root, state)?);
    Ok(())
}

/// Leases devices to a guest and binds those that are lent: all, or none. What was left by others is
/// put right first, so that no later command undoes it below a guest.
///
/// # Errors
/// As [`State::take_leases`]; [`OwnReason::NotReset`] for a device that another guest left as it is;
/// or the [`NotBound`] device with the step's failure, and everything as before.
pub fn take(root: &HostRoot, state: &State, leases: &[Lease]) -> Result<(), NotTaken> {
    let _host = state.lock_host()?;
    tidy_locked(root, state)?;
    let unreset = state.unreset(root)?;
    for lease in leases {
        let other =
            unreset.iter().find(|one| one.device == lease.device && one.guest != lease.guest);
        if let Some(other) = other {
            return Err(NotTaken::Device(lease.device, not_reset(other)));
        }
    }
    state.take_leases(root, leases)?;
    for (at, lease) in leases.iter().enumerate() {
        let Some(bind) = lease.bind() else { continue };
        let made = bind.perform(root).map_err(Failure::from);
        if let Err(mut failure) = made.and_then(|_| remember_forced(state, lease, &bind)) {
            // The one that failed may have come half way.
            for taken in leases.iter().take(at + 1).rev() {
                if let Err(left) = end(root, state, taken, &taken.owner, Used::No) {
                    failure.message = format!("{}; and {}", failure.message, left.message);
                }
            }
            for rest in leases.iter().skip(at + 1) {
                state.release_lease(rest.device, &rest.owner)?;
            }
            return Err(NotTaken::Device(lease.device, failure));
        }
    }
    Ok(())
}

/// What was taken by force is remembered, as it is for every other command.
fn remember_forced(state: &State, lease: &Lease, bind: &Change) -> Result<(), Failure> {
    match bind {
        Change::Forced { .. } => {
            let operation = format!("run {}", lease.guest);
            state.change(|state| state.remember_forced(&lease.boot_id, &operation, bind))
        }
        _ => Ok(()),
    }
}

/// Why a guest does not have what it was to have.
#[derive(Debug)]
pub enum NotTaken {
    /// None of it can be had.
    Failed(Failure),
    /// This device cannot be had; another one may.
    Device(PciAddress, Failure),
}

impl From<Failure> for NotTaken {
    fn from(failure: Failure) -> NotTaken {
        NotTaken::Failed(failure)
    }
}

fn not_reset(unreset: &Unreset) -> Failure {
    Failure::refused(OwnReason::NotReset, unreset.device, unreset.because())
        .with_remedy(unreset.remedy())
}

/// Whether a guest ran with a device, so that something of it may be left there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Used {
    /// No guest came to run with it.
    No,
    /// One did, or may have.
    Yes,
}

/// Gives the devices of a guest back whose process has ended and is reaped: lent ones to the host,
/// then their leases. Leases that belong to neither of `owners` any more are somebody else's by now
/// and left alone. Returns what a person should know.
///
/// # Errors
/// The first device that could not be given back; the others are. Its lease stays, for the next
/// command that changes this host to try again.
pub fn release(
    root: &HostRoot,
    state: &State,
    devices: &[PciAddress],
    owners: [Owner; 2],
    used: Used,
) -> Result<Vec<String>, Failure> {
    let mut notes = Vec::new();
    let held: Vec<Lease> = state
        .leases_ever()?
        .into_iter()
        .filter(|lease| devices.contains(&lease.device) && owners.contains(&lease.owner))
        .collect();
    // Only what was lent is changed, for which one has to wait where others change the host.
    let lent = held.iter().any(|lease| lease.loan.is_some());
    let locked = lent.then(|| state.clone().with_patience(PATIENCE).lock_host()).transpose()?;
    let mut first = None;
    for lease in held {
        // Whoever had the lock before may have returned it, and given it away again.
        let now = state.lease_on(lease.device)?;
        if now.as_ref() != Some(&lease) {
            continue;
        }
        match end(root, state, &lease, &lease.owner, used) {
            Ok(ended) => notes.extend(ended.notes),
            Err(failure) => drop(first.get_or_insert(failure)),
        }
    }
    drop(locked);
    note_availability(root, state, None);
    first.map_or(Ok(notes), Err)
}

/// Returns what guests left whose processes are gone: lent devices to the host as it had them, and
/// all of them to whoever is next. One that cannot be returned keeps its lease and no other from
/// being returned; it is noted, and tried again by the next command.
///
/// The caller holds [`State::lock_host`].
///
/// # Errors
/// The state cannot be read or written.
pub fn return_dead(root: &HostRoot, state: &State) -> Result<Report, Failure> {
    // One whose process still lets go of its devices stays for the next command.
    cgroup::tidy(root);
    control::tidy(root);
    let mut report = Report::default();
    for lease in state.leases_ever()?.into_iter().filter(|lease| !lease.is_alive(root)) {
        let whose = format!("guest {} (process {}) is gone", lease.guest, lease.owner.pid);
        let device = lease.device;
        if lease.boot_id != platform::boot_id(root) {
            // The boot has taken the device from it, and reset it.
            state.end_dead_lease(root, &lease, |_| Ok(()))?;
        } else if lease.loan.is_none() {
            let ended = state.end_dead_lease(root, &lease, |state| unreset(root, state, &lease))?;
            let Some(left) = ended else { continue };
            report.notes.push(format!("{whose}: {device} is free again"));
            report.notes.extend(left);
        } else {
            let me = this_process(root, "assign")?;
            if !state.claim_dead_lease(root, &lease, me)? {
                continue;
            }
            match end(root, state, &lease, &me, Used::Yes) {
                Ok(ended) => {
                    let how = ended.change.as_ref().map(|change| change.action().to_string());
                    let how = how.unwrap_or_else(|| "is with the host".to_owned());
                    report.notes.push(format!("{whose}: {device}: {how}"));
                    report.notes.extend(ended.notes);
                    report.changes.extend(ended.change);
                }
                Err(failure) => report.notes.push(format!("{whose}, and {failure}")),
            }
        }
    }
    if !report.notes.is_empty() {
        note_availability(root, state, None);
    }
    Ok(report)
}

/// Tells people what was returned on the way to what they asked for.
pub(super) fn tell(report: &Report) {
    for note in &report.notes {
        anstream::eprintln!("assign: {note}");
    }
}

/// What came of the end of a lease.
#[derive(Debug, Default)]
struct Ended {
    /// The step that gave the device back, where one was needed.
    change: Option<Change>,
    notes: Vec<String>,
}

/// Gives one device back, and then its lease, which is `owner`'s.
fn end(
    root: &HostRoot,
    state: &State,
    lease: &Lease,
    owner: &Owner,
    used: Used,
) -> Result<Ended, Failure> {
    let mut ended = Ended::default();
    if lease.is_of_this_device(root) {
        if lease.loan.is_some() && !lets_go(root, lease.device) {
            let message = "is still held open by a process, and stays with its guest's driver";
            return Err(Failure::failed(HostReason::DeviceOpen, lease.device, message)
                .with_remedy("The next command that changes this host tries again."));
        }
        if let Some(back) = lease.give_back() {
            match back.perform(root).map_err(Failure::from) {
                Ok(Undo::Nothing) => {}
                Ok(_) => ended.change = Some(back),
                Err(failure) if is_nothing_of_ours(&failure) => {
                    ended
                        .notes
                        .push(format!("{}: {}; left as it is", failure.thing, failure.message));
                }
                Err(failure) => return Err(failure),
            }
        }
    } else {
        ended.notes.push(format!("{}: went while its guest had it", lease.device));
    }
    let left = state.change(|state| {
        state.end_lease(lease.device, owner)?;
        if used == Used::Yes { unreset(root, state, lease) } else { Ok(None) }
    })?;
    ended.notes.extend(left);
    Ok(ended)
}

/// Remembers what a guest left in a device that cannot be reset, and says so.
fn unreset(
    root: &HostRoot,
    state: &Transaction<'_>,
    lease: &Lease,
) -> Result<Option<String>, Failure> {
    let is_left = lease.is_of_this_device(root)
        && state.remember_unreset(root, lease.device, &lease.guest)?;
    Ok(is_left.then(|| {
        format!(
            "{}: cannot be reset, so only {} may have it again until this host is booted",
            lease.device, lease.guest
        )
    }))
}

/// Notes since when a policy has no device for another guest, or has one again. `host` is as the guest's
/// devices were chosen from; without it, one that is read now, where a policy had none. What cannot be
/// noted is told, and no reason to stop.
pub fn note_availability(root: &HostRoot, state: &State, host: Option<&HostSnapshot>) {
    let note = || -> Result<(), Failure> {
        let noted = state.conditions()?;
        let had_none = |one: &Noted| one.kind == Kind::Available && one.status != Status::True;
        if host.is_none() && !noted.iter().any(had_none) {
            return Ok(());
        }
        let applied = state.applied()?;
        if applied.is_empty() {
            return Ok(());
        }
        let leases = state.leases(root)?.into_iter().map(|lease| (lease, true)).collect();
        let unreset = state.unreset(root)?;
        let known = Known { applied, leases, unreset, noted, ..Known::default() };
        let read = host.is_none().then(|| state.look(root)).transpose()?;
        let Some(host) = host.or(read.as_ref()) else { return Ok(()) };
        state.note_conditions(&status::changed_availability(host, &known))
    };
    if let Err(failure) = note() {
        anstream::eprintln!("assign: since when devices are free is not noted: {failure}");
    }
}

/// Waits until nobody has the device open: the kernel takes a killed process apart after it stopped
/// counting as one that runs.
fn lets_go(root: &HostRoot, device: PciAddress) -> bool {
    let driver = attribute::link_name(&root.pci_attribute(device, "driver"));
    let has_vfio = driver.is_ok_and(|driver| driver.as_deref().is_some_and(is_vfio_driver));
    let limit = Instant::now() + LETS_GO;
    while has_vfio && !vfio::users(root, device).is_empty() {
        if Instant::now() >= limit {
            return false;
        }
        sleep(LOOK_AGAIN);
    }
    true
}

/// What is gone needs nothing; what somebody else did with it since is theirs.
fn is_nothing_of_ours(failure: &Failure) -> bool {
    matches!(failure.reason, Reason::Host(HostReason::NoSuchDevice | HostReason::Stale))
}
