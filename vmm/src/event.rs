//! Telling the launcher what happens: JSON lines on a pipe.

use std::fs::File;
use std::io::{self, Write};
use std::sync::Mutex;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use serde::Serialize;

/// Where events go. A launcher that went away hears nothing; the guest does not depend on it.
#[derive(Debug, Default)]
pub struct Reporter {
    pipe: Option<Mutex<File>>,
}

impl Reporter {
    /// To `pipe`, where there is one.
    pub fn new(pipe: Option<File>) -> Self {
        Reporter { pipe: pipe.map(Mutex::new) }
    }

    /// Whether anybody may hear.
    pub fn is_heard(&self) -> bool {
        self.pipe.is_some()
    }

    /// Whether the launcher has ended: nobody else reads the pipe.
    pub fn is_gone(&self) -> bool {
        let Some(pipe) = &self.pipe else { return false };
        let pipe = crate::lock(pipe);
        let mut polled = [PollFd::new(&*pipe, PollFlags::empty())];
        poll(&mut polled, Some(&Timespec::default())).is_ok_and(|_| !polled[0].revents().is_empty())
    }

    /// Tells of `event`, in one write, so that lines of several threads do not mix.
    pub fn send(&self, event: &impl Serialize) {
        let Some(pipe) = &self.pipe else { return };
        let written = serde_json::to_string(event)
            .map_err(io::Error::from)
            .and_then(|line| crate::lock(pipe).write_all(format!("{line}\n").as_bytes()));
        if let Err(error) = written {
            eprintln!("assign-vmm: cannot report an event: {error}");
        }
    }
}
