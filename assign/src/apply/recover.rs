//! Taking steps back: after one that failed, and after a command that was killed.

use sriov::facts::platform;
use sriov::{Change, HostRoot, Reason as HostReason, Undo};

use super::{Numbered, Progress, together};
use crate::failure::{Failure, OwnReason, Reason};
use crate::state::State;

/// What is told about a step that there was no need to take back.
type Left = Option<String>;

/// Takes one step back; says so where there is nothing to take back any more.
fn take_back(root: &HostRoot, change: &Change) -> Result<Left, Failure> {
    match change.undo() {
        Undo::Nothing => Ok(None),
        Undo::Change(back) => match back.perform(root).map_err(Failure::from) {
            Ok(_) => Ok(None),
            Err(failure) => match left_as_it_is(&back, &failure) {
                Some(left) => Ok(Some(left)),
                None => Err(failure),
            },
        },
        Undo::Impossible(why) => {
            Err(Failure::failed(OwnReason::NotAsPlanned, change.device(), why))
        }
    }
}

/// Takes steps back in the order given, some at once; how each went.
pub(super) fn take_back_all(
    root: &HostRoot,
    steps: &[Numbered],
) -> Vec<(Numbered, Result<Left, Failure>)> {
    let mut all = Vec::new();
    for run in together::runs(steps, |(_, change)| change) {
        let mut progress = None;
        let watch = |(_, change): &Numbered, result: Option<&Result<Left, Failure>>| match result {
            None => {
                progress = match change.undo() {
                    Undo::Change(back) => Some(Progress::of_change(root, &back, None)),
                    Undo::Nothing | Undo::Impossible(_) => None,
                }
            }
            Some(result) => {
                if let Some(progress) = progress.take() {
                    progress.end(result.is_ok());
                }
            }
        };
        let results = together::each(run, |(_, change)| take_back(root, change), |_| false, watch);
        all.extend(run.iter().cloned().zip(results.into_iter().flatten()));
    }
    all
}

/// Why a step back that failed is none to insist on: what is gone needs nothing, what somebody else
/// changed since is theirs, and an interface that the host has begun to use stays up.
pub(super) fn left_as_it_is(back: &Change, failure: &Failure) -> Left {
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
pub(super) fn recover(root: &HostRoot, state: &State) -> Result<(), Failure> {
    let entries = state.journal()?;
    let Some(first) = entries.first() else { return Ok(()) };
    if first.boot_id != platform::boot_id(root) {
        // The host was booted since: there is nothing left of it.
        return state.change(|state| state.close_journal());
    }
    let operation = first.operation.clone();
    let steps: Vec<Numbered> =
        entries.into_iter().rev().map(|entry| (entry.number, entry.change)).collect();
    let (mut struck, mut first_failure) = (Vec::new(), None);
    for ((number, change), result) in take_back_all(root, &steps) {
        match result {
            Ok(left) => {
                struck.push(number);
                // A VF that is gone, or was never made, is nothing to be told about.
                let gone = locate_fails(root, &change);
                if let Some(left) = left.filter(|_| !gone) {
                    anstream::eprintln!("assign: {left}");
                }
            }
            Err(failure) => {
                first_failure.get_or_insert(failure);
            }
        }
    }
    state.strike_steps(&struck)?;
    if let Some(mut failure) = first_failure {
        failure.message = format!(
            "an interrupted `assign {operation}` cannot be taken back: {}",
            failure.message
        );
        return Err(failure);
    }
    let steps = match struck.len() {
        1 => "its one step was".to_owned(),
        count => format!("its {count} steps were"),
    };
    anstream::eprintln!(
        "assign: an earlier `assign {operation}` was interrupted; {steps} taken back"
    );
    Ok(())
}

fn locate_fails(root: &HostRoot, change: &Change) -> bool {
    matches!(change.device(), sriov::Target::Vf(_))
        && sriov::act::locate(root, change.device()).is_err()
}
