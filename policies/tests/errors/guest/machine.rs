//! Mistakes in CPUs, memory and the nodes they are in.

use insta::assert_snapshot;

use super::guest;
use crate::errors;

#[test]
fn cpus_and_memory() {
    assert_snapshot!(guest("cpus: {count: 65}"), @r#"
    host.yaml:8:17: `count` is 65, which is out of range
    8 |   cpus: {count: 65}
      |                 ^^
      = accepted: a whole number from 1 to 64
    "#);
    assert_snapshot!(guest("memory: {size: 512}"), @r#"
    host.yaml:8:18: `size` has no unit: `512`
    8 |   memory: {size: 512}
      |                  ^^^
      = accepted: a whole number with MiB or GiB, such as 512MiB or 2GiB
    "#);
    assert_snapshot!(guest("memory: {size: 1.5GB}"), @r#"
    host.yaml:8:18: `size` cannot be `1.5GB`
    8 |   memory: {size: 1.5GB}
      |                  ^^^^^
      = accepted: a whole number with MiB or GiB, such as 512MiB or 2GiB
    "#);
    assert_snapshot!(guest("memory: {size: 32MiB}"), @r#"
    host.yaml:8:18: a guest cannot have 32 MiB of memory
    8 |   memory: {size: 32MiB}
      |                  ^^^^^
      = accepted: 64MiB to 16384GiB
    "#);
    assert_snapshot!(guest("memory: {size: 99999999999999GiB}"), @r#"
    host.yaml:8:18: `size` cannot be `99999999999999GiB`
    8 |   memory: {size: 99999999999999GiB}
      |                  ^^^^^^^^^^^^^^^^^
      = accepted: a whole number with MiB or GiB, such as 512MiB or 2GiB
    "#);
    assert_eq!(guest("memory: {size: 2 GiB}"), "accepted");
}

#[test]
fn nodes_of_a_guest() {
    let nodes = |nodes: &str| {
        let text = format!(
            "apiVersion: assign/v1\nkind: Guest\nmetadata: {{name: web-1}}\nspec:\n  boot: {{kernel: \
             k}}\n  cpus: {{count: 2}}\n  memory: {{{nodes}}}\n"
        );
        errors(&text)
    };
    assert_eq!(nodes("nodes: [{size: 64MiB, cpus: \"0-1\", numa: 3}, {size: 1GiB}]"), "accepted");
    assert_snapshot!(nodes("size: 1GiB, numa: 0, nodes: [{size: 1GiB, cpus: \"0-1\"}]"), @r#"
    host.yaml:7:12: `size` beside `nodes`: the nodes say how much memory there is
    7 |   memory: {size: 1GiB, numa: 0, nodes: [{size: 1GiB, cpus: "0-1"}]}
      |            ^^^^
      = accepted: {size: 2GiB, numa: 0}, or {nodes: [{size: 2GiB, cpus: 0, numa: 0}]}

    host.yaml:7:24: `numa` beside `nodes`: each node says where its memory comes from
    7 |   memory: {size: 1GiB, numa: 0, nodes: [{size: 1GiB, cpus: "0-1"}]}
      |                        ^^^^
      = accepted: {size: 2GiB, numa: 0}, or {nodes: [{size: 2GiB, cpus: 0, numa: 0}]}
    "#);
    assert_snapshot!(nodes("numa: 0"), @r#"
    host.yaml:7:11: `memory` needs `size` or `nodes`
    7 |   memory: {numa: 0}
      |           ^
      = accepted: {size: 2GiB, numa: 0}, or {nodes: [{size: 2GiB, cpus: 0, numa: 0}]}
    "#);
    assert_snapshot!(nodes("nodes: [{size: 63MiB, cpus: \"0,2\"}, {size: 65MiB, cpus: \"0-1\"}]"), @r#"
    host.yaml:7:27: a node of the guest cannot have 63 MiB of memory
    7 |   memory: {nodes: [{size: 63MiB, cpus: "0,2"}, {size: 65MiB, cpus: "0-1"}]}
      |                           ^^^^^
      = accepted: 64MiB or more, a multiple of 2MiB

    host.yaml:7:40: there is no vCPU 2: the guest has 2
    7 |   memory: {nodes: [{size: 63MiB, cpus: "0,2"}, {size: 65MiB, cpus: "0-1"}]}
      |                                        ^^^^^
      = accepted: 0 to 1

    host.yaml:7:55: a node of the guest cannot have 65 MiB of memory
    7 |   memory: {nodes: [{size: 63MiB, cpus: "0,2"}, {size: 65MiB, cpus: "0-1"}]}
      |                                                       ^^^^^
      = accepted: 64MiB or more, a multiple of 2MiB

    host.yaml:7:68: vCPU 0 is in a node before this one as well
    7 |   memory: {nodes: [{size: 63MiB, cpus: "0,2"}, {size: 65MiB, cpus: "0-1"}]}
      |                                                                    ^^^^^
      = accepted: each vCPU in one node
    "#);
    assert_snapshot!(nodes("nodes: [{size: 1GiB, cpus: 64}, {size: 1GiB, cpus: [0]}]"), @r#"
    host.yaml:7:39: `cpus` cannot be that: a guest has no vCPU 64
    7 |   memory: {nodes: [{size: 1GiB, cpus: 64}, {size: 1GiB, cpus: [0]}]}
      |                                       ^^
      = accepted: numbers of vCPUs and ranges of them, such as 0, "0-1" or "0,2-3"

    host.yaml:7:63: `cpus` is text, not a list
    7 |   memory: {nodes: [{size: 1GiB, cpus: 64}, {size: 1GiB, cpus: [0]}]}
      |                                                               ^
      = accepted: numbers of vCPUs and ranges of them, such as 0, "0-1" or "0,2-3"
    "#);
    assert_snapshot!(nodes("nodes: [{size: 64MiB, cpus: 1}, {size: 64MiB}]"), @r#"
    host.yaml:7:19: vCPU 0 is in no node
    7 |   memory: {nodes: [{size: 64MiB, cpus: 1}, {size: 64MiB}]}
      |                   ^
      = accepted: each of the guest's 2 vCPUs in one
    "#);
    assert_snapshot!(nodes("nodes: [{size: 1GiB, cpus: \"0-1\"}, {size: 512MiB}], pages: 1GiB"), @r#"
    host.yaml:7:54: a node of the guest cannot have 512 MiB of memory
    7 |   memory: {nodes: [{size: 1GiB, cpus: "0-1"}, {size: 512MiB}], pages: 1GiB}
      |                                                      ^^^^^^
      = accepted: 64MiB or more, a multiple of 1GiB
    "#);
}

#[test]
fn where_cpus_run() {
    assert_snapshot!(guest("cpus: {count: 2, pin: {0: 3-1, 1: 2000, 2: 1, x: 1}, emulator: all}"), @r#"
    host.yaml:8:29: `pin` cannot be that: the range `3-1` runs backwards
    8 |   cpus: {count: 2, pin: {0: 3-1, 1: 2000, 2: 1, x: 1}, emulator: all}
      |                             ^^^
      = accepted: {0: 2, 1: 3}; each is CPUs of the host and ranges of them, up to 1023, such as 2, "2-3" or "0,2-3"

    host.yaml:8:37: `pin` cannot be that: CPU 2000 is beyond 1023, the last one that can be named
    8 |   cpus: {count: 2, pin: {0: 3-1, 1: 2000, 2: 1, x: 1}, emulator: all}
      |                                     ^^^^
      = accepted: {0: 2, 1: 3}; each is CPUs of the host and ranges of them, up to 1023, such as 2, "2-3" or "0,2-3"

    host.yaml:8:43: there is no vCPU 2: the guest has 2
    8 |   cpus: {count: 2, pin: {0: 3-1, 1: 2000, 2: 1, x: 1}, emulator: all}
      |                                           ^
      = accepted: 0 to 1

    host.yaml:8:49: `x` is not the number of a vCPU
    8 |   cpus: {count: 2, pin: {0: 3-1, 1: 2000, 2: 1, x: 1}, emulator: all}
      |                                                 ^
      = accepted: 0 to 63

    host.yaml:8:66: `emulator` cannot be that: `all` is no CPU of a host
    8 |   cpus: {count: 2, pin: {0: 3-1, 1: 2000, 2: 1, x: 1}, emulator: all}
      |                                                                  ^^^
      = accepted: CPUs of the host and ranges of them, up to 1023, such as 2, "2-3" or "0,2-3"
    "#);
    assert_snapshot!(guest("cpus: {count: 1, pin: {1: 0, 1: 1}}"), @r#"
    host.yaml:8:26: there is no vCPU 1: the guest has 1
    8 |   cpus: {count: 1, pin: {1: 0, 1: 1}}
      |                          ^
      = accepted: 0

    host.yaml:8:32: 1 is given twice, first in line 8
    8 |   cpus: {count: 1, pin: {1: 0, 1: 1}}
      |                                ^
      = accepted: each number once
    "#);
    assert_snapshot!(guest("cpus: {count: 1, pin: 3}"), @r#"
    host.yaml:8:25: `pin` is a mapping, not `3`
    8 |   cpus: {count: 1, pin: 3}
      |                         ^
      = accepted: {0: 2, 1: 3}; each is CPUs of the host and ranges of them, up to 1023, such as 2, "2-3" or "0,2-3"
    "#);
    assert_eq!(guest("cpus: {count: 3, pin: {2: \"0, 2-3\", 0: 7}, emulator: 1}"), "accepted");
}

#[test]
fn how_cpus_lie() {
    assert_snapshot!(guest("cpus: {count: 4, topology: {sockets: 2, cores: 3}}"), @r#"
    host.yaml:8:30: `topology` has 2 × 3 × 1 = 6 vCPUs, and `count` is 4
    8 |   cpus: {count: 4, topology: {sockets: 2, cores: 3}}
      |                              ^
      = accepted: sockets × cores × threads = 4
    "#);
    assert_eq!(
        guest("cpus: {count: 12, topology: {sockets: 2, cores: 3, threads: 2}}"),
        "accepted"
    );
    assert_eq!(guest("cpus: {count: 4, topology: {cores: 4}}"), "accepted");
}

/// What is said of a guest with this memory, and more.
fn memory(memory: &str, more: &str) -> String {
    errors(&format!(
        "apiVersion: assign/v1\nkind: Guest\nmetadata: {{name: g}}\nspec:\n  memory: {memory}\n  boot: \
         {{kernel: k}}\n{more}"
    ))
}

#[test]
fn memory_is_told_what_it_cannot_be_made_of() {
    assert_snapshot!(memory("{size: 1536MiB, pages: 1GiB}", ""), @r#"
    host.yaml:5:18: 1536 MiB are not whole pages of 1GiB
    5 |   memory: {size: 1536MiB, pages: 1GiB}
      |                  ^^^^^^^
      = accepted: a multiple of 1GiB
    "#);
    assert_snapshot!(memory("{size: 1GiB, pages: 2MiB, merge: true}", ""), @r#"
    host.yaml:5:44: pages of 2MiB are not merged
    5 |   memory: {size: 1GiB, pages: 2MiB, merge: true}
      |                                            ^^^^
      = accepted: `pages: transparent` or `pages: 4KiB` beside it, or merge: false
    "#);
    assert_snapshot!(memory("{size: 1GiB, pages: 2M}", ""), @r#"
    host.yaml:5:31: `pages` cannot be `2M`
    5 |   memory: {size: 1GiB, pages: 2M}
      |                               ^^
      = accepted: transparent, 4KiB, 2MiB, 1GiB
    "#);
    let claims = "  networks: [{name: a, claim: {pool: lan}, fallback: {virtio: {bridge: b}}}]\n";
    assert_snapshot!(memory("{size: 1GiB, merge: true}", claims), @r#"
    host.yaml:5:31: the guest claims a device, which pins all of its memory, and pinned memory is not merged
    5 |   memory: {size: 1GiB, merge: true}
      |                               ^^^^
      = accepted: merge: false, or a guest without claims
    "#);
    let device = "  devices: [{name: gpu, claim: {pool: gpu}, optional: true}]\n";
    let said = memory("{size: 1GiB, pages: 4KiB, merge: true}", device);
    assert!(said.contains("the guest claims a device"), "{said}");
    assert_snapshot!(memory("{size: 1GiB, pages: 2MiB, balloon: true}", ""), @r#"
    host.yaml:5:46: pages of 2MiB are not given back: a guest gives 4 KiB at a time, which are a part of one
    5 |   memory: {size: 1GiB, pages: 2MiB, balloon: true}
      |                                              ^^^^
      = accepted: `pages: transparent` or `pages: 4KiB` beside it, or balloon: false
    "#);
    assert_snapshot!(memory("{size: 1GiB, balloon: true}", device), @r#"
    host.yaml:5:33: the guest claims a device, which pins all of its memory, and of pinned memory nothing is given back
    5 |   memory: {size: 1GiB, balloon: true}
      |                                 ^^^^
      = accepted: balloon: false, or a guest without claims
    "#);
}
