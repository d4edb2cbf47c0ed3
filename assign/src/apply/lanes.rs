//! Steps of PFs that have nothing to do with each other, at the same time: a lane for each PF, with
//! its VFs. Within a lane the order stays.
//!
//! ```text
//! lane of 01:00.0   up ─► create VFs ─► bind ─► …        each at a step's boundary: go on?
//! lane of 02:00.0   reset ─► create VFs ─► …                    │
//!                                                    Gate ◄─────┘ one failure, or somebody's wish,
//!                                                                 stops all of them there
//! ```

use std::collections::VecDeque;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;

use sriov::facts::iov;
use sriov::facts::reader::Reader;
use sriov::{Change, HostRoot, PciAddress, Target};

/// Lanes at once; the others wait for one of these to end.
const AT_ONCE: usize = 8;

/// The PF on which a step waits for others.
pub(super) fn lane_of(root: &HostRoot, change: &Change) -> PciAddress {
    match change.device() {
        Target::Vf(vf) => vf.pf,
        Target::Function(address) => {
            iov::vf_of(&mut Reader::new(root), address).map_or(address, |vf| vf.pf)
        }
    }
}

/// Items by lane, in order within each; lanes in the order of their first item.
pub(super) fn split<T>(items: Vec<T>, lane: impl Fn(&T) -> PciAddress) -> Vec<Vec<T>> {
    let mut lanes: Vec<(PciAddress, Vec<T>)> = Vec::new();
    for item in items {
        let of = lane(&item);
        match lanes.iter_mut().find(|(address, _)| *address == of) {
            Some((_, items)) => items.push(item),
            None => lanes.push((of, vec![item])),
        }
    }
    lanes.into_iter().map(|(_, items)| items).collect()
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mode {
    Open,
    /// Whoever comes to it waits.
    Shut,
    /// Whoever comes to it ends.
    Stopped,
}

#[derive(Debug)]
struct Inside {
    mode: Mode,
    lanes: usize,
    waiting: usize,
}

/// Where each lane asks, between two steps, whether to go on.
#[derive(Debug)]
pub(super) struct Gate {
    inside: Mutex<Inside>,
    changed: Condvar,
}

impl Gate {
    pub fn new() -> Gate {
        let inside = Inside { mode: Mode::Open, lanes: 0, waiting: 0 };
        Gate { inside: Mutex::new(inside), changed: Condvar::new() }
    }

    /// Whether to go on; waits while that is not decided. What is `pending` shuts the gate, for it
    /// to be decided about.
    pub fn pass(&self, pending: impl FnOnce() -> bool) -> bool {
        let mut inside = self.lock();
        if inside.mode == Mode::Open && pending() {
            inside.mode = Mode::Shut;
        }
        inside.waiting += 1;
        while inside.mode == Mode::Shut {
            inside = self.changed.wait(inside).unwrap_or_else(PoisonError::into_inner);
        }
        inside.waiting -= 1;
        inside.mode == Mode::Open
    }

    /// Has every lane wait at its next boundary, unless they are to end already.
    pub fn shut(&self) {
        let mut inside = self.lock();
        if inside.mode == Mode::Open {
            inside.mode = Mode::Shut;
        }
    }

    /// Whether it waits for a decision.
    pub fn is_shut(&self) -> bool {
        self.lock().mode == Mode::Shut
    }

    /// Whether no lane is at work: all wait, or have ended.
    pub fn is_quiet(&self) -> bool {
        let inside = self.lock();
        inside.waiting == inside.lanes
    }

    /// Lets those that wait go on.
    pub fn open(&self) {
        let mut inside = self.lock();
        if inside.mode == Mode::Shut {
            inside.mode = Mode::Open;
        }
        self.changed.notify_all();
    }

    /// Has every lane end at its next boundary.
    pub fn stop(&self) {
        self.lock().mode = Mode::Stopped;
        self.changed.notify_all();
    }

    fn lock(&self) -> MutexGuard<'_, Inside> {
        self.inside.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A lane at work, until it is dropped.
struct AtWork<'a>(&'a Gate);

impl Drop for AtWork<'_> {
    fn drop(&mut self) {
        self.0.lock().lanes -= 1;
    }
}

