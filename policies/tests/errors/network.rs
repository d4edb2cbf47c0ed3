//! Mistakes in how virtual functions are set up as network cards.

use insta::assert_snapshot;

use crate::errors;

/// The errors of a pool's `network`.
fn network(network: &str) -> String {
    errors(&format!(
        "apiVersion: assign/v1\nkind: Policy\nmetadata: {{name: p}}\nspec:\n  pools:\n  - name: lan\n    \
         from: {{interface: eth0}}\n    vfs: {{count: 4}}\n    network: {network}\n"
    ))
}

#[test]
fn what_is_right() {
    for right in [
        "{vlan: none}",
        "{vlan: {id: 1}}",
        "{vlan: {id: 4094, qos: 7, protocol: 802.1ad}}",
        "{trust: true, spoofCheck: FALSE, linkState: disable}",
        "{rate: {min: 100, max: 1Gbit}}",
        "{rate: {min: 500Mbit/s, max: 0}}",
        "{rate: {max: \"2 Gbit/s\"}}",
    ] {
        assert_eq!(network(right), "accepted", "{right}");
    }
}

#[test]
fn impossible_vlans() {
    assert_snapshot!(network("{vlan: {id: 0, qos: 8, protocol: 802.1x}}"), @r#"
    host.yaml:9:26: `id` is 0, which is out of range
    9 |     network: {vlan: {id: 0, qos: 8, protocol: 802.1x}}
      |                          ^
      = accepted: a whole number from 1 to 4094

    host.yaml:9:34: `qos` is 8, which is out of range
    9 |     network: {vlan: {id: 0, qos: 8, protocol: 802.1x}}
      |                                  ^
      = accepted: a whole number from 0 to 7

    host.yaml:9:47: `protocol` cannot be `802.1x`
    9 |     network: {vlan: {id: 0, qos: 8, protocol: 802.1x}}
      |                                               ^^^^^^
      = accepted: 802.1Q, 802.1ad
    "#);
    assert_snapshot!(network("{vlan: {id: 4095}}"), @r#"
    host.yaml:9:26: `id` is 4095, which is out of range
    9 |     network: {vlan: {id: 4095}}
      |                          ^^^^
      = accepted: a whole number from 1 to 4094
    "#);
    assert_snapshot!(network("{vlan: {id: 4096, qos: 010}}"), @r#"
    host.yaml:9:26: `id` is 4096, which is out of range
    9 |     network: {vlan: {id: 4096, qos: 010}}
      |                          ^^^^
      = accepted: a whole number from 1 to 4094

    host.yaml:9:37: `qos`: `010` has a leading zero, which some read as octal
    9 |     network: {vlan: {id: 4096, qos: 010}}
      |                                     ^^^
      = accepted: a whole number from 0 to 7
    "#);
    assert_snapshot!(network("{vlan: 100}"), @r#"
    host.yaml:9:21: `vlan` is a mapping, or the word none, not `100`
    9 |     network: {vlan: 100}
      |                     ^^^
      = accepted: {id: …, qos: …, protocol: …}, or none
    "#);
    assert_snapshot!(network("{vlan: {qos: 3}}"), @r#"
    host.yaml:9:21: `vlan` needs `id`
    9 |     network: {vlan: {qos: 3}}
      |                     ^
      = accepted: id: 100
    "#);
    assert_snapshot!(network("{vlan: None}"), @r#"
    host.yaml:9:21: `vlan` is a mapping, or the word none, not `None`
    9 |     network: {vlan: None}
      |                     ^^^^
      = accepted: {id: …, qos: …, protocol: …}, or none
    "#);
}

#[test]
fn words_that_are_no_truth() {
    assert_snapshot!(network("{trust: yes, spoofCheck: \"true\"}"), @r#"
    host.yaml:9:22: `trust` is true or false, not `yes`
    9 |     network: {trust: yes, spoofCheck: "true"}
      |                      ^^^
      = accepted: true, false

    host.yaml:9:39: `spoofCheck` is true or false: write true without quotes
    9 |     network: {trust: yes, spoofCheck: "true"}
      |                                       ^^^^^^
      = accepted: true, false
    "#);
    assert_snapshot!(network("{trust: 1, spoofCheck: [true], linkState: no}"), @r#"
    host.yaml:9:22: `trust` is true or false, not `1`
    9 |     network: {trust: 1, spoofCheck: [true], linkState: no}
      |                      ^
      = accepted: true, false

    host.yaml:9:37: `spoofCheck` is true or false, not a list
    9 |     network: {trust: 1, spoofCheck: [true], linkState: no}
      |                                     ^
      = accepted: true, false

    host.yaml:9:56: `linkState` cannot be `no`
    9 |     network: {trust: 1, spoofCheck: [true], linkState: no}
      |                                                        ^^
      = accepted: auto, enable, disable
    "#);
}

#[test]
fn rates() {
    assert_snapshot!(network("{rate: {min: 2Gbit, max: 500}}"), @r#"
    host.yaml:9:21: `rate` can never be met: `min` is 2000 and `max` is 500 Mbit/s
    9 |     network: {rate: {min: 2Gbit, max: 500}}
      |                     ^
      = accepted: `min` not above `max`
    "#);
    assert_snapshot!(network("{rate: {}}"), @r#"
    host.yaml:9:21: `rate` limits nothing
    9 |     network: {rate: {}}
      |                     ^
      = accepted: {max: 1Gbit}
    "#);
    assert_snapshot!(network("{rate: {min: 1.5Gbit, max: 1GBit}}"), @r#"
    host.yaml:9:27: `min` cannot be `1.5Gbit`
    9 |     network: {rate: {min: 1.5Gbit, max: 1GBit}}
      |                           ^^^^^^^
      = accepted: a whole number of Mbit/s, or one with Mbit or Gbit, such as 500Mbit or 1Gbit

    host.yaml:9:41: `max` cannot be `1GBit`
    9 |     network: {rate: {min: 1.5Gbit, max: 1GBit}}
      |                                         ^^^^^
      = accepted: a whole number of Mbit/s, or one with Mbit or Gbit, such as 500Mbit or 1Gbit
    "#);
    assert_snapshot!(network("{rate: {min: -1, max: 5000000Gbit}}"), @r#"
    host.yaml:9:27: `min` cannot be `-1`
    9 |     network: {rate: {min: -1, max: 5000000Gbit}}
      |                           ^^
      = accepted: a whole number of Mbit/s, or one with Mbit or Gbit, such as 500Mbit or 1Gbit

    host.yaml:9:36: `max` cannot be `5000000Gbit`
    9 |     network: {rate: {min: -1, max: 5000000Gbit}}
      |                                    ^^^^^^^^^^^
      = accepted: a whole number of Mbit/s, or one with Mbit or Gbit, such as 500Mbit or 1Gbit
    "#);
    assert_snapshot!(network("{rate: {min: 010, max: \"100\"}}"), @r#"
    host.yaml:9:27: `min` cannot be `010`
    9 |     network: {rate: {min: 010, max: "100"}}
      |                           ^^^
      = accepted: a whole number of Mbit/s, or one with Mbit or Gbit, such as 500Mbit or 1Gbit

    host.yaml:9:37: `max` cannot be `100`
    9 |     network: {rate: {min: 010, max: "100"}}
      |                                     ^^^^^
      = accepted: a whole number of Mbit/s, or one with Mbit or Gbit, such as 500Mbit or 1Gbit
    "#);
    assert_snapshot!(network("{rate: 1Gbit}"), @r#"
    host.yaml:9:21: `rate` is a mapping, not `1Gbit`
    9 |     network: {rate: 1Gbit}
      |                     ^^^^^
      = accepted: {min: …, max: …}
    "#);
}
