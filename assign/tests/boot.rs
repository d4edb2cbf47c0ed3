//! After a boot: the host from nothing but the files, and taking back what was there before.

use std::path::Path;

use assign::OwnReason;
use assign::apply::all::{self, All};
use assign::apply::policies::remove;
use assign::state::{Entry, Lease, Owner, State};
use policies::{Policy, Source};
use sriov::recorded::simulation::{Kernel, Simulation};
use sriov::recorded::{Function, Tree};
use sriov::{Change, HostRoot, PciAddress};

const PF: &str = "0000:01:00.0";
const VFS: [&str; 2] = ["0000:01:10.0", "0000:01:10.2"];

fn address(text: &str) -> PciAddress {
    text.parse().expect("an address")
}

/// A simulated card whose VFs the host's driver takes.
struct Lab {
    directory: tempfile::TempDir,
    tree: Tree,
    root: HostRoot,
    state: State,
    _kernel: Kernel,
}

impl Lab {
    fn new() -> Lab {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let simulation = Simulation::lab(directory.path(), 0)
            .function(
                Function::new("0000:02:00.0", (0x8086, 0x10d3), 0x02_0000)
                    .driver("e1000e")
                    .group(30),
            )
            .function(
                Function::new("0000:03:00.0", (0x8086, 0x10d3), 0x02_0000)
                    .driver("vfio-pci")
                    .group(31),
            );
        let tree = simulation.tree().clone();
        let kernel = simulation.start();
        let (root, state) = (tree.root(), State::at(directory.path().join("state")));
        let lab = Lab { directory, tree, root, state, _kernel: kernel };
        lab.boot("first");
        lab
    }

    /// Another boot: no VFs, other processes.
    fn boot(&self, id: &str) {
        self.tree.file("proc/sys/kernel/random/boot_id", &format!("{id}\n"));
        self.count(0);
        let stat = "1 1 1 0 -1 4194304 1 0 0 0 1 1 0 0 20 0 1 0 1 1 1 1";
        let me = std::process::id();
        self.tree.file(&format!("proc/{me}/stat"), &format!("{me} (a) S {stat}\n"));
    }

    fn count(&self, to: u16) {
        let at = self.root.pci_attribute(address(PF), "sriov_numvfs");
        let from: u16 =
            std::fs::read_to_string(at).expect("a number").trim().parse().expect("a number");
        if from != to {
            let change = Change::SetVfCount { pf: address(PF), from, to };
            change.perform(&self.root).expect("done");
        }
    }

    fn driver(&self, device: &str) -> Option<String> {
        let at = self.root.pci_attribute(address(device), "driver");
        sriov::attribute::link_name(&at).expect("readable")
    }

    fn apply(&self, policies: &[Policy]) -> All {
        all::apply(&self.root, &self.state, policies, &|_| Ok(())).expect("tried")
    }

    fn path(&self) -> &Path {
        self.directory.path()
    }
}

fn policy(name: &str, pool: &str) -> Policy {
    let text = format!(
        "apiVersion: assign/v1\nkind: Policy\nmetadata: {{name: {name}}}\nspec:\n  pools:\n    - {pool}\n"
    );
    let parsed = policies::parse(&[Source { name: format!("{name}.yaml"), text }]);
    parsed.unwrap_or_else(|errors| panic!("{errors}")).policies.remove(0)
}

fn lan() -> Policy {
    policy("edge", "{name: lan, from: {interface: eth0}, vfs: {count: 2}}")
}

