//! Documents that are right, wrong, and wrong in a way that only the reader sees.

/// Every field there is, in one document of each kind.
pub const FULL: &str = r#"
apiVersion: assign/v1
kind: Policy
metadata: {name: full}
spec:
  pools:
    - name: parts
      from:
        vendor: "8086"
        device: "10c9"
        subsystemVendor: "8086"
        subsystemDevice: a03c
        class: "0200"
        driver: igb
        address: 0000:01:00.0
        interface: eth0
        altname: enp1s0f0
        permanentMac: 52:54:00:12:34:56
        serial: 00-1b-21-ff-ff-12-34-56
        pciRoot: "0000:00"
        numaNode: 0
        linkSpeed: {min: 2.5GT/s}
      vfs: {count: 8}
      use: 0-3,7
      expect: {min: 1, max: 2}
      driver: auto
      order: spread
      network:
        mac: derive
        vlan: {id: 100, qos: 3, protocol: 802.1ad}
        trust: true
        spoofCheck: false
        linkState: enable
        rate: {min: 100, max: 1Gbit}
    - name: whole
      devices:
        vendor: "10de"
        device: "2330"
        subsystemVendor: "10de"
        subsystemDevice: "16c1"
        class: "0302"
        driver: nvidia
        address: 41:00.0
        interface: ib0
        altname: gpu
        permanentMac: "52:54:00:12:34:57"
        serial: "x 1"
        pciRoot: "0000:40"
        numaNode: 1
        linkSpeed: {min: 16 GT/s}
      driver: vfio-pci
      order: pack
  isolation: {group: strict, acs: required, noIommu: allow, iommu: type1, peerToPeer: allow}
  protection:
    exceptions:
      - {device: eth0, because: a spare port}
      - {device: 02:00.0, because: "nobody uses it"}
  release: {restore: keep}
---
apiVersion: assign/v1
kind: Guest
metadata: {name: full}
spec:
  cpus:
    count: 2
    model: x86-64-v3
    topology: {sockets: 1, cores: 2, threads: 1}
    pin: {0: 2, 1: "2-3"}
    emulator: "0-1,4"
  memory: {size: 2GiB, numa: 1, pages: 2MiB, merge: false, balloon: false}
  boot: {kernel: vmlinuz, initrd: initrd.img, cmdline: console=ttyS0 quiet}
  disks:
    - {name: root, path: root.raw, format: raw, serial: web-1.root, queues: 2}
    - {name: data, path: /dev/vg0/data, readOnly: true}
    - {name: image, path: image.qcow2, format: qcow2}
  networks:
    - name: net0
      claim: {pool: parts, numa: required}
      fallback: {virtio: {bridge: br0}}
    - name: net1
      virtio: {bridge: br1}
      queues: 2
    - name: net2
      virtio: {macvtap: eth0, mode: private}
    - name: net3
      virtio: {tap: tap0}
    - name: net4
      claim: {pool: parts}
      fallback: {virtio: {macvtap: eth0, mode: vepa}}
    - name: net5
      claim: {pool: parts}
      fallback: {virtio: {tap: tap1}}
  devices:
    - {name: gpu0, claim: {pool: whole, numa: preferred}, optional: true}
  rng: true
  virtio: {rings: packed}
  vsock: {cid: 42}
  ports:
    - {name: org.qemu.guest_agent.0}
    - {name: hvc, console: true}
  cloudInit:
    userData: {file: user-data.yaml}
    metaData: {instanceId: web-1.b, hostname: web-1.example.net}
    networkConfig: {file: /etc/assign/network-config}
  onDeviceError: stop
  limits: {cpu: 150%, cpuWeight: 50, memory: 2304MiB, tasks: 64}
---
apiVersion: assign/v1
kind: Guest
metadata: {name: cloud}
spec:
  cpus: {count: 4}
  memory:
    nodes:
      - {size: 1GiB, cpus: "0-1,3", numa: 1}
      - {size: 512MiB, cpus: 2}
      - {size: 64MiB}
  boot: {disk: root, entry: "Debian GNU/Linux, with Linux 6.1.0-18-amd64", cmdline: console=ttyS0}
  disks:
    - {name: root, path: debian.raw}
  cloudInit:
    userData: |
      #cloud-config
      packages: [nginx]
    networkConfig: "{version: 2}"
