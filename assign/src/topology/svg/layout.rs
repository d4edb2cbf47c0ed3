//! Where everything goes. A bus is a trunk; what hangs on it grows to the right: ports, functions,
//! and beside a PF its VFs. Tall buses are set in columns.

use std::collections::{BTreeMap, BTreeSet};

use sriov::PciFunction;

use super::canvas::Rect;
use super::panel;
use crate::topology::{Bus, Node, Standing};

/// Width of a port.
const PORT_WIDTH: i32 = 178;
/// Width of a function.
const CARD_WIDTH: i32 = 336;
/// Room above a box for the name of its frame.
pub const ABOVE: i32 = 22;
/// Room between a box and its frame.
pub const PAD: i32 = 8;
/// Room between what hangs on what, for wires.
const ACROSS: i32 = 46;
/// Room between boxes that follow each other.
const BETWEEN: i32 = 8;
/// The same in one frame.
const WITHIN: i32 = 10;
/// What is saved where no frame, and no name of one, comes between two boxes.
const SAVED: i32 = PAD + BETWEEN + ABOVE - WITHIN;
/// From a box's top to where its wire ends.
pub const WIRE: i32 = 16;
/// From a trunk to what hangs on it.
const TRUNK: i32 = 30;
/// A bus this tall is set in more than one column.
const TALL: i32 = 560;
/// Most columns.
const MOST_COLUMNS: i32 = 4;
/// Widest a bus becomes by columns.
const WIDEST: i32 = 2400;
/// Fewest functions of no interest that are told as one.
const FEWEST: usize = 4;

/// What a box shows.
#[derive(Debug)]
pub enum Content<'a> {
    /// A port or bridge.
    Port(&'a Node<'a>),
    /// A function.
    Card(&'a Node<'a>),
    /// A function of little interest, in one line.
    Line(&'a Node<'a>),
    /// Many of these.
    Stack(Vec<&'a Node<'a>>),
    /// The VFs of a PF.
    Vfs(&'a Node<'a>),
}

/// A box in its place.
#[derive(Debug)]
pub struct Placed<'a> {
    /// What it shows.
    pub content: Content<'a>,
    /// Where.
    pub at: Rect,
}

impl Placed<'_> {
    /// The IOMMU group whose frame it is in; VFs have one if all share it.
    pub fn group(&self) -> Option<u32> {
        match &self.content {
            Content::Port(node) | Content::Card(node) | Content::Line(node) => {
                node.function.iommu_group
            }
            Content::Stack(_) => None,
            Content::Vfs(node) => common_group(node),
        }
    }
}

/// The group that all VFs of a PF share, if there is more than one VF.
pub fn common_group(node: &Node) -> Option<u32> {
    let first = node.vfs.first()?.function.iommu_group?;
    let same = |function: &PciFunction| function.iommu_group == Some(first);
    (node.vfs.len() > 1 && node.vfs.iter().all(|vf| same(vf.function))).then_some(first)
}

/// A bus with everything in its place.
#[derive(Debug, Default)]
pub struct Layout<'a> {
    /// Its boxes.
    pub placed: Vec<Placed<'a>>,
    /// Wires from the right of one box to the left of another.
    pub wires: Vec<((i32, i32), (i32, i32))>,
    /// Trunks, from top to bottom at this x.
    pub trunks: Vec<(i32, i32, i32)>,
    /// Right and bottom edge of all of it.
    pub size: (i32, i32),
}

/// Sets a bus with its upper left corner at `(x, y)`. `shared` are the groups of more than one
/// member.
pub fn bus<'a>(bus: &'a Bus<'a>, (x, y): (i32, i32), shared: &BTreeSet<u32>) -> Layout<'a> {
    let clusters = clusters(&bus.nodes, shared);
    let sizes: Vec<(i32, i32)> = clusters
        .iter()
        .enumerate()
        .map(|(at, cluster)| {
            let mut trial = Layout::default();
            let bottom = trial.list(cluster, (0, 0), None, shared);
            (trial.size.0, bottom - saved(&clusters, at))
        })
        .collect();
    let (widest, total) = sizes.iter().fold((0, 0), |(w, h), size| (w.max(size.0), h + size.1));
    let columns = columns(widest + TRUNK + ACROSS, total);
    let height = total / columns + 1;
    let mut layout = Layout { size: (x, y), ..Layout::default() };
    let (mut left, mut top, mut trunk_end, mut taken) = (x, y, y, 0);
    for (at, (cluster, (_, tall))) in clusters.iter().zip(&sizes).enumerate() {
        if taken > 0 && taken + tall / 2 > height {
            layout.trunks.push((left, y, trunk_end));
            left = layout.size.0 + ACROSS;
            (top, taken) = (y, 0);
        } else {
            top -= saved(&clusters, at);
        }
        let before = layout.wires.len();
        top = layout.list(cluster, (left + TRUNK, top), Some(left), shared);
        trunk_end = layout.trunk_end(before, left).unwrap_or(trunk_end);
        taken += tall;
    }
    layout.trunks.push((left, y, trunk_end));
    layout
}

