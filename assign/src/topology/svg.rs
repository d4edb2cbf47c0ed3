//! The host as a picture: NUMA nodes as areas, buses as trunks, ports and functions as boxes, VFs as
//! cells, IOMMU groups as frames, and what can become of each device by shape, word and colour.
//!
//! The picture has a background of its own, so that it can be read on a light page and on a dark one,
//! and needs nothing from outside. The same snapshot gives the same picture, byte by byte.

use std::collections::{BTreeMap, BTreeSet};

use sriov::HostSnapshot;

use super::{Bus, Topology};
use canvas::{Canvas, Rect};
use font::Face;

mod boxes;
pub mod canvas;
pub mod font;
mod frames;
mod layout;
mod legend;
mod marks;
mod panel;

/// Room around everything.
const MARGIN: i32 = 28;
/// Room within an area.
const INSIDE: i32 = 20;
/// The title and the line below it.
const HEADER: i32 = 66;
/// Least width of the picture.
const LEAST: i32 = 760;

/// The picture as SVG 1.1. `details` go below the title: kernel, time.
pub fn draw(
    snapshot: &HostSnapshot,
    topology: &Topology,
    title: &str,
    details: &[String],
) -> String {
    let (canvas, size) = compose(snapshot, topology, title, details);
    let description = format!(
        "{}. PCI devices by where they hang, with their IOMMU groups, drivers and owners.",
        counts(snapshot)
    );
    canvas.write(size, title, &description)
}

/// The picture piece by piece, and its size.
pub fn compose(
    snapshot: &HostSnapshot,
    topology: &Topology,
    title: &str,
    details: &[String],
) -> (Canvas, (i32, i32)) {
    let groups = snapshot.iommu.groups.iter();
    let members: BTreeMap<u32, usize> =
        groups.map(|(number, group)| (*number, group.members.len() + group.others.len())).collect();
    let shared: BTreeSet<u32> =
        members.iter().filter(|(_, count)| **count > 1).map(|(number, _)| *number).collect();
    let numa = topology.buses.iter().any(|bus| bus.numa_node.is_some());

    // What is drawn above the areas is composed first, since it tells how large they are.
    let (mut areas, mut front) = (Canvas::default(), Canvas::default());
    let (mut y, mut right) = (MARGIN + HEADER, LEAST - MARGIN);
    let mut edges = Vec::new();
    for (node, buses) in by_node(topology) {
        let top = y;
        y += INSIDE - 6;
        if numa {
            let name = match node {
                Some(node) => format!("NUMA node {node}"),
                None => "no NUMA node".to_owned(),
            };
            y += 18;
            front.text((MARGIN + INSIDE, y), LEAST, Face::bold(15), "ink", &name);
            y += 12;
        }
        for bus in buses {
            let (bottom, edge) = draw_bus(&mut front, bus, y, &shared, &members);
            right = right.max(edge + INSIDE);
            y = bottom + INSIDE;
        }
        edges.push((top, y));
        y += 16;
    }
    let width = right + MARGIN;
    for (top, bottom) in edges {
        areas.rect(Rect { x: MARGIN, y: top, w: right - MARGIN, h: bottom - top }, 12, "area");
    }
    let bottom = legend::draw(&mut front, (MARGIN, y + 6), right - MARGIN, snapshot.iommu.present);
    let size = (width, bottom + MARGIN);

    let mut canvas = Canvas::default();
    canvas.rect(Rect { x: 1, y: 1, w: size.0 - 2, h: size.1 - 2 }, 14, "page");
    canvas.text((MARGIN, MARGIN + 22), right - MARGIN, Face::bold(22), "ink", title);
    let mut line = vec![counts(snapshot)];
    line.extend(details.iter().cloned());
    canvas.text((MARGIN, MARGIN + 46), right - MARGIN, Face::new(13), "soft", &line.join("  ·  "));
    canvas.items.extend(areas.items);
    canvas.items.extend(front.items);
    (canvas, size)
}

/// Buses by their node, those without one last.
fn by_node<'a, 'b>(topology: &'b Topology<'a>) -> Vec<(Option<u32>, Vec<&'b Bus<'a>>)> {
    let mut nodes: BTreeMap<(bool, Option<u32>), Vec<&Bus>> = BTreeMap::new();
    for bus in &topology.buses {
        nodes.entry((bus.numa_node.is_none(), bus.numa_node)).or_default().push(bus);
    }
    nodes.into_iter().map(|((_, node), buses)| (node, buses)).collect()
}

/// Draws a bus from `y` on; returns its bottom and right edge.
fn draw_bus(
    canvas: &mut Canvas,
    bus: &Bus,
    y: i32,
    shared: &BTreeSet<u32>,
    members: &BTreeMap<u32, usize>,
) -> (i32, i32) {
    let x = MARGIN + INSIDE;
    canvas.text((x, y + 18), LEAST, Face::bold(12), "soft", &format!("root bus {bus}"));
    let layout = layout::bus(bus, (x + 6, y + 24), shared);
    for (at, (trunk, top, bottom)) in layout.trunks.iter().enumerate() {
        canvas.path(format!("M{trunk} {top}V{bottom}"), "bus");
        if at > 0 {
            let text = format!("{bus}, continued");
            canvas.text((trunk - 6, y + 18), LEAST, Face::new(12), "soft", &text);
        }
    }
    frames::draw(canvas, &layout.placed, members);
    for ((from, start), (to, end)) in &layout.wires {
        let turn = if start == end { *to } else { to - 23 };
        canvas.path(format!("M{from} {start}H{turn}V{end}H{to}"), "wire");
    }
    for placed in &layout.placed {
        boxes::draw(canvas, placed, bus.numa_node);
    }
    (layout.size.1, layout.size.0)
}

fn counts(snapshot: &HostSnapshot) -> String {
    let vfs = snapshot.functions.iter().filter(|function| function.vf_of.is_some()).count();
    let functions = snapshot.functions.len() - vfs;
    let count = |count: usize, one: &str, many: &str| {
        format!("{count} {}", if count == 1 { one } else { many })
    };
    let mut parts = vec![count(functions, "function", "functions"), count(vfs, "VF", "VFs")];
    parts.push(match snapshot.iommu.groups.len() {
        0 => "no IOMMU".to_owned(),
        groups => count(groups, "IOMMU group", "IOMMU groups"),
    });
    parts.join(", ")
}
