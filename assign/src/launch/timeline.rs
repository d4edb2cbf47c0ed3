//! How long the phases of a launch take: the launcher's own, and with them those that the guest's
//! process reports, by the same clock.

use std::sync::{Mutex, PoisonError};

use vmm::spec::Span;

use super::kernel::Origin;
use crate::control::stats::{Entry, Launching, Phase, Process};

/// Phases that are kept: a launch has some ten, and a few for each device that was tried in vain.
const MOST: usize = 256;

/// The phases since the launch began.
#[derive(Debug)]
pub struct Timeline(Mutex<Noted>);

#[derive(Debug)]
struct Noted {
    begun: Moment,
    phases: Vec<(Launching, Moment, Moment)>,
}

/// Nanoseconds of `CLOCK_MONOTONIC`, as the guest's process counts them too.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Moment(u64);

impl Moment {
    /// The present one.
    pub fn now() -> Moment {
        Moment(vmm::timeline::now())
    }

    /// Milliseconds since `earlier`, to the microsecond.
    fn since(self, earlier: Moment) -> f64 {
        (self.0.saturating_sub(earlier.0) / 1000) as f64 / 1000.0
    }
}

impl From<Origin> for Launching {
    fn from(kernel: Origin) -> Launching {
        match kernel {
            Origin::Image => Launching::KernelAsIs,
            Origin::Unpacked => Launching::UnpackKernel,
            Origin::Cache => Launching::KernelFromCache,
        }
    }
}

impl Timeline {
    /// A launch begins now.
    pub fn begin() -> Timeline {
        Timeline(Mutex::new(Noted { begun: Moment::now(), phases: Vec::new() }))
    }

    /// It begins anew: the guest rebooted, or goes on without its devices.
    pub fn restart(&self) {
        *self.noted() = Noted { begun: Moment::now(), phases: Vec::new() };
    }

    fn noted(&self) -> std::sync::MutexGuard<'_, Noted> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes how long `work` takes, whatever it comes to.
    pub fn time<T>(&self, phase: Launching, work: impl FnOnce() -> T) -> T {
        let start = Moment::now();
        let done = work();
        self.note(phase, start);
        done
    }

    /// Notes a phase that began at `start` and ends now.
    pub fn note(&self, phase: Launching, start: Moment) {
        let mut noted = self.noted();
        if noted.phases.len() < MOST {
            noted.phases.push((phase, start, Moment::now()));
        }
    }

    /// All phases, with those of the guest's process, by their beginnings.
    pub fn with(&self, vmm: &[Span]) -> Vec<Entry> {
        let noted = self.noted();
        let entry = |process, phase, device, start: Moment, end: Option<Moment>| {
            let start_ms = start.since(noted.begun);
            let took_ms = end.map(|end| end.since(start));
            (start, Entry { process, phase, device, start_ms, took_ms })
        };
        let ours = noted.phases.iter().map(|(phase, start, end)| {
            entry(Process::Assign, Phase::Assign(*phase), None, *start, Some(*end))
        });
        let theirs = vmm.iter().map(|span| {
            let (start, end) = (Moment(span.start_ns), span.end_ns.map(Moment));
            let device = span.device.clone();
            entry(Process::AssignVmm, Phase::Vmm(span.phase), device, start, end)
        });
        let mut all: Vec<(Moment, Entry)> = ours.chain(theirs).collect();
        // Not by what is shown, which is rounded.
        all.sort_by_key(|(start, _)| *start);
        all.into_iter().map(|(_, entry)| entry).collect()
    }
}

#[cfg(test)]
mod tests {
    use vmm::spec;

    use super::*;

    #[test]
    fn phases_of_both_processes_are_in_the_order_they_began() {
        // Beginnings within the same microsecond count as one.
        let pause = || std::thread::sleep(std::time::Duration::from_millis(1));
        let timeline = Timeline::begin();
        pause();
        let before = Moment::now();
        pause();
        timeline.time(Launching::ReadHost, || ());
        timeline.note(Launching::StartVmm, before);
        let span = |phase, start_ns, end_ns| Span { phase, device: None, start_ns, end_ns };
        let vmm = [
            span(spec::Phase::PinMemory, before.0 + 9_000_000_000, None),
            // A process that lies, or has another clock.
            span(spec::Phase::CreateVm, 0, Some(0)),
        ];
        let all = timeline.with(&vmm);
        let phases: Vec<Phase> = all.iter().map(|entry| entry.phase).collect();
        let expected = [
            Phase::Vmm(spec::Phase::CreateVm),
            Phase::Assign(Launching::StartVmm),
            Phase::Assign(Launching::ReadHost),
            Phase::Vmm(spec::Phase::PinMemory),
        ];
        assert_eq!(phases, expected);
        assert_eq!((all[0].start_ms, all[0].took_ms, all[3].took_ms), (0.0, Some(0.0), None));
        assert!(all[3].start_ms >= 9000.0 && all[1].took_ms >= all[2].took_ms, "{all:?}");
        timeline.restart();
        assert!(timeline.with(&[]).is_empty());
    }
}
