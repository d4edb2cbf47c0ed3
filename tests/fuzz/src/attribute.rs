//! One file of a host's tree with any content, read by whoever reads it.

use std::fs;
use std::path::{Path, PathBuf};

use sriov::facts::namespaces::Namespaces;
use sriov::facts::pci::{self, PciFunction};
use sriov::facts::reader::Reader;
use sriov::facts::variant::Variants;
use sriov::facts::{block, console, iommu, net, platform};
use sriov::recorded::simulation::{Kernel, Simulation};
use sriov::recorded::{Function, Tree};
use sriov::snapshot::Scope;
use sriov::{HostRoot, PciAddress, VfRef, act, usage};

/// Who reads a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Subject {
    /// The function 0000:01:00.0, a PF with two VFs.
    Function,
    /// IOMMU groups.
    Groups,
    /// Network interfaces and routes.
    Network,
    /// Disks, mounts and swap.
    Disks,
    /// CPU, memory, NUMA, virtualization.
    Platform,
    /// Variant drivers.
    Variants,
    /// A VF, 0000:01:10.0, and what a list has of it, which is in one file.
    Listed,
    /// An NVMe drive, 0000:02:00.0.
    Drive,
    /// Consoles and displays.
    Console,
    /// What the host uses its devices for, with who is logged in and what processes have open.
    Usage,
}

