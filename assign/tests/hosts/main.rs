//! Whole hosts, saved as snapshots in `tests/hosts`: every command that only looks works on each
//! of them, and every command that would change a host refuses.

mod compose;
mod numa;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use sriov::recorded::Tree;
use sriov::{HostSnapshot, Scope};

fn assign(root: &Path, arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_assign"));
    command.arg("--root").arg(root).args(arguments).stdin(Stdio::null());
    command.output().expect("assign runs")
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn hosts() -> Vec<(PathBuf, HostSnapshot)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/hosts");
    let mut hosts = Vec::new();
    for entry in fs::read_dir(folder).expect("tests/hosts") {
        let path = entry.expect("an entry").path();
        if path.extension().is_some_and(|extension| extension == "json") {
            let text = fs::read(&path).expect("a host");
            let host = HostSnapshot::from_json(&text)
                .unwrap_or_else(|error| panic!("{}: {error}", path.display()));
            hosts.push((path, host));
        }
    }
    assert!(hosts.len() >= 3, "{} hosts", hosts.len());
    hosts
}

/// What looks at a host without changing it.
const LOOKING: &[&[&str]] = &[
    &["devices"],
    &["devices", "-o", "json"],
    &["devices", "--tree"],
    &["groups"],
    &["groups", "-o", "json"],
    &["topology"],
    &["topology", "--format", "svg"],
    &["vf", "list"],
    &["vf", "list", "-o", "yaml"],
    &["host"],
    &["host", "-o", "json"],
    &["show", ANY],
    &["show", ANY, "-o", "json"],
    &["snapshot"],
];

/// Stands for the address of the host's last function.
const ANY: &str = "DEVICE";

#[test]
fn whatever_looks_at_a_host_looks_at_a_saved_one() {
    for (path, host) in hosts() {
        let last = host.functions.last().expect("a function").address.to_string();
        for arguments in LOOKING {
            let arguments: Vec<&str> =
                arguments.iter().map(|word| if *word == ANY { &last } else { *word }).collect();
            let output = assign(&path, &arguments);
            let (said, error) = (text(&output.stdout), text(&output.stderr));
            assert!(output.status.success(), "{} {arguments:?}: {error}", path.display());
            assert_eq!(error, "", "{} {arguments:?}", path.display());
            assert!(!said.is_empty());
            if arguments == ["devices"] {
                assert_eq!(said.lines().count(), host.functions.len() + 1, "{said}");
            }
            if arguments == ["snapshot"] {
                let again = HostSnapshot::from_json(said.as_bytes()).expect("a snapshot");
                assert_eq!(again, host, "{}: it changes by being looked at", path.display());
            }
        }
    }
}

#[test]
fn a_saved_host_can_be_examined() {
    for (path, host) in hosts() {
        let last = host.functions.last().expect("a function").address.to_string();
        for arguments in [vec!["doctor"], vec!["doctor", "-o", "json"], vec!["doctor", &last]] {
            let output = assign(&path, &arguments);
            let (said, error) = (text(&output.stdout), text(&output.stderr));
            // 1 is a host with problems.
            assert!(matches!(output.status.code(), Some(0 | 1)), "{}: {error}", path.display());
            assert_eq!(error, "", "{} {arguments:?}", path.display());
            assert!(!said.is_empty());
        }
    }
}

/// The lines of the doctor that make each composed host what it is there for.
#[test]
fn the_doctor_knows_the_composed_hosts() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/hosts");
    let doctor = |name: &str, devices: &[&str]| {
        let path = folder.join(name).with_extension("json");
        text(&assign(&path, &[&["doctor"], devices].concat()).stdout)
    };
    let has = |said: &str, lines: &[&str]| {
        for line in lines {
            assert!(said.lines().any(|said| said.starts_with(line)), "{line}\n{said}");
        }
    };
    has(
        &doctor("numa-256-vfs", &[]),
        &[
            "ok       this is a machine of its own",
            "ok       the CPU can run guests (VMX): /proc/cpuinfo has the flag vmx",
            "ok       an IOMMU is in use",
            "ok       interrupts are remapped (/proc/interrupts names IR-IO-APIC)",
            "ok       devices can be bound to vfio-pci: the driver is loaded",
            "ok       4 cards can have VFs",
        ],
    );
    has(
        &doctor("laptop-one-gpu", &["0000:01:00.0"]),
        &[
            "problem  it shares its IOMMU group with devices that the host has",
            "warning  access control (ACS) is missing on the way to it",
            "warning  it sleeps without power",
            "verdict  it cannot be given to a guest as the host is now. Begin with: assign bind \
             0000:01:00.0 0000:01:00.1",
        ],
    );
    has(
        &doctor("laptop-one-gpu", &[]),
        &["ok       this is a machine of its own", "ok       an IOMMU is in use"],
    );
    let cloud = doctor("cloud-vm-no-iommu", &[]);
    has(
        &cloud,
        &[
            "ok       this is a virtual machine (kvm, google): the kernel has the clock kvm-clock",
            "problem  the CPU shows no virtualization",
            "problem  the kernel has no KVM in use",
            "problem  no IOMMU is in use: no device can be given away safely",
        ],
    );
    // What a person rents has no settings of firmware, and what is said above is above.
    assert!(cloud.contains("Virtual machines of google have none: guests get virtio"), "{cloud}");
    assert!(cloud.contains("a bare-metal machine type"), "{cloud}");
    assert!(!cloud.contains("firmware's settings"), "{cloud}");
    let place = |what: &str| cloud.find(what).unwrap_or_else(|| panic!("{what}: {cloud}"));
    assert!(place("shows no virtualization") < place("as said of it above"), "{cloud}");
}

