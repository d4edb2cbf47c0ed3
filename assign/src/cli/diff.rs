//! `assign diff`: how the host differs from policies, for people and for scripts (exit code 4).

use clap::Args;
use serde::Serialize;
use sriov::{Change, MacAddress};

use super::{Context, Files, Format, output};
use crate::failure::Failure;

/// Exit code when the host differs.
const DIFFERS: u8 = 4;

/// Arguments of `assign diff`.
#[derive(Debug, Args)]
pub struct Diff {
    #[command(flatten)]
    files: Files,
}

#[derive(Serialize)]
struct Differences {
    differences: Vec<Difference>,
}

/// One thing that is not as it should be.
#[derive(Serialize)]
struct Difference {
    device: String,
    what: &'static str,
    is: String,
    should: String,
}

impl Diff {
    pub fn run(&self, context: &Context) -> Result<u8, Failure> {
        let plan = context.plan(&self.files.policies()?)?;
        if let Some(refusal) = plan.refusal() {
            return Err(refusal.clone());
        }
        let changes: Vec<&Change> = plan.steps.iter().map(|step| &step.change).collect();
        let differences: Vec<Difference> =
            changes.iter().filter_map(|change| difference(change, &changes)).collect();
        let code = if differences.is_empty() { 0 } else { DIFFERS };
        let all = Differences { differences };
        output::value(context.format, &all)?;
        if context.format == Format::Table {
            for Difference { device, what, is, should } in &all.differences {
                output::text_out(&format!("{device}: {what} is {is}, should be {should}"))?;
            }
            if code == 0 {
                output::text_out("no difference: the host is as the policies say")?;
            }
        }
        Ok(code)
    }
}

/// What a step shows to be different; nothing for steps that only prepare others.
fn difference(change: &Change, all: &[&Change]) -> Option<Difference> {
    let (what, is, should) = match change {
        Change::SetAutoprobe { .. }
        | Change::SetAcceptRa { .. }
        | Change::RememberVf { .. }
        | Change::RemakeVf { .. } => return None,
        Change::SetVfCount { pf, from, to } => {
            // By way of none: the way there is no difference, the end of it is.
            let passes = |other: &&&Change| matches!(other, Change::SetVfCount { pf: same, from: 0, .. } if same == pf);
            let end = all.iter().find(passes);
            match (from, to, end) {
                (0, to, _) => {
                    let start = all.iter().find_map(|other| match other {
                        Change::SetVfCount { pf: same, from, to: 0 } if same == pf => Some(*from),
                        _ => None,
                    });
                    ("number of VFs", start.unwrap_or(0).to_string(), to.to_string())
                }
                (_, 0, Some(_)) => return None,
                (from, to, _) => ("number of VFs", from.to_string(), to.to_string()),
            }
        }
        Change::SetLink { from, to, .. } => ("link", updown(*from), updown(*to)),
        Change::SetVfMac { from, to, .. } => ("address", address(*from), address(*to)),
        Change::SetVf { setting, .. } => {
            (setting.name(), setting.before(), setting.back().before())
        }
        Change::Bind { from, driver, .. } => ("driver", from.to_string(), driver.clone()),
        Change::SetNvmePrimary { from, to, .. } => ("its share", from.to_string(), to.to_string()),
        Change::SetNvmeSecondary { from, to, .. } => {
            ("controller", from.to_string(), to.to_string())
        }
        Change::Restore { from, to, .. } => ("driver", from.to_string(), to.to_string()),
        Change::Forced { step, .. } => return difference(step, all),
    };
    Some(Difference { device: change.device().to_string(), what, is, should })
}

fn address(mac: MacAddress) -> String {
    if mac.is_zero() { "none".to_owned() } else { mac.to_string() }
}

fn updown(up: bool) -> String {
    if up { "up".to_owned() } else { "down".to_owned() }
}
