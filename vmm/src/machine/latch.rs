//! A gate that opens once and is waited for until then.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Condvar, Mutex, PoisonError};

use crate::spec::Phase;
use crate::timeline::Timeline;

/// Closed at first, and then, for good, open or broken.
#[derive(Debug, Default)]
pub struct Latch {
    outcome: Mutex<Option<Outcome>>,
    changed: Condvar,
    awaited: AtomicBool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Outcome {
    Open,
    Broken,
}

impl Latch {
    /// Lets everybody pass who waits, or will.
    pub fn open(&self) {
        self.end(Outcome::Open);
    }

    /// Turns everybody away who waits, or will.
    pub fn give_up(&self) {
        self.end(Outcome::Broken);
    }

    /// Whether nobody has to wait any more, or is turned away.
    pub fn is_open(&self) -> bool {
        *crate::lock(&self.outcome) == Some(Outcome::Open)
    }

    /// Whether somebody waited here, or does.
    pub fn is_awaited(&self) -> bool {
        self.awaited.load(Ordering::Relaxed)
    }

    /// Waits until it is open; false where it was given up.
    pub fn pass(&self) -> bool {
        self.awaited.store(true, Ordering::Relaxed);
        let ended = self
            .changed
            .wait_while(crate::lock(&self.outcome), |outcome| outcome.is_none())
            .unwrap_or_else(PoisonError::into_inner);
        *ended == Some(Outcome::Open)
    }

    /// The same for a vCPU, which is held meanwhile: `timeline` takes note of that, where it is.
    pub fn hold(&self, timeline: &Timeline, phase: Phase, device: Option<&str>) -> bool {
        if self.is_open() {
            return true;
        }
        timeline.time(phase, device, || self.pass())
    }

    fn end(&self, outcome: Outcome) {
        crate::lock(&self.outcome).get_or_insert(outcome);
        self.changed.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use std::thread;
    use std::time::Duration;

    use super::*;

    #[test]
    fn nobody_passes_before_it_opens_and_everybody_afterwards() {
        let (latch, opens) = (Latch::default(), AtomicBool::new(false));
        assert!(!latch.is_open() && !latch.is_awaited());
        thread::scope(|scope| {
            let waiting = [(); 3].map(|()| {
                scope.spawn(|| {
                    let passed = latch.pass();
                    assert!(opens.load(Ordering::SeqCst), "it was closed");
                    passed
                })
            });
            // Whoever does not wait has passed by now.
            thread::sleep(Duration::from_millis(20));
            assert!(latch.is_awaited());
            opens.store(true, Ordering::SeqCst);
            latch.open();
            assert!(waiting.into_iter().all(|thread| thread.join().unwrap()));
        });
        assert!(latch.is_open() && latch.pass());
    }

    #[test]
    fn the_first_outcome_stays() {
        let latch = Latch::default();
        thread::scope(|scope| {
            let waiting = scope.spawn(|| latch.pass());
            latch.give_up();
            assert!(!waiting.join().unwrap());
        });
        latch.open();
        assert!(!latch.pass());
    }
}
