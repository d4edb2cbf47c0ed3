//! What the host needs, on trees composed from what the kernel and other programs document: the
//! kinds of use that the lab cannot have. Those it can are tried there.

use sriov::facts::claims::Claim;
use sriov::facts::console::{Console, Role};
use sriov::facts::elsewhere::{Elsewhere, Guests};
use sriov::facts::session::Session;
use sriov::recorded::{Function, Tree};
use sriov::usage::{self, Facts, Index, UseKind};
use sriov::{Binding, Change, HostSnapshot, PciAddress, Reason, Target, vfio};

const NIC: &str = "0000:01:00.0";
const AHCI: &str = "0000:00:1f.2";

fn directory() -> tempfile::TempDir {
    tempfile::tempdir().expect("a temporary directory")
}

fn address(text: &str) -> PciAddress {
    text.parse().expect("an address")
}

/// The lab's host without what its disk carries.
fn idle(directory: &tempfile::TempDir) -> Tree {
    let tree = Tree::lab(directory.path(), 0);
    tree.file("proc/self/mountinfo", "");
    tree
}

fn uses(tree: &Tree, function: &str) -> Vec<(UseKind, String)> {
    let snapshot = HostSnapshot::read(&tree.root());
    assert_eq!(snapshot.problems, []);
    let text = serde_json::to_string(&snapshot).expect("serialized");
    assert_eq!(serde_json::from_str::<HostSnapshot>(&text).expect("read back"), snapshot);
    carried(&snapshot, function)
}

fn carried(snapshot: &HostSnapshot, function: &str) -> Vec<(UseKind, String)> {
    let function = snapshot.function(address(function)).expect("the function");
    let found = usage::of(snapshot, function);
    found.iter().map(|used| (used.kind, used.carried())).collect()
}

fn one(kind: UseKind, chain: &str) -> Vec<(UseKind, String)> {
    vec![(kind, chain.to_owned())]
}

/// A block device at a place below `sys`.
fn block(tree: &Tree, place: &str, number: &str) {
    let name = place.rsplit('/').next().expect("a name");
    tree.file(&format!("sys/{place}/dev"), &format!("{number}\n"));
    tree.directory(&format!("sys/{place}/holders"));
    tree.link(&format!("sys/class/block/{name}"), &format!("../../{place}"));
}

fn hold(tree: &Tree, lower: &str, upper: &str) {
    tree.link(&format!("sys/class/block/{lower}/holders/{upper}"), &format!("../../{upper}"));
}

/// Tries to take a device; nothing may be written.
fn refusal(tree: &Tree, device: &str, driver: &str) -> (Reason, String) {
    let change = Change::Bind {
        device: Target::Function(address(device)),
        from: Binding { driver: Some(driver.to_owned()), ..Binding::default() },
        driver: "vfio-pci".to_owned(),
    };
    let error = change.perform(&tree.root()).expect_err("refused");
    let path = tree.root().pci_attribute(address(device), "driver_override");
    assert_eq!(std::fs::read_to_string(path).expect("an override"), "(null)\n");
    (error.reason, error.message)
}

/// Pools as OpenZFS shows them in procfs (module/os/linux/spl/spl-kstat.c), members as udev's
/// blkid rule records them (ID_FS_TYPE, ID_FS_LABEL of libblkid/src/superblocks/zfs.c).
#[test]
fn a_member_of_a_zfs_pool_carries_it() {
    let directory = directory();
    let tree = idle(&directory);
    let disk = "devices/pci0000:00/0000:00:1f.2/ata1/block/sda/sda1";
    block(&tree, disk, "8:1");
    tree.file(&format!("sys/{disk}/partition"), "1\n");
    let facts = "S:disk/by-label/tank\nE:ID_FS_TYPE=zfs_member\nE:ID_FS_LABEL=tank\n";
    tree.file("run/udev/data/b8:1", facts);
    assert_eq!(uses(&tree, AHCI), [], "a member of a pool that is not imported");

    tree.file("proc/spl/kstat/zfs/tank/state", "ONLINE\n");
    tree.file("proc/spl/kstat/zfs/arcstats", "");
    assert_eq!(uses(&tree, AHCI), one(UseKind::Pool, "sda1 → ZFS pool tank"));
    let mounts = "40 1 0:50 / /srv/my\\040data rw - zfs tank/my\\040data rw\n\
                  41 1 0:51 / /other rw - zfs tanker rw\n";
    tree.file("proc/self/mountinfo", mounts);
    let found = uses(&tree, AHCI);
    assert_eq!(found.first(), one(UseKind::Mount, "sda1 → /srv/my data").first(), "{found:?}");
    assert_eq!(found.len(), 2, "{found:?}");
}

