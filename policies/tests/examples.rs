//! The files people copy from are right, and mean what they say.

use std::path::Path;

use policies::{
    Acs, Documents, Driver, MacPolicy, NumaChoice, Order, Pool, PoolDevices, PoolNetwork, Restore,
    Source, load, parse,
};

fn examples() -> Documents {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples");
    load(&[folder]).unwrap_or_else(|errors| panic!("{errors}"))
}

#[test]
fn every_example_parses() {
    let documents = examples();
    assert!(!documents.policies.is_empty() && !documents.guests.is_empty());
}

#[test]
fn every_claim_of_an_example_names_a_pool_of_the_examples() {
    let documents = examples();
    for guest in &documents.guests {
        let networks = guest.networks.iter().filter_map(|network| network.claim.as_ref());
        for claim in networks.chain(guest.devices.iter().map(|device| &device.claim)) {
            assert!(documents.pool(&claim.pool).is_some(), "{}: {}", guest.name, claim.pool);
        }
    }
}

#[test]
fn the_edge_node_is_read_as_it_is_written() {
    let documents = examples();
    let (policy, pool) = documents.pool("lan").expect("the pool of edge-node.yaml");
    assert_eq!(policy.name, "edge-node");
    assert_eq!(pool.from.to_string(), r#"{vendor: "8086", device: "10c9", interface: eth0}"#);
    assert_eq!(pool.count(), Some(1));
    assert_eq!(pool.indexes().collect::<Vec<_>>(), [0]);
    assert_eq!(pool.network.mac, MacPolicy::Derive);
}

#[test]
fn every_example_is_whole_by_itself() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples");
    let mut pools = 0;
    for entry in std::fs::read_dir(folder).expect("the examples") {
        let path = entry.expect("a file").path();
        if path.extension().is_none_or(|end| end != "yaml") {
            continue;
        }
        let documents = load(&[&path]).unwrap_or_else(|errors| panic!("{errors}"));
        pools += documents.policies.iter().map(|policy| policy.pools.len()).sum::<usize>();
        // Guests beside policies claim from these; web-1 and web-2 go with edge-node.
        for guest in documents.guests.iter().filter(|_| !documents.policies.is_empty()) {
            let networks = guest.networks.iter().filter_map(|network| network.claim.as_ref());
            for claim in networks.chain(guest.devices.iter().map(|device| &device.claim)) {
                assert!(
                    documents.pool(&claim.pool).is_some(),
                    "{}: {}",
                    path.display(),
                    claim.pool
                );
            }
        }
    }
    assert!(pools >= 9, "{pools} pools");
}

#[test]
fn the_gallery_shows_what_the_language_has() {
    let documents = examples();
    let pools: Vec<&Pool> = documents.policies.iter().flat_map(|policy| &policy.pools).collect();
    for driver in [Driver::VfioPci, Driver::Auto, Driver::Host] {
        assert!(pools.iter().any(|pool| pool.driver == driver), "{driver}");
    }
    assert!(pools.iter().any(|pool| pool.devices == PoolDevices::Whole));
    assert!(pools.iter().any(|pool| pool.order == Order::Spread));
    assert!(
        pools.iter().any(|pool| pool.from.link_speed.is_some() && pool.from.numa_node.is_some())
    );
    let set = |is_set: fn(&PoolNetwork) -> bool| pools.iter().any(|pool| is_set(&pool.network));
    assert!(set(|n| n.vlan.is_some()) && set(|n| n.rate.is_some()));
    assert!(set(|n| n.trust == Some(true)) && set(|n| n.spoof_check == Some(true)));
    let policies = &documents.policies;
    assert!(policies.iter().any(|policy| policy.isolation.acs == Acs::Required));
    assert!(policies.iter().any(|policy| policy.release.restore == Restore::Keep));
    assert!(policies.iter().any(|policy| !policy.protection.exceptions.is_empty()));
    let guests = &documents.guests;
    let claims =
        || guests.iter().flat_map(|guest| &guest.networks).filter_map(|n| n.claim.as_ref());
    for numa in [NumaChoice::Ignore, NumaChoice::Preferred, NumaChoice::Required] {
        assert!(claims().any(|claim| claim.numa == numa), "{numa:?}");
    }
    assert!(guests.iter().any(|guest| guest.devices.iter().any(|device| device.optional)));
}

