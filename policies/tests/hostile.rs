//! Whatever the text is, the answer is documents or errors: never a panic, never a long wait.

use std::fmt::Write;
use std::time::{Duration, Instant};

use policies::{Source, parse};
use proptest::prelude::*;

const VALID: &str = concat!(
    include_str!("../../examples/edge-node.yaml"),
    "---\n",
    include_str!("../../examples/web-1.yaml"),
    "---\n",
    include_str!("../../examples/web-2.yaml"),
);

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

fn refused_quickly(text: &str) {
    let begun = Instant::now();
    assert!(!feed(text));
    let took = begun.elapsed();
    assert!(took < Duration::from_secs(1), "took {took:?}");
}

#[test]
fn nested_aliases_are_refused_quickly() {
    let mut text = String::from("a0: &a0 [lol, lol, lol, lol, lol, lol, lol, lol, lol]\n");
    for level in 1..30 {
        let repeated = format!("*a{}, ", level - 1).repeat(9);
        writeln!(text, "a{level}: &a{level} [{repeated}]").expect("a String grows");
    }
    refused_quickly(&text);
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
    let mut text = format!("a: &a {}\nb:\n", "x".repeat(500_000));
    text.push_str(&"  - *a\n".repeat(10_000));
    refused_quickly(&text);
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
