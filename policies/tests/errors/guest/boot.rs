//! Mistakes in what a guest boots and in its disks.

use insta::assert_snapshot;

use super::guest;
use crate::errors;

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
