//! Snapshots that were saved: what was saved comes back, and what does not hold together does not.

use serde_json::{Value, json};
use sriov::recorded::{Config, Function, Tree};
use sriov::{HostSnapshot, PciAddress, Scope};

fn directory() -> tempfile::TempDir {
    tempfile::tempdir().expect("a temporary directory")
}

fn address(text: &str) -> PciAddress {
    text.parse().expect("an address")
}

/// The lab's host as JSON.
fn saved() -> Value {
    let directory = directory();
    let tree = Tree::lab(directory.path(), 2);
    let config = Config::new((0x1b36, 0x000c), 0x06_0400).isolating();
    tree.bytes("sys/bus/pci/devices/0000:00:01.0/config", &config.bytes());
    let snapshot = HostSnapshot::read_within(&tree.root(), Scope::Whole);
    serde_json::to_value(&snapshot).expect("JSON")
}

fn read(value: &Value) -> Result<HostSnapshot, String> {
    HostSnapshot::from_json(value.to_string().as_bytes()).map_err(|error| error.to_string())
}

/// A place in it.
fn at<'a>(value: &'a mut Value, pointer: &str) -> &'a mut Value {
    value.pointer_mut(pointer).unwrap_or_else(|| panic!("no {pointer}"))
}

#[test]
fn what_was_saved_comes_back() {
    let value = saved();
    let back = read(&value).expect("the snapshot");
    assert_eq!(serde_json::to_value(&back).expect("JSON"), value);
    assert_eq!(back.check(), Ok(()));
}

#[test]
fn what_this_version_does_not_know_is_left_out() {
    let mut value = saved();
    at(&mut value, "")["later"] = json!({"anything": [1, 2, 3]});
    at(&mut value, "/functions/0")["later"] = json!(true);
    assert_eq!(read(&value), read(&saved()));
}

#[test]
fn what_an_older_version_did_not_know_is_nothing() {
    let mut value = saved();
    at(&mut value, "").as_object_mut().expect("an object").remove("gone");
    for function in at(&mut value, "/functions").as_array_mut().expect("a list") {
        for field in ["names", "link", "bars", "power_state", "capabilities"] {
            function.as_object_mut().expect("an object").remove(field);
        }
    }
    for group in at(&mut value, "/iommu/groups").as_object_mut().expect("groups").values_mut() {
        group.as_object_mut().expect("an object").remove("reserved");
    }
    let back = read(&value).expect("the snapshot");
    assert!(back.functions.iter().all(|function| function.capabilities.is_none()));
}

#[test]
fn a_newer_schema_is_told_before_anything_else() {
    let newer = json!({"schema": 4_000_000, "functions": "in another form"});
    let error = read(&newer).expect_err("a newer one");
    assert!(error.contains("schema 4000000, this one knows 1"), "{error}");
    for broken in [json!(null), json!({}), json!({"schema": "1"}), json!({"schema": 1})] {
        let error = read(&broken).expect_err("no snapshot");
        assert!(error.contains("is not a saved snapshot"), "{error}");
    }
}

#[test]
fn what_does_not_hold_together_says_where() {
    type Break = fn(&mut Value);
    let breaks: [(Break, &str); 9] = [
        (|value| at(value, "/functions").as_array_mut().expect("a list").reverse(), "not sorted"),
        (
            |value| {
                let first = at(value, "/functions/0").clone();
                at(value, "/functions").as_array_mut().expect("a list").insert(0, first);
            },
            "functions are not sorted, each once: see 0000:00:01.0",
        ),
        (|value| *at(value, "/functions/5/vf_of/index") = json!(1), "which the PF does not list"),
        (
            |value| *at(value, "/functions/5/vf_of/pf") = json!("0000:7f:00.0"),
            "function 0000:01:10.0: it is 0000:7f:00.0 VF 0, and no PF is there",
        ),
        (
            |value| *at(value, "/functions/0/parent") = json!("0000:01:00.0"),
            "the bridges above it lead in a circle",
        ),
        (|value| *at(value, "/functions/0/iommu_group") = json!(99), "group 99 is not listed"),
        (
            |value| *at(value, "/iommu/groups/5/members/0") = json!("0000:7f:00.0"),
            "IOMMU group 5 has other members than name it",
        ),
        (
            |value| *at(value, "/functions/4/netdevs/0") = json!("eth7"),
            "its interface \"eth7\" is not listed as its own",
        ),
        (|value| *at(value, "/functions/0/class") = json!(u32::MAX), "more than 24 bits"),
    ];
    for (damage, expected) in breaks {
        let mut value = saved();
        damage(&mut value);
        let error = read(&value).expect_err(expected);
        assert!(error.contains(expected), "{expected}: {error}");
    }
}

