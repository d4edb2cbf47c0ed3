//! Small shapes. Each state has one, so that nobody needs colours to read the picture.

use super::canvas::{Canvas, Rect};
use crate::topology::Standing;
use crate::topology::port::Acs;

/// Style of what is written about a standing.
pub fn text_class(standing: &Standing) -> &'static str {
    match standing {
        Standing::Host { .. } => "t-host",
        Standing::Guest { .. } => "t-guest",
        Standing::Ready => "t-ready",
        Standing::Free | Standing::Together { .. } => "t-free",
        Standing::Blocked { .. } => "t-blocked",
        Standing::Bridge => "soft",
    }
}

/// The shape of a standing: a dark square is the host's, a dark round one a guest's, a light one
/// with a strong edge is ready, one with a broken edge free, one that is struck out blocked. Returns
/// the style of a number that is written on it.
pub fn shape(canvas: &mut Canvas, at: Rect, standing: &Standing) -> &'static str {
    match standing {
        Standing::Host { .. } => {
            canvas.rect(at, 0, "host");
            "on-dark"
        }
        Standing::Guest { .. } => {
            canvas.rect(at, at.h / 2, "guest");
            "on-dark"
        }
        Standing::Ready => {
            canvas.rect(at, 4, "ready");
            "ink"
        }
        Standing::Free => {
            canvas.rect(at, 4, "free");
            "ink"
        }
        Standing::Together { .. } => {
            canvas.rect(at, 4, "free");
            let Rect { x, y, h, .. } = at;
            canvas.path(format!("M{} {}l{h} {}", x, y + h, -h), "wire");
            "ink"
        }
        Standing::Blocked { .. } => {
            canvas.rect(at, 0, "blocked");
            let Rect { x, y, w, h } = at;
            canvas.path(format!("M{x} {}L{} {y}", y + h, x + w), "strike");
            "ink"
        }
        Standing::Bridge => {
            canvas.rect(at, 0, "bridge");
            "ink"
        }
    }
}

/// A shield, whole with a tick or open with a stroke. Its box is 13 by 15.
pub fn shield(canvas: &mut Canvas, (x, y): (i32, i32), acs: Acs) {
    let outline =
        format!("M{x} {}l6.5 -2l6.5 2v5.5c0 4 -3 6.5 -6.5 7.5c-3.5 -1 -6.5 -3.5 -6.5 -7.5z", y + 2);
    if acs.isolates() {
        canvas.path(outline, "acs");
        canvas.path(format!("M{} {}l2.6 2.8l4.6 -5.2", x + 3, y + 7), "acs-mark");
    } else {
        canvas.path(outline, "no-acs");
        canvas.path(format!("M{} {}l7 7", x + 3, y + 4), "no-acs-mark");
    }
}

/// Style of what is written about a port's access control.
pub fn acs_class(acs: Acs) -> &'static str {
    if acs.isolates() { "t-acs" } else { "t-no-acs" }
}
