//! What a killed command left: found, then finished or taken back.
//!
//! ```text
//! journal ─┬─ empty                                    nothing to do
//!          ├─ of another boot                          closed: the boot has undone it
//!          ├─ every step of an apply is made,
//!          │  and a fresh plan finds nothing to do     finished: remembered as it would have been
//!          ├─ asked to finish, and it still fits       the rest is made, then as above
//!          └─ anything else                            taken back, last first, and looked at again
//! ```

use serde::Serialize;
use sriov::facts::platform;
use sriov::{Change, HostRoot};

use super::policies::{self, Report};
use super::undo::{TakenBack, Undoing, Went, not_observed, take_back_all};
use super::{Numbered, Operation, leases, remember_steps, settle};
use crate::failure::{Failure, OwnReason};
use crate::state::{Entry, HostLock, Intent, State, Step};

/// What came of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Outcome {
    /// No command was interrupted.
    Nothing,
    /// The host was booted since, so that there is nothing left of it.
    Closed,
    /// All of its steps are made, and remembered.
    Finished,
    /// The host is as it was before it.
    TakenBack,
}

/// What was found, and what was done about it.
#[derive(Debug, Clone, Serialize)]
pub struct Recovered {
    /// What came of it.
    pub outcome: Outcome,
    /// The command that was interrupted: "apply edge-node".
    pub operation: Option<String>,
    /// Its steps that were written down, first to last.
    pub found: Vec<Change>,
    /// How taking them back went, in that order: last first.
    pub taken_back: Vec<TakenBack>,
    /// Steps that were made to finish it.
    pub made: Vec<Change>,
    /// Devices that were returned because the guests that had them are gone, and notes.
    pub returned: Report,
}

/// What a command left that was interrupted.
#[derive(Debug)]
struct Left {
    operation: String,
    entries: Vec<Entry>,
    intent: Option<Intent>,
}

/// What is about to be done, for a person who watches.
#[derive(Debug, Clone, Copy)]
pub enum Told<'a> {
    /// This command was interrupted, with so many steps written down, and this comes of it.
    Found(&'a str, usize, Outcome),
}

