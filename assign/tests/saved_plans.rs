//! Plans that are kept in a file: what is carried out is exactly that, or nothing. And an apply that
//! has nothing to do touches nothing.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, SystemTime};

use sriov::recorded::{Function, Tree, VfKind};

fn assign(directory: &Path, arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_assign"));
    command.arg("--root").arg(directory.join("host")).arg("--state").arg(directory.join("state"));
    command.args(arguments).current_dir(directory).stdin(Stdio::null());
    command.output().expect("assign runs")
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

const POLICY: &str = "apiVersion: assign/v1\nkind: Policy\nmetadata: {name: edge}\nspec:\n  pools:\n    - \
                      {name: lan, from: {interface: eth0}, vfs: {count: 2}}\n---\napiVersion: assign/v1\n\
                      kind: Guest\nmetadata: {name: web-1}\nspec: {memory: {size: 64MiB}, boot: {kernel: k}, \
                      networks: [{name: net0, claim: {pool: lan}}]}\n";

/// The lab's host with 2 VFs that are bound to vfio-pci and an interface that is up: as wanted.
fn lay_out(directory: &Path) -> Tree {
    let tree = Tree::lab(&directory.join("host"), 2);
    for vf in ["0000:01:10.0", "0000:01:10.2"] {
        let link = format!("sys/bus/pci/devices/{vf}/driver");
        tree.link(&link, "../../bus/pci/drivers/vfio-pci");
        tree.attribute(vf, "driver_override", "vfio-pci\n");
    }
    tree.file("sys/class/net/eth0/flags", "0x1003\n");
    fs::write(directory.join("edge.yaml"), POLICY).expect("written");
    tree
}

fn save(directory: &Path) -> String {
    let output = assign(directory, &["plan", "-f", "edge.yaml", "--save", "plan.json"]);
    assert!(output.status.success(), "{}", text(&output.stderr));
    fs::read_to_string(directory.join("plan.json")).expect("a saved plan")
}

fn refused(directory: &Path, code: i32) -> String {
    let output = assign(directory, &["apply", "plan.json"]);
    let error = text(&output.stderr);
    assert_eq!(output.status.code(), Some(code), "{error}");
    error
}

#[test]
fn a_saved_plan_is_carried_out_while_it_holds() {
    use std::os::unix::fs::PermissionsExt;
    let directory = tempfile::tempdir().expect("a temporary directory");
    let directory = directory.path();
    lay_out(directory);
    save(directory);
    let mode = fs::metadata(directory.join("plan.json")).expect("a file").permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    // The documents are in it: nobody needs their files any more.
    fs::remove_file(directory.join("edge.yaml")).expect("removed");
    let output = assign(directory, &["apply", "plan.json"]);
    assert!(output.status.success(), "{}", text(&output.stderr));
    assert!(text(&output.stdout).contains("nothing to do"), "{}", text(&output.stdout));
}

#[test]
fn guests_alone_are_planned_for_with_what_is_applied() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let directory = directory.path();
    lay_out(directory);
    let guest = |pool: &str| {
        let (_, guest) = POLICY.split_once("---\n").expect("two documents");
        fs::write(
            directory.join("guest.yaml"),
            guest.replace("pool: lan", &format!("pool: {pool}")),
        )
        .expect("written");
        assign(directory, &["plan", "-f", "guest.yaml"])
    };
    let output = guest("lan");
    assert_eq!(output.status.code(), Some(2), "{output:?}");
    assert!(text(&output.stderr).contains("none is applied"), "{}", text(&output.stderr));
    assert!(assign(directory, &["apply", "-f", "edge.yaml"]).status.success());
    let output = guest("lan");
    let said = text(&output.stdout);
    assert!(output.status.success(), "{}", text(&output.stderr));
    assert!(said.contains("VF 0 of eth0") && said.contains("1 of 1 guests would start"), "{said}");
    // A pool that is nowhere is a slip, whatever else the guest could start with.
    let output = guest("wan");
    assert_eq!(output.status.code(), Some(2), "{output:?}");
    assert!(text(&output.stderr).contains("no policy has a pool wan; there is lan"), "{output:?}");
    assert!(text(&output.stdout).contains("1 guest would not start: web-1"), "{output:?}");
}

#[test]
fn a_host_that_has_moved_on_is_left_alone() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let directory = directory.path();
    let tree = lay_out(directory);
    save(directory);
    tree.file("sys/class/net/eth0/flags", "0x1002\n");
    tree.remove("sys/bus/pci/devices/0000:01:10.2/driver");
    tree.attribute("0000:01:10.2", "driver_override", "\n");
    let before = files(directory);
    let error = refused(directory, 3);
    for difference in [
        "the host has moved on",
        "\"0000:01:00.0: set eth0 up\" is needed now",
        "\"0000:01:00.0 VF 1: bind to vfio-pci\" is needed now",
        "Plan again",
    ] {
        assert!(error.contains(difference), "{difference}: {error}");
    }
    assert_eq!(files(directory), before);
    // A plan that is refused now is out of date too.
    save(directory);
    tree.remove("sys/bus/pci/devices/0000:01:00.0/driver");
    let error = refused(directory, 3);
    assert!(error.contains("is refused now: pool lan: {interface: eth0} is to match"), "{error}");
}