#[test]
fn each_host_says_where_it_comes_from() {
    for (path, host) in hosts() {
        let note = host.note.unwrap_or_default();
        let says = ["Recorded ", "Composed "].iter().any(|word| note.starts_with(word));
        assert!(says, "{}: {note:?}", path.display());
        assert_eq!(host.problems, [], "{}", path.display());
    }
}

#[test]
fn a_plan_for_a_saved_host_is_the_plan_for_the_host() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let tree = Tree::lab(&directory.path().join("tree"), 2);
    let saved = save(&tree, directory.path());
    let policy = directory.path().join("edge.yaml");
    let text_of_it = "apiVersion: assign/v1\nkind: Policy\nmetadata: {name: edge}\nspec:\n  pools:\n    \
                      - {name: lan, from: {interface: eth0}, vfs: {count: 2}}\n";
    fs::write(&policy, text_of_it).expect("a policy");
    let policy = policy.display().to_string();
    for verb in ["plan", "diff"] {
        for format in ["table", "json"] {
            let arguments = [verb, "-f", &policy, "-o", format];
            let live = assign(&directory.path().join("tree"), &arguments);
            let replayed = assign(&saved, &arguments);
            assert_eq!(text(&replayed.stdout), text(&live.stdout), "{}", text(&replayed.stderr));
            assert_eq!(replayed.status.code(), live.status.code());
            assert!(!live.stdout.is_empty(), "{}", text(&live.stderr));
        }
    }
}

fn plan(host: &Path, more: &[&str], files: &[&Path]) -> (Option<i32>, String, String) {
    let mut arguments = vec!["plan"];
    arguments.extend(more);
    let files: Vec<String> = files.iter().map(|file| file.display().to_string()).collect();
    files.iter().for_each(|file| arguments.extend(["-f", file]));
    let output = assign(host, &arguments);
    let words = |bytes: &[u8]| text(bytes).split_whitespace().collect::<Vec<_>>().join(" ");
    (output.status.code(), words(&output.stdout), words(&output.stderr))
}

fn folder(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(name)
}

#[test]
fn an_exception_lends_what_the_host_uses() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let recorded = fs::read(folder("tests/hosts/lab-igb.json")).expect("a host");
    let mut host = HostSnapshot::from_json(&recorded).expect("a host");
    let eth1 = host.netdevs.iter_mut().find(|one| one.name == "eth1").expect("the lab's eth1");
    (eth1.default_route, eth1.routes, eth1.up) = (true, true, true);
    let at = directory.path().join("host.json");
    fs::write(&at, serde_json::to_vec(&host).expect("plain data")).expect("written");
    let example = folder("examples/host-driver.yaml");
    let (code, said, error) = plan(&at, &[], &[&example]);
    assert_eq!(code, Some(0), "{error}");
    for part in [
        "guest probe: would start",
        "by force: the host loses 0000:02:00.0 → eth1 → default route",
        "allowed: the monitoring network",
        "`assign run` asks before",
    ] {
        assert!(said.contains(part), "{part}: {said}");
    }
    // Without it the host keeps its card.
    let text = fs::read_to_string(&example)
        .expect("an example")
        .replace("- device: eth1", "- device: eth0");
    let other = directory.path().join("other.yaml");
    fs::write(&other, text).expect("written");
    let (_, said, _) = plan(&at, &[], &[&other]);
    assert!(said.contains("guest probe: would not start"), "{said}");
    assert!(said.contains("in use by the host") && !said.contains("by force"), "{said}");
    assert!(said.contains("1 guest would not start: probe"), "{said}");
    let (code, json, _) = plan(&at, &["-o", "json"], &[&other]);
    assert_eq!(code, Some(0));
    let json: serde_json::Value = serde_json::from_str(&json).expect("JSON");
    assert_eq!(json["would_not_start"], serde_json::json!(["probe"]));
}

