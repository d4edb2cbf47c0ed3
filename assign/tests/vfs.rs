//! Another number of VFs: what there was before comes back when the new ones do not.

use assign::apply::Operation;
use assign::plan::vfs;
use assign::state::State;
use sriov::recorded::{Function, Tree};
use sriov::{Change, HostSnapshot, PciAddress, Reason};

fn igb() -> Function {
    Function::new("0000:01:00.0", (0x8086, 0x10c9), 0x02_0000)
        .below("0000:00:01.0")
        .driver("igb")
        .group(8)
        .netdev("eth0")
        .vfs(7, 0)
}

fn pf() -> PciAddress {
    "0000:01:00.0".parse().expect("an address")
}

/// The drivers of its VFs, by number, and whether the host takes new ones by itself.
fn vfs_of(tree: &Tree) -> (Vec<Option<String>>, bool) {
    let snapshot = HostSnapshot::read(&tree.root());
    let facts = snapshot.function(pf()).and_then(|pf| pf.sriov.clone()).expect("a PF");
    let driver = |at: &PciAddress| snapshot.function(*at).and_then(|vf| vf.driver.clone());
    (facts.vfs.values().map(driver).collect(), facts.autoprobe)
}

fn steps(tree: &Tree, count: u16, driver: Option<&str>) -> Vec<Change> {
    let snapshot = HostSnapshot::read(&tree.root());
    vfs::create(&snapshot, snapshot.function(pf()).expect("the PF"), count, driver)
        .expect("it has enough")
}

#[test]
fn fewer_than_asked_leaves_what_was_there_before() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let tree = Tree::lab(directory.path(), 0);
    let (root, state) = (tree.root(), State::at(directory.path().join("state")));
    // This card has room for 4.
    tree.behave(igb(), |wanted| Ok(wanted.min(4)));
    let begin = || Operation::begin(&root, &state, "vf create").expect("begun");
    let made = begin().perform_all(&steps(&tree, 3, Some("vfio-pci"))).expect("made");
    made.commit(|_| Ok(())).expect("committed");
    let vfio = || Some("vfio-pci".to_owned());
    let before = (vec![vfio(), vfio(), vfio()], true);
    assert_eq!(vfs_of(&tree), before);

    for driver in [Some("vfio-pci"), None] {
        let steps = steps(&tree, 6, driver);
        let told: Vec<String> = steps.iter().map(ToString::to_string).collect();
        assert!(
            told.contains(&"0000:01:00.0 VF 2: remember what it has: vfio-pci".to_owned()),
            "{told:?}"
        );
        let failure = begin().perform_all(&steps).expect_err("fewer than asked");
        assert_eq!(failure.reason, Reason::OtherVfCount.into());
        let text = failure.to_string();
        assert!(text.contains("asked for 6 VFs, the kernel made 4"), "{text}");
        assert!(text.contains("steps before it were taken back"), "{text}");
        assert_eq!(vfs_of(&tree), before, "{text}");
        assert!(state.journal().expect("the journal").is_empty());
    }
}

#[test]
fn a_command_that_was_killed_between_old_and_new_vfs_is_taken_back() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let tree = Tree::lab(directory.path(), 0);
    let (root, state) = (tree.root(), State::at(directory.path().join("state")));
    tree.behave(igb(), Ok);
    let begin = || Operation::begin(&root, &state, "vf create").expect("begun");
    let made = begin().perform_all(&steps(&tree, 2, Some("vfio-pci"))).expect("made");
    made.commit(|_| Ok(())).expect("committed");
    let before = vfs_of(&tree);

    let steps = steps(&tree, 5, Some("vfio-pci"));
    let gone = steps.iter().position(|step| matches!(step, Change::SetVfCount { to: 0, .. }));
    let mut operation = begin();
    operation.perform_each(&steps[..=gone.expect("the old ones go")]).expect("made");
    assert_eq!(vfs_of(&tree), (Vec::new(), false));
    // Dropped without a commit, as a killed process leaves it; the next command finds it.
    drop(operation);
    drop(begin());
    assert_eq!(vfs_of(&tree), before);
}

#[test]
fn as_many_as_there_are_is_nothing_to_do() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let tree = Tree::lab(directory.path(), 3);
    for driver in [Some("vfio-pci"), None] {
        assert!(steps(&tree, 3, driver).is_empty());
    }
}
