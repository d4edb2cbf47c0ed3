//! `nodes` of a guest's memory: its NUMA nodes, and which node of the host each one is on.

use serde::{Deserialize, Serialize};
use sriov::facts::platform::CpuSet;

use super::cpus::{self, MAX_CPUS};
use super::memory::{MIN_MEMORY, Pages};
use crate::amounts;
use crate::document::Span;
use crate::error::Report;
use crate::fields::Fields;
use crate::grammar::{Field, Form, Mapping, Text};
use crate::indexes;
use crate::selector::LAST_NODE;

/// Most NUMA nodes of a guest; the VMM's own limit.
pub const MAX_NODES: usize = 16;
/// What the memory of a node is a multiple of, in bytes; the VMM's own limit.
const GRAIN: u64 = 2 << 20;

/// One NUMA node of a guest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct GuestNode {
    /// Its memory in bytes: at least [`MIN_MEMORY`], a multiple of 2 MiB and of [`Pages::huge`].
    pub size: u64,
    /// The vCPUs that are near to it; of all nodes together each of the guest's once.
    pub cpus: CpuSet,
    /// The host's NUMA node that its memory comes from; `None` leaves that to the kernel.
    pub numa: Option<u32>,
}

const VCPUS: Text = Text {
    accepted: r#"numbers of vCPUs and ranges of them, such as 0, "0-1" or "0,2-3""#,
    pattern: indexes::RANGES,
};

pub(super) static NODE: Mapping = Mapping {
    what: "a NUMA node of the guest",
    fields: &[
        Field::new(
            "size",
            Form::Text(amounts::SIZE),
            "2GiB",
            "How much memory it has: 64MiB or more, and an even number of MiB.",
        )
        .needed(),
        Field::new(
            "cpus",
            Form::NumberOr(VCPUS),
            "\"0-1\"",
            "Which vCPUs are near to it: each of the guest's is in one node. Left out: none, it is memory \
             alone.",
        ),
        Field::new(
            "numa",
            Form::Number(0, LAST_NODE),
            "0",
            "The host's NUMA node that its memory comes from, on whose CPUs its vCPUs run where they are \
             pinned to no others. Left out: the kernel chooses.",
        ),
    ],
    rules: &[],
    later: &[],
};

/// Reads all nodes of a guest whose memory is of `pages`, and which has `count` vCPUs as far as that is
/// known.
pub(super) fn read(
    memory: &Fields<'_>,
    pages: Pages,
    count: Option<u8>,
    report: &mut Report<'_>,
) -> Vec<GuestNode> {
    let before = report.count();
    let mut nodes: Vec<GuestNode> = Vec::new();
    for fields in memory.list("nodes", report) {
        let size = size(&fields, pages, report);
        let mut near_to_it = CpuSet::default();
        if let Some(given) = fields.get("cpus", report) {
            near_to_it = cpus::set(given, parse, report).unwrap_or_default();
            near(&near_to_it, given.node.span, &nodes, count, report);
        }
        let numa = fields.number("numa", report);
        nodes.push(GuestNode { size: size.unwrap_or_default(), cpus: near_to_it, numa });
    }
    // What is wrong by itself may well be the one that is missing.
    if report.count() > before {
        return nodes;
    }
    let mut all = 0..count.unwrap_or_default();
    let is_near = |cpu: u8| nodes.iter().any(|node| node.cpus.contains(cpu.into()));
    if let Some(given) = memory.get("nodes", report)
        && let Some(missing) = all.find(|cpu| !is_near(*cpu))
    {
        let message = format!("vCPU {missing} is in no node");
        let form = format!("each of the guest's {} vCPUs in one", count.unwrap_or_default());
        report.error(given.node.span, message, Some(&form));
    }
    nodes
}

/// Refuses vCPUs that the guest does not have, or that are in a node `before` this one.
fn near(cpus: &CpuSet, at: Span, before: &[GuestNode], count: Option<u8>, report: &mut Report<'_>) {
    if let Some(count) = count
        && let Some(beyond) = cpus.iter().find(|cpu| *cpu >= count.into())
    {
        cpus::no_such(beyond, count, at, report);
    }
    let twice = cpus.iter().find(|cpu| before.iter().any(|node| node.cpus.contains(*cpu)));
    if let Some(twice) = twice {
        let message = format!("vCPU {twice} is in a node before this one as well");
        report.error(at, message, Some("each vCPU in one node"));
    }
}

fn size(fields: &Fields<'_>, pages: Pages, report: &mut Report<'_>) -> Option<u64> {
    let given = fields.get("size", report)?;
    let size = amounts::size(given, report)?;
    let (grain, word) = match pages.huge() {
        Some(page) => (page, pages.word()),
        None => (GRAIN, "2MiB"),
    };
    if size < MIN_MEMORY || !size.is_multiple_of(grain) {
        let message = format!("a node of the guest cannot have {} MiB of memory", size >> 20);
        let form = format!("64MiB or more, a multiple of {word}");
        report.error(given.node.span, message, Some(&form));
    }
    Some(size)
}

fn parse(text: &str) -> Result<CpuSet, String> {
    let ranges = indexes::ranges(text, "number of a vCPU", "vCPU")?;
    if let Some((_, last)) = ranges.last().filter(|(_, last)| *last >= MAX_CPUS.into()) {
        return Err(format!("a guest has no vCPU {last}"));
    }
    Ok(cpus::of_ranges(ranges))
}