/// The files, with something the kernel would write in them. The first byte of an input chooses
/// one: add new ones at the end, or the corpus means other files.
pub const FILES: &[(Subject, &str, &str)] = &[
    (Subject::Function, "sys/bus/pci/devices/0000:01:00.0/vendor", "0x8086\n"),
    (Subject::Function, "sys/bus/pci/devices/0000:01:00.0/class", "0x020000\n"),
    (Subject::Function, "sys/bus/pci/devices/0000:01:00.0/revision", "0x01\n"),
    (Subject::Function, "sys/bus/pci/devices/0000:01:00.0/subsystem_vendor", "0x8086\n"),
    (Subject::Function, "sys/bus/pci/devices/0000:01:00.0/numa_node", "-1\n"),
    (Subject::Function, "sys/bus/pci/devices/0000:01:00.0/driver_override", "(null)\n"),
    (Subject::Function, "sys/bus/pci/devices/0000:01:00.0/boot_vga", "0\n"),
    (Subject::Function, "sys/bus/pci/devices/0000:01:00.0/reset_method", "flr bus\n"),
    (Subject::Function, "sys/bus/pci/devices/0000:01:00.0/power_state", "D0\n"),
    (Subject::Function, "sys/bus/pci/devices/0000:01:00.0/current_link_speed", "8.0 GT/s PCIe\n"),
    (Subject::Function, "sys/bus/pci/devices/0000:01:00.0/max_link_speed", "16.0 GT/s PCIe\n"),
    (Subject::Function, "sys/bus/pci/devices/0000:01:00.0/current_link_width", "8\n"),
    (Subject::Function, "sys/bus/pci/devices/0000:01:00.0/max_link_width", "255\n"),
    (
        Subject::Function,
        "sys/bus/pci/devices/0000:01:00.0/resource",
        "0x00000000fe000000 0x00000000fe01ffff 0x0000000000040200\n\
         0x0000000000000000 0x0000000000000000 0x0000000000000000\n\
         0x000000000000e000 0x000000000000e01f 0x0000000000040101\n",
    ),
    (Subject::Function, "sys/bus/pci/devices/0000:01:00.0/config", "\u{1}"),
    (Subject::Function, "sys/bus/pci/devices/0000:01:00.0/sriov_totalvfs", "7\n"),
    (Subject::Function, "sys/bus/pci/devices/0000:01:00.0/sriov_numvfs", "2\n"),
    (Subject::Function, "sys/bus/pci/devices/0000:01:00.0/sriov_vf_device", "10ca\n"),
    (Subject::Function, "sys/bus/pci/devices/0000:01:00.0/sriov_offset", "128\n"),
    (Subject::Function, "sys/bus/pci/devices/0000:01:00.0/sriov_drivers_autoprobe", "1\n"),
    (
        Subject::Groups,
        "sys/kernel/iommu_groups/8/reserved_regions",
        "0x00000000fee00000 0x00000000feefffff msi\n",
    ),
    (Subject::Groups, "sys/kernel/iommu_groups/8/type", "DMA\n"),
    (Subject::Groups, "sys/kernel/iommu_groups/8/name", "vfio-noiommu\n"),
    (Subject::Network, "sys/class/net/eth0/ifindex", "2\n"),
    (Subject::Network, "sys/class/net/eth0/address", "52:54:00:00:00:01\n"),
    (Subject::Network, "sys/class/net/eth0/flags", "0x1003\n"),
    (Subject::Network, "sys/class/net/eth0/carrier", "1\n"),
    (Subject::Network, "sys/class/net/eth0/phys_port_name", "pf0vf1\n"),
    (
        Subject::Network,
        "proc/net/route",
        "Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\n\
         eth0\t00000000\t0202000A\t0003\t0\t0\t0\t00000000\t0\t0\t0\n",
    ),
    (
        Subject::Network,
        "proc/net/ipv6_route",
        "20010db8000000000000000000000000 40 00000000000000000000000000000000 00 \
         00000000000000000000000000000000 00000100 00000001 00000000 00000001     eth0\n",
    ),
    (
        Subject::Network,
        "proc/net/if_inet6",
        "20010db8000000000000000000000001 02 40 00 80     eth0\n",
    ),
    (Subject::Network, "proc/sys/net/ipv6/conf/eth0/accept_ra", "1\n"),
    (Subject::Disks, "sys/class/block/sda/dev", "8:0\n"),
    (
        Subject::Disks,
        "proc/self/mountinfo",
        "25 1 8:0 / /my\\040data rw,relatime shared:1 - ext4 /dev/sda rw\n\
         30 1 0:40 / /srv rw - btrfs /dev/sda rw\n",
    ),
    (Subject::Disks, "proc/swaps", "Filename Type Size Used Priority\n/dev/sda partition 1 0 -2\n"),
    (
        Subject::Platform,
        "proc/cpuinfo",
        "processor\t: 0\nvendor_id\t: AuthenticAMD\nflags\t\t: svm npt avic vmx ept hypervisor\n\n",
    ),
    (Subject::Platform, "proc/meminfo", "MemTotal:       16384 kB\nMemAvailable:    8192 kB\n"),
    (Subject::Platform, "proc/cmdline", "intel_iommu=on iommu=pt hugepages=4\n"),
    (Subject::Platform, "proc/interrupts", "  1:  0  IR-IO-APIC  1-edge  i8042\n"),
    (Subject::Platform, "proc/1/cgroup", "0::/docker/0123456789abcdef\n"),
    (Subject::Platform, "proc/1/environ", "PATH=/bin\0container=lxc\0"),
    (Subject::Platform, "proc/sys/vm/overcommit_memory", "1\n"),
    (Subject::Platform, "sys/kernel/mm/transparent_hugepage/enabled", "always [madvise] never\n"),
    (Subject::Platform, "sys/kernel/mm/hugepages/hugepages-2048kB/nr_hugepages", "16\n"),
    (Subject::Platform, "sys/kernel/mm/ksm/run", "1\n"),
    (Subject::Platform, "sys/kernel/security/lockdown", "[none] integrity confidentiality\n"),
    (Subject::Platform, "sys/devices/system/cpu/online", "0-3\n"),
    (Subject::Platform, "sys/devices/system/cpu/isolated", "2-3\n"),
    (Subject::Platform, "sys/devices/system/cpu/cpu0/topology/core_cpus_list", "0-1\n"),
    (Subject::Platform, "sys/devices/system/cpu/cpu0/topology/package_cpus_list", "0-3\n"),
    (Subject::Platform, "sys/devices/system/node/node0/cpulist", "0-3\n"),
    (Subject::Platform, "sys/devices/system/node/node0/distance", "10 21\n"),
    (Subject::Platform, "sys/devices/system/node/node0/meminfo", "Node 0 MemTotal:  16384 kB\n"),
    (Subject::Platform, "sys/class/iommu/dmar0/intel-iommu/ecap", "f00f5e\n"),
    (Subject::Platform, "sys/class/dmi/id/sys_vendor", "QEMU\n"),
    (Subject::Platform, "sys/hypervisor/properties/features", "00000800\n"),
    (Subject::Platform, "sys/module/kvm_amd/parameters/nested", "1\n"),
    (Subject::Platform, "sys/module/vfio_iommu_type1/parameters/dma_entry_limit", "65535\n"),
    (
        Subject::Platform,
        "lib/modules/6.12.0-test/modules.dep",
        "kernel/drivers/vfio/pci/vfio-pci.ko.xz: kernel/drivers/vfio/vfio.ko.xz\n",
    ),
    (
        Subject::Variants,
        "lib/modules/6.12.0-test/modules.alias",
        "alias vfio_pci:v000015B3d0000101[ABC-E]sv*sd*bc*sc*i* mlx5_vfio_pci\n\
         alias vfio_pci:v00008086d000010C?sv*sd*bc02sc*i* igb_vfio_pci\n",
    ),
    (
        Subject::Variants,
        "lib/modules/6.12.0-test/modules.builtin.modinfo",
        "a.alias=vfio_pci:v*d*sv*sd*bc*sc*i*\0",
    ),
    (Subject::Variants, "proc/sys/kernel/osrelease", "6.12.0-test\n"),
    (Subject::Function, "sys/bus/pci/devices/0000:01:00.0/device", "0x10c9\n"),
    (Subject::Function, "sys/bus/pci/devices/0000:01:00.0/subsystem_device", "0xa03c\n"),
    (Subject::Function, "sys/bus/pci/devices/0000:01:00.0/sriov_stride", "2\n"),
    (Subject::Function, "sys/bus/pci/devices/0000:01:00.0/sriov_vf_total_msix", "64\n"),
    (Subject::Function, "sys/bus/pci/devices/0000:01:00.0/power/runtime_status", "active\n"),
    (Subject::Network, "sys/class/net/eth0/carrier_up_count", "1\n"),
    (
        Subject::Listed,
        "sys/bus/pci/devices/0000:01:10.0/uevent",
        "DRIVER=igbvf\nPCI_CLASS=20000\nPCI_ID=8086:10CA\nPCI_SUBSYS_ID=8086:A03C\n\
         PCI_SLOT_NAME=0000:01:10.0\nMODALIAS=pci:v00008086d000010CAsv00008086sd0000A03Cbc02sc00i00\n",
    ),
    (Subject::Drive, "sys/bus/pci/devices/0000:02:00.0/nvme/nvme0/serial", "S4EWNX0R  \n"),
    (Subject::Drive, "sys/bus/pci/devices/0000:02:00.0/nvme/nvme0/state", "live\n"),
    (Subject::Network, "sys/class/net/eth0/speed", "1000\n"),
    (Subject::Console, "sys/class/tty/console/active", "tty0 ttyS0\n"),
    (Subject::Console, "sys/class/vtconsole/vtcon1/name", "(M) frame buffer device\n"),
    (Subject::Console, "sys/class/vtconsole/vtcon1/bind", "1\n"),
    (Subject::Console, "sys/class/drm/card0-HDMI-A-1/status", "connected\n"),
    (Subject::Console, "sys/class/drm/card0-HDMI-A-1/enabled", "enabled\n"),
    (Subject::Disks, "sys/devices/virtual/block/loop0/loop/backing_file", "/dev/sda\n"),
    (Subject::Disks, "sys/devices/virtual/block/zram0/backing_dev", "/dev/sda\n"),
    (Subject::Disks, "sys/devices/virtual/block/dm-0/dm/name", "root\n"),
    (
        Subject::Disks,
        "sys/kernel/config/nvmet/subsystems/backup/namespaces/1/device_path",
        "/dev/sda\n",
    ),
    (Subject::Disks, "sys/kernel/config/nvmet/subsystems/backup/namespaces/1/enable", "1\n"),
    (Subject::Disks, "proc/spl/kstat/zfs/tank/state", "ONLINE\n"),
    (Subject::Disks, "run/udev/data/b8:0", "E:ID_FS_LABEL=tank\nE:ID_FS_TYPE=zfs_member\n"),
    (Subject::Platform, "sys/kernel/mm/hugepages/hugepages-2048kB/free_hugepages", "8\n"),
    (Subject::Platform, "sys/kernel/mm/hugepages/hugepages-2048kB/resv_hugepages", "2\n"),
    (Subject::Platform, "sys/kernel/mm/hugepages/hugepages-2048kB/surplus_hugepages", "0\n"),
    (Subject::Platform, "sys/kernel/mm/ksm/pages_shared", "100\n"),
    (Subject::Platform, "sys/kernel/mm/ksm/pages_sharing", "900\n"),
    (Subject::Usage, "proc/self/status", "Name:\tassign\nPPid:\t42\n"),
    (Subject::Usage, "proc/42/status", "Name:\tsshd-session\nPPid:\t1\n"),
    (Subject::Usage, "proc/42/comm", "sshd-session\n"),
    (Subject::Usage, "proc/42/environ", "PATH=/bin\0"),
    (
        Subject::Usage,
        "proc/net/tcp",
        "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid\n   \
         0: 010200C0:0016 070200C0:C350 01 00000000:00000000 00:00000000 00000000 0 0 41 2\n",
    ),
    (
        Subject::Usage,
        "proc/net/tcp6",
        "  sl  local_address                         remote_address                        st\n   \
         0: 0000000000000000FFFF0000010200C0:0016 0000000000000000FFFF0000070200C0:C350 01 \
         00000000:00000000 00:00000000 00000000 0 0 43 2\n",
    ),
];

