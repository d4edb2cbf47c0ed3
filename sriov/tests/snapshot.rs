//! Reading hosts: what is there, what is odd, and what must not be taken.

use sriov::facts::bars::BarKind;
use sriov::facts::capabilities::{Extent, PortKind};
use sriov::facts::iommu::{Region, RegionKind};
use sriov::facts::names;
use sriov::isolation::{self, NotViable};
use sriov::recorded::{Config, Function, Tree};
use sriov::usage::{self, UseKind};
use sriov::{HostSnapshot, PciAddress, PciFunction, Scope, VfRef, vfio};

fn directory() -> tempfile::TempDir {
    tempfile::tempdir().expect("a temporary directory")
}

fn address(text: &str) -> PciAddress {
    text.parse().expect("an address")
}

fn function<'a>(snapshot: &'a HostSnapshot, text: &str) -> &'a PciFunction {
    snapshot.function(address(text)).expect("the function")
}

fn uses(snapshot: &HostSnapshot, text: &str) -> Vec<String> {
    let found = usage::of(snapshot, function(snapshot, text));
    found.iter().map(ToString::to_string).collect()
}

#[test]
fn a_pf_with_seven_vfs() {
    let directory = directory();
    let snapshot = HostSnapshot::read(&Tree::lab(directory.path(), 7).root());
    assert_eq!(snapshot.problems, []);
    assert!(snapshot.platform.kvm && snapshot.iommu.present);
    let pf = function(&snapshot, "0000:01:00.0");
    assert_eq!((pf.class_code(), pf.driver.as_deref()), (0x0200, Some("igb")));
    assert_eq!(pf.parent, Some(address("0000:00:01.0")));
    assert_eq!(pf.netdevs, ["eth0"]);
    assert_eq!((pf.numa_node, pf.driver_override.as_deref()), (None, None));
    let sriov = pf.sriov.as_ref().expect("SR-IOV");
    assert_eq!((sriov.total, sriov.present, sriov.vf_device), (7, 7, 0x10ca));
    assert_eq!(sriov.vfs.get(&6), Some(&address("0000:01:11.4")));
    let vf = function(&snapshot, "0000:01:11.4");
    assert_eq!(vf.vf_of, Some(VfRef { pf: pf.address, index: 6 }));
    assert_eq!(names::device(vf), "Intel 82576 Virtual Function");
    let text = serde_json::to_string(&snapshot).expect("serialized");
    let back: HostSnapshot = serde_json::from_str(&text).expect("read back");
    assert_eq!(back, snapshot);
}

/// A root port with access control, and below it a NIC that says all it can.
fn detailed(directory: &std::path::Path) -> Tree {
    let tree = Tree::new(directory);
    tree.add(Function::new("0000:00:01.0", (0x8086, 0x1901), 0x06_0400).group(1).config(
        Config::new((0x8086, 0x1901), 0x06_0400).pcie(PortKind::RootPort, false, 3, 16).isolating(),
    ));
    tree.add(
        Function::new("0000:01:00.0", (0x8086, 0x10c9), 0x02_0000)
            .below("0000:00:01.0")
            .group(2)
            // As the kernel shows it to those who may not look closer.
            .link("2.5 GT/s PCIe", 1)
            .bars(&[(0xfe00_0000, 0x2_0000, 0x40200), (0x40_0000_0000, 0x4000, 0x14_220c)])
            .attribute("power_state", "D0")
            .config(Config::new((0x8086, 0x10c9), 0x02_0000).msix(10, 1).pcie(
                PortKind::Endpoint,
                true,
                2,
                4,
            )),
    );
    tree.group(2, "DMA-FQ", &["0x00000000fee00000 0x00000000feefffff msi"]);
    tree
}

#[test]
fn a_whole_snapshot_has_links_bars_regions_and_capabilities() {
    let directory = directory();
    let snapshot = HostSnapshot::read_within(&detailed(directory.path()).root(), Scope::Whole);
    assert_eq!(snapshot.problems, []);
    let nic = function(&snapshot, "0000:01:00.0");
    let link = nic.link.as_ref().expect("a link");
    assert_eq!((link.speed, link.width, link.is_reduced()), (Some(5000), Some(4), false));
    let bars: Vec<(u8, u64, BarKind)> =
        nic.bars.iter().map(|bar| (bar.index, bar.size, bar.kind)).collect();
    assert_eq!(bars, [(0, 0x2_0000, BarKind::Memory32), (1, 0x4000, BarKind::Memory64)]);
    assert_eq!(nic.power_state.as_deref(), Some("D0"));
    let msix = nic.capabilities.as_ref().and_then(|found| found.msix.as_ref());
    assert_eq!(msix.map(|msix| msix.vectors), Some(10));
    let names = nic.names.as_ref().expect("names");
    assert_eq!(names.device.as_deref(), Some("82576 Gigabit Network Connection"));
    let group = snapshot.iommu.groups.get(&2).expect("the group");
    assert_eq!(group.kind.as_deref(), Some("DMA-FQ"));
    let msi = Region { start: 0xfee0_0000, end: 0xfeef_ffff, kind: RegionKind::Msi };
    assert_eq!(group.reserved, [msi]);
}