#[test]
fn the_files_restore_the_host_and_close_what_the_last_boot_left() {
    let lab = Lab::new();
    let old =
        policy("old", "{name: old, from: {address: \"01:00.0\"}, vfs: {count: 2}, use: \"1\"}");
    let edge = policy("edge", "{name: lan, from: {interface: eth0}, vfs: {count: 2}, use: \"0\"}");
    let done = lab.apply(&[edge.clone(), old.clone()]);
    assert_eq!((done.policies.len(), done.failures.len()), (2, 0), "{:?}", done.failures);
    assert_eq!(VFS.map(|vf| lab.driver(vf)), [Some("vfio-pci".into()), Some("vfio-pci".into())]);
    let again = lab.apply(&[edge.clone(), old]);
    assert!(again.report.changes.is_empty(), "{:?}", again.report);

    // A guest had one when the power went, and a command was at work.
    let owner = Owner { pid: 7, started: 7 };
    let lease = Lease::new(&lab.root, address(VFS[0]), "web", owner);
    lab.tree.file("proc/7/stat", "7 (a) S 1 1 1 0 -1 1 1 0 0 0 1 1 0 0 20 0 1 0 7 1 1 1\n");
    lab.state.take_leases(&lab.root, &[lease]).expect("free");
    let change = Change::SetVfCount { pf: address(PF), from: 0, to: 7 };
    let (operation, boot_id) = ("apply edge".to_owned(), "first".to_owned());
    lab.state
        .journal_steps(&[Entry { number: 0, operation, boot_id, change }], None)
        .expect("written");
    lab.boot("second");
    assert!(!lab.root.pci_device(address(VFS[0])).exists());

    let done = lab.apply(std::slice::from_ref(&edge));
    assert_eq!(done.policies, ["edge"]);
    assert!(done.report.notes.iter().any(|note| note.contains("policy old was applied before")));
    assert_eq!(lab.driver(VFS[0]), Some("vfio-pci".into()));
    assert!(lab.state.leases_ever().expect("leases").is_empty());
    assert!(lab.state.journal().expect("journal").is_empty());
    let applied = lab.state.applied().expect("applied");
    assert_eq!(applied.len(), 1);
    assert_eq!(applied[0].boot_id, "second");

    // Without what was remembered it is the same.
    lab.boot("third");
    std::fs::remove_dir_all(lab.path().join("state")).expect("removed");
    let done = lab.apply(&[edge]);
    assert_eq!(done.report.changes.len(), lab.state.applied().expect("applied")[0].changes.len());
    assert_eq!(lab.driver(VFS[0]), Some("vfio-pci".into()));
}

#[test]
fn a_policy_that_cannot_be_keeps_none_of_the_others_from_it() {
    let lab = Lab::new();
    let missing = policy("gpu", "{name: gpu, devices: {vendor: \"10de\"}}");
    let done = lab.apply(&[missing, lan()]);
    assert_eq!(done.policies, ["edge"]);
    let reasons: Vec<_> = done.failures.iter().map(|failure| failure.reason).collect();
    assert_eq!(reasons, [OwnReason::UnexpectedDevices.into()]);
    assert_eq!(lab.driver(VFS[1]), Some("vfio-pci".into()));
    // One that is applied on this boot and in no file is not taken from anybody.
    let done = lab.apply(&[]);
    assert!(done.report.notes[0].contains("`assign remove edge` takes it back"), "{done:?}");
    assert_eq!(lab.driver(VFS[1]), Some("vfio-pci".into()));
}

#[test]
fn what_was_bound_beforehand_stays_bound_and_what_is_kept_is_kept() {
    let lab = Lab::new();
    lab.count(2);
    let by_hand = Change::Bind {
        device: sriov::Target::Function(address(VFS[0])),
        from: sriov::Binding { driver: lab.driver(VFS[0]), ..Default::default() },
        driver: "vfio-pci".to_owned(),
    };
    by_hand.perform(&lab.root).expect("bound");
    let names = ["edge".to_owned()];
    assert!(lab.apply(&[lan()]).failures.is_empty());
    assert_eq!(VFS.map(|vf| lab.driver(vf)), [Some("vfio-pci".into()), Some("vfio-pci".into())]);
    remove(&lab.root, &lab.state, &names).expect("removed");
    assert_eq!(VFS.map(|vf| lab.driver(vf)), [Some("vfio-pci".into()), Some("igbvf".into())]);

    // The same over another number of VFs.
    let four = policy("edge", "{name: lan, from: {interface: eth0}, vfs: {count: 4}}");
    assert!(lab.apply(&[four]).failures.is_empty());
    remove(&lab.root, &lab.state, &names).expect("removed");
    assert_eq!(VFS.map(|vf| lab.driver(vf)), [Some("vfio-pci".into()), Some("igbvf".into())]);
    assert!(!lab.root.pci_device(address("0000:01:10.4")).exists());
    let on = lab.root.pci_attribute(address(PF), "sriov_drivers_autoprobe");
    assert_eq!(std::fs::read_to_string(on).expect("readable").trim(), "1");

    let mut kept = lan();
    kept.release.restore = policies::Restore::Keep;
    assert!(lab.apply(&[kept]).failures.is_empty());
    let report = remove(&lab.root, &lab.state, &names).expect("removed");
    assert!(report.changes.is_empty() && report.notes[0].contains("restore: keep"), "{report:?}");
    assert_eq!(lab.driver(VFS[1]), Some("vfio-pci".into()));
    assert!(lab.state.applied().expect("applied").is_empty());
}

