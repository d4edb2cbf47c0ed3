//! Leases: which guest has which device.
//!
//! A lease belongs to a process, named by its id and its start time, since ids are used again. When
//! that process is gone, or the host was booted since, the lease is dead, counts for nothing, and
//! goes when the next one is taken: a killed guest's device is free again without anybody's doing.

use std::time::{SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};
use sriov::facts::platform;
use sriov::{HostRoot, PciAddress, VfRef, attribute};

use super::State;
use super::store::Table;
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
    /// The boot it was taken on.
    pub boot_id: String,
    /// When it was taken, in seconds since 1970.
    pub created: u64,
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
    /// The process of this id, if it runs; a zombie does not.
    pub fn of(root: &HostRoot, pid: u32) -> Option<Owner> {
        let stat = attribute::read(&root.proc(&format!("{pid}/stat"))).ok()??;
        // The second field is the command's name in parentheses, which may hold anything.
        let (_, fields) = stat.rsplit_once(')')?;
        let mut fields = fields.split_whitespace();
        let state = fields.next()?;
        let started = fields.nth(18)?.parse().ok()?;
        (!matches!(state, "Z" | "X")).then_some(Owner { pid, started })
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
            boot_id: platform::boot_id(root),
            created: now.unwrap_or(0),
        }
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
    /// Every lease that is alive. Dead ones stay where they are until the next lease is taken.
    pub fn leases(&self, root: &HostRoot) -> Result<Vec<Lease>, Failure> {
        let mut leases: Vec<Lease> = self.all(LEASES)?;
        leases.retain(|lease| lease.is_alive(root));
        Ok(leases)
    }

    /// Every lease of this boot, of a host whose processes cannot be asked.
    pub fn leases_of(&self, boot_id: &str) -> Result<Vec<Lease>, Failure> {
        let mut leases: Vec<Lease> = self.all(LEASES)?;
        leases.retain(|lease| lease.boot_id == boot_id);
        Ok(leases)
    }

    /// Takes devices for a guest: all of them or none, and for one guest only. Nobody changes the
    /// host meanwhile; the caller must not hold [`State::lock_host`].
    ///
    /// # Errors
    /// Refuses ([`OwnReason::Leased`]), naming the guest, while a live lease holds one of the
    /// devices or its group; and ([`OwnReason::GuestRuns`]) while a guest of the same name holds
    /// any.
    pub fn take_leases(&self, root: &HostRoot, leases: &[Lease]) -> Result<(), Failure> {
        let _host = self.lock_host()?;
        self.change(|state| {
            let mut held = Vec::new();
            for other in state.all::<Lease>(LEASES)? {
                if other.is_alive(root) {
                    held.push(other);
                } else {
                    state.remove(LEASES, &other.device.to_string())?;
                }
            }
            for lease in leases {
                let namesake =
                    |other: &&Lease| other.guest == lease.guest && other.owner != lease.owner;
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

    /// Hands a lease from `from` to another process, such as the guest's machine once it runs.
    ///
    /// # Errors
    /// Refuses when `from` does not hold it, or the other process does not run.
    pub fn set_lease_owner(
        &self,
        root: &HostRoot,
        device: PciAddress,
        from: &Owner,
        pid: u32,
    ) -> Result<Owner, Failure> {
        let owner = Owner::of(root, pid).ok_or_else(|| {
            let message = format!("cannot be handed to process {pid}: it does not run");
            Failure::failed(OwnReason::Leased, device, message)
        })?;
        self.change(|state| {
            let key = device.to_string();
            match state.get::<Lease>(LEASES, &key)? {
                Some(lease) if lease.owner == *from => {
                    state.put(LEASES, &key, &Lease { owner, ..lease })?;
                    Ok(owner)
                }
                _ => Err(Failure::failed(
                    OwnReason::Leased,
                    device,
                    format!("is not held by process {}", from.pid),
                )),
            }
        })
    }

    /// Gives a device back. A lease that belongs to another owner by now is left alone, so that a
    /// late release cannot take the device from its next guest.
    pub fn release_lease(&self, device: PciAddress, owner: &Owner) -> Result<(), Failure> {
        self.change(|state| {
            let key = device.to_string();
            match state.get::<Lease>(LEASES, &key)? {
                Some(lease) if lease.owner == *owner => state.remove(LEASES, &key),
                _ => Ok(()),
            }
        })
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
