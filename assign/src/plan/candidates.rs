//! Which functions feed a pool, with a reason for each device that does not.

use policies::{Pool, PoolDevices};
use serde::Serialize;
use sriov::isolation::is_vfio_driver;
use sriov::{HostSnapshot, PciAddress, PciFunction};

use crate::failure::{Failure, OwnReason};

/// Most rejected devices that a message names.
const NAMED: usize = 4;

/// The devices looked at for one pool.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Candidates {
    /// The pool's name.
    pub pool: String,
    /// Functions that feed it, sorted: PFs, or the devices themselves.
    pub accepted: Vec<PciAddress>,
    /// All other functions that could, or that the selector means.
    pub rejected: Vec<Rejected>,
}

/// A device that does not feed a pool.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Rejected {
    /// The device.
    pub device: PciAddress,
    /// Why: "its vendor is 1af4, not 8086".
    pub reason: String,
}

/// Whether a pool's selector means a function, fit or not: a card for a pool of VFs, any device but
/// VFs and bridges for one of whole devices.
pub fn is_meant(host: &HostSnapshot, pool: &Pool, function: &PciFunction) -> bool {
    could_be(pool, function) && pool.from.matches(host, function).is_ok()
}

fn could_be(pool: &Pool, function: &PciFunction) -> bool {
    match pool.devices {
        PoolDevices::Vfs { .. } => function.sriov.is_some(),
        PoolDevices::Whole => function.vf_of.is_none() && !function.is_bridge(),
    }
}

/// Looks at every function for one pool.
pub fn find(snapshot: &HostSnapshot, pool: &Pool) -> Candidates {
    let (mut accepted, mut rejected) = (Vec::new(), Vec::new());
    // Of thousands of VFs, one that a selector means names itself.
    let names_one = pool.from.address.is_some() || pool.from.interface.is_some();
    for function in &snapshot.functions {
        let could_be = could_be(pool, function);
        if !could_be && function.vf_of.is_some() && !names_one {
            continue;
        }
        let reason = match pool.from.matches(snapshot, function) {
            // A device that was not meant and could not be is no news.
            Err(_) if !could_be => continue,
            Err(mismatch) => Some(mismatch.to_string()),
            Ok(()) => unfit(pool, function),
        };
        match reason {
            None => accepted.push(function.address),
            Some(reason) => rejected.push(Rejected { device: function.address, reason }),
        }
    }
    Candidates { pool: pool.name.clone(), accepted, rejected }
}

/// Why a device that the selector means cannot be what the pool wants of it now.
pub fn unfit(pool: &Pool, function: &PciFunction) -> Option<String> {
    let is_whole = matches!(pool.devices, PoolDevices::Whole);
    if let Some(vf) = function.vf_of.filter(|_| is_whole) {
        return Some(format!("it is a VF of {}, and VFs are selected by `from` and `vfs`", vf.pf));
    }
    match is_whole {
        true => function.is_bridge().then(|| "it is a bridge, the way to others".to_owned()),
        false => without_vfs(function),
    }
}

/// Why a function cannot have VFs now.
pub fn without_vfs(function: &PciFunction) -> Option<String> {
    if let Some(vf) = &function.vf_of {
        return Some(format!("it is a VF itself, of {}", vf.pf));
    }
    if function.sriov.is_none() {
        return Some("it has no SR-IOV capability".to_owned());
    }
    match function.driver.as_deref() {
        None => Some("no driver is bound to it that could make VFs".to_owned()),
        Some(driver) if is_vfio_driver(driver) => {
            Some(format!("it is bound to {driver} and given away itself"))
        }
        Some(_) => None,
    }
}

/// That a pool matches another number of devices than it is to, for a sentence; `None` where the
/// number is right, or nothing is expected.
pub fn unexpected(host: &HostSnapshot, pool: &Pool) -> Option<String> {
    pool.expect?;
    let candidates = find(host, pool);
    candidates.surprise(pool)
}

impl Candidates {
    /// Whether the selector found what the pool expects: at least one PF, unless it says otherwise.
    pub(super) fn refusal(&self, pool: &Pool) -> Option<Failure> {
        let message = self.surprise(pool)?;
        let thing = format!("pool {}", pool.name);
        let failure = Failure::bad_input(OwnReason::UnexpectedDevices, thing, message);
        Some(
            failure.with_remedy("Correct `from` or `expect`; `assign devices` lists what is here."),
        )
    }

    fn surprise(&self, pool: &Pool) -> Option<String> {
        let found = self.accepted.len();
        let expected = match &pool.expect {
            Some(expect) if expect.contains(found) => return None,
            Some(expect) => expect.to_string(),
            None if found > 0 => return None,
            None => "at least 1".to_owned(),
        };
        let list: Vec<String> = self.accepted.iter().map(ToString::to_string).collect();
        let what = match list.is_empty() {
            true => "none".to_owned(),
            false => format!("{found} ({})", list.join(", ")),
        };
        Some(format!(
            "{} is to match {expected} device{}, and matches {what}{}",
            pool.from,
            if expected.ends_with(" 1") { "" } else { "s" },
            self.others()
        ))
    }

    fn others(&self) -> String {
        let named: Vec<String> = self
            .rejected
            .iter()
            .take(NAMED)
            .map(|rejected| format!("not {}: {}", rejected.device, rejected.reason))
            .collect();
        match (named.is_empty(), self.rejected.len().saturating_sub(NAMED)) {
            (true, _) => String::new(),
            (false, 0) => format!(" ({})", named.join("; ")),
            (false, more) => format!(" ({}; and {more} more)", named.join("; ")),
        }
    }
}
