//! Results: tables for people, JSON and YAML for programs.
//!
//! A table fits the terminal it goes to; in a pipe each row is one line, however long, so that
//! `grep` and `awk` see whole rows.

use std::io::{self, IsTerminal, Write};
use std::os::fd::AsFd;

use anstyle::Style;
use clap::ValueEnum;
use comfy_table::{ColumnConstraint, ContentArrangement, Table as Comfy, presets};
use serde::Serialize;

use crate::failure::{Failure, OwnReason};

/// How results are written.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// For people.
    #[default]
    Table,
    /// For programs.
    Json,
    /// For programs and people.
    Yaml,
}

/// Writes `value` for a program; nothing for a table, which the verb writes itself.
///
/// # Errors
/// Standard output cannot be written.
pub fn value<T: Serialize>(format: Format, value: &T) -> Result<(), Failure> {
    let text = match format {
        Format::Table => return Ok(()),
        Format::Json => serde_json::to_string_pretty(value).map_err(|error| unwritable(&error))?,
        Format::Yaml => serde_saphyr::to_string(value).map_err(|error| unwritable(&error))?,
    };
    text_out(text.trim_end())
}

/// Writes lines for people.
///
/// # Errors
/// Standard output cannot be written.
pub fn text_out(text: &str) -> Result<(), Failure> {
    line_out(text).map(drop)
}

/// Writes lines for somebody who reads them as they come, and says whether anybody still does.
///
/// # Errors
/// Standard output cannot be written.
pub fn line_out(text: &str) -> Result<bool, Failure> {
    let mut stdout = anstream::stdout();
    match writeln!(stdout, "{text}").and_then(|()| stdout.flush()) {
        Ok(()) => Ok(true),
        // A reader that has seen enough (`| head`) is no failure.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(false),
        Err(error) => Err(unwritable(&error)),
    }
}

/// That standard output could not be written, and why.
pub fn unwritable(error: &dyn std::fmt::Display) -> Failure {
    Failure::failed(OwnReason::File, "standard output", format!("cannot be written: {error}"))
}

/// A table in the making.
#[derive(Debug)]
pub struct Table {
    headings: Vec<&'static str>,
    whole: Vec<usize>,
    short: Option<usize>,
    rows: Vec<Vec<String>>,
}

/// Room between columns.
const GAP: u16 = 2;
/// Least width of a column that is cut short.
const SHORTEST: usize = 12;

impl Table {
    /// A table with these headings. Columns in `whole` are never broken over lines.
    pub fn new(headings: &[&'static str], whole: &[usize]) -> Table {
        Table { headings: headings.to_vec(), whole: whole.to_vec(), short: None, rows: Vec::new() }
    }

    /// On a terminal, cuts this column short where that keeps each row on one line.
    #[must_use]
    pub fn shorten(self, column: usize) -> Table {
        Table { short: Some(column), ..self }
    }

    /// Adds a row; an empty cell is shown as `-`, so that columns stay columns in a pipe.
    pub fn row(&mut self, cells: &[String]) {
        self.rows.push(cells.iter().map(|cell| printable(cell)).collect());
    }

    /// Writes it, with its headings in bold on a terminal. There, a column with nothing in it is
    /// left out, for the others to have its room.
    ///
    /// # Errors
    /// Standard output cannot be written.
    pub fn print(&self) -> Result<(), Failure> {
        let width = width(io::stdout());
        let has_any = |at: usize| self.rows.iter().any(|row| row.get(at).is_some_and(|c| c != "-"));
        let shown: Vec<usize> = (0..self.headings.len())
            .filter(|at| width.is_none() || self.rows.is_empty() || has_any(*at))
            .collect();
        let bold = Style::new().bold();
        let table = self.lay_out(&shown, width);
        let text: Vec<String> = table.lines().map(|line| line.trim_end().to_owned()).collect();
        let mut lines = text.iter();
        if let Some(headings) = lines.next() {
            text_out(&format!("{bold}{headings}{bold:#}"))?;
        }
        lines.try_for_each(|line| text_out(line))
    }

    fn lay_out(&self, shown: &[usize], width: Option<u16>) -> Comfy {
        let mut table = Comfy::new();
        table.load_style(presets::NOTHING);
        table.set_header(shown.iter().filter_map(|at| self.headings.get(*at)));
        let limit = width.and_then(|width| self.limit(shown, usize::from(width)));
        for row in &self.rows {
            table.add_row(shown.iter().filter_map(|at| {
                let cell = row.get(*at)?;
                Some(match limit {
                    Some(limit) if Some(*at) == self.short => cut(cell, limit),
                    _ => cell.clone(),
                })
            }));
        }
        match width {
            Some(width) => {
                table.set_content_arrangement(ContentArrangement::Dynamic);
                table.set_width(width);
            }
            None => {
                table.set_content_arrangement(ContentArrangement::Disabled);
            }
        }
        for (column, at) in table.column_iter_mut().zip(shown) {
            column.set_padding((0, GAP));
            if self.whole.contains(at) {
                column.set_constraint(ColumnConstraint::ContentWidth);
            }
        }
        table
    }
}

impl Table {
    /// What the others leave to the column that may be cut short, where all do not fit.
    fn limit(&self, shown: &[usize], width: usize) -> Option<usize> {
        let natural = |at: usize| {
            let cells = self.rows.iter().filter_map(|row| row.get(at)).map(|cell| length(cell));
            cells.chain(self.headings.get(at).map(|heading| length(heading))).max().unwrap_or(0)
        };
        let (short, gap) = (self.short?, usize::from(GAP));
        let others = shown.iter().filter(|at| **at != short).map(|at| natural(*at) + gap).sum();
        let left = width.saturating_sub(others).saturating_sub(gap);
        (left < natural(short)).then_some(left.max(SHORTEST))
    }
}

fn length(text: &str) -> usize {
    text.chars().count()
}

fn cut(text: &str, limit: usize) -> String {
    if length(text) <= limit {
        return text.to_owned();
    }
    let kept: String = text.chars().take(limit.saturating_sub(1)).collect();
    format!("{}…", kept.trim_end())
}

/// Names come from devices and people: what would move the cursor is replaced.
fn printable(text: &str) -> String {
    if text.is_empty() {
        return "-".to_owned();
    }
    text.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect()
}

/// Columns of the terminal that `stream` is; `None` for a pipe or file.
pub fn width(stream: impl IsTerminal + AsFd) -> Option<u16> {
    if !stream.is_terminal() {
        return None;
    }
    let size = rustix::termios::tcgetwinsize(&stream).ok();
    Some(size.map(|size| size.ws_col).filter(|columns| *columns >= 40).unwrap_or(80))
}
