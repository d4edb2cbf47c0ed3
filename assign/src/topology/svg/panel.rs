//! The VFs of a PF: a grid of small cells, each with its index and the shape of what can become of
//! it, and below them whose those are that somebody has.

use super::canvas::{Canvas, Rect};
use super::font::Face;
use super::layout::common_group;
use super::marks;
use crate::topology::fold::{self, Range};
use crate::topology::{Node, Standing, Vf};

const HEAD: Face = Face::bold(12);
const SMALL: Face = Face::new(11);
const INDEX: Face = Face::new(10);
/// A cell's height, and the room between cells.
const CELL: i32 = 18;
const GAP: i32 = 4;
/// Room within the panel's edge.
const EDGE: i32 = 12;
/// The two lines above the grid.
const HEADING: i32 = 44;
/// A line below the grid.
const LINE: i32 = 16;
/// Most lines below the grid.
const MOST_LINES: usize = 8;
/// Most cells: beyond that nobody could read them.
const MOST_CELLS: usize = 1024;
/// Least width of a panel.
const LEAST: i32 = 250;

/// The grid's columns, and a cell's width.
fn grid(node: &Node) -> (i32, i32) {
    let highest = node.vfs.iter().map(|vf| vf.index).max().unwrap_or(0);
    let width = (INDEX.width(&highest.to_string()) + 10).max(28);
    let columns = match node.vfs.len() {
        0..=8 => 8,
        9..=64 => 16,
        65..=256 => 24,
        _ => 32,
    };
    (columns, width)
}

/// The room that a PF's VFs take.
pub fn size(node: &Node) -> (i32, i32) {
    let (columns, cell) = grid(node);
    let cells = i32::try_from(node.vfs.len().min(MOST_CELLS)).unwrap_or(0);
    let used = columns.min(cells);
    let rows = (cells + columns - 1) / columns;
    let lines = i32::try_from(taken(node).len()).unwrap_or(0);
    let width = (used * (cell + GAP) - GAP + 2 * EDGE).max(LEAST);
    let below = if lines > 0 { lines * LINE + 4 } else { 0 };
    (width, HEADING + rows * (CELL + GAP) - GAP + below + EDGE)
}

/// Draws them.
pub fn draw(canvas: &mut Canvas, node: &Node, at: Rect) {
    let total = node.function.sriov.as_ref().map_or(0, |pf| pf.total);
    let room = at.w - 2 * EDGE;
    let left = at.x + EDGE;
    canvas.rect(at, 6, "panel");
    let heading = format!("{} of {total} VFs", node.vfs.len());
    let end = canvas.text((left, at.y + 20), room, HEAD, "ink", &heading);
    let drivers = drivers(node);
    canvas.text((end + 10, at.y + 20), at.right() - EDGE - end - 10, SMALL, "soft", &drivers);
    canvas.text((left, at.y + 37), room, SMALL, "soft", &groups(node));
    let (columns, width) = grid(node);
    let mut bottom = at.y + HEADING;
    for (vf, number) in node.vfs.iter().take(MOST_CELLS).zip(0..) {
        let (row, column) = (number / columns, number % columns);
        let x = left + column * (width + GAP);
        let y = at.y + HEADING + row * (CELL + GAP);
        cell(canvas, vf, Rect { x, y, w: width, h: CELL });
        bottom = y + CELL;
    }
    for (standing, text) in taken(node) {
        bottom += LINE;
        canvas.text((left, bottom), room, SMALL, marks::text_class(&standing), &text);
    }
}

fn cell(canvas: &mut Canvas, vf: &Vf, at: Rect) {
    canvas.begin(title(vf));
    let class = marks::shape(canvas, at, vf.standing);
    let text = vf.index.to_string();
    let x = at.x + (at.w - INDEX.width(&text)) / 2;
    canvas.text((x, at.y + 13), at.w, INDEX, class, &text);
    canvas.end();
}

fn title(vf: &Vf) -> String {
    let mut lines = vec![format!("VF {}: {}", vf.index, vf.function.address)];
    let driver = vf.function.driver.as_deref();
    lines.push(driver.map_or("no driver".to_owned(), |driver| format!("driver {driver}")));
    lines.extend(vf.function.iommu_group.map(|group| format!("IOMMU group {group}")));
    if !vf.function.netdevs.is_empty() {
        lines.push(vf.function.netdevs.join(" "));
    }
    lines.push(match vf.standing.detail() {
        Some(detail) => format!("{}: {detail}", vf.standing.word()),
        None => vf.standing.word().to_owned(),
    });
    lines.join("\n")
}

fn drivers(node: &Node) -> String {
    let mut drivers: Vec<&str> =
        node.vfs.iter().map(|vf| vf.function.driver.as_deref().unwrap_or("no driver")).collect();
    drivers.sort_unstable();
    drivers.dedup();
    drivers.join(", ")
}

fn groups(node: &Node) -> String {
    let all = Range { vfs: node.vfs.clone() };
    match (common_group(node), all.groups().as_str()) {
        (_, "") => "no IOMMU groups".to_owned(),
        (Some(group), _) => format!("all in IOMMU group {group}"),
        (None, text) if node.vfs.len() == 1 => format!("IOMMU group {text}"),
        (None, text) if text.contains('-') => {
            format!("IOMMU groups {}, one each", text.replace('-', "–"))
        }
        (None, text) => format!("in {text}"),
    }
}

/// Whose they are, and what is in the way: a line for each range, as many as there is room for.
fn taken(node: &Node) -> Vec<(Standing, String)> {
    let told: Vec<(Standing, String)> = fold::ranges(&node.vfs, false)
        .iter()
        .filter_map(|range| {
            let standing = range.first()?.standing;
            let text = match standing {
                Standing::Guest { guest } => format!("guest {guest}"),
                Standing::Host { carries } => format!("host: {carries}"),
                Standing::Blocked { why } => format!("blocked: {why}"),
                _ => return None,
            };
            Some((standing.clone(), format!("{}: {text}", range.indexes())))
        })
        .collect();
    let more = told.len().saturating_sub(MOST_LINES);
    let mut lines: Vec<(Standing, String)> = told.into_iter().take(MOST_LINES).collect();
    if more > 0 {
        lines.push((Standing::Bridge, format!("and {more} more")));
    }
    let hidden = node.vfs.len().saturating_sub(MOST_CELLS);
    if hidden > 0 {
        lines.push((Standing::Bridge, format!("{hidden} more VFs are not drawn")));
    }
    lines
}