/// Finishes or takes back what a killed command left, as [`recover`] does, and returns the devices of
/// guests that are gone. With `finish`, an apply goes on where it was interrupted.
///
/// # Errors
/// The journal is damaged; a step cannot be taken back; or what is to be finished does not fit any
/// more, with everything as it was found.
pub fn all(
    root: &HostRoot,
    state: &State,
    finish: bool,
    mut tell: impl FnMut(Told<'_>),
) -> Result<Recovered, Failure> {
    super::refuse_borrowed(root)?;
    let lock = state.lock_host()?;
    let (mut recovered, _lock) = match (find(state)?, finish) {
        (Some(left), true) if left.is_of_this_boot(root) && !left.is_whole(root, state)? => {
            go_on(root, state, left, lock, &mut tell)?
        }
        (left, _) => (settle_left(root, state, left, &mut tell)?, lock),
    };
    recovered.returned = leases::return_dead(root, state)?;
    Ok(recovered)
}

/// Finishes or takes back what a killed command left, and says so in a line. The caller holds the
/// lock on changing the host.
pub(super) fn recover(root: &HostRoot, state: &State) -> Result<(), Failure> {
    let recovered = settle_left(root, state, find(state)?, &mut |_| {})?;
    let Some(operation) = &recovered.operation else { return Ok(()) };
    for one in &recovered.taken_back {
        // A VF that is gone, or was never made, is nothing to be told about.
        if let (Some(left), true) = (&one.because, is_there(root, &one.step)) {
            anstream::eprintln!("assign: {left}");
        }
    }
    let what = match recovered.outcome {
        Outcome::Nothing => return Ok(()),
        Outcome::Closed => {
            anstream::eprintln!(
                "assign: an earlier `assign {operation}` was interrupted by a boot, which has \
                 undone it"
            );
            return Ok(());
        }
        Outcome::Finished => "all its steps were made: it counts as done".to_owned(),
        Outcome::TakenBack => match recovered.taken_back.len() {
            1 => "its one step was taken back".to_owned(),
            count => format!("its {count} steps were taken back"),
        },
    };
    anstream::eprintln!("assign: an earlier `assign {operation}` was interrupted; {what}");
    Ok(())
}

fn is_there(root: &HostRoot, change: &Change) -> bool {
    sriov::act::locate(root, change.device()).is_ok()
}

fn find(state: &State) -> Result<Option<Left>, Failure> {
    let entries = state.journal()?;
    let Some(first) = entries.first() else { return Ok(None) };
    let odd = |entry: &&Entry| entry.operation != first.operation || entry.boot_id != first.boot_id;
    if let Some(odd) = entries.iter().find(odd) {
        let message = format!(
            "the journal is damaged: it has steps of `assign {}` and of `assign {}`",
            first.operation, odd.operation
        );
        return Err(Failure::failed(OwnReason::State, state.directory().display(), message)
            .with_remedy(
                "Nothing was done, as nobody can tell what belongs together. Look at the host with \
                 `assign vf list` and `assign devices`, put right what is wrong, then move \
                 state.redb away and apply the policies again.",
            ));
    }
    let operation = first.operation.clone();
    Ok(Some(Left { operation, entries, intent: state.intent()? }))
}

impl Left {
    fn is_of_this_boot(&self, root: &HostRoot) -> bool {
        let boot_id = platform::boot_id(root);
        self.entries.iter().all(|entry| entry.boot_id == boot_id)
    }

    fn numbered(&self) -> Vec<Numbered> {
        self.entries.iter().map(|entry| (entry.number, entry.change.clone())).collect()
    }

    fn changes(&self) -> Vec<Change> {
        self.entries.iter().map(|entry| entry.change.clone()).collect()
    }

    /// Whether the host is as the command would have left it: by its steps, and by a fresh look.
    fn is_whole(&self, root: &HostRoot, state: &State) -> Result<bool, Failure> {
        let Some(intent) = &self.intent else { return Ok(false) };
        let steps: Vec<&Change> = intent.steps.iter().map(|step| &step.change).collect();
        if unmade(root, &steps)?.is_empty() {
            return Ok(policies::verify(root, state, &intent.policies).is_ok());
        }
        Ok(false)
    }
}

/// Steps that do not show on the host, where none that comes later is about the same thing.
fn unmade<'a>(root: &HostRoot, steps: &[&'a Change]) -> Result<Vec<&'a Change>, Failure> {
    let (mut seen, mut left) = (Vec::new(), Vec::new());
    for step in steps.iter().rev() {
        let about = settle::about(step);
        if seen.contains(&about) {
            continue;
        }
        seen.push(about);
        if !step.is_made(root)? {
            left.push(*step);
        }
    }
    left.reverse();
    Ok(left)
}

