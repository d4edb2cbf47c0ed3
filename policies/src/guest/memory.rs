//! `memory` of a guest: how much, from where, and of which pages.

use serde::{Deserialize, Serialize};

use super::nodes::{self, GuestNode, MAX_NODES, NODE};
use crate::amounts;
use crate::error::Report;
use crate::fields::Fields;
use crate::grammar::{Field, Form, Mapping, Rule, word};
use crate::selector::LAST_NODE;

/// Least memory of a guest in bytes; the VMM's own limit.
pub const MIN_MEMORY: u64 = 64 << 20;
/// Most memory of a guest in bytes: 16 TiB, what 44 address bits reach.
const MAX_MEMORY: u64 = 16 << 40;

/// The memory of a guest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Memory {
    /// In bytes, at least [`MIN_MEMORY`], a multiple of 1 MiB, and of the size of its huge pages; all
    /// `nodes` together.
    pub size: u64,
    /// The host's NUMA node it comes from; `None` leaves that to `nodes`, or to the devices that prefer to
    /// be near it, or else to the kernel.
    pub numa: Option<u32>,
    /// The guest's own NUMA nodes; empty: it has none. At most [`MAX_NODES`], and never beside `numa`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub nodes: Vec<GuestNode>,
    /// The host's pages that it is made of.
    #[serde(default)]
    pub pages: Pages,
    /// Whether the host may share pages of it that others have too; only without devices, and without
    /// [`Pages::huge`].
    #[serde(default)]
    pub merge: bool,
    /// Whether the host may ask for a part of it back while the guest runs; only without devices, and
    /// without [`Pages::huge`].
    #[serde(default)]
    pub balloon: bool,
}

impl Memory {
    /// The host's NUMA node that devices near the guest are on: of its own nodes, that of the first which
    /// has one.
    pub fn node(&self) -> Option<u32> {
        self.numa.or_else(|| self.nodes.iter().find_map(|node| node.numa))
    }
}

/// Which pages of the host a guest's memory is made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, Default)]
pub enum Pages {
    /// Huge ones where the host finds some, as it may at any time, and 4 KiB elsewhere.
    #[default]
    #[serde(rename = "transparent")]
    Transparent,
    /// 4 KiB and no others.
    #[serde(rename = "4KiB")]
    Small,
    /// 2 MiB, of those that the host has set apart.
    #[serde(rename = "2MiB")]
    Huge2M,
    /// 1 GiB, of those that the host has set apart.
    #[serde(rename = "1GiB")]
    Huge1G,
}

impl Pages {
    /// Bytes of a page, where they come from those that the host has set apart (hugetlb).
    pub fn huge(self) -> Option<u64> {
        match self {
            Pages::Transparent | Pages::Small => None,
            Pages::Huge2M => Some(2 << 20),
            Pages::Huge1G => Some(1 << 30),
        }
    }

    /// The word of the language.
    pub fn word(self) -> &'static str {
        match self {
            Pages::Transparent => "transparent",
            Pages::Small => "4KiB",
            Pages::Huge2M => "2MiB",
            Pages::Huge1G => "1GiB",
        }
    }
}

const FORM: &str = "{size: 2GiB, numa: 0}, or {nodes: [{size: 2GiB, cpus: 0, numa: 0}]}";

