//! The terminal as a guest's console: every key goes to the guest but one, which leaves.

use std::io::{self, IsTerminal};
use std::os::fd::AsFd;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::termios::{self, OptionalActions, Termios};

/// Ctrl-], which leaves the console, as in telnet and virsh.
const LEAVE: u8 = 0x1d;

/// Standard input as a terminal in raw mode. Dropping it puts the terminal back.
#[derive(Debug)]
pub struct Raw {
    before: Termios,
}

/// What was typed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Typed {
    /// For the guest.
    pub bytes: Vec<u8>,
    /// Whether the key to leave was among it, or the terminal is gone.
    pub leaves: bool,
}

impl Raw {
    /// Switches the terminal over.
    ///
    /// # Errors
    /// The kernel's.
    pub fn enter() -> io::Result<Raw> {
        let stdin = io::stdin();
        let before = termios::tcgetattr(stdin.as_fd())?;
        let mut raw = before.clone();
        raw.make_raw();
        termios::tcsetattr(stdin.as_fd(), OptionalActions::Now, &raw)?;
        Ok(Raw { before })
    }
}

impl Drop for Raw {
    fn drop(&mut self) {
        // A terminal that is gone needs nothing put back.
        termios::tcsetattr(io::stdin().as_fd(), OptionalActions::Now, &self.before).ok();
    }
}

/// Whether standard input is a terminal, and ours to read: a job in the background would be stopped
/// for touching it.
pub fn is_ours() -> bool {
    let stdin = io::stdin();
    let in_front =
        || termios::tcgetpgrp(&stdin).is_ok_and(|group| group == rustix::process::getpgrp());
    stdin.is_terminal() && in_front()
}

/// Whether a few bytes that are written there are taken at once.
pub fn has_room(output: impl AsFd) -> bool {
    let mut polled = [PollFd::new(&output, PollFlags::OUT)];
    poll(&mut polled, Some(&Timespec::default())).is_ok_and(|ready| ready > 0)
}

/// Takes what was typed, once there is something.
pub fn typed() -> Typed {
    let mut bytes = [0; 256];
    match rustix::io::read(io::stdin().as_fd(), &mut bytes) {
        Ok(0) | Err(Errno::IO) => Typed { bytes: Vec::new(), leaves: true },
        Ok(count) => until_leave(bytes.get(..count).unwrap_or_default()),
        Err(_) => Typed { bytes: Vec::new(), leaves: false },
    }
}

fn until_leave(typed: &[u8]) -> Typed {
    let leave = typed.iter().position(|byte| *byte == LEAVE);
    let bytes = typed.get(..leave.unwrap_or(typed.len())).unwrap_or_default().to_vec();
    Typed { bytes, leaves: leave.is_some() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_follows_the_key_to_leave_is_for_nobody() {
        let typed = |bytes: &[u8]| {
            let Typed { bytes, leaves } = until_leave(bytes);
            (String::from_utf8(bytes).expect("text"), leaves)
        };
        assert_eq!(typed(b"ls\r"), ("ls\r".to_owned(), false));
        assert_eq!(typed(b"ls\x1drm"), ("ls".to_owned(), true));
        assert_eq!(typed(b"\x1d"), (String::new(), true));
    }
}
