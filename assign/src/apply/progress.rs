//! One line per step on a terminal, none elsewhere. A step that takes long lives on it: for how many
//! seconds it has been going on, how many VFs there are by now, and whether somebody wants it to end.

use std::io::{IsTerminal, Write, stderr};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::mpsc::{self, RecvTimeoutError, Sender};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use sriov::facts::iov;
use sriov::facts::reader::Reader;
use sriov::{Change, HostRoot, PciAddress};

use crate::signals::Signals;

/// A step that is over sooner shows no time.
const SOON: Duration = Duration::from_secs(1);

/// The line of one step.
pub(super) struct Progress {
    shown: bool,
    live: Option<Live>,
}

/// What keeps the line of a long step up to date.
struct Live {
    end: Sender<()>,
    thread: JoinHandle<bool>,
}

impl Progress {
    /// The line of a step that is soon over.
    pub fn of(step: &impl std::fmt::Display) -> Progress {
        let shown = stderr().is_terminal();
        if shown {
            anstream::eprint!("  {step} ... ");
            stderr().flush().ok();
        }
        Progress { shown, live: None }
    }

    /// The line of a change. Making VFs may take minutes, in one write that nothing can stop; what
    /// has been asked for meanwhile is told and not taken from `signals`.
    pub fn of_change(root: &HostRoot, change: &Change, signals: Option<&Signals>) -> Progress {
        let mut progress = Progress::of(change);
        let Change::SetVfCount { pf, from, to } = *change.plain() else { return progress };
        if progress.shown {
            let asked = signals.and_then(|signals| signals.as_fd().try_clone_to_owned().ok());
            let watched = Watched { root: root.clone(), pf, most: from.max(to), asked };
            let line = format!("  {change} ... ");
            let (end, ended) = mpsc::channel();
            let live = move || watched.show(&line, &ended);
            // Where there is no thread to be had, the line stays as it is.
            let thread = std::thread::Builder::new().spawn(live);
            progress.live = thread.ok().map(|thread| Live { end, thread });
        }
        progress
    }

    /// The step is over.
    pub fn end(self, well: bool) {
        self.end_as(if well { "done" } else { "failed" });
    }

    /// The step is over, in this way.
    pub fn end_as(self, word: &str) {
        let mut rewritten = false;
        if let Some(live) = self.live {
            drop(live.end);
            rewritten = live.thread.join().unwrap_or(false);
        }
        if self.shown {
            // The rest of a line that told more is wiped out.
            anstream::eprintln!("{word}{}", if rewritten { "\u{1b}[K" } else { "" });
        }
    }
}

/// A PF whose VFs come or go.
struct Watched {
    root: HostRoot,
    pf: PciAddress,
    most: u16,
    asked: Option<OwnedFd>,
}

impl Watched {
    /// Keeps the line up to date until the step is over; says whether it was touched. The cursor is
    /// behind the dots then.
    fn show(&self, line: &str, ended: &mpsc::Receiver<()>) -> bool {
        let begun = Instant::now();
        let mut touched = false;
        while let Err(RecvTimeoutError::Timeout) = ended.recv_timeout(SOON) {
            let there = iov::vfs(&mut Reader::new(&self.root), self.pf).len();
            let text = told(begun.elapsed(), there, self.most, self.is_asked_to_end());
            anstream::eprint!("\r{line}{text}\u{1b}[K");
            stderr().flush().ok();
            touched = true;
        }
        if touched {
            anstream::eprint!("\r{line}");
            stderr().flush().ok();
        }
        touched
    }

    /// A look that leaves the signal where it is: the command heeds it after the step.
    fn is_asked_to_end(&self) -> bool {
        let Some(asked) = &self.asked else { return false };
        let mut polled = [PollFd::new(asked, PollFlags::IN)];
        let now = Timespec { tv_sec: 0, tv_nsec: 0 };
        poll(&mut polled, Some(&now)).is_ok_and(|ready| ready > 0)
    }
}

fn told(time: Duration, there: usize, most: u16, asked: bool) -> String {
    let seconds = time.as_secs();
    let waiting =
        if asked { ", then ends as asked: the kernel cannot be stopped half way" } else { "" };
    format!("{seconds} s, {there} of {most} there{waiting}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_step_tells_time_number_and_what_was_asked() {
        assert_eq!(told(Duration::from_millis(12_900), 57, 125, false), "12 s, 57 of 125 there");
        let asked = told(Duration::from_secs(60), 0, 7, true);
        assert!(asked.starts_with("60 s, 0 of 7 there, then ends as asked"), "{asked}");
    }
}
