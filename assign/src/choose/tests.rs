mod order;

use policies::Source;
use sriov::facts::iommu::{Iommu, IommuGroup};
use sriov::facts::pci::VfSettings;
use sriov::{PciFunction, PfFacts};

use super::*;

const PF: &str = "0000:01:00.0";

fn at(text: &str) -> PciAddress {
    text.parse().expect("a valid address")
}

fn function(address: &str, driver: &str, group: u32) -> PciFunction {
    PciFunction {
        vendor: 0x8086,
        device: 0x10c9,
        class: 0x02_0000,
        driver: Some(driver.to_owned()),
        iommu_group: Some(group),
        ..PciFunction::new(at(address))
    }
}

/// A host with one PF and its VFs 0 and 1, bound to vfio-pci, each in its own group.
fn host() -> HostSnapshot {
    let vfs: BTreeMap<u16, PciAddress> =
        [(0, at("0000:01:10.0")), (1, at("0000:01:10.2"))].into_iter().collect();
    let mac = "02:00:00:00:00:07".parse().expect("a valid address");
    let pf = PciFunction {
        sriov: Some(PfFacts {
            total: 7,
            present: 2,
            autoprobe: false,
            vf_device: 0x10ca,
            offset: 0x80,
            stride: 2,
            vfs,
            nvme: None,
            vf_settings: [(0, VfSettings::with_mac(mac))].into_iter().collect(),
        }),
        ..function(PF, "igb", 8)
    };
    let functions =
        vec![pf, function("0000:01:10.0", "vfio-pci", 9), function("0000:01:10.2", "vfio-pci", 10)];
    let group = |function: &PciFunction| {
        let members = vec![function.address];
        (
            function.iommu_group.unwrap_or_default(),
            IommuGroup { members, isolates: true, ..IommuGroup::default() },
        )
    };
    let groups = functions.iter().map(group).collect();
    let iommu = Iommu { present: true, firmware: None, groups };
    HostSnapshot { iommu, functions, ..HostSnapshot::default() }
}

fn function_of<'a>(host: &'a mut HostSnapshot, address: &str) -> &'a mut PciFunction {
    let address = at(address);
    host.functions.iter_mut().find(|function| function.address == address).expect("the function")
}

fn offers(policies: Vec<policies::Policy>) -> Vec<Offer> {
    let offer = |policy: &policies::Policy, pool: &Pool| Offer {
        policy: policy.name.clone(),
        isolation: policy.isolation,
        protection: policy.protection.clone(),
        pool: pool.clone(),
        planned: None,
    };
    policies.iter().flat_map(|policy| policy.pools.iter().map(|pool| offer(policy, pool))).collect()
}

fn documents(networks: &str) -> (Vec<Offer>, Guest) {
    let text = format!(
        "apiVersion: assign/v1\nkind: Policy\nmetadata: {{name: edge}}\nspec:\n  pools:\n    - {{name: lan, from: {{address: {PF}}}, vfs: {{count: 2}}}}\n    - {{name: far, from: {{vendor: \"1af4\"}}, vfs: {{count: 1}}}}\n---\napiVersion: assign/v1\nkind: Guest\nmetadata: {{name: web-2}}\nspec: {{memory: {{size: 64MiB}}, boot: {{kernel: k}}, networks: [{networks}]}}\n"
    );
    let source = Source { name: "host.yaml".to_owned(), text };
    let mut documents = policies::parse(&[source]).unwrap_or_else(|errors| panic!("{errors}"));
    (offers(documents.policies), documents.guests.remove(0))
}

const CLAIM: &str = "{name: net0, claim: {pool: lan}, fallback: {virtio: {bridge: br0}}}";

fn world<'a>(
    host: &'a HostSnapshot,
    offers: &'a [Offer],
    holders: &'a BTreeMap<PciAddress, Holder>,
    failed: &'a BTreeMap<PciAddress, String>,
) -> World<'a> {
    World { host, offers, holders, failed, previous: &[], runs: false }
}

/// What is said about each network.
fn said(host: &HostSnapshot, networks: &str, holders: &[(&str, &str, u32)]) -> Vec<String> {
    let (pools, guest) = documents(networks);
    let holder = |(device, guest, pid): &(&str, &str, u32)| {
        (at(device), Holder { guest: (*guest).to_owned(), pid: Some(*pid) })
    };
    let holders = holders.iter().map(holder).collect();
    match choose(&guest, world(host, &pools, &holders, &BTreeMap::new())) {
        Ok(choice) => choice.networks.iter().map(Connection::to_string).collect(),
        Err(Unconnected { claim, because, .. }) => vec![format!("{claim}: {because}")],
    }
}