/// A filesystem of several devices names one of them in mountinfo; the others are found by
/// /sys/fs/btrfs (Documentation of btrfs, "sysfs interface").
#[test]
fn every_device_of_a_btrfs_carries_it() {
    let directory = directory();
    let tree = idle(&directory);
    tree.add(Function::new("0000:02:00.0", (0x1b4b, 0x9230), 0x01_0601).driver("ahci"));
    tree.disk("0000:02:00.0", "sdb", "8:16");
    tree.file("proc/self/mountinfo", "30 1 0:40 / /srv rw - btrfs /dev/sda rw\n");
    for member in ["sda", "sdb"] {
        tree.link(&format!("sys/fs/btrfs/7f3c-11/devices/{member}"), "../../../../x");
    }
    assert_eq!(uses(&tree, "0000:02:00.0"), one(UseKind::Mount, "sdb → btrfs 7f3c-11"));
    assert_eq!(uses(&tree, AHCI).len(), 2);
}

/// An iSCSI or SAS disk on two ways, under dm-multipath and LVM: names by `dm/name`
/// (Documentation/ABI/testing/sysfs-block-dm).
#[test]
fn multipath_volumes_are_followed_and_named_as_people_name_them() {
    let directory = directory();
    let tree = idle(&directory);
    let second = Function::new("0000:02:00.0", (0x1000, 0x0097), 0x01_0700).driver("mpt3sas");
    tree.add(second);
    let host = "devices/pci0000:00/0000:02:00.0/host9/port-9:0/end_device-9:0/target9:0:0/9:0:0:0";
    block(&tree, &format!("{host}/block/sdb"), "8:16");
    for (name, number, label) in
        [("dm-0", "253:0", "mpatha"), ("dm-1", "253:1", "vg0-root"), ("dm-2", "253:2", "vg0-swap")]
    {
        block(&tree, &format!("devices/virtual/block/{name}"), number);
        tree.file(&format!("sys/devices/virtual/block/{name}/dm/name"), &format!("{label}\n"));
    }
    hold(&tree, "sda", "dm-0");
    hold(&tree, "sdb", "dm-0");
    hold(&tree, "dm-0", "dm-1");
    hold(&tree, "dm-0", "dm-2");
    assert_eq!(
        uses(&tree, AHCI),
        [
            (UseKind::Holder, "sda → mpatha → vg0-root".to_owned()),
            (UseKind::Holder, "sda → mpatha → vg0-swap".to_owned())
        ]
    );
    tree.file("proc/self/mountinfo", "25 1 253:1 / / rw - ext4 /dev/mapper/vg0-root rw\n");
    tree.file("dev/dm-2", "");
    tree.link("dev/mapper/vg0-swap", "../dm-2");
    tree.file("proc/swaps", "Filename Type Size Used Priority\n/dev/mapper/vg0-swap p 1 0 -2\n");
    for (function, disk) in [(AHCI, "sda"), ("0000:02:00.0", "sdb")] {
        assert_eq!(
            uses(&tree, function),
            [
                (UseKind::Root, format!("{disk} → mpatha → vg0-root → /")),
                (UseKind::Swap, format!("{disk} → mpatha → vg0-swap → swap"))
            ]
        );
    }
}

