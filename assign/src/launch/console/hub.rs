//! The thread between a guest's console and everybody who has it.

use std::convert::Infallible;
use std::fs::File;
use std::io::{ErrorKind, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender};
use std::thread;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, poll};

use super::MOST_ATTACHED;
use super::front::Front;
use super::viewer::{Viewer, passes};
use crate::launch::log::{self, Log};

/// A serial port prints byte by byte. After some, more are waited for this long: nobody sees it, and
/// a line does not cost us a wake-up for each of its letters.
const GATHER: Duration = Duration::from_millis(2);
/// Most that is shown at once of what was printed before, in bytes.
const MOST_HISTORY: usize = 1 << 19;
/// Most that is kept of what was typed and the guest has no room for, in bytes.
const MOST_UNHEARD: usize = 1 << 16;

/// What the hub is told.
#[derive(Debug)]
pub enum Command {
    /// The guest lives.
    Live {
        /// What it prints.
        from_guest: OwnedFd,
        /// What it reads.
        to_guest: OwnedFd,
        /// Dropped when all that it printed in this life is shown.
        until_shown: Sender<Infallible>,
    },
    /// Somebody is there.
    Attach {
        /// Who, by a stream that does not block.
        stream: UnixStream,
        /// How many of the last lines they get to see.
        lines: usize,
    },
    /// The guest lives no more, once what it printed is shown.
    End,
}

/// Everything between a guest's console and everybody who has it.
pub struct Hub {
    commands: Receiver<Command>,
    wakes: Arc<OwnedFd>,
    leaves: Arc<OwnedFd>,
    path: PathBuf,
    log: Option<Log>,
    front: Option<Front>,
    viewers: Vec<Viewer>,
    guest: Option<Guest>,
    until_shown: Option<Sender<Infallible>>,
    ends: bool,
}

/// The guest's end.
struct Guest {
    from: File,
    to: File,
    /// What was typed and it has not taken yet.
    unheard: Vec<u8>,
}

/// What is waited for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Source {
    Wakes,
    Printed,
    Heard,
    Stdin,
    Stdout,
    Viewer(usize),
}

impl Hub {
    /// With the log at that path, where there is one, and our own standard input and output as
    /// `front`.
    pub fn new(
        commands: Receiver<Command>,
        wakes: Arc<OwnedFd>,
        leaves: Arc<OwnedFd>,
        (path, log): (PathBuf, Option<Log>),
        front: Option<Front>,
    ) -> Hub {
        let (viewers, guest, until_shown) = (Vec::new(), None, None);
        Hub { commands, wakes, leaves, path, log, front, viewers, guest, until_shown, ends: false }
    }

    /// Works until it is told to end, and the guest has.
    pub fn run(mut self) {
        loop {
            let holds = self.front.as_ref().is_some_and(|front| front.output().is_some());
            if self.guest.is_none() && !holds {
                self.until_shown = None;
                if self.ends {
                    return;
                }
            }
            let Some(came) = self.wait() else { return };
            let mut gathers = false;
            for (source, flags) in came {
                match source {
                    Source::Wakes => self.obey(),
                    Source::Printed => gathers = self.take_printed(),
                    Source::Heard => self.guest.iter_mut().for_each(Guest::hear),
                    Source::Stdin => self.take_typed(),
                    Source::Stdout => self.front.iter_mut().for_each(Front::flush),
                    Source::Viewer(at) => {
                        let Some(viewer) = self.viewers.get_mut(at) else { continue };
                        let typed = viewer.attend(flags);
                        self.type_in(&typed);
                    }
                }
            }
            self.viewers.retain(|viewer| !viewer.is_gone());
            if gathers {
                thread::sleep(GATHER);
            }
        }
    }

    /// Waits until something is to be done, and says what. None where that cannot be waited for.
    fn wait(&self) -> Option<Vec<(Source, PollFlags)>> {
        let (watched, mut polled) = self.watched();
        loop {
            match poll(&mut polled, None) {
                Ok(_) => break,
                Err(rustix::io::Errno::INTR) => {}
                Err(_) => return None,
            }
        }
        let came = watched.into_iter().zip(polled.iter().map(PollFd::revents));
        Some(came.filter(|(_, flags)| !flags.is_empty()).collect())
    }

