//! The files people copy from are right, and mean what they say.

use std::path::Path;

use policies::{Documents, MacPolicy, load};

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
        for claim in guest.networks.iter().filter_map(|network| network.claim.as_ref()) {
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
