//! Making changes so that they end as planned or undone, also when the process is killed half way.
//!
//! ```text
//! recover ─► journal the steps ─► perform them ─► observed ─► remember all, empty the journal (one
//!                                      │                      transaction)
//!                                      └─ failed: undo what was done, last first
//! ```
//!
//! Steps are written down before any of them is made, all in one transaction. So whatever the journal
//! holds at the start of a command was left by one that was killed, and is undone first, the last one
//! first; the reverse of a step that was never made changes nothing, or what the reverse of an earlier
//! one puts right. That holds for steps on VFs only where no other VFs were in their places before:
//! what follows the destruction of VFs is written down after they are gone.
//!
//! Steps that take devices from their drivers are made together: see [`together`].

use sriov::facts::platform;
use sriov::{Change, HostRoot, Reason as HostReason, Undo, act};

use crate::failure::{Failure, OwnReason};
use crate::signals::Signals;
use crate::state::{Entry, HostLock, State, Transaction};

pub mod all;
mod before;
pub mod leases;
pub mod policies;
mod progress;
mod recover;
pub mod settle;
mod together;

use progress::Progress;
use recover::{left_as_it_is, take_back_all};

/// A step by its place in the journal.
type Numbered = (u32, Change);

/// How one step went.
enum Outcome {
    Made,
    /// It was as wanted already.
    Nothing,
    /// It was not made, and that is all right, for this reason.
    Left(String),
    /// It was not begun.
    Refused(Failure),
    /// It may have come half way.
    Failed(Failure),
}

