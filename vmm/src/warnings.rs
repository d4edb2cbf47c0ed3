//! What goes wrong while a guest runs, said on standard error, but not without end: a guest can
//! bring most of it about again and again.

use std::fmt::Display;
use std::sync::atomic::{AtomicU32, Ordering};

/// Warnings about one device that are printed.
const MOST: u32 = 8;

/// The warnings about one device. After the eighth it says so and falls silent.
pub struct Warnings {
    about: String,
    said: AtomicU32,
}

impl Warnings {
    /// For the device that messages are to call `about`.
    pub fn new(about: impl Into<String>) -> Self {
        Warnings { about: about.into(), said: AtomicU32::new(0) }
    }

    /// Warns of `what`.
    pub fn say(&self, what: impl Display) {
        if let Some(line) = self.line(what) {
            eprintln!("assign-vmm: {line}");
        }
    }

    fn line(&self, what: impl Display) -> Option<String> {
        let next = |said: u32| (said < MOST).then_some(said + 1);
        let said = self.said.fetch_update(Ordering::Relaxed, Ordering::Relaxed, next).ok()?;
        let last = if said + 1 == MOST { " (its further warnings are not shown)" } else { "" };
        Some(format!("{}: {what}{last}", self.about))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_guest_cannot_flood_the_log() {
        let warnings = Warnings::new("0000:01:10.0");
        let lines: Vec<_> = (0..1000).filter_map(|number| warnings.line(number)).collect();
        assert_eq!(lines.len(), 8);
        assert_eq!(lines[0], "0000:01:10.0: 0");
        assert_eq!(lines[7], "0000:01:10.0: 7 (its further warnings are not shown)");
    }
}
