//! What the shapes mean.

use super::canvas::{Canvas, Rect};
use super::font::Face;
use super::marks;
use crate::topology::Standing;
use crate::topology::port::Acs;

const TEXT: Face = Face::new(12);
/// From one line to the next.
const LINE: i32 = 26;
/// From a shape to its text, and from there to the next.
const INDENT: i32 = 26;
const APART: i32 = 26;

/// Draws it from `(x, y)` on, in as many lines as it takes; returns its bottom.
pub fn draw(canvas: &mut Canvas, (left, y): (i32, i32), width: i32, iommu: bool) -> i32 {
    let mut pen = Pen { canvas, left, x: left, y, width };
    let states = [
        (Standing::Host { carries: String::new() }, "the host needs it"),
        (Standing::Guest { guest: String::new() }, "a guest has it"),
        (Standing::Ready, "ready for a guest"),
        (Standing::Free, "free"),
        (Standing::Together { with: String::new() }, "free, with all of its group"),
        (Standing::Blocked { why: String::new() }, "cannot be given away"),
    ];
    for (standing, text) in states {
        pen.item(text, |canvas, (x, y)| {
            marks::shape(canvas, Rect { x, y: y + 3, w: 16, h: 16 }, &standing);
        });
    }
    if iommu {
        for (acs, text) in
            [(Acs::On, "port keeps apart what is behind it (ACS)"), (Acs::Missing, "port does not")]
        {
            pen.item(text, |canvas, (x, y)| marks::shield(canvas, (x + 1, y + 3), acs));
        }
        for (class, text) in [("group", "IOMMU group"), ("shared", "IOMMU group of several")] {
            pen.item(text, |canvas, (x, y)| {
                canvas.rect(Rect { x, y: y + 4, w: 18, h: 14 }, 4, class);
            });
        }
    }
    pen.y + LINE
}

struct Pen<'a> {
    canvas: &'a mut Canvas,
    left: i32,
    x: i32,
    y: i32,
    width: i32,
}

impl Pen<'_> {
    fn item(&mut self, text: &str, shape: impl FnOnce(&mut Canvas, (i32, i32))) {
        let taken = INDENT + TEXT.width(text);
        if self.x > self.left && self.x + taken > self.left + self.width {
            (self.x, self.y) = (self.left, self.y + LINE);
        }
        shape(self.canvas, (self.x, self.y));
        let room = self.left + self.width - self.x - INDENT;
        self.canvas.text((self.x + INDENT, self.y + 15), room, TEXT, "ink", text);
        self.x += taken + APART;
    }
}
