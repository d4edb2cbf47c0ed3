//! Commands in an emulated host.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Result, anyhow};

use crate::contact::Contact;
use crate::machine::{InVain, State, contains};
use crate::wire::{CHUNK, End, Request};

/// What a command has done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Output {
    /// Its exit code; 128 and the signal's number if one killed it, as in a shell.
    pub code: i32,
    /// What it wrote to standard output (bytes that are not UTF-8 are replaced).
    pub stdout: String,
    /// What it wrote to standard error.
    pub stderr: String,
}

/// What is known of a command.
pub(crate) struct JobState {
    pub command: String,
    pub begun: Instant,
    pub stdout: Vec<u8>,
    pub stderr: Vec<u8>,
    /// Both, in the order they came.
    pub both: Vec<u8>,
    pub end: Option<Result<End, String>>,
}

impl JobState {
    pub fn new(command: String) -> Self {
        let (stdout, stderr, both) = Default::default();
        JobState { command, begun: Instant::now(), stdout, stderr, both, end: None }
    }

    /// The command, how it stands, and what it printed.
    pub fn report(&self) -> String {
        let end = match &self.end {
            None => format!("running for {:.1} s", self.begun.elapsed().as_secs_f64()),
            Some(Ok(end)) => end.to_string(),
            Some(Err(message)) => message.clone(),
        };
        format!(
            "{}\n({end})\n--- stdout ---\n{}--- stderr ---\n{}",
            self.command,
            String::from_utf8_lossy(&self.stdout),
            String::from_utf8_lossy(&self.stderr),
        )
    }
}

/// What `Job::line` has found.
pub(crate) enum Line {
    /// A line, without its end.
    Printed(String),
    /// Nothing new in time.
    NotYet,
    /// Everything was seen, and the command has ended.
    NoMore,
}

/// A command that was started and may still be running. Dropping it leaves the command alone.
pub struct Job {
    pub(crate) id: u32,
    pub(crate) contact: Arc<Contact>,
}

impl Job {
    /// Everything the command has printed so far, standard output and standard error in the order
    /// they came.
    pub fn output_so_far(&self) -> String {
        let state = self.contact.machine.shared.lock();
        let job = state.jobs.get(&self.id);
        job.map(|job| String::from_utf8_lossy(&job.both).into_owned()).unwrap_or_default()
    }

    /// What it has printed on its standard output alone: whole lines, where what it says on its standard
    /// error comes in between.
    pub fn stdout_so_far(&self) -> String {
        let state = self.contact.machine.shared.lock();
        let job = state.jobs.get(&self.id);
        job.map(|job| String::from_utf8_lossy(&job.stdout).into_owned()).unwrap_or_default()
    }

    /// The next line of what the command prints, after the first `seen` bytes of it; `seen` moves
    /// on behind it.
    pub(crate) fn line(&self, seen: &mut usize, limit: Duration) -> Result<Line> {
        let look = |state: &State| {
            let job = state.jobs.get(&self.id)?;
            let new = job.both.get(*seen..).unwrap_or_default();
            let end = new.iter().position(|byte| *byte == b'\n').map(|at| at + 1);
            // After the end, what there is of a line is all there will be.
            match end.or(job.end.is_some().then_some(new.len())) {
                Some(0) => Some(None),
                Some(length) => Some(Some(new[..length].to_vec())),
                None => None,
            }
        };
        match self.contact.machine.shared.wait(limit, look) {
            Ok(Some(line)) => {
                *seen += line.len();
                Ok(Line::Printed(String::from_utf8_lossy(&line).trim_end().to_owned()))
            }
            Ok(None) => Ok(Line::NoMore),
            Err(InVain::TimedOut) => Ok(Line::NotYet),
            Err(InVain::Ended(reason)) => Err(self.error(reason)),
        }
    }

