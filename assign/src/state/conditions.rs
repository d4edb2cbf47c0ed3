//! Since when policies are as they are. Written by commands that change the state anyway; whoever only
//! looks finds out how it is now, and here since when that holds.

use std::time::{SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

use super::State;
use super::store::{Table, Transaction};
use crate::failure::Failure;

const CONDITIONS: Table = Table::new("conditions");

/// What is said of a policy. The words are stable.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Kind {
    /// It was applied on this boot, and not removed.
    Applied,
    /// The host is as it says.
    InSync,
    /// Its pools have devices for another guest.
    Available,
    /// A command on it was killed half way, and not made good yet.
    Interrupted,
}

/// Whether it is so.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Status {
    /// It is.
    True,
    /// It is not.
    False,
    /// It cannot be told.
    Unknown,
}

/// How one thing was when a command last looked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Noted {
    /// The policy's name.
    pub policy: String,
    /// What is said of it.
    pub kind: Kind,
    /// Whether it was so.
    pub status: Status,
    /// Since when, in seconds since 1970.
    pub since: u64,
}

impl Noted {
    fn key(policy: &str, kind: Kind) -> String {
        format!("{policy} {kind:?}")
    }
}

impl State {
    /// How everything was when a command last looked.
    pub fn conditions(&self) -> Result<Vec<Noted>, Failure> {
        self.all(CONDITIONS)
    }

    /// Notes how things are; writes nothing where all of it is known.
    pub fn note_conditions(&self, now: &[(String, Kind, Status)]) -> Result<(), Failure> {
        let known = self.conditions()?;
        let is_known = |(policy, kind, status): &(String, Kind, Status)| {
            known
                .iter()
                .any(|one| one.policy == *policy && one.kind == *kind && one.status == *status)
        };
        if now.iter().all(is_known) {
            return Ok(());
        }
        self.change(|state| {
            now.iter()
                .try_for_each(|(policy, kind, status)| state.note_condition(policy, *kind, *status))
        })
    }
}

impl Transaction<'_> {
    /// Notes how one thing is now; since when, where it was otherwise before.
    pub fn note_condition(&self, policy: &str, kind: Kind, status: Status) -> Result<(), Failure> {
        let key = Noted::key(policy, kind);
        if self.get::<Noted>(CONDITIONS, &key)?.is_some_and(|known| known.status == status) {
            return Ok(());
        }
        let now = SystemTime::now().duration_since(UNIX_EPOCH).map(|age| age.as_secs());
        let since = now.unwrap_or(0);
        self.put(CONDITIONS, &key, &Noted { policy: policy.to_owned(), kind, status, since })
    }

    /// Notes that a policy holds, and the host is as it says.
    pub(super) fn note_applied(&self, policy: &str) -> Result<(), Failure> {
        self.note_condition(policy, Kind::Applied, Status::True)?;
        self.note_condition(policy, Kind::InSync, Status::True)?;
        self.note_condition(policy, Kind::Interrupted, Status::False)
    }

    /// The policy is gone, and all that was said of it.
    pub(super) fn forget_conditions(&self, policy: &str) -> Result<(), Failure> {
        [Kind::Applied, Kind::InSync, Kind::Available, Kind::Interrupted]
            .iter()
            .try_for_each(|kind| self.remove(CONDITIONS, &Noted::key(policy, *kind)))
    }
}