#[test]
fn what_somebody_wrote_into_a_plan_is_not_done() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let directory = directory.path();
    lay_out(directory);
    let good = save(directory);
    let before = files(directory);
    let step = r#""steps": [{"policy": "edge", "change": {"change": "set-vf-count", "pf": "0000:01:00.0", "from": 2, "to": 0}}]"#;
    let bell = "\\u001b]0;\\u0007".repeat(50_000);
    for (content, code, said) in [
        (
            good.replace("\"steps\": []", step),
            3,
            "\"0000:01:00.0: destroy its 2 VFs\" would be made",
        ),
        (good.replace("VF 0 of eth0", "VF 1 of eth0"), 3, "net0 of web-1 gets VF 1 of eth0"),
        (good.replace("VF 0 of eth0", &bell), 3, "gets ?]0;??]0;?"),
        (
            good.replace("\"assign_plan\": 1", "\"assign_plan\": 999"),
            2,
            "a newer version of assign",
        ),
        (good.replace("count: 2", "count: 99999"), 2, "edge.yaml:6:"),
        (good.replace("\"choices\"", "\"run\""), 2, "is not a saved plan"),
        (good.get(..good.len() / 2).expect("half of it").to_owned(), 2, "is not a saved plan"),
        (format!("{{\"assign_plan\": 1, \"x\": {}", "[".repeat(100_000)), 2, "is not a saved plan"),
        (String::new(), 2, "is not a saved plan"),
    ] {
        assert_ne!(content, good, "{said}");
        fs::write(directory.join("plan.json"), content).expect("written");
        let error = refused(directory, code);
        assert!(error.contains(said) && error.len() < 4000, "{said}: {error}");
        assert!(!error.contains('\u{1b}'), "{said}");
    }
    let now = files(directory);
    assert_eq!(now, before);
    // More than can be a plan is not read to its end.
    let endless = fs::File::create(directory.join("plan.json")).expect("a file");
    endless.set_len(1 << 40).expect("a file with a hole");
    assert!(refused(directory, 2).contains("is longer than 64 MiB"));
}

/// Every file of the host with its content and the time of its last change.
fn files(directory: &Path) -> BTreeMap<PathBuf, (Vec<u8>, SystemTime)> {
    fn walk(at: &Path, found: &mut BTreeMap<PathBuf, (Vec<u8>, SystemTime)>) {
        for entry in fs::read_dir(at).expect("a directory") {
            let path = entry.expect("an entry").path();
            let metadata = fs::symlink_metadata(&path).expect("a file");
            let content = match metadata.is_file() {
                true => fs::read(&path).expect("a file"),
                false => Vec::new(),
            };
            found.insert(path.clone(), (content, metadata.modified().expect("a time")));
            if metadata.is_dir() {
                walk(&path, found);
            }
        }
    }
    let mut found = BTreeMap::new();
    walk(&directory.join("host"), &mut found);
    found
}

#[test]
fn an_apply_with_nothing_to_do_writes_nothing_to_the_host() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let directory = directory.path();
    let tree = Tree::new(&directory.join("host"));
    tree.file("sys/class/iommu/dmar0/name", "dmar0\n");
    tree.driver("vfio-pci");
    for (address, name, group) in [
        ("0000:17:00.0", "ens1f0", 100),
        ("0000:19:00.0", "ens2f0", 200),
        ("0000:98:00.0", "ens3f0", 300),
        ("0000:9a:00.0", "ens4f0", 400),
    ] {
        let kind =
            VfKind { device: 0x154c, group: group + 1, driver: Some("vfio-pci"), config: None };
        let function = Function::new(address, (0x8086, 0x1583), 0x02_0000).driver("i40e");
        tree.add(function.group(group).netdev(name).vfs(64, 64).vf_kind(kind));
        tree.file(&format!("sys/class/net/{name}/flags"), "0x1003\n");
    }
    let policy = "apiVersion: assign/v1\nkind: Policy\nmetadata: {name: lan}\nspec:\n  pools:\n    - {name: \
                  lan, from: {device: \"1583\"}, expect: {min: 4, max: 4}, vfs: {count: 64}}\n";
    fs::write(directory.join("lan.yaml"), policy).expect("written");
    // A write in the same instant would not be seen by its time.
    let long_ago = SystemTime::now() - Duration::from_secs(3600);
    for (path, (_, _)) in files(directory) {
        if fs::symlink_metadata(&path).expect("a file").is_file() {
            let file = fs::File::options().write(true).open(&path).expect("a file");
            file.set_modified(long_ago).expect("a time");
        }
    }
    let before = files(directory);
    for _ in 0..2 {
        let output = assign(directory, &["apply", "-f", "lan.yaml"]);
        assert!(output.status.success(), "{}", text(&output.stderr));
        assert!(text(&output.stdout).contains("nothing to do"), "{}", text(&output.stdout));
        let after = files(directory);
        let changed: Vec<_> =
            before.keys().filter(|path| before.get(*path) != after.get(*path)).collect();
        assert!(changed.is_empty() && after.len() == before.len(), "{changed:?}");
    }
    // That this would be seen is part of the test: one VF needs a step, which writes.
    tree.remove("sys/bus/pci/devices/0000:17:10.0/driver");
    assign(directory, &["apply", "-f", "lan.yaml"]);
    assert_ne!(files(directory), before);
}