#[test]
fn without_privilege_the_kernel_tells_of_the_link() {
    let directory = directory();
    let tree = detailed(directory.path());
    let header = Config::new((0x8086, 0x10c9), 0x02_0000).msix(10, 1).cut(64);
    tree.bytes("sys/bus/pci/devices/0000:01:00.0/config", &header.bytes());
    let snapshot = HostSnapshot::read_within(&tree.root(), Scope::Whole);
    let nic = function(&snapshot, "0000:01:00.0");
    let link = nic.link.as_ref().expect("a link");
    assert_eq!((link.speed, link.width), (Some(2500), Some(1)));
    let extent = nic.capabilities.as_ref().map(|known| known.extent);
    assert_eq!(extent, Some(Extent::Header));
}

#[test]
fn a_plan_asks_bridges_only_and_a_list_nobody() {
    let directory = directory();
    let root = detailed(directory.path()).root();
    let asked = |scope| {
        let functions = HostSnapshot::read_within(&root, scope).functions;
        functions.iter().map(|function| function.capabilities.is_some()).collect::<Vec<bool>>()
    };
    assert_eq!(asked(Scope::Listing), [false, false]);
    assert_eq!(asked(Scope::Planning), [true, false]);
    assert_eq!(asked(Scope::Whole), [true, true]);
    let snapshot = HostSnapshot::read(&root);
    let port = function(&snapshot, "0000:00:01.0").capabilities.as_ref().expect("capabilities");
    assert!(port.acs.as_ref().is_some_and(|acs| acs.isolates()));
}

#[test]
fn a_plan_knows_serial_numbers_speeds_and_roots_and_wakes_nobody() {
    let directory = directory();
    let tree = detailed(directory.path());
    let mut config = vec![0; 4096];
    config[..4].copy_from_slice(&[0x86, 0x80, 0xc9, 0x10]);
    config[0x100..0x10c]
        .copy_from_slice(&[3, 0, 1, 0, 0x56, 0x34, 0x12, 0xff, 0xff, 0x21, 0x1b, 0]);
    tree.bytes("sys/bus/pci/devices/0000:01:00.0/config", &config);
    tree.attribute("0000:01:00.0", "max_link_speed", "8.0 GT/s PCIe\n");
    let read = || HostSnapshot::read(&tree.root());
    let snapshot = read();
    let card = function(&snapshot, "0000:01:00.0");
    assert_eq!(card.serial.as_deref(), Some("00-1b-21-ff-ff-12-34-56"));
    let link = card.link.clone().expect("a link");
    assert_eq!((link.max_speed, link.speed, link.width), (Some(8000), None, None));
    assert_eq!(snapshot.root_of(card).to_string(), "0000:00");
    let bridge = function(&snapshot, "0000:00:01.0");
    assert_eq!((&bridge.serial, &bridge.link), (&None, &None));
    // As long as it sleeps, nobody asks.
    tree.attribute("0000:01:00.0", "power/runtime_status", "suspended\n");
    assert_eq!(function(&read(), "0000:01:00.0").serial, None);
    tree.attribute("0000:01:00.0", "power/runtime_status", "active\n");
    tree.attribute("0000:01:00.0", "power_state", "D3cold\n");
    assert_eq!(function(&read(), "0000:01:00.0").serial, None);
    // Whoever reads all of it wakes it.
    let whole = HostSnapshot::read_within(&tree.root(), Scope::Whole);
    let card = function(&whole, "0000:01:00.0");
    assert_eq!(card.serial.as_deref(), Some("00-1b-21-ff-ff-12-34-56"));
}

