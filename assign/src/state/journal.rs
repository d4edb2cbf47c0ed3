//! The journal: what is being changed right now, written down before it is done.
//!
//! It is empty unless a command is at work, or one was killed; then the next command undoes what
//! it finds, or `assign recover` does. A step that was written down and never made is undone like the
//! others: the reverse of a change leaves alone what is already as it was.
//!
//! Beside the steps an apply writes down its whole intent, so that it can be finished.

use ::policies::Policy;
use serde::{Deserialize, Serialize};
use sriov::Change;

use super::State;
use super::policies::Step;
use super::store::{Table, Transaction};
use crate::failure::Failure;

const JOURNAL: Table = Table::new("journal");
const INTENT: Table = Table::new("intent");
const THE_ONE: &str = "apply";

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

/// What an apply is to do, and to remember when it is done.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Intent {
    /// The policies that are to hold.
    pub policies: Vec<Policy>,
    /// All steps of the plan.
    pub steps: Vec<Step>,
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

    /// What the command was to do that left the journal; `None` where it was no apply.
    pub fn intent(&self) -> Result<Option<Intent>, Failure> {
        Ok(self.all(INTENT)?.pop())
    }

    /// Writes steps down, together; they are on the disk when this returns. With the first step of a
    /// command goes its intent.
    pub fn journal_steps(&self, entries: &[Entry], intent: Option<&Intent>) -> Result<(), Failure> {
        self.change(|state| {
            if entries.first().is_some_and(|entry| entry.number == 0) {
                state.clear(INTENT)?;
                intent.map_or(Ok(()), |intent| state.put(INTENT, THE_ONE, intent))?;
            }
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
        self.clear(INTENT)?;
        self.clear(JOURNAL)
    }
}
