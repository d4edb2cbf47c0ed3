//! Mistakes in sockets and ports, by which a guest and its host speak without a network.

use insta::assert_snapshot;

use super::guest;

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
