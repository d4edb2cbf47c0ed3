//! Reading single values strictly: text, numbers and truth values as YAML 1.2 has them.

use std::collections::HashSet;
use std::ops::RangeInclusive;

use crate::document::{Node, Span, Value};
use crate::error::{Report, quote};

/// The known name that `name` is likely a slip of: equal but for case and an edit or two.
pub(crate) fn nearest<'k>(name: &str, known: &[&'k str]) -> Option<&'k str> {
    if name.len() > 40 {
        return None;
    }
    let lower = name.to_lowercase();
    let close = known.iter().map(|k| (distance(&lower, &k.to_lowercase()), *k)).min()?;
    (close.0 <= if close.1.len() > 4 { 2 } else { 1 }).then_some(close.1)
}

/// Edits from one word to the other: a letter put in, left out, replaced, or swapped with its
/// neighbour (optimal string alignment).
fn distance(a: &str, b: &str) -> usize {
    let (a, b): (Vec<char>, Vec<char>) = (a.chars().collect(), b.chars().collect());
    let mut rows: Vec<Vec<usize>> = vec![(0..=b.len()).collect()];
    for i in 1..=a.len() {
        let mut row = vec![i];
        for j in 1..=b.len() {
            let same = a[i - 1] == b[j - 1];
            let replaced = rows[i - 1][j - 1] + usize::from(!same);
            let mut best = replaced.min(row[j - 1] + 1).min(rows[i - 1][j] + 1);
            if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                best = best.min(rows[i - 2][j - 2] + 1);
            }
            row.push(best);
        }
        rows.push(row);
    }
    rows[a.len()][b.len()]
}

/// Text. A plain scalar that YAML reads as a number, truth value or null is not text: it must be
/// quoted, so that both the writer and other YAML tools see the same.
pub(crate) fn text<'n>(
    node: &'n Node,
    what: &str,
    form: &str,
    report: &mut Report<'_>,
) -> Option<&'n str> {
    let Value::Scalar { text, plain } = &node.value else {
        report.error(node.span, format!("{what} is text, not {}", node.describe()), Some(form));
        return None;
    };
    if *plain && let Some(other) = plain_meaning(text) {
        let message =
            format!("{what} is text, but {} reads as {other}: write \"{text}\"", quote(text));
        report.error(node.span, message, Some(form));
        return None;
    }
    Some(text)
}

/// What YAML 1.2's core schema (section 10.3.2) reads a plain scalar as, where that is not text.
pub(crate) fn plain_meaning(text: &str) -> Option<&'static str> {
    let digits = text.strip_prefix(['-', '+']).unwrap_or(text);
    match text {
        "" | "~" | "null" | "Null" | "NULL" => return Some("nothing"),
        "true" | "True" | "TRUE" | "false" | "False" | "FALSE" => return Some("a truth value"),
        _ => {}
    }
    if matches!(text, ".nan" | ".NaN" | ".NAN") || matches!(digits, ".inf" | ".Inf" | ".INF") {
        return Some("a number");
    }
    let radix = |prefix: &str, radix: u32| {
        text.strip_prefix(prefix)
            .is_some_and(|rest| !rest.is_empty() && rest.chars().all(|c| c.is_digit(radix)))
    };
    if radix("0x", 16) || radix("0o", 8) {
        return Some("a number");
    }
    let starts = digits.starts_with(|c: char| c.is_ascii_digit() || c == '.');
    let numeric = digits.chars().all(|c| matches!(c, '0'..='9' | '.' | 'e' | 'E' | '+' | '-'));
    (starts && numeric && digits.parse::<f64>().is_ok()).then_some("a number")
}

