//! A server with two NUMA nodes and 256 VFs, laid out as a kernel would; also what `cargo lab bench
//! plan` applies a policy to.

use std::path::Path;

use sriov::facts::capabilities::PortKind;
use sriov::recorded::{Config, Function, Tree, VfKind};

pub const MSI_REGION: &str = "0x00000000fee00000 0x00000000feefffff msi";
pub const BRIDGE: u32 = 0x06_0400;
pub const ETHERNET: u32 = 0x02_0000;
pub const NVME: u32 = 0x01_0802;
pub const MEMORY_64: u64 = 0x14_220c;

/// A policy that this host is as it says.
pub const POLICY: &str = "apiVersion: assign/v1
kind: Policy
metadata: {name: idle}
spec:
  pools:
    - {name: lan, from: {device: \"1583\"}, expect: {min: 4, max: 4}, vfs: {count: 64}}
";

/// Processor, memory and kernel of a node, as far as sysfs and procfs show them.
pub fn machine(tree: &Tree, nodes: u32, cpus: u32, command_line: &str) {
    tree.file("proc/cmdline", &format!("{command_line}\n"));
    tree.file("proc/meminfo", "MemTotal: 67108864 kB\nMemFree: 33554432 kB\n");
    tree.file("sys/devices/system/node/online", &format!("0-{}\n", nodes - 1));
    for node in 0..nodes {
        let each = cpus / nodes;
        let list = format!("{}-{}\n", node * each, (node + 1) * each - 1);
        tree.file(&format!("sys/devices/system/node/node{node}/cpulist"), &list);
        let memory = format!("Node {node} MemTotal: {} kB\n", 67_108_864 / nodes);
        tree.file(&format!("sys/devices/system/node/node{node}/meminfo"), &memory);
    }
}

/// One port of an XL710 with 64 VFs on its own bus: MSI-X, FLR and ARI as its datasheet has them.
fn xl710(address: &'static str, port: &'static str, node: u32, groups: u32) -> Function {
    let id = (0x8086, 0x1583);
    let pf = Config::new(id, ETHERNET)
        .msi(0)
        .msix(129, 3)
        .pcie(PortKind::Endpoint, true, 3, 8)
        .ari(0)
        .sriov(64, 64, (128, 2), 0x154c)
        .ats(false)
        .isolating();
    let vf = Config::new((0xffff, 0xffff), ETHERNET)
        .msix(5, 3)
        .pcie(PortKind::Endpoint, true, 0, 0)
        .ari(0)
        .isolating();
    Function::new(address, id, ETHERNET)
        .below(port)
        .driver("i40e")
        .group(groups)
        .numa(node)
        .link("8.0 GT/s PCIe", 8)
        .bars(&[(0x20_0000_0000 + (u64::from(groups) << 28), 0x80_0000, MEMORY_64)])
        .attribute("power_state", "D0")
        .attribute("reset_method", "flr bus")
        .vfs(64, 64)
        .vf_kind(VfKind {
            device: 0x154c,
            group: groups + 1,
            driver: Some("vfio-pci"),
            config: Some(vf.bytes()),
        })
        .config(pf)
}

/// A server with two sockets, and on each two ports with 64 VFs.
pub fn numa(directory: &Path) -> (Tree, &'static str) {
    let tree = Tree::new(directory);
    machine(&tree, 2, 64, "BOOT_IMAGE=/vmlinuz root=/dev/nvme0n1p2 ro intel_iommu=on iommu=pt");
    for unit in 0..2 {
        tree.file(&format!("sys/class/iommu/dmar{unit}/name"), &format!("dmar{unit}\n"));
    }
    tree.file("sys/firmware/acpi/tables/DMAR", "");
    let port = |address, node, group| {
        let id = (0x8086, 0x347a);
        Function::new(address, id, BRIDGE)
            .driver("pcieport")
            .numa(node)
            .group(group)
            .link("16.0 GT/s PCIe", 8)
            .attribute("power_state", "D0")
            .config(Config::new(id, BRIDGE).pcie(PortKind::RootPort, false, 4, 8).isolating())
    };
    for (address, node, group) in [
        ("0000:16:02.0", 0, 10),
        ("0000:16:04.0", 0, 11),
        ("0000:97:02.0", 1, 12),
        ("0000:97:04.0", 1, 13),
        ("0000:64:02.0", 0, 14),
    ] {
        tree.add(port(address, node, group));
    }
    for (address, above, node, groups, name) in [
        ("0000:17:00.0", "0000:16:02.0", 0, 100, "ens1f0"),
        ("0000:19:00.0", "0000:16:04.0", 0, 200, "ens2f0"),
        ("0000:98:00.0", "0000:97:02.0", 1, 300, "ens3f0"),
        ("0000:9a:00.0", "0000:97:04.0", 1, 400, "ens4f0"),
    ] {
        tree.add(xl710(address, above, node, groups).netdev(name));
        for group in groups..=groups + 64 {
            tree.group(group, "identity", &[MSI_REGION]);
        }
    }
    let disk = (0x144d, 0xa808);
    tree.add(
        Function::new("0000:65:00.0", disk, NVME)
            .below("0000:64:02.0")
            .driver("nvme")
            .numa(0)
            .group(15)
            .link("8.0 GT/s PCIe", 4)
            .bars(&[(0xc000_0000, 0x4000, MEMORY_64)])
            .attribute("power_state", "D0")
            .attribute("reset_method", "flr bus")
            .config(Config::new(disk, NVME).msix(33, 0).pcie(PortKind::Endpoint, true, 3, 4)),
    );
    root_disk(&tree, "0000:64:02.0/0000:65:00.0");
    (
        tree,
        "Composed from the PCIe base specification, the XL710 datasheet and the kernel's sysfs \
         documentation: a server with two NUMA nodes and 256 VFs. No such machine was at hand.",
    )
}

/// The same with its ports up, as [`POLICY`] wants them.
pub fn numa_up(directory: &Path) -> Tree {
    let (tree, _) = numa(directory);
    for port in ["ens1f0", "ens2f0", "ens3f0", "ens4f0"] {
        tree.file(&format!("sys/class/net/{port}/flags"), "0x1003\n");
    }
    tree
}

/// An NVMe disk with the host on its second partition.
pub fn root_disk(tree: &Tree, place: &str) {
    let disk = format!("devices/pci0000:00/{place}/nvme/nvme0/nvme0n1");
    tree.file(&format!("sys/{disk}/dev"), "259:0\n");
    tree.link("sys/class/block/nvme0n1", &format!("../../{disk}"));
    for (part, minor) in [(1, 1), (2, 2)] {
        let name = format!("nvme0n1p{part}");
        tree.file(&format!("sys/{disk}/{name}/dev"), &format!("259:{minor}\n"));
        tree.file(&format!("sys/{disk}/{name}/partition"), &format!("{part}\n"));
        tree.link(&format!("sys/class/block/{name}"), &format!("../../{disk}/{name}"));
    }
    tree.file(
        "proc/self/mountinfo",
        "25 1 259:2 / / rw,relatime shared:1 - ext4 /dev/nvme0n1p2 rw\n\
         30 25 259:1 / /boot/efi rw,relatime shared:2 - vfat /dev/nvme0n1p1 rw\n",
    );
}
