//! What is remembered: leases that die with their process, and a journal that is undone.

use std::os::unix::fs::PermissionsExt;
use std::time::Duration;

use assign::apply::Operation;
use assign::apply::policies::{apply, remove};
use assign::choose::Previous;
use assign::state::choices::KEPT;
use assign::state::{Entry, Lease, Owner, State};
use assign::{OwnReason, Reason};
use policies::{Policy, Source};
use sriov::recorded::Tree;
use sriov::{Change, PciAddress, VfRef};

const BOOT: &str = "11111111-2222-3333-4444-555555555555";

fn directory() -> tempfile::TempDir {
    tempfile::tempdir().expect("a temporary directory")
}

fn address(text: &str) -> PciAddress {
    text.parse().expect("an address")
}

/// A process in a recorded tree; its name is chosen to confuse.
fn process(tree: &Tree, pid: u32, started: u64) -> Owner {
    let fields = "1 1 1 0 -1 4194304 1 0 0 0 1 1 0 0 20 0 1 0";
    tree.file(&format!("proc/{pid}/stat"), &format!("{pid} (a) b) S {fields} {started} 1 1 1\n"));
    Owner::of(&tree.root(), pid).expect("a process")
}

#[test]
fn a_device_has_one_guest() {
    let directory = directory();
    let tree = Tree::lab(directory.path(), 2);
    let root = tree.root();
    let state = State::at(directory.path().join("state"));
    let (one, two) = (process(&tree, 100, 5), process(&tree, 200, 6));
    assert_eq!(one, Owner { pid: 100, started: 5 });
    let vf = address("0000:01:10.0");
    let lease = Lease { group: Some(16), ..Lease::new(&root, vf, "web-1", one) };
    state.take_leases(&root, std::slice::from_ref(&lease)).expect("free");
    assert_eq!(state.leases(&root).expect("leases"), std::slice::from_ref(&lease));

    let other = Lease { group: Some(16), ..Lease::new(&root, vf, "web-2", two) };
    let error = state.take_leases(&root, std::slice::from_ref(&other)).expect_err("taken");
    assert_eq!(error.reason, Reason::Own(OwnReason::Leased));
    assert!(error.to_string().contains("guest web-1 (process 100)"), "{error}");

    // One group, one guest: but a guest may have all of it.
    let sibling = address("0000:01:10.2");
    let neighbour = Lease { device: sibling, ..other.clone() };
    let error = state.take_leases(&root, &[neighbour]).expect_err("group taken");
    assert!(error.to_string().contains("shares IOMMU group 16 with 0000:01:10.0"), "{error}");
    state.take_leases(&root, &[Lease { device: sibling, ..lease.clone() }]).expect("same guest");

    state.release_lease(vf, &two).expect("a late release of another owner");
    assert_eq!(state.leases(&root).expect("leases").len(), 2);
    state.release_lease(vf, &one).expect("released");
    assert_eq!(state.leases(&root).expect("leases").len(), 1);
}

#[test]
fn several_are_taken_together_or_not_at_all() {
    let directory = directory();
    let tree = Tree::lab(directory.path(), 2);
    let (root, state) = (tree.root(), State::at(directory.path().join("state")));
    let (one, two) = (process(&tree, 100, 5), process(&tree, 200, 6));
    let lease = |device: &str, guest, owner| Lease::new(&root, address(device), guest, owner);
    state.take_leases(&root, &[lease("0000:01:10.2", "web-1", one)]).expect("free");
    let both = [lease("0000:01:10.0", "web-2", two), lease("0000:01:10.2", "web-2", two)];
    state.take_leases(&root, &both).expect_err("one is taken");
    assert_eq!(state.leases(&root).expect("leases").len(), 1);
}

#[test]
fn a_lease_dies_with_its_process_and_with_the_boot() {
    let directory = directory();
    let tree = Tree::lab(directory.path(), 1);
    let (root, state) = (tree.root(), State::at(directory.path().join("state")));
    let owner = process(&tree, 100, 5);
    let vf = address("0000:01:10.0");
    let take = |owner| state.take_leases(&root, &[Lease::new(&root, vf, "web-1", owner)]);
    take(owner).expect("free");

    // Another process with the same id is not the owner.
    let later = process(&tree, 100, 99);
    assert!(state.leases(&root).expect("leases").is_empty());
    take(later).expect("free again");

    tree.file("proc/100/stat", "100 (vmm) Z 1 1 1 0 -1 4194304 1 0 0 0 1 1 0 0 20 0 1 0 99 1\n");
    assert!(state.leases(&root).expect("leases").is_empty(), "a zombie holds nothing");

    take(process(&tree, 100, 7)).expect("free again");
    tree.file("proc/sys/kernel/random/boot_id", "another\n");
    assert!(state.leases(&root).expect("leases").is_empty(), "another boot");
}

