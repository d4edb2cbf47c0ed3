//! What is told of a host that is not as its policies say, and what is not.

use std::cell::Cell;
use std::path::Path;
use std::process::Command;

use assign::drift::{self, Attribute, Drift};
use assign::plan::mac::Macs;
use assign::plan::{self, Known};
use assign::state::Applied;
use policies::{Policy, Source};
use sriov::facts::reader::Problem;
use sriov::recorded::Tree;
use sriov::{
    Binding, Change, HostSnapshot, LinkState, MacAddress, PciAddress, Rate, Target, VfRef,
    VfSettings, Vlan,
};

const PF: &str = "0000:01:00.0";

fn address(text: &str) -> PciAddress {
    text.parse().expect("an address")
}

fn policy(pools: &str) -> Policy {
    let text = format!(
        "apiVersion: assign/v1\nkind: Policy\nmetadata: {{name: edge}}\nspec:\n  pools:\n{pools}"
    );
    let parsed = policies::parse(&[Source { name: "edge.yaml".to_owned(), text }]);
    parsed.unwrap_or_else(|errors| panic!("{errors}")).policies.remove(0)
}

/// A pool that says everything it can.
fn whole_pool() -> Policy {
    policy(
        "    - name: lan\n      from: {interface: eth0}\n      expect: {min: 1, max: 1}\n      \
         vfs: {count: 2}\n      network: {mac: derive, vlan: {id: 100}, trust: false, \
         spoofCheck: true, linkState: auto, rate: {max: 1000}}\n",
    )
}

/// A host that is as [`whole_pool`] says, in a tree for nothing but its facts.
fn right() -> HostSnapshot {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let tree = Tree::lab(directory.path(), 2);
    let mut host = HostSnapshot::read(&tree.root());
    let macs: Vec<_> = {
        let pf = host.function(address(PF)).expect("the card");
        let policy = whole_pool();
        let wanted = |index| Macs::of(&host).wanted(pf, &policy.pools[0], index);
        [0, 1].map(|index| wanted(index).expect("derived")).into()
    };
    for netdev in &mut host.netdevs {
        netdev.up = true;
    }
    for function in &mut host.functions {
        if function.vf_of.is_some() {
            function.driver = Some("vfio-pci".to_owned());
        }
        let Some(facts) = &mut function.sriov else { continue };
        for (index, mac) in (0..).zip(&macs) {
            let settings = VfSettings {
                mac: *mac,
                vlan: Vlan { id: 100, ..Vlan::default() },
                trust: Some(false),
                spoof_check: Some(true),
                link_state: LinkState::Auto,
                rate: Rate { min: 0, max: 1000 },
            };
            facts.vf_settings.insert(index, settings);
        }
    }
    host
}

fn compare(host: &HostSnapshot, policy: &Policy, applied: &[Applied]) -> Drift {
    let policies = std::slice::from_ref(policy);
    let known = Known { applied, ..Known::default() };
    let plan = plan::plan(host, policies, known);
    drift::compare(host, policies, applied, &plan)
}

/// "DEVICE ATTRIBUTE: is → should".
fn told(drift: &Drift) -> Vec<String> {
    let one = |one: &drift::Difference| {
        format!("{} {:?}: {} → {}", one.device, one.attribute, one.is, one.should)
    };
    drift.differences.iter().map(one).collect()
}

fn change(host: &mut HostSnapshot, device: &str, change: impl FnOnce(&mut sriov::PciFunction)) {
    let device = address(device);
    let found = host.functions.iter_mut().find(|function| function.address == device);
    change(found.expect("a function"));
}

fn settings(host: &mut HostSnapshot, change_: impl FnOnce(&mut VfSettings)) {
    change(host, PF, |pf| {
        let facts = pf.sriov.as_mut().expect("SR-IOV");
        change_(facts.vf_settings.get_mut(&1).expect("settings"));
    });
}

