//! Errors that point at the place: file, line, column, the line itself, a caret, the accepted form.
//!
//! What is shown comes from a file nobody has vouched for, and goes to a terminal: control and
//! direction-changing characters are replaced, wide lines are cut to a window around the caret.

use std::fmt;

use serde::{Serialize, Serializer};

use crate::document::Span;

/// Most errors kept for one file; the rest is counted.
const MAX_ERRORS: usize = 50;
/// Widest source line shown, in terminal columns.
const WINDOW: usize = 96;
/// Columns a tab is shown as.
const TAB: usize = 4;

/// One thing wrong in one source.
///
/// As JSON: `{"file", "line", "column", "message", "accepted"}`, where line and column count from 1
/// in characters, and are null with what concerns the file as a whole.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Error {
    file: String,
    place: Option<Box<Place>>,
    message: String,
    accepted: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Place {
    line: usize,
    column: usize,
    /// The line as it is shown, and what stands under it.
    shown: String,
    carets: String,
}

impl Error {
    /// An error about a whole file, such as one that cannot be read.
    pub(crate) fn of_file(file: &str, message: impl Into<String>) -> Error {
        Error { file: file.to_owned(), place: None, message: message.into(), accepted: None }
    }

    /// The name of the source, as given.
    pub fn file(&self) -> &str {
        &self.file
    }

    /// The line, from 1.
    pub fn line(&self) -> Option<usize> {
        self.place.as_ref().map(|place| place.line)
    }

    /// The column in characters, from 1.
    pub fn column(&self) -> Option<usize> {
        self.place.as_ref().map(|place| place.column)
    }

    /// What is wrong, in one line.
    pub fn message(&self) -> &str {
        &self.message
    }

    /// What would be accepted instead.
    pub fn accepted(&self) -> Option<&str> {
        self.accepted.as_deref()
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let file = clean(&self.file);
        let Some(place) = &self.place else {
            write!(f, "{file}: {}", self.message)?;
            return match &self.accepted {
                Some(accepted) => write!(f, "\n  = accepted: {accepted}"),
                None => Ok(()),
            };
        };
        let Place { line, column, shown, carets } = place.as_ref();
        let number = line.to_string();
        let margin = " ".repeat(number.len());
        writeln!(f, "{file}:{line}:{column}: {}", self.message)?;
        writeln!(f, "{number} | {shown}")?;
        write!(f, "{margin} | {carets}")?;
        if let Some(accepted) = &self.accepted {
            write!(f, "\n{margin} = accepted: {accepted}")?;
        }
        Ok(())
    }
}

impl std::error::Error for Error {}

impl Serialize for Error {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        use serde::ser::SerializeStruct;
        let mut out = serializer.serialize_struct("Error", 5)?;
        out.serialize_field("file", &self.file)?;
        out.serialize_field("line", &self.line())?;
        out.serialize_field("column", &self.column())?;
        out.serialize_field("message", &self.message)?;
        out.serialize_field("accepted", &self.accepted)?;
        out.end()
    }
}

/// Everything wrong in the sources, in the order of the text; never empty.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub struct Errors(pub(crate) Vec<Error>);

impl Errors {
    /// The errors one by one.
    pub fn iter(&self) -> impl Iterator<Item = &Error> {
        self.0.iter()
    }
}

impl fmt::Display for Errors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, error) in self.0.iter().enumerate() {
            if index > 0 {
                f.write_str("\n\n")?;
            }
            write!(f, "{error}")?;
        }
        Ok(())
    }
}

impl std::error::Error for Errors {}

/// Collects the errors of one source while it is read.
pub(crate) struct Report<'s> {
    file: &'s str,
    lines: Vec<&'s str>,
    errors: Vec<(Span, Error)>,
    left_out: usize,
}

impl<'s> Report<'s> {
    pub fn new(file: &'s str, text: &'s str) -> Report<'s> {
        Report { file, lines: lines(text), errors: Vec::new(), left_out: 0 }
    }

    /// Notes an error at a place of the source.
    pub fn error(&mut self, at: Span, message: impl Into<String>, accepted: Option<&str>) {
        if self.is_full() {
            self.left_out += 1;
            return;
        }
        let line = self.lines.get(at.line.wrapping_sub(1)).copied().unwrap_or_default();
        let (shown, carets) = window(line, at.column, at.width);
        let place = Place { line: at.line, column: at.column + 1, shown, carets };
        let place = Some(Box::new(place));
        let accepted = accepted.map(str::to_owned);
        let error = Error { file: self.file.to_owned(), place, message: message.into(), accepted };
        self.errors.push((at, error));
    }

    /// Whether further errors are only counted, so that what they would say need not be found out.
    pub fn is_full(&self) -> bool {
        self.errors.len() >= MAX_ERRORS
    }

    /// Number of errors so far.
    pub fn count(&self) -> usize {
        self.errors.len() + self.left_out
    }

    /// The errors in the order of the text.
    pub fn finish(mut self) -> Vec<Error> {
        self.errors.sort_by_key(|(at, _)| *at);
        let mut errors: Vec<Error> = self.errors.into_iter().map(|(_, error)| error).collect();
        if self.left_out > 0 {
            errors.push(Error::of_file(self.file, format!("and {} more errors", self.left_out)));
        }
        errors
    }
}