#[test]
fn a_lease_is_handed_to_the_guests_machine() {
    let directory = directory();
    let tree = Tree::lab(directory.path(), 1);
    let (root, state) = (tree.root(), State::at(directory.path().join("state")));
    let (launcher, machine) = (process(&tree, 100, 5), process(&tree, 101, 6));
    let vf = address("0000:01:10.0");
    state.take_leases(&root, &[Lease::new(&root, vf, "web-1", launcher)]).expect("free");
    state.set_lease_owner(&root, &[vf], &machine, 101).expect_err("not its owner");
    let owner = state.set_lease_owner(&root, &[vf], &launcher, 101).expect("handed over");
    assert_eq!(owner, machine);
    tree.remove("proc/100/stat");
    assert_eq!(state.leases(&root).expect("leases").len(), 1, "the machine runs on");
    state.release_lease(vf, &machine).expect("released");
    assert!(state.leases(&root).expect("leases").is_empty());
}

/// Whoever reads again has what was read before, unless it was written since: by whomever, and be it
/// another database in the place of the first.
#[test]
fn what_was_read_is_kept_until_it_is_written() {
    let directory = directory();
    let tree = Tree::lab(directory.path(), 2);
    let root = tree.root();
    let at = |name: &str| State::at(directory.path().join(name));
    let (state, other) = (at("state"), at("state"));
    let owner = process(&tree, 100, 5);
    let take = |state: &State, device: &str, guest: &str| {
        state
            .take_leases(&root, &[Lease::new(&root, address(device), guest, owner)])
            .expect("free");
    };
    let guests = |state: &State| -> Vec<String> {
        let leases = state.leases(&root).expect("leases");
        leases.into_iter().map(|lease| lease.guest).collect()
    };
    assert!(guests(&state).is_empty(), "no database yet");
    take(&state, "0000:01:10.0", "web-1");
    assert_eq!(guests(&state), ["web-1"]);
    take(&other, "0000:01:10.2", "web-2");
    assert_eq!(guests(&state), ["web-1", "web-2"], "written by another");
    let last = at("state");
    last.release_lease(address("0000:01:10.0"), &owner).expect("released");
    assert_eq!(guests(&state), ["web-2"]);
    assert_eq!(guests(&state.clone()), ["web-2"], "a clone knows the same");

    // Of what is kept nothing is read again but the header, so damage behind it is not seen yet.
    let database = directory.path().join("state/state.redb");
    let whole = std::fs::read(&database).expect("the database");
    let mut damaged = whole.clone();
    damaged[4096..].fill(0xa5);
    std::fs::write(&database, &damaged).expect("written in place");
    assert_eq!(guests(&state), ["web-2"]);
    at("state").leases(&root).expect_err("who reads it first sees the damage");
    std::fs::write(&database, &whole).expect("written in place");

    take(&at("another"), "0000:01:10.0", "web-3");
    std::fs::rename(directory.path().join("another/state.redb"), &database).expect("renamed");
    assert_eq!(guests(&state), ["web-3"], "another database");
    std::fs::remove_file(&database).expect("removed");
    assert!(guests(&state).is_empty(), "no database any more");
}

fn lan(count: u16) -> Policy {
    let text = format!(
        "apiVersion: assign/v1\nkind: Policy\nmetadata: {{name: edge}}\nspec:\n  pools:\n    \
         - {{name: lan, from: {{interface: eth0}}, vfs: {{count: {count}}}}}\n"
    );
    let documents = policies::parse(&[Source { name: "test.yaml".to_owned(), text }]);
    documents.expect("a right policy").policies.remove(0)
}

fn attribute(tree: &Tree, device: &str, name: &str) -> String {
    let path = tree.root().pci_attribute(address(device), name);
    std::fs::read_to_string(path).expect("an attribute").trim().to_owned()
}

#[test]
fn a_step_that_fails_takes_back_those_before_it() {
    let directory = directory();
    let tree = Tree::lab(directory.path(), 0);
    tree.file("sys/class/net/eth0/flags", "0x1003\n");
    let (root, state) = (tree.root(), State::at(directory.path().join("state")));
    // The recorded tree takes the number and makes no VFs, so the first binding fails.
    let error = apply(&root, &state, &[lan(2)], |_| Ok(())).expect_err("no VF to bind");
    assert!(error.to_string().contains("the 2 steps before it were taken back"), "{error}");
    assert_eq!(attribute(&tree, "0000:01:00.0", "sriov_numvfs"), "0");
    assert_eq!(attribute(&tree, "0000:01:00.0", "sriov_drivers_autoprobe"), "1");
    assert!(state.journal().expect("journal").is_empty());
    assert!(state.applied().expect("policies").is_empty());
}

