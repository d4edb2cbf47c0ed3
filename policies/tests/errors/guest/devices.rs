//! Mistakes in networks and devices.

use insta::assert_snapshot;

use super::guest;
use crate::errors;

#[test]
fn networks() {
    assert_snapshot!(guest("networks: [{name: net0}, {name: net0, claim: {}}]"), @r#"
    host.yaml:8:14: a network needs `claim` or `virtio`
    8 |   networks: [{name: net0}, {name: net0, claim: {}}]
      |              ^
      = accepted: claim: {pool: lan}, or virtio: {bridge: br0}

    host.yaml:8:35: another network or device of this guest is already named `net0`
    8 |   networks: [{name: net0}, {name: net0, claim: {}}]
      |                                   ^^^^
      = accepted: each name once, in all files given together

    host.yaml:8:48: `claim` needs `pool`
    8 |   networks: [{name: net0}, {name: net0, claim: {}}]
      |                                                ^
      = accepted: pool: lan
    "#);
    assert_snapshot!(guest("networks: [{name: net0, fallback: {virtio: {bridge: br0}}}]"), @r#"
    host.yaml:8:27: `fallback` without a `claim` has nothing to stand in for: write `virtio: {bridge: …}`
    8 |   networks: [{name: net0, fallback: {virtio: {bridge: br0}}}]
      |                           ^^^^^^^^
      = accepted: claim: {pool: lan}, or virtio: {bridge: br0}
    "#);
    assert_snapshot!(guest("networks: [{name: net0, claim: {pool: lan}, virtio: {bridge: br0}}]"), @r#"
    host.yaml:8:47: virtio beside a claim is its fallback: write `fallback: {virtio: {bridge: …}}`
    8 |   networks: [{name: net0, claim: {pool: lan}, virtio: {bridge: br0}}]
      |                                               ^^^^^^
      = accepted: claim: {pool: lan}, or virtio: {bridge: br0}
    "#);
    assert_snapshot!(guest("networks: [{name: net0, virtio: {bridge: a-bridge-with-a-long-name}}]"), @r#"
    host.yaml:8:44: `bridge` cannot be `a-bridge-with-a-long-name`
    8 |   networks: [{name: net0, virtio: {bridge: a-bridge-with-a-long-name}}]
      |                                            ^^^^^^^^^^^^^^^^^^^^^^^^^
      = accepted: the name of a network interface, such as eth0: at most 15 characters, no / : or space
    "#);
    assert_eq!(guest("networks: [{name: net0, virtio: {bridge: br0}}]"), "accepted");
    assert_eq!(guest("networks: [{name: net0, virtio: {macvtap: eth0, mode: vepa}}]"), "accepted");
    assert_eq!(guest("networks: [{name: net0, virtio: {tap: tap0}}]"), "accepted");
    assert_snapshot!(guest("networks: [{name: net0, virtio: {}}]"), @r#"
    host.yaml:8:35: `virtio` does not say what of the host it is connected to
    8 |   networks: [{name: net0, virtio: {}}]
      |                                   ^
      = accepted: {bridge: br0}, {macvtap: eth0} or {tap: tap0}
    "#);
    assert_snapshot!(guest("networks: [{name: net0, virtio: {tap: tap0, macvtap: eth0, bridge: br0}}]"), @r#"
    host.yaml:8:36: `tap` is in place of a TAP interface of the guest's own on a bridge: the host's bridge has it already, or it has none
    8 |   networks: [{name: net0, virtio: {tap: tap0, macvtap: eth0, bridge: br0}}]
      |                                    ^^^
      = accepted: {bridge: br0}, {macvtap: eth0} or {tap: tap0}

    host.yaml:8:47: `macvtap` is in place of a bridge
    8 |   networks: [{name: net0, virtio: {tap: tap0, macvtap: eth0, bridge: br0}}]
      |                                               ^^^^^^^
      = accepted: {bridge: br0}, {macvtap: eth0} or {tap: tap0}
    "#);
    assert_snapshot!(guest("networks: [{name: net0, virtio: {bridge: br0, mode: private}}]"), @r#"
    host.yaml:8:49: `mode` is that of a macvtap interface, and this network has none
    8 |   networks: [{name: net0, virtio: {bridge: br0, mode: private}}]
      |                                                 ^^^^
      = accepted: macvtap beside it, {macvtap: eth0, mode: private}; or no `mode`
    "#);
    assert_snapshot!(guest("networks: [{name: a, virtio: {tap: tap0}}, {name: b, claim: {pool: lan}, fallback: {virtio: {tap: tap0}}}]"), @r#"
    host.yaml:8:101: another network of this guest has tap0, and one alone can have it
    8 | …b, claim: {pool: lan}, fallback: {virtio: {tap: tap0}}}]
      |                                                  ^^^^
      = accepted: a TAP interface for each; or a bridge that all of them are on, {bridge: br0}
    "#);
    assert_snapshot!(guest("networks: [{name: net0, virtio: {macvtap: eth0, mode: passthru}}]"), @r#"
    host.yaml:8:57: `mode` cannot be `passthru`
    8 |   networks: [{name: net0, virtio: {macvtap: eth0, mode: passthru}}]
      |                                                         ^^^^^^^^
      = accepted: bridge, vepa, private
    "#);
}

#[test]
fn queues_of_a_network() {
    assert_snapshot!(guest("networks: [{name: net0, virtio: {bridge: br0}, queues: 2}]"), @r#"
    host.yaml:8:58: a guest with 1 vCPU does not make use of 2 queues
    8 |   networks: [{name: net0, virtio: {bridge: br0}, queues: 2}]
      |                                                          ^
      = accepted: a whole number up to 1; or more vCPUs, cpus: {count: 2}
    "#);
    assert_snapshot!(guest("networks: [{name: net0, claim: {pool: lan}, queues: 1}]"), @r#"
    host.yaml:8:55: `queues` are a virtio device's, and this network has none: a VF has as many as its card gives it
    8 |   networks: [{name: net0, claim: {pool: lan}, queues: 1}]
      |                                                       ^
      = accepted: no `queues`; or a virtio device to fall back on, fallback: {virtio: {bridge: br0}}
    "#);
    assert_snapshot!(guest("networks: [{name: net0, virtio: {bridge: br0}, queues: 9}]"), @r#"
    host.yaml:8:58: `queues` is 9, which is out of range
    8 |   networks: [{name: net0, virtio: {bridge: br0}, queues: 9}]
      |                                                          ^
      = accepted: a whole number from 1 to 8
    "#);
}

#[test]
fn devices() {
    let right = "devices: [{name: gpu0, claim: {pool: gpu}}, {name: d1, claim: {pool: gpu}, optional: true}]";
    assert_eq!(guest(right), "accepted");
    assert_snapshot!(guest("devices: [{name: net0, claim: {pool: gpu}}, {claim: {pool: gpu}, optional: yes}]"), @r#"
    host.yaml:9:20: another network or device of this guest is already named `net0`
    9 |   devices: [{name: net0, claim: {pool: gpu}}, {claim: {pool: gpu}, optional: yes}]
      |                    ^^^^
      = accepted: each name once, in all files given together

    host.yaml:9:47: a device needs `name`
    9 |   devices: [{name: net0, claim: {pool: gpu}}, {claim: {pool: gpu}, optional: yes}]
      |                                               ^
      = accepted: name: gpu0

    host.yaml:9:78: `optional` is true or false, not `yes`
    9 |   devices: [{name: net0, claim: {pool: gpu}}, {claim: {pool: gpu}, optional: yes}]
      |                                                                              ^^^
      = accepted: true, false
    "#);
    assert_snapshot!(guest("devices: [{name: a}, {name: a, claim: gpu}]"), @r#"
    host.yaml:9:13: a device needs `claim`
    9 |   devices: [{name: a}, {name: a, claim: gpu}]
      |             ^
      = accepted: claim: {pool: gpu}

    host.yaml:9:31: another network or device of this guest is already named `a`
    9 |   devices: [{name: a}, {name: a, claim: gpu}]
      |                               ^
      = accepted: each name once, in all files given together

    host.yaml:9:41: `claim` is a mapping, not `gpu`
    9 |   devices: [{name: a}, {name: a, claim: gpu}]
      |                                         ^^^
      = accepted: {pool: …, numa: …}
    "#);
    assert_snapshot!(guest("devices: []"), @r#"
    host.yaml:9:12: `devices` is an empty list
    9 |   devices: []
      |            ^
      = accepted: [{name: gpu0, claim: {pool: gpu}}]
    "#);
}

#[test]
fn a_claim_for_a_near_device_needs_memory_to_be_near_to() {
    let networks =
        |numa: &str| format!("networks: [{{name: a, claim: {{pool: lan, numa: {numa}}}}}]");
    assert_snapshot!(guest(&networks("required")), @r#"
    host.yaml:8:49: the claim demands a device near the guest's memory, which has no NUMA node
    8 |   networks: [{name: a, claim: {pool: lan, numa: required}}]
      |                                                 ^^^^^^^^
      = accepted: `numa` in the guest's memory as well, memory: {size: 512MiB, numa: 0}; or numa: preferred here, and the memory goes where the device is
    "#);
    // The memory goes where the device is.
    assert_eq!(guest(&networks("preferred")), "accepted");
    assert_snapshot!(guest(&networks("near")), @r#"
    host.yaml:8:49: `numa` cannot be `near`
    8 |   networks: [{name: a, claim: {pool: lan, numa: near}}]
      |                                                 ^^^^
      = accepted: ignore, preferred, required
    "#);
    assert_eq!(guest(&networks("ignore")), "accepted");
    let near = "apiVersion: assign/v1\nkind: Guest\nmetadata: {name: g}\nspec: {memory: {size: 1GiB, numa: 1}, \
                boot: {kernel: k}, networks: [{name: a, claim: {pool: lan, numa: required}}]}\n";
    assert_eq!(errors(near), "accepted");
    assert_snapshot!(guest("memory: {size: 1GiB, numa: 1024}"), @r#"
    host.yaml:8:30: `numa` is 1024, which is out of range
    8 |   memory: {size: 1GiB, numa: 1024}
      |                              ^^^^
      = accepted: a whole number from 0 to 1023
    "#);
    assert_snapshot!(guest("memory: {size: 0GiB}"), @r#"
    host.yaml:8:18: a guest cannot have 0 MiB of memory
    8 |   memory: {size: 0GiB}
      |                  ^^^^
      = accepted: 64MiB to 16384GiB
    "#);
    assert_snapshot!(guest("memory: {size: 1.5GiB}"), @r#"
    host.yaml:8:18: `size` cannot be `1.5GiB`
    8 |   memory: {size: 1.5GiB}
      |                  ^^^^^^
      = accepted: a whole number with MiB or GiB, such as 512MiB or 2GiB
    "#);
}

#[test]
fn a_claim_of_a_pool_that_no_file_has_is_for_the_host_to_judge() {
    assert_eq!(guest("networks: [{name: a, claim: {pool: nobody-knows}}]"), "accepted");
}

#[test]
fn rings() {
    for right in ["split", "packed"] {
        assert_eq!(guest(&format!("virtio: {{rings: {right}}}")), "accepted");
    }
    assert_snapshot!(guest("virtio: {rings: on}"), @r#"
    host.yaml:9:19: `rings` cannot be `on`
    9 |   virtio: {rings: on}
      |                   ^^
      = accepted: split, packed
    "#);
    assert_snapshot!(guest("virtio: {}"), @r#"
    host.yaml:9:11: a guest's `virtio` needs `rings`
    9 |   virtio: {}
      |           ^
      = accepted: rings: packed
    "#);
}