    /// Waits until the command has printed a text; an error if it ends without having done so.
    pub fn wait_for(&self, text: &str, limit: Duration) -> Result<()> {
        let look = |state: &State| {
            let job = state.jobs.get(&self.id)?;
            // On one stream it is whole, and in both together perhaps another's in between.
            if contains(&job.both, text) || contains(&job.stdout, text) {
                return Some(true);
            }
            job.end.is_some().then_some(false)
        };
        match self.contact.machine.shared.wait(limit, look) {
            Ok(true) => Ok(()),
            Ok(false) => Err(self.error(format!("the command ended without printing {text:?}"))),
            Err(why) => Err(self.in_vain(why, limit, &format!("waiting for {text:?}"))),
        }
    }

    /// Waits until the command has ended. If it does not in time it goes on running, and the error
    /// tells what it has printed.
    pub fn wait(&self, limit: Duration) -> Result<Output> {
        self.finish(limit).map(|(code, stdout, stderr)| Output {
            code,
            stdout: String::from_utf8_lossy(&stdout).into_owned(),
            stderr: String::from_utf8_lossy(&stderr).into_owned(),
        })
    }

    /// As `wait`, with the output as it came.
    pub(crate) fn finish(&self, limit: Duration) -> Result<(i32, Vec<u8>, Vec<u8>)> {
        let look = |state: &State| {
            let job = state.jobs.get(&self.id)?;
            let end = job.end.clone()?;
            Some(end.map(|end| (end, job.stdout.clone(), job.stderr.clone())))
        };
        match self.contact.machine.shared.wait(limit, look) {
            Ok(Ok((End::Code(code), stdout, stderr))) => Ok((code, stdout, stderr)),
            Ok(Ok((End::Signal(signal), stdout, stderr))) => Ok((128 + signal, stdout, stderr)),
            Ok(Err(message)) => Err(self.error(message)),
            Err(why) => Err(self.in_vain(why, limit, "waiting for the command to end")),
        }
    }

    /// What it printed on its standard output, where it ends in time; who asks knows that something is
    /// wrong.
    pub(crate) fn answer(&self, limit: Duration) -> Option<String> {
        let look = |state: &State| {
            let job = state.jobs.get(&self.id)?;
            job.end.is_some().then(|| String::from_utf8_lossy(&job.stdout).into_owned())
        };
        self.contact.machine.shared.wait(limit, look).ok()
    }

    /// Types text into the command's standard input.
    pub fn stdin(&self, text: &str) {
        self.feed(text.as_bytes());
    }

    /// Ends the command's standard input.
    pub fn close_stdin(&self) {
        self.contact.send(&Request::CloseStdin { id: self.id });
    }

    /// Kills the command and everything in its process group, without a chance to tidy up.
    pub fn kill(&self) {
        self.signal(9);
    }

    /// Sends a signal, by number, to the command and everything in its process group: 2 is what
    /// Ctrl-C sends, 15 what a service manager does.
    pub fn signal(&self, signal: i32) {
        self.contact.send(&Request::Signal { id: self.id, signal });
    }

    pub(crate) fn feed(&self, bytes: &[u8]) {
        for chunk in bytes.chunks(CHUNK) {
            self.contact.send(&Request::Stdin { id: self.id, bytes: chunk.to_vec() });
        }
    }

    /// The command with its output, and the end of the host's console.
    pub(crate) fn report(&self) -> String {
        let state = self.contact.machine.shared.lock();
        let job = state.jobs.get(&self.id).map(JobState::report).unwrap_or_default();
        drop(state);
        format!("command: {job}\n{}", self.contact.machine.tail())
    }

    /// An error about the command, with all that is known.
    pub(crate) fn error(&self, what: String) -> anyhow::Error {
        anyhow!("{what}\n{}", self.report())
    }

    fn in_vain(&self, why: InVain, limit: Duration, what: &str) -> anyhow::Error {
        match why {
            InVain::TimedOut => {
                let (waits, seconds) = (self.contact.waits(), limit.as_secs());
                self.error(format!("{what}: not within {seconds} s; {waits}"))
            }
            InVain::Ended(reason) => self.error(format!("{what}: {reason}")),
        }
    }
}
