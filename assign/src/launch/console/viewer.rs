//! Somebody who is attached to a guest's console.

use std::io::{ErrorKind, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;

use rustix::event::PollFlags;

/// Most that waits for one who does not keep up, in bytes.
const MOST_BEHIND: usize = 1 << 20;

/// Somebody who is attached.
#[derive(Debug)]
pub struct Viewer {
    stream: UnixStream,
    /// What they have not taken yet.
    behind: Vec<u8>,
    /// Bytes that they miss, since they did not keep up.
    missed: usize,
    /// Whether they may still type something.
    types: bool,
    gone: bool,
}

impl Viewer {
    /// Of a stream that does not block.
    pub fn new(stream: UnixStream) -> Viewer {
        Viewer { stream, behind: Vec::new(), missed: 0, types: true, gone: false }
    }

    /// Whether they have left.
    pub fn is_gone(&self) -> bool {
        self.gone
    }

    /// What to wait for. They are not heard while the guest has no room for what they type.
    pub fn awaited(&self, has_room: bool) -> PollFlags {
        let mut awaited = PollFlags::empty();
        awaited.set(PollFlags::IN, self.types && has_room);
        awaited.set(PollFlags::OUT, !self.behind.is_empty());
        awaited
    }

    /// Shows `bytes` to them.
    pub fn show(&mut self, bytes: &[u8]) {
        if self.missed > 0 || self.behind.len().saturating_add(bytes.len()) > MOST_BEHIND {
            self.missed = self.missed.saturating_add(bytes.len());
        } else {
            self.behind.extend(bytes);
        }
        self.flush();
    }

    /// Goes on after something of this kind came, and returns what they typed.
    pub fn attend(&mut self, came: PollFlags) -> Vec<u8> {
        if came.contains(PollFlags::OUT) {
            self.flush();
        }
        if came.contains(PollFlags::IN) {
            return self.read();
        }
        if came.intersects(PollFlags::HUP | PollFlags::ERR | PollFlags::NVAL) {
            self.gone = true;
        }
        Vec::new()
    }

    fn read(&mut self) -> Vec<u8> {
        let mut typed = vec![0; 256];
        let count = match self.stream.read(&mut typed) {
            Ok(0) => {
                self.types = false;
                0
            }
            Ok(count) => count,
            Err(error) => {
                self.gone |= !passes(error.kind());
                0
            }
        };
        typed.truncate(count);
        typed
    }

    fn flush(&mut self) {
        while !self.gone {
            if self.behind.is_empty() {
                match std::mem::take(&mut self.missed) {
                    0 => return,
                    missed => self.behind.extend(told(missed).as_bytes()),
                }
            }
            match self.stream.write(&self.behind) {
                Ok(count) => drop(self.behind.drain(..count)),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => {
                    self.gone |= !passes(error.kind());
                    return;
                }
            }
        }
    }
}

/// Whether a stream is all right and only has no time, or nothing, now.
pub fn passes(error: ErrorKind) -> bool {
    matches!(error, ErrorKind::WouldBlock | ErrorKind::Interrupted)
}

fn told(missed: usize) -> String {
    format!("\r\n[assign: {missed} bytes were left out, since they were not taken in time]\r\n")
}

impl AsFd for Viewer {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.stream.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_does_not_keep_up_is_told_what_they_miss_and_then_goes_on() {
        let (ours, mut theirs) = UnixStream::pair().expect("a pair");
        ours.set_nonblocking(true).expect("a socket");
        let mut viewer = Viewer::new(ours);
        let line = [b'x'; 1000];
        for _ in 0..5_000 {
            viewer.show(&line);
        }
        let missed = viewer.missed;
        assert!(missed > 0 && viewer.behind.len() <= MOST_BEHIND, "{missed}");
        let mut taken = Vec::new();
        let expected = 5_000_000 - missed + told(missed).len();
        while taken.len() < expected {
            let mut bytes = vec![0; 1 << 16];
            let count = theirs.read(&mut bytes).expect("more");
            taken.extend(&bytes[..count]);
            viewer.attend(PollFlags::OUT);
        }
        viewer.show(b"here again");
        let mut last = [0; 10];
        theirs.read_exact(&mut last).expect("the next");
        assert_eq!(&last, b"here again");
        assert!(taken.ends_with(told(missed).as_bytes()));
    }

    #[test]
    fn who_has_nothing_more_to_type_goes_on_watching_until_they_leave() {
        let (ours, mut theirs) = UnixStream::pair().expect("a pair");
        ours.set_nonblocking(true).expect("a socket");
        let mut viewer = Viewer::new(ours);
        theirs.write_all(b"stop\n").expect("room");
        theirs.shutdown(std::net::Shutdown::Write).expect("a socket");
        assert_eq!(viewer.attend(PollFlags::IN), b"stop\n");
        assert_eq!(viewer.attend(PollFlags::IN), b"");
        assert!(!viewer.is_gone() && viewer.awaited(true).is_empty());
        viewer.show(b"bye");
        let mut shown = [0; 3];
        theirs.read_exact(&mut shown).expect("what was shown");
        drop(theirs);
        viewer.attend(PollFlags::HUP);
        assert!(viewer.is_gone());
    }
}