/// Lines as YAML counts them: a carriage return alone ends one too (YAML 1.2 section 5.4).
fn lines(text: &str) -> Vec<&str> {
    let mut lines = Vec::new();
    let mut rest = text;
    while let Some(end) = rest.find(['\n', '\r']) {
        let (line, from) = rest.split_at(end);
        lines.push(line);
        rest = from.strip_prefix("\r\n").unwrap_or(from.get(1..).unwrap_or_default());
    }
    lines.push(rest);
    lines
}

/// Cuts the window of `line` around the character at `column` and draws `width` carets below it.
fn window(line: &str, column: usize, width: usize) -> (String, String) {
    // Enough characters before the caret to fill half a window; the scan is linear in the line.
    let from =
        if columns_of(line, WINDOW) <= WINDOW { 0 } else { column.saturating_sub(WINDOW / 2) };
    let (mut shown, mut carets) = (String::new(), String::new());
    if from > 0 {
        shown.push('…');
        carets.push(' ');
    }
    let mut used = shown.chars().count();
    for (index, c) in line.chars().enumerate().skip(from) {
        let c = visible(c);
        if used + columns(c) > WINDOW {
            shown.push('…');
            break;
        }
        used += columns(c);
        match c {
            '\t' => shown.push_str(&" ".repeat(TAB)),
            c => shown.push(c),
        }
        if index < column {
            carets.push_str(&" ".repeat(columns(c)));
        } else if index < column + width {
            carets.push_str(&"^".repeat(columns(c)));
        }
    }
    if !carets.ends_with('^') {
        // The place is the end of the line, or below it.
        carets.push('^');
    }
    (shown.trim_end().to_owned(), carets)
}

/// Terminal columns of a line, counted no further than just beyond `limit`.
fn columns_of(line: &str, limit: usize) -> usize {
    let mut used = 0;
    for c in line.chars() {
        used += columns(visible(c));
        if used > limit {
            break;
        }
    }
    used
}

/// Terminal columns of a character, by the wide blocks of Unicode's East Asian Width (UAX #11).
fn columns(c: char) -> usize {
    match c {
        '\t' => TAB,
        '\u{300}'..='\u{36f}' | '\u{fe00}'..='\u{fe0f}' => 0,
        '\u{1100}'..='\u{115f}'
        | '\u{2e80}'..='\u{a4cf}'
        | '\u{ac00}'..='\u{d7a3}'
        | '\u{f900}'..='\u{faff}'
        | '\u{fe30}'..='\u{fe6f}'
        | '\u{ff00}'..='\u{ff60}'
        | '\u{ffe0}'..='\u{ffe6}'
        | '\u{1f300}'..='\u{1faff}'
        | '\u{20000}'..='\u{3fffd}' => 2,
        _ => 1,
    }
}

/// Replaces what would change the terminal or the reading order.
fn visible(c: char) -> char {
    match c {
        '\t' => c,
        '\u{200b}'..='\u{200f}'
        | '\u{202a}'..='\u{202e}'
        | '\u{2060}'..='\u{2069}'
        | '\u{feff}' => '�',
        c if c.is_control() => '�',
        c => c,
    }
}

fn clean(text: &str) -> String {
    text.chars().map(visible).collect()
}

/// A piece of the source within a message: in backquotes, cleaned, and cut after 60 characters.
pub(crate) fn quote(text: &str) -> String {
    let mut out = String::from("`");
    for (index, c) in text.chars().enumerate() {
        if index == 60 {
            out.push('…');
            break;
        }
        out.push(if c == '\t' { ' ' } else { visible(c) });
    }
    out.push('`');
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn draw(line: &str, column: usize, width: usize) -> String {
        let (shown, carets) = window(line, column, width);
        format!("{shown}\n{carets}")
    }

    #[test]
    fn tabs_and_wide_characters_keep_the_caret_below_its_character() {
        assert_eq!(draw("\tx: 1", 1, 1), "    x: 1\n    ^");
        assert_eq!(draw("名前: x", 4, 1), "名前: x\n      ^");
        assert_eq!(draw("é: x", 3, 1), "é: x\n   ^");
    }

    #[test]
    fn lines_end_as_in_yaml() {
        assert_eq!(lines("a\nb\r\nc\rd\n\re\n"), ["a", "b", "c", "d", "", "e", ""]);
        assert_eq!(lines(""), [""]);
    }

    #[test]
    fn a_wide_line_is_cut_to_a_window() {
        let line = format!("{}BAD{}", "a".repeat(500), "b".repeat(500));
        let drawn = draw(&line, 500, 3);
        let (shown, carets) = drawn.split_once('\n').unwrap();
        assert!(shown.starts_with('…') && shown.ends_with('…'));
        assert!(shown.chars().count() <= WINDOW + 1);
        let at = carets.chars().position(|c| c == '^').unwrap();
        assert_eq!(shown.chars().skip(at).take(3).collect::<String>(), "BAD");
    }

    #[test]
    fn a_place_beyond_the_line_gets_one_caret_at_its_end() {
        assert_eq!(draw("ab", 2, 1), "ab\n  ^");
        assert_eq!(draw("", 7, 3), "\n^");
    }

    #[test]
    fn escape_sequences_do_not_reach_the_terminal() {
        assert_eq!(draw("a\u{1b}[2Jb", 0, 1), "a�[2Jb\n^");
        assert_eq!(quote("x\u{202e}y"), "`x�y`");
    }
}