#[test]
fn a_host_that_was_read_holds_together_whatever_its_tree() {
    let directory = directory();
    let tree = Tree::lab(directory.path(), 3);
    // Another name for a function that is there, parents in a circle, and a VF that has VFs.
    tree.link("sys/bus/pci/devices/00000000:01:00.0", "0000:01:00.0");
    tree.link("sys/bus/pci/devices/01:00.0", "0000:01:00.0");
    for (function, parent) in [("0000:00:1d.0", "0000:00:1e.0"), ("0000:00:1e.0", "0000:00:1d.0")] {
        let place = format!("{parent}/{function}");
        for (name, text) in [("vendor", "0x8086"), ("device", "0x1"), ("class", "0x060400")] {
            tree.file(&format!("sys/devices/{place}/{name}"), text);
        }
        tree.link(&format!("sys/bus/pci/devices/{function}"), &format!("../../../devices/{place}"));
    }
    tree.attribute("0000:01:10.0", "sriov_totalvfs", "3\n");
    tree.link("sys/bus/pci/devices/0000:01:10.0/virtfn0", "../0000:01:10.2");
    tree.link("sys/bus/pci/devices/0000:01:10.0/virtfn1", "../0000:01:00.0");
    for scope in [Scope::Listing, Scope::Planning, Scope::Whole] {
        let snapshot = HostSnapshot::read_within(&tree.root(), scope);
        assert_eq!(snapshot.check(), Ok(()), "{scope:?}");
        let circle = |problem: &&sriov::facts::reader::Problem| problem.cause.contains("circle");
        let told = snapshot.problems.iter().filter(circle).count();
        assert_eq!(told, usize::from(scope != Scope::Listing), "{:?}", snapshot.problems);
    }
}

#[test]
fn a_function_that_goes_is_gone_and_the_rest_is_there() {
    let directory = directory();
    let tree = Tree::lab(directory.path(), 2);
    tree.add(Function::new("0000:05:00.0", (0x8086, 0x10c9), 0x02_0000));
    // Its link is still there, what it leads to is not.
    tree.link("sys/bus/pci/devices/0000:04:00.0", "../../../devices/pci0000:00/0000:04:00.0");
    // So is its directory, without attributes.
    tree.directory("sys/bus/pci/devices/0000:03:00.0");
    // Its first attributes are gone, and what is left is odd.
    tree.remove("sys/bus/pci/devices/0000:05:00.0/vendor");
    tree.attribute("0000:05:00.0", "numa_node", "?");
    let snapshot = HostSnapshot::read(&tree.root());
    let gone = ["0000:03:00.0", "0000:04:00.0", "0000:05:00.0"].map(address);
    assert_eq!(snapshot.gone, gone);
    assert_eq!(snapshot.problems, []);
    assert_eq!(snapshot.functions.len(), 7);
    assert_eq!(snapshot.check(), Ok(()));
}

#[test]
fn an_attribute_that_cannot_be_read_is_a_problem_of_its_device() {
    let directory = directory();
    let tree = Tree::lab(directory.path(), 0);
    // A directory in its place answers EISDIR, whoever asks.
    tree.remove("sys/bus/pci/devices/0000:01:00.0/numa_node");
    tree.directory("sys/bus/pci/devices/0000:01:00.0/numa_node");
    tree.remove("sys/bus/pci/devices/0000:00:1f.3/class");
    let snapshot = HostSnapshot::read(&tree.root());
    assert_eq!(snapshot.gone, []);
    assert!(snapshot.function(address("0000:01:00.0")).is_some());
    assert!(snapshot.function(address("0000:00:1f.3")).is_none());
    let paths: Vec<String> =
        snapshot.problems.iter().map(|problem| problem.path.display().to_string()).collect();
    assert_eq!(paths.len(), 2, "{:?}", snapshot.problems);
    assert!(paths.iter().any(|path| path.ends_with("0000:01:00.0/numa_node")), "{paths:?}");
    assert!(paths.iter().any(|path| path.ends_with("0000:00:1f.3/class")), "{paths:?}");
}

/// Functions come and go as fast as they can while the host is read: each is there whole, or gone,
/// and none is odd.
#[test]
fn a_storm_of_functions_makes_no_problems() {
    use std::sync::atomic::{AtomicBool, Ordering};
    let directory = directory();
    let tree = Tree::lab(directory.path(), 7);
    let root = tree.root();
    let stop = AtomicBool::new(false);
    let (mut whole, mut gone) = (0, 0);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                for index in 0..7_u8 {
                    let routing = 0x80 + 2 * index;
                    let vf = format!("0000:01:{:02x}.{}", routing >> 3, routing & 7);
                    let device = root.pci_devices().join(&vf);
                    let place = std::fs::canonicalize(&device).expect("a VF");
                    let away = place.with_extension("away");
                    // As the kernel does: attributes, then the link; and back the other way.
                    std::fs::rename(&place, &away).expect("away");
                    std::thread::yield_now();
                    std::fs::rename(&away, &place).expect("back");
                }
            }
        });
        for _ in 0..200 {
            let snapshot = HostSnapshot::read_within(&root, Scope::Whole);
            assert_eq!(snapshot.problems, []);
            assert_eq!(snapshot.functions.len() + snapshot.gone.len(), 12);
            assert!(snapshot.functions.iter().all(|function| function.iommu_group.is_some()));
            whole += snapshot.functions.len();
            gone += snapshot.gone.len();
        }
        stop.store(true, Ordering::Relaxed);
    });
    assert!(whole > 0 && gone > 0, "{whole} whole and {gone} gone");
}