/// A command that changes the host. Dropping it without [`Operation::commit`] or
/// [`Operation::roll_back`] leaves its steps in the journal, for the next command to undo.
#[derive(Debug)]
pub struct Operation<'a> {
    root: &'a HostRoot,
    state: &'a State,
    name: String,
    boot_id: String,
    next: u32,
    done: Vec<Numbered>,
    /// These may have come half way.
    failed: Vec<Numbered>,
    /// In the journal, and not made.
    unmade: Vec<u32>,
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
        recover::recover(root, state)?;
        leases::tell(&leases::return_dead(root, state)?);
        Ok(Operation {
            root,
            state,
            name: name.into(),
            boot_id: platform::boot_id(root),
            next: 0,
            done: Vec::new(),
            failed: Vec::new(),
            unmade: Vec::new(),
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
        Ok(self.perform_each(std::slice::from_ref(change))?.contains(&true))
    }

    /// Makes steps; says of each whether there was anything to change.
    ///
    /// # Errors
    /// The first that failed, or somebody asked the command to end; call [`Operation::roll_back`]
    /// with it.
    pub fn perform_each(&mut self, changes: &[Change]) -> Result<Vec<bool>, Failure> {
        Ok(self.carry_out(changes, |_, _| None)?.0)
    }

    /// Makes steps, but those that need not be made any more (VFs that are gone, settings that
    /// somebody else changed since); returns what a person should know of these.
    ///
    /// # Errors
    /// As [`Operation::perform_each`].
    pub fn perform_what_is_left(&mut self, changes: &[Change]) -> Result<Vec<String>, Failure> {
        Ok(self.carry_out(changes, left_as_it_is)?.1)
    }

    /// Makes all steps, or none.
    ///
    /// # Errors
    /// The first that failed, with those before it taken back.
    pub fn perform_all(mut self, changes: &[Change]) -> Result<Operation<'a>, Failure> {
        match self.perform_each(changes) {
            Ok(_) => Ok(self),
            Err(error) => Err(self.roll_back(error)),
        }
    }

    fn carry_out(
        &mut self,
        changes: &[Change],
        excuse: impl Fn(&Change, &Failure) -> Option<String> + Sync,
    ) -> Result<(Vec<bool>, Vec<String>), Failure> {
        let (mut made, mut notes) = (Vec::new(), Vec::new());
        let destroys = |change: &Change| matches!(change.plain(), Change::SetVfCount { to: 0, .. });
        for part in changes.split_inclusive(destroys) {
            self.heed_signals()?;
            let steps = self.write_down(part)?;
            let mut left = steps.as_slice();
            for run in together::runs(&steps, |(_, change)| change) {
                left = left.get(run.len()..).unwrap_or_default();
                let result = self.heed_signals().and_then(|()| self.make(run, &excuse));
                match result {
                    Ok(outcomes) => {
                        for outcome in outcomes {
                            made.push(matches!(outcome, Outcome::Made));
                            if let Outcome::Left(note) = outcome {
                                notes.push(note);
                            }
                        }
                    }
                    Err(error) => {
                        self.unmade.extend(left.iter().map(|(number, _)| *number));
                        return Err(error);
                    }
                }
            }
        }
        Ok((made, notes))
    }

    fn write_down(&mut self, changes: &[Change]) -> Result<Vec<Numbered>, Failure> {
        let entries: Vec<Entry> = (self.next..)
            .zip(changes)
            .map(|(number, change)| Entry {
                number,
                operation: self.name.clone(),
                boot_id: self.boot_id.clone(),
                change: change.clone(),
            })
            .collect();
        self.next = entries.last().map_or(self.next, |last| last.number + 1);
        self.state.journal_steps(&entries)?;
        Ok(entries.into_iter().map(|entry| (entry.number, entry.change)).collect())
    }

    /// Makes one run of steps, and takes note of how each went.
    fn make(
        &mut self,
        run: &[Numbered],
        excuse: impl Fn(&Change, &Failure) -> Option<String> + Sync,
    ) -> Result<Vec<Outcome>, Failure> {
        let root = self.root;
        let work = |(_, change): &Numbered| match change.perform(root) {
            Ok(Undo::Nothing) => Outcome::Nothing,
            Ok(_) => Outcome::Made,
            Err(error) => {
                let begun = !error.reason.is_before_acting();
                let failure = Failure::from(error);
                match excuse(change, &failure) {
                    Some(note) => Outcome::Left(note),
                    None if begun => Outcome::Failed(failure),
                    None => Outcome::Refused(failure),
                }
            }
        };
        let fails = |outcome: &Outcome| matches!(outcome, Outcome::Failed(_) | Outcome::Refused(_));
        let (mut progress, signals) = (None, self.signals.as_ref());
        let outcomes = together::each(run, work, fails, |(_, change), outcome| match outcome {
            None => progress = Some(Progress::of_change(root, change, signals)),
            Some(outcome) => {
                if let Some(progress) = progress.take() {
                    progress.end(!fails(outcome));
                }
            }
        });
        let (mut went, mut unmade, mut first) = (Vec::new(), Vec::new(), None);
        for (step, outcome) in run.iter().zip(outcomes) {
            match outcome {
                Some(Outcome::Made) => self.done.push(step.clone()),
                Some(Outcome::Failed(failure)) => {
                    self.failed.push(step.clone());
                    first.get_or_insert(failure);
                    continue;
                }
                Some(Outcome::Refused(failure)) => {
                    unmade.push(step.0);
                    first.get_or_insert(failure);
                    continue;
                }
                Some(Outcome::Nothing | Outcome::Left(_)) => unmade.push(step.0),
                None => {
                    unmade.push(step.0);
                    continue;
                }
            }
            went.extend(outcome);
        }
        if let Some(failure) = first {
            self.unmade.append(&mut unmade);
            return Err(failure);
        }
        // What was as wanted is not ours to take back.
        self.state.strike_steps(&unmade)?;
        Ok(went)
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
            for (_, change) in &self.done {
                if let Change::SetVfCount { pf, to: 0, .. } = change.plain() {
                    // What is known of VFs goes with them: others may come in their places.
                    state.forget_originals_below(*pf)?;
                }
                if let Change::Forced { .. } = change {
                    state.remember_forced(&self.boot_id, &self.name, change)?;
                }
            }
            remember(state)?;
            state.close_journal()
        });
        remembered.map_err(|error| self.roll_back(error))
    }

    /// Takes back what was done, last first, and returns the cause with how that went. A step that
    /// cannot be taken back keeps none of the others from it.
    pub fn roll_back(self, mut cause: Failure) -> Failure {
        let steps: Vec<Numbered> =
            self.failed.iter().chain(self.done.iter().rev()).cloned().collect();
        let mut struck = self.unmade;
        let mut all_back = true;
        for ((number, change), result) in take_back_all(self.root, &steps) {
            match result {
                Ok(left) => {
                    struck.push(number);
                    if let Some(left) = left {
                        cause.message = format!("{}; {left}", cause.message);
                    }
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
        // Should that fail, the next command finds the steps taken back already.
        self.state.strike_steps(&struck).ok();
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
