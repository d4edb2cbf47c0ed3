//! Results: tables for people, JSON and YAML for programs.
//!
//! A table fits the terminal it goes to; in a pipe each row is one line, however long, so that
//! `grep` and `awk` see whole rows.

use std::io::{self, IsTerminal, Write};

use anstyle::Style;
use clap::ValueEnum;
use comfy_table::{Cell, ColumnConstraint, ContentArrangement, Table as Comfy, presets};
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
    match writeln!(anstream::stdout(), "{text}") {
        Ok(()) => Ok(()),
        // A reader that has seen enough (`| head`) is no failure.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        Err(error) => Err(unwritable(&error)),
    }
}

fn unwritable(error: &dyn std::fmt::Display) -> Failure {
    Failure::failed(OwnReason::File, "standard output", format!("cannot be written: {error}"))
}

/// A table in the making.
#[derive(Debug)]
pub struct Table {
    table: Comfy,
}

impl Table {
    /// A table with these headings. Columns in `whole` are never broken over lines.
    pub fn new(headings: &[&str], whole: &[usize]) -> Table {
        let mut table = Comfy::new();
        table.load_style(presets::NOTHING);
        table.set_header(headings.iter().map(Cell::new));
        match width() {
            Some(width) => {
                table.set_content_arrangement(ContentArrangement::Dynamic);
                table.set_width(width);
            }
            None => {
                table.set_content_arrangement(ContentArrangement::Disabled);
            }
        }
        for (at, column) in table.column_iter_mut().enumerate() {
            column.set_padding((0, 2));
            if whole.contains(&at) {
                column.set_constraint(ColumnConstraint::ContentWidth);
            }
        }
        Table { table }
    }

    /// Adds a row; an empty cell is shown as `-`, so that columns stay columns in a pipe.
    pub fn row(&mut self, cells: &[String]) {
        let shown = |cell: &String| match cell.is_empty() {
            true => "-".to_owned(),
            false => printable(cell),
        };
        self.table.add_row(cells.iter().map(shown));
    }

    /// Writes it, with its headings in bold on a terminal.
    ///
    /// # Errors
    /// Standard output cannot be written.
    pub fn print(&self) -> Result<(), Failure> {
        let bold = Style::new().bold();
        let text: Vec<String> = self.table.lines().map(|line| line.trim_end().to_owned()).collect();
        let mut lines = text.iter();
        if let Some(headings) = lines.next() {
            text_out(&format!("{bold}{headings}{bold:#}"))?;
        }
        lines.try_for_each(|line| text_out(line))
    }
}

/// Names come from devices and people: what would move the cursor is replaced.
fn printable(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect()
}

/// Columns of the terminal that standard output is; `None` for a pipe or file.
fn width() -> Option<u16> {
    if !io::stdout().is_terminal() {
        return None;
    }
    let size = rustix::termios::tcgetwinsize(io::stdout()).ok();
    Some(size.map(|size| size.ws_col).filter(|columns| *columns >= 40).unwrap_or(80))
}
