//! Tells people what takes time while it takes it: one line a step, on standard error.
//!
//! On a terminal the line counts the seconds and is then replaced by the outcome; elsewhere the
//! beginning and the end of a step are a line each.

use std::io::IsTerminal;
use std::sync::mpsc::{self, RecvTimeoutError, Sender};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

/// Returns to the beginning of a terminal's line and empties it.
const CLEAR: &str = "\r\x1b[K";

/// A step under way. Ending it prints how long it took; dropping it unfinished says so too.
#[must_use = "a step ends with done()"]
pub struct Step {
    what: String,
    begun: Instant,
    done: bool,
    clock: Option<Clock>,
}

/// Announces a step.
pub fn step(what: impl Into<String>) -> Step {
    let (what, begun) = (what.into(), Instant::now());
    let clock = on_terminal().then(|| Clock::start(what.clone()));
    if clock.is_none() {
        eprintln!("lab: {what} …");
    }
    Step { what, begun, done: false, clock }
}

/// Prints a line that is no step of its own.
pub fn note(what: impl AsRef<str>) {
    eprintln!("lab: {}", what.as_ref());
}

/// Whether lines of progress can be rewritten.
pub fn on_terminal() -> bool {
    std::io::stderr().is_terminal()
}

impl Step {
    /// The step is done.
    pub fn done(mut self) {
        self.done = true;
    }
}

impl Drop for Step {
    fn drop(&mut self) {
        // Its line must be gone before the last one is written.
        drop(self.clock.take());
        let how = if self.done { "done" } else { "failed" };
        let seconds = self.begun.elapsed().as_secs_f64();
        eprintln!("lab: {}: {how} in {seconds:.1} s", self.what);
    }
}

/// Counts the seconds on a terminal's line until it is dropped.
pub struct Clock {
    stop: Option<Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Clock {
    /// Starts counting, if standard error is a terminal, behind `what`.
    pub fn start(what: String) -> Self {
        let (stop, stopped) = mpsc::channel();
        let thread = on_terminal().then(|| {
            thread::spawn(move || {
                for seconds in 0u32.. {
                    eprint!("{CLEAR}lab: {what} … {seconds} s");
                    let wait = stopped.recv_timeout(Duration::from_secs(1));
                    if wait != Err(RecvTimeoutError::Timeout) {
                        break;
                    }
                }
                eprint!("{CLEAR}");
            })
        });
        Clock { stop: Some(stop), thread }
    }
}

impl Drop for Clock {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}
