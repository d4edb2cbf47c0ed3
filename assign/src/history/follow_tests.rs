//! A directory of guests that come, go, and fill their files.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::*;
use crate::history::write::History;
use crate::history::{Event, How, What};

struct State {
    folder: tempfile::TempDir,
}

impl State {
    fn new() -> State {
        State { folder: tempfile::tempdir().expect("a folder") }
    }

    fn guests(&self) -> PathBuf {
        self.folder.path().join("var/lib/assign/guests")
    }

    fn open(&self, only: Option<&str>, begin: Begin) -> Follower {
        Follower::open(self.guests(), only, begin).expect("a directory that can be read")
    }

    /// Something happens to a guest at a time of its own.
    fn tell(&self, guest: &str, seconds: u64, what: What<'_>) {
        let mut history = History::open(self.guests().join(guest));
        history.write(&Event::new(at(seconds), guest, what));
    }
}

fn at(seconds: u64) -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(seconds)
}

fn ended() -> What<'static> {
    What::Ended { how: How::PoweredOff, reason: None, failure: None }
}

fn brief(news: News) -> Vec<String> {
    assert_eq!(news.lost, []);
    let brief = |line: &Line| format!("{} {}", line.record.guest, line.record.kind);
    news.lines.iter().map(brief).collect()
}

/// What is told, at least one event of it, as a program would wait for it.
fn next(follower: &mut Follower) -> Vec<String> {
    let wait = Timespec { tv_sec: 10, tv_nsec: 0 };
    for _ in 0..100 {
        let mut polled = [PollFd::new(&*follower, PollFlags::IN)];
        assert_eq!(poll(&mut polled, Some(&wait)), Ok(1), "nothing is told");
        let told = brief(follower.take().expect("it can be read"));
        if !told.is_empty() {
            return told;
        }
    }
    panic!("it wakes up for nothing");
}

fn is_quiet(follower: &mut Follower) -> bool {
    brief(follower.take().expect("it can be read")).is_empty()
}

#[test]
fn guests_are_followed_that_come_later_also_where_nothing_was_ever_written() {
    let state = State::new();
    let mut follower = state.open(None, Begin::AtEnd);
    assert!(is_quiet(&mut follower));
    state.tell("web-1", 1, What::Started);
    assert_eq!(next(&mut follower), ["web-1 started"]);
    state.tell("web-2", 2, What::Started);
    assert_eq!(next(&mut follower), ["web-2 started"]);
    state.tell("web-1", 3, What::Paused);
    state.tell("web-2", 4, ended());
    state.tell("web-1", 5, What::Resumed);
    let mut told = next(&mut follower);
    while told.len() < 3 {
        told.extend(next(&mut follower));
    }
    assert_eq!(told, ["web-1 paused", "web-2 ended", "web-1 resumed"]);
    assert!(is_quiet(&mut follower));
}

#[test]
fn the_past_is_told_by_time_and_then_the_present_without_a_gap() {
    let state = State::new();
    state.tell("web-1", 1, What::Started);
    state.tell("web-2", 2, What::Started);
    state.tell("web-1", 3, ended());
    let mut all = state.open(None, Begin::AtStart);
    let mut one = state.open(Some("web-2"), Begin::AtStart);
    let mut new = state.open(None, Begin::AtEnd);
    state.tell("web-2", 4, ended());
    let past = ["web-1 started", "web-2 started", "web-1 ended", "web-2 ended"];
    assert_eq!(brief(all.take_all().expect("files")), past);
    assert_eq!(brief(one.take_all().expect("files")), ["web-2 started", "web-2 ended"]);
    assert!(is_quiet(&mut all) && is_quiet(&mut one));
    assert_eq!(next(&mut new), ["web-2 ended"]);
    state.tell("web-1", 5, What::Started);
    state.tell("web-2", 6, What::Started);
    assert_eq!(next(&mut one), ["web-2 started"]);
    assert!(is_quiet(&mut one));
}

#[test]
fn what_is_forgotten_and_begins_anew_is_told_once() {
    let state = State::new();
    state.tell("web-1", 1, What::Started);
    let mut follower = state.open(None, Begin::AtEnd);
    state.tell("web-1", 2, ended());
    std::fs::remove_dir_all(state.guests().join("web-1")).expect("ours");
    assert_eq!(next(&mut follower), ["web-1 ended"]);
    assert!(is_quiet(&mut follower) && follower.tails.is_empty());
    state.tell("web-1", 3, What::Started);
    assert_eq!(next(&mut follower), ["web-1 started"]);
    // All of it, and the directory above.
    std::fs::remove_dir_all(state.folder.path().join("var")).expect("ours");
    assert!(is_quiet(&mut follower));
    state.tell("web-3", 4, What::Started);
    assert_eq!(next(&mut follower), ["web-3 started"]);
}

#[test]
fn each_of_many_events_is_told_once_while_files_become_full() {
    let state = State::new();
    // More than one file, and less than two: who comes late misses nothing either.
    let (guests, count) = (state.guests(), 900);
    let mut follower = state.open(None, Begin::AtEnd);
    let writer = std::thread::spawn(move || {
        let mut history = History::open(guests.join("web-1"));
        let reason = "x".repeat(1000);
        for number in 0..count {
            let what = What::DiskError { disk: &format!("disk{number}"), reason: &reason };
            history.write(&Event::new(at(number), "web-1", what));
        }
    });
    let mut told = Vec::new();
    let wait = Timespec { tv_sec: 10, tv_nsec: 0 };
    while told.len() < usize::try_from(count).expect("few") {
        let mut polled = [PollFd::new(&follower, PollFlags::IN)];
        assert_eq!(poll(&mut polled, Some(&wait)), Ok(1), "{} are told", told.len());
        let news = follower.take().expect("it can be read");
        assert_eq!(news.lost, []);
        told.extend(news.lines.into_iter().map(|line| line.record.message));
    }
    writer.join().expect("it wrote");
    let right = |(number, message): (usize, &String)| message.contains(&format!("disk{number}:"));
    assert!(told.iter().enumerate().all(right));
    assert!(is_quiet(&mut follower));
}

#[test]
fn what_is_no_event_is_left_out_and_said_so() {
    let state = State::new();
    state.tell("web-1", 1, What::Started);
    let path = state.guests().join("web-1").join(LINES);
    let mut text = std::fs::read(&path).expect("a file");
    text.extend(b"\nrubbish\n{\"time\":\"t\"}\n\xff\xff\n");
    text.extend(b"{\"time\":\"2099\",\"guest\":\"web-1\",\"kind\":\"new\",\"message\":\"m\",\"more\":[1]}\n");
    std::fs::write(&path, text).expect("a file");
    let news = state.open(None, Begin::AtStart).take_all().expect("a file");
    let lost: Vec<&str> = news.lost.iter().map(|lost| lost.message.as_str()).collect();
    assert_eq!(lost, ["web-1: a line of events.jsonl is no event"; 3]);
    let kinds: Vec<&str> = news.lines.iter().map(|line| line.record.kind.as_str()).collect();
    assert_eq!(kinds, ["started", "new"]);
    assert!(news.lines[1].json.ends_with("\"more\":[1]}"), "as it is written");
}
