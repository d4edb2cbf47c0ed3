//! What was taken from the host by force: who said so is not known, what and when is.

use std::time::{SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};
use sriov::Change;

use super::State;
use super::store::{Table, Transaction};
use crate::failure::Failure;

const FORCED: Table = Table::new("forced");

/// Most entries that are kept; the oldest go first.
const KEPT: usize = 256;

/// One step that was forced.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Forced {
    /// When, in seconds since 1970.
    pub at: u64,
    /// The boot it was on.
    pub boot_id: String,
    /// The command: "bind".
    pub operation: String,
    /// The step, with the devices that were named and what the host lost.
    pub change: Change,
}

impl State {
    /// What was forced, oldest first, over all boots; at most 256 entries are kept.
    pub fn forced(&self) -> Result<Vec<Forced>, Failure> {
        self.all(FORCED)
    }
}

impl Transaction<'_> {
    /// Remembers a forced step.
    pub fn remember_forced(
        &self,
        boot_id: &str,
        operation: &str,
        change: &Change,
    ) -> Result<(), Failure> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).map(|age| age.as_secs());
        let entry = Forced {
            at: now.unwrap_or(0),
            boot_id: boot_id.to_owned(),
            operation: operation.to_owned(),
            change: change.clone(),
        };
        // Keys sort as text, by time.
        let key = |entry: &Forced| format!("{:020} {}", entry.at, entry.change.device());
        self.put(FORCED, &key(&entry), &entry)?;
        let all: Vec<Forced> = self.all(FORCED)?;
        let too_many = all.len().saturating_sub(KEPT);
        all.iter().take(too_many).try_for_each(|old| self.remove(FORCED, &key(old)))
    }
}
