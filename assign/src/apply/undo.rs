//! Taking steps back, and how that went, one by one.

use serde::Serialize;
use sriov::{Change, HostRoot, PciAddress, Reason as HostReason, Target, Undo};

use super::{Numbered, Progress, settle, together};
use crate::failure::{Failure, OwnReason, Reason};

/// How taking one step back went.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Went {
    /// It was taken back.
    TakenBack,
    /// It had not been made, or was taken back before.
    NothingToDo,
    /// There is nothing to insist on, for the reason that is told.
    Left,
    /// It could not be taken back, for the reason that is told.
    Failed,
}

/// How taking several steps back went, in the order in which it was tried.
#[derive(Debug, Clone, Default, Serialize)]
#[serde(transparent)]
pub struct Undoing(pub Vec<TakenBack>);

/// One step that was to be taken back.
#[derive(Debug, Clone, Serialize)]
pub struct TakenBack {
    /// The step, as it had been made.
    pub step: Change,
    /// How it went.
    pub went: Went,
    /// Why it was left or failed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub because: Option<String>,
    /// Its number in the journal.
    #[serde(skip)]
    pub(super) number: u32,
}

/// Takes one step back.
fn take_back(root: &HostRoot, (number, change): &Numbered) -> TakenBack {
    let told = |went, because| TakenBack { step: change.clone(), went, because, number: *number };
    match change.undo() {
        Undo::Nothing => told(Went::NothingToDo, None),
        Undo::Impossible(why) => told(Went::Failed, Some(why)),
        Undo::Change(back) => match back.perform(root).map_err(Failure::from) {
            Ok(Undo::Nothing) => told(Went::NothingToDo, None),
            Ok(_) => told(Went::TakenBack, None),
            Err(failure) => match left_as_it_is(&back, &failure) {
                Some(left) => told(Went::Left, Some(left)),
                None => told(Went::Failed, Some(failure.message)),
            },
        },
    }
}

/// Takes steps back in the order given, some at once; one that cannot be taken back keeps none of the
/// others from it. On a terminal each has a line.
pub(super) fn take_back_all(root: &HostRoot, steps: &[Numbered]) -> Vec<TakenBack> {
    let mut all = Vec::new();
    for run in together::runs(steps, |(_, change)| change) {
        let mut progress = None;
        let watch = |(_, change): &Numbered, result: Option<&TakenBack>| match result {
            None => {
                progress = match change.undo() {
                    Undo::Change(back) => Some(Progress::of_change(root, &back, None)),
                    Undo::Nothing | Undo::Impossible(_) => None,
                }
            }
            Some(result) => {
                if let Some(progress) = progress.take() {
                    progress.end_as(match result.went {
                        Went::TakenBack => "done",
                        Went::NothingToDo => "nothing to do",
                        Went::Left => "left as it is",
                        Went::Failed => "failed",
                    });
                }
            }
        };
        let results = together::each(run, |step| take_back(root, step), |_| false, watch);
        all.extend(results.into_iter().flatten());
    }
    all
}

/// Steps taken back that the host does not show: each has to be as it was, the last one about each
/// thing, unless it was left or failed, which was told. VFs that were made anew meanwhile have what
/// they had before, and not what single steps found.
pub(super) fn not_observed(root: &HostRoot, taken: &[TakenBack]) -> Option<Failure> {
    let mut seen = Vec::new();
    let counted: Vec<PciAddress> = taken
        .iter()
        .filter_map(|one| match one.step.plain() {
            Change::SetVfCount { pf, .. } => Some(*pf),
            _ => None,
        })
        .collect();
    for one in taken.iter().rev() {
        let about = settle::about(&one.step);
        if seen.contains(&about) {
            continue;
        }
        seen.push(about);
        let Undo::Change(back) = one.step.undo() else { continue };
        let made_anew = match back.device() {
            Target::Vf(vf) => counted.contains(&vf.pf) && about.0 != settle::SECONDARY,
            Target::Function(_) => false,
        };
        let looked_for = matches!(one.went, Went::TakenBack | Went::NothingToDo) && !made_anew;
        if looked_for && sriov::act::locate(root, back.device()).is_ok() {
            match back.is_made(root) {
                Ok(true) => {}
                Ok(false) => {
                    let message = format!("was to be as before (\"{back}\"), and is not");
                    return Some(Failure::failed(OwnReason::NotAsPlanned, back.device(), message));
                }
                Err(error) => return Some(error.into()),
            }
        }
    }
    None
}

/// Why a step back that failed is none to insist on: what is gone needs nothing, what somebody else
/// changed since is theirs, and an interface that the host has begun to use stays up.
pub(super) fn left_as_it_is(back: &Change, failure: &Failure) -> Option<String> {
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