fn settle_left(
    root: &HostRoot,
    state: &State,
    left: Option<Left>,
    tell: &mut impl FnMut(Told<'_>),
) -> Result<Recovered, Failure> {
    let nothing = Recovered {
        outcome: Outcome::Nothing,
        operation: None,
        found: Vec::new(),
        taken_back: Vec::new(),
        made: Vec::new(),
        returned: Report::default(),
    };
    let Some(left) = left else { return Ok(nothing) };
    let outcome = if !left.is_of_this_boot(root) {
        Outcome::Closed
    } else if left.is_whole(root, state)? {
        Outcome::Finished
    } else {
        Outcome::TakenBack
    };
    tell(Told::Found(&left.operation, left.entries.len(), outcome));
    let mut taken_back = Vec::new();
    match outcome {
        Outcome::Nothing => {}
        Outcome::Closed => state.change(|state| state.close_journal())?,
        Outcome::Finished => remember(root, state, &left)?,
        Outcome::TakenBack => taken_back = take_back(root, state, &left)?,
    }
    let found = left.changes();
    Ok(Recovered { outcome, operation: Some(left.operation), found, taken_back, ..nothing })
}

/// What the command would have remembered.
fn remember(root: &HostRoot, state: &State, left: &Left) -> Result<(), Failure> {
    let boot_id = platform::boot_id(root);
    let made = left.numbered();
    state.change(|state| {
        remember_steps(state, &boot_id, &left.operation, &made)?;
        if let Some(intent) = &left.intent {
            let steps = intent.steps.iter();
            let made = steps.filter(|step| made.iter().any(|(_, change)| *change == step.change));
            let made: Vec<&Step> = made.collect();
            policies::remember(state, &intent.policies, &boot_id, &made, &intent.steps)?;
        }
        state.close_journal()
    })
}

fn take_back(root: &HostRoot, state: &State, left: &Left) -> Result<Vec<TakenBack>, Failure> {
    let steps: Vec<Numbered> = left.numbered().into_iter().rev().collect();
    let taken = take_back_all(root, &steps);
    let failed = taken.iter().find(|one| one.went == Went::Failed).map(|one| {
        let because = one.because.clone().unwrap_or_default();
        Failure::failed(OwnReason::NotAsPlanned, one.step.device(), because)
    });
    if let Some(mut failure) = failed.or_else(|| not_observed(root, &taken)) {
        // What was taken back stays in the journal, where later steps depend on it: it is nothing to
        // do the next time.
        failure.message = format!(
            "an interrupted `assign {}` cannot be taken back: {}",
            left.operation, failure.message
        );
        failure.remedy = Some(
            "Put right what is in the way, then run `assign recover`. Until then no command \
             changes this host."
                .to_owned(),
        );
        failure.taken_back = Some(Box::new(Undoing(taken)));
        return Err(failure);
    }
    state.change(|state| state.close_journal())?;
    Ok(taken)
}

/// Makes what is left of an apply. A fresh plan says what that is; it has to be among what the
/// command was to do.
fn go_on(
    root: &HostRoot,
    state: &State,
    left: Left,
    lock: HostLock,
    tell: &mut impl FnMut(Told<'_>),
) -> Result<(Recovered, HostLock), Failure> {
    let refuse = |message: String| {
        Failure::refused(OwnReason::NotAsPlanned, format!("assign {}", left.operation), message)
            .with_remedy("Run `assign recover` without --finish, which takes it back.")
    };
    let Some(intent) = left.intent.clone() else {
        return Err(refuse("cannot be finished: only an apply can be".to_owned()));
    };
    let plan = policies::plan_now(root, state, &intent.policies)?;
    if let Some(refusal) = plan.refusal() {
        return Err(refuse(format!("does not fit this host any more: {refusal}")));
    }
    let known = |step: &Step| {
        let about = settle::about(&step.change);
        intent.steps.iter().any(|other| settle::about(&other.change) == about)
    };
    if let Some(step) = plan.steps.iter().find(|step| !known(step)) {
        let message =
            format!("does not fit this host any more: \"{}\" would be needed now", step.change);
        return Err(refuse(message));
    }
    tell(Told::Found(&left.operation, left.entries.len(), Outcome::Finished));
    let found = left.changes();
    let mut operation = Operation::resumed(root, state, &left.operation, left.numbered(), lock);
    operation.intend(intent.clone());
    let mut steps = plan.steps;
    let made = operation.done().len();
    let changes: Vec<Change> = steps.iter().map(|step| step.change.clone()).collect();
    // The journal keeps what it has: a failure takes all of it back.
    if let Err(error) = operation.perform_each(&changes) {
        return Err(operation.roll_back(error));
    }
    // What a plan does not look for, such as that new VFs get drivers again, is made at last.
    let intended: Vec<&Change> = intent.steps.iter().map(|step| &step.change).collect();
    let rest = match unmade(root, &intended) {
        Ok(rest) => rest,
        Err(error) => return Err(operation.roll_back(error)),
    };
    let rest: Vec<Step> =
        intent.steps.iter().filter(|step| rest.contains(&&step.change)).cloned().collect();
    let changes: Vec<Change> = rest.iter().map(|step| step.change.clone()).collect();
    if let Err(error) = operation.perform_each(&changes) {
        return Err(operation.roll_back(error));
    }
    if let Err(error) = policies::verify(root, state, &intent.policies) {
        return Err(operation.roll_back(error));
    }
    let before = intent.steps.iter().filter(|step| found.contains(&step.change));
    steps.splice(0..0, before.cloned().collect::<Vec<_>>());
    steps.extend(rest);
    let done = operation.done();
    let boot_id = operation.boot_id().to_owned();
    let own: Vec<&Step> = steps.iter().filter(|step| done.contains(&step.change)).collect();
    let lock = operation.commit_and_keep(|state| {
        policies::remember(state, &intent.policies, &boot_id, &own, &intent.steps)
    })?;
    let recovered = Recovered {
        outcome: Outcome::Finished,
        operation: Some(left.operation),
        found,
        taken_back: Vec::new(),
        made: done.into_iter().skip(made).collect(),
        returned: Report::default(),
    };
    Ok((recovered, lock))
}