#[test]
fn a_drives_serial_number_is_its_own() {
    let directory = directory();
    let tree = Tree::new(directory.path());
    let drive = Function::new("0000:03:00.0", (0x1b36, 0x0010), 0x01_0802).driver("nvme");
    tree.add(drive.group(3));
    let serial = || HostSnapshot::read(&tree.root()).functions[0].serial.clone();
    assert_eq!(serial(), None, "a driver that shows none");
    tree.attribute("0000:03:00.0", "nvme/nvme0/serial", "lab-drive-1         \n");
    assert_eq!(serial().as_deref(), Some("lab-drive-1"));
    tree.attribute("0000:03:00.0", "nvme/nvme0/serial", "\u{1b}[2J\n");
    assert_eq!(serial(), None, "what is no serial number");
}

#[test]
fn odd_configuration_spaces_name_their_device() {
    let directory = directory();
    let tree = detailed(directory.path());
    tree.bytes("sys/bus/pci/devices/0000:01:00.0/config", &[1, 2, 3]);
    tree.attribute("0000:01:00.0", "resource", "0x1 0x0 0x200\n");
    tree.group(2, "DMA", &["nonsense"]);
    let snapshot = HostSnapshot::read_within(&tree.root(), Scope::Whole);
    let paths: Vec<String> =
        snapshot.problems.iter().map(|problem| problem.path.display().to_string()).collect();
    assert_eq!(paths.len(), 3, "{:#?}", snapshot.problems);
    assert!(paths.iter().any(|path| path.ends_with("0000:01:00.0/config")), "{paths:?}");
    assert!(paths.iter().any(|path| path.ends_with("0000:01:00.0/resource")), "{paths:?}");
    assert_eq!(snapshot.functions.len(), 2);
}

#[test]
fn other_domains_and_many_vfs_sort_by_number() {
    let directory = directory();
    let tree = Tree::new(directory.path());
    tree.add(Function::new("10000:01:00.0", (0x8086, 0x10c9), 0x02_0000).group(1).vfs(64, 12));
    let snapshot = HostSnapshot::read(&tree.root());
    let vfs = &function(&snapshot, "10000:01:00.0").sriov.as_ref().expect("SR-IOV").vfs;
    assert!(vfs.keys().copied().eq(0..12));
    assert_eq!(vfs.get(&10), Some(&address("10000:01:12.4")));
}

#[test]
fn garbage_is_noted_and_hides_nothing_else() {
    let directory = directory();
    let tree = Tree::lab(directory.path(), 2);
    tree.attribute("0000:00:1f.3", "class", "what?\n");
    tree.attribute("0000:01:00.0", "sriov_numvfs", "99999999999\n");
    tree.attribute("0000:01:10.0", "numa_node", "\u{1}\n");
    tree.attribute("0000:01:10.2", "driver_override", &"x".repeat(10_000));
    tree.directory("sys/bus/pci/devices/not-an-address");
    tree.link("sys/bus/pci/devices/0000:01:00.0/virtfnX", "../nowhere");
    let snapshot = HostSnapshot::read(&tree.root());
    assert_eq!(snapshot.problems.len(), 5, "{:#?}", snapshot.problems);
    assert!(snapshot.function(address("0000:00:1f.3")).is_none());
    assert_eq!(function(&snapshot, "0000:01:00.0").sriov.as_ref().map(|pf| pf.vfs.len()), Some(2));
}

#[test]
fn a_host_without_anything() {
    let directory = directory();
    let snapshot = HostSnapshot::read(&sriov::HostRoot::at(directory.path()));
    assert!(snapshot.functions.is_empty() && !snapshot.iommu.present && !snapshot.platform.kvm);
}

#[test]
fn the_root_disk_and_bridges_are_in_use_and_an_idle_nic_is_not() {
    let directory = directory();
    let snapshot = HostSnapshot::read(&Tree::lab(directory.path(), 1).root());
    assert_eq!(uses(&snapshot, "0000:00:1f.2"), ["0000:00:1f.2 → sda → /"]);
    assert_eq!(uses(&snapshot, "0000:00:01.0"), ["0000:00:01.0 → the devices behind it"]);
    assert!(uses(&snapshot, "0000:01:00.0").is_empty());
    assert!(uses(&snapshot, "0000:01:10.0").is_empty());
}

