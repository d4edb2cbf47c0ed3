//! Hosts composed from what is documented of their kind, for want of the hardware. They are laid
//! out as a kernel would, read by the code that reads any host, and kept in `tests/hosts`; with the
//! variable `ASSIGN_COMPOSE` they are written anew.

use std::fs;
use std::path::Path;

use sriov::facts::capabilities::PortKind;
use sriov::recorded::{Config, Function, Tree};
use sriov::{HostSnapshot, Scope};

use super::numa::{
    BRIDGE, ETHERNET, MEMORY_64, MSI_REGION, Machine, NVME, kvm_intel, numa, root_disk,
};

const HOST_BRIDGE: u32 = 0x06_0000;
const MEMORY_32: u64 = 0x4_0200;

/// What is kept may lack what a snapshot has gained since, and shows that it is read all the same;
/// its devices, and what it runs on, are those that are laid out here.
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
        let machine = |host: &HostSnapshot| (host.platform.runs_on.clone(), host.platform.modules);
        assert_eq!(machine(&kept), machine(&snapshot), "{name}");
        assert_ne!(kept.platform.runs_on, [], "{name}: nothing says what it runs on");
    }
}

fn devices(host: &HostSnapshot) -> Vec<impl PartialEq + std::fmt::Debug> {
    let functions = host.functions.iter();
    functions.map(|one| (one.address, one.vendor, one.device, one.iommu_group, one.vf_of)).collect()
}

/// A laptop whose one big GPU shares its group with its audio function and the port above, which
/// has no access control.
fn laptop(directory: &Path) -> (Tree, &'static str) {
    let tree = Tree::new(directory);
    let machine = Machine {
        nodes: 1,
        cpus: 12,
        gib: 16,
        kernel: "6.8.0-51-generic",
        command_line: "BOOT_IMAGE=/vmlinuz root=/dev/nvme0n1p2 ro quiet splash intel_iommu=on",
        cpu: "vendor_id\t: GenuineIntel\nmodel name\t: Intel(R) Core(TM) i7-8750H CPU @ 2.20GHz\n\
              flags\t\t: fpu vmx pdpe1gb x2apic ept vpid\n\
              vmx flags\t: vnmi ept_1gb flexpriority ept vpid shadow_vmcs",
        dmi: &[
            ("sys_vendor", "Notebook"),
            ("product_name", "P95_96_97Ex,Rx"),
            ("board_vendor", "Notebook"),
            ("bios_vendor", "American Megatrends Inc."),
        ],
        chip: "IR-IO-APIC",
        modules: &["kvm-intel", "vfio-pci", "vfio_iommu_type1", "iommufd", "vhost_net", "tun"],
    };
    machine.lay_out(&tree);
    kvm_intel(&tree);
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

/// A virtual machine of Google's cloud: KVM, with virtio devices on a bus without an IOMMU, and no
/// virtualization passed on.
fn cloud(directory: &Path) -> (Tree, &'static str) {
    let tree = Tree::new(directory);
    tree.remove("dev/kvm");
    let machine = Machine {
        nodes: 1,
        cpus: 2,
        gib: 8,
        kernel: "6.8.0-1021-gcp",
        command_line: "BOOT_IMAGE=/vmlinuz root=/dev/sda1 ro console=ttyS0",
        cpu: "vendor_id\t: GenuineIntel\nmodel name\t: Intel(R) Xeon(R) CPU @ 2.20GHz\n\
              flags\t\t: fpu pdpe1gb x2apic hypervisor",
        dmi: &[
            ("sys_vendor", "Google"),
            ("product_name", "Google Compute Engine"),
            ("board_vendor", "Google"),
            ("bios_vendor", "Google"),
        ],
        chip: "IO-APIC",
        modules: &["kvm-intel", "kvm-amd", "vfio-pci", "vfio_iommu_type1", "vhost_net", "tun"],
    };
    machine.lay_out(&tree);
    let clocks = "sys/devices/system/clocksource/clocksource0/available_clocksource";
    tree.file(clocks, "kvm-clock tsc acpi_pm\n");
    tree.add(Function::new("0000:00:00.0", (0x8086, 0x1237), HOST_BRIDGE));
    tree.add(Function::new("0000:00:01.0", (0x8086, 0x7110), 0x06_0100));
    tree.add(Function::new("0000:00:01.3", (0x8086, 0x7113), 0x06_8000).driver("piix4_smbus"));
    let virtio = |address, device, class| {
        let id = (0x1af4, device);
        Function::new(address, id, class)
            .driver("virtio-pci")
            .attribute("power_state", "D0")
            .bars(&[(0xc000, 0x40, 0x4_0101), (0xfebc_0000, 0x1000, MEMORY_32)])
            .config(Config::new(id, class).msix(3, 1).cut(256))
    };
    tree.add(virtio("0000:00:03.0", 0x1004, 0));
    tree.add(virtio("0000:00:04.0", 0x1000, ETHERNET).netdev("ens4"));
    tree.add(virtio("0000:00:05.0", 0x1005, 0xff_0000));
    let scsi = "0000:00:03.0/virtio0/host0/target0:0:1/0:0:1:0";
    let disk = format!("devices/pci0000:00/{scsi}/block/sda");
    tree.file(&format!("sys/{disk}/dev"), "8:0\n");
    tree.link("sys/class/block/sda", &format!("../../{disk}"));
    tree.file(&format!("sys/{disk}/sda1/dev"), "8:1\n");
    tree.file(&format!("sys/{disk}/sda1/partition"), "1\n");
    tree.link("sys/class/block/sda1", &format!("../../{disk}/sda1"));
    tree.file("proc/self/mountinfo", "25 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw\n");
    tree.file(
        "proc/net/route",
        "Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\n\
         ens4\t00000000\t0100800A\t0003\t0\t0\t100\t00000000\t0\t0\t0\n",
    );
    (
        tree,
        "Composed from the signs that virt-what's manual page names for Google's cloud, and the ids \
         that QEMU and the virtio specification document for the devices of such machines: a \
         virtual machine without an IOMMU and without KVM. No account at that cloud was at hand.",
    )
}
