//! Which functions selectors mean, and how selectors are written.

use std::collections::BTreeMap;

use super::*;

fn function() -> PciFunction {
    PciFunction {
        vendor: 0x8086,
        device: 0x10c9,
        class: 0x02_0000,
        driver: Some("igb".to_owned()),
        iommu_group: Some(9),
        netdevs: vec!["eth0".to_owned()],
        ..PciFunction::new("0000:01:00.0".parse().expect("a valid address"))
    }
}

fn selector(json: &str) -> Selector {
    serde_json::from_str(json).expect("a selector")
}

#[test]
fn all_conditions_must_hold() {
    let host = HostSnapshot::default();
    let all = selector(
        r#"{"vendor": 32902, "device": 4297, "class": "02", "driver": "igb",
            "address": "0000:01:00.0", "interface": "eth0"}"#,
    );
    assert_eq!(all.matches(&host, &function()), Ok(()));
    let miss =
        |json| selector(json).matches(&host, &function()).expect_err("a mismatch").to_string();
    assert_eq!(miss(r#"{"vendor": 6900}"#), "its vendor is 8086, not 1af4");
    assert_eq!(miss(r#"{"class": "0108"}"#), "its class is 020000, not 0108");
    assert_eq!(miss(r#"{"interface": "eth1"}"#), "its interface is eth0, not eth1");
}

#[test]
fn a_function_without_driver_or_interface_has_none() {
    let host = HostSnapshot::default();
    let bare = PciFunction { driver: None, netdevs: Vec::new(), ..function() };
    let miss = |json| selector(json).matches(&host, &bare).expect_err("a mismatch").to_string();
    assert_eq!(miss(r#"{"driver": "igb"}"#), "its driver is none, not igb");
    assert_eq!(miss(r#"{"interface": "eth0"}"#), "its interface is none, not eth0");
}

/// A host with one card that has all there is to select by.
fn host() -> HostSnapshot {
    let card = serde_json::json!({
        "name": "eth0", "altnames": ["enp1s0f0"], "index": 2, "mac": null,
        "permanent_mac": "52:54:00:00:00:01", "up": true, "carrier": null, "master": null,
        "uppers": [], "pci": "0000:01:00.0", "port_name": null, "addresses": [],
        "routes": false, "default_route": false, "accept_ra": null, "autoconfigured": false,
    });
    HostSnapshot {
        netdevs: vec![serde_json::from_value(card).expect("an interface")],
        functions: vec![
            PciFunction::new("0000:00:01.0".parse().expect("a valid address")),
            PciFunction {
                parent: "0000:00:01.0".parse().ok(),
                subsystem_vendor: 0x8086,
                subsystem_device: 0xa03c,
                serial: Some("00-1b-21-ff-ff-12-34-56".to_owned()),
                numa_node: Some(0),
                link: Some(sriov::facts::link::Link {
                    max_speed: Some(8000),
                    ..Default::default()
                }),
                ..function()
            },
        ],
        ..HostSnapshot::default()
    }
}

#[test]
fn every_condition_has_its_mismatch() {
    let host = host();
    let card = host.functions.last().expect("the card");
    let try_on = |json: &str, card: &PciFunction| selector(json).matches(&host, card);
    for (right, wrong, said) in [
        (
            r#"{"subsystem_vendor": 32902}"#,
            r#"{"subsystem_vendor": 1}"#,
            "its subsystem vendor is 8086, not 0001",
        ),
        (
            r#"{"subsystem_device": 41020}"#,
            r#"{"subsystem_device": 1}"#,
            "its subsystem device is a03c, not 0001",
        ),
        (
            r#"{"altname": "enp1s0f0"}"#,
            r#"{"altname": "eth0"}"#,
            "its altname is enp1s0f0, not eth0",
        ),
        (
            r#"{"permanent_mac": "52:54:00:00:00:01"}"#,
            r#"{"permanent_mac": "52:54:00:00:00:02"}"#,
            "its permanent MAC address is 52:54:00:00:00:01, not 52:54:00:00:00:02",
        ),
        (
            r#"{"serial": "00-1B-21-FF-FF-12-34-56"}"#,
            r#"{"serial": "x"}"#,
            "its serial is 00-1b-21-ff-ff-12-34-56, not x",
        ),
        (
            r#"{"pci_root": "0000:00"}"#,
            r#"{"pci_root": "0000:01"}"#,
            "its PCI root is 0000:00, not 0000:01",
        ),
        (r#"{"numa_node": 0}"#, r#"{"numa_node": 1}"#, "its NUMA node is 0, not 1"),
        (
            r#"{"link_speed": {"min": 8000}}"#,
            r#"{"link_speed": {"min": 16000}}"#,
            "its link speed is 8GT/s at most, not 16GT/s or more",
        ),
    ] {
        assert_eq!(try_on(right, card), Ok(()), "{right}");
        let mismatch = try_on(wrong, card).expect_err(wrong);
        assert_eq!(mismatch.to_string(), said);
    }
}

#[test]
fn what_cannot_be_told_is_said_to_be_unknown() {
    let host = host();
    let bare = PciFunction {
        serial: None,
        numa_node: None,
        link: None,
        netdevs: vec!["gone".to_owned()],
        driver: None,
        ..host.functions.last().expect("the card").clone()
    };
    for (json, said) in [
        (
            r#"{"serial": "x"}"#,
            "its serial is unknown (it has none, no driver, or is asleep), not x",
        ),
        (
            r#"{"permanent_mac": "52:54:00:00:00:01"}"#,
            "its permanent MAC address is unknown (the kernel does not say), not \
             52:54:00:00:00:01",
        ),
        (r#"{"numa_node": 0}"#, "its NUMA node is none, not 0"),
        (
            r#"{"link_speed": {"min": 2500}}"#,
            "its link speed is unknown (it shows no link of its own), not 2.5GT/s or more",
        ),
    ] {
        let mismatch = selector(json).matches(&host, &bare).expect_err(json);
        assert_eq!(mismatch.to_string(), said);
    }
}

const SHOWN_BY_DRIVER: [&str; 5] = [
    r#"{"driver": "igb"}"#,
    r#"{"interface": "eth0"}"#,
    r#"{"altname": "enp1s0f0"}"#,
    r#"{"permanent_mac": "52:54:00:00:00:01"}"#,
    r#"{"serial": "x"}"#,
];

/// The host when vfio-pci has the card, and what is remembered of it.
fn taken(host: &HostSnapshot) -> (HostSnapshot, BTreeMap<PciAddress, Shown>) {
    let mut host = host.clone();
    let card = host.functions.last_mut().expect("the card");
    card.serial = Some("x".to_owned());
    let card = card.clone();
    let known = BTreeMap::from([(card.address, Shown::of(&host, &card).expect("a driver"))]);
    *host.functions.last_mut().expect("the card") = PciFunction {
        driver: Some("vfio-pci".to_owned()),
        netdevs: Vec::new(),
        serial: None,
        ..card
    };
    host.netdevs.clear();
    (host, known)
}

#[test]
fn a_card_is_known_by_what_its_driver_showed_before_it_was_taken() {
    let (mut host, known) = taken(&host());
    let matches = |host: &HostSnapshot, json: &str| {
        selector(json).matches(host, host.functions.last().expect("the card"))
    };
    for json in SHOWN_BY_DRIVER {
        assert!(matches(&host, json).is_err(), "{json}: nobody remembers");
    }
    host.recall(&known);
    for json in SHOWN_BY_DRIVER {
        assert_eq!(matches(&host, json), Ok(()), "{json}");
    }
    for json in [
        r#"{"driver": "ixgbe"}"#,
        r#"{"interface": "eth1"}"#,
        r#"{"altname": "eth0"}"#,
        r#"{"permanent_mac": "52:54:00:00:00:02"}"#,
        r#"{"serial": "y"}"#,
        r#"{"vendor": 1}"#,
        r#"{"numa_node": 1}"#,
        r#"{"class": "03"}"#,
    ] {
        assert!(matches(&host, json).is_err(), "{json}");
    }
}

#[test]
fn a_name_that_another_card_got_since_still_means_the_one_that_was_taken() {
    let before = host();
    let (mut host, known) = taken(&before);
    let mut newcomer = before.functions.last().expect("the card").clone();
    newcomer.address = "0000:09:00.0".parse().expect("an address");
    newcomer.serial = None;
    host.netdevs = before.netdevs.clone();
    host.functions.push(newcomer.clone());
    let eth0 = selector(r#"{"interface": "eth0"}"#);
    assert_eq!(eth0.matches(&host, &newcomer), Ok(()), "as far as anybody knows");
    host.recall(&known);
    let told = eth0.matches(&host, &newcomer).expect_err("another card").to_string();
    assert!(told.contains("only since 0000:01:00.0, which had it, was taken"), "{told}");
    let first = &host.functions[host.functions.len() - 2];
    assert_eq!(eth0.matches(&host, first), Ok(()));
}

#[test]
fn a_selector_is_shown_as_it_is_written() {
    let all = r#"{vendor: "8086", device: "10c9", subsystemVendor: "8086", subsystemDevice: "a03c", class: "0200", driver: igb, address: "0000:01:00.0", interface: eth0, altname: enp1s0f0, permanentMac: "52:54:00:00:00:01", serial: "x 1", pciRoot: "0000:00", numaNode: 0, linkSpeed: {min: 2.5GT/s}}"#;
    let text = format!(
        "apiVersion: assign/v1\nkind: Policy\nmetadata: {{name: a}}\nspec: {{pools: [{{name: a, devices: {all}}}]}}"
    );
    let source = crate::Source { name: "a.yaml".to_owned(), text };
    let documents = crate::parse(&[source]).unwrap_or_else(|errors| panic!("{errors}"));
    assert_eq!(documents.policies[0].pools[0].from.to_string(), all);
}