#[test]
fn what_a_killed_command_left_is_undone_by_the_next() {
    let directory = directory();
    let tree = Tree::lab(directory.path(), 4);
    let (root, state) = (tree.root(), State::at(directory.path().join("state")));
    let pf = address("0000:01:00.0");
    tree.attribute("0000:01:00.0", "sriov_drivers_autoprobe", "0\n");
    let vf = VfRef { pf, index: 0 };
    let steps = [
        Change::SetAutoprobe { pf, from: true, to: false },
        Change::SetVfCount { pf, from: 0, to: 4 },
        // Written down, and never made.
        Change::Bind {
            device: sriov::Target::Vf(vf),
            from: sriov::Binding::default(),
            driver: "vfio-pci".to_owned(),
        },
    ];
    for (number, change) in (0..).zip(steps) {
        let operation = "apply edge".to_owned();
        let entry = Entry { number, operation, boot_id: BOOT.to_owned(), change };
        state.journal_steps(&[entry], None).expect("written");
    }
    let report = remove(&root, &state, &["edge".to_owned()]).expect("recovered");
    assert_eq!(report.notes, ["policy edge is not applied"]);
    assert_eq!(attribute(&tree, "0000:01:00.0", "sriov_numvfs"), "0");
    assert_eq!(attribute(&tree, "0000:01:00.0", "sriov_drivers_autoprobe"), "1");
    assert!(state.journal().expect("journal").is_empty());
}

#[test]
fn the_journal_of_another_boot_is_forgotten() {
    let directory = directory();
    let tree = Tree::lab(directory.path(), 4);
    let (root, state) = (tree.root(), State::at(directory.path().join("state")));
    let change = Change::SetVfCount { pf: address("0000:01:00.0"), from: 0, to: 4 };
    let boot_id = "before".to_owned();
    let entry = Entry { number: 0, operation: "apply edge".to_owned(), boot_id, change };
    state.journal_steps(&[entry], None).expect("written");
    remove(&root, &state, &[]).expect("nothing to undo");
    assert_eq!(attribute(&tree, "0000:01:00.0", "sriov_numvfs"), "4");
    assert!(state.journal().expect("journal").is_empty());
}

#[test]
fn whoever_changes_the_host_is_named_to_the_next() {
    let directory = directory();
    let state = State::at(directory.path().join("state")).with_patience(Duration::ZERO);
    let _held = state.lock_host().expect("free");
    let error = state.lock_host().expect_err("held");
    let expected = format!("process {} is changing this host", std::process::id());
    assert!(error.to_string().contains(&expected), "{error}");
}

#[test]
fn a_name_is_for_one_guest_at_a_time() {
    let directory = directory();
    let tree = Tree::lab(directory.path(), 2);
    let (root, state) = (tree.root(), State::at(directory.path().join("state")));
    let (one, two) = (process(&tree, 100, 5), process(&tree, 200, 6));
    let lease = |device: &str, owner| Lease::new(&root, address(device), "web-1", owner);
    state.take_leases(&root, &[lease("0000:01:10.0", one)]).expect("free");
    let error = state.take_leases(&root, &[lease("0000:01:10.2", two)]).expect_err("a namesake");
    assert_eq!(error.reason, Reason::Own(OwnReason::GuestRuns));
    assert_eq!(error.exit_code(), 3);
    assert!(error.to_string().starts_with("web-1: runs already, as process 100."), "{error}");
    tree.remove("proc/100/stat");
    state.take_leases(&root, &[lease("0000:01:10.2", two)]).expect("the first one has ended");
}

/// VFs that were there before, given to the pool by hand of an earlier apply.
fn adopted(tree: &Tree, state: &State, changes: &[Change]) {
    let policy = lan(2);
    state.change(|state| state.remember_policy(&policy, BOOT, changes, &[])).expect("remembered");
    tree.file("sys/class/net/eth0/flags", "0x1003\n");
}

