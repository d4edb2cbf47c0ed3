//! What people read of three hosts, in 80 columns and in 200: composed, not recorded.

use sriov::HostSnapshot;
use sriov::facts::capabilities::PortKind;
use sriov::facts::platform::KvmInterface;
use sriov::facts::platform::cpuid::Cpuid;
use sriov::facts::platform::{Extension, Process, detect};
use sriov::recorded::{Config, Function, Tree};

use super::*;
use crate::cli::host;

const KVM: [&str; 7] =
    ["USER_MEMORY", "IRQCHIP", "IRQFD", "IOEVENTFD", "IRQ_ROUTING", "NR_MEMSLOTS", "MAX_VCPUS"];

/// What only a live host tells: as if it had been read there by root.
fn live(mut snapshot: HostSnapshot, signatures: &[&str], has: Option<Extension>) -> HostSnapshot {
    let platform = &mut snapshot.platform;
    let cpuid = Cpuid {
        signatures: signatures.iter().map(|text| (*text).to_owned()).collect(),
        hypervisor: !signatures.is_empty(),
        extension: has,
        asids: None,
    };
    platform.cpu.hardware = has;
    platform.evidence.cpuid = Some(cpuid);
    platform.runs_on = detect::detect(&platform.evidence);
    platform.process = Some(Process { user: 0, memlock: Some(8 << 20) });
    if platform.kvm {
        let capabilities = KVM.iter().map(|name| ((*name).to_owned(), 1024)).collect();
        let interface = KvmInterface { error: None, version: Some(12), capabilities };
        platform.kvm_interface = Some(interface);
    }
    snapshot
}

fn read(compose: impl Fn(&Tree)) -> HostSnapshot {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let tree = Tree::lab(directory.path(), 1);
    compose(&tree);
    let snapshot = HostSnapshot::read_within(&tree.root(), Scope::Whole);
    assert_eq!(snapshot.problems, []);
    snapshot
}

fn files(tree: &Tree, files: &[(&str, &str)]) {
    for (path, text) in files {
        tree.file(path, text);
    }
}

