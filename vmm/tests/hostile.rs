//! Bad guests of bad devices on hosts that fail: whatever happens, nothing panics, and what
//! `tests/fuzz/src/passthrough.rs` says of a passed-through device holds.

use proptest::prelude::*;
use proptest::sample::{Index, select};

#[path = "../../tests/fuzz/src/passthrough.rs"]
mod fuzzed;

#[path = "../../tests/fuzz/src/input.rs"]
mod input;

#[path = "../../tests/fuzz/src/replay.rs"]
mod replay;

#[test]
fn what_the_fuzzer_found_does_no_harm() {
    for kind in ["seeds", "corpus"] {
        let inputs = replay::inputs(kind, "passthrough");
        assert!(inputs.len() > 3, "hardly any {kind}");
        replay::takes(fuzzed::passthrough, inputs);
    }
}

/// A good device and guest, with some bytes changed, and further actions.
fn mutated() -> impl Strategy<Value = Vec<u8>> {
    let changes = proptest::collection::vec((any::<Index>(), any::<u8>()), 0..6);
    let actions = proptest::collection::vec(any::<u8>(), 0..200);
    (select(replay::seeds("passthrough")), changes, actions).prop_map(
        |(mut bytes, changes, actions)| {
            for (at, byte) in changes {
                let at = at.index(bytes.len());
                bytes[at] = byte;
            }
            bytes.extend(actions);
            bytes
        },
    )
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
