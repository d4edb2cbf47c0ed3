//! The steps of one lane: written down, made, and what came of each.

use std::sync::mpsc::Sender;
use std::sync::{Mutex, PoisonError};

use sriov::{Change, HostRoot, Undo};

use super::lanes::Gate;
use super::{Numbered, together};
use crate::failure::Failure;
use crate::signals::Signals;
use crate::state::{Entry, Intent, State};

/// How one step went.
#[derive(Debug)]
pub(super) enum Outcome {
    /// It was made.
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

impl Outcome {
    pub fn is_failure(&self) -> bool {
        matches!(self, Outcome::Failed(_) | Outcome::Refused(_))
    }
}

/// A step by its place among those that were asked for, and in the journal.
pub(super) type Placed = (usize, Numbered);

/// What a lane tells.
pub(super) enum Event {
    /// This step is the next one to be waited for.
    Begun(Change),
    /// It is over; whether well.
    Ended(Change, bool),
    /// How a step went.
    Went(Placed, Outcome),
    /// This step of the journal is not made.
    Unmade(u32),
    /// The gate was shut for good before the lane came to its end.
    Stopped,
    /// The journal could not be kept.
    Failed(Failure),
}

/// Writes steps down.
pub(super) struct Pen<'a> {
    pub state: &'a State,
    pub name: String,
    pub boot_id: String,
    /// The next number.
    pub next: Mutex<u32>,
    /// What is written beside the first step.
    pub intent: Option<Intent>,
}

impl std::fmt::Debug for Pen<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Pen").field("name", &self.name).finish_non_exhaustive()
    }
}

impl Pen<'_> {
    /// The steps with their numbers, and whether they are on the disk.
    pub fn write_down(&self, changes: Vec<(usize, Change)>) -> (Vec<Placed>, Result<(), Failure>) {
        // Held meanwhile: lanes write one after another.
        let mut next = self.next.lock().unwrap_or_else(PoisonError::into_inner);
        let entry = |(number, (_, change)): (u32, &(usize, Change))| Entry {
            number,
            operation: self.name.clone(),
            boot_id: self.boot_id.clone(),
            change: change.clone(),
        };
        let entries: Vec<Entry> = (*next..).zip(&changes).map(entry).collect();
        let written = self.state.journal_steps(&entries, self.intent.as_ref());
        let numbers = *next..;
        *next = entries.last().map_or(*next, |last| last.number + 1);
        let placed = numbers.zip(changes).map(|(number, (at, change))| (at, (number, change)));
        (placed.collect(), written)
    }
}

/// What lanes need.
pub(super) struct Work<'a, E> {
    pub root: &'a HostRoot,
    pub pen: &'a Pen<'a>,
    pub gate: &'a Gate,
    pub signals: Option<&'a Signals>,
    pub excuse: E,
}

/// A lane: steps that are written down, and those that are not before the ones of each part before
/// are made.
pub(super) struct Lane {
    pub first: Vec<Placed>,
    pub later: Vec<Vec<(usize, Change)>>,
}

impl<E: Fn(&Change, &Failure) -> Option<String> + Sync> Work<'_, E> {
    /// Makes the steps of a lane, until one fails or the gate is shut for good.
    pub fn go(&self, lane: Lane, events: &Sender<Event>) {
        if !self.part(&lane.first, events) {
            return;
        }
        for part in lane.later {
            if !self.may_go_on() {
                return tell(events, Event::Stopped);
            }
            let (steps, written) = self.pen.write_down(part);
            if let Err(failure) = written {
                // They may be on the disk all the same.
                unmade(&steps, events);
                tell(events, Event::Failed(failure));
                return self.gate.stop();
            }
            if !self.part(&steps, events) {
                return;
            }
        }
    }

    /// At a step's boundary: nothing is begun any more once somebody wants it to end.
    fn may_go_on(&self) -> bool {
        self.gate.pass(|| self.signals.is_some_and(Signals::is_pending))
    }

    fn part(&self, steps: &[Placed], events: &Sender<Event>) -> bool {
        let mut left = steps;
        for run in together::runs(steps, |(_, (_, change))| change) {
            if !self.may_go_on() {
                unmade(left, events);
                tell(events, Event::Stopped);
                return false;
            }
            left = left.get(run.len()..).unwrap_or_default();
            if !self.make(run, events) {
                self.gate.stop();
                unmade(left, events);
                return false;
            }
        }
        true
    }

    /// Makes one run of steps; says whether all went well.
    fn make(&self, run: &[Placed], events: &Sender<Event>) -> bool {
        let work = |(_, (_, change)): &Placed| self.perform(change);
        let outcomes =
            together::each(run, work, Outcome::is_failure, |(_, (_, change)), outcome| {
                tell(
                    events,
                    match outcome {
                        None => Event::Begun(change.clone()),
                        Some(outcome) => Event::Ended(change.clone(), !outcome.is_failure()),
                    },
                );
            });
        let (mut well, mut as_before) = (true, Vec::new());
        for (step, outcome) in run.iter().zip(outcomes) {
            let Some(outcome) = outcome else {
                unmade(std::slice::from_ref(step), events);
                continue;
            };
            well &= !outcome.is_failure();
            if let Outcome::Nothing | Outcome::Left(_) = outcome {
                as_before.push(step.1.0);
            }
            tell(events, Event::Went(step.clone(), outcome));
        }
        // What was as wanted is not ours to take back.
        match self.pen.state.strike_steps(&as_before) {
            Ok(()) => well,
            Err(failure) => {
                tell(events, Event::Failed(failure));
                false
            }
        }
    }

    fn perform(&self, change: &Change) -> Outcome {
        match change.perform(self.root) {
            Ok(Undo::Nothing) => Outcome::Nothing,
            Ok(_) => Outcome::Made,
            Err(error) => {
                let begun = !error.reason.is_before_acting();
                let failure = Failure::from(error);
                match (self.excuse)(change, &failure) {
                    Some(note) => Outcome::Left(note),
                    None if begun => Outcome::Failed(failure),
                    None => Outcome::Refused(failure),
                }
            }
        }
    }
}

fn unmade(steps: &[Placed], events: &Sender<Event>) {
    steps.iter().for_each(|(_, (number, _))| tell(events, Event::Unmade(*number)));
}

/// Whoever listens does so until all lanes have ended.
fn tell(events: &Sender<Event>, event: Event) {
    events.send(event).ok();
}