/// A server of two nodes with all that is needed, and a card whose first VF waits for a guest.
fn server() -> HostSnapshot {
    let flags = "vendor_id : GenuineIntel\nmodel name : Intel(R) Xeon(R) Gold 6338 CPU @ 2.00GHz\n\
                 flags : fpu vmx ept vpid\nvmx flags : posted_intr ept_1gb\n\n";
    let snapshot = read(|tree| {
        files(
            tree,
            &[
                ("proc/cpuinfo", flags),
                ("proc/cmdline", "BOOT_IMAGE=/vmlinuz root=/dev/sda intel_iommu=on iommu=pt\n"),
                ("proc/interrupts", "  0:  9  IR-IO-APIC  2-edge  timer\n"),
                (
                    "proc/meminfo",
                    "MemTotal: 263795712 kB\nMemAvailable: 250000000 kB\nSwapTotal: 0 kB\n",
                ),
                ("proc/sys/vm/overcommit_memory", "0\n"),
                ("sys/firmware/acpi/tables/DMAR", ""),
                ("sys/class/dmi/id/sys_vendor", "Dell Inc.\n"),
                ("sys/class/dmi/id/product_name", "PowerEdge R650\n"),
                ("sys/class/misc/tun/dev", "10:200\n"),
                ("sys/class/misc/vhost-net/dev", "10:238\n"),
                ("dev/vfio/vfio", ""),
                ("dev/net/tun", ""),
                ("sys/module/vfio_iommu_type1/parameters/allow_unsafe_interrupts", "N\n"),
                ("sys/module/kvm_intel/parameters/ept", "Y\n"),
                ("sys/module/kvm_intel/parameters/vpid", "Y\n"),
                ("sys/module/kvm_intel/parameters/enable_apicv", "Y\n"),
                ("sys/module/kvm_intel/parameters/nested", "Y\n"),
                ("sys/kernel/mm/transparent_hugepage/enabled", "always [madvise] never\n"),
                ("sys/kernel/mm/ksm/run", "0\n"),
                ("sys/kernel/mm/hugepages/hugepages-2048kB/nr_hugepages", "1024\n"),
                ("sys/kernel/mm/hugepages/hugepages-2048kB/free_hugepages", "1024\n"),
                ("sys/devices/system/cpu/online", "0-63\n"),
            ],
        );
        for (node, cpus) in [(0, "0-31"), (1, "32-63")] {
            let at = format!("sys/devices/system/node/node{node}");
            let total =
                format!("Node {node} MemTotal: 131897856 kB\nNode {node} MemFree: 1048576 kB\n");
            let distance = if node == 0 { "10 21\n" } else { "21 10\n" };
            tree.file(&format!("{at}/cpulist"), &format!("{cpus}\n"));
            tree.file(&format!("{at}/meminfo"), &total);
            tree.file(&format!("{at}/distance"), distance);
            let pool = format!("{at}/hugepages/hugepages-2048kB");
            let count = if node == 0 { "1024\n" } else { "0\n" };
            tree.file(&format!("{pool}/nr_hugepages"), count);
            tree.file(&format!("{pool}/free_hugepages"), count);
        }
        let vf = "0000:01:10.0";
        tree.link(&format!("sys/bus/pci/devices/{vf}/driver"), "../../bus/pci/drivers/vfio-pci");
        tree.attribute(vf, "reset_method", "flr\n");
        tree.attribute(vf, "numa_node", "1\n");
        let config = Config::new((0x8086, 0x10ca), 0x02_0000).msix(3, 3);
        let config = config.pcie(PortKind::Endpoint, true, 1, 4).bytes();
        std::fs::write(
            tree.root().pci_attribute(vf.parse().expect("an address"), "config"),
            config,
        )
        .expect("a configuration space");
    });
    live(snapshot, &[], Some(Extension::Vmx))
}

/// A laptop as it comes: firmware has everything off, and the only display is the host's.
fn laptop() -> HostSnapshot {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let tree = Tree::new(directory.path());
    tree.remove("dev/kvm");
    files(
        &tree,
        &[
            (
                "proc/cpuinfo",
                "vendor_id : GenuineIntel\nmodel name : Intel(R) Core(TM) Ultra 7 155U\nflags : fpu\n\n",
            ),
            ("proc/cmdline", "quiet splash\n"),
            ("proc/interrupts", "  0:  9  IO-APIC  2-edge  timer\n"),
            (
                "proc/meminfo",
                "MemTotal: 16000000 kB\nMemAvailable: 3000000 kB\nSwapTotal: 8000000 kB\nSwapFree: 2000000 kB\n",
            ),
            ("sys/class/dmi/id/sys_vendor", "LENOVO\n"),
            ("sys/class/dmi/id/product_name", "21ML0012GE\n"),
            ("sys/kernel/security/lockdown", "none [integrity] confidentiality\n"),
            ("sys/kernel/mm/ksm/run", "1\n"),
            (
                "lib/modules/6.12.0-test/modules.dep",
                "kernel/vfio-pci.ko:\nkernel/vfio_iommu_type1.ko:\nkernel/tun.ko:\nkernel/kvm-intel.ko:\n",
            ),
        ],
    );
    let display = Function::new("0000:00:02.0", (0x8086, 0x7d45), 0x03_0000);
    tree.add(display.driver("i915").attribute("boot_vga", "1"));
    live(HostSnapshot::read_within(&tree.root(), Scope::Whole), &[], Some(Extension::Vmx))
}

