//! `assign console`: a running guest's console on this terminal, or one of its ports, until somebody leaves it.

use std::fs::File;
use std::io::{self, IsTerminal, Read, Write};
use std::net::Shutdown;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;

use clap::Args;
use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;

use super::{Context, Format};
use crate::control::{Watch, client};
use crate::failure::{Failure, OwnReason};
use crate::launch::log;
use crate::signals::Signals;
use crate::terminal::{self, Raw, Typed};

/// Lines that are shown first: what a terminal usually has room for.
const LINES: usize = 24;

/// Arguments of `assign console`.
#[derive(Debug, Args)]
pub struct Console {
    /// The guest's name.
    #[arg(value_name = "GUEST")]
    guest: String,
    /// This one of its ports instead of its serial console. A port that is a console has the terminal as it
    /// is; another one is written to line by line, and Ctrl-C leaves it.
    #[arg(long, value_name = "NAME")]
    port: Option<String>,
    /// How many of the lines that it printed before are shown first.
    #[arg(long, value_name = "N", default_value_t = LINES, conflicts_with = "port")]
    lines: usize,
    /// Show what it prints, and type nothing to it.
    #[arg(long)]
    read_only: bool,
    /// Print what is kept of its console, and end. It need not run.
    #[arg(long, conflicts_with_all = ["lines", "port", "read_only"])]
    log: bool,
}

/// Why a console was left.
enum Left {
    /// It is closed.
    Closed,
    /// By a key or a signal.
    Asked,
    /// Nobody reads what it prints any more.
    Unread,
}

/// What is typed.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Input {
    Terminal,
    Stream,
    None,
}

impl Console {
    pub fn run(&self, context: &Context) -> Result<u8, Failure> {
        if self.log {
            return self.print(context);
        }
        let signals = Signals::hold().map_err(|error| self.broke(&error))?;
        let (stream, is_console) = self.stream(context)?;
        let input = match self.read_only {
            true => Input::None,
            false if terminal::is_ours() && is_console => Input::Terminal,
            false if io::stdin().is_terminal() && !terminal::is_ours() => Input::None,
            false => Input::Stream,
        };
        let (guest, what) = (&self.guest, self.what());
        let tells = context.format == Format::Table && io::stderr().is_terminal();
        if tells {
            let key = if input == Input::Terminal { "Ctrl-]" } else { "Ctrl-C" };
            anstream::eprintln!("{what} of {guest}; {key} leaves it, and the guest goes on");
        }
        let raw = (input == Input::Terminal).then(Raw::enter).transpose();
        let raw = raw.map_err(|error| self.broke(&error))?;
        let left = pass(&stream, input, &signals);
        drop(raw);
        let left = left.map_err(|error| self.broke(&error))?;
        if tells {
            match left {
                Left::Closed => anstream::eprintln!("\n{guest}: its {what} is closed"),
                Left::Asked => anstream::eprintln!("\nleft the {what} of {guest}"),
                Left::Unread => {}
            }
        }
        Ok(0)
    }

    /// The stream, and whether a terminal is at its other end.
    fn stream(&self, context: &Context) -> Result<(UnixStream, bool), Failure> {
        let Some(name) = &self.port else {
            let wanted = Watch { lines: self.lines };
            let stream = client::console(&context.root, &self.guest, &wanted)?;
            return Ok((stream, true));
        };
        let (port, stream) = client::port(&context.root, &self.guest, name)?;
        Ok((stream, port.console))
    }

    fn what(&self) -> String {
        self.port.as_ref().map_or("console".to_owned(), |name| format!("port {name}"))
    }

