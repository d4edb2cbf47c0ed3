//! A plan in a file: `assign plan --save FILE`, and `assign apply FILE`, which carries out exactly
//! that plan or nothing.
//!
//! The file holds the documents as they were written, and what came of planning for them. It is never
//! carried out itself: the documents are read and planned for again, by the host as it is then, and
//! only if the same comes of it is that done. So whoever writes into the file can make an apply refuse,
//! and can have no step made that the documents do not want.

use std::fmt;

use policies::{Documents, Source};
use serde::{Deserialize, Serialize};
use sriov::{Change, HostSnapshot};

use super::{GuestPlan, Plan};
use crate::failure::{Failure, OwnReason};
use crate::state::Step;

/// Version of the form. It grows when a field changes its meaning or goes.
pub const VERSION: u32 = 1;
/// The longest file that is read: a plan of some 100,000 steps.
pub const LONGEST: u64 = 64 << 20;
/// Documents in one file at most.
const MOST_SOURCES: usize = 1000;
/// Differences that a refusal names.
const NAMED: usize = 3;

/// What every version has.
#[derive(Deserialize)]
struct Head {
    assign_plan: u32,
}

/// A plan that was saved.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SavedPlan {
    /// [`VERSION`] of the program that wrote it.
    assign_plan: u32,
    /// The boot it was made on. Another one is another host: the addresses, groups and bindings that
    /// its steps are about do not survive it, even where they look the same again.
    boot_id: String,
    /// The documents, with the names of their files.
    documents: Vec<Document>,
    /// Its steps.
    steps: Vec<Step>,
    /// Who gets what after them.
    choices: Vec<Choice>,
}

/// One document, or several in one text.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Document {
    file: String,
    text: String,
}

/// What a claim gets: a device, or how it does without.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Choice {
    guest: String,
    claim: String,
    gets: String,
}

impl fmt::Display for Choice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} of {} gets {}", self.claim, self.guest, self.gets)
    }
}

impl SavedPlan {
    /// What is saved of a plan for `sources`.
    pub fn new(snapshot: &HostSnapshot, sources: &[Source], plan: &Plan) -> SavedPlan {
        let document =
            |source: &Source| Document { file: source.name.clone(), text: source.text.clone() };
        SavedPlan {
            assign_plan: VERSION,
            boot_id: snapshot.platform.boot_id.clone(),
            documents: sources.iter().map(document).collect(),
            steps: plan.steps.clone(),
            choices: choices(&plan.guests),
        }
    }

    /// The plan in the text of a file, with its documents read as any others.
    ///
    /// # Errors
    /// It is no saved plan, of a newer version, or its documents are not right; `file` is named.
    pub fn read(file: &str, text: &[u8]) -> Result<(SavedPlan, Documents), Failure> {
        let wrong = |message: String| {
            Failure::bad_input(OwnReason::InvalidPlan, file, message)
                .with_remedy("Save one with `assign plan -f FILE --save PLAN`.")
        };
        if text.len() as u64 > LONGEST {
            return Err(wrong(format!("is longer than {} MiB: no saved plan", LONGEST >> 20)));
        }
        // Its version first: a newer one may have anything else in another form.
        let head: Head = serde_json::from_slice(text)
            .map_err(|error| wrong(format!("is not a saved plan: {error}")))?;
        if head.assign_plan > VERSION {
            let (theirs, ours) = (head.assign_plan, VERSION);
            let message = format!(
                "was saved by a newer version of assign (form {theirs}, this one knows {ours})"
            );
            return Err(Failure::bad_input(OwnReason::InvalidPlan, file, message)
                .with_remedy("Apply it with that version, or plan again."));
        }
        let saved: SavedPlan = serde_json::from_slice(text)
            .map_err(|error| wrong(format!("is not a saved plan: {error}")))?;
        if saved.documents.len() > MOST_SOURCES {
            let count = saved.documents.len();
            return Err(wrong(format!("holds {count} documents; {MOST_SOURCES} is the most")));
        }
        let source =
            |saved: &Document| Source { name: saved.file.clone(), text: saved.text.clone() };
        let sources: Vec<Source> = saved.documents.iter().map(source).collect();
        let documents = policies::parse(&sources)?;
        if documents.policies.is_empty() {
            return Err(wrong("holds no policy, so there is nothing to apply".to_owned()));
        }
        Ok((saved, documents))
    }

