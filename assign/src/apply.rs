//! Making changes so that they end as planned or undone, also when the process is killed half way.
//!
//! ```text
//!            ┌──────────── each step ────────────┐
//!  recover ─►│ journal it ─► perform ─► observed │─► remember all, empty the journal (one
//!            └─────────────────┬─────────────────┘    transaction)
//!                              └─ failed: undo what was done, last first
//! ```
//!
//! A step is written down before it is made. So whatever the journal holds at the start of a
//! command was left by one that was killed, and is undone first; the reverse of a step that was
//! never made changes nothing.

use std::io::{IsTerminal, Write};

use sriov::facts::platform;
use sriov::{Change, HostRoot, Undo};

use crate::failure::{Failure, OwnReason};
use crate::state::{Entry, HostLock, State, Transaction};

pub mod policies;
pub mod settle;

/// A command that changes the host. Dropping it without [`Operation::commit`] or
/// [`Operation::roll_back`] leaves its steps in the journal, for the next command to undo.
#[derive(Debug)]
pub struct Operation<'a> {
    root: &'a HostRoot,
    state: &'a State,
    name: String,
    boot_id: String,
    next: u32,
    done: Vec<(u32, Change)>,
    failed: Option<(u32, Change)>,
    _lock: HostLock,
}

impl<'a> Operation<'a> {
    /// Takes the lock on changing this host, and undoes what a killed command left.
    ///
    /// # Errors
    /// Another command has the lock, or what was left cannot be undone.
    pub fn begin(
        root: &'a HostRoot,
        state: &'a State,
        name: impl Into<String>,
    ) -> Result<Operation<'a>, Failure> {
        let lock = state.lock_host()?;
        recover(root, state)?;
        let boot_id = platform::boot_id(root);
        let name = name.into();
        let done = Vec::new();
        Ok(Operation { root, state, name, boot_id, next: 0, done, failed: None, _lock: lock })
    }

    /// The boot it happens on.
    pub fn boot_id(&self) -> &str {
        &self.boot_id
    }

    /// What was changed so far, first to last.
    pub fn done(&self) -> Vec<Change> {
        self.done.iter().map(|(_, change)| change.clone()).collect()
    }

    /// Makes one step; says whether there was anything to change.
    ///
    /// # Errors
    /// The step's; call [`Operation::roll_back`] with it.
    pub fn perform(&mut self, change: &Change) -> Result<bool, Failure> {
        let number = self.next;
        self.next += 1;
        self.state.journal_step(&Entry {
            number,
            operation: self.name.clone(),
            boot_id: self.boot_id.clone(),
            change: change.clone(),
        })?;
        let progress = Progress::of(change);
        let result = change.perform(self.root);
        progress.end(result.is_ok());
        match result {
            Ok(Undo::Nothing) => {
                self.state.strike_step(number)?;
                Ok(false)
            }
            Ok(_) => {
                self.done.push((number, change.clone()));
                Ok(true)
            }
            Err(error) if error.reason.is_before_acting() => {
                self.state.strike_step(number)?;
                Err(error.into())
            }
            Err(error) => {
                // It may have come half way.
                self.failed = Some((number, change.clone()));
                Err(error.into())
            }
        }
    }

    /// All steps are made: remembers what `remember` says and empties the journal, together.
    ///
    /// # Errors
    /// The state cannot be written; the steps stay in the journal then.
    pub fn commit(
        self,
        remember: impl FnOnce(&Transaction<'_>) -> Result<(), Failure>,
    ) -> Result<(), Failure> {
        self.state.change(|state| {
            remember(state)?;
            state.close_journal()
        })
    }

    /// Takes back what was done, last first, and returns the cause with how that went.
    pub fn roll_back(self, mut cause: Failure) -> Failure {
        for (number, change) in self.failed.iter().chain(self.done.iter().rev()) {
            if let Err(error) = take_back(self.root, self.state, *number, change) {
                cause.message = format!(
                    "{}; and taking back \"{change}\" failed as well: {}",
                    cause.message, error.message
                );
                let remedy = "The next command that changes this host tries again.";
                cause.remedy = Some(match cause.remedy {
                    Some(first) => format!("{first} {remedy}"),
                    None => remedy.to_owned(),
                });
                return cause;
            }
        }
        match self.done.len() {
            0 => {}
            1 => cause.message.push_str("; the step before it was taken back"),
            count => {
                cause.message =
                    format!("{}; the {count} steps before it were taken back", cause.message);
            }
        }
        cause
    }
}

fn take_back(root: &HostRoot, state: &State, number: u32, change: &Change) -> Result<(), Failure> {
    match change.undo() {
        Undo::Nothing => {}
        Undo::Change(back) => {
            let progress = Progress::of(&back);
            let result = back.perform(root);
            progress.end(result.is_ok());
            result?;
        }
        Undo::Impossible(why) => {
            let failure = Failure::failed(OwnReason::NotAsPlanned, change.device(), why);
            return Err(failure);
        }
    }
    state.strike_step(number)
}

/// Undoes what a killed command left. The caller holds the lock on changing the host.
fn recover(root: &HostRoot, state: &State) -> Result<(), Failure> {
    let entries = state.journal()?;
    let Some(first) = entries.first() else { return Ok(()) };
    if first.boot_id != platform::boot_id(root) {
        // The host was booted since: there is nothing left of it.
        return state.change(|state| state.close_journal());
    }
    let operation = first.operation.clone();
    for entry in entries.iter().rev() {
        take_back(root, state, entry.number, &entry.change).map_err(|mut failure| {
            failure.message = format!(
                "an interrupted `assign {operation}` cannot be taken back: {}",
                failure.message
            );
            failure
        })?;
    }
    let steps = match entries.len() {
        1 => "its one step was".to_owned(),
        count => format!("its {count} steps were"),
    };
    anstream::eprintln!(
        "assign: an earlier `assign {operation}` was interrupted; {steps} taken back"
    );
    Ok(())
}

/// One line per step on a terminal, none elsewhere.
struct Progress {
    shown: bool,
}

impl Progress {
    fn of(change: &Change) -> Progress {
        let shown = std::io::stderr().is_terminal();
        if shown {
            anstream::eprint!("  {change} ... ");
            std::io::stderr().flush().ok();
        }
        Progress { shown }
    }

    fn end(self, well: bool) {
        if self.shown {
            anstream::eprintln!("{}", if well { "done" } else { "failed" });
        }
    }
}
