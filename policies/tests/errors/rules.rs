//! Mistakes in isolation, protection and release.

use insta::assert_snapshot;

use crate::errors;

/// The errors of a policy with these lines beside its pools.
fn rules(lines: &str) -> String {
    errors(&format!(
        "apiVersion: assign/v1\nkind: Policy\nmetadata: {{name: p}}\nspec:\n  pools: [{{name: a, from: {{vendor: \
         \"8086\"}}, vfs: {{count: 1}}}}]\n{lines}"
    ))
}

#[test]
fn what_is_right() {
    let all = "  isolation: {group: strict, acs: required, noIommu: allow, iommu: iommufd, peerToPeer: allow}
  protection:
    exceptions:
    - {device: eth0, because: spare}
    - device: 0000:01:00.0
      because: >
        folded text
        of two lines
  release: {restore: keep}
";
    assert_eq!(rules(all), "accepted");
}

#[test]
fn exceptions_say_why_and_are_made_once() {
    assert_snapshot!(rules("  protection: {exceptions: [{device: eth0}, {because: why not}]}\n"), @r#"
    host.yaml:6:29: an exception needs `because`
    6 |   protection: {exceptions: [{device: eth0}, {because: why not}]}
      |                             ^
      = accepted: because: "a spare port, its address is left over"

    host.yaml:6:45: an exception needs `device`
    6 |   protection: {exceptions: [{device: eth0}, {because: why not}]}
      |                                             ^
      = accepted: device: eth0
    "#);
    assert_snapshot!(rules("  protection: {exceptions: [{device: eth0, because: \"  \"}, {device: a b, because: true}]}\n"), @r#"
    host.yaml:6:53: `because` cannot be `  `
    6 |   protection: {exceptions: [{device: eth0, because: "  "}, {device: a b, because: true}]}
      |                                                     ^^^^
      = accepted: one line of at most 500 bytes that says why the host can do without this device

    host.yaml:6:69: `device` cannot be `a b`
    6 |   protection: {exceptions: [{device: eth0, because: "  "}, {device: a b, because: true}]}
      |                                                                     ^^^
      = accepted: a PCI address such as 0000:01:00.0, or the name of a network interface such as eth0

    host.yaml:6:83: `because` is text, but `true` reads as a truth value: write "true"
    6 |   protection: {exceptions: [{device: eth0, because: "  "}, {device: a b, because: true}]}
      |                                                                                   ^^^^
      = accepted: one line of at most 500 bytes that says why the host can do without this device
    "#);
    assert_snapshot!(rules("  protection:\n    exceptions:\n    - {device: 01:00.0, because: spare}\n    - {device: 0000:01:00.0, because: spare}\n"), @r#"
    host.yaml:9:7: an exception for 0000:01:00.0 is made already, in line 8
    9 |     - {device: 0000:01:00.0, because: spare}
      |       ^
      = accepted: each device once
    "#);
    assert_snapshot!(rules("  protection: {exceptions: []}\n"), @r#"
    host.yaml:6:28: `exceptions` is an empty list
    6 |   protection: {exceptions: []}
      |                            ^
      = accepted: [{device: eth0, because: "a spare port, its address is left over"}]
    "#);
    assert_snapshot!(rules("  protection: {}\n"), @r#"
    host.yaml:6:15: `protection` needs `exceptions`
    6 |   protection: {}
      |               ^
      = accepted: exceptions: [{device: eth0, because: "a spare port, its address is left over"}]
    "#);
    assert_snapshot!(rules("  protection: {exceptions: [{device: 01:20.0, because: \"two\\nlines\"}]}\n"), @r#"
    host.yaml:6:38: `device` cannot be `01:20.0`
    6 |   protection: {exceptions: [{device: 01:20.0, because: "two\nlines"}]}
      |                                      ^^^^^^^
      = accepted: a PCI address such as 0000:01:00.0, or the name of a network interface such as eth0

    host.yaml:6:56: `because` cannot be `two�lines`
    6 |   protection: {exceptions: [{device: 01:20.0, because: "two\nlines"}]}
      |                                                        ^^^^^^^^^^^^
      = accepted: one line of at most 500 bytes that says why the host can do without this device
    "#);
}

#[test]
fn words() {
    assert_snapshot!(rules("  isolation: {iommu: vfio, peerToPeer: true}\n"), @r#"
    host.yaml:6:22: `iommu` cannot be `vfio`
    6 |   isolation: {iommu: vfio, peerToPeer: true}
      |                      ^^^^
      = accepted: auto, type1, iommufd

    host.yaml:6:40: `peerToPeer` cannot be `true`
    6 |   isolation: {iommu: vfio, peerToPeer: true}
      |                                        ^^^^
      = accepted: deny, allow
    "#);
    assert_snapshot!(rules("  isolation: {acs: off, noIommu: yes}\n  release: {restore: [keep]}\n"), @r#"
    host.yaml:6:20: `acs` cannot be `off`
    6 |   isolation: {acs: off, noIommu: yes}
      |                    ^^^
      = accepted: kernel, required

    host.yaml:6:34: `noIommu` cannot be `yes`
    6 |   isolation: {acs: off, noIommu: yes}
      |                                  ^^^
      = accepted: deny, allow

    host.yaml:7:22: `restore` cannot be a list
    7 |   release: {restore: [keep]}
      |                      ^
      = accepted: original, keep
    "#);
}