#[test]
fn the_first_free_vf_is_given() {
    assert_eq!(
        said(&host(), CLAIM, &[]),
        ["net0: VF 0 of 0000:01:00.0 (0000:01:10.0, group 9, mac 02:00:00:00:00:07) through vfio"]
    );
    let first = ("0000:01:10.0", "web-1", 123);
    assert_eq!(
        said(&host(), CLAIM, &[first]),
        ["net0: VF 1 of 0000:01:00.0 (0000:01:10.2, group 10) through vfio"]
    );
}

#[test]
fn an_exhausted_pool_says_who_has_what() {
    let holders = [("0000:01:10.0", "web-1", 123), ("0000:01:10.2", "web-3", 124)];
    assert_eq!(
        said(&host(), CLAIM, &holders),
        ["net0: virtio on br0, because pool lan has no free VF: 0000:01:10.0 is leased to web-1 \
          (pid 123); 0000:01:10.2 is leased to web-3 (pid 124)"]
    );
}

#[test]
fn two_networks_do_not_get_the_same_vf() {
    let third = "{name: net2, claim: {pool: lan}}";
    let said =
        said(&host(), &format!("{CLAIM}, {{name: net1, claim: {{pool: lan}}}}, {third}"), &[]);
    assert_eq!(
        said,
        ["net2: pool lan has no free VF: 0000:01:10.0 is taken by net0 of the same guest; \
          0000:01:10.2 is taken by net1 of the same guest"]
    );
}

#[test]
fn without_an_iommu_nothing_is_given() {
    let mut host = host();
    host.iommu.present = false;
    let said = said(&host, CLAIM, &[]).remove(0);
    assert!(said.starts_with("net0: virtio on br0, because the host has no IOMMU: "), "{said}");
    assert!(said.contains("intel_iommu=on"), "{said}");
}

#[test]
fn a_pool_that_is_not_applied_says_so() {
    let mut host = host();
    function_of(&mut host, "0000:01:10.0").driver = Some("igbvf".to_owned());
    let pf = function_of(&mut host, PF);
    pf.sriov.as_mut().expect("a PF").vfs.remove(&1);
    assert_eq!(
        said(&host, CLAIM, &[]),
        ["net0: virtio on br0, because pool lan has no free VF: 0000:01:10.0 is bound to igbvf, \
          not to vfio-pci: apply the pool's policy; VF 1 of 0000:01:00.0 does not exist: apply the \
          pool's policy first"]
    );
}

#[test]
fn a_group_is_not_divided() {
    let mut host = host();
    function_of(&mut host, "0000:01:10.2").iommu_group = Some(9);
    let members = vec![at("0000:01:10.0"), at("0000:01:10.2")];
    host.iommu.groups.insert(9, IommuGroup { members, isolates: true, ..IommuGroup::default() });
    let first = ("0000:01:10.0", "web-1", 123);
    let said = said(&host, CLAIM, &[first]).remove(0);
    let reason = "0000:01:10.2 shares IOMMU group 9 with 0000:01:10.0, which is leased to web-1";
    assert!(said.contains(reason), "{said}");
}

#[test]
fn a_group_with_a_device_of_the_host_is_refused() {
    let mut host = host();
    for vf in ["0000:01:10.0", "0000:01:10.2"] {
        function_of(&mut host, vf).iommu_group = Some(8);
    }
    let members = host.functions.iter().map(|function| function.address).collect();
    host.iommu.groups = [(8, IommuGroup { members, isolates: true, ..IommuGroup::default() })]
        .into_iter()
        .collect();
    let (pools, guest) = documents("{name: net0, claim: {pool: lan}}");
    let (holders, failed) = (BTreeMap::new(), BTreeMap::new());
    let world = world(&host, &pools, &holders, &failed);
    let unconnected = choose(&guest, world).expect_err("a group that is not viable");
    assert!(unconnected.because.is_refusal());
    let text = unconnected.because.to_string();
    assert!(text.contains("IOMMU group 8 also holds 0000:01:00.0 (igb)"), "{text}");
}

#[test]
fn pools_without_device_and_unknown_pools_are_told_apart() {
    assert_eq!(
        said(&host(), "{name: net0, claim: {pool: far}}", &[]),
        ["net0: pool far has no device: nothing on this host matches {vendor: \"1af4\"}"]
    );
    assert_eq!(
        said(&host(), "{name: net0, claim: {pool: wan}}", &[]),
        ["net0: no policy has a pool wan; there is lan, far"]
    );
}

#[test]
fn what_could_not_be_opened_is_passed_over() {
    let (pools, guest) = documents(CLAIM);
    let failed = [(at("0000:01:10.0"), "busy".to_owned())].into_iter().collect();
    let holders = BTreeMap::new();
    let host = host();
    let world = world(&host, &pools, &holders, &failed);
    let chosen = choose(&guest, world).expect("the other VF");
    assert_eq!(groups(&chosen.devices()), [10]);
}