#[test]
fn nothing_of_a_removal_happens_while_a_guest_would_notice() {
    let directory = directory();
    let tree = Tree::lab(directory.path(), 2);
    let (root, state) = (tree.root(), State::at(directory.path().join("state")));
    let pf = address("0000:01:00.0");
    let vf = VfRef { pf, index: 0 };
    let [zero, mac] = [[0; 6], [2; 6]].map(sriov::MacAddress);
    let lease = Lease::new(&root, address("0000:01:10.0"), "web-1", process(&tree, 100, 5));
    state.take_leases(&root, &[lease]).expect("free");
    let up = Change::SetLink { pf, netdev: "eth0".to_owned(), from: false, to: true };
    let autoprobe = Change::SetAutoprobe { pf, from: false, to: true };
    for change in [Change::SetVfMac { vf, from: zero, to: mac }, up] {
        // The first step back would be harmless: it is not made either.
        adopted(&tree, &state, &[change, autoprobe.clone()]);
        let error = remove(&root, &state, &["edge".to_owned()]).expect_err("leased");
        assert_eq!(error.reason, Reason::Own(OwnReason::Leased), "{error}");
        assert_eq!(attribute(&tree, "0000:01:00.0", "sriov_drivers_autoprobe"), "1");
        state.change(|state| state.forget_policy("edge")).expect("forgotten");
    }
    tree.remove("proc/100/stat");
    adopted(&tree, &state, &[autoprobe]);
    remove(&root, &state, &["edge".to_owned()]).expect("a dead guest's lease is in nobody's way");
    assert_eq!(attribute(&tree, "0000:01:00.0", "sriov_drivers_autoprobe"), "0");
}

#[test]
fn what_somebody_else_changed_since_stays_as_it_is() {
    let directory = directory();
    let tree = Tree::lab(directory.path(), 3);
    let (root, state) = (tree.root(), State::at(directory.path().join("state")));
    let pf = address("0000:01:00.0");
    adopted(&tree, &state, &[Change::SetVfCount { pf, from: 0, to: 2 }]);
    let report = remove(&root, &state, &["edge".to_owned()]).expect("removed");
    assert_eq!(report.notes, ["0000:01:00.0: it has 3 VFs now, and had 2 VFs; left as it is"]);
    assert_eq!(attribute(&tree, "0000:01:00.0", "sriov_numvfs"), "3");

    // Nor does a killed command's journal keep all later commands from their work.
    let change = Change::SetVfCount { pf, from: 0, to: 2 };
    let (operation, boot_id) = ("apply edge".to_owned(), BOOT.to_owned());
    state.journal_steps(&[Entry { number: 0, operation, boot_id, change }], None).expect("written");
    remove(&root, &state, &[]).expect("recovered");
    assert!(state.journal().expect("journal").is_empty());
}

#[test]
fn a_step_that_cannot_be_taken_back_keeps_no_other_from_it() {
    let directory = directory();
    let tree = Tree::lab(directory.path(), 0);
    tree.file("sys/class/net/eth0/flags", "0x1003\n");
    let (root, state) = (tree.root(), State::at(directory.path().join("state")));
    let pf = address("0000:01:00.0");
    let mut operation = Operation::begin(&root, &state, "apply edge").expect("begun");
    for change in [
        Change::SetAutoprobe { pf, from: true, to: false },
        Change::SetVfCount { pf, from: 0, to: 4 },
    ] {
        assert!(operation.perform(&change).expect("made"));
    }
    // The driver goes away, so that the kernel takes no other number.
    tree.remove("sys/bus/pci/devices/0000:01:00.0/driver");
    let cause = assign::Failure::failed(OwnReason::Guest, "test", "broke");
    let failure = operation.roll_back(cause);
    let text = failure.to_string();
    assert!(text.contains("taking back \"0000:01:00.0: create 4 VFs\" failed as well"), "{text}");
    assert!(text.contains("tries again"), "{text}");
    assert_eq!(attribute(&tree, "0000:01:00.0", "sriov_drivers_autoprobe"), "1");
    assert_eq!(state.journal().expect("journal").len(), 1);
}

#[test]
fn steps_that_cannot_be_remembered_are_taken_back_at_once() {
    let directory = directory();
    let tree = Tree::lab(directory.path(), 0);
    let (root, state) = (tree.root(), State::at(directory.path().join("state")));
    let pf = address("0000:01:00.0");
    let operation = Operation::begin(&root, &state, "apply edge").expect("begun");
    let change = Change::SetAutoprobe { pf, from: true, to: false };
    let operation = operation.perform_all(&[change]).expect("made");
    let full = || assign::Failure::failed(OwnReason::State, "state.redb", "no space is left");
    operation.commit(|_| Err(full())).expect_err("not remembered");
    assert_eq!(attribute(&tree, "0000:01:00.0", "sriov_drivers_autoprobe"), "1");
    assert!(state.journal().expect("journal").is_empty());
}

