//! Leases: which guest has which device.
//!
//! A lease belongs to a process, named by its id and its start time, since ids are used again. When
//! that process is gone, or the host was booted since, the lease is dead:
//!
//! ```text
//! taken ──► the launcher's ──► the machine's ──► the launcher's ──► released
//!              │                   │                  │
//!              └───────────────────┴── process gone ──┴──► dead ──► claimed by whoever returns the
//!                                                                  device, and is its owner meanwhile
//! ```
//!
//! A dead lease on a device that stays with its pool's driver counts for nothing. One on a device
//! that was lent ([`Loan`]) holds until the device is with the host again. Owners only ever change by
//! comparing with the one that is expected, so that of two who want a lease one gets it.

use std::time::{SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};
use sriov::facts::platform;
use sriov::{Binding, Change, HostRoot, PciAddress, Target, VfRef, attribute};

use super::State;
use super::originals;
use super::store::{Table, Transaction};
use crate::choose::ByForce;
use crate::failure::{Failure, OwnReason};

const LEASES: Table = Table::new("leases");

/// A device in the hands of a guest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lease {
    /// The device.
    pub device: PciAddress,
    /// Which VF it is, where it is one.
    pub vf: Option<VfRef>,
    /// The pool it was claimed from.
    pub pool: Option<String>,
    /// Its IOMMU group on this boot: one group, one guest.
    pub group: Option<u32>,
    /// The guest's name.
    pub guest: String,
    /// The process that answers for it: the launcher first, then the guest's machine.
    pub owner: Owner,
    /// The process that took it, which ends its guest in order when it is asked to.
    #[serde(default)]
    pub launcher: Option<Owner>,
    /// The boot it was taken on.
    pub boot_id: String,
    /// When it was taken, in seconds since 1970.
    pub created: u64,
    /// Which device at this address it is: see [`originals::instance`].
    #[serde(default)]
    pub instance: Option<u64>,
    /// For a device that the host has again when its guest is gone.
    #[serde(default)]
    pub loan: Option<Loan>,
}

/// What the host lends to a guest: written down before the device is touched, so that whoever finds
/// it can give the device back, however far its binding came.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Loan {
    /// Its driver, override and address with the host.
    pub from: Binding,
    /// The driver it has with its guest.
    pub driver: String,
    /// What the host loses by it, where it is taken although the host uses it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub by_force: Option<ByForce>,
}

/// A process that cannot be mistaken for a later one with its id.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Owner {
    /// Process id.
    pub pid: u32,
    /// Start time in clock ticks since boot (field 22 of `/proc/PID/stat`, proc(5)).
    pub started: u64,
}

impl Owner {
    /// The process of this id, if it runs. A zombie does not, unless threads of it are left, which
    /// hold its files open.
    pub fn of(root: &HostRoot, pid: u32) -> Option<Owner> {
        let stat = attribute::read(&root.proc(&format!("{pid}/stat"))).ok()??;
        // The second field is the command's name in parentheses, which may hold anything.
        let (_, fields) = stat.rsplit_once(')')?;
        let mut fields = fields.split_whitespace();
        let state = fields.next()?;
        let threads: u32 = fields.nth(16)?.parse().ok()?;
        let started = fields.nth(1)?.parse().ok()?;
        (!matches!(state, "Z" | "X") || threads > 1).then_some(Owner { pid, started })
    }

    /// This process.
    pub fn this(root: &HostRoot) -> Option<Owner> {
        Owner::of(root, std::process::id())
    }
}

