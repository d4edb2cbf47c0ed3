//! Waiting for udev, which renames network interfaces after the kernel has told of them: a name
//! that is read before is another one a moment later.

use std::time::Duration;

use crate::act::wait;
use crate::root::HostRoot;

/// How long udevd may take to notice that there is something to do.
const NOTICES: Duration = Duration::from_millis(100);

/// Whether udevd runs, which alone makes waiting worth while (`udevadm settle` looks there as well).
pub fn runs(root: &HostRoot) -> bool {
    root.run("udev/control").exists()
}

/// Whether udevd has nothing left to do now, or is not there.
pub fn is_idle(root: &HostRoot) -> bool {
    !runs(root) || !root.run("udev/queue").exists()
}

/// Waits until udevd has nothing left to do, at most so long; says whether it came to that. Where no
/// udevd runs there is nothing to wait for.
///
/// `known` tells whether udevd has begun with what the caller waits for: an empty queue may be one
/// that nothing has come into yet.
pub fn settle(root: &HostRoot, limit: Duration, known: impl Fn() -> bool) -> bool {
    if !runs(root) {
        return true;
    }
    // The file is there as long as events are being worked off (systemd, src/udev/udev-manager.c).
    wait(NOTICES.min(limit), || !is_idle(root) || known());
    wait(limit, || is_idle(root))
}

/// Whether udevd has looked at a network interface: it remembers it by its number.
pub fn knows_interface(root: &HostRoot, index: u32) -> bool {
    root.run(&format!("udev/data/n{index}")).exists()
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;
    use crate::recorded::Tree;

    #[test]
    fn without_udevd_nobody_waits() {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let tree = Tree::new(directory.path());
        tree.file("run/udev/queue", "");
        let begun = Instant::now();
        assert!(settle(&tree.root(), Duration::from_secs(30), || false));
        assert!(begun.elapsed() < Duration::from_secs(5));
    }

    #[test]
    fn the_queue_is_waited_for_and_not_for_ever() {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let tree = Tree::new(directory.path());
        tree.file("run/udev/control", "");
        tree.file("run/udev/queue", "");
        let begun = Instant::now();
        assert!(!settle(&tree.root(), Duration::from_millis(80), || false));
        assert!(begun.elapsed() >= Duration::from_millis(80));
        std::thread::scope(|scope| {
            scope.spawn(|| {
                std::thread::sleep(Duration::from_millis(60));
                tree.remove("run/udev/queue");
            });
            assert!(settle(&tree.root(), Duration::from_secs(30), || false));
        });
        assert!(begun.elapsed() < Duration::from_secs(20));
    }

    #[test]
    fn an_empty_queue_is_given_a_moment_unless_the_work_is_known_to_be_done() {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let tree = Tree::new(directory.path());
        tree.file("run/udev/control", "");
        tree.file("run/udev/data/n7", "I:1\n");
        let root = tree.root();
        let begun = Instant::now();
        assert!(settle(&root, Duration::from_secs(30), || knows_interface(&root, 8)));
        assert!(begun.elapsed() >= NOTICES);
        assert!(settle(&root, Duration::from_secs(30), || knows_interface(&root, 7)));
    }
}