#[test]
fn whole_devices_come_back_to_the_drivers_they_had() {
    let lab = Lab::new();
    let card = policy("cards", "{name: cards, devices: {device: \"10d3\"}}");
    let done = lab.apply(&[card]);
    assert!(done.failures.is_empty(), "{:?}", done.failures);
    assert_eq!(lab.driver("0000:02:00.0"), Some("vfio-pci".into()));
    remove(&lab.root, &lab.state, &["cards".to_owned()]).expect("removed");
    assert_eq!(lab.driver("0000:02:00.0"), Some("e1000e".into()));
    assert_eq!(lab.driver("0000:03:00.0"), Some("vfio-pci".into()), "never the policy's to give");
}

#[test]
fn files_that_contradict_each_other_keep_no_other_from_being_applied() {
    let lab = Lab::new();
    let folder = lab.path().join("etc/assign");
    std::fs::create_dir_all(&folder).expect("a folder");
    let write = |name: &str, pool: &str| {
        let text = format!(
            "apiVersion: assign/v1\nkind: Policy\nmetadata: {{name: {name}}}\nspec:\n  pools:\n    - {pool}\n"
        );
        std::fs::write(folder.join(format!("{name}.yaml")), text).expect("a file");
    };
    write("a", "{name: lan, from: {interface: eth0}, vfs: {count: 2}, use: \"0\"}");
    write("b", "{name: lan, from: {interface: eth0}, vfs: {count: 2}, use: \"1\"}");
    write("c", "{name: cards, devices: {address: \"02:00.0\"}}");
    let apply = || {
        let output = std::process::Command::new(env!("CARGO_BIN_EXE_assign"))
            .arg("--root")
            .arg(lab.path())
            .args(["apply", "--all", "--yes"])
            .output()
            .expect("assign runs");
        let words = |bytes: &[u8]| {
            let text = String::from_utf8_lossy(bytes).into_owned();
            text.split_whitespace().collect::<Vec<_>>().join(" ")
        };
        (output.status.code(), words(&output.stdout), words(&output.stderr))
    };
    let (code, said, error) = apply();
    assert_eq!(code, Some(2), "{error}");
    assert!(said.contains("applied: c"), "{said}");
    assert!(error.contains("b.yaml:6: does not go together with"), "{error}");
    assert!(error.contains("a.yaml: another pool is already named `lan`"), "{error}");
    assert!(error.contains("Neither file was applied, since neither wins by its name"), "{error}");
    assert_eq!(lab.driver("0000:02:00.0"), Some("vfio-pci".into()));
    assert!(!lab.root.pci_device(address(VFS[0])).exists(), "neither of the two");

    // Pools that meet on this host only, by different words, are the plan's to tell: the same holds.
    write("b", "{name: wan, from: {address: \"01:00.0\"}, vfs: {count: 2}, use: \"0-1\"}");
    let (code, said, error) = apply();
    assert_eq!(code, Some(2), "{error}");
    assert!(said.contains("applied: c"), "{said}");
    assert!(error.contains("pools lan (policy a) and wan (policy b) both use its VF 0"), "{error}");
    assert!(error.contains("Neither was applied, since neither wins by its name"), "{error}");
    assert!(!lab.root.pci_device(address(VFS[0])).exists(), "neither of the two");

    write("b", "{name: wan, from: {address: \"01:00.0\"}, vfs: {count: 2}, use: \"1\"}");
    let (code, said, error) = apply();
    assert_eq!(code, Some(0), "{error}");
    assert!(said.contains("applied: a, b, c"), "{said}");
}