/// The function that [`Subject::Function`] is about.
const PF: &str = "0000:01:00.0";
const VF: &str = "0000:01:10.0";
const DRIVE: &str = "0000:02:00.0";

/// All of what is read of a function, from least to most: all of it at each time, and before that as much as
/// the length of the input says.
const SCOPES: [Scope; 5] =
    [Scope::Listing, Scope::Functions, Scope::Pools, Scope::Planning, Scope::Whole];

/// A host that has every file, as the kernel would write it.
pub fn host(directory: &Path) -> Tree {
    let tree = Tree::lab(directory, 3);
    tree.add(Function::new(DRIVE, (0x1b36, 0x0010), 0x01_0802).driver("nvme").group(9));
    for (name, number) in [("loop0", "7:0"), ("zram0", "251:0"), ("dm-0", "253:0")] {
        tree.file(&format!("sys/devices/virtual/block/{name}/dev"), &format!("{number}\n"));
        tree.link(
            &format!("sys/class/block/{name}"),
            &format!("../../devices/virtual/block/{name}"),
        );
    }
    tree.link("proc/42/fd/3", "socket:[41]");
    for (_, path, text) in FILES {
        tree.file(path, text);
    }
    tree
}

thread_local! {
    static HOST: Host = Host::new();
}

struct Host {
    directory: tempfile::TempDir,
    /// Answers what no file does.
    _kernel: Kernel,
}