#[test]
fn each_attribute_is_told_by_itself() {
    let policy = whole_pool();
    assert_eq!(told(&compare(&right(), &policy, &[])), [""; 0]);
    let mac = {
        let host = right();
        let pf = host.function(address(PF)).expect("the card").clone();
        Macs::of(&host).wanted(&pf, &policy.pools[0], 1).expect("derived")
    };
    let mac_drift = format!("{PF} VF 1 Mac: none → {mac}");
    let vf = "0000:01:10.2";
    type Drifts = Box<dyn Fn(&mut HostSnapshot)>;
    let set =
        |change: fn(&mut VfSettings)| -> Drifts { Box::new(move |host| settings(host, change)) };
    let cases: Vec<(Drifts, &str)> = vec![
        (set(|now| now.mac = MacAddress([0; 6])), &mac_drift),
        (set(|now| now.vlan.id = 7), "0000:01:00.0 VF 1 Vlan: 7 → 100"),
        (set(|now| now.trust = Some(true)), "0000:01:00.0 VF 1 Trust: on → off"),
        (set(|now| now.spoof_check = Some(false)), "0000:01:00.0 VF 1 SpoofCheck: off → on"),
        (
            set(|now| now.link_state = LinkState::Disable),
            "0000:01:00.0 VF 1 LinkState: disable → auto",
        ),
        (
            set(|now| now.rate = Rate { min: 0, max: 5 }),
            "0000:01:00.0 VF 1 Rate: at most 5 Mbit/s → at most 1000 Mbit/s",
        ),
        (
            Box::new(|host| host.netdevs.iter_mut().for_each(|netdev| netdev.up = false)),
            "0000:01:00.0 Link: down → up",
        ),
        (
            Box::new(move |host| change(host, vf, |vf| vf.driver = Some("igbvf".to_owned()))),
            "0000:01:00.0 VF 1 Driver: igbvf → vfio-pci",
        ),
        (
            Box::new(move |host| {
                change(host, vf, |vf| vf.driver_override = Some("igbvf".to_owned()));
            }),
            "0000:01:00.0 VF 1 Override: igbvf → vfio-pci",
        ),
        (
            Box::new(|host| {
                change(host, PF, |pf| pf.sriov.as_mut().expect("SR-IOV").present = 1);
            }),
            "0000:01:00.0 VfCount: 1 → 2",
        ),
        (
            Box::new(|host| {
                change(host, PF, |pf| {
                    pf.sriov.as_mut().expect("SR-IOV").vfs.remove(&1);
                });
            }),
            "0000:01:00.0 VF 1 Vf: missing → there",
        ),
        (
            Box::new(|host| change(host, PF, |pf| pf.netdevs.clear())),
            "pool lan Devices: 0 → exactly 1",
        ),
    ];
    for (drifts, expected) in cases {
        let mut host = right();
        drifts(&mut host);
        let drift = compare(&host, &policy, &[]);
        assert_eq!(told(&drift), [expected]);
        assert!(drift.unknown.is_empty());
    }
}

#[test]
fn an_override_that_was_ours_is_missed_and_one_that_never_was_is_not() {
    let policy = whole_pool();
    let mut host = right();
    let vf = VfRef { pf: address(PF), index: 1 };
    change(&mut host, "0000:01:10.0", |vf| vf.driver_override = Some("vfio-pci".to_owned()));
    assert!(compare(&host, &policy, &[]).is_none(), "bound beforehand, by whatever way");
    let device = Target::Vf(vf);
    let bind = |index| Change::Bind {
        device: Target::Vf(VfRef { index, ..vf }),
        from: Binding::default(),
        driver: "vfio-pci".to_owned(),
    };
    let autoprobe = |from, to| Change::SetAutoprobe { pf: vf.pf, from, to };
    let changes = vec![autoprobe(true, false), bind(0), bind(1), autoprobe(false, true)];
    let applied = |boot_id: &str| Applied {
        policy: policy.clone(),
        boot_id: boot_id.to_owned(),
        changes: changes.clone(),
    };
    let now = [applied(&host.platform.boot_id)];
    assert_eq!(
        told(&compare(&host, &policy, &now)),
        [format!("{device} Override: none → vfio-pci")]
    );
    assert!(compare(&host, &policy, &[applied("another")]).is_none());

    change(&mut host, PF, |pf| pf.sriov.as_mut().expect("SR-IOV").autoprobe = false);
    let all = told(&compare(&host, &policy, &now));
    assert!(all.contains(&format!("{PF} Autoprobe: off → on")), "{all:?}");
}

