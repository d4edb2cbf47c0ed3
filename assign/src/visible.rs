//! Texts of others, for a terminal.

/// The text with nothing in it that could move the cursor.
pub fn visible(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect()
}