impl Host {
    fn new() -> Host {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let kernel = Simulation::new(&host(directory.path())).start();
        Host { directory, _kernel: kernel }
    }
}

/// A file of the tree, chosen by the first byte, with the rest as its content.
pub fn attribute(bytes: &[u8]) {
    let Some((number, content)) = bytes.split_first() else { return };
    let (subject, path, before) = FILES[usize::from(*number) % FILES.len()];
    HOST.with(|host| {
        let directory = host.directory.path();
        let file = directory.join(path);
        fs::write(&file, content).expect("a file of the tree");
        let scopes = [SCOPES[content.len() % SCOPES.len()], Scope::Whole];
        let found = read(subject, scopes, &HostRoot::at(directory));
        for (place, cause) in &found {
            assert!(place.starts_with(directory), "{place:?} is not of the tree");
            assert!(!cause.is_empty());
            // One file is odd: it is named, or the device whose file it is.
            let named =
                |device: &str| path.contains(device) && place.to_string_lossy().contains(device);
            let near = [PF, VF, DRIVE].into_iter().any(named);
            let same = place == &file || same_directory(place, &file);
            assert!(near || same, "{path} is odd, and {place:?} is named: {cause}");
        }
        fs::write(&file, before).expect("a file of the tree");
    });
}

fn same_directory(one: &Path, other: &Path) -> bool {
    let parent = |path: &Path| path.parent().and_then(|parent| fs::canonicalize(parent).ok());
    parent(one) == parent(other)
}

