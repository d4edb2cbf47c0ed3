//! What only a plan knows to differ, such as what a drive has to share out among its VFs: whatever its
//! steps come to that nothing else told.

use std::collections::BTreeSet;

use sriov::{Change, HostSnapshot, Target};

use super::{Attribute, Difference, Drift, attribute_of};
use crate::plan::Plan;

/// A driver that only the kernel knows.
const HOSTS: &str = "the host's driver";

/// Adds what the steps of `plan` change in the end, where that is not told yet.
pub(super) fn add(host: &HostSnapshot, plan: &Plan, drift: &mut Drift) {
    let number = |(device, attribute): (&String, Attribute)| {
        (attribute == Attribute::VfCount).then(|| device.clone())
    };
    let differs = drift.differences.iter().map(|one| (&one.device, one.attribute));
    let unknown = drift.unknown.iter().map(|one| (&one.device, one.attribute));
    let resized: BTreeSet<String> = differs.chain(unknown).filter_map(number).collect();
    for (at, step) in plan.steps.iter().enumerate() {
        let change = step.change.plain();
        let Some(attribute) = attribute_of(change) else { continue };
        let (pf, is_there) = match change.device() {
            Target::Vf(vf) => (vf.pf, host.vf_address(vf).is_some()),
            Target::Function(address) => (address, true),
        };
        // The steps on the way to another number of VFs are told by that number, and mean nothing
        // where it is not known.
        if resized.contains(&pf.to_string()) || !is_there {
            continue;
        }
        let device = change.device().to_string();
        let is_first = |(before, other): (usize, &crate::state::Step)| {
            before < at
                && other.change.device() == change.device()
                && attribute_of(&other.change) == Some(attribute)
        };
        let is_known = !drift.is_unknown(&device, attribute);
        if !is_known || drift.has(&device, attribute) || plan.steps.iter().enumerate().any(is_first)
        {
            continue;
        }
        let last = plan.steps.iter().rev().find(|other| {
            other.change.device() == change.device()
                && attribute_of(&other.change) == Some(attribute)
        });
        let (is, should) =
            (ends(change).0, ends(last.map_or(change, |last| last.change.plain())).1);
        if is != should {
            let (policy, pool) = (step.policy.clone(), None);
            drift.differences.push(Difference { policy, pool, device, attribute, is, should });
        }
    }
}

/// How it is before a step, and after it.
fn ends(change: &Change) -> (String, String) {
    let switch = |on: bool| if on { "on" } else { "off" }.to_owned();
    let link = |up: bool| if up { "up" } else { "down" }.to_owned();
    match change {
        Change::SetAutoprobe { from, to, .. } => (switch(*from), switch(*to)),
        Change::SetVfCount { from, to, .. } => (from.to_string(), to.to_string()),
        Change::SetLink { from, to, .. } => (link(*from), link(*to)),
        Change::SetAcceptRa { from, to, .. } => (from.to_string(), to.to_string()),
        Change::SetVfMac { from, to, .. } => (from.to_string(), to.to_string()),
        Change::SetNvmePrimary { from, to, .. } => (from.to_string(), to.to_string()),
        Change::SetNvmeSecondary { from, to, .. } => (from.to_string(), to.to_string()),
        Change::SetVf { setting, .. } => (setting.before(), setting.back().before()),
        Change::Bind { from, driver, .. } => (from.to_string(), driver.clone()),
        Change::Restore { from, to, .. } => (from.to_string(), to.to_string()),
        Change::Yield { from, .. } => (from.to_string(), HOSTS.to_owned()),
        Change::Retake { to, .. } => (HOSTS.to_owned(), to.to_string()),
        Change::RememberVf { .. } | Change::RemakeVf { .. } => (String::new(), String::new()),
        Change::Forced { step, .. } => ends(step),
    }
}
