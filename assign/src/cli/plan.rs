//! `assign plan`: what applying would change and why, in order, and which device each guest would get
//! then; or why nothing would be done.

use std::fs::OpenOptions;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use clap::Args;
use serde::Serialize;
use sriov::{HostSnapshot, Scope};

use super::{Context, Files, Format, output};
use crate::failure::{Failure, OwnReason};
use crate::plan::saved::SavedPlan;
use crate::plan::{Candidates, GuestPlan, Plan as Planned, Reasons};
use crate::state::Step;

mod story;
mod why;

/// Arguments of `assign plan`.
#[derive(Debug, Args)]
pub struct Plan {
    #[command(flatten)]
    files: Files,
    /// Keep the plan in this file, for `assign apply FILE` to carry out exactly this or nothing.
    #[arg(long, value_name = "FILE")]
    save: Option<PathBuf>,
    /// Tell every step and why it is made, and why each guest gets none of the other devices.
    #[arg(short, long)]
    verbose: bool,
}

/// The plan for a program.
#[derive(Debug, Serialize)]
struct Told<'a> {
    steps: Vec<ToldStep<'a>>,
    is_disruptive: bool,
    notes: &'a [String],
    refusals: Vec<&'a Failure>,
    pools: &'a [Candidates],
    guests: &'a [GuestPlan],
    /// The names of those that would not start.
    would_not_start: Vec<&'a str>,
}

/// A step with its words.
#[derive(Debug, Serialize)]
struct ToldStep<'a> {
    #[serde(flatten)]
    step: &'a Step,
    text: String,
    why: Option<String>,
    is_disruptive: bool,
}

impl Plan {
    pub fn run(&self, context: &Context) -> Result<u8, Failure> {
        // What is kept is what was planned for, also where a file changes meanwhile.
        let sources = self.files.sources()?;
        let documents = policies::parse(&sources)?;
        // Guests alone are planned for with the pools of what was applied.
        let alone = documents.policies.is_empty() && !documents.guests.is_empty();
        let policies = match alone && self.save.is_none() && !context.applied()?.is_empty() {
            true => Vec::new(),
            false => self.files.some(documents.policies)?,
        };
        let reasons = match context.format {
            Format::Table if !self.verbose => Reasons::Sums,
            Format::Table | Format::Json | Format::Yaml => Reasons::All,
        };
        let host = context.snapshot(Scope::Planning);
        let plan = context.inputs(&policies)?.plan(&host, &policies, &documents.guests, reasons);
        let unknown = plan.unknown_pool();
        let refusal = plan.refusal().or(unknown.as_ref());
        let kept = match (&self.save, refusal) {
            (Some(file), None) => {
                save(file, &SavedPlan::new(&host, &sources, &plan))?;
                Some(file)
            }
            _ => None,
        };
        match context.format {
            Format::Table => self.tell(&plan, &host, kept)?,
            format => output::value(format, &told(&plan, &host, unknown.as_ref()))?,
        }
        match refusal {
            Some(refusal) => Err(refusal.clone()),
            None => Ok(0),
        }
    }

    /// The plan for people; the gravest refusal is told as the command's error.
    fn tell(
        &self,
        plan: &Planned,
        host: &HostSnapshot,
        kept: Option<&PathBuf>,
    ) -> Result<(), Failure> {
        let width = output::width(std::io::stdout()).map_or(usize::MAX, usize::from);
        let story = story::story(plan, host, self.verbose, kept.map(PathBuf::as_path));
        output::text_out(&story::lines(&story, width))
    }
}

fn told<'a>(plan: &'a Planned, host: &HostSnapshot, unknown: Option<&'a Failure>) -> Told<'a> {
    let step = |step: &'a Step| ToldStep {
        step,
        text: step.change.to_string(),
        why: why::why(step, host),
        is_disruptive: step.change.is_disruptive(),
    };
    Told {
        steps: plan.steps.iter().map(step).collect(),
        is_disruptive: plan.is_disruptive(),
        notes: &plan.notes,
        refusals: plan.refusals.iter().chain(unknown).collect(),
        pools: &plan.pools,
        guests: &plan.guests,
        would_not_start: plan.would_not_start().map(|guest| guest.guest.as_str()).collect(),
    }
}

/// Writes a plan to a file that only its owner can read: it tells much of a host.
fn save(file: &Path, plan: &SavedPlan) -> Result<(), Failure> {
    let wrong = |cause: &dyn std::fmt::Display| {
        let message = format!("cannot keep the plan: {cause}");
        Failure::bad_input(OwnReason::File, file.display(), message)
            .with_remedy("Name a file that can be written after --save.")
    };
    let text = serde_json::to_vec_pretty(plan).map_err(|error| wrong(&error))?;
    let mut options = OpenOptions::new();
    options.write(true).create(true).truncate(true).mode(0o600);
    let mut opened = options.open(file).map_err(|error| wrong(&error))?;
    opened.write_all(&text).and_then(|()| opened.flush()).map_err(|error| wrong(&error))
}
