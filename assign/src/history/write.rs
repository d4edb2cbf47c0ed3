//! Writing down what happens to a guest: as a line for people and as one for programs, side by side.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use super::LINES;
use super::event::Event;
use crate::launch::log::{self, Log};

/// The two files of one guest. Where one cannot be written the other may still be.
#[derive(Debug)]
pub struct History {
    text: Option<Log>,
    lines: Option<Log>,
    /// The last line for programs has no end: the disk was full, or our machine went down.
    torn: bool,
}

impl History {
    /// Goes on with the files in the guest's directory. Where nothing can be written,
    /// [`Told::Unwritten`](crate::launch::Told::Unwritten) says so for all of them.
    pub fn open(directory: PathBuf) -> History {
        let lines = directory.join(LINES);
        History {
            text: Log::open(directory.join(log::EVENTS)).ok(),
            torn: is_torn(&lines),
            lines: Log::open(lines).ok(),
        }
    }

    /// Writes down an event.
    pub fn write(&mut self, event: &Event<'_>) {
        // A disk that is full now may have room again later.
        if let Some(text) = &mut self.text {
            text.write(format!("{}\n", event.text()).as_bytes()).ok();
        }
        let (Some(lines), Ok(line)) = (&mut self.lines, event.json()) else { return };
        // A line that is torn must not tear this one too.
        let before = if self.torn { "\n" } else { "" };
        // At once, so that no reader sees a part of it.
        self.torn = lines.write(format!("{before}{line}\n").as_bytes()).is_err();
    }
}

fn is_torn(path: &Path) -> bool {
    let last = || -> io::Result<u8> {
        let file = File::open(path)?;
        let mut last = [b'\n'];
        if let Some(at) = file.metadata()?.len().checked_sub(1) {
            file.read_exact_at(&mut last, at)?;
        }
        Ok(last[0])
    };
    last().is_ok_and(|last| last != b'\n')
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, UNIX_EPOCH};

    use super::*;
    use crate::history::{How, What};

    fn event(what: What<'static>) -> Event<'static> {
        Event::new(UNIX_EPOCH + Duration::from_millis(1_735_689_599_042), "web-1", what)
    }

    fn read(folder: &Path, name: &str) -> String {
        std::fs::read_to_string(folder.join(name)).expect("a file")
    }

    #[test]
    fn both_files_say_the_same_and_go_on_where_they_ended() {
        let folder = tempfile::tempdir().expect("a folder");
        let directory = folder.path().join("web-1");
        History::open(directory.clone()).write(&event(What::Started));
        let powered_off = What::Ended { how: How::PoweredOff, reason: None, failure: None };
        History::open(directory.clone()).write(&event(powered_off));
        assert_eq!(
            read(&directory, log::EVENTS),
            "2024-12-31T23:59:59.042Z web-1: runs\n\
             2024-12-31T23:59:59.042Z web-1: powered off\n"
        );
        assert_eq!(
            read(&directory, LINES),
            "{\"time\":\"2024-12-31T23:59:59.042Z\",\"guest\":\"web-1\",\"kind\":\"started\",\
             \"message\":\"web-1: runs\"}\n\
             {\"time\":\"2024-12-31T23:59:59.042Z\",\"guest\":\"web-1\",\"kind\":\"ended\",\
             \"how\":\"powered-off\",\"message\":\"web-1: powered off\"}\n"
        );
    }

    #[test]
    fn a_torn_line_spoils_no_other() {
        let folder = tempfile::tempdir().expect("a folder");
        std::fs::write(folder.path().join(LINES), "{\"time\":\"20").expect("a file");
        let mut history = History::open(folder.path().to_owned());
        history.write(&event(What::Paused));
        history.write(&event(What::Resumed));
        let lines = read(folder.path(), LINES);
        let kinds: Vec<bool> = lines.lines().map(|line| line.contains("\"kind\":")).collect();
        assert_eq!(kinds, [false, true, true], "{lines}");
    }

    #[test]
    fn what_is_for_programs_is_as_short_as_what_is_for_people() {
        let folder = tempfile::tempdir().expect("a folder");
        let mut history = History::open(folder.path().to_owned());
        let reason = "x".repeat(50_000);
        let long = || What::DiskError { disk: "root", reason: reason.clone().leak() };
        for _ in 0..30 {
            history.write(&event(long()));
        }
        for name in [log::EVENTS, LINES] {
            let path = folder.path().join(name);
            let before = log::before(&path).metadata().expect("the one before").len();
            assert!((1 << 20..(1 << 20) + 110_000).contains(&before), "{name}: {before}");
            assert!(path.metadata().expect("a file").len() < 1 << 20, "{name}");
        }
        assert_eq!(std::fs::read_dir(&folder).expect("a folder").count(), 4);
    }
}
