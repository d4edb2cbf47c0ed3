//! The guest's serial console, over all its lives: what it prints goes to our standard output, to
//! a file and to everybody who is attached, and what any of them types goes to it.
//!
//! ```text
//! stdin, a terminal in raw mode until Ctrl-], or a pipe ─┐      ┌─► stdout
//! attached ──────────────────────────────────────────────┴► hub ┼─► attached
//!                                      guest ◄── pipes ────►    └─► console.log
//! ```
//! One thread ([`hub`]) does it. Where nobody takes what we print, the guest waits, as on a serial
//! line with flow control; whoever is attached and does not keep up misses something instead.

use std::convert::Infallible;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver, Sender};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use rustix::event::EventfdFlags;
use rustix::fs::OFlags;
use rustix::pipe::PipeFlags;

use self::front::Front;
use self::hub::{Command, Hub};
use super::log::Log;
use crate::signals::Signals;
use crate::terminal::{self, Raw};

mod front;
mod hub;
mod viewer;

/// How long the rest of what a guest has printed may take to be shown before something else is done.
const SHOWN_WITHIN: Duration = Duration::from_secs(1);
const LOOK_AGAIN: Duration = Duration::from_millis(100);

/// Most that may be attached at once.
pub const MOST_ATTACHED: usize = 16;

/// A guest's console. Dropping it lets go of everybody who is attached.
#[derive(Debug)]
pub struct Console {
    commands: Sender<Command>,
    wakes: Arc<OwnedFd>,
    leaves: Arc<OwnedFd>,
    takes_terminal: bool,
    thread: Option<JoinHandle<()>>,
}

/// What a console does for one life of the guest. Dropping it waits a moment for the last words and
/// puts the terminal back.
#[derive(Debug)]
pub struct Life {
    shown: Receiver<Infallible>,
    /// Dropped last: what is printed until then expects raw mode.
    _raw: Option<Raw>,
}

/// What the guest reads from and writes to.
#[derive(Debug)]
pub struct Ends {
    /// Its input.
    pub input: OwnedFd,
    /// Its output.
    pub output: OwnedFd,
}

impl Console {
    /// A console whose file is at `path`, with our standard input and output where it is `in_front`.
    /// The second value says why nothing is written down.
    ///
    /// # Errors
    /// The kernel's.
    pub fn open(path: PathBuf, in_front: bool) -> io::Result<(Console, Option<io::Error>)> {
        let eventfd = || rustix::event::eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK);
        let (wakes, leaves) = (Arc::new(eventfd()?), Arc::new(eventfd()?));
        let (commands, taken) = mpsc::channel();
        let (log, why) = match Log::open(path.clone()) {
            Ok(log) => (Some(log), None),
            Err(error) => (None, Some(error)),
        };
        let front = in_front.then(Front::new);
        let takes_terminal = in_front && terminal::is_ours();
        let hub = Hub::new(taken, wakes.clone(), leaves.clone(), (path, log), front);
        let thread = thread::Builder::new().name("console".into()).spawn(move || hub.run())?;
        let thread = Some(thread);
        Ok((Console { commands, wakes, leaves, takes_terminal, thread }, why))
    }

    /// Begins a life of the guest.
    ///
    /// # Errors
    /// The kernel's, from making pipes or setting the terminal.
    pub fn live(&self) -> io::Result<(Life, Ends)> {
        let (from_guest, output) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC)?;
        let (input, to_guest) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC)?;
        // The guest's ends block or not as its process likes; ours must not wait for it.
        for ours in [&from_guest, &to_guest] {
            rustix::fs::fcntl_setfl(ours, OFlags::NONBLOCK)?;
        }
        let raw = self.takes_terminal.then(Raw::enter).transpose()?;
        let (until_shown, shown) = mpsc::channel();
        self.tell(Command::Live { from_guest, to_guest, until_shown });
        Ok((Life { shown, _raw: raw }, Ends { input, output }))
    }

    /// Whether our terminal is the console while the guest lives.
    pub fn takes_terminal(&self) -> bool {
        self.takes_terminal
    }

    /// Readable once the key to leave was typed, or the terminal is gone.
    pub fn leaves(&self) -> BorrowedFd<'_> {
        self.leaves.as_fd()
    }

    /// Shows the last lines to somebody, and from then on all that the guest prints; takes what they
    /// type.
    ///
    /// # Errors
    /// The kernel's.
    pub fn attach(&self, stream: UnixStream, lines: usize) -> io::Result<()> {
        stream.set_nonblocking(true)?;
        self.tell(Command::Attach { stream, lines });
        Ok(())
    }

    /// Waits until all that the guest has printed is shown, or somebody does not want to.
    pub fn finish(mut self, signals: &Signals) {
        self.tell(Command::End);
        let Some(thread) = self.thread.take() else { return };
        while !thread.is_finished() && !signals.is_pending() {
            thread::sleep(LOOK_AGAIN);
        }
    }

    fn tell(&self, command: Command) {
        // Fails where the thread is gone, which then has let go of everything.
        self.commands.send(command).ok();
        // Fails where it is readable already.
        rustix::io::write(&*self.wakes, &1u64.to_ne_bytes()).ok();
    }
}

