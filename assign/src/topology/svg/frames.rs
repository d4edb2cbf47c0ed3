//! IOMMU groups as frames around their members.
//!
//! A frame must not hold what is in another group. Members that no such frame can hold together get
//! one each, with the same name.

use std::collections::BTreeMap;

use super::canvas::{Canvas, Rect};
use super::font::Face;
use super::layout::{ABOVE, PAD, Placed};

const NAME: Face = Face::new(11);
const SHARED_NAME: Face = Face::bold(11);

/// Draws the frames of these boxes; `members` says how many devices each group has.
pub fn draw(canvas: &mut Canvas, placed: &[Placed], members: &BTreeMap<u32, usize>) {
    let mut groups: BTreeMap<u32, Vec<Rect>> = BTreeMap::new();
    let mut sorted: Vec<&Placed> = placed.iter().collect();
    sorted.sort_by_key(|placed| (placed.at.y, placed.at.x));
    for placed in &sorted {
        let Some(group) = placed.group() else { continue };
        let frames = groups.entry(group).or_default();
        let own = frame(placed.at);
        let joined = frames.last().map(|last| last.around(own));
        match joined.filter(|joined| is_clear(&sorted, *joined, group)) {
            Some(joined) => {
                frames.pop();
                frames.push(joined);
            }
            None => frames.push(own),
        }
    }
    for (group, frames) in &groups {
        let members = members.get(group).copied().unwrap_or(0);
        for at in frames {
            let (class, text) = match members {
                0 | 1 => ("soft", format!("group {group}")),
                _ => ("plum", format!("group {group}: {members} devices")),
            };
            let face = if members > 1 { SHARED_NAME } else { NAME };
            canvas.begin(format!("IOMMU group {group}"));
            canvas.rect(*at, 8, if members > 1 { "shared" } else { "group" });
            canvas.text((at.x + 10, at.y + 15), at.w - 20, face, class, &text);
            canvas.end();
        }
    }
}

/// The frame of one box.
fn frame(at: Rect) -> Rect {
    Rect { x: at.x - PAD, y: at.y - ABOVE + 1, w: at.w + 2 * PAD, h: at.h + ABOVE - 1 + PAD }
}

/// Whether nothing of another group is in it. `sorted` by top edge.
fn is_clear(sorted: &[&Placed], at: Rect, group: u32) -> bool {
    let end = sorted.partition_point(|placed| placed.at.y < at.bottom());
    let above = sorted.get(..end).unwrap_or_default();
    !above.iter().any(|placed| placed.group() != Some(group) && placed.at.meets(at))
}
