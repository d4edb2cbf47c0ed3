//! Several steps at the same time: the kernel takes each device from its driver on its own, so seven
//! of them need no longer than the slowest.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc;
use std::thread;

use sriov::Change;

/// Steps at once. More would only queue for the kernel's locks.
const AT_ONCE: usize = 8;

/// Splits steps into runs, in order: bindings of different devices that follow each other are one
/// run and may be made together; any other step is a run of its own, which waits for the one before
/// it.
pub(super) fn runs<T>(steps: &[T], change: impl Fn(&T) -> &Change) -> Vec<&[T]> {
    let mut runs = Vec::new();
    let mut rest = steps;
    while !rest.is_empty() {
        let mut devices = BTreeSet::new();
        let joins = |step: &&T| is_binding(change(step)) && devices.insert(change(step).device());
        let length = rest.iter().take_while(joins).count().max(1);
        let (run, after) = rest.split_at(length);
        runs.push(run);
        rest = after;
    }
    runs
}

fn is_binding(change: &Change) -> bool {
    match change.plain() {
        // A device that no driver has is not taken from one, which is what takes time.
        Change::Bind { from, .. } | Change::Restore { from, .. } | Change::Yield { from, .. } => {
            from.driver.is_some()
        }
        Change::Retake { .. } => true,
        _ => false,
    }
}

/// Does `work` for each item, some at once; results in the order of the items. After one that
/// `fails` no further item is begun, which leaves `None`, and those under way are finished.
///
/// `watch` is told about the items in their order, whichever is done first: once when an item is the
/// next one to be waited for, with `None`, and once with its result.
pub(super) fn each<T: Sync, R: Send>(
    items: &[T],
    work: impl Fn(&T) -> R + Sync,
    fails: impl Fn(&R) -> bool + Sync,
    mut watch: impl FnMut(&T, Option<&R>),
) -> Vec<Option<R>> {
    let mut results: Vec<Option<R>> = items.iter().map(|_| None).collect();
    let (next, stop) = (AtomicUsize::new(0), AtomicBool::new(false));
    let one = |hand_in: &mut dyn FnMut(usize, R)| {
        while !stop.load(Ordering::Relaxed) {
            let at = next.fetch_add(1, Ordering::Relaxed);
            let Some(item) = items.get(at) else { return };
            let result = work(item);
            if fails(&result) {
                stop.store(true, Ordering::Relaxed);
            }
            hand_in(at, result);
        }
    };
    let mut shown = Shown { items, at: 0, watch: &mut watch };
    thread::scope(|scope| {
        let (sender, receiver) = mpsc::channel();
        let mut threads = 0;
        // One alone needs none.
        let wanted = if items.len() > 1 { items.len().min(AT_ONCE) } else { 0 };
        for _ in 0..wanted {
            let sender = sender.clone();
            let one = &one;
            let thread = move || one(&mut |at, result| drop(sender.send((at, result))));
            // Where there is no room for more threads, fewer do it.
            threads += usize::from(thread::Builder::new().spawn_scoped(scope, thread).is_ok());
        }
        drop(sender);
        shown.begin();
        if threads == 0 {
            one(&mut |at, result| shown.put(&mut results, at, result));
        }
        for (at, result) in receiver {
            shown.put(&mut results, at, result);
        }
    });
    results
}

/// How far the items have been told about.
struct Shown<'a, T, W> {
    items: &'a [T],
    at: usize,
    watch: &'a mut W,
}

impl<T, W> Shown<'_, T, W> {
    fn begin<R>(&mut self)
    where
        W: FnMut(&T, Option<&R>),
    {
        if let Some(item) = self.items.get(self.at) {
            (self.watch)(item, None);
        }
    }

    fn put<R>(&mut self, results: &mut [Option<R>], at: usize, result: R)
    where
        W: FnMut(&T, Option<&R>),
    {
        if let Some(place) = results.get_mut(at) {
            *place = Some(result);
        }
        while let (Some(item), Some(Some(result))) = (self.items.get(self.at), results.get(self.at))
        {
            (self.watch)(item, Some(result));
            self.at += 1;
            self.begin::<R>();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Barrier;
    use std::sync::atomic::AtomicUsize;

    use sriov::{Binding, Target, Undo, VfRef};

    use super::*;

    fn bind(index: u16) -> Change {
        let pf = "0000:01:00.0".parse().expect("an address");
        Change::Bind {
            device: Target::Vf(VfRef { pf, index }),
            from: Binding { driver: Some("igbvf".to_owned()), ..Binding::default() },
            driver: "vfio-pci".to_owned(),
        }
    }

    fn count(to: u16) -> Change {
        let pf = "0000:01:00.0".parse().expect("an address");
        Change::SetVfCount { pf, from: 0, to }
    }

    #[test]
    fn bindings_that_follow_each_other_are_one_run() {
        let lengths = |steps: &[Change]| -> Vec<usize> {
            runs(steps, |step| step).into_iter().map(<[Change]>::len).collect()
        };
        let Undo::Change(release) = bind(2).undo() else { panic!("it can be undone") };
        assert_eq!(lengths(&[count(3), bind(0), bind(1), release, count(3)]), [1, 3, 1]);
        assert_eq!(lengths(&[bind(0), bind(1), bind(0), bind(2)]), [2, 2], "a device twice");
        assert_eq!(lengths(&[count(1), count(2)]), [1, 1]);
        let Change::Bind { device, driver, .. } = bind(0) else { panic!("a binding") };
        let of_nobody = Change::Bind { device, from: Binding::default(), driver };
        assert_eq!(lengths(&[of_nobody, bind(1), bind(2)]), [1, 2], "quickly done");
        assert!(lengths(&[]).is_empty());
    }

    #[test]
    fn they_run_at_once_and_are_told_in_order() {
        // Each waits until all are there: one after another they would wait for ever.
        let all = Barrier::new(7);
        let mut told = Vec::new();
        let items: Vec<usize> = (0..7).collect();
        let work = |item: &usize| {
            all.wait();
            *item * 2
        };
        let results = each(&items, work, |_| false, |item, done| told.push((*item, done.copied())));
        assert_eq!(results, items.iter().map(|item| Some(item * 2)).collect::<Vec<_>>());
        let expected: Vec<_> =
            items.iter().flat_map(|item| [(*item, None), (*item, Some(item * 2))]).collect();
        assert_eq!(told, expected);
    }

    #[test]
    fn after_a_failure_nothing_is_begun_and_what_runs_is_finished() {
        let begun = AtomicUsize::new(0);
        let items: Vec<usize> = (0..1000).collect();
        let work = |item: &usize| {
            begun.fetch_add(1, Ordering::Relaxed);
            *item
        };
        let results = each(&items, work, |result| *result == 3, |_, _| {});
        let begun = begun.into_inner();
        assert!((4..1000).contains(&begun), "{begun}");
        assert_eq!(results.iter().flatten().count(), begun, "each has a result");
    }

    #[test]
    fn one_alone_needs_no_thread() {
        let here = thread::current().id();
        let results = each(&[()], |()| thread::current().id(), |_| false, |_, _| {});
        assert_eq!(results, [Some(here)]);
    }
}
