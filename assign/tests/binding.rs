//! bind and release as far as a tree without a kernel shows them: what is refused, with which words,
//! and what is left alone. Bindings that work are shown in the lab.

use std::path::Path;
use std::process::{Command, Output};

use assign::state::{Original, State, originals};
use sriov::recorded::{Function, Tree};
use sriov::{Binding, PciAddress};

const BOOT: &str = "11111111-2222-3333-4444-555555555555";
const VF: &str = "0000:01:10.0";

fn directory() -> tempfile::TempDir {
    tempfile::tempdir().expect("a temporary directory")
}

fn assign(root: &Path, arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_assign"));
    command.arg("--root").arg(root).args(arguments).output().expect("assign runs")
}

/// Exit code and error text.
fn failed(root: &Path, arguments: &[&str]) -> (Option<i32>, String) {
    let output = assign(root, arguments);
    (output.status.code(), String::from_utf8_lossy(&output.stderr).trim().to_owned())
}

fn given_away(tree: &Tree, device: &str) {
    tree.link(&format!("sys/bus/pci/devices/{device}/driver"), "../../bus/pci/drivers/vfio-pci");
}

fn has(root: &Path, device: &str) -> Option<String> {
    let link = std::fs::read_link(root.join(format!("sys/bus/pci/devices/{device}/driver")));
    link.ok().and_then(|link| Some(link.file_name()?.to_string_lossy().into_owned()))
}

/// A card of two functions in one group.
fn pair(directory: &Path) -> Tree {
    let tree = Tree::lab(directory, 0);
    for address in ["0000:02:00.0", "0000:02:00.1"] {
        let card = Function::new(address, (0x8086, 0x10d3), 0x02_0000);
        tree.add(card.driver("e1000e").group(11));
    }
    tree
}

#[test]
fn a_group_is_taken_as_a_whole_or_not_at_all() {
    let directory = directory();
    let root = directory.path();
    let tree = pair(root);
    let (code, error) = failed(root, &["bind", "02:00.0"]);
    assert_eq!(code, Some(3), "{error}");
    assert!(error.contains("group 11 also holds 0000:02:00.1 (e1000e)"), "{error}");
    assert!(error.contains("`--group` takes all devices of the group"), "{error}");

    // Both in one command, or by their group: it comes to the kernel, which this tree has not.
    for arguments in [["bind", "02:00.0", "02:00.1"], ["bind", "02:00.1", "--group"]] {
        let (code, error) = failed(root, &arguments);
        assert_eq!(code, Some(1), "{error}");
        assert!(error.contains("cannot be bound to vfio-pci"), "{error}");
        let state = State::at(root.join("var/lib/assign"));
        assert!(state.journal().expect("journal").is_empty(), "all of it was taken back");
    }
    for card in ["0000:02:00.0", "0000:02:00.1"] {
        let path = tree.root().pci_attribute(card.parse().expect("an address"), "driver_override");
        assert_eq!(std::fs::read_to_string(path).expect("the override").trim(), "");
    }

    // One of the group that the host needs is in the way of all.
    let (code, error) = failed(root, &["bind", "00:1f.3", "--group"]);
    assert_eq!(code, Some(3), "{error}");
    assert!(error.starts_with("assign: 0000:00:1f.2: "), "{error}");
    assert!(error.contains("sda → /") && error.contains("--force 0000:00:1f.2"), "{error}");
}

#[test]
fn force_is_for_the_devices_that_are_named_and_that_may_be_forced() {
    let directory = directory();
    let root = directory.path();
    let tree = pair(root);
    tree.file(
        "proc/net/route",
        "Iface Destination Gateway Flags RefCnt Use Metric Mask\n\
               eth0 00000000 0200000A 0003 0 0 0 00000000\n",
    );
    let (code, error) = failed(root, &["bind", "eth0", "--yes"]);
    assert_eq!(code, Some(3), "--yes forces nothing: {error}");
    assert!(error.contains("0000:01:00.0 → eth0 → default route"), "{error}");

    let (code, error) = failed(root, &["bind", "02:00.0", "02:00.1", "--force", "eth7"]);
    assert_eq!(code, Some(2), "{error}");
    // A device that is named by --force is one that the command takes; this one comes to the kernel.
    let (code, error) = failed(root, &["bind", "--force", "eth0"]);
    assert_eq!(code, Some(1), "{error}");
    assert!(error.contains("warning: by force, the host loses 0000:01:00.0 → eth0"), "{error}");
    assert!(error.contains("cannot be bound to vfio-pci"), "{error}");
    let (code, error) = failed(root, &["bind", "--force", "00:01.0"]);
    assert_eq!(code, Some(3), "a bridge: {error}");
    assert!(!error.contains("--force"), "{error}");
    let state = State::at(root.join("var/lib/assign"));
    assert!(state.forced().expect("forced").is_empty(), "nothing came of it");
}

#[test]
fn what_was_given_away_beforehand_stays_so() {
    let directory = directory();
    let root = directory.path();
    let tree = Tree::lab(root, 2);
    given_away(&tree, VF);
    for verb in ["bind", "release"] {
        let output = assign(root, &[verb, VF]);
        assert_eq!(output.status.code(), Some(0));
        assert!(String::from_utf8_lossy(&output.stdout).contains("nothing to do"));
        assert_eq!(has(root, VF).as_deref(), Some("vfio-pci"));
    }
    // With an override, by a person or another tool: not ours to give back.
    tree.attribute(VF, "driver_override", "vfio-pci\n");
    let (code, error) = failed(root, &["release", VF]);
    assert_eq!(code, Some(2), "{error}");
    assert!(error.contains("was not bound with `assign bind`"), "{error}");
    assert_eq!(has(root, VF).as_deref(), Some("vfio-pci"));
}