impl Lease {
    /// A lease of this boot, taken now.
    pub fn new(root: &HostRoot, device: PciAddress, guest: &str, owner: Owner) -> Lease {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).map(|age| age.as_secs());
        Lease {
            device,
            vf: None,
            pool: None,
            group: None,
            guest: guest.to_owned(),
            owner,
            launcher: Some(owner),
            boot_id: platform::boot_id(root),
            created: now.unwrap_or(0),
            instance: originals::instance(root, device),
            loan: None,
        }
    }

    /// The device: a VF by its place, since that is how the steps on VFs name it.
    pub fn target(&self) -> Target {
        self.vf.map_or(Target::Function(self.device), Target::Vf)
    }

    /// The step that gives a lent device to its guest.
    pub fn bind(&self) -> Option<Change> {
        let loan = self.loan.as_ref()?;
        let (from, driver) = (loan.from.clone(), loan.driver.clone());
        let bind = Change::Bind { device: self.target(), from, driver };
        Some(match &loan.by_force {
            None => bind,
            Some(ByForce { lost, because }) => Change::Forced {
                step: Box::new(bind),
                devices: vec![self.device],
                lost: lost.clone(),
                because: Some(because.clone()),
            },
        })
    }

    /// The step that gives a lent device back to the host.
    pub fn give_back(&self) -> Option<Change> {
        let loan = self.loan.as_ref()?;
        let (from, to) = (Binding::forced(&loan.driver), loan.from.clone());
        Some(Change::Restore { device: self.target(), from, to })
    }

    /// Whether its device is still the one that was leased: not another one in its place.
    pub fn is_of_this_device(&self, root: &HostRoot) -> bool {
        self.instance.is_none() || self.instance == originals::instance(root, self.device)
    }

    /// Whether nobody else may touch the device: its process runs, or it was lent and is not back.
    pub fn holds(&self, root: &HostRoot) -> bool {
        self.is_alive(root) || (self.loan.is_some() && self.boot_id == platform::boot_id(root))
    }

    /// Whether its process still runs, on the boot it was taken on.
    pub fn is_alive(&self, root: &HostRoot) -> bool {
        self.boot_id == platform::boot_id(root)
            && Owner::of(root, self.owner.pid) == Some(self.owner)
    }

    /// Whether the two cannot be held at once: the same device, or the same group by two guests.
    fn conflicts(&self, other: &Lease) -> bool {
        let same_guest = self.guest == other.guest && self.owner == other.owner;
        self.device == other.device
            || (self.group.is_some() && self.group == other.group && !same_guest)
    }
}

impl State {
    /// Every lease that holds its device: those of running processes, and those of dead ones whose
    /// devices are not with the host again yet.
    pub fn leases(&self, root: &HostRoot) -> Result<Vec<Lease>, Failure> {
        let mut leases = self.leases_ever()?;
        leases.retain(|lease| lease.holds(root));
        Ok(leases)
    }

    /// Every lease that was not released, dead ones as well.
    pub fn leases_ever(&self) -> Result<Vec<Lease>, Failure> {
        self.all(LEASES)
    }

    /// Every lease of this boot, of a host whose processes cannot be asked.
    pub fn leases_of(&self, boot_id: &str) -> Result<Vec<Lease>, Failure> {
        let mut leases = self.leases_ever()?;
        leases.retain(|lease| lease.boot_id == boot_id);
        Ok(leases)
    }

    /// Takes devices for a guest: all of them or none, and for one guest only. Dead leases on devices
    /// that were not lent go. The caller has [`State::lock_host`], so that nobody changes the devices
    /// between a look at their leases and the change.
    ///
    /// # Errors
    /// Refuses ([`OwnReason::Leased`]), naming the guest, while a lease holds one of the devices or
    /// its group; and ([`OwnReason::GuestRuns`]) while a guest of the same name holds any.
    pub fn take_leases(&self, root: &HostRoot, leases: &[Lease]) -> Result<(), Failure> {
        self.change(|state| {
            let mut held = Vec::new();
            for other in state.all::<Lease>(LEASES)? {
                if other.holds(root) {
                    held.push(other);
                } else {
                    state.remove(LEASES, &other.device.to_string())?;
                }
            }
            for lease in leases {
                let namesake = |other: &&Lease| {
                    other.guest == lease.guest && other.owner != lease.owner && other.is_alive(root)
                };
                if let Some(other) = held.iter().find(namesake) {
                    return Err(runs(other));
                }
                if let Some(other) = held.iter().find(|other| lease.conflicts(other)) {
                    return Err(taken(lease, other));
                }
                state.put(LEASES, &lease.device.to_string(), lease)?;
                held.push(lease.clone());
            }
            Ok(())
        })
    }