/// What is saved above a cluster: without an IOMMU there is no frame between it and the one before.
fn saved(clusters: &[Vec<&Node>], at: usize) -> i32 {
    let before = at.checked_sub(1).and_then(|before| clusters.get(before)?.last());
    let first = clusters.get(at).and_then(|cluster| cluster.first());
    match before.zip(first) {
        Some((before, first)) if has_no_group(before) && has_no_group(first) => SAVED,
        _ => 0,
    }
}

/// Columns that make the bus about half again as wide as tall.
fn columns(width: i32, height: i32) -> i32 {
    let fits = |columns: &i32| columns * width <= WIDEST;
    let wanted = (2..=MOST_COLUMNS)
        .take_while(fits)
        .take_while(|columns| height > TALL && 2 * width * columns <= 3 * (height / (columns - 1)));
    wanted.last().unwrap_or(1)
}

/// What shares a group stays together, in the order of the first of each.
fn clusters<'a>(nodes: &'a [Node<'a>], shared: &BTreeSet<u32>) -> Vec<Vec<&'a Node<'a>>> {
    let mut clusters: Vec<Vec<&Node>> = Vec::new();
    let mut of_group: BTreeMap<u32, usize> = BTreeMap::new();
    for node in nodes {
        let mut groups = BTreeSet::new();
        collect_groups(node, shared, &mut groups);
        let mut homes: Vec<usize> =
            groups.iter().filter_map(|group| of_group.get(group).copied()).collect();
        homes.sort_unstable();
        homes.dedup();
        let home = match homes.split_first() {
            Some((first, others)) => {
                for other in others.iter().rev() {
                    let moved = clusters.get_mut(*other).map(std::mem::take).unwrap_or_default();
                    if let Some(cluster) = clusters.get_mut(*first) {
                        cluster.extend(moved);
                    }
                    of_group.values_mut().filter(|home| *home == other).for_each(|h| *h = *first);
                }
                *first
            }
            None => {
                clusters.push(Vec::new());
                clusters.len() - 1
            }
        };
        if let Some(cluster) = clusters.get_mut(home) {
            cluster.push(node);
        }
        of_group.extend(groups.into_iter().map(|group| (group, home)));
    }
    // Functions of no interest that follow each other are one cluster, to be stacked.
    let mut joined: Vec<Vec<&Node>> = Vec::new();
    let dull =
        |cluster: &[&Node]| cluster.iter().all(|node| is_dull(node) && !shares(node, shared));
    for cluster in clusters.into_iter().filter(|cluster| !cluster.is_empty()) {
        match joined.last_mut() {
            Some(last) if dull(last) && dull(&cluster) => last.extend(cluster),
            _ => joined.push(cluster),
        }
    }
    joined
}

fn collect_groups(node: &Node, shared: &BTreeSet<u32>, groups: &mut BTreeSet<u32>) {
    let vfs = node.vfs.iter().filter_map(|vf| vf.function.iommu_group);
    groups.extend(node.function.iommu_group.into_iter().chain(vfs).filter(|g| shared.contains(g)));
    node.below.iter().for_each(|node| collect_groups(node, shared, groups));
}

/// Without an IOMMU there are no frames.
fn has_no_group(node: &Node) -> bool {
    let none = |function: &PciFunction| function.iommu_group.is_none();
    none(node.function)
        && node.vfs.iter().all(|vf| none(vf.function))
        && node.below.iter().all(has_no_group)
}

/// Whether all of both, and of what is behind them, is in one group, or none of it in any.
fn in_one_group(a: &Node, b: &Node, shared: &BTreeSet<u32>) -> bool {
    let mut groups = BTreeSet::new();
    if has_no_group(a) && has_no_group(b) {
        return true;
    }
    let all_shared = [a, b].iter().all(|node| all_share(node, shared));
    [a, b].iter().for_each(|node| collect_groups(node, shared, &mut groups));
    all_shared && groups.len() == 1
}