    /// Whether the same came of planning again, on the same boot.
    ///
    /// # Errors
    /// A refusal that names the first differences: the host has moved on.
    pub fn check(&self, file: &str, boot_id: &str, now: &Plan) -> Result<(), Failure> {
        if self.boot_id != boot_id {
            let message = "is out of date: it was made before this host was booted, and what it is \
                           about does not survive that";
            return Err(moved_on(file, message.to_owned()));
        }
        if let Some(refusal) = now.refusal() {
            let message = format!("is out of date: what it plans is refused now: {refusal}");
            return Err(moved_on(file, message.trim_end_matches('.').to_owned()));
        }
        let differences = self.differences(now);
        if differences.is_empty() {
            return Ok(());
        }
        let named: Vec<&str> = differences.iter().take(NAMED).map(String::as_str).collect();
        let more = match differences.len().saturating_sub(NAMED) {
            0 => String::new(),
            more => format!("; and {more} more differences"),
        };
        let message =
            format!("is out of date, since the host has moved on: {}{more}", named.join("; "));
        Err(moved_on(file, message))
    }

    fn differences(&self, now: &Plan) -> Vec<String> {
        let planned: Vec<&Change> = self.steps.iter().map(|step| &step.change).collect();
        let wanted: Vec<&Change> = now.steps.iter().map(|step| &step.change).collect();
        let told = |change: &&Change| shown(&change.to_string());
        let mut differences = between(&planned, &wanted, told, "would be made", "is needed now");
        if differences.is_empty() && self.steps != now.steps {
            differences.push("its steps are made for other policies now".to_owned());
        }
        let is = choices(&now.guests);
        let (was, is): (Vec<&Choice>, Vec<&Choice>) =
            (self.choices.iter().collect(), is.iter().collect());
        let told = |choice: &&Choice| shown(&choice.to_string());
        differences.extend(between(&was, &is, told, "was planned", "would be so now"));
        differences
    }
}

/// What is in one list and not in the other, told in the order of the lists; where they hold the same
/// in another order, the first place where they part.
fn between<T: PartialEq>(
    was: &[T],
    is: &[T],
    told: impl Fn(&T) -> String,
    gone: &str,
    came: &str,
) -> Vec<String> {
    let same = was.iter().zip(is).take_while(|(was, is)| was == is).count();
    let tail = was.iter().rev().zip(is.iter().rev()).take_while(|(was, is)| was == is).count();
    let rest = |list: &[T]| same..list.len().saturating_sub(tail).max(same);
    let gone = was
        .get(rest(was))
        .unwrap_or_default()
        .iter()
        .map(|one| format!("\"{}\" {gone}", told(one)));
    let came =
        is.get(rest(is)).unwrap_or_default().iter().map(|one| format!("\"{}\" {came}", told(one)));
    let (mut gone, mut came) = (gone, came);
    let mut differences = Vec::new();
    loop {
        match (gone.next(), came.next()) {
            (None, None) => return differences,
            (one, other) => differences.extend(one.into_iter().chain(other)),
        }
    }
}

/// A text of the file is shown, but not as long as somebody made it, and not with what a terminal
/// would take for an order.
fn shown(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { '?' } else { c }).take(200).collect()
}

fn moved_on(file: &str, message: String) -> Failure {
    Failure::refused(OwnReason::OutOfDate, file, message)
        .with_remedy("Plan again, and look at what would be done now.")
}

fn choices(guests: &[GuestPlan]) -> Vec<Choice> {
    let of_guest = |guest: &GuestPlan| -> Vec<Choice> {
        let claim = |claim: &super::ClaimPlan| Choice {
            guest: guest.guest.clone(),
            claim: claim.claim.clone(),
            gets: match &claim.given {
                Some(given) => given.device(),
                None => "no device".to_owned(),
            },
        };
        guest.claims.iter().map(claim).collect()
    };
    guests.iter().flat_map(of_guest).collect()
}
