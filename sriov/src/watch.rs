//! Following a host's devices as they come, go, and change drivers.
//!
//! ```text
//! socket opened ──► host read ──► initial() ──► take(), take(), …        no gap between them
//!                       ▲                          │
//!                       └── messages were lost ◄───┘   what differs is told, as a comparison
//! ```
//!
//! The source is a netlink socket (NETLINK_KOBJECT_UEVENT). Where udevd runs its messages are
//! followed, which come after its rules: an interface has its final name by then. Where it does
//! not, the kernel's are. libudev could do the first and would be needed to start the program, also
//! on hosts that have none; the messages are two dozen lines to read, so they are read here.
//!
//! The kernel numbers its events. What it had sent when the host was read is in what was read, and
//! is skipped when it comes out of the socket.
//!
//! Events are for those who wait for something, or want to know what went on. Nothing is decided
//! on them: who acts reads the host again.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};

use crate::attribute;
use crate::failure::{ChangeError, Reason};
use crate::root::HostRoot;

mod event;
mod known;
pub mod message;
mod socket;

pub use event::{
    Description, Disk, DriverChange, HostEvent, Interface, Source, Stage, VfioFile, What,
};
use known::Known;
use message::Uevent;
use socket::{Received, Sender, Socket};

/// How many messages are taken at once before whoever waits gets to see them.
const BATCH: usize = 256;
/// Most messages thrown away after some were lost; a queue of 16 MiB holds fewer.
const MOST_QUEUED: usize = 1 << 20;
/// How often the host is read again because something happened meanwhile.
const READINGS: usize = 5;

/// Somebody who follows the host's devices.
#[derive(Debug)]
pub struct Watcher {
    root: HostRoot,
    sender: Sender,
    socket: Socket,
    known: Known,
    /// Events up to this number are part of what was read.
    read_up_to: u64,
}

impl Watcher {
    /// Begins to follow. What happens from now on is not missed.
    ///
    /// # Errors
    /// The root is a recorded tree, or the kernel gives no socket.
    pub fn open(root: &HostRoot) -> Result<Watcher, ChangeError> {
        let thing = "device events";
        if !root.is_live() {
            let shown = root.directory().display();
            let message = format!(
                "cannot be followed below {shown}: the running kernel sends them, no file has them"
            );
            return Err(ChangeError::new(Reason::NotThisHost, thing, message)
                .with_remedy("Leave out --root to follow this host."));
        }
        let sender = if root.run("udev/control").exists() { Sender::Udev } else { Sender::Kernel };
        let socket = Socket::open(sender).map_err(|error| {
            let message = format!("cannot be followed: the kernel gives no socket: {error}");
            ChangeError::new(Reason::KernelRefused, thing, message)
        })?;
        let (root, known) = (root.clone(), Known::default());
        let mut watcher = Watcher { root, sender, socket, known, read_up_to: 0 };
        watcher.known = watcher.read();
        Ok(watcher)
    }

    /// What was there when following began, device by device.
    pub fn initial(&self) -> Vec<HostEvent> {
        self.known.all()
    }

    /// That following has begun, and how.
    pub fn following(&self) -> HostEvent {
        let what = What::Following { udev: self.sender == Sender::Udev };
        HostEvent { source: self.source(), device: None, vf_of: None, what }
    }

    /// What has happened since the last call, without waiting; poll for readability before.
    ///
    /// # Errors
    /// The kernel's, from reading the socket.
    pub fn take(&mut self) -> io::Result<Vec<HostEvent>> {
        let mut told = Vec::new();
        for _ in 0..BATCH {
            let lost = match self.receive()? {
                Some(Ok(events)) => {
                    told.extend(events);
                    continue;
                }
                Some(Err(cause)) => cause,
                None => break,
            };
            self.empty_queue()?;
            let what = What::EventsLost { cause: lost };
            told.push(HostEvent { source: Source::Comparison, device: None, vf_of: None, what });
            let now = self.read();
            told.extend(self.known.compare(now));
            break;
        }
        Ok(told)
    }

    /// One message: what it means, or why something may be missing from here on.
    fn receive(&mut self) -> io::Result<Option<Result<Vec<HostEvent>, String>>> {
        let source = self.source();
        let message = match self.socket.receive()? {
            Received::Nothing => return Ok(None),
            Received::Foreign => return Ok(Some(Ok(Vec::new()))),
            Received::Overrun => {
                let cause = "they came faster than they were read".to_owned();
                return Ok(Some(Err(cause)));
            }
            Received::TooLong => {
                return Ok(Some(Err("a message was longer than any event is".to_owned())));
            }
            Received::Message(message) => message,
        };
        let understood = match self.sender {
            Sender::Kernel => Uevent::of_kernel(message),
            Sender::Udev => Uevent::of_udev(message),
        };
        let events = understood.and_then(|uevent| {
            if self.is_old(&uevent) {
                return Ok(Vec::new());
            }
            self.known.take(&self.root, source, &uevent)
        });
        Ok(Some(events.map_err(|error| format!("a message was not understood: {error}"))))
    }

    /// Whether what was read shows it already. A device whose removal is announced may still have
    /// been seen: the kernel takes its directory away a moment later.
    fn is_old(&self, uevent: &Uevent) -> bool {
        uevent.number().is_some_and(|number| number <= self.read_up_to)
            && (uevent.action() != "remove"
                || self.root.sys(uevent.path().trim_start_matches('/')).exists())
    }

    /// Reads the host, again if something happened meanwhile.
    fn read(&mut self) -> Known {
        let mut before = self.last_number();
        for _ in 1..READINGS {
            let known = Known::read(&self.root);
            self.read_up_to = before;
            let after = self.last_number();
            if before == after {
                return known;
            }
            before = after;
        }
        // Never quiet: what happens while this is read is told again if it is not in it.
        self.read_up_to = before;
        Known::read(&self.root)
    }

    /// The number of the last event that the kernel sent; 0, which none has, if it does not say
    /// (Documentation/ABI/testing/sysfs-kernel-uevent_seqnum).
    fn last_number(&self) -> u64 {
        let text = attribute::read(&self.root.sys("kernel/uevent_seqnum")).ok().flatten();
        text.and_then(|text| text.parse().ok()).unwrap_or(0)
    }

    /// Makes room: while the queue is full the kernel drops what comes.
    fn empty_queue(&mut self) -> io::Result<()> {
        for _ in 0..MOST_QUEUED {
            if self.socket.receive()? == Received::Nothing {
                break;
            }
        }
        Ok(())
    }

    fn source(&self) -> Source {
        match self.sender {
            Sender::Kernel => Source::Kernel,
            Sender::Udev => Source::Udev,
        }
    }
}

impl AsFd for Watcher {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}
