//! Making changes so that they end as planned or undone, also when the process is killed half way.
//!
//! ```text
//! recover ─► journal the steps ─► perform them ─► observed ─► remember all, empty the journal (one
//!                                      │                      transaction)
//!                                      └─ failed: undo what was done, last first
//! ```
//!
//! Steps are written down before any of them is made, all in one transaction: that is as safe as one
//! transaction for each, since all that has to hold is that no step is made which is not on the disk.
//! So whatever the journal holds at the start of a command was left by one that was killed, and is
//! undone first, the last one first; the reverse of a step that was never made changes nothing, or
//! what the reverse of an earlier one puts right. That holds for steps on VFs only where no other VFs
//! were in their places before: what follows the destruction of VFs is written down after they are
//! gone.
//!
//! What VFs had that go is remembered in steps of their own, written down before they go. A kill
//! between the two writings finds these in the journal, and no VFs: they are made again, and get what
//! they had. Undoing may be killed as well, and begins anew then: the journal is emptied when all of
//! it is undone.
//!
//! Steps of different PFs are made at the same time: see [`lanes`]; and those that take devices from
//! their drivers as well: see [`together`].

use std::sync::Mutex;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::time::Duration;

use sriov::facts::platform;
use sriov::{Change, HostRoot, Reason as HostReason, act};

use crate::failure::{Failure, OwnReason};
use crate::signals::Signals;
use crate::state::{HostLock, Intent, State, Transaction};

pub mod all;
mod before;
mod interrupt;
mod lanes;
pub mod leases;
pub mod policies;
mod progress;
pub mod recover;
pub mod seen;
pub mod settle;
mod step;
mod together;
mod undo;

use interrupt::Choice;
use lanes::Gate;
use progress::Progress;
use step::{Event, Lane, Outcome, Pen, Work};
use undo::left_as_it_is;
pub use undo::{TakenBack, Undoing, Went};

/// A step by its place in the journal.
type Numbered = (u32, Change);

/// Time between two looks whether somebody wants a command to end.
const LOOK_AGAIN: Duration = Duration::from_millis(50);

/// A command that changes the host. Dropping it without [`Operation::commit`] or
/// [`Operation::roll_back`] leaves its steps in the journal, for the next command to undo.
#[derive(Debug)]
pub struct Operation<'a> {
    root: &'a HostRoot,
    state: &'a State,
    pen: Pen<'a>,
    done: Vec<Numbered>,
    /// These may have come half way.
    failed: Vec<Numbered>,
    /// In the journal, and not made.
    unmade: Vec<u32>,
    signals: Option<Signals>,
    /// Somebody wants the steps to stay as they are.
    leave: bool,
    lock: HostLock,
}

