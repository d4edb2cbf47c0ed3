//! Text by the columns it takes on a terminal: measured, cut and broken over lines. A wide character
//! takes two columns, a combining one none.

use unicode_width::{UnicodeWidthChar, UnicodeWidthStr};

/// What stands between the links of a chain, as `eth0 → bond0 → default route` has it.
const ARROW: &str = " → ";

/// Columns that `text` takes.
pub fn columns(text: &str) -> usize {
    text.width()
}

/// Names come from devices and people: what would move the cursor, or turn the direction of what
/// follows, is replaced.
pub fn printable(text: &str) -> String {
    text.chars().map(|c| if is_printable(c) { c } else { '\u{fffd}' }).collect()
}

/// Neither a control character nor one that reorders its line (Unicode annex 9, explicit
/// directional formatting) or separates lines.
pub fn is_printable(c: char) -> bool {
    !c.is_control()
        && !matches!(c, '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// `text` in at most `limit` columns, with an ellipsis where something is left out: the end of a
/// name, the middle of a chain.
pub fn cut(text: &str, limit: usize) -> String {
    if columns(text) <= limit {
        return text.to_owned();
    }
    let ends = text.split_once(ARROW).zip(text.rsplit_once(ARROW));
    if let Some(((first, _), (_, last))) = ends {
        let short = format!("{first}{ARROW}…{ARROW}{last}");
        if columns(&short) <= limit {
            return short;
        }
    }
    let kept = &text[..fitting(text, limit.saturating_sub(1))];
    format!("{}…", kept.trim_end())
}

/// `1 core`, `2 cores`.
pub fn counted(count: u64, what: &str) -> String {
    format!("{count} {what}{}", if count == 1 { "" } else { "s" })
}

/// Length in bytes of the longest beginning that takes at most `limit` columns.
fn fitting(text: &str, limit: usize) -> usize {
    let mut taken = 0;
    for (at, c) in text.char_indices() {
        taken += c.width().unwrap_or(0);
        if taken > limit {
            return at;
        }
    }
    text.len()
}

/// Breaks at spaces into lines of at most `limit` columns; a word that is longer is broken as well.
pub fn wrap(text: &str, limit: usize) -> Vec<String> {
    let limit = limit.max(1);
    let mut lines = vec![String::new()];
    for word in text.split(' ') {
        let mut word = word;
        if let Some(line) = lines.last_mut() {
            let gap = usize::from(!line.is_empty());
            if columns(line) + gap + columns(word) <= limit {
                line.push_str(&" ".repeat(gap));
                line.push_str(word);
                continue;
            }
        }
        while columns(word) > limit {
            // At least one character, or a wide one in a narrow column would never end.
            let first = word.chars().next().map_or(0, char::len_utf8);
            let (head, tail) = word.split_at(fitting(word, limit).max(first));
            lines.push(head.to_owned());
            word = tail;
        }
        lines.push(word.to_owned());
    }
    lines.retain(|line| !line.is_empty());
    lines
}

/// Breaks at spaces; a word longer than a line keeps a line of its own, so that a command or a path
/// can still be copied.
pub fn paragraph(text: &str, width: usize) -> String {
    let mut wrapped = String::new();
    let mut column = 0;
    for word in text.split(' ') {
        let length = columns(word);
        if column > 0 && column + 1 + length > width {
            wrapped.push('\n');
            column = 0;
        } else if column > 0 {
            wrapped.push(' ');
            column += 1;
        }
        wrapped.push_str(word);
        column += length;
    }
    wrapped
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paragraphs_break_between_words() {
        assert_eq!(paragraph("one two three", 7), "one two\nthree");
        assert_eq!(paragraph("one two three", usize::MAX), "one two three");
        assert_eq!(paragraph("a 0000:01:10.0 b", 5), "a\n0000:01:10.0\nb");
    }

    #[test]
    fn cells_break_anywhere_if_they_must() {
        assert_eq!(wrap("one two three", 7), ["one two", "three"]);
        assert_eq!(wrap("abcdefgh ij", 3), ["abc", "def", "gh", "ij"]);
        assert_eq!(wrap("装置装置", 3), ["装", "置", "装", "置"]);
        assert_eq!(wrap("装", 1), ["装"]);
        assert!(wrap("", 5).is_empty());
    }

    #[test]
    fn what_is_cut_keeps_what_tells_most() {
        assert_eq!(cut("Intel 82576 Gigabit", 12), "Intel 82576…");
        assert_eq!(cut("装置装置", 5), "装置…");
        let chain = "eth0 → bond0 → br0 → default route";
        assert_eq!(cut(chain, 30), "eth0 → … → default route");
        assert_eq!(cut(chain, 34), chain);
        assert_eq!(cut(chain, 10), "eth0 → bo…");
    }

    #[test]
    fn what_would_move_or_turn_the_line_is_replaced() {
        assert_eq!(printable("a\u{1b}[2J\u{202e}b\n"), "a\u{fffd}[2J\u{fffd}b\u{fffd}");
    }
}
