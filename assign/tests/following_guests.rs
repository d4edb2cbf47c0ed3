//! `assign events --guests` as it is typed, on what launchers have written down.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use assign::history::{Event, How, SCHEMA, What};
use serde_json::Value;

const ENDED: What<'_> = What::Ended { how: How::PoweredOff, reason: None, failure: None };

fn command(root: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_assign"));
    command.arg("--root").arg(root).arg("events").args(arguments);
    command
}

fn events(root: &Path, arguments: &[&str]) -> Output {
    command(root, arguments).output().expect("assign runs")
}

fn told(root: &Path, arguments: &[&str]) -> String {
    let output = events(root, arguments);
    assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).expect("text")
}

/// What a launcher would write.
fn write(root: &Path, guest: &str, seconds: u64, what: What<'_>) {
    let directory = root.join("var/lib/assign/guests").join(guest);
    std::fs::create_dir_all(&directory).expect("a directory");
    let time: SystemTime = UNIX_EPOCH + Duration::from_secs(1_735_689_600 + seconds);
    let line = Event::new(time, guest, what).json().expect("plain data");
    let path = directory.join("events.jsonl");
    let before = std::fs::read_to_string(&path).unwrap_or_default();
    std::fs::write(path, format!("{before}{line}\n")).expect("a file");
}

#[test]
fn the_past_is_told_in_order_for_people_and_programs() {
    let root = tempfile::tempdir().expect("a folder");
    let root = root.path();
    assert_eq!(told(root, &["--guests", "--past"]), "", "nothing was written yet");
    write(root, "web-1", 1, What::Started);
    write(root, "web-2", 2, What::Started);
    write(root, "web-1", 3, ENDED);
    assert_eq!(
        told(root, &["--guests", "--past"]),
        "2025-01-01T00:00:01.000Z  started         web-1: runs\n\
         2025-01-01T00:00:02.000Z  started         web-2: runs\n\
         2025-01-01T00:00:03.000Z  ended           web-1: powered off\n"
    );
    let json = told(root, &["--guest", "web-1", "--past", "-o", "json"]);
    let file = root.join("var/lib/assign/guests/web-1/events.jsonl");
    assert_eq!(json, std::fs::read_to_string(file).expect("a file"), "as it is written");
    let yaml = told(root, &["--guest", "web-2", "--past", "-o", "yaml"]);
    assert!(yaml.starts_with("---\n") && yaml.contains("kind: started"), "{yaml}");
}

#[test]
fn the_past_is_gone_on_from() {
    let root = tempfile::tempdir().expect("a folder");
    let root = root.path();
    write(root, "web-1", 1, What::Started);
    let arguments = ["--guests", "--initial", "--count", "2", "--for", "60", "-o", "json"];
    let mut follower =
        command(root, &arguments).stdout(Stdio::piped()).spawn().expect("assign runs");
    let mut lines = BufReader::new(follower.stdout.take().expect("a pipe")).lines();
    let mut next = || -> Value {
        let line = lines.next().expect("a line").expect("text");
        serde_json::from_str(&line).expect("JSON")
    };
    assert_eq!(next()["kind"], "started");
    assert_eq!(next()["kind"], "following");
    write(root, "web-1", 2, ENDED);
    let ended = next();
    assert_eq!((&ended["kind"], &ended["how"]), (&"ended".into(), &"powered-off".into()));
    write(root, "web-2", 3, What::Started);
    assert_eq!(next()["guest"], "web-2");
    assert_eq!(follower.wait().expect("it ends").code(), Some(0));
}

#[test]
fn what_cannot_be_meant_is_said_so() {
    let root = tempfile::tempdir().expect("a folder");
    let root = root.path();
    for wrong in [
        &["--past"][..],
        &["--guests", "eth0"],
        &["--guest", "web-1", "eth0"],
        &["--guests", "--past", "--count", "1"],
        &["--guests", "--past", "--initial"],
        &["--guest", "nobody", "--past"],
        &["--guest", "../guests", "--past"],
    ] {
        let output = events(root, wrong);
        assert_eq!(output.status.code(), Some(2), "{wrong:?}");
    }
    let nobody = events(root, &["--guest", "nobody", "--past"]);
    let error = String::from_utf8_lossy(&nobody.stderr).into_owned();
    assert!(error.starts_with("assign: nobody: nothing is written down"), "{error}");
    let vain = events(root, &["--guests", "--count", "1", "--for", "0.1"]);
    assert_eq!(vain.status.code(), Some(1));
    let error = String::from_utf8_lossy(&vain.stderr).into_owned();
    assert!(error.contains("events of guests: 0 of 1 came"), "{error}");
    // Where guests' directories should be is something else.
    std::fs::create_dir_all(root.join("var/lib/assign")).expect("a directory");
    std::fs::write(root.join("var/lib/assign/guests"), "").expect("a file");
    let output = events(root, &["--guests", "--past"]);
    let error = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.code() == Some(1) && error.contains("guests: cannot be read"), "{error}");
}

#[test]
fn the_schema_is_printed_as_it_is_kept() {
    let output = Command::new(env!("CARGO_BIN_EXE_assign")).args(["schema", "events"]).output();
    let printed = output.expect("assign runs").stdout;
    let printed: Value = serde_json::from_slice(&printed).expect("JSON");
    assert_eq!(printed, serde_json::from_str::<Value>(SCHEMA).expect("JSON"));
}