"#;

macro_rules! policy {
    ($pool:literal) => {
        concat!(
            "{apiVersion: assign/v1, kind: Policy, metadata: {name: a}, spec: {pools: [",
            $pool,
            "]}}"
        )
    };
}

macro_rules! from {
    ($from:literal) => {
        concat!(
            "{apiVersion: assign/v1, kind: Policy, metadata: {name: a}, spec: {pools: [{name: a, from: {",
            $from,
            "}, vfs: {count: 4}}]}}"
        )
    };
}

macro_rules! network {
    ($network:literal) => {
        concat!(
            "{apiVersion: assign/v1, kind: Policy, metadata: {name: a}, spec: {pools: [{name: a, from: \
             {driver: igb}, vfs: {count: 4}, network: ",
            $network,
            "}]}}"
        )
    };
}

macro_rules! guest {
    ($spec:literal) => {
        concat!(
            "{apiVersion: assign/v1, kind: Guest, metadata: {name: a}, spec: {boot: {kernel: k}, ",
            $spec,
            "}}"
        )
    };
}

macro_rules! boot {
    ($boot:literal) => {
        concat!(
            "{apiVersion: assign/v1, kind: Guest, metadata: {name: a}, spec: {memory: {size: 1GiB}, disks: \
             [{name: root, path: r}], boot: {",
            $boot,
            "}}}"
        )
    };
}

macro_rules! rules {
    ($rules:literal) => {
        concat!(
            "{apiVersion: assign/v1, kind: Policy, metadata: {name: a}, spec: {pools: [{name: a, \
             devices: {class: \"03\"}}], ",
            $rules,
            "}}"
        )
    };
}

/// Right to both.
pub const RIGHT: &[&str] = &[
    policy!("{name: a, devices: {class: \"03\"}, driver: host}"),
    policy!("{name: a, from: {driver: igb}, vfs: {count: 65535}, use: 0, expect: {max: 0}}"),
    policy!("{name: a, from: {driver: igb}, vfs: {count: 4}, use: \"0, 2-3\"}"),
    network!("{vlan: none}"),
    network!("{}"),
    network!("{rate: {max: 0}}"),
    network!("{rate: {max: 100 Mbit/s}}"),
    network!("{trust: TRUE, spoofCheck: False}"),
    rules!("protection: {exceptions: [{device: 10000:e1:1f.7, because: spare}]}"),
    guest!("memory: {size: 64 MiB}"),
    guest!("memory: {size: 64 MiB}, cpus: {count: 64, pin: {63: 1023, \"0\": \"0\"}, emulator: 0}"),
    guest!("memory: {size: 1GiB}, cpus: {count: 12, topology: {sockets: 2, cores: 3, threads: 2}}"),
    guest!("memory: {size: 1GiB}, networks: [{name: a, claim: {pool: b}}]"),
    guest!("memory: {size: 1GiB}, networks: [{name: a, virtio: {macvtap: b}}]"),
    guest!(
        "memory: {size: 1GiB}, networks: [{name: a, claim: {pool: b}, fallback: {virtio: {tap: c}}}]"
    ),
    guest!("memory: {size: 1GiB, pages: 1GiB}"),
    guest!("memory: {nodes: [{size: 64MiB, cpus: 0}]}"),
    guest!("memory: {nodes: [{size: 1GiB, numa: 0}, {size: 1GiB, cpus: \"0\"}], pages: 1GiB}"),
    guest!("memory: {size: 100MiB, pages: 4KiB, merge: true}"),
    guest!("memory: {size: 100MiB, pages: 4KiB, balloon: true, merge: true}"),
    guest!("memory: {size: 1GiB, balloon: true}, networks: [{name: a, virtio: {bridge: b}}]"),
    guest!("memory: {size: 1GiB}, cloudInit: {userData: \"#!/bin/sh\\necho\"}"),
    guest!("memory: {size: 1GiB}, cloudInit: {metaData: {hostname: A.b-1}}, limits: {tasks: 20}"),
    guest!("memory: {size: 1GiB}, limits: {memory: 1072MiB}"),
    guest!("memory: {size: 1GiB}, limits: {cpu: 10000 %, tasks: 17}"),
    guest!("memory: {size: 1GiB}, virtio: {rings: split}"),
    guest!("memory: {size: 1GiB}, vsock: TRUE"),
    guest!("memory: {size: 1GiB}, vsock: false"),
    guest!("memory: {size: 1GiB}, vsock: {cid: 4294967294}"),
    guest!(
        "memory: {size: 1GiB}, ports: [{name: a, console: false}, {name: A.b_c-1, console: true}]"
    ),
    guest!(
        "memory: {size: 1GiB}, ports: [{name: xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx}]"
    ),
    boot!("disk: root"),
    boot!("disk: root, entry: a+3 (b), cmdline: quiet"),
    boot!("kernel: k, initrd: i"),
    "kind: Guest\napiVersion: \"assign/v1\"\nmetadata:\n  name: 'a'\nspec:\n  memory: &m {size: 1GiB}\n  boot:\n    \
     kernel: k\n    cmdline: |\n      console=ttyS0 quiet\n",
];

