//! Reading a file of events as it is written.
//!
//! ```text
//!  events.jsonl ──full──► events.jsonl.1 ──► gone        each is followed to its end by the
//!       ▲ held open                                      descriptor, whatever its name is by then
//! ```

use std::fs::File;
use std::io::{self, ErrorKind, Read, Seek, SeekFrom};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};

use crate::launch::log::{LONGEST, before};

/// Longest line that is kept until its end comes: what is longer was not written by us.
const LONGEST_LINE: usize = LONGEST as usize;
/// How far from the end the beginning of a line is looked for.
const LAST: u64 = 1 << 16;
/// How often the two files may change places while they are opened: each change is a file full of
/// events, so there is one at most.
const CHANGES: usize = 8;

/// A place in the events of one guest.
#[derive(Debug)]
pub struct Tail {
    path: PathBuf,
    held: Option<Held>,
    /// A line whose end is still to come.
    begun: Vec<u8>,
}

#[derive(Debug)]
struct Held {
    file: File,
    id: Id,
}

/// What tells a file from others as long as it is open, whatever its name: device and inode.
type Id = (u64, u64);

/// What came since the last time.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct News {
    /// Whole lines, without their ends.
    pub lines: Vec<Vec<u8>>,
    /// Lines may be missing: more was written than is kept.
    pub gap: bool,
}

impl Tail {
    /// Before the first event that is kept.
    pub fn from_start(path: PathBuf) -> Tail {
        Tail { path, held: None, begun: Vec::new() }
    }

    /// After the last event so far.
    ///
    /// # Errors
    /// The kernel's, other than that there is no such file yet.
    pub fn from_end(path: PathBuf) -> io::Result<Tail> {
        let (previous, now) = files(&path)?;
        let mut held = now.or(previous);
        if let Some(held) = &mut held {
            let begins = last_line(&held.file)?;
            held.file.seek(SeekFrom::Start(begins))?;
        }
        Ok(Tail { path, held, begun: Vec::new() })
    }

    /// Whether its file, or its directory, is gone.
    pub fn is_gone(&self) -> bool {
        !self.path.exists()
    }

    /// What was written since the last call.
    ///
    /// # Errors
    /// The kernel's.
    pub fn take(&mut self) -> io::Result<News> {
        let mut news = News::default();
        loop {
            self.read(&mut news)?;
            let held = self.held.as_ref().map(|held| held.id);
            if held.is_some() && held == id_of(&self.path)? {
                return Ok(news);
            }
            let (previous, now) = files(&self.path)?;
            // What it got between being read and becoming the one before.
            self.read(&mut news)?;
            match (previous, now) {
                (Some(previous), _) if Some(previous.id) != held => {
                    // Between what was held and this one there may have been others.
                    news.gap |= held.is_some();
                    self.hold(previous);
                    // If the next one is there it is come to at the next turn.
                }
                (_, Some(now)) if Some(now.id) != held => self.hold(now),
                // The next one is about to be made, or all of it is gone.
                _ => return Ok(news),
            }
        }
    }

    fn hold(&mut self, held: Held) {
        self.held = Some(held);
        // Nobody ends it any more.
        self.begun.clear();
    }

    fn read(&mut self, news: &mut News) -> io::Result<()> {
        let Some(held) = &mut self.held else { return Ok(()) };
        let mut bytes = [0; 1 << 14];
        loop {
            let count = match held.file.read(&mut bytes) {
                Ok(0) => return Ok(()),
                Ok(count) => count,
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                Err(error) => return Err(error),
            };
            let mut rest = bytes.get(..count).unwrap_or_default();
            while let Some(end) = rest.iter().position(|byte| *byte == b'\n') {
                let (line, after) = rest.split_at(end);
                self.begun.extend(line);
                news.lines.push(std::mem::take(&mut self.begun));
                rest = after.get(1..).unwrap_or_default();
            }
            if self.begun.len() + rest.len() <= LONGEST_LINE {
                self.begun.extend(rest);
            }
        }
    }
}

/// The file before this one, and this one: none where there is none.
fn files(path: &Path) -> io::Result<(Option<Held>, Option<Held>)> {
    for _ in 0..CHANGES {
        let previous = open(&before(path))?;
        let now = open(path)?;
        // Else a file became full in between, and what is here now is not what followed it.
        if id_of(&before(path))? == previous.as_ref().map(|previous| previous.id) {
            return Ok((previous, now));
        }
    }
    Err(io::Error::new(ErrorKind::WouldBlock, "it changes faster than it can be read"))
}

fn open(path: &Path) -> io::Result<Option<Held>> {
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    let metadata = file.metadata()?;
    Ok(Some(Held { file, id: (metadata.dev(), metadata.ino()) }))
}