    /// Makes `owner` the owner of a dead lease, for it to return the device. False where the lease is
    /// not as it was seen any more: somebody returned it, or its launcher lives and has it again.
    pub fn claim_dead_lease(
        &self,
        root: &HostRoot,
        seen: &Lease,
        owner: Owner,
    ) -> Result<bool, Failure> {
        self.change(|state| {
            let key = seen.device.to_string();
            match state.get::<Lease>(LEASES, &key)? {
                Some(lease) if lease == *seen && !lease.is_alive(root) => {
                    state.put(LEASES, &key, &Lease { owner, ..lease })?;
                    Ok(true)
                }
                _ => Ok(false),
            }
        })
    }

    /// Ends a dead lease on a device that needs no step to be free; what `remember` says is
    /// remembered with it. `None` where the lease is not as it was seen any more.
    pub fn end_dead_lease<T>(
        &self,
        root: &HostRoot,
        seen: &Lease,
        remember: impl FnOnce(&Transaction<'_>) -> Result<T, Failure>,
    ) -> Result<Option<T>, Failure> {
        self.change(|state| {
            let key = seen.device.to_string();
            match state.get::<Lease>(LEASES, &key)? {
                Some(lease) if lease == *seen && !lease.is_alive(root) => {
                    state.remove(LEASES, &key)?;
                    remember(state).map(Some)
                }
                _ => Ok(None),
            }
        })
    }

    /// The lease on a device, whoever has it.
    pub fn lease_on(&self, device: PciAddress) -> Result<Option<Lease>, Failure> {
        Ok(self.leases_ever()?.into_iter().find(|lease| lease.device == device))
    }

    /// Hands leases from `from` to another process, such as the guest's machine once it runs: all, or
    /// none.
    ///
    /// # Errors
    /// Refuses when `from` does not hold one of them, or the other process does not run.
    pub fn set_lease_owner(
        &self,
        root: &HostRoot,
        devices: &[PciAddress],
        from: &Owner,
        pid: u32,
    ) -> Result<Owner, Failure> {
        let owner = Owner::of(root, pid).ok_or_else(|| {
            let message = format!("they cannot be handed to process {pid}: it does not run");
            Failure::failed(OwnReason::Leased, "leases", message)
        })?;
        self.change(|state| {
            for device in devices {
                let key = device.to_string();
                match state.get::<Lease>(LEASES, &key)? {
                    Some(lease) if lease.owner == *from => {
                        state.put(LEASES, &key, &Lease { owner, ..lease })?;
                    }
                    _ => {
                        let message = format!("is not held by process {}", from.pid);
                        return Err(Failure::failed(OwnReason::Leased, device, message));
                    }
                }
            }
            Ok(owner)
        })
    }

    /// Gives a device back. A lease that belongs to another owner by now is left alone, so that a
    /// late release cannot take the device from its next guest.
    pub fn release_lease(&self, device: PciAddress, owner: &Owner) -> Result<(), Failure> {
        self.change(|state| state.end_lease(device, owner))
    }
}

impl Transaction<'_> {
    /// Ends a lease that belongs to this owner; leaves alone any other.
    pub fn end_lease(&self, device: PciAddress, owner: &Owner) -> Result<(), Failure> {
        let key = device.to_string();
        match self.get::<Lease>(LEASES, &key)? {
            Some(lease) if lease.owner == *owner => self.remove(LEASES, &key),
            _ => Ok(()),
        }
    }
}

/// The refusal to start a guest whose name another one has: nobody could tell whose a device is.
pub fn runs(lease: &Lease) -> Failure {
    let message = format!("runs already, as process {}", lease.owner.pid);
    Failure::refused(OwnReason::GuestRuns, &lease.guest, message)
        .with_remedy("Stop it first, or give this one another `metadata.name`.")
}

fn taken(lease: &Lease, other: &Lease) -> Failure {
    let (guest, pid) = (&other.guest, other.owner.pid);
    let message = match lease.device == other.device {
        true => format!("is in use by guest {guest} (process {pid})"),
        false => format!(
            "shares IOMMU group {} with {}, which is in use by guest {guest} (process {pid})",
            other.group.map(|group| group.to_string()).unwrap_or_default(),
            other.device
        ),
    };
    Failure::refused(OwnReason::Leased, lease.device, message)
        .with_remedy(format!("Stop {guest} first, or choose another device."))
}
