//! A running QEMU: its process, its console, and a limit to its life.
//!
//! One thread, the keeper, owns the process. It starts it, because Linux ends a child whose parent
//! *thread* has gone when asked to end it with its parent; it ends it when the machine is dropped;
//! and it ends it at the time limit, with a report of what was going on. Whoever waits for something
//! of a machine that has ended gets an error that says why it has.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, mpsc};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow};
use rustix::process::{Signal, set_parent_process_death_signal};
use rustix::thread::sched_setaffinity;

use crate::emulator;
use crate::job::JobState;
use crate::processor::Processor;
use crate::run::line;

/// How much of a console or of a command's output is kept; of more, the beginning is dropped.
const KEPT: usize = 16 << 20;

/// How many lines of a console a report shows at least: more, where a kernel's error began earlier.
const SHOWN: usize = 40;

/// What is known of a machine, changed by the threads that listen to it.
#[derive(Default)]
pub(crate) struct State {
    pub console: Vec<u8>,
    pub jobs: BTreeMap<u32, JobState>,
    pub agent_ready: bool,
    /// Why it runs no longer.
    pub ended: Option<String>,
    /// It has ended because QEMU found itself in a state it takes for impossible (SIGABRT). No guest
    /// is to be able to do that, so it says nothing about what runs in the machine.
    pub aborted: bool,
    /// While it answered, its processor was in one loop with interrupts off: a guest's.
    pub spins: bool,
    stop: bool,
}

/// Why waiting was in vain.
#[derive(Debug)]
pub(crate) enum InVain {
    TimedOut,
    Ended(String),
}

/// The state, and a bell that rings at each change.
#[derive(Default)]
pub(crate) struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

