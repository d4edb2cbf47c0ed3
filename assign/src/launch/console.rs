//! The guest's serial console on ours.
//!
//! ```text
//! a terminal   stdin ─► launcher, watching for Ctrl-] ─► pipe ─► guest      raw while it runs
//! otherwise    stdin ───────────────────────────────────────────► guest     untouched
//! stdout ◄───────────────────────────────────────────────────────  guest
//! ```

use std::io::{self, IsTerminal};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::pipe::PipeFlags;
use rustix::termios::{self, OptionalActions, Termios};

/// Ctrl-], which leaves the console, as in telnet and virsh.
const LEAVE: u8 = 0x1d;

/// Our end of the console, as long as the guest runs.
#[derive(Debug)]
pub enum Console {
    /// The guest has our standard input itself.
    Direct,
    /// We pass on what is typed.
    Terminal(Terminal),
}

/// A terminal in raw mode and the pipe to the guest. Dropping it puts the terminal back.
#[derive(Debug)]
pub struct Terminal {
    before: Termios,
    to_guest: OwnedFd,
}

/// What was typed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Typed {
    /// It was passed on.
    PassedOn,
    /// The key to leave.
    Leave,
    /// The terminal is gone.
    End,
}

impl Console {
    /// Takes the console for one run of a guest: our end, and what the guest reads from.
    ///
    /// # Errors
    /// The kernel's, from making the pipe or setting the terminal.
    pub fn open() -> io::Result<(Console, OwnedFd)> {
        let stdin = io::stdin();
        if !takes_terminal() {
            let input = rustix::io::fcntl_dupfd_cloexec(stdin.as_fd(), 3)?;
            return Ok((Console::Direct, input));
        }
        let (from_us, to_guest) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC)?;
        // The guest's end blocks or not as the VMM likes; ours must not wait for a busy guest.
        rustix::fs::fcntl_setfl(&to_guest, rustix::fs::OFlags::NONBLOCK)?;
        let before = termios::tcgetattr(stdin.as_fd())?;
        let mut raw = before.clone();
        raw.make_raw();
        termios::tcsetattr(stdin.as_fd(), OptionalActions::Now, &raw)?;
        Ok((Console::Terminal(Terminal { before, to_guest }), from_us))
    }

    /// A copy of our standard output for the guest.
    ///
    /// # Errors
    /// The kernel's, where standard output is closed.
    pub fn output() -> io::Result<OwnedFd> {
        Ok(rustix::io::fcntl_dupfd_cloexec(io::stdout().as_fd(), 3)?)
    }
}

/// Whether the console will be a terminal that we watch for Ctrl-].
pub fn takes_terminal() -> bool {
    let stdin = io::stdin();
    stdin.is_terminal() && in_foreground(stdin.as_fd())
}

/// A job in the background would be stopped for touching the terminal.
fn in_foreground(terminal: BorrowedFd<'_>) -> bool {
    termios::tcgetpgrp(terminal).is_ok_and(|group| group == rustix::process::getpgrp())
}

impl Terminal {
    /// Passes on what has been typed.
    pub fn pass_on(&self) -> Typed {
        let mut typed = [0; 256];
        let count = match rustix::io::read(io::stdin().as_fd(), &mut typed) {
            Ok(0) | Err(rustix::io::Errno::IO) => return Typed::End,
            Ok(count) => count,
            Err(_) => return Typed::PassedOn,
        };
        let typed = typed.get(..count).unwrap_or_default();
        let until = typed.iter().position(|byte| *byte == LEAVE);
        let for_guest = typed.get(..until.unwrap_or(count)).unwrap_or_default();
        if !for_guest.is_empty() {
            // A guest that reads nothing loses what does not fit, as on a real serial line.
            rustix::io::write(&self.to_guest, for_guest).ok();
        }
        if until.is_some() { Typed::Leave } else { Typed::PassedOn }
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        // A terminal that is gone needs nothing put back.
        termios::tcsetattr(io::stdin().as_fd(), OptionalActions::Now, &self.before).ok();
    }
}
