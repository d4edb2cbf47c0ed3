//! Results: tables and texts for people, JSON and YAML for programs.
//!
//! A table fits the terminal it goes to; in a pipe each row is one line, however long, so that
//! `grep` and `awk` see whole rows. Colour is for terminals only, and never says what words do not
//! say as well.

use std::io::{self, IsTerminal, Write};
use std::os::fd::AsFd;

use clap::ValueEnum;
use serde::Serialize;

use crate::failure::{Failure, OwnReason};

pub mod style;
mod table;
pub mod text;

pub use table::{Cell, Table};

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
    match format {
        Format::Table => Ok(()),
        _ => {
            // Unlike a table, it has no colours that may have to be left out.
            let mut text = serialized(format, value)?;
            text.truncate(text.trim_end().len());
            text.push('\n');
            let mut stdout = io::stdout().lock();
            heard(stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush())).map(drop)
        }
    }
}

/// `value` as a program gets it; JSON where the format is for people.
///
/// # Errors
/// It cannot be written in this format.
pub fn serialized<T: Serialize>(format: Format, value: &T) -> Result<String, Failure> {
    match format {
        Format::Table | Format::Json => {
            serde_json::to_string_pretty(value).map_err(|error| unwritable(&error))
        }
        Format::Yaml => serde_saphyr::to_string(value).map_err(|error| unwritable(&error)),
    }
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
    heard(writeln!(stdout, "{text}").and_then(|()| stdout.flush()))
}

/// Whether somebody still reads.
fn heard(written: io::Result<()>) -> Result<bool, Failure> {
    match written {
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

/// `text` broken over lines that fit the terminal; one line for a pipe.
pub fn paragraph(text: &str) -> String {
    text::paragraph(text, width(io::stdout()).map_or(usize::MAX, usize::from))
}

/// Columns of the terminal that `stream` is; `None` for a pipe or file.
pub fn width(stream: impl IsTerminal + AsFd) -> Option<u16> {
    if !stream.is_terminal() {
        return None;
    }
    let size = rustix::termios::tcgetwinsize(&stream).ok();
    // A terminal that does not know its size says 0.
    Some(size.map(|size| size.ws_col).filter(|columns| *columns > 0).unwrap_or(80))
}
