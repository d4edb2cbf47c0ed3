//! Every kind of mistake, and what is said about it.

mod guest;
mod network;
mod policy;
mod rules;

use insta::assert_snapshot;
use policies::{Source, parse};

/// The errors of one file.
fn errors(text: &str) -> String {
    errors_of(&[("host.yaml", text)])
}

fn errors_of(files: &[(&str, &str)]) -> String {
    let source =
        |(name, text): &(&str, &str)| Source { name: (*name).into(), text: (*text).into() };
    let sources: Vec<Source> = files.iter().map(source).collect();
    match parse(&sources) {
        Ok(_) => "accepted".to_owned(),
        Err(errors) => errors.to_string(),
    }
}

#[test]
fn a_file_without_documents() {
    assert_snapshot!(errors("# nothing yet\n---\n"), @r#"host.yaml: holds no document: begin with `apiVersion: assign/v1` and `kind: Policy` or `kind: Guest`"#);
}

#[test]
fn a_syntax_error_ends_its_file() {
    assert_snapshot!(errors("apiVersion: assign/v1\nkind: {Policy\nmetadata: {name: x}\n"), @r#"
    host.yaml:2:7: not valid YAML: unclosed bracket '{'
    2 | kind: {Policy
      |       ^
    "#);
    assert_snapshot!(errors("apiVersion: assign/v1\n  kind: Policy\n"), @r#"
    host.yaml:2:7: not valid YAML: mapping values are not allowed in this context
    2 |   kind: Policy
      |       ^
    "#);
}

#[test]
fn a_tab_as_indentation() {
    assert_snapshot!(errors("apiVersion: assign/v1\nmetadata:\n\tname: x\n"), @r#"
    host.yaml:3:2: not valid YAML: tabs disallowed within this context (block indentation)
    3 |     name: x
      |     ^
    "#);
}

#[test]
fn tags_and_unknown_aliases() {
    assert_snapshot!(errors("kind: !!str Policy\n"), @r#"
    host.yaml:1:13: YAML tags (`!name`) have no meaning here: leave it out
    1 | kind: !!str Policy
      |             ^^^^^^
    "#);
    assert_snapshot!(errors("kind: *policy\n"), @r#"
    host.yaml:1:7: not valid YAML: while parsing node, found unknown anchor
    1 | kind: *policy
      |       ^
    "#);
}

#[test]
fn the_envelope() {
    assert_snapshot!(errors("- 1\n"), @r#"
    host.yaml:1:1: a document is a mapping, not a list
    1 | - 1
      | ^
      = accepted: {apiVersion: …, kind: …, metadata: …, spec: …}
    "#);
    assert_snapshot!(errors("apiVersion: assign/v2\nkind: policy\nmetadata: {nmae: x}\n"), @r#"
    host.yaml:1:1: a document needs `spec`
    1 | apiVersion: assign/v2
      | ^
      = accepted: spec: {…}

    host.yaml:1:13: `apiVersion` cannot be `assign/v2`
    1 | apiVersion: assign/v2
      |             ^^^^^^^^^
      = accepted: assign/v1

    host.yaml:2:7: `kind` cannot be `policy`
    2 | kind: policy
      |       ^^^^^^
      = accepted: Policy, Guest

    host.yaml:3:11: `metadata` needs `name`
    3 | metadata: {nmae: x}
      |           ^
      = accepted: name: edge-node

    host.yaml:3:12: `metadata` has no field `nmae`: did you mean `name`?
    3 | metadata: {nmae: x}
      |            ^^^^
      = accepted: name
    "#);
}

#[test]
fn each_document_of_a_file_is_read() {
    assert_snapshot!(errors("kind: Pod\n---\nkind: Pod\n"), @r#"
    host.yaml:1:1: a document needs `apiVersion`
    1 | kind: Pod
      | ^
      = accepted: apiVersion: assign/v1

    host.yaml:1:1: a document needs `metadata`
    1 | kind: Pod
      | ^
      = accepted: metadata: {name: edge-node}

    host.yaml:1:1: a document needs `spec`
    1 | kind: Pod
      | ^
      = accepted: spec: {…}

    host.yaml:1:7: `kind` cannot be `Pod`
    1 | kind: Pod
      |       ^^^
      = accepted: Policy, Guest

    host.yaml:3:1: a document needs `apiVersion`
    3 | kind: Pod
      | ^
      = accepted: apiVersion: assign/v1

    host.yaml:3:1: a document needs `metadata`
    3 | kind: Pod
      | ^
      = accepted: metadata: {name: edge-node}

    host.yaml:3:1: a document needs `spec`
    3 | kind: Pod
      | ^
      = accepted: spec: {…}

    host.yaml:3:7: `kind` cannot be `Pod`
    3 | kind: Pod
      |       ^^^
      = accepted: Policy, Guest
    "#);
}

#[test]
fn errors_as_json() {
    let source = Source { name: "host.yaml".into(), text: "kind: Pod\n".into() };
    let errors = parse(&[source]).expect_err("kind is wrong");
    let first = errors.iter().nth(1).expect("two errors at least");
    assert_snapshot!(serde_json::to_string(first).expect("plain data"), @r#"{"file":"host.yaml","line":1,"column":1,"message":"a document needs `metadata`","accepted":"metadata: {name: edge-node}"}"#);
}