/// Reads, and returns what was noted.
fn read(subject: Subject, scopes: [Scope; 2], root: &HostRoot) -> Vec<(PathBuf, String)> {
    let mut reader = Reader::new(root);
    let pf: PciAddress = PF.parse().expect("an address");
    match subject {
        Subject::Function => {
            for scope in scopes {
                pci::read_within(&mut reader, pf, scope);
            }
            act::vf_settings::divides_vectors(root, VfRef { pf, index: 0 });
        }
        Subject::Listed | Subject::Drive => {
            let address = if subject == Subject::Listed { VF } else { DRIVE };
            let address: PciAddress = address.parse().expect("an address");
            for scope in scopes {
                if let Some(found) = pci::read_within(&mut reader, address, scope) {
                    assert_eq!(found.address, address);
                    let serial = found.serial.unwrap_or_default();
                    assert!(serial.len() <= 20 && !serial.contains(char::is_control), "{serial:?}");
                }
            }
        }
        Subject::Console => {
            for console in console::read(&mut reader) {
                assert!(!console.device.contains('/'), "{console:?}");
            }
        }
        Subject::Usage => {
            let functions = [PF, DRIVE, "0000:00:1f.2"]
                .map(|address| PciFunction::new(address.parse().expect("an address")));
            // Not to know is an answer; no answer is one too long.
            if let Ok(uses) = usage::now_each(root, functions.to_vec()) {
                assert_eq!(uses.len(), functions.len());
                assert!(uses.iter().flatten().all(|used| used.to_string().len() < 8192));
            }
        }
        Subject::Groups => {
            let function = PciFunction { iommu_group: Some(8), ..PciFunction::new(pf) };
            iommu::read(&mut reader, &[function], Scope::Whole);
        }
        Subject::Network => {
            net::read(&mut reader, None);
            assert_ne!(net::speed(root, "eth0"), Some(0));
            act::link::expects_carrier(root, pf);
        }
        Subject::Disks => {
            let namespaces = Namespaces::read(&mut reader);
            block::read(&mut reader, &namespaces);
        }
        Subject::Platform => drop(platform::read_whole(&mut reader)),
        Subject::Variants => {
            let variants = Variants::read(&mut reader);
            let device = PciFunction { vendor: 0x8086, device: 0x10ca, ..PciFunction::new(pf) };
            assert!(!variants.best_for(&device).is_empty());
        }
    }
    reader.problems.into_iter().map(|problem| (problem.path, problem.cause)).collect()
}
