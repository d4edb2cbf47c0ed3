//! When the phases of a guest's start began and ended, by a clock that the launcher has too.

use std::sync::Mutex;

use rustix::time::{ClockId, clock_gettime};

use crate::spec::{Phase, Span};

/// Spans that are kept: a start has some ten of its own and two a device. What comes later is a
/// guest that has a vCPU held time and again, and is left out.
const MOST: usize = 128;

/// What has been noted so far, from any thread.
#[derive(Debug, Default)]
pub struct Timeline(Mutex<Vec<Span>>);

/// Now, in nanoseconds of `CLOCK_MONOTONIC`.
pub fn now() -> u64 {
    let time = clock_gettime(ClockId::Monotonic);
    // Neither part is ever negative.
    time.tv_sec.cast_unsigned() * 1_000_000_000 + time.tv_nsec.cast_unsigned()
}

impl Timeline {
    /// Notes how long `work` takes, whatever it comes to.
    pub fn time<T>(&self, phase: Phase, device: Option<&str>, work: impl FnOnce() -> T) -> T {
        let span = self.begin(phase, device);
        let done = work();
        self.end(span);
        done
    }

    /// Notes a moment.
    pub fn mark(&self, phase: Phase) {
        let span = self.begin(phase, None);
        self.end(span);
    }

    /// A phase begins now: to be ended by what is returned.
    pub fn begin(&self, phase: Phase, device: Option<&str>) -> Option<usize> {
        let mut spans = crate::lock(&self.0);
        let device = device.map(str::to_owned);
        (spans.len() < MOST).then(|| {
            spans.push(Span { phase, device, start_ns: now(), end_ns: None });
            spans.len() - 1
        })
    }

    /// Ends what was begun, unless it was ended before.
    pub fn end(&self, span: Option<usize>) {
        let mut spans = crate::lock(&self.0);
        if let Some(span) = span.and_then(|at| spans.get_mut(at)) {
            span.end_ns.get_or_insert_with(now);
        }
    }

    /// Ends all that were begun of `phase`.
    pub fn end_all(&self, phase: Phase) {
        for span in crate::lock(&self.0).iter_mut().filter(|span| span.phase == phase) {
            span.end_ns.get_or_insert_with(now);
        }
    }

    /// All of it, in the order in which the phases began.
    pub fn spans(&self) -> Vec<Span> {
        crate::lock(&self.0).clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn phases_have_a_beginning_and_the_first_end_that_they_are_given() {
        let timeline = Timeline::default();
        let before = now();
        let hold = timeline.begin(Phase::HoldBusMaster, Some("0000:01:10.0"));
        assert_eq!(timeline.time(Phase::CreateVm, None, || 7), 7);
        assert_eq!(timeline.spans()[0].end_ns, None, "it lasts");
        timeline.end_all(Phase::HoldBusMaster);
        let spans = timeline.spans();
        assert!(spans[0].start_ns >= before && spans[0].end_ns <= Some(now()), "{spans:?}");
        assert!(spans[1].end_ns >= Some(spans[1].start_ns), "{spans:?}");
        timeline.end(hold);
        assert_eq!(timeline.spans(), spans, "the first end stays");
    }

    #[test]
    fn a_guest_cannot_make_it_grow_for_ever() {
        let timeline = Timeline::default();
        (0..2 * MOST).for_each(|_| timeline.mark(Phase::HoldBusMaster));
        assert_eq!(timeline.spans().len(), MOST);
    }
}