/// A loop device on a raw disk (drivers/block/loop.c, `loop/backing_file`), and an NVMe target
/// (drivers/nvme/target/configfs.c): neither claims the disk nor shows as its holder.
#[test]
fn a_loop_device_on_a_disk_and_a_disk_that_is_served_are_uses() {
    let directory = directory();
    let tree = idle(&directory);
    tree.file("dev/sda", "");
    block(&tree, "devices/virtual/block/loop0", "7:0");
    tree.file("sys/devices/virtual/block/loop0/loop/backing_file", "/var/lib/image\n");
    let namespace = "sys/kernel/config/nvmet/subsystems/nqn.lab/namespaces/1";
    tree.file(&format!("{namespace}/device_path"), "/dev/sda\n");
    tree.file(&format!("{namespace}/enable"), "0\n");
    assert_eq!(uses(&tree, AHCI), []);
    tree.file(&format!("{namespace}/enable"), "1\n");
    assert_eq!(uses(&tree, AHCI), one(UseKind::Holder, "sda → NVMe target nqn.lab"));
    tree.file(&format!("{namespace}/enable"), "0\n");
    tree.file("sys/devices/virtual/block/loop0/loop/backing_file", "/dev/sda\n");
    assert_eq!(uses(&tree, AHCI), one(UseKind::Holder, "sda → loop0"));
    tree.file("proc/self/mountinfo", "20 1 7:0 / /iso ro - iso9660 /dev/loop0 ro\n");
    assert_eq!(uses(&tree, AHCI), one(UseKind::Mount, "sda → loop0 → /iso"));
}

/// Places in sysfs as drivers/usb/storage, virtio_blk and vmd make them.
#[test]
fn a_disk_is_traced_to_its_controller_whatever_lies_between() {
    let directory = directory();
    let tree = idle(&directory);
    let usb = "devices/pci0000:00/0000:00:14.0/usb2/2-3/2-3:1.0/host6/target6:0:0/6:0:0:0";
    let vmd = "devices/pci0000:00/0000:00:0e.0/pci10000:e0/10000:e0:06.0/10000:e1:00.0/nvme/nvme0";
    for (function, class) in [("0000:00:14.0", 0x0c_0330), ("0000:00:0e.0", 0x01_0400)] {
        tree.add(Function::new(function, (0x8086, 1), class).driver("some"));
    }
    tree.add(Function::new("0000:00:05.0", (0x1af4, 0x1042), 0x01_0000).driver("virtio-pci"));
    block(&tree, &format!("{usb}/block/sdc"), "8:32");
    block(&tree, "devices/pci0000:00/0000:00:05.0/virtio2/block/vda", "254:0");
    block(&tree, &format!("{vmd}/nvme0n1"), "259:0");
    let mounts = "20 1 8:32 / /usb rw - vfat /dev/sdc rw\n21 1 254:0 / /vda rw - xfs /dev/vda rw\n\
                  22 1 259:0 / /vmd rw - xfs /dev/nvme0n1 rw\n";
    tree.file("proc/self/mountinfo", mounts);
    for (function, chain) in [
        ("0000:00:14.0", "sdc → /usb"),
        ("0000:00:05.0", "vda → /vda"),
        ("0000:00:0e.0", "nvme0n1 → /vmd"),
    ] {
        assert_eq!(uses(&tree, function), one(UseKind::Mount, chain));
    }
}

/// A boot partition sorts before the root by its name and by its place, and is the lesser loss.
#[test]
fn the_root_comes_before_other_filesystems() {
    let directory = directory();
    let tree = idle(&directory);
    let disk = "devices/pci0000:00/0000:00:1f.2/ata2/block/sdb";
    block(&tree, disk, "8:16");
    for (part, number) in [("sdb1", "8:17"), ("sdb2", "8:18")] {
        block(&tree, &format!("{disk}/{part}"), number);
        tree.file(&format!("sys/{disk}/{part}/partition"), "1\n");
    }
    let mounts =
        "26 25 8:17 / /boot/efi rw - vfat /dev/sdb1 rw\n25 1 8:18 / / rw - ext4 /dev/sdb2 rw\n";
    tree.file("proc/self/mountinfo", mounts);
    assert_eq!(
        uses(&tree, AHCI),
        [(UseKind::Root, "sdb2 → /".to_owned()), (UseKind::Mount, "sdb1 → /boot/efi".to_owned())]
    );
}