    fn watched(&self) -> (Vec<Source>, Vec<PollFd<'_>>) {
        let has_room = self.guest.as_ref().is_some_and(|guest| guest.unheard.is_empty());
        let stdout = self.front.as_ref().and_then(Front::output);
        let mut watched = vec![(Source::Wakes, self.wakes.as_fd(), PollFlags::IN)];
        if let Some(guest) = &self.guest {
            // What nobody takes is not taken from the guest.
            if stdout.is_none() {
                watched.push((Source::Printed, guest.from.as_fd(), PollFlags::IN));
            }
            if !has_room {
                watched.push((Source::Heard, guest.to.as_fd(), PollFlags::OUT));
            }
            let stdin = self.front.as_ref().and_then(|front| front.input(has_room));
            watched.extend(stdin.map(|stdin| (Source::Stdin, stdin, PollFlags::IN)));
        }
        watched.extend(stdout.map(|stdout| (Source::Stdout, stdout, PollFlags::OUT)));
        watched.extend(
            self.viewers
                .iter()
                .enumerate()
                .map(|(at, viewer)| (Source::Viewer(at), viewer.as_fd(), viewer.awaited(has_room))),
        );
        let of =
            |(source, descriptor, flags)| (source, PollFd::from_borrowed_fd(descriptor, flags));
        watched.into_iter().map(of).unzip()
    }

    fn obey(&mut self) {
        rustix::io::read(&*self.wakes, &mut [0; 8]).ok();
        while let Ok(command) = self.commands.try_recv() {
            match command {
                Command::Live { from_guest, to_guest, until_shown } => {
                    let (from, to) = (from_guest.into(), to_guest.into());
                    self.guest = Some(Guest { from, to, unheard: Vec::new() });
                    self.until_shown = Some(until_shown);
                }
                Command::Attach { stream, lines } if self.viewers.len() < MOST_ATTACHED => {
                    let mut viewer = Viewer::new(stream);
                    let mut history = log::last_lines(&self.path, lines).unwrap_or_default();
                    let latest = history.split_off(history.len().saturating_sub(MOST_HISTORY));
                    viewer.show(&latest);
                    self.viewers.push(viewer);
                }
                // The stream is closed then.
                Command::Attach { mut stream, .. } => {
                    let message = format!("[assign: {MOST_ATTACHED} are attached already]\r\n");
                    stream.write_all(message.as_bytes()).ok();
                }
                Command::End => self.ends = true,
            }
        }
    }

    /// Shows what the guest has printed, and says whether more may follow at once.
    fn take_printed(&mut self) -> bool {
        let Some(guest) = &mut self.guest else { return false };
        let mut bytes = [0; 4096];
        let printed = match guest.from.read(&mut bytes) {
            Ok(count) if count > 0 => bytes.get(..count).unwrap_or_default(),
            Err(error) if passes(error.kind()) => return false,
            // Its process has ended.
            Ok(_) | Err(_) => {
                self.guest = None;
                return false;
            }
        };
        if let Some(log) = &mut self.log {
            // A disk that is full now may have room again later.
            log.write(printed).ok();
        }
        self.front.iter_mut().for_each(|front| front.show(printed));
        self.viewers.iter_mut().for_each(|viewer| viewer.show(printed));
        true
    }

    fn take_typed(&mut self) {
        let Some(front) = &mut self.front else { return };
        let typed = front.read();
        if typed.leaves {
            // Fails where it is readable already.
            rustix::io::write(&*self.leaves, &1u64.to_ne_bytes()).ok();
        }
        self.type_in(&typed.bytes);
    }

    fn type_in(&mut self, typed: &[u8]) {
        let Some(guest) = &mut self.guest else { return };
        // A terminal is read all the time: what a guest that reads nothing has no room for is lost,
        // as on a real serial line.
        if guest.unheard.len() < MOST_UNHEARD {
            guest.unheard.extend(typed);
        }
        guest.hear();
    }
}

impl Guest {
    /// Hands over as much of what was typed as there is room for.
    fn hear(&mut self) {
        while !self.unheard.is_empty() {
            match self.to.write(&self.unheard) {
                Ok(count) => drop(self.unheard.drain(..count)),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => return,
                // It reads no more.
                Err(_) => self.unheard.clear(),
            }
        }
    }
}
