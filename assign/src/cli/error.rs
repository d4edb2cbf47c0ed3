//! Failures: one paragraph for people, one object for programs, both on standard error.

use std::io;

use anstyle::{AnsiColor, Style};
use serde::Serialize;

use super::{Format, output};
use crate::failure::Failure;

#[derive(Serialize)]
struct Wrapped<'a> {
    error: &'a Failure,
}

/// Tells why the command did not do what was asked.
pub fn print(failure: &Failure, format: Format) {
    let wrapped = Wrapped { error: failure };
    let text = match format {
        Format::Table => None,
        Format::Json => serde_json::to_string(&wrapped).ok(),
        Format::Yaml => serde_saphyr::to_string(&wrapped).ok(),
    };
    match text {
        Some(text) => anstream::eprintln!("{}", text.trim_end()),
        None => paragraph(failure),
    }
}

fn paragraph(failure: &Failure) {
    if failure.documents.is_some() {
        // Each error shows its line with a caret below: not to be wrapped.
        anstream::eprintln!("{failure}");
        return;
    }
    let red = Style::new().bold().fg_color(Some(AnsiColor::Red.into()));
    let text = wrap(
        &format!("assign: {failure}"),
        output::width(io::stderr()).map_or(usize::MAX, usize::from),
    );
    match text.strip_prefix("assign:") {
        Some(rest) => anstream::eprintln!("{red}assign:{red:#}{rest}"),
        None => anstream::eprintln!("{text}"),
    }
}

/// Breaks at spaces; a word longer than a line keeps a line of its own.
fn wrap(text: &str, width: usize) -> String {
    let mut wrapped = String::new();
    let mut column = 0;
    for word in text.split(' ') {
        let length = word.chars().count();
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
    use super::wrap;

    #[test]
    fn wraps_between_words() {
        assert_eq!(wrap("one two three", 7), "one two\nthree");
        assert_eq!(wrap("one two three", usize::MAX), "one two three");
        assert_eq!(wrap("a 0000:01:10.0 b", 5), "a\n0000:01:10.0\nb");
    }
}
