//! Commands that somebody wants to end, and steps of several PFs at the same time.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::process::{Child, Stdio};
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use sriov::recorded::simulation::{Request, Simulation};

use super::{Host, example};

/// Longest wait for what has to come: for a test that hangs to fail instead.
const PATIENCE: Duration = Duration::from_secs(60);

/// Where those who are to meet wait for each other.
#[derive(Default)]
struct Meeting {
    there: Mutex<usize>,
    changed: Condvar,
}

impl Meeting {
    /// Waits until so many have come; says whether they have.
    fn wait_for(&self, count: usize) -> bool {
        let there = self.there.lock().expect("a count");
        let waited = self.changed.wait_timeout_while(there, PATIENCE, |there| *there < count);
        !waited.expect("a count").1.timed_out()
    }

    fn come(&self) {
        *self.there.lock().expect("a count") += 1;
        self.changed.notify_all();
    }
}

fn is_creation(request: &Request) -> bool {
    matches!(request, Request::Write(path, value) if path.ends_with("sriov_numvfs") && value != "0\n")
}

fn missed() -> std::io::Error {
    std::io::Error::from_raw_os_error(5)
}

fn files(names: &[&str]) -> Vec<String> {
    names.iter().flat_map(|name| ["-f".to_owned(), example(name).display().to_string()]).collect()
}

#[test]
fn vfs_of_two_cards_are_made_at_the_same_time() {
    let host = Host::new(Simulation::lab_with_drive);
    let meeting = Arc::new(Meeting::default());
    let seen = Arc::clone(&meeting);
    // Each card makes its VFs when the other one has been asked to as well.
    host.kernel.before(move |request| {
        if !is_creation(request) {
            return Ok(());
        }
        seen.come();
        if seen.wait_for(2) { Ok(()) } else { Err(missed()) }
    });
    let files = files(&["edge-node.yaml", "nvme-slices.yaml"]);
    let mut arguments = vec!["apply", "--yes"];
    arguments.extend(files.iter().map(String::as_str));
    host.done(&arguments);
    assert_eq!(host.state().applied().expect("the state").len(), 2);
}

#[test]
fn a_failure_on_one_card_takes_back_both_and_tells_how() {
    let host = Host::new(Simulation::lab_with_drive);
    let before = host.snapshot();
    let meeting = Arc::new(Meeting::default());
    let seen = Arc::clone(&meeting);
    host.kernel.before(move |request| match request {
        // The drive fails when the card has its VFs.
        Request::Write(path, _) if path.ends_with("0000:02:00.0/sriov_numvfs") => {
            if seen.wait_for(1) { Err(std::io::Error::from_raw_os_error(12)) } else { Ok(()) }
        }
        Request::Write(path, _) if path.ends_with("drivers_probe") => {
            seen.come();
            Ok(())
        }
        _ => Ok(()),
    });
    let files = files(&["edge-node.yaml", "nvme-slices.yaml"]);
    let mut arguments = vec!["-o", "json", "apply", "--yes"];
    arguments.extend(files.iter().map(String::as_str));
    let output = host.assign(&arguments);
    assert_eq!(output.status.code(), Some(1));
    let error = String::from_utf8_lossy(&output.stderr).into_owned();
    let line = error.lines().find(|line| line.starts_with('{')).expect("an object");
    let error: serde_json::Value = serde_json::from_str(line).expect("JSON");
    let error = &error["error"];
    assert_eq!(error["reason"], "out-of-address-space", "{error}");
    let steps = error["taken_back"].as_array().expect("steps");
    assert!(steps.len() >= 6, "{error}");
    let of_card = steps.iter().filter(|one| one["step"]["pf"] == "0000:01:00.0");
    assert!(of_card.clone().count() >= 3, "{error}");
    for step in steps {
        assert!(step["went"] == "taken-back" || step["went"] == "nothing-to-do", "{step}");
    }
    assert_eq!(host.snapshot(), before);
    assert!(host.state().journal().expect("the journal").is_empty());
}

/// Runs an apply of the edge node up to the creation of VFs, and calls `then` with it while the
/// kernel holds that up.
fn held_up(host: &Host, mut start: impl FnMut() -> Child, then: impl FnOnce(&mut Child)) -> Child {
    let (asked, go_on) = (Arc::new(Meeting::default()), Arc::new(Meeting::default()));
    let (told, waits) = (Arc::clone(&asked), Arc::clone(&go_on));
    host.kernel.before(move |request| {
        if !is_creation(request) {
            return Ok(());
        }
        told.come();
        if waits.wait_for(1) { Ok(()) } else { Err(missed()) }
    });
    let mut child = start();
    assert!(asked.wait_for(1), "no VFs are made");
    then(&mut child);
    go_on.come();
    child
}