#[test]
fn policies_and_guests_survive_json() {
    let documents = examples();
    let json = serde_json::to_string(&documents).expect("plain data");
    let again: Documents = serde_json::from_str(&json).expect("what was written");
    assert_eq!(again, documents);
}

#[test]
fn what_cannot_be_read_is_told_with_what_is_wrong_elsewhere() {
    let folder = std::env::temp_dir().join(format!("policies-{}", std::process::id()));
    std::fs::create_dir_all(&folder).expect("a folder for the test");
    let wrong = folder.join("wrong.yaml");
    std::fs::write(&wrong, "kind: Pod\n").expect("a file");
    std::fs::write(folder.join("latin.yml"), b"kind: \xe9\n").expect("a file");
    std::fs::write(folder.join("large.yaml"), vec![b'#'; 2 << 20]).expect("a file");
    std::fs::write(folder.join("notes.txt"), "not read").expect("a file");
    let errors = load(&[folder.clone(), folder.join("missing.yaml")]).expect_err("all wrong");
    std::fs::remove_dir_all(&folder).expect("the folder of the test");
    let said: Vec<String> = errors
        .iter()
        .map(|error| {
            let file = Path::new(error.file()).file_name().expect("a file");
            format!("{}: {}", file.display(), error.message())
        })
        .collect();
    assert_eq!(said[0], "large.yaml: is larger than 1 MiB: not a file of this language");
    assert_eq!(said[1], "latin.yml: is not UTF-8 text: byte 6 begins no character");
    assert_eq!(said[2], "missing.yaml: does not exist");
    assert_eq!(said[3], "wrong.yaml: a document needs `apiVersion`");
}

/// The language as it was designed, with each field that this version does not carry out yet on a
/// line of its own.
const DESIGNED: &str = r#"
apiVersion: assign/v1
kind: Policy
metadata: {name: edge-node}
spec:
  pools:
    - name: lan
      from: {vendor: "8086", device: "10c9", interface: eth0}
      expect: {min: 1, max: 1}
      vfs: {count: 4}
      use: "0-3"
      driver: vfio-pci
      network: {mac: derive, vlan: {id: 100}, trust: false, spoofCheck: true, linkState: auto, rate: {max: 1000}}
    - name: gpu
      devices: {vendor: "10de", class: "0302"}
  isolation: {group: strict, acs: required, noIommu: deny}
  release: {restore: original}
---
apiVersion: assign/v1
kind: Guest
metadata: {name: web-1}
spec:
  cpus:
    count: 2
    pin: {0: 2, 1: 3}
  memory:
    size: 512MiB
    pages: transparent
    merge: false
    balloon: false
  boot: {kernel: vmlinuz, initrd: initrd.img, cmdline: "console=ttyS0"}
  disks: [{name: root, path: root.raw}]
  networks:
    - name: net0
      claim: {pool: lan, numa: preferred}
      fallback: {virtio: {bridge: br0}}
      failover: true
  devices:
    - {name: gpu0, claim: {pool: gpu}}
"#;

#[test]
fn the_language_is_as_it_was_designed() {
    let later = ["failover"];
    let read = |text: &str| parse(&[Source { name: "design.yaml".into(), text: text.to_owned() }]);
    let errors = read(DESIGNED).expect_err("fields of a later version");
    let said: Vec<&str> = errors.iter().map(policies::Error::message).collect();
    assert_eq!(said.len(), later.len(), "{errors}");
    for (said, field) in said.iter().zip(later) {
        assert!(said.starts_with(&format!("`{field}` is part of the language")), "{said}");
    }

    let is_later = |line: &&str| later.iter().any(|field| line.trim().starts_with(field));
    let now: Vec<&str> = DESIGNED.lines().filter(|line| !is_later(line)).collect();
    let documents = read(&now.join("\n")).unwrap_or_else(|errors| panic!("{errors}"));
    assert_eq!((documents.policies.len(), documents.guests.len()), (1, 1));
    let claim = documents.guests[0].networks[0].claim.as_ref().expect("a claim");
    assert_eq!((claim.numa, documents.guests[0].memory.numa), (NumaChoice::Preferred, None));
}