#[test]
fn apply_puts_right_whatever_is_told() {
    let policy = whole_pool();
    let mut host = right();
    change(&mut host, "0000:01:10.0", |vf| vf.driver_override = Some("igbvf".to_owned()));
    change(&mut host, "0000:01:10.2", |vf| vf.driver = None);
    settings(&mut host, |now| now.vlan.id = 7);
    change(&mut host, PF, |pf| pf.sriov.as_mut().expect("SR-IOV").autoprobe = false);
    let pf = address(PF);
    let changes = [(true, false), (false, true)];
    let changes = changes.map(|(from, to)| Change::SetAutoprobe { pf, from, to }).to_vec();
    let boot_id = host.platform.boot_id.clone();
    let applied = [Applied { policy: policy.clone(), boot_id, changes }];
    let policies = std::slice::from_ref(&policy);
    let plan = plan::plan(&host, policies, Known { applied: &applied, ..Known::default() });
    let steps: Vec<String> = plan.steps.iter().map(|step| step.change.to_string()).collect();
    assert_eq!(
        steps,
        [
            "0000:01:00.0: let the host bind drivers to new VFs",
            "0000:01:00.0 VF 0: keep it for vfio-pci by its override",
            "0000:01:00.0 VF 1: bind to vfio-pci",
            "0000:01:00.0 VF 1: put it into VLAN 100",
        ],
        "{:?}",
        plan.refusals
    );
    assert_eq!(told(&compare(&host, &policy, &applied)).len(), steps.len());
}

fn problem(host: &mut HostSnapshot, path: &str) {
    let cause = "Input/output error".to_owned();
    host.problems.push(Problem { path: Path::new("/sys").join(path), cause });
}

#[test]
fn what_cannot_be_read_is_unknown_and_no_difference() {
    let policy = whole_pool();
    let device = |name: &str| format!("bus/pci/devices/0000:01:10.2/{name}");
    let mut host = right();
    change(&mut host, "0000:01:10.2", |vf| vf.driver = None);
    problem(&mut host, &device("driver"));
    let drift = compare(&host, &policy, &[]);
    let unknown = |drift: &Drift| -> Vec<(String, Attribute)> {
        drift.unknown.iter().map(|one| (one.device.clone(), one.attribute)).collect()
    };
    assert_eq!(unknown(&drift), [(format!("{PF} VF 1"), Attribute::Driver)]);
    assert_eq!(told(&drift), [""; 0]);

    // The number of VFs, and what they have.
    let mut host = right();
    change(&mut host, PF, |pf| pf.sriov.as_mut().expect("SR-IOV").present = 0);
    problem(&mut host, &format!("bus/pci/devices/{PF}/sriov_numvfs"));
    let drift = compare(&host, &policy, &[]);
    assert_eq!(unknown(&drift), [(PF.to_owned(), Attribute::VfCount)]);
    assert_eq!(told(&drift), [""; 0], "nor by way of the plan");

    let mut host = right();
    change(&mut host, PF, |pf| pf.sriov.as_mut().expect("SR-IOV").vf_settings.clear());
    assert!(compare(&host, &policy, &[]).is_none(), "nobody was asked");
    problem(&mut host, "class/net/eth0");
    let drift = compare(&host, &policy, &[]);
    assert_eq!(drift.unknown.len(), 12, "six settings of two VFs: {:?}", drift.unknown);
    assert_eq!(told(&drift), [""; 0]);

    // A card that does not say what it is may be the one that is missed.
    let mut host = right();
    host.functions.retain(|function| function.address != address(PF));
    problem(&mut host, &format!("bus/pci/devices/{PF}/class"));
    let drift = compare(&host, &policy, &[]);
    assert_eq!(unknown(&drift), [("pool lan".to_owned(), Attribute::Devices)]);

    // A driver that never reports a setting.
    let mut host = right();
    settings(&mut host, |now| now.trust = None);
    let drift = compare(&host, &policy, &[]);
    assert_eq!(unknown(&drift), [(format!("{PF} VF 1"), Attribute::Trust)]);
    assert!(drift.unknown[0].cause.contains("does not report it"), "{drift:?}");
}

