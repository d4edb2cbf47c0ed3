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
    host.yaml:2:7: not valid YAML: `{` is not closed
    2 | kind: {Policy
      |       ^
      = accepted: {name: value, other: value}
    "#);
    assert_snapshot!(errors("apiVersion: assign/v1\n  kind: Policy\n"), @r#"
    host.yaml:2:7: not valid YAML: a `:` is where no field can begin; text that holds one is put in quotes
    2 |   kind: Policy
      |       ^
      = accepted: `name: value`, with the fields of one mapping in the same column
    "#);
}

#[test]
fn a_tab_as_indentation() {
    assert_snapshot!(errors("apiVersion: assign/v1\nmetadata:\n\tname: x\n"), @r#"
    host.yaml:3:2: not valid YAML: a tab where only spaces are read
    3 |     name: x
      |     ^
      = accepted: spaces
    "#);
}

#[test]
fn tags_and_unknown_aliases() {
    assert_snapshot!(errors("kind: !!str Policy\n"), @r#"
    host.yaml:1:13: YAML tags (`!name`) have no meaning here: leave it out
    1 | kind: !!str Policy
      |             ^^^^^^
      = accepted: the value without its tag
    "#);
    assert_snapshot!(errors("kind: *policy\n"), @r#"
    host.yaml:1:7: not valid YAML: no anchor of this name stands above
    1 | kind: *policy
      |       ^
      = accepted: `&name` before a value, and `*name` further down where it is repeated
    "#);
}

#[test]
fn merge_keys_are_of_another_yaml() {
    assert_snapshot!(errors("apiVersion: assign/v1\nkind: Guest\nmetadata: &m {name: x}\nspec:\n  <<: *m\n  memory: {size: 64MiB}\n  boot: {kernel: k}\n"), @r#"
    host.yaml:5:3: merge keys (`<<`) are YAML 1.1, and are not read
    5 |   <<: *m
      |   ^^
      = accepted: the fields written out; an alias (`*name`) stands for one whole value
    "#);
}

/// Each error of a text that is no document has an accepted form as well.
#[test]
fn what_ends_a_file_has_an_accepted_form() {
    let deep = format!("a: {}", "[".repeat(40));
    let many = format!("a: [{}]", "x, ".repeat(60_000));
    for text in ["a: b: c", "a: 'b", "a: b]", "a:\n\t- b", "x: &a [*a]", "a: @b", &deep, &many] {
        let source = Source { name: "host.yaml".into(), text: text.to_owned() };
        let errors = parse(&[source]).expect_err("no document");
        let first = errors.iter().next().expect("an error");
        assert!(first.accepted().is_some(), "{first}");
        assert!(first.line().is_some(), "{first}");
        assert!(!first.message().contains("expect"), "{first}");
    }
}

#[test]
fn an_error_fits_the_terminal() {
    let text = "apiVersion: assign/v1\nkind: Guest\nmetadata: {name: g}\nspec:\n  memory: {size: 64MiB}\n  \
                boot: {kernel: k}\n  networks: [{name: net0, claim: {pool: lan, numa: required}, fallback: \
                {virtio: {bridge: br0}}}]\n";
    let source = Source { name: "host.yaml".into(), text: text.to_owned() };
    let errors = parse(&[source]).expect_err("no node");
    assert_snapshot!(errors.render(80), @r#"
    host.yaml:7:52: the claim demands a device near the guest's memory, which has no
      NUMA node
    7 | …{name: net0, claim: {pool: lan, numa: required}, fallback: {virtio: {bridg…
      |                                        ^^^^^^^^
      = accepted: `numa` in the guest's memory as well, memory: {size: 512MiB, numa:
        0}; or numa: preferred here, and the memory goes where the device is
    "#);
    assert_snapshot!(errors.render(200), @r#"
    host.yaml:7:52: the claim demands a device near the guest's memory, which has no NUMA node
    7 |   networks: [{name: net0, claim: {pool: lan, numa: required}, fallback: {virtio: {bridge: br0}}}]
      |                                                    ^^^^^^^^
      = accepted: `numa` in the guest's memory as well, memory: {size: 512MiB, numa: 0}; or numa: preferred here, and the memory goes where the device is
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
