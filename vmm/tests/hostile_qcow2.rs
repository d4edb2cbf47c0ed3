//! Images that somebody has damaged or made for this, and guests that do whatever: nothing panics, and no
//! image is left worse than it was.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use proptest::prelude::*;
use proptest::sample::{Index, select};
use vmm::qcow2::simulated::{Cluster, Shape};

#[path = "../../tests/fuzz/src/qcow2.rs"]
mod fuzzed;
#[path = "../../tests/fuzz/src/replay.rs"]
mod replay;

const WRITE: u8 = 0;
const READ: u8 = 2;
const DISCARD: u8 = 3;
const ZERO: u8 = 4;
const FLUSH: u8 = 5;

fn step(kind: u8, offset: u16, length: u16) -> Vec<u8> {
    let place = (offset / 64).to_le_bytes();
    [&[kind][..], &place, &length.to_le_bytes(), &[0xa5]].concat()
}

/// Something of everything.
fn program() -> Vec<u8> {
    [
        step(READ, 0, 20_000),
        step(WRITE, 512, 700),
        step(DISCARD, 0, 2048),
        step(FLUSH, 0, 0),
        step(WRITE, 1024, 9000),
        step(ZERO, 2048, 3000),
        step(WRITE, 0, 100),
        step(FLUSH, 0, 0),
        step(READ, 0, 20_000),
    ]
    .concat()
}

/// Each with how many of its steps are done.
fn seeds() -> Vec<(&'static str, Vec<u8>, usize)> {
    let kinds = [1, 0, 7, 2, 1, 7, 3, 2, 7, 4, 3, 7, 9, 2, 8];
    let made = |shape: [u8; 3], steps: &[u8]| [b"m", &shape[..], &[5], &kinds, steps].concat();
    let writes: Vec<u8> = (0..30_u16).flat_map(|at| step(WRITE, at * 2000, 2000)).collect();
    let clusters = BTreeMap::from([
        (0, Cluster::Data(1)),
        (1, Cluster::Packed(2)),
        (2, Cluster::Zeroes),
        (3, Cluster::Shared(4)),
    ]);
    let shape = Shape { version: 3, cluster_bits: 9, count_order: 4, size: 1 << 16 };
    let image = |change: &dyn Fn(&mut [u8])| {
        let mut image = shape.make(&clusters, false);
        change(&mut image);
        [&b"i\x09"[..], &program(), &image].concat()
    };
    // Its L2 table is the first cluster behind the first levels.
    let entry = |number: usize, entry: u64| {
        image(&move |image| {
            let at = 4 * 512 + number * 8;
            image[at..at + 8].copy_from_slice(&entry.to_be_bytes());
        })
    };
    vec![
        ("made-of-version-3", made([1, 4, 60], &program()), 9),
        ("made-of-version-2", made([0, 0, 60], &program()), 9),
        ("made-with-counts-of-a-bit", made([3, 0, 60], &program()), 9),
        ("made-and-shared", made([1, 0x84, 60], &program()), 9),
        ("made-of-larger-clusters", made([9, 3, 60], &program()), 9),
        ("made-and-filled", made([1, 6, 255], &writes), 30),
        ("image", image(&|_| {}), 9),
        ("image-with-promises", image(&|image| image[95] = 3), 9),
        ("image-of-nothing", image(&|image| image.fill(0)), 0),
        ("image-with-data-in-its-header", entry(1, 1 << 63), 5),
        ("image-with-data-in-its-counts", entry(1, (1 << 63) | (2 * 512)), 7),
        ("image-with-data-in-its-map", entry(4, 4 * 512), 7),
        ("image-that-unpacks-nothing", entry(1, 1 << 62 | 600), 5),
        ("image-that-counts-nothing", image(&|image| image[1024..1536].fill(0)), 6),
    ]
}

#[test]
fn the_fuzzer_begins_with_what_is_done() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fuzz/seeds/qcow2");
    if std::env::var_os("UPDATE_SEEDS").is_some() {
        fs::create_dir_all(&folder).expect("a folder");
        for (name, bytes, _) in seeds() {
            fs::write(folder.join(name), bytes).expect("a seed");
        }
    }
    assert_eq!(replay::inputs("seeds", "qcow2").len(), seeds().len(), "set UPDATE_SEEDS");
    let (mut found, mut expected) = (Vec::new(), Vec::new());
    for (name, bytes, done) in seeds() {
        let file = fs::read(folder.join(name)).unwrap_or_default();
        assert!(file == bytes, "{name} is another: set UPDATE_SEEDS");
        found.push((name, fuzzed::qcow2(&bytes)));
        expected.push((name, done));
    }
    assert_eq!(found, expected);
}

#[test]
fn what_the_fuzzers_found_does_no_harm() {
    let target = |bytes: &[u8]| {
        fuzzed::qcow2(bytes);
    };
    replay::takes(target, replay::inputs("corpus", "qcow2"));
}

/// A good one with some bytes changed, where there are any.
fn mutated() -> impl Strategy<Value = Vec<u8>> {
    let changes = proptest::collection::vec((any::<Index>(), any::<u8>(), 0..16_usize), 1..6);
    (select(replay::seeds("qcow2")), changes).prop_map(|(mut bytes, changes)| {
        for (at, byte, far) in changes {
            let used: Vec<usize> = (1..bytes.len()).filter(|at| bytes[*at] != 0).collect();
            let at = used.get(at.index(used.len().max(1))).copied().unwrap_or_default() + far;
            if let Some(found) = bytes.get_mut(at) {
                *found = byte;
            }
        }
        bytes
    })
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(3000) })]

    #[test]
    fn any_image_and_any_guest(bytes in mutated()) {
        fuzzed::qcow2(&bytes);
    }
}