impl Drop for Console {
    fn drop(&mut self) {
        self.tell(Command::End);
    }
}

impl Drop for Life {
    fn drop(&mut self) {
        // Nothing is ever sent: the other end is dropped when all is shown.
        self.shown.recv_timeout(SHOWN_WITHIN).ok();
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::io::{Read, Write};

    use super::*;

    /// A guest's process.
    struct Guest {
        input: File,
        output: File,
    }

    fn guest(ends: Ends) -> Guest {
        Guest { input: ends.input.into(), output: ends.output.into() }
    }

    fn viewer(console: &Console, lines: usize) -> UnixStream {
        let (ours, theirs) = UnixStream::pair().expect("a pair");
        theirs.set_read_timeout(Some(Duration::from_secs(20))).expect("a socket");
        console.attach(ours, lines).expect("a socket");
        theirs
    }

    fn expect(mut from: impl Read, text: &str) {
        let mut bytes = vec![0; text.len()];
        from.read_exact(&mut bytes).unwrap_or_else(|error| panic!("{text}: {error}"));
        assert_eq!(String::from_utf8_lossy(&bytes), text);
    }

    #[test]
    fn a_console_is_watched_and_typed_to_over_all_lives_of_its_guest() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("web-1/console.log");
        let signals = Signals::hold().expect("a signalfd");
        let (console, why) = Console::open(path.clone(), false).expect("a console");
        assert!(why.is_none() && !console.takes_terminal());

        let (life, ends) = console.live().expect("pipes");
        let mut first = guest(ends);
        first.output.write_all(b"one\ntwo\nthree").expect("room");
        // What was printed before is there once it is written down.
        while std::fs::read(&path).expect("a file") != b"one\ntwo\nthree" {
            thread::sleep(Duration::from_millis(1));
        }
        let (ann, bob) = (viewer(&console, 1), viewer(&console, 0));
        expect(&ann, "two\nthree");
        expect(&bob, "three");
        (&ann).write_all(b"ls\n").expect("room");
        expect(&first.input, "ls\n");
        (&bob).write_all(b"w\n").expect("room");
        expect(&first.input, "w\n");
        first.output.write_all(b"bye\n").expect("room");
        drop(first);
        drop(life);

        let (life, ends) = console.live().expect("pipes");
        let mut second = guest(ends);
        second.output.write_all(b"again\n").expect("room");
        expect(&ann, "bye\nagain\n");
        expect(&bob, "bye\nagain\n");
        drop(bob);
        drop(second);
        drop(life);
        console.finish(&signals);
        assert_eq!((&ann).read(&mut [0]).expect("an end"), 0);
        assert_eq!(std::fs::read(&path).expect("a file"), b"one\ntwo\nthreebye\nagain\n");
    }

    #[test]
    fn whoever_types_more_than_a_guest_takes_waits_and_loses_nothing() {
        let folder = tempfile::tempdir().expect("a folder");
        let (console, _) = Console::open(folder.path().join("log"), false).expect("a console");
        let (_life, ends) = console.live().expect("pipes");
        let guest = guest(ends);
        let mut ann = viewer(&console, 0);
        let text: Vec<u8> = (0..1 << 20).map(|at: u32| b'a' + (at % 23) as u8).collect();
        let typed = text.clone();
        let types = thread::spawn(move || ann.write_all(&typed).map(|()| ann));
        thread::sleep(Duration::from_millis(100));
        let mut heard = vec![0; text.len()];
        (&guest.input).read_exact(&mut heard).expect("all of it");
        assert!(heard == text);
        types.join().expect("no panic").expect("room");
    }

    #[test]
    fn a_console_that_cannot_be_written_down_works_all_the_same() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("file");
        std::fs::write(&path, "").expect("a file");
        let (console, why) = Console::open(path.join("log"), false).expect("a console");
        assert!(why.is_some());
        let (_life, ends) = console.live().expect("pipes");
        let ann = viewer(&console, 5);
        guest(ends).output.write_all(b"hello").expect("room");
        expect(&ann, "hello");
    }

    #[test]
    fn no_more_than_some_are_attached() {
        let folder = tempfile::tempdir().expect("a folder");
        let (console, _) = Console::open(folder.path().join("log"), false).expect("a console");
        let (_life, _ends) = console.live().expect("pipes");
        let all: Vec<UnixStream> = (0..=MOST_ATTACHED).map(|_| viewer(&console, 0)).collect();
        let (mut last, mut told) = (all.last().expect("some"), String::new());
        last.read_to_string(&mut told).expect("its end");
        assert_eq!(told, "[assign: 16 are attached already]\r\n");
    }
}
