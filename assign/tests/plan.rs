//! Planning on recorded hosts: which steps, in which order, and why none.

use assign::plan::mac::Macs;
use assign::plan::{Known, Plan, plan};
use assign::state::{Lease, Owner};
use assign::{OwnReason, Reason};
use policies::{Policy, Source};
use sriov::facts::pci::VfSettings;
use sriov::recorded::{Function, Tree};
use sriov::{Class, HostSnapshot, MacAddress, PciAddress};

fn directory() -> tempfile::TempDir {
    tempfile::tempdir().expect("a temporary directory")
}

fn policy(name: &str, pools: &str) -> Policy {
    let text = format!(
        "apiVersion: assign/v1\nkind: Policy\nmetadata: {{name: {name}}}\nspec:\n  pools:\n{pools}"
    );
    let documents = policies::parse(&[Source { name: "test.yaml".to_owned(), text }]);
    documents.expect("a right policy").policies.remove(0)
}

fn lan(count: u16) -> Policy {
    policy(
        "edge",
        &format!(
            "    - {{name: lan, from: {{interface: eth0}}, vfs: {{count: {count}}}, network: {{mac: derive}}}}\n"
        ),
    )
}

fn planned(snapshot: &HostSnapshot, policies: &[Policy]) -> Plan {
    plan(snapshot, policies, Known::default())
}

fn steps(plan: &Plan) -> Vec<String> {
    plan.steps.iter().map(|step| step.change.to_string()).collect()
}

fn refusal(plan: &Plan) -> (Class, Reason, String) {
    assert!(plan.steps.is_empty(), "a plan with a refusal has no steps");
    let refusal = plan.refusal().expect("a refusal");
    (refusal.class, refusal.reason, refusal.to_string())
}

fn address(text: &str) -> PciAddress {
    text.parse().expect("an address")
}

#[test]
fn a_fresh_host_gets_its_vfs_in_an_order_that_keeps_host_drivers_off() {
    let directory = directory();
    let snapshot = HostSnapshot::read(&Tree::lab(directory.path(), 0).root());
    let plan = planned(&snapshot, &[lan(2)]);
    let steps = steps(&plan);
    assert_eq!(
        steps,
        [
            "0000:01:00.0: set eth0 up".to_owned(),
            "0000:01:00.0: keep the host's drivers off new VFs".to_owned(),
            "0000:01:00.0: create 2 VFs".to_owned(),
            "0000:01:00.0 VF 0: bind to vfio-pci".to_owned(),
            "0000:01:00.0 VF 1: bind to vfio-pci".to_owned(),
            format!("0000:01:00.0 VF 0: set its address to {}", derived(&snapshot, 0)),
            format!("0000:01:00.0 VF 1: set its address to {}", derived(&snapshot, 1)),
            "0000:01:00.0: let the host bind drivers to new VFs".to_owned(),
        ]
    );
    assert!(!plan.is_disruptive());
}

fn derived(snapshot: &HostSnapshot, index: u16) -> MacAddress {
    let pf = snapshot.function(address("0000:01:00.0")).expect("the PF");
    Macs::of(snapshot).derive(pf, "lan", index)
}

/// The lab's host with 2 VFs as an apply leaves it.
fn applied(tree: &Tree) -> HostSnapshot {
    for vf in ["0000:01:10.0", "0000:01:10.2"] {
        let link = format!("sys/bus/pci/devices/{vf}/driver");
        tree.link(&link, "../../bus/pci/drivers/vfio-pci");
        tree.attribute(vf, "driver_override", "vfio-pci\n");
    }
    tree.file("sys/class/net/eth0/flags", "0x1003\n");
    let mut snapshot = HostSnapshot::read(&tree.root());
    let macs = [derived(&snapshot, 0), derived(&snapshot, 1)];
    let pf = snapshot.functions.iter_mut().find_map(|function| function.sriov.as_mut());
    let pf = pf.expect("the PF");
    pf.vf_settings = (0..).zip(macs.map(VfSettings::with_mac)).collect();
    snapshot
}

#[test]
fn what_is_as_wanted_needs_nothing() {
    let directory = directory();
    let snapshot = applied(&Tree::lab(directory.path(), 2));
    let plan = planned(&snapshot, &[lan(2)]);
    assert!(plan.steps.is_empty() && plan.refusals.is_empty(), "{plan:#?}");
}