fn all_share(node: &Node, shared: &BTreeSet<u32>) -> bool {
    node.vfs.is_empty() && shares(node, shared) && node.below.iter().all(|n| all_share(n, shared))
}

fn shares(node: &Node, shared: &BTreeSet<u32>) -> bool {
    node.function.iommu_group.is_some_and(|group| shared.contains(&group))
}

/// Of no interest to somebody who gives devices away: the chipset's own, with nothing behind.
fn is_dull(node: &Node) -> bool {
    let class = node.function.class_code();
    let of_chipset = matches!(class >> 8, 0x05 | 0x08 | 0x10 | 0x11 | 0x13 | 0xff)
        || matches!(class, 0x0600 | 0x0601 | 0x0680 | 0x0700..=0x07ff | 0x0c05 | 0x0c80 | 0x0b40);
    of_chipset
        && node.below.is_empty()
        && node.vfs.is_empty()
        && node.function.sriov.is_none()
        && !matches!(
            node.standing,
            Standing::Host { .. } | Standing::Guest { .. } | Standing::Ready
        )
}

impl<'a> Layout<'a> {
    /// Sets nodes below each other; returns where the next would begin.
    fn list(
        &mut self,
        nodes: &[&'a Node<'a>],
        (x, mut y): (i32, i32),
        trunk: Option<i32>,
        shared: &BTreeSet<u32>,
    ) -> i32 {
        let mut rest = nodes;
        let mut above: Option<&Node> = None;
        while let Some((first, others)) = rest.split_first() {
            // One frame holds both: no room is needed for its name in between.
            if above.is_some_and(|above| in_one_group(above, first, shared)) {
                y -= SAVED;
            }
            above = Some(first);
            let run = rest.iter().take_while(|node| is_dull(node) && !shares(node, shared)).count();
            let from = trunk.map(|trunk| (trunk, y + ABOVE + WIRE));
            if run >= FEWEST {
                let (stack, after) = rest.split_at(run);
                let place = (x, y);
                y = self.place(Content::Stack(stack.to_vec()), place, from).bottom()
                    + PAD
                    + BETWEEN;
                rest = after;
            } else {
                y = self.node(first, (x, y), from, shared);
                rest = others;
            }
        }
        y
    }

    /// Sets a node and what is behind it; returns where the next would begin.
    fn node(
        &mut self,
        node: &'a Node<'a>,
        (x, y): (i32, i32),
        from: Option<(i32, i32)>,
        shared: &BTreeSet<u32>,
    ) -> i32 {
        let content = match () {
            _ if is_dull(node) => Content::Line(node),
            _ if node.function.is_bridge() => Content::Port(node),
            _ => Content::Card(node),
        };
        let at = self.place(content, (x, y), from);
        let mut bottom = at.bottom() + PAD + BETWEEN;
        let start = (at.right(), at.y + WIRE);
        let right = at.right() + ACROSS;
        let mut top = y;
        if !node.vfs.is_empty() {
            let vfs = self.place(Content::Vfs(node), (right, top), Some(start));
            top = vfs.bottom() + PAD + BETWEEN;
        }
        let below: Vec<&Node> = node.below.iter().collect();
        let wires = self.wires.len();
        top = self.list(&below, (right, top), Some(start.0), shared);
        for wire in self.wires.iter_mut().skip(wires).filter(|wire| wire.0.0 == start.0) {
            wire.0 = start;
        }
        bottom = bottom.max(top);
        bottom
    }

    fn place(
        &mut self,
        content: Content<'a>,
        (x, y): (i32, i32),
        from: Option<(i32, i32)>,
    ) -> Rect {
        let (w, h) = match &content {
            Content::Port(node) if node.acs().is_some() => (PORT_WIDTH, 66),
            Content::Port(_) => (PORT_WIDTH, 48),
            Content::Card(_) => (CARD_WIDTH, 88),
            Content::Line(_) => (CARD_WIDTH, 30),
            Content::Stack(_) => (CARD_WIDTH, 48),
            Content::Vfs(node) => panel::size(node),
        };
        let at = Rect { x, y: y + ABOVE, w, h };
        if let Some(from) = from {
            self.wires.push((from, (x, at.y + WIRE)));
        }
        self.size = (self.size.0.max(at.right() + PAD), self.size.1.max(at.bottom() + PAD));
        self.placed.push(Placed { content, at });
        at
    }

    /// Where the last wire leaves the trunk at `x`.
    fn trunk_end(&self, wires: usize, x: i32) -> Option<i32> {
        self.wires.iter().skip(wires).filter(|(from, _)| from.0 == x).map(|(from, _)| from.1).max()
    }
}
