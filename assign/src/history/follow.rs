//! Following what happens to guests, also to those that start later.
//!
//! ```text
//! .../guests            who comes          ┐
//! .../guests/web-1      a file is begun    ├─ inotify ─► which guests to look at ─► their tails
//!     events.jsonl      a line is written  ┘
//! ```
//!
//! What inotify tells is only when to look; what is new is where a [`Tail`] has not been. So nothing
//! depends on what it leaves out or tells twice. Each is watched before it is looked at.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, ErrorKind};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::inotify::{self, CreateFlags, ReadFlags, Reader, WatchFlags};
use rustix::io::Errno;
use serde::Deserialize;

use super::LINES;
use super::tail::Tail;
use crate::failure::{Failure, OwnReason};

/// What is to be heard of a directory. That it is gone itself is heard only when nothing in it is open any
/// more, and a tail has its file open: so what goes is heard by the directory above.
const COMES_OR_GOES: WatchFlags =
    WatchFlags::CREATE.union(WatchFlags::MOVED_TO).union(WatchFlags::DELETE);
/// Directories above that of the guests which may come and go while a place to wait at is found.
const LOOKS: usize = 64;

/// Where following begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Begin {
    /// With all that is kept.
    AtStart,
    /// With what happens from now on.
    AtEnd,
}

/// An event as it was written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Line {
    /// The object, as JSON in one line.
    pub json: String,
    /// What is in it for people.
    pub record: Record,
}

/// What every event has. A later version may write kinds and fields that this one does not know.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Record {
    /// When, in UTC.
    pub time: String,
    /// To whom.
    pub guest: String,
    /// What.
    pub kind: String,
    /// The same for people.
    pub message: String,
}

/// What came since the last time.
#[derive(Debug, Default)]
pub struct News {
    /// Events by their time.
    pub lines: Vec<Line>,
    /// Where some are missing.
    pub lost: Vec<Lost>,
}

/// Events of a guest that cannot be told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lost {
    /// Whose.
    pub guest: String,
    /// Which, and why.
    pub message: String,
}

/// Somebody who follows guests.
#[derive(Debug)]
pub struct Follower {
    guests: PathBuf,
    only: Option<String>,
    inotify: OwnedFd,
    /// What is watched, by inotify's number: a guest, or the directory of all.
    watched: BTreeMap<i32, Option<String>>,
    tails: BTreeMap<String, Tail>,
}

