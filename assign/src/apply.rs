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
use sriov::{Change, HostRoot, Reason as HostReason, Undo, act};

use crate::failure::{Failure, OwnReason, Reason};
use crate::signals::Signals;
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
    signals: Option<Signals>,
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
        if root.borrows_a_kernel() {
            let message = "shows a running kernel and is no recorded tree, so changes through it \
                           would pass by what protects that host";
            let failure =
                Failure::bad_input(HostReason::NotThisHost, root.directory().display(), message);
            return Err(failure.with_remedy("Run assign on that host, without --root."));
        }
        let lock = state.lock_host()?;
        recover(root, state)?;
        Ok(Operation {
            root,
            state,
            name: name.into(),
            boot_id: platform::boot_id(root),
            next: 0,
            done: Vec::new(),
            failed: None,
            signals: None,
            _lock: lock,
        })
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
    /// The step's, or somebody asked the command to end; call [`Operation::roll_back`] with it.
    pub fn perform(&mut self, change: &Change) -> Result<bool, Failure> {
        self.heed_signals()?;
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

    /// Makes all steps, or none.
    ///
    /// # Errors
    /// The first that failed, with those before it taken back.
    pub fn perform_all(mut self, changes: &[Change]) -> Result<Operation<'a>, Failure> {
        for change in changes {
            if let Err(error) = self.perform(change) {
                return Err(self.roll_back(error));
            }
        }
        Ok(self)
    }

    /// From the first step on, Ctrl-C and its like end the command between two steps, in order.
    fn heed_signals(&mut self) -> Result<(), Failure> {
        if self.signals.is_none() {
            // Where they cannot be held back, they end the process, and the next command undoes.
            self.signals = Signals::hold().ok();
        }
        match self.signals.as_ref().is_some_and(Signals::came) {
            false => Ok(()),
            true => {
                let thing = self.name.clone();
                let failure = Failure::failed(OwnReason::Interrupted, thing, "was interrupted");
                Err(failure.with_remedy("Start it again when it suits you."))
            }
        }
    }

    /// Waits, once and after everything else, for the links of interfaces that were set up: VFs do
    /// not answer before. Names those that do not come.
    pub fn await_links(&self) -> Vec<String> {
        let mut without = Vec::new();
        for (_, change) in &self.done {
            let Change::SetLink { pf, netdev, to: true, .. } = change else { continue };
            let progress = Progress::of(&format!("{pf}: wait for the link of {netdev}"));
            let came = act::link::await_carrier(self.root, *pf);
            progress.end(came);
            if !came {
                without.push(format!("{netdev} is up and has no link: its VFs reach nothing yet"));
            }
        }
        without
    }

    /// All steps are made: remembers what `remember` says and empties the journal, together.
    ///
    /// # Errors
    /// The state cannot be written; the steps are taken back then.
    pub fn commit(
        self,
        remember: impl FnOnce(&Transaction<'_>) -> Result<(), Failure>,
    ) -> Result<(), Failure> {
        let remembered = self.state.change(|state| {
            remember(state)?;
            state.close_journal()
        });
        remembered.map_err(|error| self.roll_back(error))
    }

    /// Takes back what was done, last first, and returns the cause with how that went. A step that
    /// cannot be taken back keeps none of the others from it.
    pub fn roll_back(self, mut cause: Failure) -> Failure {
        let mut all_back = true;
        for (number, change) in self.failed.iter().chain(self.done.iter().rev()) {
            match take_back(self.root, change) {
                Ok(left) => {
                    if let Some(left) = left {
                        cause.message = format!("{}; {left}", cause.message);
                    }
                    // Should that fail, the next command finds the step taken back already.
                    self.state.strike_step(*number).ok();
                }
                Err(error) => {
                    all_back = false;
                    cause.message = format!(
                        "{}; and taking back \"{change}\" failed as well: {}",
                        cause.message, error.message
                    );
                }
            }
        }
        if !all_back {
            let again = "The next command that changes this host tries again.";
            let first = cause.remedy.map(|first| format!("{first} "));
            cause.remedy = Some(format!("{}{again}", first.unwrap_or_default()));
            return cause;
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

/// Takes one step back; says so where there is nothing to take back any more.
fn take_back(root: &HostRoot, change: &Change) -> Result<Option<String>, Failure> {
    match change.undo() {
        Undo::Nothing => Ok(None),
        Undo::Change(back) => {
            let progress = Progress::of(&back);
            let result = back.perform(root).map_err(Failure::from);
            let left = result.as_ref().err().and_then(|failure| left_as_it_is(&back, failure));
            progress.end(result.is_ok() || left.is_some());
            if left.is_some() { Ok(left) } else { result.map(|_| None) }
        }
        Undo::Impossible(why) => {
            Err(Failure::failed(OwnReason::NotAsPlanned, change.device(), why))
        }
    }
}

/// Why a step back that failed is none to insist on: what is gone needs nothing, what somebody else
/// changed since is theirs, and an interface that the host has begun to use stays up.
fn left_as_it_is(back: &Change, failure: &Failure) -> Option<String> {
    let stays = match failure.reason {
        Reason::Host(HostReason::NoSuchDevice | HostReason::NoInterface | HostReason::Stale) => {
            true
        }
        Reason::Host(HostReason::HostUsesDevice) => {
            matches!(back, Change::SetLink { to: false, .. })
        }
        _ => false,
    };
    stays.then(|| format!("{}: {}; left as it is", failure.thing, failure.message))
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
        let left = take_back(root, &entry.change).map_err(|mut failure| {
            failure.message = format!(
                "an interrupted `assign {operation}` cannot be taken back: {}",
                failure.message
            );
            failure
        })?;
        if let Some(left) = left {
            anstream::eprintln!("assign: {left}");
        }
        state.strike_step(entry.number)?;
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
    fn of(step: &impl std::fmt::Display) -> Progress {
        let shown = std::io::stderr().is_terminal();
        if shown {
            anstream::eprint!("  {step} ... ");
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