/// Wrong to both.
pub const WRONG: &[&str] = &[
    "[]",
    "text",
    "{apiVersion: assign/v2, kind: Guest, metadata: {name: a}, spec: {}}",
    "{apiVersion: assign/v1, kind: Pod, metadata: {name: a}, spec: {}}",
    "{apiVersion: assign/v1, kind: Guest, metadata: {name: a}}",
    "{apiVersion: assign/v1, kind: Policy, metadata: {name: a}, spec: {}}",
    "{apiVersion: assign/v1, kind: Guest, metadata: {}, spec: {memory: {size: 1GiB}, boot: {kernel: k}}}",
    "{apiVersion: assign/v1, kind: Guest, metadata: {name: A}, spec: {memory: {size: 1GiB}, boot: {kernel: k}}}",
    "{apiVersion: assign/v1, kind: Policy, metadata: {name: a}, spec: {pools: []}}",
    policy!("{}"),
    policy!("{name: a}"),
    policy!("{name: a, from: {driver: igb}}"),
    policy!("{name: a, vfs: {count: 4}}"),
    policy!("{name: a, use: 0, devices: {driver: igb}}"),
    policy!("{name: a, from: {driver: igb}, vfs: {}}"),
    policy!("{name: a, from: {driver: igb}, vfs: {count: 0}}"),
    policy!("{name: a, from: {driver: igb}, vfs: {count: 65536}}"),
    policy!("{name: a, from: {driver: igb}, vfs: {count: \"4\"}}"),
    policy!("{name: a, from: {driver: igb}, vfs: {count: 1.5}}"),
    policy!("{name: a, from: {driver: igb}, vfs: {count: 4}, use: 0--1}"),
    policy!("{name: a, from: {driver: igb}, vfs: {count: 4}, use: 1.5}"),
    policy!("{name: a, from: {driver: igb}, vfs: {count: 4}, use: [0, 1]}"),
    policy!("{name: a, from: {driver: igb}, vfs: {count: 4}, driver: igb}"),
    policy!("{name: a, from: {driver: igb}, vfs: {count: 4}, order: random}"),
    policy!("{name: a, from: {driver: igb}, vfs: {count: 4}, expect: {}}"),
    policy!("{name: a, from: {driver: igb}, vfs: {count: 4}, expect: {min: -1}}"),
    policy!("{name: a, from: {driver: igb}, vfs: {count: 4}, devices: {driver: igb}}"),
    policy!("{name: a, devices: {driver: igb}, network: {mac: derive}}"),
    policy!("{name: 123, devices: {driver: igb}}"),
    policy!("{name: a, from: {}, vfs: {count: 4}}"),
    from!("vendor: 8086"),
    from!("vendor: \"808\""),
    from!("class: \"020\""),
    from!("driver: .igb"),
    from!("driver: a/b"),
    from!("address: 01:20.0"),
    from!("address: 1:00.0"),
    from!("interface: a/b"),
    from!("interface: sixteen-letters-"),
    from!("altname: \"a b\""),
    from!("permanentMac: 52:54:00"),
    from!("serial: \" x\""),
    from!("serial: 123"),
    from!("pciRoot: \"00\""),
    from!("numaNode: 1024"),
    from!("numaNode: \"0\""),
    from!("linkSpeed: {min: 8}"),
    from!("linkSpeed: {min: 0GT/s}"),
    from!("linkSpeed: {}"),
    from!("linkSpeed: 8GT/s"),
    from!("bus: 1"),
    from!("vendor: null"),
    network!("{mac: random}"),
    network!("{vlan: 100}"),
    network!("{vlan: {id: 0}}"),
    network!("{vlan: {id: 4095}}"),
    network!("{vlan: {id: 1, qos: 8}}"),
    network!("{vlan: {qos: 1}}"),
    network!("{vlan: {id: 1, protocol: qinq}}"),
    network!("{trust: yes}"),
    network!("{trust: \"true\"}"),
    network!("{spoofCheck: 1}"),
    network!("{linkState: up}"),
    network!("{rate: {}}"),
    network!("{rate: {min: -1}}"),
    network!("{rate: {max: 1.5Gbit}}"),
    network!("{rate: {max: \"100\"}}"),
    network!("{rate: 1Gbit}"),
    rules!("isolation: {acs: off}"),
    rules!("isolation: {noIommu: true}"),
    rules!("isolation: {iommu: vfio}"),
    rules!("isolation: {peerToPeer: true}"),
    rules!("isolation: strict"),
    rules!("protection: {}"),
    rules!("protection: {exceptions: []}"),
    rules!("protection: {exceptions: [{device: eth0}]}"),
    rules!("protection: {exceptions: [{device: eth0, because: \"\"}]}"),
    rules!("protection: {exceptions: [{device: eth0, because: \" \"}]}"),
    rules!("protection: {exceptions: [{device: a:b, because: spare}]}"),
    rules!("release: {restore: all}"),
    rules!("priority: 1"),
    guest!("memory: {size: 1024}"),
    guest!("memory: {size: 1GB}"),
    guest!("memory: {size: 0MiB}"),
    guest!("memory: {size: 1.5GiB}"),
    guest!("memory: {size: 1GiB, numa: -1}"),
    guest!("memory: {size: 1GiB}, cpus: {count: 65}"),
    guest!("memory: {size: 1GiB}, cpus: 2"),
    guest!("memory: {size: 1GiB}, networks: [{name: a}]"),
    guest!("memory: {size: 1GiB}, networks: [{name: a, claim: {}}]"),
    guest!("memory: {size: 1GiB}, networks: [{name: a, claim: {pool: b, numa: near}}]"),
    guest!("memory: {size: 1GiB}, networks: [{name: a, fallback: {virtio: {bridge: b}}}]"),
    guest!("memory: {size: 1GiB}, networks: [{name: a, claim: {pool: b}, virtio: {bridge: b}}]"),
    guest!("memory: {size: 1GiB}, networks: [{name: a, claim: {pool: b}, fallback: {}}]"),
    guest!("memory: {size: 1GiB}, networks: [{name: a, virtio: {}}]"),
    guest!("memory: {size: 1GiB}, networks: [{name: a, virtio: {bridge: b, mode: vepa}}]"),
    guest!("memory: {size: 1GiB}, networks: [{name: a, virtio: {bridge: b, macvtap: c}}]"),
    guest!("memory: {size: 1GiB}, networks: [{name: a, virtio: {bridge: b, tap: c}}]"),
    guest!("memory: {size: 1GiB}, networks: [{name: a, virtio: {macvtap: b, tap: c}}]"),
    guest!("memory: {size: 1GiB}, networks: [{name: a, virtio: {macvtap: b, mode: passthru}}]"),
    guest!("memory: {size: 1GiB}, networks: [{name: a, claim: {pool: b}, failover: true}]"),
    guest!("memory: {size: 1GiB, pages: 4MiB}"),
    guest!("memory: {}"),
    guest!("memory: {nodes: []}"),
    guest!("memory: {nodes: [{cpus: 0}]}"),
    guest!("memory: {nodes: [{size: 1GiB, cpus: all}]}"),
    guest!("memory: {nodes: [{size: 1GiB, cpus: 0, numa: near}]}"),
    guest!("memory: {size: 1GiB, nodes: [{size: 1GiB, cpus: 0}]}"),
    guest!("memory: {numa: 0, nodes: [{size: 1GiB, cpus: 0}]}"),
    guest!("memory: {size: 1GiB, pages: 2 MiB}"),
    guest!("memory: {size: 1GiB, merge: 1}"),
    guest!("memory: {size: 1GiB, balloon: 1}"),
    guest!("memory: {size: 1GiB, balloon: {size: 128MiB}}"),
    guest!("memory: {size: 1GiB}, rng: 1"),
    guest!("memory: {size: 1GiB}, rng: {}"),
    guest!("memory: {size: 1GiB}, virtio: {}"),
    guest!("memory: {size: 1GiB}, virtio: packed"),
    guest!("memory: {size: 1GiB}, virtio: {rings: true}"),
    guest!("memory: {size: 1GiB}, virtio: {rings: packed, queues: 2}"),
    guest!("memory: {size: 1GiB}, vsock: 42"),
    guest!("memory: {size: 1GiB}, vsock: \"true\""),
    guest!("memory: {size: 1GiB}, vsock: [42]"),
    guest!("memory: {size: 1GiB}, vsock: {}"),
    guest!("memory: {size: 1GiB}, vsock: {cid: 2}"),
    guest!("memory: {size: 1GiB}, vsock: {cid: 4294967295}"),
    guest!("memory: {size: 1GiB}, vsock: {cid: 42, port: 22}"),
    guest!("memory: {size: 1GiB}, ports: []"),
    guest!("memory: {size: 1GiB}, ports: {name: a}"),
    guest!("memory: {size: 1GiB}, ports: [a]"),
    guest!("memory: {size: 1GiB}, ports: ['8080:80']"),
    guest!("memory: {size: 1GiB}, ports: [{console: true}]"),
    guest!("memory: {size: 1GiB}, ports: [{name: .a}]"),
    guest!("memory: {size: 1GiB}, ports: [{name: a/b}]"),
    guest!("memory: {size: 1GiB}, ports: [{name: a b}]"),
    guest!("memory: {size: 1GiB}, ports: [{name: \"\"}]"),
    guest!(
        "memory: {size: 1GiB}, ports: [{name: xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx}]"
    ),
    guest!("memory: {size: 1GiB}, ports: [{name: a, console: 1}]"),
    guest!("memory: {size: 1GiB}, ports: [{name: a, path: /run/a}]"),
    guest!("memory: {size: 1GiB}, cloudInit: {}"),
    guest!("memory: {size: 1GiB}, cloudInit: true"),
    guest!("memory: {size: 1GiB}, cloudInit: {userData: \"packages: []\"}"),
    guest!("memory: {size: 1GiB}, cloudInit: {userData: \"\"}"),
    guest!("memory: {size: 1GiB}, cloudInit: {userData: [a]}"),
    guest!("memory: {size: 1GiB}, cloudInit: {userData: {}}"),
    guest!("memory: {size: 1GiB}, cloudInit: {userData: {file: \"\"}}"),
    guest!("memory: {size: 1GiB}, cloudInit: {userData: {path: a}}"),
    guest!("memory: {size: 1GiB}, cloudInit: {metaData: {}}"),
    guest!("memory: {size: 1GiB}, cloudInit: {metaData: {instanceId: ..}}"),
    guest!("memory: {size: 1GiB}, cloudInit: {metaData: {instanceId: 7}}"),
    guest!("memory: {size: 1GiB}, cloudInit: {metaData: {hostname: a_b}}"),
    guest!("memory: {size: 1GiB}, cloudInit: {networkConfig: \"ethernets: {}\"}"),
    guest!("memory: {size: 1GiB}, disks: [{name: a}]"),
    guest!("memory: {size: 1GiB}, disks: [{path: a}]"),
    guest!("memory: {size: 1GiB}, disks: [{name: a, path: \"\"}]"),
    guest!("memory: {size: 1GiB}, disks: [{name: a, path: b, format: vmdk}]"),
    guest!("memory: {size: 1GiB}, disks: [{name: a, path: b, serial: a b}]"),
    guest!("memory: {size: 1GiB}, disks: [{name: a, path: b, serial: 0123456789-0123456789}]"),
    guest!("memory: {size: 1GiB}, disks: [{name: a, path: b, queues: 0}]"),
    guest!("memory: {size: 1GiB}, networks: [{name: a, virtio: {bridge: b}, queues: 0}]"),
    guest!("memory: {size: 1GiB}, networks: [{name: a, virtio: {bridge: b}, queues: 9}]"),
    guest!("memory: {size: 1GiB}, networks: [{name: a, virtio: {bridge: b}, queues: true}]"),
    guest!("memory: {size: 1GiB}, disks: [{name: a, path: b, queues: 17}]"),
    guest!("memory: {size: 1GiB}, disks: [{name: a, path: b, readOnly: 1}]"),
    guest!("memory: {size: 1GiB}, cpus: {count: 2, model: x86-64-v1}"),
    guest!("memory: {size: 1GiB}, cpus: {count: 2, topology: {sockets: 2}}"),
    guest!("memory: {size: 1GiB}, cpus: {count: 2, topology: {cores: 2, threads: 0}}"),
    guest!("memory: {size: 1GiB}, cpus: {count: 2, topology: {cores: 2, dies: 1}}"),
    guest!("memory: {size: 1GiB}, cpus: {count: 2, topology: 2}"),
    guest!("memory: {size: 1GiB}, cpus: {count: 2, pin: {}}"),
    guest!("memory: {size: 1GiB}, cpus: {count: 2, pin: [2, 3]}"),
    guest!("memory: {size: 1GiB}, cpus: {count: 2, pin: 2}"),
    guest!("memory: {size: 1GiB}, cpus: {count: 64, pin: {64: 1}}"),
    guest!("memory: {size: 1GiB}, cpus: {count: 2, pin: {-1: 1}}"),
    guest!("memory: {size: 1GiB}, cpus: {count: 2, pin: {all: 1}}"),
    guest!("memory: {size: 1GiB}, cpus: {count: 2, pin: {0: -1}}"),
    guest!("memory: {size: 1GiB}, cpus: {count: 2, pin: {0: [1, 2]}}"),
    guest!("memory: {size: 1GiB}, cpus: {count: 2, pin: {0: any}}"),
    guest!("memory: {size: 1GiB}, cpus: {count: 2, pin: {0: ~}}"),
    guest!("memory: {size: 1GiB}, cpus: {count: 2, emulator: {0: 1}}"),
    guest!("memory: {size: 1GiB}, cpus: {count: 2, emulator: 0--1}"),
    guest!("memory: {size: 1GiB}, cpus: {pin: {0: 1}}"),
    guest!("memory: {size: 1GiB}, devices: [{name: a}]"),
    guest!("memory: {size: 1GiB}, devices: [{name: a, claim: {pool: b}, optional: maybe}]"),
    guest!("memory: {size: 1GiB}, onDeviceError: ignore"),
    guest!("memory: {size: 1GiB}, limits: {}"),
    guest!("memory: {size: 1GiB}, limits: 150%"),
    guest!("memory: {size: 1GiB}, limits: {cpu: 150}"),
    guest!("memory: {size: 1GiB}, limits: {cpu: 0%}"),
    guest!("memory: {size: 1GiB}, limits: {cpu: 1.5%}"),
    guest!("memory: {size: 1GiB}, limits: {cpuWeight: 0}"),
    guest!("memory: {size: 1GiB}, limits: {cpuWeight: 10001}"),
    guest!("memory: {size: 1GiB}, limits: {memory: 2048}"),
    guest!("memory: {size: 1GiB}, limits: {tasks: \"64\"}"),
    guest!("memory: {size: 1GiB}, limits: {io: 1}"),
    boot!(""),
    boot!("cmdline: quiet"),
    boot!("initrd: i"),
    boot!("kernel: k, disk: root"),
    boot!("initrd: i, disk: root"),
    boot!("kernel: k, entry: a"),
    boot!("disk: root, entry: \"\""),
    boot!("disk: 0"),
    boot!("disk: /dev/sda"),
    "{apiVersion: assign/v1, kind: Guest, metadata: {name: a}, spec: {memory: {size: 1GiB}}}",
    "{apiVersion: assign/v1, kind: Guest, metadata: {name: a}, spec: {memory: {size: 1GiB}, boot: {kernel: \"\"}}}",
];