#[test]
fn another_number_goes_by_way_of_none_and_is_asked_about() {
    let directory = directory();
    let snapshot = applied(&Tree::lab(directory.path(), 2));
    let plan = planned(&snapshot, &[lan(3)]);
    let steps = steps(&plan);
    for (at, vf) in [(1, 0), (2, 1)] {
        let text = format!("0000:01:00.0 VF {vf}: remember what it has: vfio-pci, ");
        assert!(steps.get(at).is_some_and(|step| step.starts_with(&text)), "{steps:#?}");
    }
    assert_eq!(steps.get(3).map(String::as_str), Some("0000:01:00.0: destroy its 2 VFs"));
    assert_eq!(steps.get(4).map(String::as_str), Some("0000:01:00.0: create 3 VFs"));
    assert!(plan.is_disruptive());
}

#[test]
fn a_leased_vf_is_neither_destroyed_nor_touched() {
    let directory = directory();
    let tree = Tree::lab(directory.path(), 2);
    let mut snapshot = applied(&tree);
    let owner = Owner { pid: 4711, started: 1 };
    let leases = [Lease::new(&tree.root(), address("0000:01:10.2"), "web-1", owner)];
    let known = Known { leases: &leases, ..Known::default() };
    let plan = assign::plan::plan(&snapshot, &[lan(3)], known);
    let (class, reason, text) = refusal(&plan);
    assert_eq!((class, reason), (Class::Refused, Reason::Own(OwnReason::Leased)));
    assert!(text.contains("guest web-1 (process 4711)"), "{text}");

    let pf = snapshot.functions.iter_mut().find_map(|function| function.sriov.as_mut());
    pf.expect("the PF").vf_settings.insert(1, VfSettings::with_mac(MacAddress([2; 6])));
    let plan = assign::plan::plan(&snapshot, &[lan(2)], known);
    assert_eq!(refusal(&plan).1, Reason::Own(OwnReason::Leased));
}

#[test]
fn a_vf_of_the_host_is_rebound_unless_the_host_needs_it() {
    let directory = directory();
    let tree = Tree::lab(directory.path(), 1);
    tree.driver("igbvf");
    tree.link("sys/bus/pci/devices/0000:01:10.0/driver", "../../bus/pci/drivers/igbvf");
    tree.netdev("eth1", 3, "devices/pci0000:00/0000:00:01.0/0000:01:10.0/net/eth1");
    tree.file("sys/class/net/eth0/flags", "0x1003\n");
    let plan = planned(&HostSnapshot::read(&tree.root()), &[lan(1)]);
    assert_eq!(steps(&plan), ["0000:01:00.0 VF 0: bind to vfio-pci instead of igbvf"]);

    let inet6 = "20010db8000000000000000000000001 03 40 00 80     eth1\n";
    tree.file("proc/net/if_inet6", inet6);
    let plan = planned(&HostSnapshot::read(&tree.root()), &[lan(1)]);
    let (class, reason, text) = refusal(&plan);
    assert_eq!((class, reason), (Class::Refused, Reason::Host(sriov::Reason::HostUsesDevice)));
    assert!(text.contains("0000:01:10.0 → eth1 → address 2001:db8::1"), "{text}");
}

#[test]
fn more_vfs_than_the_device_has_is_bad_input() {
    let directory = directory();
    let snapshot = HostSnapshot::read(&Tree::lab(directory.path(), 0).root());
    let (class, _, text) = refusal(&planned(&snapshot, &[lan(8)]));
    assert_eq!(class, Class::BadInput);
    assert_eq!(
        text,
        "0000:01:00.0: cannot have 8 VFs: its maximum is 7. Set `count` to at most 7."
    );
}

#[test]
fn without_an_iommu_nothing_is_changed() {
    let directory = directory();
    let tree = Tree::new(directory.path());
    let nic = Function::new("0000:01:00.0", (0x8086, 0x10c9), 0x02_0000);
    tree.add(nic.driver("igb").netdev("eth0").vfs(7, 0));
    let (class, reason, text) = refusal(&planned(&HostSnapshot::read(&tree.root()), &[lan(2)]));
    assert_eq!((class, reason), (Class::Refused, Reason::Own(OwnReason::NoIommu)));
    assert!(text.contains("intel_iommu=on") && text.contains("virtio"), "{text}");

    // Nor where the policy would allow it: no guest would ever get the device.
    let mut allowing = lan(2);
    allowing.isolation.no_iommu = policies::NoIommu::Allow;
    let plan = planned(&HostSnapshot::read(&tree.root()), &[allowing]);
    let (class, reason, text) = refusal(&plan);
    assert_eq!((class, reason), (Class::Refused, Reason::Own(OwnReason::NoIommu)));
    assert!(text.contains("gives no guest a device without one"), "{text}");
}