impl Shared {
    pub fn lock(&self) -> MutexGuard<'_, State> {
        // A panic elsewhere is that test's failure; the state is still what it says.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn change(&self, change: impl FnOnce(&mut State)) {
        change(&mut self.lock());
        self.changed.notify_all();
    }

    /// Waits until `look` finds what it looks for.
    pub fn wait<T>(
        &self,
        limit: Duration,
        mut look: impl FnMut(&State) -> Option<T>,
    ) -> Result<T, InVain> {
        let deadline = Instant::now() + limit;
        let mut state = self.lock();
        loop {
            if let Some(found) = look(&state) {
                return Ok(found);
            }
            if let Some(reason) = &state.ended {
                return Err(InVain::Ended(reason.clone()));
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(InVain::TimedOut);
            }
            let waited = self.changed.wait_timeout(state, left);
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}

/// Adds to what is kept of a stream.
pub(crate) fn keep(kept: &mut Vec<u8>, more: &[u8]) {
    kept.extend_from_slice(more);
    if kept.len() > KEPT {
        kept.drain(..kept.len() - KEPT / 2);
    }
}

/// A running QEMU.
pub struct Machine {
    pub(crate) shared: Arc<Shared>,
    console_input: Mutex<ChildStdin>,
    keeper: Option<JoinHandle<()>>,
    begun: Instant,
    _processor: Option<Processor>,
}

impl Machine {
    /// Starts QEMU with its first serial port as console, on this processor of ours or on any. It is
    /// ended after `limit`.
    pub(crate) fn start(
        mut command: Command,
        limit: Duration,
        processor: Option<Processor>,
    ) -> Result<Self> {
        emulator::may_try()?;
        let set = processor.as_ref().map(|processor| processor.set);
        command.args(["-chardev", "stdio,id=console,signal=off", "-serial", "chardev:console"]);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        // SAFETY: the closure runs between fork and exec and makes two system calls; it neither
        // allocates nor takes a lock.
        unsafe {
            command.pre_exec(move || {
                set_parent_process_death_signal(Some(Signal::KILL))?;
                Ok(set.as_ref().map_or(Ok(()), |set| sched_setaffinity(None, set))?)
            });
        }
        let shared = Arc::new(Shared::default());
        let (started, start) = mpsc::channel();
        let begun = Instant::now();
        let keeper = thread::spawn({
            let shared = shared.clone();
            move || {
                let spawned =
                    command.spawn().with_context(|| format!("cannot run {}", line(&command)));
                // What the child has inherited is closed here, so that its end can be seen.
                drop(command);
                match spawned {
                    Ok(mut child) => {
                        let _ = started.send(child.stdin.take().context("QEMU has no input"));
                        keep_alive(&mut child, &shared, begun + limit, limit);
                    }
                    Err(error) => drop(started.send(Err(error))),
                }
            }
        });
        let console_input =
            start.recv().map_err(|_| anyhow!("the thread that starts QEMU has died"))??;
        Ok(Machine {
            shared,
            console_input: Mutex::new(console_input),
            keeper: Some(keeper),
            begun,
            _processor: processor,
        })
    }

    /// When QEMU was started.
    pub fn begun(&self) -> Instant {
        self.begun
    }

    /// Everything on the console so far (QEMU's own messages too).
    pub fn console(&self) -> String {
        String::from_utf8_lossy(&self.shared.lock().console).into_owned()
    }

    /// Types on the console.
    pub fn console_type(&self, text: &str) -> Result<()> {
        let mut input = self.console_input.lock().unwrap_or_else(PoisonError::into_inner);
        input.write_all(text.as_bytes()).context("cannot type on the console")?;
        input.flush().context("cannot type on the console")
    }

    /// Waits until the console shows a text.
    pub fn console_wait_for(&self, text: &str, limit: Duration) -> Result<()> {
        let found = |state: &State| contains(&state.console, text).then_some(());
        self.shared
            .wait(limit, found)
            .map_err(|why| self.error(why, limit, &format!("waiting for {text:?} on the console")))
    }

    /// Waits until the machine has powered off by itself.
    pub fn wait_for_end(&self, limit: Duration) -> Result<()> {
        match self.shared.wait(limit, |state| state.ended.is_some().then_some(())) {
            Ok(()) | Err(InVain::Ended(_)) => Ok(()),
            Err(why) => Err(self.error(why, limit, "waiting for the machine to power off")),
        }
    }

    /// An error about something that did not come, with the end of the console.
    pub(crate) fn error(&self, why: InVain, limit: Duration, what: &str) -> anyhow::Error {
        let why = match why {
            InVain::TimedOut => format!("gave up after {} s", limit.as_secs()),
            InVain::Ended(reason) => reason,
        };
        anyhow!("{what}: {why}\n{}", console_tail(&self.shared.lock()))
    }

    /// The end of the console, for reports.
    pub fn tail(&self) -> String {
        console_tail(&self.shared.lock())
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        self.shared.change(|state| state.stop = true);
        if let Some(keeper) = self.keeper.take() {
            let _ = keeper.join();
        }
        if let Some(fault) = emulator::fault(&self.shared.lock()) {
            emulator::note(fault);
        }
    }
}

/// Whether `text` is in `bytes`.
pub(crate) fn contains(bytes: &[u8], text: &str) -> bool {
    !text.is_empty() && bytes.windows(text.len()).any(|window| window == text.as_bytes())
}

fn console_tail(state: &State) -> String {
    let console = String::from_utf8_lossy(&state.console);
    let lines: Vec<&str> = console.lines().map(|line| line.trim_end_matches('\r')).collect();
    // What a kernel says of its error begins with what it is, and goes on with where it was.
    let error = lines.iter().position(|line| line.contains("Oops: ") || line.contains(" BUG: "));
    let shown = lines.len().min(SHOWN).max(error.map_or(0, |at| lines.len() - at).min(4 * SHOWN));
    format!(
        "--- console, last {shown} of {} lines ---\n{}\n--- end of console ---",
        lines.len(),
        lines[lines.len() - shown..].join("\n")
    )
}

/// The keeper's work.
fn keep_alive(child: &mut Child, shared: &Arc<Shared>, deadline: Instant, limit: Duration) {
    let readers = [
        child.stdout.take().map(|stream| listen(stream, shared.clone())),
        child.stderr.take().map(|stream| listen(stream, shared.clone())),
    ];
    let mut aborted = false;
    let reason = loop {
        if let Ok(Some(status)) = child.try_wait() {
            aborted = status.signal() == Some(Signal::ABORT.as_raw());
            break format!("QEMU has ended ({status})");
        }
        let state = shared.lock();
        if state.stop {
            break "the machine was stopped".to_owned();
        }
        if Instant::now() >= deadline {
            let reason = format!("the machine's time limit of {} s is over", limit.as_secs());
            eprintln!(
                "lab: {reason}: it is ended now\n{}{}",
                running(&state),
                console_tail(&state)
            );
            break reason;
        }
        // The end of a process rings no bell, hence the short waits.
        let _ = shared.changed.wait_timeout(state, Duration::from_millis(50));
    };
    let _ = child.kill();
    let _ = child.wait();
    // What it said last is on the console before its end is known.
    for reader in readers.into_iter().flatten() {
        let _ = reader.join();
    }
    shared.change(|state| {
        state.aborted = aborted;
        state.ended = Some(reason);
    });
}

fn listen(mut stream: impl Read + Send + 'static, shared: Arc<Shared>) -> JoinHandle<()> {
    thread::spawn(move || {
        let mut buffer = vec![0; 16 * 1024];
        while let Ok(count @ 1..) = stream.read(&mut buffer) {
            shared.change(|state| keep(&mut state.console, &buffer[..count]));
        }
    })
}

/// The commands that are running, for the report at the time limit.
fn running(state: &State) -> String {
    let jobs = state.jobs.values().filter(|job| job.end.is_none());
    jobs.map(|job| format!("still running: {}\n", job.report())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_assertion_of_qemu_is_told_from_other_ends() {
        let end_of = |script: &str| {
            let mut command = Command::new("sh");
            command.args(["-c", script]);
            let machine =
                Machine::start(command, Duration::from_secs(30), None).expect("sh starts");
            machine.wait_for_end(Duration::from_secs(20)).expect("it ends by itself");
            machine.shared.lock().aborted
        };
        assert!(end_of("kill -ABRT $$"));
        assert!(!end_of("exit 1"));
        assert!(!end_of("kill -SEGV $$"));
    }
}
