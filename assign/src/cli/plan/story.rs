//! A plan as people read it: the pools, the steps in order, what is disruptive, the guests, and how it
//! ends.

use std::fmt::Write;
use std::path::Path;

use anstyle::Style;
use sriov::{Change, HostSnapshot, PciAddress, Target, VfRef};

use super::why;
use crate::choose::{Connection, Given, Rejected, SHOWN, Sum, Unmet};
use crate::cli::output::{style, text};
use crate::plan::{Candidates, ClaimPlan, GuestPlan, Plan};
use crate::state::Step;

/// Steps of the same kind on neighbouring VFs that are told one by one.
const ONE_BY_ONE: usize = 8;
/// Devices that a line names.
const NAMED: usize = 6;
/// Reasons told unasked.
const FEW: usize = 3;

/// One line of the story, before it is broken to fit.
#[derive(Debug, Clone)]
pub(super) struct Line {
    /// Blanks, or the mark of what is disruptive: that is seen without colours as well.
    begin: String,
    style: Style,
    text: String,
}

fn line(indent: usize, text: impl Into<String>) -> Line {
    styled(indent, style::PLAIN, text)
}

fn styled(indent: usize, style: Style, text: impl Into<String>) -> Line {
    Line { begin: " ".repeat(indent), style, text: text.into() }
}

/// The whole story.
pub(super) fn story(
    plan: &Plan,
    host: &HostSnapshot,
    verbose: bool,
    kept: Option<&Path>,
) -> Vec<Line> {
    let mut story: Vec<Line> =
        plan.pools.iter().filter_map(|candidates| pool(candidates, host)).collect();
    story.extend(steps(&plan.steps, host, verbose));
    for guest in &plan.guests {
        story.extend(told_guest(guest, verbose));
    }
    for note in &plan.notes {
        story.push(styled(0, style::WARNING, format!("note: {note}")));
    }
    let gravest = plan.refusal().map(ToString::to_string);
    for refusal in plan.refusals.iter().map(ToString::to_string) {
        if Some(&refusal) != gravest.as_ref() {
            story.push(styled(0, style::BAD, format!("refused: {refusal}")));
        }
    }
    story.extend(end(plan, kept));
    story
}

/// The lines, each broken to fit into `width` columns.
pub(super) fn lines(story: &[Line], width: usize) -> String {
    let mut out = String::new();
    for Line { begin, style, text } in story {
        // What follows the first line of a text stands further in, so that each text is seen to begin.
        let indent = begin.len();
        let room = width.saturating_sub(indent + 2).max(20);
        let broken = text::paragraph(&text::printable(text), room);
        for (number, part) in broken.lines().enumerate() {
            // A String takes whatever is written.
            match number {
                0 => writeln!(out, "{style}{begin}{part}{style:#}").ok(),
                _ => writeln!(out, "{:indent$}  {style}{part}{style:#}", "").ok(),
            };
        }
    }
    out.truncate(out.trim_end().len());
    out
}

/// "pool lan: from 0000:01:00.0 (eth0)".
fn pool(candidates: &Candidates, host: &HostSnapshot) -> Option<Line> {
    let named = |address: &PciAddress| {
        let function = host.function(*address);
        let port = function.and_then(|function| host.port_of(function));
        port.map_or_else(|| address.to_string(), |port| format!("{address} ({})", port.name))
    };
    let list: Vec<String> = candidates.accepted.iter().take(NAMED).map(named).collect();
    let more = match candidates.accepted.len().saturating_sub(NAMED) {
        0 => String::new(),
        more => format!(" and {more} more"),
    };
    let text = format!("pool {}: from {}{more}", candidates.pool, list.join(", "));
    (!list.is_empty()).then(|| styled(0, style::STRONG, text))
}

