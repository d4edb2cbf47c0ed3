//! Which PFs feed a pool, with a reason for each device that does not.

use policies::Pool;
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
    /// PFs that feed it, sorted.
    pub accepted: Vec<PciAddress>,
    /// All other functions that could have VFs, or that the selector means.
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

/// Looks at every function for one pool.
pub fn find(snapshot: &HostSnapshot, pool: &Pool) -> Candidates {
    let (mut accepted, mut rejected) = (Vec::new(), Vec::new());
    for function in &snapshot.functions {
        let mismatch = pool.from.matches(snapshot, function).err();
        let reason = match mismatch {
            // A device that was not meant and could not be is no news.
            Some(_) if function.sriov.is_none() => continue,
            Some(mismatch) => Some(mismatch.to_string()),
            None => unfit(function),
        };
        match reason {
            None => accepted.push(function.address),
            Some(reason) => rejected.push(Rejected { device: function.address, reason }),
        }
    }
    Candidates { pool: pool.name.clone(), accepted, rejected }
}

/// Why a device that the selector means cannot have VFs now.
pub fn unfit(function: &PciFunction) -> Option<String> {
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

impl Candidates {
    /// Whether the selector found what the pool expects: at least one PF, unless it says otherwise.
    pub(super) fn refusal(&self, pool: &Pool) -> Option<Failure> {
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
        let message = format!(
            "{} is to match {expected} device{}, and matches {what}{}",
            pool.from,
            if expected.ends_with(" 1") { "" } else { "s" },
            self.others()
        );
        let thing = format!("pool {}", pool.name);
        let failure = Failure::bad_input(OwnReason::UnexpectedDevices, thing, message);
        Some(
            failure.with_remedy("Correct `from` or `expect`; `assign devices` lists what is here."),
        )
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
