//! Errors that point at the place: file, line, column, the line itself, a caret, the accepted form.
//!
//! What is shown comes from a file nobody has vouched for, and goes to a terminal: control and
//! direction-changing characters are replaced, wide lines are cut to a window around the caret, as
//! wide as the terminal.

use std::fmt;

use serde::{Serialize, Serializer};

use crate::document::Span;

/// Most errors kept for one file; the rest is counted.
const MAX_ERRORS: usize = 50;
/// Widest source line shown where it goes to no terminal, in columns.
const WINDOW: usize = 97;
/// Most characters kept of a source line on either side of the caret: more than any terminal shows.
const KEPT: usize = 250;
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
    /// What is kept of the line.
    excerpt: Excerpt,
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

impl Error {
    /// The error on a terminal of so many columns: messages are broken between words, and the source
    /// line is cut rather than broken, so that the caret stays below what it points at.
    pub fn render(&self, columns: usize) -> String {
        self.draw(Some(columns))
    }

    fn draw(&self, columns: Option<usize>) -> String {
        let file = clean(&self.file);
        let room = columns.unwrap_or(usize::MAX);
        let number = self.line().map(|line| line.to_string()).unwrap_or_else(|| " ".to_owned());
        let margin = " ".repeat(number.len());
        let mut out = match &self.place {
            Some(place) => {
                let Place { line, column, excerpt } = place.as_ref();
                let message = format!("{file}:{line}:{column}: {}", self.message);
                let beside = number.len() + " | ".len();
                let window = columns.map_or(WINDOW, |columns| columns.saturating_sub(beside));
                let (shown, carets) = excerpt.window(window);
                let message = hang(&message, room, 2);
                format!("{message}\n{number} | {shown}\n{margin} | {carets}")
            }
            None => hang(&format!("{file}: {}", self.message), room, 2),
        };
        if let Some(accepted) = &self.accepted {
            let accepted = format!("{margin} = accepted: {accepted}");
            out.push('\n');
            out.push_str(&hang(&accepted, room, margin.len() + " = ".len()));
        }
        out
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.draw(None))
    }
}

/// Breaks a text between words into lines of so many columns; all but the first stand `indent` in. A
/// longer word keeps a line of its own.
fn hang(text: &str, room: usize, indent: usize) -> String {
    let mut out = String::new();
    let mut used = 0;
    // What a text begins with is no gap between words.
    let start = text.len() - text.trim_start_matches(' ').len();
    let (lead, words) = text.split_at(start);
    for word in words.split(' ') {
        let wide: usize = word.chars().map(|c| columns(visible(c))).sum();
        if out.is_empty() {
            out.push_str(lead);
            used = lead.len();
        } else if used + 1 + wide > room && used > indent {
            out.push('\n');
            out.push_str(&" ".repeat(indent));
            used = indent;
        } else {
            out.push(' ');
            used += 1;
        }
        out.push_str(word);
        used += wide;
    }
    out
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

    /// All of them as [`Error::render`] draws each.
    pub fn render(&self, columns: usize) -> String {
        let each: Vec<String> = self.0.iter().map(|error| error.render(columns)).collect();
        each.join("\n\n")
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
        let excerpt = Excerpt::of(line, at.column, at.width);
        let place = Place { line: at.line, column: at.column + 1, excerpt };
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

/// What is kept of a source line: enough around a place for any terminal, and no more, since a line
/// may be as long as its file.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Excerpt {
    text: String,
    /// Characters of the line before and, if there are any, after it.
    before: usize,
    goes_on: bool,
    /// The place: characters from the begin of the text, and how many it covers.
    at: usize,
    width: usize,
}

impl Excerpt {
    fn of(line: &str, column: usize, width: usize) -> Excerpt {
        let before = column.saturating_sub(KEPT);
        let mut rest = line.chars().skip(before);
        let text: String = rest.by_ref().take(2 * KEPT).collect();
        Excerpt { text, before, goes_on: rest.next().is_some(), at: column - before, width }
    }

    /// Cuts a window of so many columns around the place, and draws carets below it.
    fn window(&self, window: usize) -> (String, String) {
        let window = window.max(8);
        let fits = self.before == 0 && !self.goes_on && columns_of(&self.text, window) <= window;
        // Half a window before the caret, which may be less in characters.
        let from = if fits { 0 } else { self.from(window / 2) };
        let (mut shown, mut carets) = (String::new(), String::new());
        if from > 0 || self.before > 0 {
            shown.push('…');
            carets.push(' ');
        }
        let mut used = shown.chars().count();
        // One column is for the ellipsis.
        let room = if fits { window } else { window - 1 };
        for (index, c) in self.text.chars().enumerate().skip(from) {
            let c = visible(c);
            if used + columns(c) > room {
                shown.push('…');
                break;
            }
            used += columns(c);
            match c {
                '\t' => shown.push_str(&" ".repeat(TAB)),
                c => shown.push(c),
            }
            if index < self.at {
                carets.push_str(&" ".repeat(columns(c)));
            } else if index < self.at + self.width {
                carets.push_str(&"^".repeat(columns(c)));
            }
        }
        if !carets.ends_with('^') {
            // The place is the end of the line, or below it.
            carets.push('^');
        }
        (shown.trim_end().to_owned(), carets)
    }

    /// The character at most so many columns before the place.
    fn from(&self, most: usize) -> usize {
        let before: Vec<char> = self.text.chars().take(self.at).collect();
        let mut used = 0;
        let fitting = before.iter().rev().take_while(|c| {
            used += columns(visible(**c));
            used <= most
        });
        before.len() - fitting.count()
    }
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
        draw_within(line, column, width, WINDOW)
    }

    fn draw_within(line: &str, column: usize, width: usize, window: usize) -> String {
        let (shown, carets) = Excerpt::of(line, column, width).window(window);
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
        assert!(shown.chars().count() <= WINDOW);
        let at = carets.chars().position(|c| c == '^').unwrap();
        assert_eq!(shown.chars().skip(at).take(3).collect::<String>(), "BAD");
    }

    /// Whatever the terminal, no line is wider, and the caret is below its character.
    #[test]
    fn a_page_is_as_wide_as_the_terminal() {
        let words = "one two three four five six seven eight nine ten".repeat(4);
        let long = "x".repeat(70);
        for line in [
            format!("  networks: [{{name: a, claim: {{pool: {words}}}}}] BAD {words}"),
            format!("{}BAD", "名前".repeat(300)),
            format!("BAD{}", "\t".repeat(300)),
            "BAD".to_owned(),
        ] {
            let column = line.split("BAD").next().unwrap().chars().count();
            let mut report = Report::new("host.yaml", &line);
            let at = Span { line: 1, column, width: 3 };
            report.error(at, format!("it is {words}"), Some(&format!("{words} and {long}")));
            let error = report.finish().remove(0);
            for width in [40, 80, 132, 200] {
                let page = error.render(width);
                for text in page.lines().filter(|text| !text.contains(&long)) {
                    assert!(columns_of(text, width) <= width, "{width}: {text}");
                }
                let drawn = |mark: &str| page.lines().find(|text| text.starts_with(mark)).unwrap();
                let carets = page.lines().find(|text| text.contains('^')).unwrap();
                let before = columns_of(carets.split('^').next().unwrap(), 999);
                let shown = drawn("1 | ").split("BAD").next().unwrap().to_owned();
                assert_eq!(columns_of(&shown, 999), before, "{page}");
            }
            // A wide terminal is used.
            assert!(error.render(200).len() <= 4 * error.to_string().len());
        }
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