#[test]
fn the_network_stack_is_followed_to_its_top() {
    let directory = directory();
    let tree = Tree::lab(directory.path(), 0);
    for (index, name) in [(3, "bond0"), (4, "vlan7"), (5, "br0")] {
        tree.virtual_netdev(name, index);
    }
    tree.stack("eth0", "bond0");
    tree.link("sys/class/net/bond0/upper_vlan7", "../vlan7");
    tree.stack("vlan7", "br0");
    let snapshot = HostSnapshot::read(&tree.root());
    assert_eq!(uses(&snapshot, "0000:01:00.0"), ["0000:01:00.0 → eth0 → bond0 → vlan7 → br0"]);

    let routes = "Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\n\
                  br0\t00000000\t0202000A\t0003\t0\t0\t0\t00000000\t0\t0\t0\n";
    tree.file("proc/net/route", routes);
    let snapshot = HostSnapshot::read(&tree.root());
    let found = usage::of(&snapshot, function(&snapshot, "0000:01:00.0"));
    assert_eq!(found.first().map(|used| used.kind), Some(UseKind::DefaultRoute));
    assert_eq!(
        found.first().map(ToString::to_string).as_deref(),
        Some("0000:01:00.0 → eth0 → bond0 → vlan7 → br0 → default route")
    );
}

#[test]
fn ipv6_counts_and_link_local_does_not() {
    let directory = directory();
    let tree = Tree::lab(directory.path(), 0);
    let link_local = "fe800000000000000000000000000001 02 40 20 80     eth0\n";
    tree.file("proc/net/if_inet6", link_local);
    let zero = "00000000000000000000000000000000";
    let local_route = format!(
        "fe800000000000000000000000000000 40 {zero} 00 {zero} 00000100 00000001 00000000 00000001     eth0\n\
         ff000000000000000000000000000000 08 {zero} 00 {zero} 00000100 00000001 00000000 00000001     eth0\n"
    );
    tree.file("proc/net/ipv6_route", &local_route);
    assert!(uses(&HostSnapshot::read(&tree.root()), "0000:01:00.0").is_empty());

    let global = "20010db8000000000000000000000001 02 40 00 80     eth0\n";
    tree.file("proc/net/if_inet6", &format!("{link_local}{global}"));
    assert_eq!(
        uses(&HostSnapshot::read(&tree.root()), "0000:01:00.0"),
        ["0000:01:00.0 → eth0 → address 2001:db8::1"]
    );
    let default = format!(
        "{local_route}{zero} 00 {zero} 00 fe800000000000000000000000000002 00000400 00000001 00000000 00000003     eth0\n"
    );
    tree.file("proc/net/ipv6_route", &default);
    assert_eq!(
        uses(&HostSnapshot::read(&tree.root()), "0000:01:00.0"),
        ["0000:01:00.0 → eth0 → default route"]
    );
}

#[test]
fn what_routers_advertise_is_a_use_but_nobodys_work() {
    let directory = directory();
    let tree = Tree::lab(directory.path(), 0);
    tree.file("proc/net/if_inet6", "fec0000000000000505400fffe120001 02 40 40 00     eth0\n");
    let zero = "00000000000000000000000000000000";
    let advertised = format!(
        "fec00000000000000000000000000000 40 {zero} 00 {zero} 00000100 00000001 00000000 00040001     eth0\n\
         {zero} 00 {zero} 00 fe800000000000000000000000000002 00000400 00000001 00000000 00450003     eth0\n"
    );
    tree.file("proc/net/ipv6_route", &advertised);
    let snapshot = HostSnapshot::read(&tree.root());
    let found = usage::of(&snapshot, function(&snapshot, "0000:01:00.0"));
    assert!(matches!(found.as_slice(), [used] if used.autoconfigured), "{found:?}");

    tree.file("proc/net/if_inet6", "fec0000000000000505400fffe120001 02 40 40 80     eth0\n");
    let snapshot = HostSnapshot::read(&tree.root());
    let found = usage::of(&snapshot, function(&snapshot, "0000:01:00.0"));
    assert!(matches!(found.as_slice(), [used] if !used.autoconfigured), "{found:?}");
}

