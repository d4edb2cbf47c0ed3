//! Whatever is said on a guest's control socket, it is understood or refused: what
//! `tests/fuzz/src/control.rs` says holds.

use proptest::prelude::*;
use proptest::sample::{Index, select};

#[path = "../../tests/fuzz/src/control.rs"]
mod fuzzed;

#[path = "../../tests/fuzz/src/replay.rs"]
mod replay;

#[test]
fn what_the_fuzzer_begins_with_and_found_does_no_harm() {
    for kind in ["seeds", "corpus"] {
        let inputs = replay::inputs(kind, "control");
        assert!(inputs.len() > 3, "hardly any {kind}");
        replay::takes(fuzzed::control, inputs);
    }
}

proptest! {
    // What is found goes to the corpus.
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(2000) })]

    #[test]
    fn anything_near_a_good_message(
        mut bytes in select(replay::seeds("control")),
        changes in proptest::collection::vec((any::<Index>(), any::<u8>()), 0..6),
        end in any::<Index>(),
    ) {
        for (at, byte) in changes {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        fuzzed::control(&bytes);
        fuzzed::control(&bytes[..end.index(bytes.len())]);
    }
}