/// A whole number in decimal, unquoted, without leading zeros.
pub(crate) fn number(
    node: &Node,
    what: &str,
    range: RangeInclusive<u64>,
    report: &mut Report<'_>,
) -> Option<u64> {
    let (low, high) = (*range.start(), *range.end());
    let form = format!("a whole number from {low} to {high}");
    let wrong = |why: String, report: &mut Report<'_>| {
        report.error(node.span, why, Some(&form));
        None
    };
    let Value::Scalar { text, plain } = &node.value else {
        return wrong(format!("{what} is a number, not {}", node.describe()), report);
    };
    let all_digits = !text.is_empty() && text.bytes().all(|c| c.is_ascii_digit());
    if all_digits && !plain {
        return wrong(format!("{what} is a number: write {} without quotes", clip(text)), report);
    }
    if all_digits && text.len() > 1 && text.starts_with('0') {
        let message =
            format!("{what}: {} has a leading zero, which some read as octal", quote(text));
        return wrong(message, report);
    }
    if !all_digits {
        return wrong(format!("{what} is a number, not {}", node.describe()), report);
    }
    match text.parse::<u64>() {
        Ok(value) if range.contains(&value) => Some(value),
        _ => wrong(format!("{what} is {}, which is out of range", clip(text)), report),
    }
}

fn clip(digits: &str) -> String {
    if digits.len() > 24 { format!("{}…", &digits[..24]) } else { digits.to_owned() }
}

/// A truth value as YAML 1.2's core schema has them (section 10.3.2); `yes`, `no`, `on` and `off`,
/// which YAML 1.1 had as well, are words.
pub(crate) fn truth(node: &Node) -> Option<bool> {
    match &node.value {
        Value::Scalar { text, plain: true } => truth_of(text),
        _ => None,
    }
}

fn truth_of(text: &str) -> Option<bool> {
    match text {
        "true" | "True" | "TRUE" => Some(true),
        "false" | "False" | "FALSE" => Some(false),
        _ => None,
    }
}

/// The same, or an error.
pub(crate) fn boolean(node: &Node, what: &str, report: &mut Report<'_>) -> Option<bool> {
    if let Some(truth) = truth(node) {
        return Some(truth);
    }
    let form = "true, false";
    let Value::Scalar { text, .. } = &node.value else {
        let message = format!("{what} is true or false, not {}", node.describe());
        report.error(node.span, message, Some(form));
        return None;
    };
    let message = match truth_of(text) {
        Some(_) => format!("{what} is true or false: write {text} without quotes"),
        None => format!("{what} is true or false, not {}", quote(text)),
    };
    report.error(node.span, message, Some(form));
    None
}

/// Names already taken, for rejecting a second use.
#[derive(Default)]
pub(crate) struct Taken(HashSet<String>);

impl Taken {
    /// Notes `name`; false and an error if it is taken already.
    pub fn take(&mut self, name: &str, at: Span, what: &str, report: &mut Report<'_>) -> bool {
        let fresh = self.0.insert(name.to_owned());
        if !fresh {
            let message = format!("another {what} is already named {}", quote(name));
            report.error(at, message, Some("each name once, in all files given together"));
        }
        fresh
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plain_words_mean_what_yaml_1_2_says() {
        for number in
            ["8086", "010", "-1", "1e10", "1.5", ".5", "0x8086", "0o17", ".inf", "-.inf", ".NaN"]
        {
            assert_eq!(plain_meaning(number), Some("a number"), "{number}");
        }
        for text in [
            "no", "yes", "on", "off", "y", "10c9", "1_000", "0b1", "0xg", "01:10.0", "web-1", "e",
            "nan", "inf",
        ] {
            assert_eq!(plain_meaning(text), None, "{text}");
        }
        assert_eq!(plain_meaning("true"), Some("a truth value"));
        assert_eq!(plain_meaning("~"), Some("nothing"));
    }

    #[test]
    fn slips_are_recognized() {
        assert_eq!(nearest("vsf", &["name", "vfs"]), Some("vfs"));
        assert_eq!(nearest("vf", &["name", "vfs"]), Some("vfs"));
        assert_eq!(nearest("Networks", &["network", "networks"]), Some("networks"));
        assert_eq!(nearest("initramfs", &["kernel", "initrd"]), None);
    }
}
