//! `assign diff`: how the host differs from policies, for people and for scripts (exit code 4).

use std::time::Duration;

use clap::Args;
use policies::Policy;
use serde::Serialize;
use sriov::Scope;

use super::files::{MaybeFiles, Source};
use super::output::style;
use super::{Context, Format, output};
use crate::apply::seen;
use crate::drift::{self, Drift};
use crate::failure::Failure;
use crate::inputs::Inputs;
use crate::plan::{Plan, Reasons};

/// Exit code when the host differs.
const DIFFERS: u8 = 4;
/// Exit code when what differs cannot be told.
const UNKNOWN: u8 = 1;
/// Between two looks: longer than a driver takes that resets a VF.
const LOOK_AGAIN: Duration = Duration::from_millis(250);

/// Arguments of `assign diff`.
#[derive(Debug, Args)]
pub struct Diff {
    #[command(flatten)]
    files: MaybeFiles,
}

/// What was compared, and what came of it.
#[derive(Debug, Serialize)]
struct Compared {
    policies: Vec<String>,
    #[serde(flatten)]
    drift: Drift,
    /// Why `assign apply` would not put it right.
    refusals: Vec<Failure>,
}

impl Diff {
    pub fn run(&self, context: &Context) -> Result<u8, Failure> {
        let applied = context.applied()?;
        let policies = match self.files.policies()? {
            Source::Files(policies) => policies,
            Source::Applied => applied.iter().map(|one| one.policy.clone()).collect(),
        };
        let inputs = context.inputs(&policies)?;
        let (drift, plan) = look(context, &policies, &inputs);
        if !context.is_saved() && !applied.is_empty() {
            let host = context.snapshot(Scope::Planning);
            seen::note(&context.root, &context.state, &host, &policies, &drift);
        }
        let names = policies.into_iter().map(|policy| policy.name).collect();
        let compared = Compared { policies: names, drift, refusals: plan.refusals.clone() };
        output::value(context.format, &compared)?;
        if context.format == Format::Table {
            show(&compared)?;
        }
        let Drift { differences, unknown } = &compared.drift;
        match plan.refusal() {
            _ if !differences.is_empty() => Ok(DIFFERS),
            // Nothing else can be said.
            Some(refusal) => Err(refusal.clone()),
            None if !unknown.is_empty() => Ok(UNKNOWN),
            None => Ok(0),
        }
    }
}

/// Compares the host with policies, and plans for them: what differs is looked at again. A saved host
/// stays as it is.
pub(super) fn look(context: &Context, policies: &[Policy], inputs: &Inputs) -> (Drift, Plan) {
    let look = || {
        let host = context.snapshot(Scope::Planning);
        let plan = inputs.plan(&host, policies, &[], Reasons::Few);
        (drift::compare(&host, policies, &inputs.applied, &plan), plan)
    };
    match context.root.is_live() {
        true => drift::confirmed(look, || std::thread::sleep(LOOK_AGAIN)),
        false => drift::confirmed(look, || {}),
    }
}

fn show(compared: &Compared) -> Result<(), Failure> {
    let Compared { policies, drift, refusals } = compared;
    for difference in &drift.differences {
        let drift::Difference { device, attribute, is, should, .. } = difference;
        let what = attribute.name();
        output::text_out(&format!("{device}: {what} is {is}, should be {should}"))?;
    }
    let warning = style::WARNING;
    for unknown in &drift.unknown {
        let drift::Unknown { device, attribute, cause, .. } = unknown;
        let what = attribute.name();
        output::text_out(&format!("{warning}{device}: {what} is unknown{warning:#}: {cause}"))?;
    }
    if !drift.differences.is_empty() {
        for refusal in refusals {
            output::text_out(&output::paragraph(&format!("apply would refuse: {refusal}")))?;
        }
    }
    match (drift.is_none(), policies.len(), refusals.is_empty()) {
        (true, 0, _) => output::text_out("no policy is applied, and -f names none"),
        (true, _, true) => output::text_out("no difference: the host is as the policies say"),
        _ => Ok(()),
    }
}