fn id_of(path: &Path) -> io::Result<Option<Id>> {
    match std::fs::metadata(path) {
        Ok(metadata) => Ok(Some((metadata.dev(), metadata.ino()))),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// Where the line begins that has no end yet; the end of the file where each has one.
fn last_line(file: &File) -> io::Result<u64> {
    let length = file.metadata()?.len();
    let begins = length.saturating_sub(LAST);
    let mut bytes = vec![0; usize::try_from(length - begins).unwrap_or(0)];
    file.read_exact_at(&mut bytes, begins)?;
    let end = bytes.iter().rposition(|byte| *byte == b'\n');
    Ok(end.map_or(begins, |end| begins + end as u64 + 1))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::launch::log::Log;

    fn lines(news: News) -> Vec<String> {
        assert!(!news.gap, "nothing is missing");
        news.lines.into_iter().map(|line| String::from_utf8(line).expect("text")).collect()
    }

    fn fill(log: &mut Log, numbers: std::ops::Range<u64>) {
        for number in numbers {
            log.write(format!("{number:1023}\n").as_bytes()).expect("room");
        }
    }

    fn numbers(news: News) -> Vec<u64> {
        lines(news).iter().map(|line| line.trim().parse().expect("a number")).collect()
    }

    /// Lines of 1 KiB that fill a file.
    const FULL: u64 = LONGEST / 1024;

    #[test]
    fn whole_lines_are_told_once_from_wherever_it_begins() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("web-1/events.jsonl");
        let mut early = Tail::from_end(path.clone()).expect("none is no error");
        assert_eq!(early.take().expect("none is no error"), News::default());
        let mut log = Log::open(path.clone()).expect("a log");
        log.write(b"one\ntwo\nthr").expect("room");
        let mut late = Tail::from_end(path.clone()).expect("a file");
        assert_eq!(lines(early.take().expect("a file")), ["one", "two"]);
        assert!(lines(late.take().expect("a file")).is_empty());
        log.write(b"ee\nfour\n").expect("room");
        for tail in [&mut early, &mut late] {
            assert_eq!(lines(tail.take().expect("a file")), ["three", "four"]);
            assert!(lines(tail.take().expect("a file")).is_empty());
        }
        let mut all = Tail::from_start(path);
        assert_eq!(lines(all.take().expect("a file")), ["one", "two", "three", "four"]);
    }

    #[test]
    fn nothing_is_missed_or_doubled_when_a_file_is_full() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("events.jsonl");
        let mut log = Log::open(path.clone()).expect("a log");
        let mut tail = Tail::from_start(path.clone());
        let mut told = Vec::new();
        let steps = [0, FULL - 2, FULL + 3, 2 * FULL, 2 * FULL + 1, 3 * FULL + 2, 4 * FULL + 5];
        for step in steps.windows(2) {
            fill(&mut log, step[0]..step[1]);
            told.extend(numbers(tail.take().expect("a file")));
        }
        assert_eq!(told, (0..4 * FULL + 5).collect::<Vec<_>>());
        // All that is kept, and the moment in which the next file is not there yet.
        let kept = numbers(Tail::from_start(path.clone()).take().expect("files"));
        assert_eq!(kept, (3 * FULL..4 * FULL + 5).collect::<Vec<_>>());
        std::fs::rename(&path, before(&path)).expect("ours");
        assert!(numbers(tail.take().expect("a file")).is_empty());
        let kept = numbers(Tail::from_start(path.clone()).take().expect("one file"));
        assert_eq!(kept, (4 * FULL..4 * FULL + 5).collect::<Vec<_>>());
        fill(&mut Log::open(path).expect("a log"), 7..8);
        assert_eq!(numbers(tail.take().expect("a file")), [7]);
    }

    #[test]
    fn who_is_two_files_behind_is_told_that_some_may_be_missing() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("events.jsonl");
        let mut log = Log::open(path.clone()).expect("a log");
        fill(&mut log, 0..1);
        let mut tail = Tail::from_end(path).expect("a file");
        fill(&mut log, 1..3 * FULL + 2);
        let news = tail.take().expect("files");
        assert!(news.gap);
        // The rest of what it held, and all that is kept.
        assert_eq!(news.lines.len() as u64, FULL - 1 + FULL + 2);
    }

    #[test]
    fn a_file_that_is_removed_is_read_to_its_end_and_the_next_from_its_beginning() {
        let folder = tempfile::tempdir().expect("a folder");
        let directory = folder.path().join("web-1");
        let path = directory.join("events.jsonl");
        let mut log = Log::open(path.clone()).expect("a log");
        log.write(b"one\n").expect("room");
        let mut tail = Tail::from_end(path.clone()).expect("a file");
        log.write(b"two\n").expect("room");
        std::fs::remove_dir_all(&directory).expect("ours");
        assert!(tail.is_gone());
        assert_eq!(lines(tail.take().expect("what is held")), ["two"]);
        Log::open(path).expect("a log").write(b"three\n").expect("room");
        assert_eq!(lines(tail.take().expect("the next")), ["three"]);
        assert!(!tail.is_gone());
    }
}