#[test]
fn what_was_applied_before_the_boot_is_in_nobodys_way() {
    let lab = Lab::new();
    let one = policy("one", "{name: a, devices: {address: \"02:00.0\"}}");
    let new = policy("new", "{name: z, devices: {device: \"10d3\"}}");
    assert!(lab.apply(std::slice::from_ref(&one)).failures.is_empty());
    let apply = || {
        assign::apply::policies::apply(
            &lab.root,
            &lab.state,
            std::slice::from_ref(&new),
            |_| Ok(()),
        )
    };
    let refused = apply().expect_err("it is in force");
    assert_eq!(refused.reason, OwnReason::PoolConflict.into(), "{refused}");

    // The boot undoes the binding, and nobody can remove what does not hold.
    remove_binding(&lab, "0000:02:00.0", "e1000e");
    lab.boot("second");
    apply().unwrap_or_else(|failure| panic!("{failure}"));
    assert_eq!(lab.driver("0000:02:00.0"), Some("vfio-pci".into()));
    // Nor does it keep what is applied now from being removed.
    remove(&lab.root, &lab.state, &["new".to_owned()]).expect("removed");
    assert_eq!(lab.driver("0000:02:00.0"), Some("e1000e".into()));
}

fn remove_binding(lab: &Lab, device: &str, driver: &str) {
    let device = sriov::Target::Function(address(device));
    let to = sriov::Binding { driver: Some(driver.to_owned()), ..Default::default() };
    let back = Change::Restore { device, from: sriov::Binding::forced("vfio-pci"), to };
    back.perform(&lab.root).expect("back");
}

#[test]
fn vfs_of_no_pool_are_as_if_the_kernel_had_made_them() {
    let lab = Lab::new();
    let some =
        policy("edge", "{name: lan, from: {interface: eth0}, vfs: {count: 4}, use: \"0-1\"}");
    assert!(lab.apply(std::slice::from_ref(&some)).failures.is_empty());
    let drivers = ["0000:01:10.0", "0000:01:10.2", "0000:01:10.4", "0000:01:10.6"];
    let drivers = drivers.map(|vf| lab.driver(vf).unwrap_or_default());
    assert_eq!(drivers, ["vfio-pci", "vfio-pci", "igbvf", "igbvf"]);
    assert!(lab.apply(&[some]).report.changes.is_empty());
    remove(&lab.root, &lab.state, &["edge".to_owned()]).expect("removed");
    assert!(!lab.root.pci_device(address(VFS[0])).exists());
}

/// A policy of eth0's VFs, with `more` in its pool and other pools after it.
fn edge(more: &str, others: &str) -> Policy {
    policy("edge", &format!("{{name: lan, from: {{interface: eth0}}, {more}}}\n{others}"))
}

const CARDS: &str = "    - {name: cards, devices: {address: \"02:00.0\"}}\n";

#[test]
fn what_a_policy_no_longer_wants_goes_back_when_it_is_applied() {
    let lab = Lab::new();
    let both = edge("vfs: {count: 2}", CARDS);
    let done = lab.apply(std::slice::from_ref(&both));
    assert!(done.failures.is_empty(), "{:?}", done.failures);
    assert_eq!(lab.driver("0000:02:00.0"), Some("vfio-pci".into()));

    // Without one pool, its device goes back, and nothing else does.
    let lan = edge("vfs: {count: 2}", "");
    let done = lab.apply(std::slice::from_ref(&lan));
    assert!(done.failures.is_empty(), "{:?}", done.failures);
    assert_eq!(done.report.changes.len(), 1, "{:?}", done.report);
    assert_eq!(lab.driver("0000:02:00.0"), Some("e1000e".into()));
    assert_eq!(VFS.map(|vf| lab.driver(vf)), [Some("vfio-pci".into()), Some("vfio-pci".into())]);
    assert!(lab.apply(std::slice::from_ref(&lan)).report.changes.is_empty());
    let recorded = lab.state.applied().expect("applied").remove(0).changes;
    let of_card = |change: &&Change| change.device().to_string().starts_with("0000:02");
    assert_eq!(recorded.iter().filter(of_card).count(), 0, "{recorded:?}");

    // And without the other one, all of its VFs, its link and what the host did with new VFs.
    let cards = policy("edge", CARDS.trim().trim_start_matches("- "));
    let done = lab.apply(std::slice::from_ref(&cards));
    assert!(done.failures.is_empty(), "{:?}", done.failures);
    assert!(!lab.root.pci_device(address(VFS[0])).exists());
    let on = lab.root.pci_attribute(address(PF), "sriov_drivers_autoprobe");
    assert_eq!(std::fs::read_to_string(on).expect("readable").trim(), "1");
    assert_eq!(lab.driver("0000:02:00.0"), Some("vfio-pci".into()));
    assert!(lab.apply(std::slice::from_ref(&cards)).report.changes.is_empty());
    remove(&lab.root, &lab.state, &["edge".to_owned()]).expect("removed");
    assert_eq!(lab.driver("0000:02:00.0"), Some("e1000e".into()));
}