fn steps(steps: &[Step], host: &HostSnapshot, verbose: bool) -> Vec<Line> {
    let (mut story, mut told) = (Vec::new(), None);
    let mut left = steps;
    while let Some((first, rest)) = left.split_first() {
        let alike = 1 + rest.iter().zip(left).take_while(|(next, one)| follows(one, next)).count();
        let count = if verbose || alike <= ONE_BY_ONE { 1 } else { alike };
        let (run, after) = left.split_at(count);
        left = after;
        let disruptive = first.change.is_disruptive();
        let text = match run {
            [_, .., last] => several(first, last, count),
            _ => first.change.to_string(),
        };
        story.push(match disruptive {
            true => Line { begin: "! ".to_owned(), style: style::WARNING, text },
            false => line(2, text),
        });
        let is_news = disruptive || first.returns;
        let why = why::why(first, host).filter(|_| verbose || is_news);
        // Once for all that are made for the same reason.
        if let Some(why) = why.as_ref().filter(|why| told.as_ref() != Some(*why)) {
            story.push(styled(6, style::FAINT, format!("since {why}")));
        }
        told = why;
    }
    story
}

/// Whether two steps are the same on a VF and on the next one of its card.
fn follows(one: &Step, next: &Step) -> bool {
    let (Target::Vf(vf), Target::Vf(after)) = (one.change.device(), next.change.device()) else {
        return false;
    };
    let beside = vf.pf == after.pf && vf.index.checked_add(1) == Some(after.index);
    let alike = one.policy == next.policy && one.returns == next.returns;
    beside && alike && is_alike(&one.change, &next.change)
}

fn is_alike(one: &Change, other: &Change) -> bool {
    match (one, other) {
        (Change::SetVfMac { .. }, Change::SetVfMac { .. }) => true,
        (Change::RememberVf { .. }, Change::RememberVf { .. }) => true,
        (Change::Bind { .. }, Change::Bind { .. })
        | (Change::SetVf { .. }, Change::SetVf { .. })
        | (Change::SetNvmeSecondary { .. }, Change::SetNvmeSecondary { .. })
        | (Change::Restore { .. }, Change::Restore { .. }) => {
            one.action().to_string() == other.action().to_string()
        }
        _ => false,
    }
}

/// "0000:01:00.0 VFs 0 to 61: bind to vfio-pci".
fn several(first: &Step, last: &Step, count: usize) -> String {
    let (Target::Vf(VfRef { pf, index: from }), Target::Vf(VfRef { index: to, .. })) =
        (first.change.device(), last.change.device())
    else {
        return first.change.to_string();
    };
    let what = match (&first.change, &last.change) {
        (Change::SetVfMac { to: one, .. }, Change::SetVfMac { to: other, .. }) => {
            format!("set their addresses, from {one} to {other}")
        }
        (Change::RememberVf { .. }, _) => "remember what they have".to_owned(),
        (change, _) => change.action().to_string(),
    };
    format!("{pf} VFs {from} to {to}: {what} ({count} steps)")
}

fn told_guest(guest: &GuestPlan, verbose: bool) -> Vec<Line> {
    let head = match guest.starts {
        true => styled(0, style::STRONG, format!("guest {}: would start", guest.guest)),
        false => styled(0, style::WARNING, format!("guest {}: would not start", guest.guest)),
    };
    let mut story = vec![head];
    for claim in &guest.claims {
        let could = if guest.starts || claim.given.is_none() { "" } else { "could have " };
        let what = format!("{could}{}", claim_text(claim));
        let style = if claim.fatal { style::WARNING } else { style::PLAIN };
        story.push(styled(2, style, format!("{}: {what}", claim.claim)));
        story.extend(others(claim, verbose).into_iter().map(|text| styled(6, style::FAINT, text)));
    }
    for network in &guest.choice.networks {
        if let Connection::Virtio { end, because: None, network } = network {
            story.push(line(2, format!("{network}: virtio on {end}")));
        }
    }
    story
}

