//! Whatever the text is, the answer is documents or errors: never a panic, never a long wait.

use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use policies::{Source, parse};
use proptest::prelude::*;

#[path = "../../tests/fuzz/src/policy.rs"]
mod fuzzed;

const VALID: &str = concat!(
    include_str!("../../examples/edge-node.yaml"),
    "---\n",
    include_str!("../../examples/mixed-fallback.yaml"),
    "---\n",
    include_str!("../../examples/whole-gpu.yaml"),
    "---\n",
    include_str!("../../examples/host-driver.yaml"),
);

/// Most memory of a process that reads the worst there is, the test's own included.
const MOST_MEMORY_KIB: u64 = 96 << 10;

/// Parses and renders, as a caller would. True if it was accepted.
fn feed(text: &str) -> bool {
    let source = Source { name: "hostile.yaml".to_owned(), text: text.to_owned() };
    match parse(&[source]) {
        Ok(_) => true,
        Err(errors) => {
            assert!(!errors.to_string().is_empty());
            serde_json::to_string(&errors).expect("errors are plain data");
            false
        }
    }
}

/// What this thread has had of a processor: the parser never waits, and other tests may keep it from
/// running.
fn processor_time() -> Duration {
    let times = std::fs::read_to_string("/proc/thread-self/schedstat").expect("our own times");
    let first = times.split(' ').next().and_then(|time| time.parse().ok());
    Duration::from_nanos(first.expect("nanoseconds"))
}

fn refused_quickly(text: &str) {
    let begun = processor_time();
    assert!(!feed(text));
    let took = processor_time() - begun;
    println!("{took:?} for {} bytes, {:?}…", text.len(), text.chars().take(12).collect::<String>());
    assert!(took < Duration::from_secs(1), "took {took:?}");
}

/// A billion laughs, and more.
fn laughs() -> String {
    let mut text = String::from("a0: &a0 [lol, lol, lol, lol, lol, lol, lol, lol, lol]\n");
    for level in 1..30 {
        let repeated = format!("*a{}, ", level - 1).repeat(9);
        writeln!(text, "a{level}: &a{level} [{repeated}]").expect("a String grows");
    }
    text
}

/// The same with mappings, within a document that is right but for them.
fn laughs_of_mappings() -> String {
    let mut text = String::from(
        "apiVersion: assign/v1\nkind: Policy\nmetadata: {name: a}\nspec:\n  a0: &a0 {x: lol}\n",
    );
    for level in 1..30 {
        let fields: Vec<String> = (0..9).map(|n| format!("f{n}: *a{}", level - 1)).collect();
        writeln!(text, "  a{level}: &a{level} {{{}}}", fields.join(", ")).expect("a String grows");
    }
    text
}

/// A long text, repeated ten thousand times.
fn long_text() -> String {
    let mut text = format!("a: &a {}\nb:\n", "x".repeat(500_000));
    text.push_str(&"  - *a\n".repeat(10_000));
    text
}

/// As many errors as fit into a file.
fn errors_only() -> String {
    (0..60_000).map(|i| format!("f{i}: 1\n")).collect()
}

#[test]
fn nested_aliases_are_refused_quickly() {
    refused_quickly(&laughs());
    refused_quickly(&laughs_of_mappings());
}

/// In a process of its own, whose peak is nobody else's.
#[test]
fn the_worst_needs_little_memory() {
    const CHILD: &str = "ASSIGN_TEST_MEMORY";
    if std::env::var_os(CHILD).is_none() {
        let own = std::env::current_exe().expect("this test");
        let mut child = Command::new(own);
        child.args(["--exact", "the_worst_needs_little_memory", "--nocapture"]).env(CHILD, "1");
        let output = child.output().expect("this test again");
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{said}");
        let stdout = String::from_utf8_lossy(&output.stdout);
        assert!(stdout.contains("peak of"), "{stdout}");
        return;
    }
    for text in [laughs(), laughs_of_mappings(), long_text(), errors_only(), "[".repeat(1 << 20)] {
        refused_quickly(&text);
    }
    let status = std::fs::read_to_string("/proc/self/status").expect("our own status");
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).expect("a peak");
    let peak: u64 = peak.trim().trim_end_matches(" kB").parse().expect("a number");
    println!("peak of {peak} KiB");
    assert!(peak < MOST_MEMORY_KIB, "{peak} KiB");
}