#[test]
fn vfs_that_a_pool_no_longer_uses_go_back_to_the_host() {
    let lab = Lab::new();
    let all = ["0000:01:10.0", "0000:01:10.2", "0000:01:10.4", "0000:01:10.6"];
    let drivers = || all.map(|vf| lab.driver(vf).unwrap_or_default());
    let four = edge("vfs: {count: 4}, network: {vlan: {id: 7}}", "");
    let two = edge("vfs: {count: 4}, use: \"0-1\", network: {vlan: {id: 7}}", "");
    assert!(lab.apply(std::slice::from_ref(&four)).failures.is_empty());
    assert_eq!(drivers(), ["vfio-pci"; 4]);

    // Not from under a guest: then nothing is done at all.
    let owner = Owner { pid: 7, started: 7 };
    let lease = Lease::new(&lab.root, address(all[3]), "web", owner);
    lab.tree.file("proc/7/stat", "7 (a) S 1 1 1 0 -1 1 1 0 0 0 1 1 0 0 20 0 1 0 7 1 1 1\n");
    lab.state.take_leases(&lab.root, &[lease]).expect("free");
    let refused = lab.apply(std::slice::from_ref(&two));
    let reasons: Vec<_> = refused.failures.iter().map(|failure| failure.reason).collect();
    assert_eq!(reasons, [OwnReason::Leased.into()], "{:?}", refused.failures);
    assert_eq!(drivers(), ["vfio-pci"; 4]);
    lab.state.release_lease(address(all[3]), &owner).expect("released");

    // Nor where the policy keeps what it took.
    let mut kept = two.clone();
    kept.release.restore = policies::Restore::Keep;
    assert!(lab.apply(&[kept]).failures.is_empty());
    assert_eq!(drivers(), ["vfio-pci"; 4]);

    // Until then, the host is not as the policy says.
    let host = sriov::HostSnapshot::read(&lab.root);
    let applied = lab.state.applied().expect("applied");
    let known = assign::plan::Known { applied: &applied, ..Default::default() };
    let plan = assign::plan::plan(&host, std::slice::from_ref(&two), known);
    let drift = assign::drift::compare(&host, std::slice::from_ref(&two), &applied, &plan);
    let told: Vec<_> = drift.differences.iter().map(|one| &*one.device).collect();
    assert!(told.contains(&"0000:01:00.0 VF 2") && told.contains(&"0000:01:00.0 VF 3"), "{told:?}");
    assert!(!told.contains(&"0000:01:00.0 VF 1"), "{told:?}");

    let done = lab.apply(std::slice::from_ref(&two));
    assert!(done.failures.is_empty(), "{:?}", done.failures);
    assert_eq!(drivers(), ["vfio-pci", "vfio-pci", "igbvf", "igbvf"]);
    assert!(lab.apply(std::slice::from_ref(&two)).report.changes.is_empty());
    assert!(lab.apply(std::slice::from_ref(&four)).failures.is_empty());
    assert_eq!(drivers(), ["vfio-pci"; 4]);
    remove(&lab.root, &lab.state, &["edge".to_owned()]).expect("removed");
    assert!(!lab.root.pci_device(address(VFS[0])).exists());
}
