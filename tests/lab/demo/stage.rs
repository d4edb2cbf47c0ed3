//! What the demo's audience sees: chapters, sentences, commands, and output as it comes.

use std::io::Write;
use std::time::{Duration, Instant};

use anstyle::{AnsiColor, Style};
use anyhow::{Context, Result};

use crate::host::Host;
use crate::job::{Job, Line};
use crate::progress::Clock;

/// Columns that are surely there.
const WIDTH: usize = 80;

/// How far output is moved to the right.
const MARGIN: &str = "  ";

/// How long a command may take that does not run a guest.
const COMMAND: Duration = Duration::from_secs(60);

const TITLE: Style = Style::new().bold();
const TYPED: Style = AnsiColor::Green.on_default().bold();

/// Where the demo plays.
pub struct Stage<'a> {
    host: &'a Host,
    chapter: u32,
}

impl<'a> Stage<'a> {
    /// An empty stage.
    pub fn new(host: &'a Host) -> Self {
        Stage { host, chapter: 0 }
    }

    /// Begins a chapter.
    pub fn begin(&mut self, title: &str) -> Result<()> {
        self.chapter += 1;
        print(&format!("\n{TITLE}{}. {title}{TITLE:#}", self.chapter))
    }

    /// The number of the chapter that has begun last.
    pub fn chapter(&self) -> u32 {
        self.chapter
    }

    /// Says something, in lines that fit.
    pub fn say(&self, text: &str) -> Result<()> {
        print("")?;
        wrap(text, WIDTH, "").iter().try_for_each(|line| print(line))
    }

    /// Says something that has its lines already.
    pub fn lines(&self, lines: &[&str]) -> Result<()> {
        lines.iter().try_for_each(|line| print(line))
    }

    /// Types a command and shows what it prints. It must succeed and print what is expected.
    pub fn run(&self, command: &str, expected: &[&str]) -> Result<String> {
        let mut typed = self.type_in(command)?;
        let printed = typed.finish(COMMAND)?;
        typed.must_hold(&printed, expected)?;
        Ok(printed)
    }

    /// Types a command that goes on while other things happen.
    pub fn type_in(&self, command: &str) -> Result<Typed> {
        print(&format!("\n{MARGIN}{TYPED}# {command}{TYPED:#}"))?;
        // A terminal, because that is what people have: tables fit it, headings are bold.
        let columns = WIDTH - MARGIN.len();
        Ok(Typed { job: self.host.spawn_on_terminal(command, columns as u16), seen: 0 })
    }
}

/// A command that was typed.
pub struct Typed {
    job: Job,
    seen: usize,
}

impl Typed {
    /// Shows what it prints, up to a line that holds `text`, and returns it.
    pub fn until(&mut self, text: &str, limit: Duration) -> Result<String> {
        let (printed, found) = self.show(Some(text), limit)?;
        match found {
            true => Ok(printed),
            false => Err(self.job.error(format!("it ended without printing {text:?}"))),
        }
    }

    /// Shows what it prints until it ends, and returns it. It must succeed.
    pub fn finish(&mut self, limit: Duration) -> Result<String> {
        let (printed, _) = self.show(None, limit)?;
        match self.job.wait(limit)?.code {
            0 => Ok(printed),
            code => Err(self.job.error(format!("it failed with exit code {code}"))),
        }
    }

    /// Types a line into it. Whether that is seen is its own business, as on any terminal.
    pub fn enter(&self, line: &str) -> Result<()> {
        self.job.stdin(&format!("{line}\r"));
        print("")
    }

    /// An error with all that is known, unless `printed` holds all these texts.
    pub fn must_hold(&self, printed: &str, expected: &[&str]) -> Result<()> {
        match expected.iter().find(|text| !printed.contains(**text)) {
            Some(text) => Err(self.job.error(format!("{text:?} is not in its output"))),
            None => Ok(()),
        }
    }

    /// An error with all that is known.
    pub fn error(&self, what: &str) -> anyhow::Error {
        self.job.error(what.to_owned())
    }

    /// Shows what it prints until it ends or a line holds `text`; says whether one did.
    fn show(&mut self, text: Option<&str>, limit: Duration) -> Result<(String, bool)> {
        let deadline = Instant::now() + limit;
        let mut printed = String::new();
        let mut clock = None;
        loop {
            match self.job.line(&mut self.seen, Duration::from_secs(1))? {
                Line::Printed(line) => {
                    drop(clock.take());
                    let hanging = format!("{MARGIN}{MARGIN}");
                    let line = left_standing(&line);
                    for part in wrap(&format!("{MARGIN}{line}"), WIDTH, &hanging) {
                        print(&part)?;
                    }
                    printed.push_str(line);
                    printed.push('\n');
                    if text.is_some_and(|text| line.contains(text)) {
                        return Ok((printed, true));
                    }
                }
                Line::NoMore => return Ok((printed, false)),
                Line::NotYet if Instant::now() < deadline => {
                    clock.get_or_insert_with(|| Clock::start("waiting".to_owned()));
                }
                Line::NotYet => {
                    self.job.kill();
                    let what = text.map_or("its end".to_owned(), |text| format!("{text:?}"));
                    let limit = limit.as_secs();
                    return Err(self.job.error(format!("{what} did not come within {limit} s")));
                }
            }
        }
    }
}

fn print(line: &str) -> Result<()> {
    writeln!(anstream::stdout(), "{line}").context("cannot write to standard output")
}

/// What a terminal has in the end of a line that was written over itself, as progress is.
fn left_standing(line: &str) -> &str {
    let last = line.trim_end_matches('\r').rsplit('\r').next().unwrap_or_default();
    last.strip_suffix("\u{1b}[K").unwrap_or(last)
}

/// Breaks a line at its spaces into lines of at most `width` characters, as far as words allow. All
/// but the first begin with `hanging`. A line with colours in it is left alone.
fn wrap(line: &str, width: usize, hanging: &str) -> Vec<String> {
    let mut lines = Vec::new();
    let mut rest = line.to_owned();
    while rest.chars().count() > width && !rest.contains('\x1b') {
        let indent = rest.len() - rest.trim_start().len();
        let fits = rest.char_indices().nth(width).map_or(rest.len(), |(at, _)| at);
        // The space itself may be one beyond.
        let space =
            if rest[fits..].starts_with(' ') { Some(fits) } else { rest[..fits].rfind(' ') };
        let Some(space) = space.filter(|at| *at > indent) else { break };
        lines.push(rest[..space].trim_end().to_owned());
        rest = format!("{hanging}{}", rest[space..].trim_start());
    }
    lines.push(rest);
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_that_was_written_over_shows_its_last_state() {
        assert_eq!(
            left_standing("wait ... \rwait ... 1 s\u{1b}[K\rwait ... done\u{1b}[K"),
            "wait ... done"
        );
        assert_eq!(left_standing("plain\r"), "plain");
    }

    #[test]
    fn lines_break_at_spaces() {
        assert_eq!(wrap("one two three", 7, ""), ["one two", "three"]);
        assert_eq!(wrap("one two three", 8, "  "), ["one two", "  three"]);
        assert_eq!(wrap("    indented text", 12, "  "), ["    indented", "  text"]);
        assert_eq!(wrap("→→→ →→→ →→→", 8, ""), ["→→→ →→→", "→→→"]);
        assert_eq!(wrap("  unbreakable", 5, "  "), ["  unbreakable"]);
        assert_eq!(wrap("", 5, ""), [""]);
    }
}