#[test]
fn what_the_fuzzer_found_does_no_harm() {
    let folder = |kind: &str| -> Vec<PathBuf> {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fuzz").join(kind);
        let entries = std::fs::read_dir(&folder).unwrap_or_else(|e| panic!("{folder:?}: {e}"));
        entries.map(|entry| entry.expect("an entry").path()).collect()
    };
    let files =
        [folder("seeds/policy"), folder("corpus/policy"), folder("../../examples")].concat();
    assert!(files.len() > 100, "{} inputs", files.len());
    for file in files {
        let bytes = std::fs::read(&file).expect("an input");
        let begun = Instant::now();
        fuzzed::policy(&bytes);
        assert!(begun.elapsed() < Duration::from_secs(5), "{}", file.display());
    }
}

#[test]
fn a_chain_of_aliases_does_not_nest_deeper_than_text_may() {
    let mut text = String::from("a0: &a0 [x]\n");
    for level in 1..20_000 {
        writeln!(text, "a{level}: &a{level} [*a{}]", level - 1).expect("a String grows");
    }
    refused_quickly(&text);
}

#[test]
fn a_large_scalar_repeated_is_refused_quickly() {
    refused_quickly(&long_text());
}

#[test]
fn an_alias_within_its_own_anchor_is_refused() {
    refused_quickly("a: &a [*a]\n");
}

#[test]
fn depth_width_and_length_are_bounded() {
    refused_quickly(&"[".repeat(1 << 20));
    refused_quickly(&"- ".repeat(1 << 19));
    refused_quickly(&"{a: ".repeat(1 << 18));
    refused_quickly(&"? ".repeat(1 << 19));
    refused_quickly(&"a: b\n".repeat(200_000));
    refused_quickly(&"--- a\n".repeat(170_000));
    refused_quickly(&format!("x: \"{}\"", "\t\u{1b}é漢".repeat(100_000)));
    refused_quickly(&format!("[{}]", "a,".repeat(500_000)));
    refused_quickly(&"#\n".repeat(500_000));
    refused_quickly(&(0..20_000).map(|i| format!("f{i}: 1\n")).collect::<String>());
}

#[test]
fn the_text_that_is_mutated_below_is_valid() {
    assert!(feed(VALID));
    assert!(feed(&VALID.replace('\n', "\r\n")));
    assert!(feed(&format!("\u{feff}{VALID}")));
}

proptest! {
    #[test]
    fn any_text_is_answered(text in any::<String>()) {
        feed(&text);
    }

    #[test]
    fn any_text_of_yaml_characters_is_answered(text in r#"[-:{}\[\]&*!|>'"%@#?, \n\ta0é]{0,200}"#) {
        feed(&text);
    }

    #[test]
    fn valid_text_with_a_piece_replaced_is_answered(
        at in 0..VALID.len(),
        cut in 0usize..40,
        put in prop_oneof![
            any::<String>(),
            r#"[-:{}\[\]&*!|>'"%@#?, \n\t0-9a-z]{0,20}"#,
            Just("*a".to_owned()),
            Just("99999999999999999999".to_owned()),
        ],
    ) {
        let mut start = at;
        while !VALID.is_char_boundary(start) {
            start -= 1;
        }
        let mut end = (at + cut).min(VALID.len());
        while !VALID.is_char_boundary(end) {
            end += 1;
        }
        feed(&format!("{}{put}{}", &VALID[..start], &VALID[end..]));
    }
}
