//! A program of the host's at the other end of a port.

use std::fs::File;
use std::io::{ErrorKind, Read, Write};
use std::os::fd::BorrowedFd;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::net::{SocketFlags, accept_with};

use crate::machine::event_loop::Watch;

/// Most that is read before the guest has a buffer for it, in bytes.
pub const AHEAD: usize = 4096;

/// The next in line at a listening socket, by a stream that does not block.
///
/// # Errors
/// The kernel's: `AGAIN` where there is none.
pub fn accept(listener: BorrowedFd<'_>) -> Result<File, Errno> {
    accept_with(listener, SocketFlags::CLOEXEC | SocketFlags::NONBLOCK).map(File::from)
}

/// A client.
pub struct Client {
    /// The socket.
    pub stream: File,
    /// How it is watched.
    pub watch: Option<Watch>,
    /// What it has said and the guest has not got, at most [`AHEAD`] bytes: so that its end is noticed.
    held: Vec<u8>,
    /// It says no more.
    has_ended: bool,
    /// It takes no more.
    is_deaf: bool,
}

/// What came of something that a client was to take.
#[derive(Debug, PartialEq, Eq)]
pub enum Took {
    /// So many bytes of it.
    Some(usize),
    /// Nothing now.
    Nothing,
    /// Nothing, and it never will.
    Never,
}

impl Client {
    /// At the other end of `stream`.
    pub fn new(stream: File, watch: Option<Watch>) -> Self {
        Client { stream, watch, held: Vec::new(), has_ended: false, is_deaf: false }
    }

    /// What it says next, at most [`AHEAD`] bytes; nothing where it has nothing to say now.
    pub fn says(&mut self) -> &[u8] {
        while self.held.is_empty() && !self.has_ended {
            self.held.resize(AHEAD, 0);
            let read = (&self.stream).read(&mut self.held);
            self.held.truncate(*read.as_ref().unwrap_or(&0));
            match read {
                Ok(0) => self.has_ended = true,
                Ok(_) => {}
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(_) => self.has_ended = true,
            }
        }
        &self.held
    }

    /// The guest has the first `count` bytes of it.
    pub fn is_heard(&mut self, count: usize) {
        self.held.drain(..count);
    }

    /// Gives it `bytes`.
    pub fn take(&mut self, bytes: &[u8]) -> Took {
        while !self.is_deaf {
            match (&self.stream).write(bytes) {
                Ok(count) => return Took::Some(count),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Took::Nothing,
                Err(_) => self.is_deaf = true,
            }
        }
        Took::Never
    }

    /// Whether it is gone; what it has said may still be there.
    pub fn has_hung_up(&self) -> bool {
        let mut polled = [PollFd::new(&self.stream, PollFlags::empty())];
        matches!(poll(&mut polled, Some(&Timespec::default())), Ok(1))
    }

    /// Whether it is gone, and the guest has all that it has said.
    pub fn is_over(&mut self) -> bool {
        self.says().is_empty() && self.has_ended && self.has_hung_up()
    }
}
