//! Disks to boot from that somebody has damaged or made for this: nothing panics, and there is an
//! answer soon.

use proptest::prelude::*;
use proptest::sample::{Index, select};

#[path = "../../tests/fuzz/src/image.rs"]
mod fuzzed;

#[path = "../../tests/fuzz/src/replay.rs"]
mod replay;

#[test]
fn good_disks_and_what_the_fuzzer_found_do_no_harm() {
    for kind in ["seeds", "corpus"] {
        let inputs = replay::inputs(kind, "image");
        assert!(inputs.len() > 3, "hardly any {kind}");
        replay::takes(fuzzed::image, inputs);
    }
}

/// A good one with some bytes changed, where there are any: much of a disk is empty.
fn mutated() -> impl Strategy<Value = Vec<u8>> {
    let changes = proptest::collection::vec((any::<Index>(), any::<u8>(), 0..32_usize), 1..6);
    (select(replay::seeds("image")), changes).prop_map(|(mut bytes, changes)| {
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

/// Words of scripts in any order.
fn script() -> impl Strategy<Value = Vec<u8>> {
    let words = [
        "if",
        "then",
        "elif",
        "else",
        "fi",
        "menuentry",
        "submenu",
        "{",
        "}",
        ";",
        "\n",
        "set",
        "a=$a$b",
        "default=1>0",
        "[",
        "]",
        "!",
        "-a",
        "-o",
        "=",
        "x",
        "'a b'",
        "\"$a\"",
        "${b}",
        "linux",
        "/k",
        "initrd",
        "search",
        "--set=root",
        "--fs-uuid",
        "1",
        "function",
        "for",
        "done",
        "source",
        "$prefix/grubenv",
        "load_env",
        "configfile",
        "\\",
        "\"",
        "'",
        "#",
        "(hd0,gpt1)/k",
        "blscfg",
    ];
    proptest::collection::vec(select(words.to_vec()), 0..200)
        .prop_map(|words| format!("g{}", words.join(" ")).into_bytes())
}

fn versions() -> impl Strategy<Value = Vec<u8>> {
    "v[a-b0-2.^~_-]{0,8}\n[a-b0-2.^~_-]{0,8}".prop_map(String::into_bytes)
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(2000) })]

    #[test]
    fn any_disk_script_or_version(
        bytes in prop_oneof![
            1 => proptest::collection::vec(any::<u8>(), 0..2000),
            6 => mutated(),
            3 => script(),
            2 => versions(),
        ],
    ) {
        fuzzed::image(&bytes);
    }
}