#[test]
fn derived_addresses_differ_wherever_interfaces_share_one() {
    // Four cards whose interfaces all show the same address, as those of a bond do.
    let text = std::fs::read("../tests/hosts/numa-256-vfs.json").expect("a saved host");
    let mut host = HostSnapshot::from_json(&text).expect("a host");
    let text = std::fs::read_to_string("../examples/two-numa-nodes.yaml").expect("an example");
    let source = Source { name: "two-numa-nodes.yaml".to_owned(), text };
    let policies = policies::parse(&[source]).expect("an example").policies;
    let addresses = |host: &HostSnapshot| {
        let macs = Macs::of(host);
        let cards = host.functions.iter().filter(|one| one.sriov.is_some());
        let all: Vec<MacAddress> =
            cards.flat_map(|pf| [0, 16, 63].map(|index| macs.derive(pf, "fast", index))).collect();
        let different: std::collections::BTreeSet<_> = all.iter().copied().collect();
        assert_eq!((all.len(), different.len()), (12, 12));
        all
    };
    assert!(planned(&host, &policies).refusals.is_empty());
    let by_place = addresses(&host);
    // A permanent address that two cards have tells neither from the other.
    for netdev in &mut host.netdevs {
        netdev.permanent_mac = netdev.mac;
    }
    assert_eq!(addresses(&host), by_place);
    // One that is a card's own stays with it: this is how it was derived ever since.
    let pf = host.functions.iter().find(|one| one.sriov.is_some()).expect("a card").clone();
    let own = MacAddress([0x52, 0x54, 0, 0, 0, 1]);
    for netdev in &mut host.netdevs {
        netdev.permanent_mac = (netdev.pci == Some(pf.address)).then_some(own);
    }
    assert_eq!(Macs::of(&host).derive(&pf, "lan", 0).to_string(), "b2:8a:d5:4e:e8:36");
    assert_eq!(addresses(&host).len(), by_place.len());
}

#[test]
fn a_selector_that_finds_nothing_says_what_is_there() {
    let directory = directory();
    let snapshot = HostSnapshot::read(&Tree::lab(directory.path(), 0).root());
    let wrong = policy(
        "edge",
        "    - {name: lan, from: {vendor: \"15b3\"}, expect: {min: 1, max: 1}, vfs: {count: 2}}\n",
    );
    let (class, reason, text) = refusal(&planned(&snapshot, &[wrong]));
    assert_eq!((class, reason), (Class::BadInput, Reason::Own(OwnReason::UnexpectedDevices)));
    assert_eq!(
        text,
        "pool lan: {vendor: \"15b3\"} is to match exactly 1 device, and matches none (not \
         0000:01:00.0: its vendor is 8086, not 15b3). Correct `from` or `expect`; `assign \
         devices` lists what is here."
    );
}

#[test]
fn pools_that_want_the_same_vf_conflict() {
    let directory = directory();
    let snapshot = HostSnapshot::read(&Tree::lab(directory.path(), 0).root());
    let one =
        policy("one", "    - {name: a, from: {interface: eth0}, vfs: {count: 4}, use: \"0-1\"}\n");
    let two = policy(
        "two",
        "    - {name: b, from: {vendor: \"8086\", device: \"10c9\"}, vfs: {count: 4}, use: \"1-3\"}\n",
    );
    let (class, reason, text) = refusal(&planned(&snapshot, &[one.clone(), two]));
    assert_eq!((class, reason), (Class::BadInput, Reason::Own(OwnReason::PoolConflict)));
    assert!(text.contains("pools a (policy one) and b (policy two) both use its VF 1"), "{text}");

    let fits = policy(
        "two",
        "    - {name: b, from: {vendor: \"8086\", device: \"10c9\"}, vfs: {count: 4}, use: \"2-3\"}\n",
    );
    let plan = planned(&snapshot, &[one, fits]);
    assert!(plan.refusals.is_empty(), "{plan:#?}");
    let creates = steps(&plan).iter().filter(|step| step.contains("create")).count();
    assert_eq!(creates, 1);
}

