//! Tells people what takes time while it takes it: one line a step, on standard error.

use std::io::IsTerminal;
use std::time::Instant;

/// A step under way. Ending it prints how long it took; dropping it unfinished says so too.
#[must_use = "a step ends with done()"]
pub struct Step {
    what: String,
    begun: Instant,
    ended: bool,
}

/// Announces a step.
pub fn step(what: impl Into<String>) -> Step {
    let what = what.into();
    // Where lines cannot be rewritten, the announcement is left out of the log's second line.
    if std::io::stderr().is_terminal() {
        eprint!("lab: {what} …\r");
    } else {
        eprintln!("lab: {what} …");
    }
    Step { what, begun: Instant::now(), ended: false }
}

/// Prints a line that is no step of its own.
pub fn note(what: impl AsRef<str>) {
    eprintln!("lab: {}", what.as_ref());
}

impl Step {
    /// The step is done.
    pub fn done(mut self) {
        self.end("done");
    }

    fn end(&mut self, how: &str) {
        self.ended = true;
        let seconds = self.begun.elapsed().as_secs_f64();
        eprintln!("lab: {}: {how} in {seconds:.1} s", self.what);
    }
}

impl Drop for Step {
    fn drop(&mut self) {
        if !self.ended {
            self.end("failed");
        }
    }
}
