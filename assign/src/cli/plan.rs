//! `assign plan`: what applying would change, and why nothing would be.

use clap::Args;

use super::{Context, Files, Format, output};
use crate::failure::Failure;
use crate::plan::Plan as Planned;

/// Arguments of `assign plan`.
#[derive(Debug, Args)]
pub struct Plan {
    #[command(flatten)]
    files: Files,
}

impl Plan {
    pub fn run(&self, context: &Context) -> Result<u8, Failure> {
        let plan = context.plan(&self.files.policies()?)?;
        output::value(context.format, &plan)?;
        if context.format == Format::Table {
            show(&plan)?;
        }
        match plan.refusal() {
            Some(refusal) => Err(refusal.clone()),
            None => Ok(0),
        }
    }
}

/// The plan for people; the gravest refusal is told as the command's error.
fn show(plan: &Planned) -> Result<(), Failure> {
    for pool in &plan.pools {
        let devices: Vec<String> = pool.accepted.iter().map(ToString::to_string).collect();
        if !devices.is_empty() {
            output::text_out(&format!("pool {}: from {}", pool.pool, devices.join(", ")))?;
        }
    }
    for step in &plan.steps {
        let mark = if step.change.is_disruptive() { "! " } else { "  " };
        output::text_out(&format!("{mark}{}", step.change))?;
    }
    for note in &plan.notes {
        output::text_out(&format!("note: {note}"))?;
    }
    let gravest = plan.refusal().map(ToString::to_string);
    for refusal in plan.refusals.iter().map(ToString::to_string) {
        if Some(&refusal) != gravest.as_ref() {
            output::text_out(&format!("refused: {refusal}"))?;
        }
    }
    match (plan.steps.len(), plan.refusals.is_empty()) {
        (_, false) => Ok(()),
        (0, true) => output::text_out("nothing to do: the host is as the policies say"),
        (1, true) => output::text_out("1 step; `assign apply` makes it"),
        (count, true) => output::text_out(&format!("{count} steps; `assign apply` makes them")),
    }
}
