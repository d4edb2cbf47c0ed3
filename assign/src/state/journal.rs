//! The journal: what is being changed right now, written down before it is done.
//!
//! It is empty unless a command is at work, or one was killed; then the next command undoes what
//! it finds. A step that was written down and never made is undone like the others: the reverse of
//! a change leaves alone what is already as it was.

use serde::{Deserialize, Serialize};
use sriov::Change;

use super::State;
use super::store::{Table, Transaction};
use crate::failure::Failure;

const JOURNAL: Table = Table::new("journal");

/// One step of the command at work.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// Its place among the steps, from 0.
    pub number: u32,
    /// The command, for messages: "apply edge-node".
    pub operation: String,
    /// The boot; on another one there is nothing to undo.
    pub boot_id: String,
    /// What was to be changed. Its reverse is known from it.
    pub change: Change,
}

impl Entry {
    /// Keys sort as text.
    fn key(number: u32) -> String {
        format!("{number:010}")
    }
}

impl State {
    /// What a killed command left, first to last.
    pub fn journal(&self) -> Result<Vec<Entry>, Failure> {
        self.all(JOURNAL)
    }

    /// Writes steps down, together; they are on the disk when this returns.
    pub fn journal_steps(&self, entries: &[Entry]) -> Result<(), Failure> {
        self.change(|state| {
            entries
                .iter()
                .try_for_each(|entry| state.put(JOURNAL, &Entry::key(entry.number), entry))
        })
    }

    /// Strikes steps that were undone, were not made, or turned out to change nothing.
    pub fn strike_steps(&self, numbers: &[u32]) -> Result<(), Failure> {
        if numbers.is_empty() {
            return Ok(());
        }
        self.change(|state| {
            numbers.iter().try_for_each(|number| state.remove(JOURNAL, &Entry::key(*number)))
        })
    }
}

impl Transaction<'_> {
    /// The command is done: what it did is remembered elsewhere in this transaction.
    pub fn close_journal(&self) -> Result<(), Failure> {
        self.clear(JOURNAL)
    }
}