#[test]
fn a_network_without_claim_needs_no_reason() {
    assert_eq!(said(&host(), "{name: net0, virtio: {bridge: br1}}", &[]), ["net0: virtio on br1"]);
}

#[test]
fn decisions_are_plain_data_for_programs() {
    let (pools, guest) = documents(CLAIM);
    let holder = Holder { guest: "web-1".to_owned(), pid: Some(123) };
    let holders =
        [(at("0000:01:10.0"), holder.clone()), (at("0000:01:10.2"), holder)].into_iter().collect();
    let host = host();
    let failed = BTreeMap::new();
    let world = world(&host, &pools, &holders, &failed);
    let chosen = choose(&guest, world).expect("a fallback").networks;
    let json = serde_json::to_value(&chosen).expect("plain data");
    assert_eq!(json.pointer("/0/through"), Some(&"virtio".into()));
    assert_eq!(json.pointer("/0/because/reason"), Some(&"none-free".into()));
    assert_eq!(json.pointer("/0/because/devices/0/why"), Some(&"leased".into()));
    assert_eq!(json.pointer("/0/because/devices/0/holder/pid"), Some(&123.into()));
}

/// Two ports of a card in one group, both with the host; the pool lends `lent` of them.
fn two_ports(lent: &str) -> (HostSnapshot, Vec<Offer>, Guest) {
    let ports = vec![function("0000:03:00.0", "e1000e", 6), function("0000:03:00.1", "e1000e", 6)];
    let members = ports.iter().map(|function| function.address).collect();
    let group = IommuGroup { members, isolates: true, ..IommuGroup::default() };
    let iommu = Iommu { present: true, firmware: None, groups: [(6, group)].into() };
    let host = HostSnapshot { iommu, functions: ports, ..HostSnapshot::default() };
    let text = format!(
        "apiVersion: assign/v1\nkind: Policy\nmetadata: {{name: edge}}\nspec:\n  pools:\n    - {{name: \
         lan, devices: {{{lent}}}, driver: host}}\n---\napiVersion: assign/v1\nkind: Guest\nmetadata: \
         {{name: web-2}}\nspec: {{memory: {{size: 64MiB}}, boot: {{kernel: k}}, networks: [{CLAIM}]}}\n"
    );
    let source = Source { name: "host.yaml".to_owned(), text };
    let mut documents = policies::parse(&[source]).unwrap_or_else(|errors| panic!("{errors}"));
    (host, offers(documents.policies), documents.guests.remove(0))
}

#[test]
fn what_shares_a_group_is_lent_where_all_of_it_is() {
    let (none, nobody) = (BTreeMap::new(), BTreeMap::new());
    let (mut host, pools, guest) = two_ports("vendor: \"8086\"");
    let given = |host: &HostSnapshot, pools: &[Offer], failed: &BTreeMap<PciAddress, String>| {
        let choice = choose(&guest, world(host, pools, &nobody, failed)).expect("it falls back");
        choice.networks.first().expect("a network").to_string()
    };
    let said = given(&host, &pools, &none);
    assert!(said.starts_with("net0: 0000:03:00.0 (group 6)"), "{said}");
    // One that could not be bound, or that the host uses, keeps the others with it.
    let failed = [(at("0000:03:00.1"), "it is stuck".to_owned())].into();
    let said = given(&host, &pools, &failed);
    assert!(said.contains("its IOMMU group 6 also holds 0000:03:00.1 (e1000e)"), "{said}");
    let wire = sriov::recorded::model::netdev(
        "eth1",
        2,
        at("0000:03:00.1"),
        "02:00:00:00:00:09".parse().expect("an address"),
    );
    host.netdevs = vec![sriov::facts::net::Netdev { default_route: true, routes: true, ..wire }];
    function_of(&mut host, "0000:03:00.1").netdevs = vec!["eth1".to_owned()];
    let said = given(&host, &pools, &none);
    assert!(said.contains("0000:03:00.0 cannot be isolated"), "{said}");
    assert!(said.contains("0000:03:00.1 is in use by the host"), "{said}");

    let (host, pools, _) = two_ports("address: \"0000:03:00.0\"");
    let said = given(&host, &pools, &none);
    assert!(said.contains("its IOMMU group 6 also holds 0000:03:00.1 (e1000e)"), "{said}");
}

#[test]
fn a_group_that_is_lent_goes_to_one_guest() {
    let (host, pools, guest) = two_ports("vendor: \"8086\"");
    let holder = Holder { guest: "web-1".to_owned(), pid: Some(123) };
    let holders = [(at("0000:03:00.0"), holder)].into();
    let choice = choose(&guest, world(&host, &pools, &holders, &BTreeMap::new()));
    let said = choice.expect("it falls back").networks.first().expect("a network").to_string();
    let shares = "0000:03:00.1 shares IOMMU group 6 with 0000:03:00.0, which is leased to web-1";
    assert!(said.contains(shares), "{said}");
}