#[test]
fn others_are_told_by_kind_and_named_when_asked() {
    let host = folder("tests/hosts/numa-256-vfs.json");
    let example = folder("examples/two-numa-nodes.yaml");
    let (code, said, error) = plan(&host, &[], &[&example]);
    assert_eq!(code, Some(0), "{error}");
    assert!(
        said.contains("191 others: 96 on node 1, where node 0 is demanded; 95 free too"),
        "{said}"
    );
    assert!(said.contains("; -v names them"), "{said}");
    let (_, every, _) = plan(&host, &["-v"], &[&example]);
    assert!(!every.contains("-v names them"), "{every}");
    assert!(every.matches("is on node 1, and 0 is demanded").count() == 96, "{every}");
}

#[test]
fn what_would_change_a_host_refuses_a_saved_one() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let saved = save(&Tree::lab(&directory.path().join("tree"), 2), directory.path());
    for arguments in [
        vec!["vf", "create", "eth0", "1"],
        vec!["vf", "destroy", "eth0"],
        vec!["bind", "01:10.0"],
        vec!["release", "01:10.0"],
        vec!["apply", "-f", "edge.yaml"],
        vec!["remove", "-f", "edge.yaml"],
        vec!["run", "-f", "edge.yaml"],
        vec!["events"],
    ] {
        let output = assign(&saved, &arguments);
        let error = text(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{arguments:?}: {error}");
        assert!(error.contains("is a saved snapshot"), "{arguments:?}: {error}");
        assert!(error.contains("on the host itself"), "{arguments:?}: {error}");
    }
}

#[test]
fn a_file_that_is_no_snapshot_is_bad_input() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let saved = save(&Tree::lab(&directory.path().join("tree"), 2), directory.path());
    let good = fs::read_to_string(&saved).expect("the snapshot");
    let deep = format!("{{\"schema\": 1, \"x\": {}", "[".repeat(100_000));
    for (content, expected) in [
        (String::new(), "not a saved snapshot"),
        ("[]".to_owned(), "not a saved snapshot"),
        (good.get(..good.len() / 2).expect("half of it").to_owned(), "EOF"),
        (good.replace("\"schema\": 1", "\"schema\": 999"), "newer version of assign"),
        (good.replace("0000:01:10.0", "0000:01:10.9"), "not a PCI address"),
        (good.replace("\"0000:01:10.2\"", "\"0000:01:00.5\""), "does not hold together"),
        (deep, "not a saved snapshot"),
    ] {
        fs::write(&saved, content).expect("written");
        let output = assign(&saved, &["devices"]);
        let error = text(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{error}");
        assert!(error.contains(expected) && error.contains("host.json"), "{expected}: {error}");
    }
    let nowhere = assign(&directory.path().join("nowhere"), &["devices"]);
    assert_eq!(nowhere.status.code(), Some(2));
    assert!(text(&nowhere.stderr).contains("Name a directory"), "{}", text(&nowhere.stderr));
}

#[test]
fn a_snapshot_can_come_by_standard_input() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let saved = save(&Tree::lab(&directory.path().join("tree"), 2), directory.path());
    let output = Command::new(env!("CARGO_BIN_EXE_assign"))
        .args(["--root", "-", "vf", "list"])
        .stdin(fs::File::open(saved).expect("the snapshot"))
        .output()
        .expect("assign runs");
    assert_eq!(text(&output.stdout).lines().count(), 3, "{}", text(&output.stderr));
}

/// Takes a snapshot of a tree by the command, as people do.
fn save(tree: &Tree, directory: &Path) -> PathBuf {
    let output = assign(tree.root().directory(), &["snapshot", "--note", "Composed for a test."]);
    assert!(output.status.success(), "{}", text(&output.stderr));
    let whole = HostSnapshot::read_within(&tree.root(), Scope::Whole);
    let saved = HostSnapshot::from_json(&output.stdout).expect("a snapshot");
    assert_eq!(saved.functions, whole.functions);
    let path = directory.join("host.json");
    fs::write(&path, output.stdout).expect("written");
    path
}

/// Not even what would change nothing.
#[cfg(target_arch = "x86_64")]
#[test]
fn an_apply_with_nothing_to_do_on_256_vfs_writes_nothing() {
    use lab::fault::{self, Scope};

    let directory = tempfile::tempdir().expect("a temporary directory");
    let tree = numa::numa_up(directory.path());
    tree.file("policy.yaml", numa::POLICY);
    let file = directory.path().join("policy.yaml").display().to_string();
    let state = directory.path().join("state").display().to_string();
    let arguments = ["--state", &state, "apply", "-f", &file];
    // The first one remembers the policy.
    for turn in ["first", "second"] {
        let output = assign(directory.path(), &arguments);
        assert!(output.status.success(), "{turn}: {}", text(&output.stderr));
        assert!(text(&output.stdout).contains("nothing to do"), "{turn}");
        let mut command = Command::new(env!("CARGO_BIN_EXE_assign"));
        command.arg("--root").arg(directory.path()).args(arguments);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let ran = fault::run(command, Scope::Host, None).expect("a program that is traced");
        assert_eq!((ran.code, ran.points.len()), (Some(0), 0), "{turn}: {:?}", ran.points);
    }
}