#[test]
fn what_was_read_wrong_once_is_not_told() {
    let policy = whole_pool();
    let mut odd = right();
    settings(&mut odd, |now| now.mac = MacAddress([0; 6]));
    let mut unread = right();
    change(&mut unread, "0000:01:10.2", |vf| vf.driver = None);
    problem(&mut unread, "bus/pci/devices/0000:01:10.2/driver");
    let fine = right();
    let after = |hosts: &[&HostSnapshot]| {
        let (at, waited) = (Cell::new(0), Cell::new(0));
        let look = || {
            let host = hosts[at.get().min(hosts.len() - 1)];
            at.set(at.get() + 1);
            (compare(host, &policy, &[]), ())
        };
        let (drift, ()) = drift::confirmed(look, || waited.set(waited.get() + 1));
        (told(&drift).len(), drift.unknown.len(), waited.get())
    };
    assert_eq!(after(&[&fine]), (0, 0, 0), "one look is enough");
    assert_eq!(after(&[&odd, &fine]), (0, 0, 1), "it passed");
    assert_eq!(after(&[&unread, &fine]), (0, 0, 1));
    assert_eq!(after(&[&odd]), (1, 0, 1), "told by two looks");
    assert_eq!(after(&[&unread]), (0, 1, 2), "it never could be read");
    assert_eq!(after(&[&unread, &odd, &odd]), (1, 0, 2));
    assert_eq!(after(&[&unread, &odd, &fine]), (0, 0, 2));
    assert_eq!(after(&[&unread, &fine, &odd]), (0, 0, 1));
    assert_eq!(after(&[&unread, &unread, &odd]), (0, 0, 2), "seen once only");
}

#[test]
fn differences_are_told_where_a_plan_is_refused() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let tree = Tree::lab(directory.path(), 0);
    let file = directory.path().join("edge.yaml");
    let write = |count: u16| {
        let text = format!(
            "apiVersion: assign/v1\nkind: Policy\nmetadata: {{name: edge}}\nspec:\n  pools:\n    \
             - {{name: lan, from: {{interface: eth0}}, vfs: {{count: {count}}}}}\n"
        );
        std::fs::write(&file, text).expect("written");
    };
    let diff = |arguments: &[&str]| {
        let output = Command::new(env!("CARGO_BIN_EXE_assign"))
            .arg("--root")
            .arg(directory.path())
            .arg("diff")
            .args(arguments)
            .output()
            .expect("the program runs");
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("text");
        (output.status.code(), text(output.stdout), text(output.stderr))
    };
    let path = file.display().to_string();
    write(9);
    let (code, told, _) = diff(&["-f", &path]);
    assert_eq!(code, Some(4), "{told}");
    assert!(told.contains("0000:01:00.0: number of VFs is 0, should be 9\n"), "{told}");
    assert!(told.contains("0000:01:00.0: link is down, should be up\n"), "{told}");
    assert!(told.contains("apply would refuse: 0000:01:00.0: cannot have 9 VFs"), "{told}");
    let (_, told, _) = diff(&["-f", &path, "-o", "json"]);
    let json: serde_json::Value = serde_json::from_str(&told).expect("JSON");
    assert_eq!(json["policies"], serde_json::json!(["edge"]));
    assert_eq!(
        json["differences"][0],
        serde_json::json!({
            "policy": "edge", "pool": "lan", "device": PF,
            "attribute": "vf-count", "is": "0", "should": "9"
        })
    );
    assert_eq!(json["refusals"][0]["reason"], "too-many-vfs");

    // Nothing applied, nothing named.
    let (code, told, _) = diff(&[]);
    assert_eq!((code, told.as_str()), (Some(0), "no policy is applied, and -f names none\n"));
    // All is as it should be but for what makes it worth anything.
    tree.attribute(PF, "sriov_numvfs", "0\n");
    write(2);
    tree.file("sys/class/net/eth0/flags", "0x1003\n");
    tree.remove("sys/class/iommu/dmar0/name");
    let (code, told, _) = diff(&["-f", &path]);
    assert_eq!(code, Some(4), "{told}");
    assert!(told.contains("number of VFs is 0, should be 2"), "{told}");
}
