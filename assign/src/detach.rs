//! Going on without the terminal: the command that was typed returns when its work is under way, and
//! a process of its own session goes on with it.
//!
//! ```text
//! front    waits: for the word that all is well, or for the other's end, whose exit code is its own;
//!          a signal is passed on
//! behind   has the terminal for messages and questions until it gives that word; nothing of it after
//! ```

#![allow(unsafe_code)]

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::OwnedFd;

use rustix::event::{PollFd, PollFlags, poll};
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::pipe::PipeFlags;
use rustix::process::{Pid, Signal, WaitOptions};

use crate::signals::Signals;

/// One of the two processes that go on.
pub enum Side {
    /// The one that was typed.
    Front(Front),
    /// The one that goes on.
    Behind(Behind),
}

/// Waits for the other.
#[derive(Debug)]
pub struct Front {
    child: Pid,
    word: File,
    signals: Signals,
}

/// Does the work. Dropping it without [`Behind::leave`] has the other wait for this process's end.
#[derive(Debug)]
pub struct Behind {
    word: OwnedFd,
}

/// Makes two processes of this one.
///
/// # Errors
/// The kernel's, or that this process has several threads by now, of which the other would have one.
pub fn split() -> io::Result<Side> {
    if std::fs::read_dir("/proc/self/task")?.count() != 1 {
        return Err(io::Error::other("the process has several threads"));
    }
    let (word, to_front) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC)?;
    // Before there are two, so that none is missed in between.
    let signals = Signals::hold()?;
    // SAFETY: this process has one thread, so that the new one finds no lock held by another, and
    // all memory as it is here.
    match unsafe { libc::fork() } {
        0 => {
            drop((word, signals));
            // Ctrl-C on the terminal is for the other, which passes on what it means; the terminal's
            // end is for neither.
            rustix::process::setsid()?;
            Ok(Side::Behind(Behind { word: to_front }))
        }
        number => {
            let child = Pid::from_raw(number).filter(|_| number > 0);
            let child = child.ok_or_else(io::Error::last_os_error)?;
            Ok(Side::Front(Front { child, word: word.into(), signals }))
        }
    }
}

impl Front {
    /// Waits for the word, or else for the other's end. The exit code for this process.
    ///
    /// # Errors
    /// The kernel's, from waiting.
    pub fn wait(mut self) -> io::Result<u8> {
        loop {
            let mut polled =
                [PollFd::new(&self.word, PollFlags::IN), PollFd::new(&self.signals, PollFlags::IN)];
            match poll(&mut polled, None) {
                Ok(_) | Err(Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
            let has_word = !polled[0].revents().is_empty();
            if self.signals.came() {
                // One that has ended by itself needs none.
                rustix::process::kill_process(self.child, Signal::TERM).ok();
            }
            if has_word {
                break;
            }
        }
        if self.word.read(&mut [0])? > 0 {
            return Ok(0);
        }
        let status = loop {
            match rustix::process::waitpid(Some(self.child), WaitOptions::empty()) {
                Ok(Some((_, status))) => break status,
                Ok(None) | Err(Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        };
        let code = status.exit_status().or(status.terminating_signal().map(|signal| 128 + signal));
        Ok(code.and_then(|code| u8::try_from(code).ok()).unwrap_or(1))
    }
}

impl Behind {
    /// Lets go of the terminal, and gives the word.
    ///
    /// # Errors
    /// The kernel's.
    pub fn leave(self) -> io::Result<()> {
        let null = rustix::fs::open("/dev/null", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())?;
        rustix::stdio::dup2_stdin(&null)?;
        rustix::stdio::dup2_stdout(&null)?;
        rustix::stdio::dup2_stderr(&null)?;
        // Where the other was killed, nobody waits for it.
        rustix::io::write(&self.word, b"r").ok();
        Ok(())
    }
}
