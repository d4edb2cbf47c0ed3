//! Mistakes in guests.

mod boot;
mod channels;
mod devices;
mod machine;

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
fn relative_paths_start_from_the_folder_of_the_file() {
    let text = "apiVersion: assign/v1\nkind: Guest\nmetadata: {name: w}\nspec: {memory: {size: 64MiB}, boot: {kernel: k, initrd: /i}}\n";
    let source = Source { name: "some/where/guest.yaml".into(), text: text.into() };
    let guest = parse(&[source]).expect("a valid guest").guests.remove(0);
    let (kernel, initrd) = ("some/where/k".into(), Some("/i".into()));
    assert_eq!(guest.boot, Boot::Files { kernel, initrd, cmdline: String::new() });
    assert_eq!((guest.cpus.count, guest.memory.size), (1, 64 << 20));
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