#[test]
fn a_shared_group_is_refused_with_its_neighbours() {
    let directory = directory();
    let tree = Tree::lab(directory.path(), 1);
    let vf = "sys/bus/pci/devices/0000:01:10.0/iommu_group";
    tree.remove(vf);
    tree.link(vf, "../../kernel/iommu_groups/5");
    let (class, reason, text) = refusal(&planned(&HostSnapshot::read(&tree.root()), &[lan(1)]));
    assert_eq!((class, reason), (Class::Refused, Reason::Own(OwnReason::GroupNotViable)));
    assert_eq!(
        text,
        "0000:01:10.0: cannot be given away: its IOMMU group 5 also holds 0000:00:1f.2 (ahci, \
         carries sda → /). Enable ACS on the port or choose another device."
    );
}

#[test]
fn a_group_that_firmware_keeps_is_refused_with_its_region() {
    let directory = directory();
    let tree = Tree::lab(directory.path(), 1);
    let region = "0x00000000bdf6f000 0x00000000bdf7efff direct\n";
    tree.file("sys/kernel/iommu_groups/16/reserved_regions", region);
    let (class, reason, text) = refusal(&planned(&HostSnapshot::read(&tree.root()), &[lan(1)]));
    assert_eq!((class, reason), (Class::Refused, Reason::Own(OwnReason::GroupNotViable)));
    assert!(text.contains("firmware wants 0xbdf6f000-0xbdf7efff mapped"), "{text}");
    assert!(text.contains("Look in the firmware's settings"), "{text}");
}

#[test]
fn an_interface_that_is_brought_up_does_not_listen_to_routers() {
    let directory = directory();
    let tree = Tree::lab(directory.path(), 0);
    tree.file("proc/sys/net/ipv6/conf/eth0/accept_ra", "1\n");
    let first = |tree: &Tree| steps(&planned(&HostSnapshot::read(&tree.root()), &[lan(1)]));
    let deaf = "0000:01:00.0: let eth0 ignore router advertisements";
    assert_eq!(
        first(&tree).iter().take(2).collect::<Vec<_>>(),
        [deaf, "0000:01:00.0: set eth0 up"]
    );
    // One that is up is somebody's: its settings are left alone.
    tree.file("sys/class/net/eth0/flags", "0x1003\n");
    assert!(!first(&tree).iter().any(|step| step.contains("eth0")));
}

#[test]
fn what_shares_a_group_is_lent_as_a_whole_or_not_at_all() {
    let directory = directory();
    let tree = Tree::lab(directory.path(), 0);
    for port in ["0000:03:00.0", "0000:03:00.1"] {
        let card = Function::new(port, (0x8086, 0x10d3), 0x02_0000);
        tree.add(card.driver("e1000e").group(6));
    }
    let snapshot = HostSnapshot::read(&tree.root());
    let pool = |selector: &str| {
        let pool = format!("    - {{name: lent, devices: {{{selector}}}, driver: host}}\n");
        policy("edge", &pool)
    };
    let whole = planned(&snapshot, &[pool("device: \"10d3\"")]);
    assert!(whole.refusals.is_empty() && whole.steps.is_empty(), "{whole:#?}");
    let (class, reason, text) = refusal(&planned(&snapshot, &[pool("address: \"0000:03:00.0\"")]));
    assert_eq!((class, reason), (Class::Refused, Reason::Own(OwnReason::GroupNotViable)));
    assert!(text.contains("its IOMMU group 6 also holds 0000:03:00.1 (e1000e)"), "{text}");
    assert!(text.contains("A pool that selects all devices of the group"), "{text}");
    // Nor is one kept for guests while the host has the other one.
    let other = "    - {name: bound, devices: {address: \"0000:03:00.1\"}}\n";
    let mixed = planned(&snapshot, &[pool("address: \"0000:03:00.0\""), policy("two", other)]);
    let (_, reason, text) = refusal(&mixed);
    assert_eq!(reason, Reason::Own(OwnReason::GroupNotViable));
    assert!(text.starts_with("0000:03:00.1: "), "{text}");
}
