//! Somebody wants a command to end that is changing the host. It does so between two steps, and what
//! becomes of those that were made is that person's choice, where there is one to be asked.

use std::io::{IsTerminal, Write, stderr, stdin};

use rustix::event::{PollFd, PollFlags, poll};

use crate::signals::Signals;

/// What is to become of the steps that were made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Choice {
    /// They are taken back.
    Back,
    /// The others are made as well.
    GoOn,
    /// They stay, and so does the journal.
    Leave,
}

/// Whether somebody can be asked.
pub(super) fn can_ask() -> bool {
    stdin().is_terminal() && stderr().is_terminal()
}

/// Says at once that the wish was heard.
pub(super) fn heard() {
    if can_ask() {
        anstream::eprintln!("\nInterrupted: the step under way is finished first.");
    } else {
        anstream::eprintln!(
            "assign: interrupted; the step under way is finished, then all is taken back"
        );
    }
}

/// Asks until there is an answer. Another signal means the same as the first: to end, and leave
/// nothing behind.
pub(super) fn ask(signals: &Signals, made: usize, of: usize) -> Choice {
    loop {
        anstream::eprint!(
            "{made} of {of} steps are made. Take them [b]ack, [g]o on, or [l]eave it for \
             `assign recover`? [B/g/l] "
        );
        stderr().flush().ok();
        let Some(answer) = answer(signals) else {
            anstream::eprintln!();
            return Choice::Back;
        };
        match answer.trim() {
            "" | "b" | "B" | "back" => return Choice::Back,
            "g" | "G" | "go" | "go on" => return Choice::GoOn,
            "l" | "L" | "leave" => return Choice::Leave,
            _ => {}
        }
    }
}

/// A line from the terminal; `None` where it is gone, or another signal came first.
fn answer(signals: &Signals) -> Option<String> {
    let input = stdin();
    let mut watched = [PollFd::new(signals, PollFlags::IN), PollFd::new(&input, PollFlags::IN)];
    loop {
        match poll(&mut watched, None) {
            Ok(_) => break,
            Err(rustix::io::Errno::INTR) => {}
            Err(_) => return None,
        }
    }
    if signals.came() {
        return None;
    }
    // A terminal hands out a line at a time.
    let mut line = [0; 256];
    let length = rustix::io::read(&input, &mut line).ok().filter(|length| *length > 0)?;
    Some(String::from_utf8_lossy(line.get(..length)?).into_owned())
}
