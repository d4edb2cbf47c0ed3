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

#[test]
fn whole_functions_have_no_virtual_ones() {
    assert_eq!(
        pool("{name: gpu, devices: {class: \"03\"}, driver: auto, order: spread}"),
        "accepted"
    );
    assert_snapshot!(pool("{name: gpu, devices: {class: \"03\"}, vfs: {count: 1}, use: 0, network: {mac: derive}}"), @r#"
    host.yaml:6:43: `vfs` beside `devices`: whole functions are given away as they are
    6 |     - {name: gpu, devices: {class: "03"}, vfs: {count: 1}, use: 0, network: {mac: derive}}
      |                                           ^^^
      = accepted: from: {…} and vfs: {count: 4}, or devices: {…} for whole functions

    host.yaml:6:60: `use` beside `devices`: whole functions have no VF indexes
    6 |     - {name: gpu, devices: {class: "03"}, vfs: {count: 1}, use: 0, network: {mac: derive}}
      |                                                            ^^^
      = accepted: from: {…} and vfs: {count: 4}, or devices: {…} for whole functions

    host.yaml:6:68: `network` is set through a VF's physical function, and whole functions have none
    6 |     - {name: gpu, devices: {class: "03"}, vfs: {count: 1}, use: 0, network: {mac: derive}}
      |                                                                    ^^^^^^^
      = accepted: from: {…} and vfs: {count: 4}, or devices: {…} for whole functions
    "#);
    assert_snapshot!(pool("{name: gpu, devices: {class: \"03\"}, from: {class: \"03\"}}"), @r#"
    host.yaml:6:43: `from` selects functions for their VFs, `devices` whole functions
    6 |     - {name: gpu, devices: {class: "03"}, from: {class: "03"}}
      |                                           ^^^^
      = accepted: from: {…} and vfs: {count: 4}, or devices: {…} for whole functions
    "#);
    assert_snapshot!(pool("{name: gpu, devices: {}}"), @r#"
    host.yaml:6:28: `devices` selects nothing: give at least one condition
    6 |     - {name: gpu, devices: {}}
      |                            ^
      = accepted: vendor, device, class, driver, address, interface and more
    "#);
    assert_snapshot!(pool("{name: gpu}"), @r#"
    host.yaml:6:7: a pool needs `from` and `vfs`, or `devices`
    6 |     - {name: gpu}
      |       ^
      = accepted: from: {…} and vfs: {count: 4}, or devices: {…} for whole functions
    "#);
    assert_snapshot!(pool("{name: lan, from: {interface: eth0}}"), @r#"
    host.yaml:6:19: a pool with `from` needs `vfs`
    6 |     - {name: lan, from: {interface: eth0}}
      |                   ^^^^
      = accepted: vfs: {count: 4}, or devices: {…} instead of `from` for whole functions
    "#);
    assert_snapshot!(pool("{name: lan, from: {interface: eth0}, use: \"0\"}"), @r#"
    host.yaml:6:19: a pool with `from` needs `vfs`
    6 |     - {name: lan, from: {interface: eth0}, use: "0"}
      |                   ^^^^
      = accepted: vfs: {count: 4}, or devices: {…} instead of `from` for whole functions

    host.yaml:6:44: `use` names VFs, and there is no `vfs`
    6 |     - {name: lan, from: {interface: eth0}, use: "0"}
      |                                            ^^^
      = accepted: vfs: {count: 4}
    "#);
}

#[test]
fn selectors_of_every_kind() {
    let all = r#"{name: lan, vfs: {count: 1}, from: {vendor: 0x8086, device: 10c9, subsystemVendor: "8086",
       subsystemDevice: a03c, class: "020000", driver: igb, address: 01:00.0, interface: eth0, altname: enp1s0f0,
       permanentMac: 52:54:00:aB:00:01, serial: 00-1b-21-ff-ff-12-34-56, pciRoot: "0000:00", numaNode: 0,
       linkSpeed: {min: 2.5GT/s}}}"#;
    assert_eq!(pool(all), "accepted");
    assert_snapshot!(pool("{name: lan, vfs: {count: 1}, from: {subsystemVendor: 8086, subsystemDevice: 1e10, class: 2}}"), @r#"
    host.yaml:6:60: `subsystemVendor` is hexadecimal, but `8086` reads as a decimal number: write "8086"
    6 | …: lan, vfs: {count: 1}, from: {subsystemVendor: 8086, subsystemDevice: 1e10, class: 2}}
      |                                                  ^^^^
      = accepted: four hexadecimal digits in quotes, such as "8086"

    host.yaml:6:83: `subsystemDevice` is hexadecimal, but `1e10` reads as a decimal number: write "1e10"
    6 | … from: {subsystemVendor: 8086, subsystemDevice: 1e10, class: 2}}
      |                                                  ^^^^
      = accepted: four hexadecimal digits in quotes, such as "8086"

    host.yaml:6:96: `class` is hexadecimal, but `2` reads as a decimal number: write "2"
    6 | …stemVendor: 8086, subsystemDevice: 1e10, class: 2}}
      |                                                  ^
      = accepted: 2, 4 or 6 hexadecimal digits in quotes, such as "0200" for Ethernet
    "#);
    assert_snapshot!(pool("{name: lan, vfs: {count: 1}, from: {altname: a/b, permanentMac: 52:54:00:00:00, serial: \" x\"}}"), @r#"
    host.yaml:6:52: `altname` cannot be `a/b`
    6 | … - {name: lan, vfs: {count: 1}, from: {altname: a/b, permanentMac: 52:54:00:00:00, serial: " x"…
      |                                                  ^^^
      = accepted: another name of a network interface (ip link: altname), at most 127 characters

    host.yaml:6:71: `permanentMac` cannot be `52:54:00:00:00`
    6 | … {count: 1}, from: {altname: a/b, permanentMac: 52:54:00:00:00, serial: " x"}}
      |                                                  ^^^^^^^^^^^^^^
      = accepted: six bytes in hexadecimal, in quotes, such as "52:54:00:12:34:56"

    host.yaml:6:95: `serial` cannot be ` x`
    6 | …ame: a/b, permanentMac: 52:54:00:00:00, serial: " x"}}
      |                                                  ^^^^
      = accepted: a serial number as `assign show` prints it, in quotes
    "#);
    assert_snapshot!(pool("{name: lan, vfs: {count: 1}, from: {pciRoot: \"00\", numaNode: 1024, linkSpeed: 8GT/s}}"), @r#"
    host.yaml:6:52: `pciRoot` cannot be `00`
    6 |     - {name: lan, vfs: {count: 1}, from: {pciRoot: "00", numaNode: 1024, linkSpeed: 8GT/s}}
      |                                                    ^^^^
      = accepted: domain:bus in hexadecimal, in quotes, such as "0000:00"

    host.yaml:6:68: `numaNode` is 1024, which is out of range
    6 |     - {name: lan, vfs: {count: 1}, from: {pciRoot: "00", numaNode: 1024, linkSpeed: 8GT/s}}
      |                                                                    ^^^^
      = accepted: a whole number from 0 to 1023

    host.yaml:6:85: `linkSpeed` is a mapping, not `8GT/s`
    6 |     - {name: lan, vfs: {count: 1}, from: {pciRoot: "00", numaNode: 1024, linkSpeed: 8GT/s}}
      |                                                                                     ^^^^^
      = accepted: {min: …}
    "#);
    assert_snapshot!(pool("{name: lan, vfs: {count: 1}, from: {numaNode: -1, linkSpeed: {min: 8}}}"), @r#"
    host.yaml:6:53: `numaNode` is a number, not `-1`
    6 |     - {name: lan, vfs: {count: 1}, from: {numaNode: -1, linkSpeed: {min: 8}}}
      |                                                     ^^
      = accepted: a whole number from 0 to 1023

    host.yaml:6:74: `min` cannot be `8`
    6 |     - {name: lan, vfs: {count: 1}, from: {numaNode: -1, linkSpeed: {min: 8}}}
      |                                                                          ^
      = accepted: a speed such as 2.5GT/s, 8GT/s or 16GT/s
    "#);
    assert_snapshot!(pool("{name: lan, vfs: {count: 1}, from: {linkSpeed: {}, serial: 12345}}"), @r#"
    host.yaml:6:54: `linkSpeed` needs `min`
    6 |     - {name: lan, vfs: {count: 1}, from: {linkSpeed: {}, serial: 12345}}
      |                                                      ^
      = accepted: min: 8GT/s

    host.yaml:6:66: `serial` is text, but `12345` reads as a number: write "12345"
    6 |     - {name: lan, vfs: {count: 1}, from: {linkSpeed: {}, serial: 12345}}
      |                                                                  ^^^^^
      = accepted: a serial number as `assign show` prints it, in quotes
    "#);
}

#[test]
fn what_yaml_1_1_took_for_something_else() {
    assert_snapshot!(pool("{name: no, from: {interface: on}, vfs: {count: 010}, use: 010}"), @r#"
    host.yaml:6:54: `count`: `010` has a leading zero, which some read as octal
    6 |     - {name: no, from: {interface: on}, vfs: {count: 010}, use: 010}
      |                                                      ^^^
      = accepted: a whole number from 1 to 65535

    host.yaml:6:65: `use` cannot be that: `010` is no VF index
    6 |     - {name: no, from: {interface: on}, vfs: {count: 010}, use: 010}
      |                                                                 ^^^
      = accepted: indexes and ranges such as "0", "0-3" or "0,2-3"
    "#);
    assert_snapshot!(pool("{name: lan, from: {interface: eth0}, vfs: {count: 1_0}, expect: {min: 0x1, max: 1e1}}"), @r#"
    host.yaml:6:57: `count` is a number, not `1_0`
    6 |     - {name: lan, from: {interface: eth0}, vfs: {count: 1_0}, expect: {min: 0x1, max: 1e1}}
      |                                                         ^^^
      = accepted: a whole number from 1 to 65535

    host.yaml:6:77: `min` is a number, not `0x1`
    6 |     - {name: lan, from: {interface: eth0}, vfs: {count: 1_0}, expect: {min: 0x1, max: 1e1}}
      |                                                                             ^^^
      = accepted: a whole number from 0 to 65536

    host.yaml:6:87: `max` is a number, not `1e1`
    6 |     - {name: lan, from: {interface: eth0}, vfs: {count: 1_0}, expect: {min: 0x1, max: 1e1}}
      |                                                                                       ^^^
      = accepted: a whole number from 0 to 65536
    "#);
    assert_snapshot!(pool("{name: lan, from: {interface: eth0}, vfs: {count: 12:30}, use: 0o7}"), @r#"
    host.yaml:6:57: `count` is a number, not `12:30`
    6 |     - {name: lan, from: {interface: eth0}, vfs: {count: 12:30}, use: 0o7}
      |                                                         ^^^^^
      = accepted: a whole number from 1 to 65535

    host.yaml:6:70: `use` cannot be that: `0o7` is no VF index
    6 |     - {name: lan, from: {interface: eth0}, vfs: {count: 12:30}, use: 0o7}
      |                                                                      ^^^
      = accepted: indexes and ranges such as "0", "0-3" or "0,2-3"
    "#);
}

#[test]
fn pools_of_which_one_selects_all_that_the_other_does() {
    let wide = r#"{name: wide, from: {vendor: "8086"}, vfs: {count: 4}}"#;
    let narrow = |rest: &str| {
        format!("{{name: narrow, from: {{vendor: \"8086\", interface: eth0}}, {rest}}}")
    };
    assert_snapshot!(errors(&policy("p", &[wide, &narrow("vfs: {count: 4}, use: \"3\"")])), @r#"
    host.yaml:7:85: all that pool `narrow` selects is pool `wide`'s as well, and VF 3 is in both
    7 |     - {name: narrow, from: {vendor: "8086", interface: eth0}, vfs: {count: 4}, use: "3"}
      |                                                                                     ^^^
      = accepted: `use` with other VF indexes in each pool
    "#);
    assert_snapshot!(errors(&policy("p", &[&narrow("vfs: {count: 2}"), wide])), @r#"
    host.yaml:7:49: pool `wide` selects all that pool `narrow` does, but they want 2 and 4 VFs
    7 |     - {name: wide, from: {vendor: "8086"}, vfs: {count: 4}}
      |                                                 ^
      = accepted: the same `vfs: {count: …}` in both
    "#);
    // On a host without eth0 they have nothing in common.
    let maybe = narrow("vfs: {count: 2}, expect: {min: 0}");
    assert_eq!(errors(&policy("p", &[wide, &maybe])), "accepted");
    let apart = r#"{name: apart, from: {interface: eth0}, vfs: {count: 4}}"#;
    assert_eq!(errors(&policy("p", &[wide, apart])), "accepted");
    let class = r#"{name: class, from: {class: "02"}, vfs: {count: 4}}"#;
    let inner = r#"{name: inner, from: {class: "0200", numaNode: 1}, vfs: {count: 4}}"#;
    assert_snapshot!(errors(&policy("p", &[class, inner])), @r#"
    host.yaml:7:62: all that pool `inner` selects is pool `class`'s as well, and VF 0 is in both
    7 |     - {name: inner, from: {class: "0200", numaNode: 1}, vfs: {count: 4}}
      |                                                              ^
      = accepted: `use` with other VF indexes in each pool
    "#);
}

#[test]
fn a_device_is_given_away_whole_or_in_parts() {
    let whole = |name: &str| format!("{{name: {name}, devices: {{vendor: \"10de\"}}}}");
    let parts = r#"{name: parts, from: {vendor: "10de"}, vfs: {count: 4}}"#;
    assert_snapshot!(errors(&policy("p", &[&whole("a"), &whole("b")])), @r#"
    host.yaml:7:26: pools `a` and `b` select the same devices, and a device is in one only
    7 |     - {name: b, devices: {vendor: "10de"}}
      |                          ^
      = accepted: conditions that keep them apart
    "#);
    assert_snapshot!(errors(&policy("p", &[&whole("a"), parts])), @r#"
    host.yaml:7:50: pools `a` and `parts` select the same devices: one wants VFs of them, the other gives them away whole
    7 |     - {name: parts, from: {vendor: "10de"}, vfs: {count: 4}}
      |                                                  ^
      = accepted: conditions that keep them apart
    "#);
}

#[test]
fn the_number_of_items_is_bounded() {
    let pools: Vec<String> = (0..257)
        .map(|i| format!("{{name: p{i}, from: {{interface: e{i}}}, vfs: {{count: 1}}}}"))
        .collect();
    let pools: Vec<&str> = pools.iter().map(String::as_str).collect();
    assert!(errors(&policy("p", &pools)).contains("`pools` has 257 items; 256 is the most"));
}