/// A container's mounts: another namespace in `ns/mnt` (namespaces(7)), mountinfo as in ours. What
/// both see is told once.
#[test]
fn what_only_a_container_has_mounted_is_a_use() {
    let directory = directory();
    let tree = idle(&directory);
    block(&tree, "devices/pci0000:00/0000:00:1f.2/ata2/block/sdb", "8:16");
    tree.file("proc/self/mountinfo", "25 1 8:0 / / rw - ext4 /dev/sda rw\n");
    for (pid, namespace) in [("self", 1), ("1", 1), ("70", 2), ("71", 2), ("72", 1)] {
        tree.link(&format!("proc/{pid}/ns/mnt"), &format!("mnt:[{namespace}]"));
        tree.link(&format!("proc/{pid}/ns/net"), "net:[9]");
    }
    let theirs = "60 50 8:0 /etc/hosts /etc/hosts rw - ext4 /dev/sda rw\n\
                  61 50 8:16 / /data rw - ext4 /dev/sdb rw\n";
    tree.file("proc/71/mountinfo", theirs);
    tree.file("proc/70/comm", "postgres\n");
    let found = uses(&tree, AHCI);
    let theirs = "sdb → /data, in the mount namespace of postgres (process 70)";
    assert_eq!(found, [(UseKind::Root, "sda → /".to_owned()), (UseKind::Mount, theirs.to_owned())]);
}

#[test]
fn whoever_has_a_device_of_the_function_open_is_named() {
    let directory = directory();
    let tree = idle(&directory);
    tree.link("proc/812/fd/9", "/dev/sda");
    tree.link("proc/812/fd/10", "/dev/sda");
    tree.link("proc/813/fd/9", "/dev/sdab");
    tree.file("proc/812/comm", "qemu-system-x86\n");
    let (reason, message) = refusal(&tree, AHCI, "ahci");
    assert_eq!(reason, Reason::HostUsesDevice);
    let chain = "(0000:00:1f.2 → sda → open in qemu-system-x86 (process 812))";
    assert!(message.ends_with(chain), "{message}");

    // A network card's clock (Documentation/driver-api/ptp.rst) under phc2sys, and a sound card's
    // controls, which every sound server keeps open.
    let nic = "devices/pci0000:00/0000:00:01.0/0000:01:00.0";
    tree.link("sys/dev/char/248:0", &format!("../../{nic}/ptp/ptp0"));
    tree.link("sys/dev/char/116:2", &format!("../../{nic}/sound/card0/controlC0"));
    tree.link("proc/900/fd/3", "/dev/snd/controlC0");
    tree.link("proc/900/fd/4", "/dev/ptp0");
    tree.file("proc/900/comm", "phc2sys\n");
    let (_, message) = refusal(&tree, NIC, "igb");
    assert!(
        message.ends_with("(0000:01:00.0 → ptp0 → open in phc2sys (process 900))"),
        "{message}"
    );
}

#[test]
fn an_interface_that_is_not_here_is_elsewhere() {
    let directory = directory();
    let tree = idle(&directory);
    assert_eq!(uses(&tree, NIC), []);
    // As the kernel leaves it: the directory, and nothing in it that this namespace may see.
    let net = "sys/devices/pci0000:00/0000:00:01.0/0000:01:00.0/net";
    std::fs::remove_dir_all(directory.path().join(net).join("eth0")).expect("an interface");
    tree.remove("sys/class/net/eth0");
    let hidden = one(UseKind::Namespace, "an interface in another network namespace");
    assert_eq!(uses(&tree, NIC), hidden);
    assert_eq!(refusal(&tree, NIC, "igb").0, Reason::HostUsesDevice);
    // A virtio card's is below its virtio device.
    tree.add(Function::new("0000:00:05.0", (0x1af4, 0x1041), 0x02_0000).driver("virtio-pci"));
    tree.directory("sys/devices/pci0000:00/0000:00:05.0/virtio1/net");
    assert_eq!(uses(&tree, "0000:00:05.0"), hidden);
}

