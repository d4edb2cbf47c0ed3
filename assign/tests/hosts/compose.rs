//! Hosts composed from what is documented of their kind, for want of the hardware. They are laid
//! out as a kernel would, read by the code that reads any host, and kept in `tests/hosts`; with the
//! variable `ASSIGN_COMPOSE` they are written anew.

use std::fs;
use std::path::Path;

use sriov::facts::capabilities::PortKind;
use sriov::recorded::{Config, Function, Tree, VfKind};
use sriov::{HostSnapshot, Scope};

const MSI_REGION: &str = "0x00000000fee00000 0x00000000feefffff msi";
const HOST_BRIDGE: u32 = 0x06_0000;
const BRIDGE: u32 = 0x06_0400;
const ETHERNET: u32 = 0x02_0000;
const NVME: u32 = 0x01_0802;
const MEMORY_64: u64 = 0x14_220c;
const MEMORY_32: u64 = 0x4_0200;

/// What is kept may lack what a snapshot has gained since, and shows that it is read all the same;
/// its devices are those that are laid out here.
#[test]
fn composed_hosts_are_as_laid_out_here() {
    for (name, lay_out) in [
        ("numa-256-vfs", numa as fn(&Path) -> (Tree, &'static str)),
        ("laptop-one-gpu", laptop),
        ("cloud-vm-no-iommu", cloud),
    ] {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let (tree, note) = lay_out(directory.path());
        let mut snapshot = HostSnapshot::read_within(&tree.root(), Scope::Whole);
        assert_eq!(snapshot.problems, [], "{name}");
        snapshot.check().unwrap_or_else(|broken| panic!("{name}: {broken}"));
        snapshot.note = Some(note.to_owned());
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/hosts");
        let file = folder.join(name).with_extension("json");
        if std::env::var_os("ASSIGN_COMPOSE").is_some() {
            let text = serde_json::to_string_pretty(&snapshot).expect("JSON");
            fs::write(&file, text + "\n").expect("written");
        }
        let kept = fs::read(&file).expect("a host that was composed");
        let kept: HostSnapshot = serde_json::from_slice(&kept).expect("a snapshot");
        assert_eq!(kept.note, snapshot.note, "{name}");
        assert_eq!(devices(&kept), devices(&snapshot), "{name}");
    }
}

fn devices(host: &HostSnapshot) -> Vec<impl PartialEq + std::fmt::Debug> {
    let functions = host.functions.iter();
    functions.map(|one| (one.address, one.vendor, one.device, one.iommu_group, one.vf_of)).collect()
}

/// Processor, memory and kernel of a node, as far as sysfs and procfs show them.
fn machine(tree: &Tree, nodes: u32, cpus: u32, command_line: &str) {
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
fn numa(directory: &Path) -> (Tree, &'static str) {
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

/// An NVMe disk with the host on its second partition.
fn root_disk(tree: &Tree, place: &str) {
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

/// A laptop whose one big GPU shares its group with its audio function and the port above, which
/// has no access control.
fn laptop(directory: &Path) -> (Tree, &'static str) {
    let tree = Tree::new(directory);
    machine(&tree, 1, 12, "BOOT_IMAGE=/vmlinuz root=/dev/nvme0n1p2 ro quiet splash intel_iommu=on");
    tree.file("sys/class/iommu/dmar0/name", "dmar0\n");
    tree.file("sys/class/iommu/dmar1/name", "dmar1\n");
    tree.file("sys/firmware/acpi/tables/DMAR", "");
    let port = |address, id, group, lanes| {
        let pcie = Config::new(id, BRIDGE).pcie(PortKind::RootPort, false, 3, lanes);
        Function::new(address, id, BRIDGE)
            .driver("pcieport")
            .group(group)
            .link("8.0 GT/s PCIe", lanes)
            .attribute("power_state", "D0")
            .config(pcie)
    };
    tree.add(Function::new("0000:00:00.0", (0x8086, 0x3ec4), HOST_BRIDGE).group(0));
    tree.add(port("0000:00:01.0", (0x8086, 0x1901), 1, 16));
    let screen = (0x8086, 0x3e9b);
    tree.add(
        Function::new("0000:00:02.0", screen, 0x03_0000)
            .driver("i915")
            .group(2)
            .attribute("boot_vga", "1")
            .attribute("power_state", "D0")
            .attribute("reset_method", "flr")
            .bars(&[(0xb000_0000, 0x100_0000, MEMORY_64), (0x8000_0000, 0x1000_0000, MEMORY_64)])
            .config(Config::new(screen, 0x03_0000).msi(0)),
    );
    tree.group(
        2,
        "identity",
        &["0x0000000089000000 0x000000008d7fffff direct-relaxable", MSI_REGION],
    );
    let (gpu, audio) = ((0x10de, 0x1f10), (0x10de, 0x10f9));
    let endpoint = |id, class| Config::new(id, class).msi(0).pcie(PortKind::Endpoint, false, 3, 16);
    tree.add(
        Function::new("0000:01:00.0", gpu, 0x03_0000)
            .below("0000:00:01.0")
            .driver("nouveau")
            .group(1)
            .link("8.0 GT/s PCIe", 16)
            .attribute("boot_vga", "0")
            .attribute("power_state", "D3cold")
            .attribute("reset_method", "bus")
            .bars(&[(0xa300_0000, 0x100_0000, MEMORY_32), (0x9000_0000, 0x1000_0000, MEMORY_64)])
            .config(endpoint(gpu, 0x03_0000).resizable_bar(1, 0b111_0000_0000, 8)),
    );
    tree.add(
        Function::new("0000:01:00.1", audio, 0x04_0300)
            .below("0000:00:01.0")
            .driver("snd_hda_intel")
            .group(1)
            .attribute("power_state", "D0")
            .attribute("reset_method", "bus")
            .bars(&[(0xa400_0000, 0x4000, MEMORY_32)])
            .config(endpoint(audio, 0x04_0300)),
    );
    tree.add(port("0000:00:1d.0", (0x8086, 0xa330), 8, 4));
    let disk = (0x1179, 0x011a);
    tree.add(
        Function::new("0000:02:00.0", disk, NVME)
            .below("0000:00:1d.0")
            .driver("nvme")
            .group(9)
            .link("8.0 GT/s PCIe", 4)
            .attribute("power_state", "D0")
            .attribute("reset_method", "flr bus")
            .config(Config::new(disk, NVME).msix(9, 0).pcie(PortKind::Endpoint, true, 3, 4)),
    );
    root_disk(&tree, "0000:00:1d.0/0000:02:00.0");
    let wireless = (0x8086, 0xa370);
    tree.add(
        Function::new("0000:00:14.3", wireless, 0x02_8000)
            .driver("iwlwifi")
            .group(4)
            .netdev("wlp0s20f3")
            .attribute("power_state", "D0")
            .attribute("reset_method", "flr")
            .config(Config::new(wireless, 0x02_8000).msix(16, 0).pcie(
                PortKind::RootComplexEndpoint,
                true,
                0,
                0,
            )),
    );
    tree.file(
        "proc/net/route",
        "Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\n\
         wlp0s20f3\t00000000\t0101A8C0\t0003\t0\t0\t600\t00000000\t0\t0\t0\n",
    );
    for (address, id, class, driver) in [
        ("0000:00:1f.0", (0x8086, 0xa30d), 0x06_0100, None),
        ("0000:00:1f.3", (0x8086, 0xa348), 0x04_0300, Some("snd_hda_intel")),
        ("0000:00:1f.4", (0x8086, 0xa323), 0x0c_0500, Some("i801_smbus")),
        ("0000:00:1f.5", (0x8086, 0xa324), 0x0c_8000, None),
    ] {
        let function = Function::new(address, id, class).group(10);
        tree.add(driver.into_iter().fold(function, Function::driver));
    }
    (
        tree,
        "Composed from the ids and layouts that the PCI ID database and the kernel's documentation \
         have of such machines: a laptop whose GPU shares its IOMMU group with its audio function \
         and a port without ACS. No such machine was at hand.",
    )
}

/// A virtual machine with virtio devices on a bus without an IOMMU.
fn cloud(directory: &Path) -> (Tree, &'static str) {
    let tree = Tree::new(directory);
    tree.remove("dev/kvm");
    machine(&tree, 1, 2, "BOOT_IMAGE=/vmlinuz root=/dev/vda1 ro console=ttyS0");
    tree.add(Function::new("0000:00:00.0", (0x8086, 0x1237), HOST_BRIDGE));
    tree.add(Function::new("0000:00:01.0", (0x8086, 0x7000), 0x06_0100));
    tree.add(Function::new("0000:00:01.3", (0x8086, 0x7113), 0x06_8000).driver("piix4_smbus"));
    let virtio = |address, device, class| {
        let id = (0x1af4, device);
        Function::new(address, id, class)
            .driver("virtio-pci")
            .attribute("power_state", "D0")
            .bars(&[(0xc000, 0x40, 0x4_0101), (0xfebc_0000, 0x1000, MEMORY_32)])
            .config(Config::new(id, class).msix(3, 1).cut(256))
    };
    tree.add(Function::new("0000:00:02.0", (0x1013, 0x00b8), 0x03_0000).attribute("boot_vga", "1"));
    tree.add(virtio("0000:00:03.0", 0x1000, ETHERNET).netdev("ens3"));
    tree.add(virtio("0000:00:04.0", 0x1001, 0x01_0000));
    let disk = "devices/pci0000:00/0000:00:04.0/virtio1/block/vda";
    tree.file(&format!("sys/{disk}/dev"), "253:0\n");
    tree.link("sys/class/block/vda", &format!("../../{disk}"));
    tree.file(&format!("sys/{disk}/vda1/dev"), "253:1\n");
    tree.file(&format!("sys/{disk}/vda1/partition"), "1\n");
    tree.link("sys/class/block/vda1", &format!("../../{disk}/vda1"));
    tree.file("proc/self/mountinfo", "25 1 253:1 / / rw,relatime shared:1 - ext4 /dev/vda1 rw\n");
    tree.file(
        "proc/net/route",
        "Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\n\
         ens3\t00000000\t0100000A\t0003\t0\t0\t100\t00000000\t0\t0\t0\n",
    );
    (
        tree,
        "Composed from the ids that QEMU documents for its PC machine and its virtio devices: a \
         virtual machine as clouds give them out, without an IOMMU and without KVM. No account at \
         such a cloud was at hand.",
    )
}