/// Does `work` for each lane, some at once, and `watch` meanwhile, in this thread. `watch` returns
/// when all work is over, which it has to learn from `work` itself: each call of it gets a `hand` of
/// its own, made by `hand` beforehand and dropped at its end.
pub(super) fn each<L: Send, H: Clone + Send>(
    lanes: Vec<L>,
    gate: &Gate,
    hand: H,
    work: impl Fn(L, &H) + Sync,
    watch: impl FnOnce(),
) {
    let threads = lanes.len().min(AT_ONCE);
    let queue = Mutex::new(VecDeque::from(lanes));
    let next = || queue.lock().unwrap_or_else(PoisonError::into_inner).pop_front();
    let at_work = |hand: H| {
        let _at_work = AtWork(gate);
        while let Some(lane) = next() {
            work(lane, &hand);
        }
    };
    thread::scope(|scope| {
        let mut begun = 0;
        for _ in 0..threads {
            let hand = hand.clone();
            let at_work = &at_work;
            gate.lock().lanes += 1;
            match thread::Builder::new().spawn_scoped(scope, move || at_work(hand)) {
                Ok(_) => begun += 1,
                // Where there is no room for more threads, fewer do it.
                Err(_) => gate.lock().lanes -= 1,
            }
        }
        if begun == 0 {
            gate.lock().lanes += 1;
            at_work(hand);
        } else {
            drop(hand);
        }
        watch();
    });
}

#[cfg(test)]
mod tests {
    use std::sync::Barrier;
    use std::sync::mpsc;

    use super::*;

    #[test]
    fn items_of_a_lane_keep_their_order() {
        let address = |text: &str| text.parse::<PciAddress>().expect("an address");
        let (one, two) = (address("0000:01:00.0"), address("0000:02:00.0"));
        let items = vec![(one, 1), (two, 2), (one, 3), (two, 4), (one, 5)];
        let lanes = split(items, |(of, _)| *of);
        assert_eq!(lanes, [vec![(one, 1), (one, 3), (one, 5)], vec![(two, 2), (two, 4)]]);
    }

    #[test]
    fn lanes_are_at_work_at_the_same_time_and_stop_at_a_boundary() {
        // Each waits for the other two before its first step and after: one after another they
        // would wait for ever.
        let (together, gate) = (Barrier::new(3), Gate::new());
        let (sender, receiver) = mpsc::channel();
        let work = |lane: usize, sender: &mpsc::Sender<usize>| {
            for step in 0.. {
                if !gate.pass(|| false) {
                    return;
                }
                sender.send(lane).expect("somebody listens");
                if step == 0 {
                    together.wait();
                    if lane == 1 {
                        gate.stop();
                    }
                    together.wait();
                }
            }
        };
        let mut seen = Vec::new();
        each(vec![0, 1, 2], &gate, sender, work, || seen.extend(receiver));
        seen.sort_unstable();
        assert_eq!(seen, [0, 1, 2], "one step each, and no other after the stop");
    }

    #[test]
    fn a_shut_gate_holds_all_until_it_is_opened() {
        let gate = Gate::new();
        gate.shut();
        let (sender, receiver) = mpsc::channel();
        let work = |lane: usize, sender: &mpsc::Sender<usize>| {
            assert!(gate.pass(|| false));
            sender.send(lane).expect("somebody listens");
        };
        each(vec![0, 1], &gate, sender, work, || {
            while !gate.is_quiet() {
                thread::yield_now();
            }
            assert!(receiver.try_recv().is_err(), "nobody has passed");
            gate.open();
            assert_eq!(receiver.iter().count(), 2);
        });
    }
}