fn original(root: &Path, instance: Option<u64>, boot_id: &str) -> Original {
    let tree = sriov::HostRoot::at(root);
    let device: PciAddress = VF.parse().expect("an address");
    Original {
        device,
        vf: None,
        instance: instance.or_else(|| originals::instance(&tree, device)),
        binding: Binding { driver: Some("igbvf".to_owned()), ..Binding::default() },
        given_to: "vfio-pci".to_owned(),
        lost: Vec::new(),
        boot_id: boot_id.to_owned(),
    }
}

#[test]
fn only_the_very_device_is_given_back_on_the_boot_it_was_taken() {
    let directory = directory();
    let root = directory.path();
    let tree = Tree::lab(root, 1);
    given_away(&tree, VF);
    let state = State::at(root.join("var/lib/assign"));
    let remember = |original: Original| {
        state.change(|state| state.remember_original(&original)).expect("remembered");
    };
    for stale in [original(root, Some(1), BOOT), original(root, None, "before")] {
        remember(stale);
        let output = assign(root, &["release", VF]);
        assert_eq!(output.status.code(), Some(0));
        assert_eq!(has(root, VF).as_deref(), Some("vfio-pci"), "another device, another boot");
        // A release that had nothing to do has put things in order as well.
    }
    remember(original(root, Some(1), BOOT));
    remember(original(root, None, BOOT));
    // It is tried, and there is no such driver in this tree.
    let (code, error) = failed(root, &["release", VF]);
    assert_eq!(code, Some(1), "{error}");
    assert!(error.contains("igbvf") && error.contains("modprobe igbvf"), "{error}");
    // The earliest state of a device is the one to go back to.
    let later = Original { binding: Binding::default(), ..original(root, None, BOOT) };
    remember(later);
    let known = state.originals(&tree.root(), BOOT).expect("originals");
    assert_eq!(known, [original(root, None, BOOT)]);
}

#[test]
fn what_is_known_of_vfs_goes_with_them() {
    let directory = directory();
    let root = directory.path();
    Tree::lab(root, 1);
    let state = State::at(root.join("var/lib/assign"));
    let pf = "0000:01:00.0".parse().expect("an address");
    let vf = Some(sriov::VfRef { pf, index: 0 });
    let known = Original { vf, ..original(root, None, BOOT) };
    state.change(|state| state.remember_original(&known)).expect("remembered");
    let tree = sriov::HostRoot::at(root);
    assert_eq!(state.originals(&tree, BOOT).expect("originals").len(), 1);
    let change = sriov::Change::SetVfCount { pf, from: 1, to: 0 };
    let operation = assign::apply::Operation::begin(&tree, &state, "test").expect("begun");
    operation.perform_all(&[change]).expect("made").commit(|_| Ok(())).expect("remembered");
    assert!(state.originals(&tree, BOOT).expect("originals").is_empty());
}

#[test]
fn without_an_iommu_it_has_to_be_said_in_so_many_words() {
    let directory = directory();
    let root = directory.path();
    let tree = Tree::new(root);
    tree.driver("vfio-pci");
    tree.add(Function::new("0000:01:00.0", (0x8086, 0x10c9), 0x02_0000).driver("igb"));
    let (code, error) = failed(root, &["bind", "01:00.0"]);
    assert_eq!(code, Some(3), "{error}");
    assert!(!error.contains("--no-iommu"), "the kernel would not do it: {error}");
    let (code, error) = failed(root, &["bind", "01:00.0", "--no-iommu"]);
    assert_eq!(code, Some(3), "{error}");
    assert!(error.contains("enable_unsafe_noiommu_mode=1"), "{error}");

    tree.file("sys/module/vfio/parameters/enable_unsafe_noiommu_mode", "Y\n");
    let (code, error) = failed(root, &["bind", "01:00.0"]);
    assert_eq!(code, Some(3), "{error}");
    assert!(error.contains("isolates nothing; `--no-iommu` says"), "{error}");
    let (code, error) = failed(root, &["bind", "01:00.0", "--no-iommu"]);
    assert_eq!(code, Some(1), "it comes to the kernel: {error}");
    assert!(error.contains("cannot be bound to vfio-pci"), "{error}");
}

#[test]
fn a_kernel_that_was_told_to_pretend_isolation_is_not_believed_in_silence() {
    let directory = directory();
    let root = directory.path();
    let tree = Tree::lab(root, 1);
    tree.file("proc/cmdline", "quiet pcie_acs_override=downstream,multifunction\n");
    given_away(&tree, VF);
    let output = assign(root, &["bind", VF]);
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(text.contains("note: pcie_acs_override is on"), "{text}");
}

#[test]
fn a_device_that_is_open_is_refused_before_any_other_is_touched() {
    let directory = directory();
    let root = directory.path();
    let tree = Tree::lab(root, 2);
    for (vf, group) in [(VF, 16), ("0000:01:10.2", 17)] {
        given_away(&tree, vf);
        tree.attribute(vf, "driver_override", "vfio-pci\n");
        tree.file(&format!("dev/vfio/{group}"), "");
    }
    tree.link("proc/4711/fd/7", "/dev/vfio/17");
    tree.file("proc/4711/comm", "assign-vmm\n");
    let (code, error) = failed(root, &["bind", "--driver", "igb", VF, "01:10.2"]);
    assert_eq!(code, Some(3), "{error}");
    assert!(error.starts_with("assign: 0000:01:10.2: will not bind it to igb"), "{error}");
    assert!(error.contains("assign-vmm (process 4711)"), "{error}");
    let kept = std::fs::read_to_string(root.join("sys/bus/pci/drivers/vfio-pci/unbind"));
    assert_eq!(kept.expect("unbind"), "", "nothing was taken");
}