#[test]
fn a_damaged_state_is_an_error_that_names_the_file() {
    let directory = directory();
    let tree = Tree::lab(directory.path(), 1);
    let (root, state) = (tree.root(), State::at(directory.path().join("state")));
    let lease = Lease::new(&root, address("0000:01:10.0"), "web-1", process(&tree, 100, 5));
    state.take_leases(&root, &[lease]).expect("free");
    let file = directory.path().join("state/state.redb");
    let whole = std::fs::read(&file).expect("the database");
    let length = whole.len();
    let mut damaged: Vec<Vec<u8>> = vec![Vec::new(), b"not a database".to_vec(), vec![0; length]];
    damaged.extend([9, 320, 4096, length / 2, length - 1].map(|end| whole[..end].to_vec()));
    for at in (0..length.min(16 << 10)).step_by(61) {
        let mut bytes = whole.clone();
        bytes[at] ^= 0xff;
        damaged.push(bytes);
    }
    let mut told = 0;
    for bytes in damaged {
        std::fs::write(&file, bytes).expect("written");
        // Reading and writing answer, whatever is in the file.
        for result in [state.leases(&root).map(drop), state.change(|state| state.close_journal())] {
            if let Err(error) = result {
                told += 1;
                let text = error.to_string();
                assert!(text.contains("state.redb") && error.remedy.is_some(), "{text}");
            }
        }
    }
    assert!(told > 10, "{told}");
}

/// The directory may have been made by a package, and be open to all.
#[test]
fn what_is_remembered_is_for_its_owner_alone() {
    let directory = directory();
    let open = std::fs::Permissions::from_mode(0o755);
    std::fs::set_permissions(directory.path(), open).expect("its owner may");
    let state = State::at(directory.path());
    assert!(!state.is_hidden(), "there is nothing to hide");
    state.change(|_| Ok(())).expect("a new state");
    let mode = |name: &str| {
        let file = std::fs::metadata(directory.path().join(name)).expect("a file");
        file.permissions().mode() & 0o777
    };
    assert_eq!(mode("state.redb"), 0o600);
    assert!(!state.is_hidden(), "not from its owner");
}

#[test]
fn reading_writes_nothing() {
    let directory = directory();
    let tree = Tree::lab(directory.path(), 1);
    let (root, state) = (tree.root(), State::at(directory.path().join("state")));
    let owner = process(&tree, 100, 5);
    let lease = Lease::new(&root, address("0000:01:10.0"), "web-1", owner);
    state.take_leases(&root, &[lease]).expect("free");
    tree.remove("proc/100/stat");
    let file = directory.path().join("state/state.redb");
    let before = std::fs::read(&file).expect("the database");
    assert!(state.leases(&root).expect("leases").is_empty());
    assert!(state.applied().expect("policies").is_empty());
    assert!(std::fs::read(&file).expect("the database") == before);
}

#[test]
fn what_guests_had_is_forgotten_with_its_pool_and_beyond_the_latest() {
    let directory = directory();
    let state = State::at(directory.path().join("state"));
    let pf = address("0000:01:00.0");
    let had = |number: usize, pool: &str| Previous {
        guest: format!("guest-{number}"),
        claim: "net0".to_owned(),
        pool: pool.to_owned(),
        vf: Some(VfRef { pf, index: 0 }),
        address: pf,
        identity: "mac 52:54:00:00:01:00".to_owned(),
    };
    let policy = lan(2);
    state.change(|state| state.remember_policy(&policy, BOOT, &[], &[])).expect("remembered");
    state.remember_choices(&[had(0, "lan"), had(1, "other")]).expect("remembered");
    assert_eq!(state.choices().expect("choices").len(), 2);
    // Applied without the pool: nobody is to have its devices again.
    let mut renamed = policy.clone();
    renamed.pools[0].name = "wan".to_owned();
    state.change(|state| state.remember_policy(&renamed, BOOT, &[], &[])).expect("remembered");
    assert_eq!(state.choices().expect("choices"), [had(1, "other")]);
    // Removed: the same.
    state.remember_choices(&[had(2, "wan")]).expect("remembered");
    state.change(|state| state.forget_policy(&renamed.name)).expect("forgotten");
    assert_eq!(state.choices().expect("choices"), [had(1, "other")]);
    // And names that never come again are not kept for ever.
    let many: Vec<Previous> = (10..KEPT + 20).map(|number| had(number, "other")).collect();
    state.remember_choices(&many).expect("remembered");
    let kept = state.choices().expect("choices");
    assert_eq!(kept.len(), KEPT);
    state.remember_choices(&[had(5, "other")]).expect("remembered");
    assert_eq!(state.choices().expect("choices").len(), KEPT);
}