/// Wrong, and right as far as a schema can tell.
pub const ONLY_THE_READER: &[&str] = &[
    // Twice the same.
    "{apiVersion: assign/v1, apiVersion: assign/v1, kind: Guest, metadata: {name: a}, spec: {memory: {size: 1GiB}, \
     boot: {kernel: k}}}",
    policy!("{name: a, devices: {driver: x}}, {name: a, devices: {driver: y}}"),
    rules!("protection: {exceptions: [{device: eth0, because: a}, {device: eth0, because: b}]}"),
    // Pools that overlap.
    policy!("{name: a, devices: {driver: x}}, {name: b, devices: {driver: x}}"),
    // Numbers that do not fit each other.
    policy!("{name: a, from: {driver: x}, vfs: {count: 4}, use: 4}"),
    policy!("{name: a, from: {driver: x}, vfs: {count: 4}, use: \"3-1\"}"),
    policy!("{name: a, from: {driver: x}, vfs: {count: 4}, expect: {min: 2, max: 1}}"),
    network!("{rate: {min: 2Gbit, max: 1Gbit}}"),
    guest!("memory: {size: 1GiB}, disks: [{name: a, path: b}, {name: a, path: c}]"),
    guest!(
        "memory: {size: 1GiB}, disks: [{name: cidata, path: b}], cloudInit: {metaData: {hostname: a}}"
    ),
    guest!("memory: {size: 1GiB}, cloudInit: {metaData: {hostname: a}}, limits: {tasks: 19}"),
    guest!("memory: {size: 1GiB}, networks: [{name: a, virtio: {bridge: b}, queues: 2}]"),
    guest!(
        "memory: {size: 1GiB}, cpus: {count: 2}, networks: [{name: a, claim: {pool: b}, queues: 2}]"
    ),
    guest!("memory: {size: 1GiB}, cpus: {count: 4, topology: {cores: 2}}"),
    guest!("memory: {size: 1GiB}, cpus: {count: 2, pin: {2: 1}}"),
    guest!("memory: {size: 1GiB}, cpus: {count: 2, pin: {0: \"3-1\"}}"),
    guest!("memory: {size: 1GiB}, cpus: {count: 2, pin: {0: 1024}}"),
    guest!("memory: {size: 1GiB}, cpus: {count: 2, pin: {0: 1, 0: 2}}"),
    guest!("memory: {size: 1GiB}, cpus: {count: 2, emulator: \"1,1\"}"),
    guest!("memory: {size: 1536MiB, pages: 1GiB}"),
    guest!("memory: {size: 1GiB, pages: 2MiB, merge: true}"),
    guest!("memory: {size: 1GiB, merge: true}, networks: [{name: a, claim: {pool: b}}]"),
    guest!("memory: {size: 1GiB, pages: 1GiB, balloon: true}"),
    guest!(
        "memory: {size: 1GiB, balloon: true}, devices: [{name: a, claim: {pool: b}, optional: true}]"
    ),
    // Amounts out of range.
    guest!("memory: {size: 1MiB}"),
    guest!("memory: {size: 1GiB}, limits: {cpu: 10001%}"),
    // Limits that the guest does not fit.
    guest!("memory: {size: 1GiB}, limits: {memory: 1071MiB}"),
    guest!("memory: {size: 1GiB}, cpus: {count: 2}, limits: {tasks: 17}"),
    guest!("memory: {size: 1GiB}, vsock: true, limits: {tasks: 17}"),
    guest!("memory: {size: 1GiB}, ports: [{name: a}, {name: b}, {name: a}]"),
    network!("{rate: {max: 9999999Gbit}}"),
    // 010 is ten to YAML 1.2 and eight to others.
    policy!("{name: a, from: {driver: x}, vfs: {count: 010}}"),
    // A claim near to memory that is nowhere.
    guest!("memory: {size: 1GiB}, networks: [{name: a, claim: {pool: b, numa: required}}]"),
    // A disk that the guest does not have.
    boot!("disk: data"),
    "{apiVersion: assign/v1, kind: Guest, metadata: {name: a}, spec: {memory: {size: 1GiB}, boot: {disk: root}}}",
    // Tags mean nothing here.
    "{apiVersion: !!str assign/v1, kind: Guest, metadata: {name: a}, spec: {memory: {size: 1GiB}, boot: {kernel: k}}}",
    // A name of an interface that the kernel does not take.
    from!("interface: ."),
];
