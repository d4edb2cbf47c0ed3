//! Mistakes in policies.

use insta::assert_snapshot;

use crate::{errors, errors_of};

/// A policy with these pools, each one line of a flow mapping.
fn policy(name: &str, pools: &[&str]) -> String {
    let head = format!(
        "apiVersion: assign/v1\nkind: Policy\nmetadata: {{name: {name}}}\nspec:\n  pools:\n"
    );
    pools.iter().fold(head, |text, pool| format!("{text}    - {pool}\n"))
}

/// The errors of one pool.
fn pool(pool: &str) -> String {
    errors(&policy("p", &[pool]))
}

#[test]
fn unknown_and_repeated_fields() {
    assert_snapshot!(pool("{name: lan, form: {interface: eth0}, vfs: {count: 1, cuont: 2}, name: lan}"), @r#"
    host.yaml:6:19: a pool has no field `form`: did you mean `from`?
    6 |     - {name: lan, form: {interface: eth0}, vfs: {count: 1, cuont: 2}, name: lan}
      |                   ^^^^
      = accepted: name, from, vfs, use, devices, expect, driver, order, network

    host.yaml:6:44: a pool with `vfs` needs `from`: whose VFs?
    6 |     - {name: lan, form: {interface: eth0}, vfs: {count: 1, cuont: 2}, name: lan}
      |                                            ^^^
      = accepted: from: {interface: eth0}

    host.yaml:6:60: `vfs` has no field `cuont`: did you mean `count`?
    6 |     - {name: lan, form: {interface: eth0}, vfs: {count: 1, cuont: 2}, name: lan}
      |                                                            ^^^^^
      = accepted: count

    host.yaml:6:71: `name` is given twice, first in line 6
    6 |     - {name: lan, form: {interface: eth0}, vfs: {count: 1, cuont: 2}, name: lan}
      |                                                                       ^^^^
      = accepted: each field once
    "#);
}

#[test]
fn names() {
    assert_snapshot!(pool("{name: Lan_1, from: {interface: eth0}, vfs: {count: 1}}"), @r#"
    host.yaml:6:14: `name` cannot be `Lan_1`
    6 |     - {name: Lan_1, from: {interface: eth0}, vfs: {count: 1}}
      |              ^^^^^
      = accepted: 1 to 63 of a-z, 0-9 and -, beginning and ending with a letter or digit
    "#);
    assert_snapshot!(pool("{name: 123, from: {interface: eth0}, vfs: {count: 1}}"), @r#"
    host.yaml:6:14: `name` is text, but `123` reads as a number: write "123"
    6 |     - {name: 123, from: {interface: eth0}, vfs: {count: 1}}
      |              ^^^
      = accepted: 1 to 63 of a-z, 0-9 and -, beginning and ending with a letter or digit
    "#);
    assert_eq!(pool("{name: no, from: {interface: eth0}, vfs: {count: 1}}"), "accepted");
}

#[test]
fn selectors() {
    assert_snapshot!(pool("{name: lan, from: {}, vfs: {count: 1}}"), @r#"
    host.yaml:6:25: `from` selects nothing: give at least one condition
    6 |     - {name: lan, from: {}, vfs: {count: 1}}
      |                         ^
      = accepted: vendor, device, class, driver, address, interface and more
    "#);
    assert_snapshot!(pool("{name: lan, from: {vendor: 8086, device: 10c9}, vfs: {count: 1}}"), @r#"
    host.yaml:6:34: `vendor` is hexadecimal, but `8086` reads as a decimal number: write "8086"
    6 |     - {name: lan, from: {vendor: 8086, device: 10c9}, vfs: {count: 1}}
      |                                  ^^^^
      = accepted: four hexadecimal digits in quotes, such as "8086"
    "#);
    assert_snapshot!(
        pool(r#"{name: lan, from: {vendor: "80 86", class: "020", address: "1:0.0", interface: a/b, driver: ../x}, vfs: {count: 1}}"#),
        @r#"
    host.yaml:6:34: `vendor` cannot be `80 86`
    6 |     - {name: lan, from: {vendor: "80 86", class: "020", address: "1:0.0", interface: a/b, driver…
      |                                  ^^^^^^^
      = accepted: four hexadecimal digits in quotes, such as "8086"

    host.yaml:6:50: `class` cannot be `020`
    6 | …   - {name: lan, from: {vendor: "80 86", class: "020", address: "1:0.0", interface: a/b, driver…
      |                                                  ^^^^^
      = accepted: 2, 4 or 6 hexadecimal digits in quotes, such as "0200" for Ethernet

    host.yaml:6:66: `address` cannot be `1:0.0`
    6 | … from: {vendor: "80 86", class: "020", address: "1:0.0", interface: a/b, driver: ../x}, vfs: {c…
      |                                                  ^^^^^^^
      = accepted: domain:bus:device.function in hexadecimal, such as 0000:01:00.0, or 01:00.0

    host.yaml:6:86: `interface` cannot be `a/b`
    6 | …86", class: "020", address: "1:0.0", interface: a/b, driver: ../x}, vfs: {count: 1}}
      |                                                  ^^^
      = accepted: the name of a network interface, such as eth0: at most 15 characters, no / : or space

    host.yaml:6:99: `driver` cannot be `../x`
    6 | …020", address: "1:0.0", interface: a/b, driver: ../x}, vfs: {count: 1}}
      |                                                  ^^^^
      = accepted: the name of a kernel driver, such as igb
    "#
    );
    let unambiguous = r#"{name: lan, from: {vendor: 0x8086, device: 10c9, class: "0200", address: 01:00.0}, vfs: {count: 1}}"#;
    assert_eq!(pool(unambiguous), "accepted");
}

#[test]
fn numbers() {
    for (count, expect) in [
        ("010", "leading zero"),
        ("\"4\"", "without quotes"),
        ("0x4", "is a number, not"),
        ("4.0", "is a number, not"),
        ("0", "out of range"),
        ("65536", "out of range"),
        ("-1", "is a number, not"),
        ("[4]", "not a list"),
        ("99999999999999999999999999", "out of range"),
    ] {
        let said =
            pool(&format!("{{name: lan, from: {{interface: eth0}}, vfs: {{count: {count}}}}}"));
        assert!(said.contains(expect), "{count}: {said}");
    }
    assert_snapshot!(pool("{name: lan, from: {interface: eth0}, vfs: {count: 010}}"), @r#"
    host.yaml:6:57: `count`: `010` has a leading zero, which some read as octal
    6 |     - {name: lan, from: {interface: eth0}, vfs: {count: 010}}
      |                                                         ^^^
      = accepted: a whole number from 1 to 65535
    "#);
    assert_snapshot!(pool("{name: lan, from: {interface: eth0}, vfs: {count: }}"), @r#"
    host.yaml:6:55: `count` is given without a value
    6 |     - {name: lan, from: {interface: eth0}, vfs: {count: }}
      |                                                       ^
      = accepted: give a value, or leave the field out
    "#);
}

#[test]
fn expectations() {
    assert_snapshot!(pool("{name: lan, from: {interface: eth0}, vfs: {count: 1}, expect: {min: 2, max: 1}}"), @r#"
    host.yaml:6:69: `expect` can never be met: `min` is 2 and `max` is 1
    6 |     - {name: lan, from: {interface: eth0}, vfs: {count: 1}, expect: {min: 2, max: 1}}
      |                                                                     ^
      = accepted: `min` not above `max`
    "#);
    assert_snapshot!(pool("{name: lan, from: {interface: eth0}, vfs: {count: 1}, expect: {}}"), @r#"
    host.yaml:6:69: `expect` expects nothing
    6 |     - {name: lan, from: {interface: eth0}, vfs: {count: 1}, expect: {}}
      |                                                                     ^
      = accepted: {min: 1, max: 1}
    "#);
}

#[test]
fn indexes() {
    assert_snapshot!(pool("{name: lan, from: {interface: eth0}, vfs: {count: 2}, use: 0-2}"), @r#"
    host.yaml:6:66: `use` names VF 2, but there are only 2
    6 |     - {name: lan, from: {interface: eth0}, vfs: {count: 2}, use: 0-2}
      |                                                                  ^^^
      = accepted: indexes from 0 to 1
    "#);
    assert_snapshot!(pool("{name: lan, from: {interface: eth0}, vfs: {count: 2}, use: 1-0}"), @r#"
    host.yaml:6:66: `use` cannot be that: the range `1-0` runs backwards
    6 |     - {name: lan, from: {interface: eth0}, vfs: {count: 2}, use: 1-0}
      |                                                                  ^^^
      = accepted: indexes and ranges such as "0", "0-3" or "0,2-3"
    "#);
    assert_snapshot!(pool("{name: lan, from: {interface: eth0}, vfs: {count: 2}, use: [0]}"), @r#"
    host.yaml:6:66: `use` is text, not a list
    6 |     - {name: lan, from: {interface: eth0}, vfs: {count: 2}, use: [0]}
      |                                                                  ^
      = accepted: indexes and ranges such as "0", "0-3" or "0,2-3"
    "#);
    assert_eq!(pool("{name: lan, from: {interface: eth0}, vfs: {count: 2}, use: 0}"), "accepted");
}

#[test]
fn choices() {
    assert_snapshot!(pool("{name: lan, from: {interface: eth0}, vfs: {count: 1}, driver: igb, network: {mac: random}}"), @r#"
    host.yaml:6:69: `driver` cannot be `igb`
    6 |     - {name: lan, from: {interface: eth0}, vfs: {count: 1}, driver: igb, network: {mac: random}}
      |                                                                     ^^^
      = accepted: vfio-pci, auto, host

    host.yaml:6:89: `mac` cannot be `random`
    6 |     - {name: lan, from: {interface: eth0}, vfs: {count: 1}, driver: igb, network: {mac: random}}
      |                                                                                         ^^^^^^
      = accepted: derive, keep
    "#);
    let text = policy("p", &["{name: lan, from: {interface: eth0}, vfs: {count: 1}}"]);
    assert_snapshot!(errors(&format!("{text}  isolation: {{group: loose, noIommu: allow}}\n  release: {{restore: none}}\n")), @r#"
    host.yaml:7:22: `group` cannot be `loose`
    7 |   isolation: {group: loose, noIommu: allow}
      |                      ^^^^^
      = accepted: strict

    host.yaml:8:22: `restore` cannot be `none`
    8 |   release: {restore: none}
      |                      ^^^^
      = accepted: original, keep
    "#);
}

#[test]
fn pools_of_the_same_devices() {
    let (a, b) = (
        "{name: a, from: {interface: eth0}, vfs: {count: 4}, use: 0-2}",
        "{name: b, from: {interface: eth0}, vfs: {count: 4}, use: 2-3}",
    );
    assert_snapshot!(errors(&policy("p", &[a, b])), @r#"
    host.yaml:7:64: pools `a` and `b` select the same devices, and VF 2 is in both
    7 |     - {name: b, from: {interface: eth0}, vfs: {count: 4}, use: 2-3}
      |                                                                ^^^
      = accepted: `use` with other VF indexes in each pool
    "#);
    assert_snapshot!(errors(&policy("p", &[a, "{name: b, from: {interface: eth0}, vfs: {count: 2}, use: 0}"])), @r#"
    host.yaml:7:64: pools `a` and `b` select the same devices, but they want 4 and 2 VFs
    7 |     - {name: b, from: {interface: eth0}, vfs: {count: 2}, use: 0}
      |                                                                ^
      = accepted: the same `vfs: {count: …}` in both
    "#);
    assert_eq!(
        errors(&policy("p", &[a, "{name: b, from: {interface: eth0}, vfs: {count: 4}, use: 3}"])),
        "accepted"
    );
}

#[test]
fn names_are_unique_among_files() {
    let pool = "{name: lan, from: {interface: eth0}, vfs: {count: 1}}";
    let text = policy("p", &[pool]);
    assert_snapshot!(errors_of(&[("a.yaml", &text), ("b.yaml", &text)]), @r#"
    b.yaml:3:18: another policy is already named `p`
    3 | metadata: {name: p}
      |                  ^
      = accepted: each name once, in all files given together

    b.yaml:6:14: another pool is already named `lan`
    6 |     - {name: lan, from: {interface: eth0}, vfs: {count: 1}}
      |              ^^^
      = accepted: each name once, in all files given together
    "#);
}