/// Facts that only a kernel tells, put together by hand.
#[test]
fn other_namespaces_and_the_session_are_part_of_a_snapshot() {
    let directory = directory();
    let tree = idle(&directory);
    tree.virtual_netdev("br0", 3);
    tree.stack("eth0", "br0");
    let mut snapshot = HostSnapshot::read(&tree.root());
    let interface = |name: &str| {
        let mut netdev = snapshot.netdev("br0").expect("br0").clone();
        netdev.name = name.to_owned();
        netdev
    };
    let (mut macvlan, vlan) = (interface("mv0"), interface("mv0.7"));
    macvlan.uppers = vec!["mv0.7".to_owned()];
    let guests = Guests {
        name: "network namespace blue".to_owned(),
        netdevs: vec![macvlan, vlan],
        above: [("br0".to_owned(), vec!["mv0".to_owned()])].into(),
    };
    snapshot.elsewhere = Elsewhere { namespaces: vec![guests], hidden: Vec::new() };
    let there = "in network namespace blue";
    let chain = format!("eth0 → br0 → mv0, {there} → mv0.7, {there}");
    assert_eq!(carried(&snapshot, NIC), one(UseKind::Stack, &chain));

    let client = "192.0.2.7".parse().expect("an address");
    snapshot.session = Some(Session { client, interfaces: vec!["br0".to_owned()] });
    let found = carried(&snapshot, NIC);
    let session = one(UseKind::Session, "eth0 → br0 → this SSH session");
    assert_eq!(found.first(), session.first(), "the gravest comes first");
    assert_eq!(found.len(), 2);
}

/// Ports of an Open vSwitch have its datapath's device as master (net/openvswitch/vport-netdev.c).
#[test]
fn a_port_of_open_vswitch_and_a_program_are_uses() {
    let directory = directory();
    let tree = idle(&directory);
    tree.virtual_netdev("ovs-system", 3);
    tree.stack("eth0", "ovs-system");
    assert_eq!(uses(&tree, NIC), one(UseKind::Stack, "eth0 → ovs-system"));
    let mut snapshot = HostSnapshot::read(&tree.root());
    for netdev in &mut snapshot.netdevs {
        netdev.xdp = netdev.name == "eth0";
    }
    assert!(
        carried(&snapshot, NIC).contains(&(UseKind::Program, "eth0 → an XDP program".to_owned()))
    );
}

/// /sys/class/tty/console/active (Documentation/ABI/testing/sysfs-tty), vtconsole and graphics
/// (Documentation/ABI/testing/sysfs-class-vtconsole), connectors (Documentation/gpu/drm-kms.rst).
#[test]
fn consoles_are_uses_and_dark_displays_are_not() {
    let directory = directory();
    let tree = idle(&directory);
    let (uart, gpu) = ("devices/pci0000:00/0000:00:16.3", "devices/pci0000:00/0000:00:02.0");
    tree.add(Function::new("0000:00:16.3", (0x8086, 0x1e3d), 0x07_0002).driver("serial"));
    tree.add(Function::new("0000:00:02.0", (0x8086, 0x3e92), 0x03_0000).driver("i915"));
    tree.file("sys/class/tty/console/active", "tty0 ttyS4\n");
    tree.link("sys/class/tty/ttyS4", &format!("../../{uart}/tty/ttyS4"));
    tree.link("sys/class/tty/tty0", "../../devices/virtual/tty/tty0");
    assert_eq!(uses(&tree, "0000:00:16.3"), one(UseKind::Console, "ttyS4 → the kernel's console"));

    tree.link("sys/class/graphics/fb0", &format!("../../{gpu}/graphics/fb0"));
    tree.file("sys/class/graphics/fbcon/cursor_blink", "1\n");
    tree.file("sys/class/vtconsole/vtcon0/name", "(S) dummy device\n");
    tree.file("sys/class/vtconsole/vtcon0/bind", "1\n");
    tree.file("sys/class/vtconsole/vtcon1/name", "(M) frame buffer device\n");
    tree.file("sys/class/vtconsole/vtcon1/bind", "0\n");
    for (connector, status, enabled) in
        [("card0-DP-1", "connected", "disabled"), ("card0-DP-2", "disconnected", "disabled")]
    {
        let place = format!("{gpu}/drm/card0/{connector}");
        tree.file(&format!("sys/{place}/status"), &format!("{status}\n"));
        tree.file(&format!("sys/{place}/enabled"), &format!("{enabled}\n"));
        tree.link(&format!("sys/class/drm/{connector}"), &format!("../../{place}"));
    }
    assert_eq!(uses(&tree, "0000:00:02.0"), []);
    tree.file("sys/class/vtconsole/vtcon1/bind", "1\n");
    tree.file(&format!("sys/{gpu}/drm/card0/card0-DP-1/enabled"), "enabled\n");
    assert_eq!(
        uses(&tree, "0000:00:02.0"),
        [
            (UseKind::Console, "card0-DP-1 → a monitor that is on".to_owned()),
            (UseKind::Console, "fb0 → the text console".to_owned())
        ]
    );
    // Firmware's picture needs no driver.
    tree.add(Function::new("0000:00:03.0", (0x1234, 0x1111), 0x03_0000));
    tree.attribute("0000:00:03.0", "boot_vga", "1\n");
    let change = Change::Bind {
        device: Target::Function(address("0000:00:03.0")),
        from: Binding::default(),
        driver: "vfio-pci".to_owned(),
    };
    let error = change.perform(&tree.root()).expect_err("refused");
    assert!(error.message.ends_with("(0000:00:03.0 → the boot display)"), "{error}");
}