/// What came of the steps that were asked for.
#[derive(Default)]
struct Came {
    made: Vec<bool>,
    notes: Vec<(usize, String)>,
    /// How many steps are over, made or not.
    over: usize,
    first: Option<Failure>,
    interrupted: bool,
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
        refuse_borrowed(root)?;
        let lock = state.lock_host()?;
        recover::recover(root, state)?;
        leases::tell(&leases::return_dead(root, state)?);
        Ok(Operation::with(root, state, name.into(), lock))
    }

    fn with(root: &'a HostRoot, state: &'a State, name: String, lock: HostLock) -> Operation<'a> {
        let boot_id = platform::boot_id(root);
        let pen = Pen { state, name, boot_id, next: Mutex::new(0), intent: None };
        Operation {
            root,
            state,
            pen,
            done: Vec::new(),
            failed: Vec::new(),
            unmade: Vec::new(),
            signals: None,
            leave: false,
            lock,
        }
    }

    /// Takes up where a command was interrupted that had these steps in the journal.
    fn resumed(
        root: &'a HostRoot,
        state: &'a State,
        name: &str,
        steps: Vec<Numbered>,
        lock: HostLock,
    ) -> Operation<'a> {
        let mut operation = Operation::with(root, state, name.to_owned(), lock);
        let next = steps.last().map_or(0, |(number, _)| number + 1);
        operation.pen.next = Mutex::new(next);
        operation.done = steps;
        operation
    }

    /// Says beforehand what is to be remembered when all steps are made, so that another command can
    /// finish it should this one be killed. It is written down with the first step.
    pub fn intend(&mut self, intent: Intent) {
        self.pen.intent = Some(intent);
    }

    /// The boot it happens on.
    pub fn boot_id(&self) -> &str {
        &self.pen.boot_id
    }

    /// What was changed so far, in the order in which it was written down: PFs that are changed at the
    /// same time are told the same way each time.
    pub fn done(&self) -> Vec<Change> {
        let mut done: Vec<&Numbered> = self.done.iter().collect();
        done.sort_by_key(|(number, _)| *number);
        done.into_iter().map(|(_, change)| change.clone()).collect()
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
        if changes.is_empty() {
            return Ok((Vec::new(), Vec::new()));
        }
        self.heed_signals()?;
        let all: Vec<(usize, Change)> = changes.iter().cloned().enumerate().collect();
        let lanes = lanes::split(all, |(_, change)| lanes::lane_of(self.root, change));
        let lanes = self.write_first_parts(lanes)?;
        let alone = lanes.len() == 1;
        let gate = Gate::new();
        let mut came = Came { made: vec![false; changes.len()], ..Came::default() };
        let signals = self.signals.as_ref();
        let work = Work { root: self.root, pen: &self.pen, gate: &gate, signals, excuse };
        let (sender, receiver) = mpsc::channel();
        let mut book = Book {
            root: self.root,
            signals: self.signals.as_ref(),
            done: &mut self.done,
            failed: &mut self.failed,
            unmade: &mut self.unmade,
            leave: &mut self.leave,
            came: &mut came,
            alone,
            progress: None,
        };
        lanes::each(
            lanes,
            &gate,
            sender,
            |lane, events| work.go(lane, events),
            || {
                book.keep(&receiver, &gate);
            },
        );
        if let Some(failure) = came.first {
            return Err(failure);
        }
        if came.interrupted {
            return Err(self.interrupted());
        }
        came.notes.sort_by_key(|(at, _)| *at);
        Ok((came.made, came.notes.into_iter().map(|(_, note)| note).collect()))
    }

    /// The parts of each lane end where VFs go; the first ones are written down together.
    fn write_first_parts(
        &mut self,
        lanes: Vec<Vec<(usize, Change)>>,
    ) -> Result<Vec<Lane>, Failure> {
        let destroys = |(_, change): &(usize, Change)| {
            matches!(change.plain(), Change::SetVfCount { to: 0, .. })
        };
        let mut parts: Vec<Vec<Vec<(usize, Change)>>> = lanes
            .iter()
            .map(|lane| lane.split_inclusive(destroys).map(<[_]>::to_vec).collect())
            .collect();
        let firsts: Vec<Vec<(usize, Change)>> = parts
            .iter_mut()
            .filter(|parts| !parts.is_empty())
            .map(|parts| parts.remove(0))
            .collect();
        let lengths: Vec<usize> = firsts.iter().map(Vec::len).collect();
        let (steps, written) = self.pen.write_down(firsts.into_iter().flatten().collect());
        if let Err(failure) = written {
            // They may be on the disk all the same.
            self.unmade.extend(steps.iter().map(|(_, (number, _))| *number));
            return Err(failure);
        }
        let mut steps = steps.into_iter();
        let lanes = lengths
            .into_iter()
            .zip(parts)
            .map(|(length, later)| Lane { first: steps.by_ref().take(length).collect(), later });
        Ok(lanes.collect())
    }

    /// From the first step on, Ctrl-C and its like end the command between two steps, in order.
    fn heed_signals(&mut self) -> Result<(), Failure> {
        if self.signals.is_none() {
            // Where they cannot be held back, they end the process, and the next command undoes.
            self.signals = Signals::hold().ok();
        }
        match self.signals.as_ref().is_some_and(Signals::came) {
            false => Ok(()),
            true => Err(self.interrupted()),
        }
    }

    fn interrupted(&self) -> Failure {
        let thing = self.pen.name.clone();
        let failure = Failure::failed(OwnReason::Interrupted, thing, "was interrupted");
        failure.with_remedy("Start it again when it suits you.")
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
        self.commit_and_keep(remember).map(drop)
    }

    /// The same, and nobody else changes the host yet.
    fn commit_and_keep(
        self,
        remember: impl FnOnce(&Transaction<'_>) -> Result<(), Failure>,
    ) -> Result<HostLock, Failure> {
        let remembered = self.state.change(|state| {
            remember_steps(state, &self.pen.boot_id, &self.pen.name, &self.done)?;
            remember(state)?;
            state.close_journal()
        });
        let Err(mut error) = remembered else { return Ok(self.lock) };
        if self.done.is_empty() {
            return Err(error);
        }
        // An error may come after all is on the disk: what is there says what holds.
        match self.state.journal() {
            Ok(left) if left.is_empty() => Ok(self.lock),
            Ok(_) => Err(self.roll_back(error)),
            Err(_) => {
                error.message =
                    format!("{}; all steps are made and stay as they are", error.message);
                error.remedy = Some(format!(
                    "{} Then `assign recover` finishes or takes back what was done.",
                    error.remedy.unwrap_or_default()
                ));
                Err(error)
            }
        }
    }

    /// Takes back what was done, last first, and returns the cause with how that went. A step that
    /// cannot be taken back keeps none of the others from it.
    pub fn roll_back(self, mut cause: Failure) -> Failure {
        if self.leave {
            let count = self.done.len();
            cause.message = format!("{}; {} as they are", cause.message, stay(count));
            return cause.with_remedy(
                "`assign recover` takes back what was done, and `assign recover --finish` goes on.",
            );
        }
        let steps: Vec<Numbered> =
            self.failed.iter().chain(self.done.iter().rev()).cloned().collect();
        let taken = undo::take_back_all(self.root, &steps);
        let mut struck = self.unmade;
        let mut all_back = true;
        for one in &taken {
            let because = one.because.as_deref().unwrap_or_default();
            match one.went {
                Went::TakenBack | Went::NothingToDo => {}
                Went::Left => cause.message = format!("{}; {because}", cause.message),
                Went::Failed => {
                    all_back = false;
                    cause.message = format!(
                        "{}; and taking back \"{}\" failed as well: {because}",
                        cause.message, one.step
                    );
                    continue;
                }
            }
            struck.push(one.number);
        }
        // Should that fail, the next command finds the steps taken back already.
        self.state.strike_steps(&struck).ok();
        if !taken.is_empty() {
            cause.taken_back = Some(Box::new(Undoing(taken)));
        }
        if !all_back {
            let again = "The next command that changes this host tries again; so does `assign \
                         recover`.";
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

/// A tree that is a running kernel's, and another host's, is not to be changed.
fn refuse_borrowed(root: &HostRoot) -> Result<(), Failure> {
    if !root.borrows_a_kernel() {
        return Ok(());
    }
    let message = "shows a running kernel and is no recorded tree, so changes through it would pass \
                   by what protects that host";
    let failure = Failure::bad_input(HostReason::NotThisHost, root.directory().display(), message);
    Err(failure.with_remedy("Run assign on that host, without --root."))
}

/// What is to be remembered of the steps themselves.
fn remember_steps(
    state: &Transaction<'_>,
    boot_id: &str,
    name: &str,
    done: &[Numbered],
) -> Result<(), Failure> {
    for (_, change) in done {
        if let Change::SetVfCount { pf, to: 0, .. } = change.plain() {
            // What is known of VFs goes with them: others may come in their places.
            state.forget_originals_below(*pf)?;
        }
        if let Change::Forced { .. } = change {
            state.remember_forced(boot_id, name, change)?;
        }
    }
    Ok(())
}

fn stay(count: usize) -> String {
    match count {
        1 => "the one step that was made stays".to_owned(),
        count => format!("the {count} steps that were made stay"),
    }
}

/// Takes note of what lanes tell, and of who wants them to end.
struct Book<'a> {
    root: &'a HostRoot,
    signals: Option<&'a Signals>,
    done: &'a mut Vec<Numbered>,
    failed: &'a mut Vec<Numbered>,
    unmade: &'a mut Vec<u32>,
    leave: &'a mut bool,
    came: &'a mut Came,
    /// There is one lane, and each step has a line that lives.
    alone: bool,
    progress: Option<Progress>,
}

impl Book<'_> {
    /// Until all lanes have ended.
    fn keep(&mut self, events: &Receiver<Event>, gate: &Gate) {
        let (mut asked, mut stopped) = (false, false);
        loop {
            match events.recv_timeout(LOOK_AGAIN) {
                Ok(event) => self.note(event),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return,
            }
            let Some(signals) = self.signals else { continue };
            if !asked && !stopped && (signals.is_pending() || gate.is_shut()) {
                // Before it is taken: a lane goes on where the gate is open and nothing is pending.
                gate.shut();
                signals.came();
                interrupt::heard();
                if interrupt::can_ask() {
                    asked = true;
                } else {
                    stopped = true;
                    gate.stop();
                }
            }
            if asked && gate.is_quiet() {
                // What they told before they came to the gate.
                while let Ok(event) = events.try_recv() {
                    self.note(event);
                }
                asked = false;
                let (over, all) = (self.came.over, self.came.made.len());
                if over == all || self.came.first.is_some() {
                    gate.open();
                    continue;
                }
                match interrupt::ask(signals, over, all) {
                    Choice::GoOn => gate.open(),
                    choice => {
                        *self.leave = choice == Choice::Leave;
                        stopped = true;
                        gate.stop();
                    }
                }
            }
        }
    }

    fn note(&mut self, event: Event) {
        match event {
            Event::Begun(change) => {
                self.progress =
                    self.alone.then(|| Progress::of_change(self.root, &change, self.signals));
            }
            Event::Ended(change, well) => match self.progress.take() {
                Some(progress) => progress.end(well),
                None if self.alone => {}
                None => Progress::of(&change).end(well),
            },
            Event::Went((at, step), outcome) => self.went(at, step, outcome),
            Event::Unmade(number) => self.unmade.push(number),
            Event::Stopped => self.came.interrupted = true,
            Event::Failed(failure) => {
                self.came.first.get_or_insert(failure);
            }
        }
    }

    fn went(&mut self, at: usize, step: Numbered, outcome: Outcome) {
        self.came.over += 1;
        match outcome {
            Outcome::Made => {
                self.done.push(step);
                if let Some(made) = self.came.made.get_mut(at) {
                    *made = true;
                }
            }
            Outcome::Nothing => self.unmade.push(step.0),
            Outcome::Left(note) => {
                self.unmade.push(step.0);
                self.came.notes.push((at, note));
            }
            Outcome::Refused(failure) => {
                self.unmade.push(step.0);
                self.came.first.get_or_insert(failure);
            }
            Outcome::Failed(failure) => {
                self.failed.push(step);
                self.came.first.get_or_insert(failure);
            }
        }
    }
}
