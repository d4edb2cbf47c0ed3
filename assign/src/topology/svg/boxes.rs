//! What is in a box: a port, a function, one of little interest, or many of those.

use sriov::PciFunction;
use sriov::facts::link::Link;
use sriov::facts::names;

use super::canvas::{Canvas, Rect};
use super::font::Face;
use super::layout::{Content, Placed};
use super::{marks, panel};
use crate::topology::{Node, Standing, port};

const ADDRESS: Face = Face::bold(13);
const TEXT: Face = Face::new(12);
const SMALL: Face = Face::new(11);
/// Room within a box's edge.
const EDGE: i32 = 12;

/// Draws a box, and what a reader is told who points at it.
pub fn draw(canvas: &mut Canvas, placed: &Placed, numa_node: Option<u32>) {
    let at = placed.at;
    match &placed.content {
        Content::Port(node) => {
            canvas.begin(title(node));
            port_box(canvas, node, at);
            canvas.end();
        }
        Content::Card(node) => {
            canvas.begin(title(node));
            card(canvas, node, at, numa_node);
            canvas.end();
        }
        Content::Line(node) => {
            canvas.begin(title(node));
            one_line(canvas, node, at);
            canvas.end();
        }
        Content::Stack(nodes) => {
            canvas.begin(nodes.iter().map(|node| title_line(node)).collect::<Vec<_>>().join("\n"));
            stack(canvas, nodes, at);
            canvas.end();
        }
        Content::Vfs(node) => panel::draw(canvas, node, at),
    }
}

fn port_box(canvas: &mut Canvas, node: &Node, at: Rect) {
    let (left, room) = (at.x + EDGE, at.w - 2 * EDGE);
    canvas.rect(at, 4, "port");
    canvas.text((left, at.y + 20), room, ADDRESS, "ink", &node.function.address.to_string());
    let empty = node.below.is_empty() && node.function.class_code() == 0x0604;
    let kind = port::kind(node.function);
    let kind = if empty { format!("{kind}, empty") } else { kind.to_owned() };
    canvas.text((left, at.y + 37), room, SMALL, "soft", &kind);
    if let Some(acs) = node.acs() {
        marks::shield(canvas, (left, at.y + 44), acs);
        let place = (left + 20, at.y + 55);
        canvas.text(place, room - 20, Face::bold(11), marks::acs_class(acs), acs.label());
    }
}

fn card(canvas: &mut Canvas, node: &Node, at: Rect, numa_node: Option<u32>) {
    let function = node.function;
    let (left, room) = (at.x + EDGE, at.w - 2 * EDGE);
    canvas.rect(at, 6, "card");
    let class = names::short_class(function.class_code());
    let place = at.right() - EDGE - SMALL.width(class);
    let address = function.address.to_string();
    canvas.text((left, at.y + 20), place - left - 8, ADDRESS, "ink", &address);
    canvas.text((place, at.y + 20), room, SMALL, "soft", class);
    canvas.text((left, at.y + 38), room, TEXT, "ink", &names::device(function));
    canvas.text((left, at.y + 55), room, SMALL, "soft", &facts(function, numa_node));
    let shape = Rect { x: left, y: at.y + 64, w: 14, h: 14 };
    marks::shape(canvas, shape, node.standing);
    let class = marks::text_class(node.standing);
    let text = state(node.standing);
    canvas.text((left + 22, at.y + 75), room - 22, Face::bold(11), class, &text);
}

/// Driver, interfaces, link, VFs, and the NUMA node where it is another than the bus's.
fn facts(function: &PciFunction, numa_node: Option<u32>) -> String {
    let mut parts = vec![function.driver.clone().unwrap_or_else(|| "no driver".to_owned())];
    if !function.netdevs.is_empty() {
        parts.push(function.netdevs.join(" "));
    }
    parts.extend(function.link.as_ref().and_then(link));
    if let Some(pf) = function.sriov.as_ref().filter(|pf| pf.vfs.is_empty()) {
        parts.push(format!("0 of {} VFs", pf.total));
    }
    if let Some(node) = function.numa_node.filter(|node| Some(*node) != numa_node) {
        parts.push(format!("NUMA node {node}"));
    }
    parts.join(" · ")
}

/// `8 GT/s ×4`, and what it could be where that is more.
fn link(link: &Link) -> Option<String> {
    let text = |speed, lanes| format!("{} ×{lanes}", crate::topology::gigatransfers(speed));
    let now = text(link.speed?, link.width?);
    match (link.max_speed, link.max_width) {
        (Some(speed), Some(lanes)) if link.is_reduced() => {
            Some(format!("{now}, could be {}", text(speed, lanes)))
        }
        _ => Some(now),
    }
}

fn state(standing: &Standing) -> String {
    match standing {
        Standing::Host { carries } => format!("host: {carries}"),
        Standing::Guest { guest } => format!("guest {guest}"),
        Standing::Ready => "ready for a guest".to_owned(),
        Standing::Free => "free".to_owned(),
        Standing::Together { with } => format!("free, together with {with}"),
        Standing::Blocked { why } => format!("blocked: {why}"),
        Standing::Bridge => "bridge".to_owned(),
    }
}

fn one_line(canvas: &mut Canvas, node: &Node, at: Rect) {
    canvas.rect(at, 4, "card");
    marks::shape(canvas, Rect { x: at.x + EDGE, y: at.y + 8, w: 14, h: 14 }, node.standing);
    let left = at.x + EDGE + 22;
    let address = node.function.address.to_string();
    let end = canvas.text((left, at.y + 19), at.w, Face::bold(11), "ink", &address);
    let name = names::device(node.function);
    let room = at.right() - EDGE - end - 8;
    canvas.text((end + 8, at.y + 19), room, SMALL, "soft", &name);
}

fn stack(canvas: &mut Canvas, nodes: &[&Node], at: Rect) {
    canvas.rect(Rect { x: at.x + 6, y: at.y + 5, ..at }, 4, "card");
    canvas.rect(Rect { x: at.x + 3, y: at.y + 2, ..at }, 4, "card");
    canvas.rect(at, 4, "card");
    let (left, room) = (at.x + EDGE, at.w - 2 * EDGE);
    let ends = nodes.first().zip(nodes.last());
    let range = ends
        .map(|(first, last)| format!("{} to {}", first.function.address, last.function.address));
    let text = format!("{} functions of the chipset", nodes.len());
    canvas.text((left, at.y + 20), room, Face::bold(12), "ink", &text);
    canvas.text((left, at.y + 38), room, SMALL, "soft", &range.unwrap_or_default());
}

fn title_line(node: &Node) -> String {
    format!("{} {}", node.function.address, names::device(node.function))
}

fn title(node: &Node) -> String {
    let function = node.function;
    let mut lines = vec![title_line(node)];
    let driver = function.driver.as_deref();
    lines.push(driver.map_or("no driver".to_owned(), |driver| format!("driver {driver}")));
    lines.extend(function.iommu_group.map(|group| format!("IOMMU group {group}")));
    lines.extend(function.numa_node.map(|node| format!("NUMA node {node}")));
    lines.extend(node.acs().map(|acs| format!("{}: {}", acs.label(), acs.meaning())));
    if *node.standing != Standing::Bridge {
        lines.push(state(node.standing));
    }
    lines.join("\n")
}