#[test]
fn volumes_partitions_and_swap_are_in_use() {
    let directory = directory();
    let tree = Tree::lab(directory.path(), 0);
    tree.file("proc/self/mountinfo", "");
    assert!(uses(&HostSnapshot::read(&tree.root()), "0000:00:1f.2").is_empty());

    let disk = "devices/pci0000:00/0000:00:1f.2/ata1/block/sda";
    for (part, number) in [("sda1", "8:1"), ("sda2", "8:2")] {
        tree.file(&format!("sys/{disk}/{part}/dev"), &format!("{number}\n"));
        tree.file(&format!("sys/{disk}/{part}/partition"), "1\n");
        tree.link(&format!("sys/class/block/{part}"), &format!("../../{disk}/{part}"));
    }
    tree.file("proc/swaps", "Filename Type Size Used Priority\n/dev/sda1 partition 1 0 -2\n");
    tree.file("sys/devices/virtual/block/dm-0/dev", "253:0\n");
    tree.link("sys/class/block/dm-0", "../../devices/virtual/block/dm-0");
    tree.link(&format!("sys/{disk}/sda2/holders/dm-0"), "../../dm-0");
    let chains = uses(&HostSnapshot::read(&tree.root()), "0000:00:1f.2");
    assert_eq!(chains, ["0000:00:1f.2 → sda1 → swap", "0000:00:1f.2 → sda2 → dm-0"]);

    let mounts = "30 1 253:0 / /my\\040data rw - ext4 /dev/mapper/data rw\n";
    tree.file("proc/self/mountinfo", mounts);
    let chains = uses(&HostSnapshot::read(&tree.root()), "0000:00:1f.2");
    assert_eq!(chains.first().map(String::as_str), Some("0000:00:1f.2 → sda2 → dm-0 → /my data"));

    let btrfs = "30 1 0:40 / /srv rw - btrfs /dev/sda2 rw\n";
    tree.file("proc/self/mountinfo", btrfs);
    let chains = uses(&HostSnapshot::read(&tree.root()), "0000:00:1f.2");
    assert_eq!(chains.first().map(String::as_str), Some("0000:00:1f.2 → sda2 → /srv"));
}

#[test]
fn a_shared_group_names_its_neighbours_and_bridges_do_not_count() {
    let directory = directory();
    let tree = Tree::lab(directory.path(), 1);
    let snapshot = HostSnapshot::read(&tree.root());
    let smbus = function(&snapshot, "0000:00:1f.3");
    let refusal = isolation::viability(&snapshot, smbus, &[]).expect_err("ahci is in the group");
    assert_eq!(
        refusal.to_string(),
        "its IOMMU group 5 also holds 0000:00:1f.2 (ahci, carries sda → /)"
    );
    assert!(isolation::viability(&snapshot, smbus, &[address("0000:00:1f.2")]).is_ok());
    let vf = function(&snapshot, "0000:01:10.0");
    assert!(isolation::viability(&snapshot, vf, &[]).is_ok());
}

#[test]
fn without_an_iommu_nothing_is_viable() {
    let directory = directory();
    let tree = Tree::new(directory.path());
    tree.add(Function::new("0000:01:00.0", (0x8086, 0x10c9), 0x02_0000).netdev("eth0"));
    tree.file("sys/firmware/acpi/tables/DMAR", "");
    let snapshot = HostSnapshot::read(&tree.root());
    let nic = function(&snapshot, "0000:01:00.0");
    let refusal = isolation::viability(&snapshot, nic, &[]).expect_err("no IOMMU");
    assert!(matches!(refusal, NotViable::NoGroup { .. }));
    assert!(refusal.remedy().contains("intel_iommu=on"), "{}", refusal.remedy());

    // vfio's stand-in group does not isolate either.
    tree.file("sys/kernel/iommu_groups/0/name", "vfio-noiommu\n");
    tree.link("sys/bus/pci/devices/0000:01:00.0/iommu_group", "../../kernel/iommu_groups/0");
    let snapshot = HostSnapshot::read(&tree.root());
    assert!(!snapshot.iommu.present);
    let nic = function(&snapshot, "0000:01:00.0");
    assert!(isolation::viability(&snapshot, nic, &[]).is_err());
}

#[test]
fn the_process_that_has_a_group_open_is_named() {
    let directory = directory();
    let tree = Tree::lab(directory.path(), 1);
    let vf = address("0000:01:10.0");
    assert!(vfio::users(&tree.root(), vf).is_empty());
    tree.file("dev/vfio/16", "");
    tree.link("proc/4711/fd/7", "/dev/vfio/16");
    tree.link("proc/4712/fd/7", "/dev/vfio/160");
    tree.file("proc/4711/comm", "assign-vmm\n");
    let users: Vec<String> =
        vfio::users(&tree.root(), vf).iter().map(ToString::to_string).collect();
    assert_eq!(users, ["assign-vmm (process 4711)"]);
}