pub(super) static MEMORY: Mapping = Mapping {
    what: "`memory`",
    fields: &[
        Field::new("size", Form::Text(amounts::SIZE), "512MiB", "How much: 64MiB or more."),
        Field::new(
            "numa",
            Form::Number(0, LAST_NODE),
            "0",
            "The host's NUMA node it comes from. Left out: that of the first device whose claim \
             prefers a near one, or else the kernel chooses.",
        ),
        Field::new(
            "nodes",
            Form::List { of: &NODE, most: MAX_NODES },
            "[{size: 2GiB, cpus: \"0-1\", numa: 0}, {size: 2GiB, cpus: \"2-3\", numa: 1}]",
            "In place of `size` and `numa`: NUMA nodes that the guest sees, each with its part of the memory \
             and of the vCPUs. Devices that are to be near go by the first with a `numa`.",
        ),
        Field::new(
            "pages",
            Form::Words(&[
                word("transparent", "huge ones where the host finds some, and 4 KiB elsewhere"),
                word("4KiB", "no others: the host can share, swap and give back each of them"),
                word("2MiB", "of those that the host has set apart (hugetlb)"),
                word("1GiB", "the same, for the least work of CPU and IOMMU"),
            ]),
            "2MiB",
            "The host's pages it is made of. A guest does not start where too few are set apart, and what \
             is set apart is never swapped.",
        )
        .or("transparent"),
        Field::new(
            "merge",
            Form::Truth,
            "true",
            "Whether the host may keep pages once that have the same contents as others, of this guest or \
             of another (KSM). Guests that do not trust each other can tell by timing what the others \
             have. Not for a guest with devices, which pin its memory.",
        )
        .or("false"),
        Field::new(
            "balloon",
            Form::Truth,
            "true",
            "Whether the host may ask for a part of it back while the guest runs (`assign balloon`), and has \
             back what the guest uses for nothing. Needs Linux's virtio_balloon in the guest, or the like. \
             Not for a guest with devices, which pin its memory, nor for pages that the host has set apart.",
        )
        .or("false"),
    ],
    rules: &[
        Rule::Apart {
            field: "size",
            beside: "nodes",
            message: "`size` beside `nodes`: the nodes say how much memory there is",
            accepted: FORM,
        },
        Rule::Apart {
            field: "numa",
            beside: "nodes",
            message: "`numa` beside `nodes`: each node says where its memory comes from",
            accepted: FORM,
        },
        Rule::OneOf {
            fields: &["size", "nodes"],
            message: "`memory` needs `size` or `nodes`",
            accepted: FORM,
        },
    ],
    later: &[],
};

/// Reads the mapping, of a guest that has `count` vCPUs as far as that is known.
pub(super) fn read(
    fields: &Fields<'_>,
    count: Option<u8>,
    report: &mut Report<'_>,
) -> Option<Memory> {
    let before = report.count();
    let numa = fields.number("numa", report);
    let pages: Pages = fields.word("pages", report).unwrap_or_default();
    let merge = fields.truth("merge", report).unwrap_or_default();
    if let Some(given) = fields.get("merge", report).filter(|_| merge && pages.huge().is_some()) {
        let message = format!("pages of {} are not merged", pages.word());
        let form = "`pages: transparent` or `pages: 4KiB` beside it, or merge: false";
        report.error(given.node.span, message, Some(form));
    }
    let balloon = fields.truth("balloon", report).unwrap_or_default();
    if let Some(given) = fields.get("balloon", report).filter(|_| balloon && pages.huge().is_some())
    {
        let message = format!(
            "pages of {} are not given back: a guest gives 4 KiB at a time, which are a part of one",
            pages.word()
        );
        let form = "`pages: transparent` or `pages: 4KiB` beside it, or balloon: false";
        report.error(given.node.span, message, Some(form));
    }
    let nodes = nodes::read(fields, pages, count, report);
    let given = match nodes.is_empty() {
        true => fields.get("size", report)?,
        false => fields.get("nodes", report)?,
    };
    let size = match nodes.is_empty() {
        true => amounts::size(given, report)?,
        false => nodes.iter().fold(0, |sum: u64, node| sum.saturating_add(node.size)),
    };
    // What is wrong with nodes has been told of each.
    let is_new = report.count() == before || nodes.is_empty();
    if is_new && !(MIN_MEMORY..=MAX_MEMORY).contains(&size) {
        let message = format!("a guest cannot have {} MiB of memory", size >> 20);
        report.error(given.node.span, message, Some("64MiB to 16384GiB"));
    } else if is_new && pages.huge().is_some_and(|page| !size.is_multiple_of(page)) {
        let message = format!("{} MiB are not whole pages of {}", size >> 20, pages.word());
        let form = format!("a multiple of {}", pages.word());
        report.error(given.node.span, message, Some(&form));
    }
    (report.count() == before).then_some(Memory { size, numa, nodes, pages, merge, balloon })
}

/// Refuses what cannot be where devices pin the memory. `fields` are those that `memory` was read from.
pub(super) fn check_pinned(fields: &Fields<'_>, memory: Option<&Memory>, report: &mut Report<'_>) {
    let Some(&Memory { merge, balloon, .. }) = memory else { return };
    if let Some(given) = fields.get("merge", report).filter(|_| merge) {
        let message = "the guest claims a device, which pins all of its memory, and pinned memory is not \
                       merged";
        report.error(given.node.span, message, Some("merge: false, or a guest without claims"));
    }
    if let Some(given) = fields.get("balloon", report).filter(|_| balloon) {
        let message = "the guest claims a device, which pins all of its memory, and of pinned memory \
                       nothing is given back";
        report.error(given.node.span, message, Some("balloon: false, or a guest without claims"));
    }
}
