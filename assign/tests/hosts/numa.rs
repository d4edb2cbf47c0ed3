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

/// What a machine is beside its devices.
pub struct Machine {
    pub nodes: u32,
    pub cpus: u32,
    /// Of all nodes.
    pub gib: u32,
    pub kernel: &'static str,
    pub command_line: &'static str,
    /// The first CPU's part of `/proc/cpuinfo`.
    pub cpu: &'static str,
    /// Files of `/sys/class/dmi/id`.
    pub dmi: &'static [(&'static str, &'static str)],
    /// The chip of the timer in `/proc/interrupts`: where interrupts are remapped, it begins with IR.
    pub chip: &'static str,
    /// What the kernel has as modules.
    pub modules: &'static [&'static str],
}

impl Machine {
    /// Processor, memory, firmware and kernel, as far as sysfs and procfs show them.
    pub fn lay_out(&self, tree: &Tree) {
        let Machine { nodes, cpus, kernel, .. } = *self;
        let kib = self.gib << 20;
        tree.file("proc/cmdline", &format!("{}\n", self.command_line));
        tree.file("proc/sys/kernel/osrelease", &format!("{kernel}\n"));
        tree.file("proc/cpuinfo", &format!("processor\t: 0\n{}\n\nprocessor\t: 1\n", self.cpu));
        let free = kib - kib / 4;
        let memory = format!("MemTotal: {kib} kB\nMemFree: {free} kB\nMemAvailable: {free} kB\n");
        tree.file("proc/meminfo", &format!("{memory}SwapTotal: 0 kB\nSwapFree: 0 kB\n"));
        tree.file("proc/sys/vm/overcommit_memory", "0\n");
        tree.file("proc/interrupts", &format!("  0:  9  {}  2-edge  timer\n", self.chip));
        tree.file("proc/1/cgroup", "0::/init.scope\n");
        tree.file("sys/devices/system/cpu/online", &format!("0-{}\n", cpus - 1));
        tree.file("sys/kernel/mm/transparent_hugepage/enabled", "always [madvise] never\n");
        tree.file("sys/kernel/mm/ksm/run", "0\n");
        for (name, text) in self.dmi {
            tree.file(&format!("sys/class/dmi/id/{name}"), &format!("{text}\n"));
        }
        let modules: String =
            self.modules.iter().map(|name| format!("kernel/{name}.ko.zst:\n")).collect();
        tree.file(&format!("lib/modules/{kernel}/modules.dep"), &modules);
        let node = "sys/devices/system/node";
        tree.file(&format!("{node}/online"), &format!("0-{}\n", nodes - 1));
        for number in 0..nodes {
            let each = cpus / nodes;
            let list = format!("{}-{}\n", number * each, (number + 1) * each - 1);
            tree.file(&format!("{node}/node{number}/cpulist"), &list);
            let (total, free) = (kib / nodes, free / nodes);
            let memory =
                format!("Node {number} MemTotal: {total} kB\nNode {number} MemFree: {free} kB\n");
            tree.file(&format!("{node}/node{number}/meminfo"), &memory);
            let distance = |to| if to == number { "10" } else { "21" };
            let distances: Vec<&str> = (0..nodes).map(distance).collect();
            let distances = format!("{}\n", distances.join(" "));
            tree.file(&format!("{node}/node{number}/distance"), &distances);
        }
    }
}

/// KVM in use on a CPU of Intel's, as it is by default (arch/x86/kvm/vmx/vmx.c).
pub fn kvm_intel(tree: &Tree) {
    for parameter in ["ept", "vpid", "enable_apicv", "nested"] {
        tree.file(&format!("sys/module/kvm_intel/parameters/{parameter}"), "Y\n");
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
    let machine = Machine {
        nodes: 2,
        cpus: 64,
        gib: 256,
        kernel: "6.8.0-51-generic",
        command_line: "BOOT_IMAGE=/vmlinuz root=/dev/nvme0n1p2 ro intel_iommu=on iommu=pt",
        cpu: "vendor_id\t: GenuineIntel\nmodel name\t: Intel(R) Xeon(R) Gold 6346 CPU @ 3.10GHz\n\
              flags\t\t: fpu vmx pdpe1gb x2apic ept vpid\n\
              vmx flags\t: vnmi posted_intr ept_1gb flexpriority apicv ept vpid shadow_vmcs",
        dmi: &[
            ("sys_vendor", "Supermicro"),
            ("product_name", "SYS-620P-TRT"),
            ("board_vendor", "Supermicro"),
            ("bios_vendor", "American Megatrends International, LLC."),
        ],
        chip: "IR-IO-APIC",
        modules: &["kvm-intel", "vfio-pci", "vfio_iommu_type1", "iommufd", "vhost_net", "tun"],
    };
    machine.lay_out(&tree);
    kvm_intel(&tree);
    // Its VFs wait for guests: what hands them out is loaded.
    tree.driver("vfio-pci");
    tree.file("sys/module/vfio_iommu_type1/parameters/allow_unsafe_interrupts", "N\n");
    tree.file("sys/module/vfio_iommu_type1/parameters/dma_entry_limit", "65535\n");
    tree.file("dev/vfio/vfio", "");
    tree.file("sys/class/misc/tun/dev", "10:200\n");
    tree.file("dev/net/tun", "");
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