/// Why a claim has none of the other devices: each by itself where they are few or somebody asks, else by
/// kinds of reasons. Where it has none at all, the first few are told with that.
fn others(claim: &ClaimPlan, verbose: bool) -> Vec<String> {
    let (list, left_out, told) = match &claim.unmet {
        Some(Unmet::NoneFree { devices, left_out, .. }) => (devices, *left_out, SHOWN),
        _ => (&claim.others, claim.left_out, 0),
    };
    let count = list.len() + left_out;
    if count <= told {
        return Vec::new();
    }
    if verbose || (told == 0 && count <= FEW) {
        let mut lines: Vec<String> = list.iter().map(Rejected::to_string).collect();
        if left_out > 0 {
            lines.push(format!("and {left_out} more; -o json tells of each"));
        }
        return lines;
    }
    let sums: Vec<String> = claim.sums.iter().map(Sum::to_string).collect();
    let others = if told == 0 { "others" } else { "devices" };
    vec![match sums.is_empty() {
        true => format!("{count} {others}; -v names them"),
        false => format!("{count} {others}: {}; -v names them", sums.join("; ")),
    }]
}

fn claim_text(claim: &ClaimPlan) -> String {
    if let Some(given) = &claim.given {
        return given_text(given);
    }
    let because = claim.unmet.as_ref().map(ToString::to_string).unwrap_or_default();
    match (&claim.fallback, claim.fatal) {
        (Some(end), _) => format!("virtio on {end}, because {because}"),
        (None, true) => format!("no device, and it does not start without: {because}"),
        (None, false) => format!("left out, because {because}"),
    }
}

/// "VF 0 of eth0 (to be made, node 1) of pool lan: the first free one".
fn given_text(given: &Given) -> String {
    let mut parts = Vec::new();
    if given.vf.is_some() {
        parts.push(match given.address {
            Some(address) => address.to_string(),
            None => "to be made".to_owned(),
        });
    }
    parts.extend(given.group.map(|group| format!("group {group}")));
    parts.extend(given.node.map(|node| format!("node {node}")));
    parts.extend(given.mac.map(|mac| format!("mac {mac}")));
    let parts = match parts.is_empty() {
        true => String::new(),
        false => format!(" ({})", parts.join(", ")),
    };
    let by_force = given.by_force.as_ref().map(|by_force| format!(", {by_force}"));
    let by_force = by_force.unwrap_or_default();
    format!("{}{parts} of pool {}: {}{by_force}", given.device(), given.pool, given.because)
}

fn end(plan: &Plan, kept: Option<&Path>) -> Vec<Line> {
    if !plan.refusals.is_empty() {
        return Vec::new();
    }
    let lost: Vec<&str> = plan.would_not_start().map(|guest| guest.guest.as_str()).collect();
    let lost = match lost.len() {
        0 => None,
        1 => Some(format!("1 guest would not start: {}", lost.join(", "))),
        count if count <= NAMED => {
            Some(format!("{count} guests would not start: {}", lost.join(", ")))
        }
        count => {
            let named = lost.get(..NAMED).unwrap_or_default().join(", ");
            Some(format!("{count} guests would not start: {named} and {} more", count - NAMED))
        }
    };
    let lost = lost.map(|text| styled(0, style::BAD, text));
    if plan.pools.is_empty() && plan.steps.is_empty() {
        // Guests alone were planned for, with what was applied before.
        let starts = plan.guests.len() - plan.would_not_start().count();
        let text = format!("{starts} of {} guests would start", plan.guests.len());
        return lost.into_iter().chain([line(0, text)]).collect();
    }
    let command = match kept {
        Some(file) => format!("`assign apply {}`", file.display()),
        None => "`assign apply`".to_owned(),
    };
    let disruptive = plan.steps.iter().filter(|step| step.change.is_disruptive()).count();
    let mut end: Vec<Line> = lost.into_iter().collect();
    end.push(match plan.steps.len() {
        0 => line(0, "nothing to do: the host is as the policies say"),
        1 => line(0, format!("1 step; {command} makes it")),
        count => line(0, format!("{count} steps; {command} makes them")),
    });
    if disruptive > 0 {
        let steps = if disruptive == 1 { "1 step is" } else { &format!("{disruptive} steps are") };
        let text = format!("{steps} disruptive (!): somebody may notice, so apply asks before");
        end.push(styled(0, style::WARNING, text));
    }
    end
}

#[cfg(test)]
#[path = "story_tests.rs"]
mod tests;