/// A virtual machine of AWS: no IOMMU, no nesting.
fn cloud() -> HostSnapshot {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let tree = Tree::new(directory.path());
    tree.remove("dev/kvm");
    files(
        &tree,
        &[
            (
                "proc/cpuinfo",
                "vendor_id : AuthenticAMD\nmodel name : AMD EPYC 7R13 Processor\nflags : fpu hypervisor\n\n",
            ),
            ("proc/interrupts", "  0:  9  IO-APIC  2-edge  timer\n"),
            ("proc/meminfo", "MemTotal: 8000000 kB\nMemAvailable: 7000000 kB\nSwapTotal: 0 kB\n"),
            ("sys/class/dmi/id/sys_vendor", "Amazon EC2\n"),
            ("sys/class/dmi/id/product_name", "m6a.large\n"),
            ("sys/class/dmi/id/bios_vendor", "Amazon EC2\n"),
            ("lib/modules/6.12.0-test/modules.dep", "kernel/tun.ko:\n"),
        ],
    );
    let card = Function::new("0000:00:05.0", (0x1d0f, 0xec20), 0x02_0000);
    tree.add(card.driver("ena").netdev("ens5"));
    let routes = "Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\n\
                  ens5\t00000000\t0202000A\t0003\t0\t0\t0\t00000000\t0\t0\t0\n";
    tree.file("proc/net/route", routes);
    live(HostSnapshot::read_within(&tree.root(), Scope::Whole), &["KVMKVMKVM"], None)
}

fn report(snapshot: &HostSnapshot, devices: &[&str]) -> Report {
    let facts = Facts { snapshot, leases: &[], state: None };
    let devices: Vec<Diagnosis> = devices
        .iter()
        .map(|name| {
            let address = name.parse().expect("an address");
            doctor::device(facts, snapshot.function(address).expect("the device"))
        })
        .collect();
    Report::new(doctor::host(facts), devices)
}

fn plain(text: &str) -> String {
    anstream::adapter::strip_str(text).to_string()
}

/// Both widths of a page, and that neither is wider.
fn both(render: impl Fn(Option<usize>) -> String) -> String {
    let pages = [80, 200].map(|width| {
        let text = plain(&render(Some(width)));
        for line in text.lines() {
            assert!(line.chars().count() <= width, "{line}");
            assert_eq!(line.trim_end(), line);
        }
        format!("--- {width} columns\n{text}\n")
    });
    pages.concat()
}

#[test]
fn the_page_of_a_server() {
    let snapshot = server();
    insta::assert_snapshot!(both(|width| host::page(&snapshot).render(width)));
}

#[test]
fn the_page_of_a_laptop() {
    let snapshot = laptop();
    insta::assert_snapshot!(both(|width| host::page(&snapshot).render(width)));
}

#[test]
fn the_page_of_a_virtual_machine_in_a_cloud() {
    let snapshot = cloud();
    insta::assert_snapshot!(both(|width| host::page(&snapshot).render(width)));
}

#[test]
fn a_server_is_ready() {
    let snapshot = server();
    insta::assert_snapshot!(both(|width| report(&snapshot, &[]).render(width)));
}

#[test]
fn a_laptop_is_not_ready_and_is_told_how() {
    let snapshot = laptop();
    insta::assert_snapshot!(both(|width| report(&snapshot, &["0000:00:02.0"]).render(width)));
}

#[test]
fn a_cloud_gives_no_devices_on() {
    let snapshot = cloud();
    insta::assert_snapshot!(both(|width| report(&snapshot, &["0000:00:05.0"]).render(width)));
}

#[test]
fn the_devices_of_a_server() {
    let snapshot = server();
    let devices = ["0000:01:10.0", "0000:01:00.0", "0000:00:1f.3", "0000:00:01.0"];
    insta::assert_snapshot!(both(|width| report(&snapshot, &devices).render(width)));
}

#[test]
fn in_a_pipe_a_finding_is_one_line() {
    let report = report(&laptop(), &[]);
    let text = plain(&report.render(None));
    let lines = text
        .lines()
        .filter(|line| ["ok ", "warning ", "problem "].iter().any(|word| line.starts_with(word)));
    assert_eq!(lines.count(), report.host.len(), "{text}");
}