    /// Prints all that is kept.
    fn print(&self, context: &Context) -> Result<u8, Failure> {
        let guest = &self.guest;
        let path = context.state.guest(guest).join(log::CONSOLE);
        let failed = |error: &io::Error| {
            let message = format!("cannot read {}: {error}", path.display());
            Failure::failed(OwnReason::File, guest, message)
        };
        match File::open(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let message = "nothing is kept of a console of a guest of this name";
                return Err(Failure::bad_input(OwnReason::NoSuchGuest, guest, message)
                    .with_remedy(format!("It would be in {}.", path.display())));
            }
            Err(error) => return Err(failed(&error)),
            Ok(_) => {}
        }
        let kept = log::last_lines(&path, usize::MAX).map_err(|error| failed(&error))?;
        let mut stdout = io::stdout().lock();
        match stdout.write_all(&kept).and_then(|()| stdout.flush()) {
            Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(self.broke(&error)),
            _ => Ok(0),
        }
    }

    fn broke(&self, error: &io::Error) -> Failure {
        let message = format!("its {} cannot be shown: {error}", self.what());
        Failure::failed(OwnReason::Guest, &self.guest, message)
    }
}

/// Shows what comes and passes on what is typed, until either ends.
fn pass(stream: &UnixStream, mut input: Input, signals: &Signals) -> io::Result<Left> {
    let stdin = io::stdin();
    loop {
        // What the guest has no room for is not taken from whoever types.
        let has_room = terminal::has_room(stream);
        let awaited = if has_room { PollFlags::IN } else { PollFlags::IN | PollFlags::OUT };
        let mut polled = vec![
            PollFd::new(stream, awaited),
            PollFd::from_borrowed_fd(signals.as_fd(), PollFlags::IN),
        ];
        if input == Input::Terminal || (input == Input::Stream && has_room) {
            polled.push(PollFd::new(&stdin, PollFlags::IN));
        }
        match poll(&mut polled, None) {
            Ok(_) => {}
            Err(Errno::INTR) => continue,
            Err(error) => return Err(error.into()),
        }
        let came = |at: usize| polled.get(at).map_or(PollFlags::empty(), PollFd::revents);
        let shows = came(0).intersects(PollFlags::IN | PollFlags::HUP | PollFlags::ERR);
        let (asked, typed) = (!came(1).is_empty(), !came(2).is_empty());
        if asked && signals.came() {
            return Ok(Left::Asked);
        }
        if shows {
            let mut bytes = [0; 4096];
            let count = match (&mut &*stream).read(&mut bytes) {
                Ok(0) => return Ok(Left::Closed),
                Ok(count) => count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => 0,
                Err(error) if error.kind() == io::ErrorKind::ConnectionReset => {
                    return Ok(Left::Closed);
                }
                Err(error) => return Err(error),
            };
            let mut stdout = io::stdout().lock();
            let shown = bytes.get(..count).unwrap_or_default();
            match stdout.write_all(shown).and_then(|()| stdout.flush()) {
                Err(error) if error.kind() == io::ErrorKind::BrokenPipe => return Ok(Left::Unread),
                Err(error) => return Err(error),
                Ok(()) => {}
            }
        }
        if typed {
            let Typed { bytes, leaves } = match input {
                Input::Terminal => terminal::typed(),
                Input::Stream | Input::None => piped()?,
            };
            // At a terminal the key to leave works at any time, and other keys may be lost.
            let heard = if has_room { (&mut &*stream).write_all(&bytes) } else { Ok(()) };
            match heard {
                Err(error) if error.kind() == io::ErrorKind::BrokenPipe => {
                    return Ok(Left::Closed);
                }
                Err(error) => return Err(error),
                Ok(()) => {}
            }
            match (leaves, input) {
                (true, Input::Terminal) => return Ok(Left::Asked),
                // What it answers is still of interest.
                (true, _) => {
                    input = Input::None;
                    stream.shutdown(Shutdown::Write)?;
                }
                (false, _) => {}
            }
        }
    }
}

/// What was piped in; at its end it is over.
fn piped() -> io::Result<Typed> {
    let mut bytes = vec![0; 4096];
    let count = match rustix::io::read(rustix::stdio::stdin(), &mut bytes) {
        Ok(count) => count,
        Err(Errno::INTR | Errno::AGAIN) => {
            return Ok(Typed { bytes: Vec::new(), leaves: false });
        }
        Err(error) => return Err(error.into()),
    };
    bytes.truncate(count);
    Ok(Typed { bytes, leaves: count == 0 })
}