fn signal(child: &Child, signal: Signal) {
    kill_process(Pid::from_child(child), signal).expect("it runs");
}

#[test]
fn without_a_terminal_a_signal_takes_back_and_further_ones_change_nothing() {
    for first in [Signal::INT, Signal::TERM] {
        let host = Host::new(|directory| Simulation::lab(directory, 0));
        let before = host.snapshot();
        let start = || {
            let file = example("edge-node.yaml").display().to_string();
            let mut command = host.command(&["apply", "-f", &file]);
            command.stdout(Stdio::null()).stderr(Stdio::piped());
            command.spawn().expect("assign runs")
        };
        let child = held_up(&host, start, |child| {
            signal(child, first);
            signal(child, Signal::TERM);
            signal(child, Signal::INT);
        });
        let output = child.wait_with_output().expect("it ends");
        let error = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{error}");
        assert!(error.contains("then all is taken back"), "{error}");
        assert!(
            error.contains("was interrupted; the 4 steps before it were taken back"),
            "{error}"
        );
        assert_eq!(host.snapshot(), before);
        assert!(host.state().journal().expect("the journal").is_empty());
    }
}

/// A terminal, and what is on it so far.
struct Terminal {
    ours: File,
    seen: String,
}

impl Terminal {
    fn open() -> (Terminal, OwnedFd) {
        let ours = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).expect("a terminal");
        grantpt(&ours).expect("granted");
        unlockpt(&ours).expect("unlocked");
        let name = ptsname(&ours, Vec::new()).expect("a name");
        let theirs = File::options().read(true).write(true).open(name.to_str().expect("text"));
        let terminal = Terminal { ours: File::from(ours), seen: String::new() };
        (terminal, theirs.expect("its other end").into())
    }

    /// Reads until this is there.
    fn wait_for(&mut self, text: &str) {
        let mut bytes = [0; 1024];
        while !self.seen.contains(text) {
            match self.ours.read(&mut bytes) {
                Ok(length @ 1..) => self.seen += &String::from_utf8_lossy(&bytes[..length]),
                _ => panic!("{text:?} does not come: {}", self.seen),
            }
        }
    }

    fn rest(&mut self) {
        let mut bytes = [0; 1024];
        // The end of a terminal is an error.
        while let Ok(length @ 1..) = self.ours.read(&mut bytes) {
            self.seen += &String::from_utf8_lossy(&bytes[..length]);
        }
    }
}

/// Interrupts an apply on a terminal, answers, and returns its exit code and what it showed.
fn answered(host: &Host, answer: &str) -> (Option<i32>, String) {
    let (mut terminal, theirs) = Terminal::open();
    let start = || {
        let file = example("edge-node.yaml").display().to_string();
        let mut command = host.command(&["apply", "-f", &file]);
        let end = || Stdio::from(theirs.try_clone().expect("its other end"));
        command.stdin(end()).stdout(end()).stderr(end());
        command.spawn().expect("assign runs")
    };
    let mut child = held_up(host, start, |child| {
        signal(child, Signal::INT);
        // At once, while the step goes on.
        terminal.wait_for("the step under way is finished first");
    });
    drop(theirs);
    terminal.wait_for("[B/g/l] ");
    terminal.ours.write_all(answer.as_bytes()).expect("typed");
    terminal.rest();
    host.kernel.settle();
    (child.wait().expect("it ends").code(), terminal.seen)
}

#[test]
fn on_a_terminal_the_choice_is_a_persons() {
    let host = Host::new(|directory| Simulation::lab(directory, 0));
    let before = host.snapshot();
    let (code, seen) = answered(&host, "b\n");
    assert_eq!(code, Some(1), "{seen}");
    assert!(seen.contains("0000:01:00.0: destroy its 1 VF ... done"), "step by step: {seen}");
    assert_eq!(host.snapshot(), before);

    let (code, seen) = answered(&host, "what?\nl\n");
    assert_eq!(code, Some(1), "{seen}");
    assert!(seen.contains("`assign recover` takes back what was done"), "{seen}");
    assert!(!host.state().journal().expect("the journal").is_empty());
    host.kernel.before(|_| Ok(()));
    let said = host.done(&["recover"]);
    assert!(said.contains("taken back: 0000:01:00.0: create 1 VF"), "{said}");
    assert!(said.contains("was interrupted: it is taken back"), "{said}");
    assert_eq!(host.snapshot(), before);

    let (code, seen) = answered(&host, "g\n");
    assert_eq!(code, Some(0), "{seen}");
    assert_eq!(host.state().applied().expect("the state").len(), 1);
}
