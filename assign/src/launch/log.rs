//! What is written down of a guest: files that stay when it is gone, and stay small whatever it
//! does.

use std::ffi::OsString;
use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, ErrorKind, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

/// Name of the file with what a guest printed on its console.
pub const CONSOLE: &str = "console.log";
/// Name of the file with what happened to it.
pub const EVENTS: &str = "events.log";

/// Guests that do not run of which something is kept: as many as a person can have in mind, and not
/// each of the thousands that a machine starts under ever new names.
const MOST_GUESTS: usize = 64;

/// Longest file, in bytes. When one is full it becomes the one before, and a new one begins.
pub const LONGEST: u64 = 1 << 20;

/// A file that is written to at its end.
#[derive(Debug)]
pub struct Log {
    path: PathBuf,
    file: File,
    length: u64,
}

impl Log {
    /// Opens the file, and makes it and its directory where they are not there: for their owner alone.
    ///
    /// # Errors
    /// The kernel's.
    pub fn open(path: PathBuf) -> io::Result<Log> {
        if let Some(directory) = path.parent() {
            DirBuilder::new().recursive(true).mode(0o700).create(directory)?;
        }
        let file = begin(&path)?;
        let length = file.metadata()?.len();
        Ok(Log { path, file, length })
    }

    /// Writes `bytes` at its end.
    ///
    /// # Errors
    /// The kernel's: the disk is full, say. What was not written is lost.
    pub fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        if self.length >= LONGEST {
            std::fs::rename(&self.path, before(&self.path))?;
            self.file = begin(&self.path)?;
            self.length = 0;
        }
        self.file.write_all(bytes)?;
        self.length += bytes.len() as u64;
        Ok(())
    }
}

fn begin(path: &Path) -> io::Result<File> {
    // Made by root in a directory that only root can write to: nobody has put a link there.
    OpenOptions::new().append(true).create(true).mode(0o600).open(path)
}

/// The full file before this one.
pub fn before(path: &Path) -> PathBuf {
    let mut name = OsString::from(path);
    name.push(".1");
    name.into()
}

/// The last `lines` lines of a log, the one that has no end yet not counted; nothing where there is
/// none. As much as is kept where that is less.
///
/// # Errors
/// The kernel's.
pub fn last_lines(path: &Path, lines: usize) -> io::Result<Vec<u8>> {
    let mut kept = read(&before(path))?;
    kept.append(&mut read(path)?);
    // That many line ends are within it, and the one before the first line is not.
    let ends = kept.iter().enumerate().rev().filter(|(_, byte)| **byte == b'\n');
    let begins = ends.map(|(at, _)| at + 1).nth(lines).unwrap_or(0);
    Ok(kept.split_off(begins))
}

/// Forgets what was written of guests that nobody has started for long: of those directories below
/// `guests` that are not `wanted`, all but the latest [`MOST_GUESTS`]. What cannot be removed stays.
pub fn forget_old(guests: &Path, wanted: impl Fn(&str) -> bool) {
    let Ok(entries) = std::fs::read_dir(guests) else { return };
    let mut old: Vec<(SystemTime, PathBuf)> = entries
        .flatten()
        .filter(|entry| !entry.file_name().to_str().is_some_and(&wanted))
        .filter_map(|entry| {
            let path = entry.path();
            let written = path.join(EVENTS).metadata().or_else(|_| path.metadata());
            Some((written.and_then(|file| file.modified()).ok()?, path))
        })
        .collect();
    old.sort_unstable_by(|one, other| other.cmp(one));
    for (_, path) in old.into_iter().skip(MOST_GUESTS) {
        std::fs::remove_dir_all(path).ok();
    }
}

/// As much of a file as one of these can hold.
fn read(path: &Path) -> io::Result<Vec<u8>> {
    let mut file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    let length = file.metadata()?.len();
    file.seek(SeekFrom::Start(length.saturating_sub(2 * LONGEST)))?;
    let mut bytes = Vec::new();
    file.take(2 * LONGEST).read_to_end(&mut bytes)?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_log_goes_on_where_it_ended_and_the_last_lines_are_found() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("web-1/console.log");
        assert_eq!(last_lines(&path, 3).expect("none is no error"), b"");
        for text in ["one\ntwo\n", "three\nfo", "ur"] {
            let mut log = Log::open(path.clone()).expect("a log");
            log.write(text.as_bytes()).expect("room");
        }
        let told =
            |lines| String::from_utf8(last_lines(&path, lines).expect("a log")).expect("text");
        assert_eq!(told(0), "four");
        assert_eq!(told(2), "two\nthree\nfour");
        assert_eq!(told(3), "one\ntwo\nthree\nfour");
        assert_eq!(told(100), "one\ntwo\nthree\nfour");
    }

    #[test]
    fn the_guests_that_were_there_last_are_kept_and_those_that_run() {
        let folder = tempfile::tempdir().expect("a folder");
        let name = |number: usize| format!("job-{number:03}");
        for number in 0..MOST_GUESTS + 10 {
            let mut log = Log::open(folder.path().join(name(number)).join(EVENTS)).expect("a log");
            log.write(b"runs\n").expect("room");
            let time = SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(number as u64);
            log.file.set_modified(time).expect("its owner may");
        }
        forget_old(folder.path(), |guest| guest == name(3));
        let kept = |number| folder.path().join(name(number)).exists();
        assert_eq!((0..MOST_GUESTS + 10).filter(|number| kept(*number)).count(), MOST_GUESTS + 1);
        assert!(kept(3) && !kept(9) && kept(10));
        forget_old(&folder.path().join("nothing"), |_| false);
    }

    #[test]
    fn a_log_takes_no_more_than_two_files_and_begins_anew_without_a_gap() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("console.log");
        let mut log = Log::open(path.clone()).expect("a log");
        let line = |number: u64| format!("{number:1023}\n");
        let count = 3 * LONGEST / 1024 + 10;
        for number in 0..count {
            log.write(line(number).as_bytes()).expect("room");
        }
        assert_eq!(std::fs::read_dir(&folder).expect("a folder").count(), 2);
        assert_eq!(path.metadata().expect("a file").len(), 10 * 1024);
        assert_eq!(before(&path).metadata().expect("a file").len(), LONGEST);
        let expected: String = (count - 20..count).map(line).collect();
        assert_eq!(last_lines(&path, 20).expect("a log"), expected.as_bytes());
    }
}
