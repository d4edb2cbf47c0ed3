//! Mistakes in guests.

use insta::assert_snapshot;
use policies::{Boot, Source, parse};

use crate::errors;

/// The errors of a guest with one line of its `spec` replaced.
fn guest(line: &str) -> String {
    let field = line.split(':').next().unwrap_or_default();
    let valid = [
        "cpus: {count: 1}",
        "memory: {size: 512MiB}",
        "boot: {kernel: vmlinuz}",
        "networks: [{name: net0, claim: {pool: lan}}]",
    ];
    let mut text =
        "apiVersion: assign/v1\nkind: Guest\nmetadata: {name: web-1}\nspec:\n".to_owned();
    for other in valid.iter().filter(|valid| !valid.starts_with(field)) {
        text.push_str(&format!("  {other}\n"));
    }
    errors(&format!("{text}  {line}\n"))
}

#[test]
fn a_guest_that_lacks_everything() {
    assert_snapshot!(errors("apiVersion: assign/v1\nkind: Guest\nmetadata: {name: web-1}\nspec: {}\n"), @r#"
    host.yaml:4:7: a guest's `spec` needs `memory`
    4 | spec: {}
      |       ^
      = accepted: memory: {size: 512MiB}

    host.yaml:4:7: a guest's `spec` needs `boot`
    4 | spec: {}
      |       ^
      = accepted: boot: {kernel: vmlinuz, initrd: initrd.img, cmdline: console=ttyS0}
    "#);
}

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

#[test]
fn boot() {
    assert_snapshot!(guest(r#"boot: {kernel: "", initrd: ~, cmdline: "a\nb"}"#), @r#"
    host.yaml:8:18: `kernel` cannot be ``
    8 |   boot: {kernel: "", initrd: ~, cmdline: "a\nb"}
      |                  ^^
      = accepted: a path; a relative one starts from the folder of this file

    host.yaml:8:30: `initrd` is given without a value
    8 |   boot: {kernel: "", initrd: ~, cmdline: "a\nb"}
      |                              ^
      = accepted: give a value, or leave the field out

    host.yaml:8:42: `cmdline` has a line break or control character
    8 |   boot: {kernel: "", initrd: ~, cmdline: "a\nb"}
      |                                          ^^^^^^
      = accepted: one line of at most 2,047 bytes, such as "console=ttyS0 quiet"
    "#);
    let long = format!("boot: {{kernel: vmlinuz, cmdline: {}}}", "x".repeat(3000));
    assert_snapshot!(guest(&long), @r#"
    host.yaml:8:36: `cmdline` is 3000 bytes long
    8 |   boot: {kernel: vmlinuz, cmdline: xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx…
      |                                    ^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^
      = accepted: one line of at most 2,047 bytes, such as "console=ttyS0 quiet"
    "#);
}

#[test]
fn a_disk_to_boot_from() {
    let told = |boot: &str, disks: &str| {
        errors(&format!(
            "apiVersion: assign/v1\nkind: Guest\nmetadata: {{name: g}}\nspec:\n  memory: {{size: 1GiB}}\n  \
             boot: {{{boot}}}\n{disks}"
        ))
    };
    let disks = "  disks: [{name: root, path: r.raw}, {name: data, path: d.raw}]\n";
    assert_eq!(told("disk: root", disks), "accepted");
    assert_eq!(told("disk: data, entry: 'a b', cmdline: quiet", disks), "accepted");
    assert_snapshot!(told("disk: rot", disks), @r#"
    host.yaml:6:16: the guest has no disk named `rot`
    6 |   boot: {disk: rot}
      |                ^^^
      = accepted: root, data
    "#);
    assert_snapshot!(told("disk: root", ""), @r#"
    host.yaml:6:16: the guest has no disk named `root`
    6 |   boot: {disk: root}
      |                ^^^^
      = accepted: `disks: [{name: root, path: root.raw}]` beside `boot`
    "#);
    assert_snapshot!(told("disk: root, kernel: k, initrd: i", disks), @r#"
    host.yaml:6:22: `kernel` beside `disk`: the kernel is either a file of the host or on the disk
    6 |   boot: {disk: root, kernel: k, initrd: i}
      |                      ^^^^^^
      = accepted: kernel: vmlinuz, or disk: root

    host.yaml:6:33: `initrd` beside `disk`: the boot loader's entry says which one it is
    6 |   boot: {disk: root, kernel: k, initrd: i}
      |                                 ^^^^^^
      = accepted: kernel: vmlinuz, or disk: root
    "#);
    assert_snapshot!(told("kernel: k, entry: e", disks), @r#"
    host.yaml:6:21: `entry` without `disk`: it chooses among the entries of a disk's boot loader
    6 |   boot: {kernel: k, entry: e}
      |                     ^^^^^
      = accepted: kernel: vmlinuz, or disk: root
    "#);
    assert_snapshot!(told("cmdline: quiet", disks), @r#"
    host.yaml:6:9: `boot` needs `kernel` or `disk`
    6 |   boot: {cmdline: quiet}
      |         ^
      = accepted: kernel: vmlinuz, or disk: root
    "#);
    // What is wrong with the disk is enough.
    assert_snapshot!(told("disk: root", "  disks: [{name: root}]\n"), @r#"
    host.yaml:7:11: a disk needs `path`
    7 |   disks: [{name: root}]
      |           ^
      = accepted: path: root.raw
    "#);
}

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
    assert_snapshot!(guest("networks: [{name: net0, virtio: {macvtap: eth0, mode: passthru}}]"), @r#"
    host.yaml:8:57: `mode` cannot be `passthru`
    8 |   networks: [{name: net0, virtio: {macvtap: eth0, mode: passthru}}]
      |                                                         ^^^^^^^^
      = accepted: bridge, vepa, private
    "#);
}

#[test]
fn relative_paths_start_from_the_folder_of_the_file() {
    let text = "apiVersion: assign/v1\nkind: Guest\nmetadata: {name: w}\nspec: {memory: {size: 64MiB}, boot: {kernel: k, initrd: /i}}\n";
    let source = Source { name: "some/where/guest.yaml".into(), text: text.into() };
    let guest = parse(&[source]).expect("a valid guest").guests.remove(0);
    let (kernel, initrd) = ("some/where/k".into(), Some("/i".into()));
    assert_eq!(guest.boot, Boot::Files { kernel, initrd, cmdline: String::new() });
    assert_eq!((guest.cpus.count, guest.memory.size), (1, 64 << 20));
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
fn fields_for_a_later_version_are_told_as_such() {
    assert_snapshot!(guest("networks: [{name: a, virtio: {bridge: b}, failover: true}]"), @r#"
    host.yaml:8:45: `failover` is part of the language (it says that a virtio device stands by while it has a VF), and this version does not carry it out yet
    8 |   networks: [{name: a, virtio: {bridge: b}, failover: true}]
      |                                             ^^^^^^^^
      = accepted: leave it out
    "#);
    let said = guest("networks: [{name: a, claim: {pool: lan}, failover: true}]");
    assert!(said.contains("`failover` is part of the language"), "{said}");
    assert_eq!(said.matches("accepted").count(), 1, "{said}");
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

#[test]
fn a_disk_is_told_what_is_wrong_with_it() {
    assert_snapshot!(guest("disks: [{name: a, path: x.raw}, {name: a, path: y.raw}]"), @r#"
    host.yaml:9:42: another disk of this guest is already named `a`
    9 |   disks: [{name: a, path: x.raw}, {name: a, path: y.raw}]
      |                                          ^
      = accepted: each name once, in all files given together
    "#);
    assert_snapshot!(guest("disks: [{name: a}]"), @r#"
    host.yaml:9:11: a disk needs `path`
    9 |   disks: [{name: a}]
      |           ^
      = accepted: path: root.raw
    "#);
    assert_snapshot!(guest("disks: [{name: a, path: x.raw, serial: a b, queues: 20}]"), @r#"
    host.yaml:9:42: `serial` cannot be `a b`
    9 |   disks: [{name: a, path: x.raw, serial: a b, queues: 20}]
      |                                          ^^^
      = accepted: 1 to 20 letters, digits and any of . _ -

    host.yaml:9:55: `queues` is 20, which is out of range
    9 |   disks: [{name: a, path: x.raw, serial: a b, queues: 20}]
      |                                                       ^^
      = accepted: a whole number from 1 to 16
    "#);
    assert_snapshot!(guest("disks: [{name: a, path: x.vmdk, format: vmdk}]"), @r#"
    host.yaml:9:43: `format` cannot be `vmdk`
    9 |   disks: [{name: a, path: x.vmdk, format: vmdk}]
      |                                           ^^^^
      = accepted: raw, qcow2
    "#);
}

#[test]
fn a_disk_is_what_its_document_says() {
    assert_eq!(guest("disks: [{name: root, path: root.raw}]"), "accepted");
    assert_eq!(guest("disks: [{name: d, path: /dev/sdb, readOnly: true, queues: 16}]"), "accepted");
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

#[test]
fn sockets() {
    for right in ["true", "false", "{cid: 3}", "{cid: 4294967294}"] {
        assert_eq!(guest(&format!("vsock: {right}")), "accepted");
    }
    assert_snapshot!(guest("vsock: {cid: 2}"), @r#"
    host.yaml:9:16: `cid` is 2, which is out of range
    9 |   vsock: {cid: 2}
      |                ^
      = accepted: a whole number from 3 to 4294967294
    "#);
    assert_snapshot!(guest("vsock: 42"), @r#"
    host.yaml:9:10: `vsock` is true or false, or a mapping, not `42`
    9 |   vsock: 42
      |          ^^
      = accepted: true, false, or {cid: …}
    "#);
    assert_snapshot!(guest("vsock: {}"), @r#"
    host.yaml:9:10: `vsock` needs `cid`
    9 |   vsock: {}
      |          ^
      = accepted: cid: 42
    "#);
}

#[test]
fn cloud_init_is_told_what_it_would_not_take() {
    assert_snapshot!(guest("cloudInit: {userData: \"packages: []\", networkConfig: \"ethernets: {}\"}"), @r#"
    host.yaml:9:25: `userData` does not say in its first line what it is
    9 |   cloudInit: {userData: "packages: []", networkConfig: "ethernets: {}"}
      |                         ^^^^^^^^^^^^^^
      = accepted: text whose first line says what it is: #cloud-config, #! and a shell, #include, #cloud-boothook, #part-handler, ## template: jinja, or a MIME header, or {file: …}

    host.yaml:9:56: `networkConfig` does not tell its version
    9 |   cloudInit: {userData: "packages: []", networkConfig: "ethernets: {}"}
      |                                                        ^^^^^^^^^^^^^^^
      = accepted: cloud-init's network configuration, with its `version: 1` or `version: 2`, or {file: …}
    "#);
    assert_snapshot!(guest("cloudInit: {userData: {}, metaData: {instanceId: .., hostname: a_b}}"), @r#"
    host.yaml:9:25: a file needs `file`
    9 |   cloudInit: {userData: {}, metaData: {instanceId: .., hostname: a_b}}
      |                         ^
      = accepted: file: user-data.yaml

    host.yaml:9:52: `instanceId` cannot be `..`
    9 |   cloudInit: {userData: {}, metaData: {instanceId: .., hostname: a_b}}
      |                                                    ^^
      = accepted: 1 to 128 letters, digits and any of . _ -, beginning with a letter or digit

    host.yaml:9:66: `hostname` cannot be `a_b`
    9 |   cloudInit: {userData: {}, metaData: {instanceId: .., hostname: a_b}}
      |                                                                  ^^^
      = accepted: a host name (RFC 1123), such as web-1 or web-1.example.net
    "#);
    assert_snapshot!(guest("cloudInit: {}"), @r#"
    host.yaml:9:14: `cloudInit` says nothing: it needs a field, or is left out
    9 |   cloudInit: {}
      |              ^
      = accepted: {userData: {file: user-data.yaml}}
    "#);
    let disk = "disks: [{name: cidata, path: a}]\n  cloudInit: {metaData: {hostname: a}}";
    assert_snapshot!(guest(disk), @r#"
    host.yaml:10:14: a disk of the guest has the name `cidata`, which that of `cloudInit` has
    10 |   cloudInit: {metaData: {hostname: a}}
       |              ^
       = accepted: another name for that disk
    "#);
    let with =
        |count: usize| guest(&format!("cloudInit: {{userData: \"#!{}\"}}", "x".repeat(count)));
    assert_eq!(with((1 << 20) - 2), "accepted");
    let said = with((1 << 20) - 1);
    assert!(said.contains("`userData` has 1048577 bytes; 1 MiB is the most"), "{said}");
}

#[test]
fn ports() {
    let right = "ports: [{name: org.qemu.guest_agent.0}, {name: hvc, console: true}]";
    assert_eq!(guest(right), "accepted");
    assert_snapshot!(guest("ports: [{name: a}, {name: b}, {name: a}]"), @r#"
    host.yaml:9:40: another port of this guest is already named `a`
    9 |   ports: [{name: a}, {name: b}, {name: a}]
      |                                        ^
      = accepted: each name once, in all files given together
    "#);
    assert_snapshot!(guest("ports: [{name: ../control}, {name: .., console: yes}]"), @r#"
    host.yaml:9:18: `name` cannot be `../control`
    9 |   ports: [{name: ../control}, {name: .., console: yes}]
      |                  ^^^^^^^^^^
      = accepted: 1 to 63 letters, digits and any of . _ -, the first one a letter or digit

    host.yaml:9:38: `name` cannot be `..`
    9 |   ports: [{name: ../control}, {name: .., console: yes}]
      |                                      ^^
      = accepted: 1 to 63 letters, digits and any of . _ -, the first one a letter or digit

    host.yaml:9:51: `console` is true or false, not `yes`
    9 |   ports: [{name: ../control}, {name: .., console: yes}]
      |                                                   ^^^
      = accepted: true, false
    "#);
    assert_snapshot!(guest("ports: ['8080:80']"), @r#"
    host.yaml:9:11: a port is a mapping, not `8080:80`
    9 |   ports: ['8080:80']
      |           ^^^^^^^^^
      = accepted: {name: …, console: …}
    "#);
    let named = |length: usize| guest(&format!("ports: [{{name: {}}}]", "a".repeat(length)));
    assert_eq!(named(63), "accepted");
    assert!(named(64).contains("accepted: 1 to 63 letters"), "{}", named(64));
    let many: Vec<String> = (0..17).map(|number| format!("{{name: p{number}}}")).collect();
    assert_eq!(guest(&format!("ports: [{}]", many[1..].join(", "))), "accepted");
    assert_snapshot!(guest(&format!("ports: [{}]", many.join(", "))), @r#"
    host.yaml:9:10: `ports` has 17 items; 16 is the most
    9 |   ports: [{name: p0}, {name: p1}, {name: p2}, {name: p3}, {name: p4}, {name: p5}, {name: p6}, {n…
      |          ^
      = accepted: [{name: org.qemu.guest_agent.0}]
    "#);
}

#[test]
fn a_port_and_its_guest_have_room_for_a_path() {
    let text = |guest: usize, port: usize| {
        format!(
            "apiVersion: assign/v1\nkind: Guest\nmetadata: {{name: {}}}\nspec:\n  memory: {{size: 64MiB}}\n  \
             boot: {{kernel: k}}\n  ports: [{{name: {}}}]\n",
            "g".repeat(guest),
            "p".repeat(port)
        )
    };
    assert_eq!(crate::errors(&text(40, 41)), "accepted");
    assert_snapshot!(crate::errors(&text(40, 42)), @r#"
    host.yaml:7:18: the names of the port and of the guest have 82 characters together, too many for the path of its socket
    7 |   ports: [{name: pppppppppppppppppppppppppppppppppppppppppp}]
      |                  ^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^
      = accepted: at most 81
    "#);
}

#[test]
fn limits() {
    assert_snapshot!(guest("limits: {memory: 512MiB, tasks: 8, cpu: 150}"), @r#"
    host.yaml:9:20: a guest with 512 MiB of memory does not run with a limit of 512 MiB: its process and its page tables come on top
    9 |   limits: {memory: 512MiB, tasks: 8, cpu: 150}
      |                    ^^^^^^
      = accepted: 552MiB or more

    host.yaml:9:35: a guest with 1 vCPU does not start with 8 tasks: its process has 17 beside, for devices, their queues and itself
    9 |   limits: {memory: 512MiB, tasks: 8, cpu: 150}
      |                                   ^
      = accepted: 18 or more

    host.yaml:9:43: `cpu` has no unit: `150`
    9 |   limits: {memory: 512MiB, tasks: 8, cpu: 150}
      |                                           ^^^
      = accepted: a whole number of percent, such as 50% or 150%
    "#);
    assert_snapshot!(guest("limits: {cpu: 20000%, cpuWeight: 0, memory: 1}"), @r#"
    host.yaml:9:17: `cpu` is 20000%, which is out of range
    9 |   limits: {cpu: 20000%, cpuWeight: 0, memory: 1}
      |                 ^^^^^^
      = accepted: 1% to 10000%

    host.yaml:9:36: `cpuWeight` is 0, which is out of range
    9 |   limits: {cpu: 20000%, cpuWeight: 0, memory: 1}
      |                                    ^
      = accepted: a whole number from 1 to 10000

    host.yaml:9:47: `memory` has no unit: `1`
    9 |   limits: {cpu: 20000%, cpuWeight: 0, memory: 1}
      |                                               ^
      = accepted: a whole number with MiB or GiB, such as 512MiB or 2GiB
    "#);
    assert_snapshot!(guest("limits: {}"), @r#"
    host.yaml:9:11: `limits` says nothing: it needs a field, or is left out
    9 |   limits: {}
      |           ^
      = accepted: limits: {cpu: 150%, memory: 768MiB}
    "#);
    assert_eq!(guest("limits: {cpu: 50%, cpuWeight: 1, memory: 552MiB, tasks: 18}"), "accepted");
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
