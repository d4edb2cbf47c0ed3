//! A page of facts: sections of labels and texts, as wide as the terminal. In a pipe a fact is one
//! line, however long.

use std::io;

use super::output;
use super::output::style::STRONG;
use super::output::text::{columns, printable, wrap};
use crate::failure::Failure;

/// A page in the making.
#[derive(Debug, Default)]
pub struct Page {
    sections: Vec<Section>,
}

#[derive(Debug)]
struct Section {
    title: String,
    facts: Vec<(String, String)>,
}

/// Room before a label, and between it and its text.
const INDENT: usize = 2;
/// A label longer than this does not push all texts to the right.
const WIDEST_LABEL: usize = 24;

impl Page {
    /// Begins a section.
    pub fn section(&mut self, title: &str) {
        self.sections.push(Section { title: title.to_owned(), facts: Vec::new() });
    }

    /// Adds a fact to the last section; nothing where there is no text. The same label twice is
    /// shown once.
    pub fn fact(&mut self, label: &str, text: impl Into<String>) {
        let text = text.into();
        if let Some(section) = self.sections.last_mut().filter(|_| !text.is_empty()) {
            section.facts.push((label.to_owned(), text));
        }
    }

    /// Writes it.
    ///
    /// # Errors
    /// Standard output cannot be written.
    pub fn print(&self) -> Result<(), Failure> {
        output::text_out(&self.render(output::width(io::stdout()).map(usize::from)))
    }

    /// The page in so many columns, or without a bound.
    pub fn render(&self, width: Option<usize>) -> String {
        let labels = self.sections.iter().flat_map(|section| &section.facts);
        let widest = labels.map(|(label, _)| columns(label)).max().unwrap_or(0);
        let column = widest.min(WIDEST_LABEL) + 2 * INDENT;
        let mut lines = Vec::new();
        for section in self.sections.iter().filter(|section| !section.facts.is_empty()) {
            if !lines.is_empty() {
                lines.push(String::new());
            }
            lines.push(format!("{STRONG}{}{STRONG:#}", section.title));
            let mut before = "";
            for (label, text) in &section.facts {
                let shown = if label == before { "" } else { label };
                before = label;
                let start = format!("{:INDENT$}{shown}", "");
                lines.push(hang(&start, column, text, width));
            }
        }
        lines.join("\n")
    }
}

/// `text` after `start`, from a column on, also on the lines that follow. What would move the cursor
/// is replaced: the words are a host's.
pub fn hang(start: &str, column: usize, text: &str, width: Option<usize>) -> String {
    let taken = columns(start);
    let gap = column.saturating_sub(taken).max(1);
    let room = width.map_or(usize::MAX, |width| width.saturating_sub(column).max(20));
    let lines = wrap(&printable(text), room);
    let between = format!("\n{:column$}", "");
    format!("{start}{:gap$}{}", "", lines.join(&between)).trim_end().to_owned()
}

/// Bytes for people, in the largest unit that leaves a whole part: `2.6 GiB`.
pub fn bytes(bytes: u64) -> String {
    let units = [(40, "TiB"), (30, "GiB"), (20, "MiB"), (10, "KiB")];
    let Some((shift, unit)) = units.into_iter().find(|(shift, _)| bytes >> shift > 0) else {
        return format!("{bytes} B");
    };
    // Tenths, rounded down: what there is is never shown as more.
    let tenths = (bytes >> (shift - 10)).saturating_mul(10) >> 10;
    match (tenths / 10, tenths % 10) {
        (whole, 0) => format!("{whole} {unit}"),
        (whole, tenth) => format!("{whole}.{tenth} {unit}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_fits_its_width_and_hangs() {
        let mut page = Page::default();
        page.section("CPU");
        page.fact("model", "a b c d e f g h i j k l m n o p q r s t u v w x y z");
        page.fact("nothing", "");
        page.section("empty");
        let text = anstream::adapter::strip_str(&page.render(Some(40))).to_string();
        assert_eq!(
            text,
            "CPU\n  model  a b c d e f g h i j k l m n o p\n         q r s t u v w x y z"
        );
        assert_eq!(page.render(None).lines().count(), 2);
    }

    #[test]
    fn what_a_host_says_cannot_move_the_cursor() {
        assert_eq!(hang("x", 3, "a \u{1b}[2J b", None), "x  a \u{fffd}[2J b");
    }

    #[test]
    fn sizes() {
        for (count, text) in [
            (0, "0 B"),
            (1023, "1023 B"),
            (1 << 20, "1 MiB"),
            ((5 << 30) / 2, "2.5 GiB"),
            ((1 << 30) - 1, "1023.9 MiB"),
            (u64::MAX, "16777215.9 TiB"),
        ] {
            assert_eq!(bytes(count), text);
        }
    }
}