#[test]
fn a_snapshot_that_somebody_made_up_ends() {
    let directory = directory();
    let tree = idle(&directory);
    let mut snapshot = HostSnapshot::read(&tree.root());
    let eth0 = snapshot.netdev("eth0").expect("eth0").clone();
    let disk = snapshot.blocks.first().expect("sda").clone();
    let count = 20_000;
    snapshot.netdevs.clear();
    snapshot.blocks.clear();
    for number in 0..count {
        let mut netdev = eth0.clone();
        netdev.name = format!("n{number}");
        netdev.pci = eth0.pci.filter(|_| number == 0);
        // On the next one, on itself, and on the first: chains and rings.
        netdev.uppers = vec![format!("n{}", number + 1), netdev.name.clone(), "n0".to_owned()];
        snapshot.netdevs.push(netdev);
        let mut block = disk.clone();
        block.name = format!("b{number}");
        block.pci.retain(|_| number == 0);
        block.holders = vec![format!("b{}", number + 1), block.name.clone(), "b0".to_owned()];
        block.partition_of = Some(format!("b{number}"));
        snapshot.blocks.push(block);
    }
    for function in [NIC, AHCI] {
        let found = carried(&snapshot, function);
        assert!(!found.is_empty() && found.len() < 1000, "{}", found.len());
    }
}

#[test]
fn claims_and_consoles_are_found_by_function() {
    let directory = directory();
    let snapshot = HostSnapshot::read(&idle(&directory).root());
    let by = vfio::User { pid: 0, command: String::new() };
    let claims = [
        (address(AHCI), Claim { device: "sda".to_owned(), by: None }),
        (address(AHCI), Claim { device: "sg0".to_owned(), by: Some(by) }),
    ];
    let consoles = [Console { pci: address(NIC), device: "ttyS9".to_owned(), role: Role::Kernel }];
    let facts = Facts { claims: &claims, consoles: &consoles, ..Facts::from(&snapshot) };
    let index = Index::new(facts);
    let chains = |text: &str| {
        let function = snapshot.function(address(text)).expect("the function");
        index.uses(function).iter().map(|used| used.carried()).collect::<Vec<_>>()
    };
    assert_eq!(
        chains(AHCI),
        [
            "sda → claimed by the kernel or a process",
            "sg0 → open in a process that cannot be seen from here"
        ]
    );
    assert_eq!(chains(NIC), ["ttyS9 → the kernel's console"]);
}

/// The words that a record of an override keeps.
#[test]
fn kinds_have_stable_words() {
    let text = serde_json::to_string(&[
        UseKind::Bridge,
        UseKind::Session,
        UseKind::Root,
        UseKind::Mount,
        UseKind::Swap,
        UseKind::Pool,
        UseKind::DefaultRoute,
        UseKind::Address,
        UseKind::Route,
        UseKind::Stack,
        UseKind::Namespace,
        UseKind::Program,
        UseKind::Holder,
        UseKind::Claimed,
        UseKind::Open,
        UseKind::Console,
    ]);
    assert_eq!(
        text.expect("serialized"),
        "[\"bridge\",\"session\",\"root\",\"mount\",\"swap\",\"pool\",\"default-route\",\"address\",\
         \"route\",\"stack\",\"namespace\",\"program\",\"holder\",\"claimed\",\"open\",\"console\"]"
    );
}