impl Follower {
    /// Begins to follow the guests of which something is, or will be, written in this directory: all,
    /// or `only` one. What happens from now on is not missed.
    ///
    /// # Errors
    /// The directory cannot be read, or not watched.
    pub fn open(guests: PathBuf, only: Option<&str>, begin: Begin) -> Result<Follower, Failure> {
        // Directories above it are looked for, of which a relative path does not have all.
        let guests = std::path::absolute(&guests).unwrap_or(guests);
        let inotify = inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK)
            .map_err(|error| unwatchable(&guests, error))?;
        let mut follower = Follower {
            guests,
            only: only.map(str::to_owned),
            inotify,
            watched: BTreeMap::new(),
            tails: BTreeMap::new(),
        };
        for guest in follower.look()? {
            follower.watch_guest(&guest)?;
            let path = follower.guests.join(&guest).join(LINES);
            let tail = match begin {
                Begin::AtStart => Ok(Tail::from_start(path)),
                Begin::AtEnd => Tail::from_end(path),
            };
            let tail = tail.map_err(|error| unreadable(&follower.guests, &guest, &error))?;
            follower.tails.insert(guest, tail);
        }
        Ok(follower)
    }

    /// What is written by now and was not taken before, of guests that were there; without waiting.
    ///
    /// # Errors
    /// It cannot be read.
    pub fn take_all(&mut self) -> Result<News, Failure> {
        let all: BTreeSet<String> = self.tails.keys().cloned().collect();
        self.take_of(all)
    }

    /// What has happened since the last call, without waiting; poll for readability before.
    ///
    /// # Errors
    /// It cannot be read any more.
    pub fn take(&mut self) -> Result<News, Failure> {
        let mut guests = BTreeSet::new();
        let mut looks = false;
        let mut buffer = [MaybeUninit::uninit(); 1 << 12];
        let mut reader = Reader::new(&self.inotify, &mut buffer);
        loop {
            let event = match reader.next() {
                Ok(event) => event,
                Err(Errno::AGAIN) => break,
                Err(Errno::INTR) => continue,
                Err(error) => return Err(unwatchable(&self.guests, error)),
            };
            // Where it lost some, any of them may have been among these.
            looks |= event.events().contains(ReadFlags::QUEUE_OVERFLOW);
            let watched = match event.events().contains(ReadFlags::IGNORED) {
                true => self.watched.remove(&event.wd()),
                false => self.watched.get(&event.wd()).cloned(),
            };
            match watched {
                Some(Some(guest)) => drop(guests.insert(guest)),
                Some(None) => looks = true,
                None => {}
            }
        }
        if looks {
            guests.extend(self.look()?);
            guests.extend(self.tails.keys().cloned());
        }
        self.take_of(guests)
    }

    fn take_of(&mut self, guests: BTreeSet<String>) -> Result<News, Failure> {
        let mut news = News::default();
        for guest in guests {
            self.watch_guest(&guest)?;
            let path = self.guests.join(&guest).join(LINES);
            let tail = self.tails.entry(guest.clone()).or_insert_with(|| Tail::from_start(path));
            let came = tail.take().map_err(|error| unreadable(&self.guests, &guest, &error))?;
            if tail.is_gone() && !self.guests.join(&guest).exists() {
                self.tails.remove(&guest);
            }
            let mut lost = |what: &str| {
                let (guest, message) = (guest.clone(), format!("{guest}: {what}"));
                news.lost.push(Lost { guest, message });
            };
            if came.gap {
                lost("events may be missing: more came than is kept");
            }
            for line in came.lines.iter().filter(|line| !line.is_empty()) {
                match understood(line) {
                    Some(line) => news.lines.push(line),
                    None => lost(&format!("a line of {LINES} is no event")),
                }
            }
        }
        // They are written in UTC and with the same number of digits. What is of one time stays in the
        // order in which it was written.
        news.lines.sort_by(|one, other| one.record.time.cmp(&other.record.time));
        Ok(news)
    }

    /// Watches the directory of the guests, or what it will be made in, and says which are there.
    fn look(&mut self) -> Result<Vec<String>, Failure> {
        let guests = self.guests.clone();
        for _ in 0..LOOKS {
            let there = guests.ancestors().find(|directory| directory.exists());
            let directory = there.unwrap_or(Path::new("/"));
            match self.watch(directory, COMES_OR_GOES, None) {
                Err(Errno::NOENT) => continue,
                result => result.map_err(|error| unwatchable(directory, error))?,
            }
            if directory == guests {
                return self.names();
            }
            // Made just before it was watched for.
            let is_made = guests.ancestors().take_while(|one| *one != directory).last();
            if !is_made.is_some_and(Path::exists) {
                break;
            }
        }
        Ok(Vec::new())
    }

    fn names(&self) -> Result<Vec<String>, Failure> {
        let failed = |error: &io::Error| {
            let shown = self.guests.display();
            let message = format!("cannot be read: {error}");
            let failure = Failure::failed(OwnReason::State, shown, message);
            match error.kind() {
                ErrorKind::PermissionDenied => {
                    failure.with_remedy("What happens to guests is for root to see.")
                }
                _ => failure,
            }
        };
        let entries = match std::fs::read_dir(&self.guests) {
            Ok(entries) => entries,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(failed(&error)),
        };
        let mut names = Vec::new();
        for entry in entries {
            let name = entry.map_err(|error| failed(&error))?.file_name().into_string();
            let wanted = |name: &String| self.only.as_ref().is_none_or(|only| only == name);
            names.extend(name.ok().filter(wanted));
        }
        names.sort();
        Ok(names)
    }

    /// Watches a guest's directory for files that are begun, and its file for lines: beside it lies
    /// its console, which may be written to all the time.
    fn watch_guest(&mut self, guest: &str) -> Result<(), Failure> {
        let directory = self.guests.join(guest);
        let flags = COMES_OR_GOES | WatchFlags::ONLYDIR;
        for (path, flags) in [(&directory, flags), (&directory.join(LINES), WatchFlags::MODIFY)] {
            match self.watch(path, flags, Some(guest)) {
                // Not yet, or not any more.
                Ok(()) | Err(Errno::NOENT | Errno::NOTDIR) => {}
                Err(error) => return Err(unwatchable(path, error)),
            }
        }
        Ok(())
    }

    /// Watches what is at `path` now; nothing changes where it is watched already.
    fn watch(&mut self, path: &Path, flags: WatchFlags, of: Option<&str>) -> Result<(), Errno> {
        let number = inotify::add_watch(&self.inotify, path, flags)?;
        self.watched.insert(number, of.map(str::to_owned));
        Ok(())
    }
}

impl AsFd for Follower {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.inotify.as_fd()
    }
}

/// A line that is an event.
fn understood(line: &[u8]) -> Option<Line> {
    let json = std::str::from_utf8(line).ok()?.to_owned();
    let record = serde_json::from_str(&json).ok()?;
    Some(Line { json, record })
}

fn unwatchable(path: &Path, error: Errno) -> Failure {
    let message = format!("cannot be watched: {}", io::Error::from(error));
    let failure = Failure::failed(OwnReason::State, path.display(), message);
    match error {
        Errno::ACCESS | Errno::PERM => {
            failure.with_remedy("What happens to guests is for root to see.")
        }
        Errno::NOSPC => failure.with_remedy("Raise fs.inotify.max_user_watches with sysctl."),
        Errno::MFILE => failure.with_remedy("Raise fs.inotify.max_user_instances with sysctl."),
        _ => failure,
    }
}

fn unreadable(guests: &Path, guest: &str, error: &io::Error) -> Failure {
    let shown = guests.join(guest).join(LINES);
    let message = format!("cannot be read: {error}");
    let failure = Failure::failed(OwnReason::State, shown.display(), message);
    match error.raw_os_error().map(Errno::from_raw_os_error) {
        Some(Errno::ACCESS) => failure.with_remedy("What happens to guests is for root to see."),
        Some(Errno::MFILE) => failure.with_remedy("Raise `ulimit -n`: each guest needs one file."),
        _ => failure,
    }
}

#[cfg(test)]
#[path = "follow_tests.rs"]
mod tests;