#[test]
fn the_process_that_has_a_device_open_by_its_own_file_is_named() {
    let directory = directory();
    let tree = Tree::lab(directory.path(), 1);
    let vf = address("0000:01:10.0");
    tree.file("sys/bus/pci/devices/0000:01:10.0/vfio-dev/vfio3/dev", "511:3\n");
    assert_eq!(vfio::cdev(&tree.root(), vf), None, "no file yet");
    tree.file("dev/vfio/devices/vfio3", "");
    assert_eq!(vfio::cdev(&tree.root(), vf).as_deref(), Some("vfio/devices/vfio3"));
    tree.link("proc/4712/fd/7", "/dev/vfio/devices/vfio30");
    assert!(vfio::users(&tree.root(), vf).is_empty());
    tree.link("proc/4711/fd/9", "/dev/vfio/devices/vfio3");
    tree.file("proc/4711/comm", "assign-vmm\n");
    let users = vfio::users(&tree.root(), vf);
    let users: Vec<String> = users.iter().map(ToString::to_string).collect();
    assert_eq!(users, ["assign-vmm (process 4711)"]);
}

#[test]
fn a_member_that_does_not_say_what_it_is_stands_in_the_way() {
    let directory = directory();
    let tree = Tree::lab(directory.path(), 1);
    tree.link("sys/kernel/iommu_groups/16/devices/0000:01:11.7", "../../../../devices");
    let snapshot = HostSnapshot::read(&tree.root());
    let vf = snapshot.function("0000:01:10.0".parse().expect("an address")).expect("a VF");
    let error = isolation::viability(&snapshot, vf, &[]).expect_err("an unknown neighbour");
    assert!(error.to_string().contains("0000:01:11.7"), "{error}");
}

#[test]
fn a_stand_in_group_isolates_nothing_also_beside_an_iommu() {
    let directory = directory();
    let tree = Tree::lab(directory.path(), 1);
    tree.file("sys/kernel/iommu_groups/16/name", "vfio-noiommu\n");
    let snapshot = HostSnapshot::read(&tree.root());
    let vf = snapshot.function("0000:01:10.0".parse().expect("an address")).expect("a VF");
    isolation::viability(&snapshot, vf, &[]).expect_err("nothing behind the group");
}

/// Regions as the kernel prints them (drivers/iommu/iommu.c, `iommu_group_show_resv_regions`).
#[test]
fn memory_that_firmware_wants_mapped_keeps_a_device() {
    let directory = directory();
    let tree = Tree::lab(directory.path(), 1);
    let regions = "sys/kernel/iommu_groups/16/reserved_regions";
    let msi = "0x00000000fee00000 0x00000000feefffff msi\n";
    let relaxable = "0x00000000df000000 0x00000000dfffffff direct-relaxable\n";
    tree.file(regions, &format!("{relaxable}{msi}"));
    let snapshot = HostSnapshot::read(&tree.root());
    let vf = function(&snapshot, "0000:01:10.0");
    assert_eq!(isolation::viability(&snapshot, vf, &[]), Ok(()));

    tree.file(regions, &format!("0x00000000bdf6f000 0x00000000bdf7efff direct\n{msi}"));
    let listed = HostSnapshot::read_within(&tree.root(), Scope::Listing);
    assert!(listed.iommu.groups.values().all(|group| group.reserved.is_empty()));
    let snapshot = HostSnapshot::read(&tree.root());
    let vf = function(&snapshot, "0000:01:10.0");
    let refusal = isolation::viability(&snapshot, vf, &[]).expect_err("a direct region");
    assert_eq!(
        refusal.to_string(),
        "firmware wants 0xbdf6f000-0xbdf7efff mapped for its IOMMU group 16 (a direct region: RMRR \
         or IVMD), so that the kernel does not let it go"
    );
    assert!(refusal.remedy().contains("firmware's settings"), "{}", refusal.remedy());
}

#[test]
fn a_vf_below_a_pf_that_a_guest_has_stays() {
    let directory = directory();
    let tree = Tree::lab(directory.path(), 1);
    tree.remove("sys/bus/pci/devices/0000:01:00.0/driver");
    tree.link("sys/bus/pci/devices/0000:01:00.0/driver", "../../bus/pci/drivers/vfio-pci");
    let snapshot = HostSnapshot::read(&tree.root());
    let vf = function(&snapshot, "0000:01:10.0");
    let refusal = isolation::viability(&snapshot, vf, &[]).expect_err("its PF is given away");
    let told = refusal.to_string();
    assert!(told.contains("0000:01:00.0 is bound to vfio-pci"), "{told}");
    assert!(told.contains("VF token"), "{told}");
    assert_eq!(refusal.remedy(), "Give the PF back to the host: `assign release 0000:01:00.0`.");
}
