//! What holds of a policy, each with its reason in one word and in a sentence.

use ::policies::Policy;
use serde::Serialize;
use sriov::HostSnapshot;

use super::{Known, PoolStanding};
use crate::drift::Drift;
use crate::state::conditions::{Kind, Status};

/// One thing that is said of a policy.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Condition {
    /// What.
    #[serde(rename = "type")]
    pub kind: Kind,
    /// Whether it is so.
    pub status: Status,
    /// Why, for programs: a stable word.
    pub reason: &'static str,
    /// Why, for people.
    pub message: String,
    /// Since when, in seconds since 1970; `None` where it came to be so after the last command that
    /// changed anything.
    pub since: Option<u64>,
}

/// Status, reason and message.
type Said = (Status, &'static str, String);

/// All that is said of a policy.
pub(super) fn of(
    host: &HostSnapshot,
    known: &Known,
    drift: &Drift,
    policy: &Policy,
    pools: &[PoolStanding],
) -> Vec<Condition> {
    let name = &policy.name;
    let all = [
        (Kind::Applied, applied(host, known, name)),
        (Kind::InSync, in_sync(drift, name)),
        (Kind::Available, available(pools)),
        (Kind::Interrupted, interrupted(known, name)),
    ];
    let condition = |(kind, (status, reason, message)): (Kind, Said)| {
        let noted = known.noted.iter().find(|noted| noted.policy == *name && noted.kind == kind);
        let since = noted.filter(|noted| noted.status == status).map(|noted| noted.since);
        Condition { kind, status, reason, message, since }
    };
    all.into_iter().map(condition).collect()
}

fn applied(host: &HostSnapshot, known: &Known, name: &str) -> Said {
    match known.applied.iter().find(|one| one.policy.name == name) {
        _ if known.hidden => {
            (Status::Unknown, "Hidden", "what was applied is for root to see".to_owned())
        }
        Some(one) if one.boot_id == host.platform.boot_id => {
            (Status::True, "Applied", "applied on this boot".to_owned())
        }
        Some(_) => (
            Status::False,
            "OtherBoot",
            "applied before the last boot; `assign apply --all` applies what is in /etc/assign"
                .to_owned(),
        ),
        None => (
            Status::False,
            "NotApplied",
            "in a file of /etc/assign and not applied; `assign apply --all` does it".to_owned(),
        ),
    }
}

fn in_sync(drift: &Drift, name: &str) -> Said {
    let differences: Vec<_> = drift.differences.iter().filter(|one| one.policy == name).collect();
    let unknown: Vec<_> = drift.unknown.iter().filter(|one| one.policy == name).collect();
    match (differences.first(), unknown.first()) {
        (Some(first), _) => {
            let (device, what) = (&first.device, first.attribute.name());
            let more = match differences.len() - 1 {
                0 => String::new(),
                more => format!("; and {more} more"),
            };
            let text = format!(
                "{device}: {what} is {}, should be {}{more}; `assign diff` names all",
                first.is, first.should
            );
            (Status::False, "Drifted", text)
        }
        (None, Some(first)) => {
            let (device, what) = (&first.device, first.attribute.name());
            let text = format!("{device}: {what} cannot be read: {}", first.cause);
            (Status::Unknown, "Unreadable", text)
        }
        (None, None) => (Status::True, "InSync", "the host is as it says".to_owned()),
    }
}

/// Whether every pool has a device for another guest.
pub fn available(pools: &[PoolStanding]) -> Said {
    let empty = pools.iter().find(|pool| pool.free == 0);
    let free: Vec<String> = pools
        .iter()
        .map(|pool| format!("{}: {} of {} free", pool.name, pool.free, pool.there))
        .collect();
    let text = free.join(", ");
    match empty {
        None => (Status::True, "Free", text),
        Some(pool) if pool.there == 0 => (Status::False, "Missing", text),
        Some(pool) if pool.leased == pool.there => (Status::False, "Exhausted", text),
        Some(_) => (Status::False, "NoneFit", text),
    }
}

fn interrupted(known: &Known, name: &str) -> Said {
    let is_about = |operation: &&String| {
        operation.split_whitespace().any(|word| word == name || word == "--all")
    };
    match known.interrupted.as_ref().filter(is_about) {
        _ if known.hidden => {
            (Status::Unknown, "Hidden", "what is being done is for root to see".to_owned())
        }
        Some(operation) if known.changing => {
            (Status::False, "Changing", format!("`assign {operation}` is at work"))
        }
        Some(operation) => (
            Status::True,
            "Interrupted",
            format!("`assign {operation}` was killed half way; `assign recover` makes it good"),
        ),
        None => (Status::False, "Settled", "no command was cut off".to_owned()),
    }
}
