//! Bad guests of bad devices on hosts that fail: whatever happens, nothing panics, and what
//! `tests/fuzz/src/passthrough.rs` says of a passed-through device holds.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use proptest::prelude::*;
use proptest::sample::{Index, select};

#[path = "../../tests/fuzz/src/passthrough.rs"]
mod fuzzed;

/// Much longer than any input takes, on a busy machine too; a hang takes longer.
const SOON: Duration = Duration::from_secs(20);

fn inputs(kind: &str) -> Vec<(PathBuf, Vec<u8>)> {
    let fuzz = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fuzz");
    let folder = fuzz.join(kind).join("passthrough");
    let mut inputs: Vec<_> = fs::read_dir(&folder)
        .unwrap_or_else(|error| panic!("{}: {error}", folder.display()))
        .map(|entry| entry.expect("an entry").path())
        .map(|path| (path.clone(), fs::read(&path).expect("an input")))
        .collect();
    inputs.sort();
    inputs
}

/// Says which input it was when a test fails on it.
struct Named<'a>(&'a Path);

impl Drop for Named<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("the input is {}", self.0.display());
        }
    }
}

#[test]
fn what_the_fuzzer_found_does_no_harm() {
    for kind in ["seeds", "corpus"] {
        let inputs = inputs(kind);
        assert!(inputs.len() > 3, "hardly any {kind}");
        for (path, bytes) in inputs {
            let _named = Named(&path);
            let begun = Instant::now();
            fuzzed::passthrough(&bytes);
            assert!(begun.elapsed() < SOON);
        }
    }
}

/// A good device and guest, with some bytes changed, and further actions.
fn mutated() -> impl Strategy<Value = Vec<u8>> {
    let seeds = inputs("seeds").into_iter().map(|(_, bytes)| bytes).collect::<Vec<_>>();
    let changes = proptest::collection::vec((any::<Index>(), any::<u8>()), 0..6);
    let actions = proptest::collection::vec(any::<u8>(), 0..200);
    (select(seeds), changes, actions).prop_map(|(mut bytes, changes, actions)| {
        for (at, byte) in changes {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        bytes.extend(actions);
        bytes
    })
}

proptest! {
    // What is found goes to the corpus.
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(2000) })]

    #[test]
    fn any_guest_of_any_device(
        bytes in prop_oneof![1 => proptest::collection::vec(any::<u8>(), 0..400), 9 => mutated()],
    ) {
        fuzzed::passthrough(&bytes);
    }
}
