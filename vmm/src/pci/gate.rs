//! Configuration space that answers once all devices are there.
//!
//! The vCPUs run while devices are still being reset: a guest's kernel looks for PCI devices some
//! hundred milliseconds later, and is held where it does so too early. A PCI device that its own reset
//! keeps from answering would be taken for absent.

use std::sync::Arc;

use super::root::RootComplex;
use crate::bus::Access;
use crate::machine::latch::Latch;
use crate::spec::Phase;
use crate::timeline::Timeline;

/// The ECAM of a root complex, shut at first.
pub struct Gate {
    root: Arc<RootComplex>,
    complete: Latch,
    timeline: Arc<Timeline>,
}

impl Gate {
    /// Shut, in front of `root`. `timeline` takes note of vCPUs that are held.
    pub fn new(root: Arc<RootComplex>, timeline: Arc<Timeline>) -> Self {
        Gate { root, complete: Latch::default(), timeline }
    }

    /// All devices are in their slots: accesses go on, and come through from now on.
    pub fn open(&self) {
        self.complete.open();
        self.timeline.end_all(Phase::HoldEnumeration);
    }

    fn wait(&self) {
        self.complete.hold(&self.timeline, Phase::HoldEnumeration, None);
    }
}

impl Access for Gate {
    fn read(&self, offset: u64, data: &mut [u8]) {
        self.wait();
        self.root.read(offset, data);
    }

    fn write(&self, offset: u64, data: &[u8]) {
        self.wait();
        self.root.write(offset, data);
    }
}

#[cfg(test)]
mod tests {
    use std::thread;
    use std::time::Duration;

    use super::*;

    #[test]
    fn who_looks_too_early_sees_what_comes_later() {
        let root = Arc::new(RootComplex::new());
        let bridge = root.take(0).unwrap();
        let timeline = Arc::new(Timeline::default());
        let gate = Gate::new(root.clone(), timeline.clone());
        let id = || {
            let mut data = [0; 4];
            gate.read(0, &mut data);
            u32::from_le_bytes(data)
        };
        thread::scope(|scope| {
            let early = scope.spawn(id);
            // Whoever is not held has read nothing but ones by now.
            while timeline.spans().is_empty() {
                thread::sleep(Duration::from_millis(1));
            }
            root.put(0, bridge);
            gate.open();
            assert_eq!(early.join().unwrap(), 0x0008_1b36);
        });
        assert_eq!(id(), 0x0008_1b36);
        let held = timeline.spans();
        assert!(held.len() == 1 && held[0].end_ns.is_some(), "{held:?}");
    }
}
