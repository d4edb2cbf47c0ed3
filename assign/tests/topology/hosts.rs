//! Hosts composed for these tests. None of them was recorded from a machine.

use std::collections::BTreeMap;
use std::path::Path;

use sriov::facts::capabilities::{Capabilities, PortKind};
use sriov::recorded::{Config, Function, Tree};
use sriov::{HostSnapshot, PciAddress, PciFunction, PfFacts, VfRef};

/// Intel IOMMU in use.
fn with_iommu(directory: &Path) -> Tree {
    let tree = Tree::new(directory);
    tree.file("sys/class/iommu/dmar0/name", "dmar0\n");
    tree
}

/// A port, that keeps apart what is behind it or not.
fn port(address: &'static str, id: (u16, u16), kind: PortKind, isolates: bool) -> Function {
    let config = Config::new(id, 0x06_0400).pcie(kind, false, 3, 8);
    let config = if isolates { config.isolating() } else { config };
    Function::new(address, id, 0x06_0400).driver("pcieport").config(config)
}

/// A laptop: one GPU with its audio in a group with their root port, wireless, NVMe with `/`, and
/// the chipset's usual company.
pub fn laptop(directory: &Path) -> Tree {
    let tree = with_iommu(directory);
    let add = |address, id, class, driver: Option<&'static str>, group| {
        let function = Function::new(address, id, class).group(group);
        tree.add(match driver {
            Some(driver) => function.driver(driver),
            None => function,
        });
    };
    add("0000:00:00.0", (0x8086, 0x9b61), 0x06_0000, None, 1);
    add("0000:00:02.0", (0x8086, 0x9bca), 0x03_0000, Some("i915"), 0);
    tree.attribute("0000:00:02.0", "boot_vga", "1\n");
    add("0000:00:04.0", (0x8086, 0x1903), 0x11_8000, Some("proc_thermal"), 3);
    add("0000:00:08.0", (0x8086, 0x1911), 0x08_8000, None, 4);
    add("0000:00:12.0", (0x8086, 0x02f9), 0x11_8000, None, 5);
    add("0000:00:14.0", (0x8086, 0x02ed), 0x0c_0330, Some("xhci_hcd"), 6);
    add("0000:00:14.2", (0x8086, 0x02ef), 0x05_0000, None, 6);
    add("0000:00:1f.0", (0x8086, 0x0284), 0x06_0100, None, 9);
    add("0000:00:1f.3", (0x8086, 0x02c8), 0x04_0380, Some("snd_hda_intel"), 9);
    add("0000:00:1f.4", (0x8086, 0x02a3), 0x0c_0500, Some("i801_smbus"), 9);
    let root = PortKind::RootPort;
    tree.add(port("0000:00:01.0", (0x8086, 0x1901), root, false).group(2));
    tree.add(port("0000:00:1d.0", (0x8086, 0x02b0), root, true).group(7));
    // The kernel knows ports that isolate without saying so.
    tree.add(port("0000:00:1d.4", (0x8086, 0x02b4), root, false).group(8));
    let gpu = Function::new("0000:01:00.0", (0x10de, 0x1f91), 0x03_0200).below("0000:00:01.0");
    tree.add(gpu.driver("nouveau").group(2));
    let audio = Function::new("0000:01:00.1", (0x10de, 0x10fa), 0x04_0300).below("0000:00:01.0");
    tree.add(audio.driver("snd_hda_intel").group(2));
    let nvme = Function::new("0000:02:00.0", (0x144d, 0xa808), 0x01_0802).below("0000:00:1d.0");
    tree.add(nvme.driver("nvme").group(10));
    let wireless = Function::new("0000:03:00.0", (0x8086, 0x2723), 0x02_8000).below("0000:00:1d.4");
    tree.add(wireless.driver("iwlwifi").group(11).netdev("wlp3s0"));
    let disk = "devices/pci0000:00/0000:00:1d.0/0000:02:00.0/nvme/nvme0/nvme0n1";
    tree.file(&format!("sys/{disk}/dev"), "259:0\n");
    tree.directory(&format!("sys/{disk}/holders"));
    tree.link("sys/class/block/nvme0n1", &format!("../../{disk}"));
    tree.file("proc/self/mountinfo", "25 1 259:0 / / rw - ext4 /dev/nvme0n1 rw\n");
    tree
}

/// Two NUMA nodes, each with a switch, two NICs of 64 VFs each, and company on the root bus.
pub fn server() -> HostSnapshot {
    let mut host = Server { snapshot: HostSnapshot::default(), node: 0 };
    host.snapshot.iommu.present = true;
    for (node, root) in [(0, 0x00), (1, 0x80)] {
        host.node = node;
        for device in 1..9 {
            host.add((root, device, 0), (0x8086, 0x2021), 0x08_8000, None, "");
        }
        let top = host.port((root, 16, 0), (0x8086, 0x2030), PortKind::RootPort, None);
        let up = host.port((root + 1, 0, 0), (0x10b5, 0x8747), PortKind::UpstreamPort, Some(top));
        for nic in 0..2 {
            let place = (root + 2, 8 * (nic + 1), 0);
            let down = host.port(place, (0x10b5, 0x8747), PortKind::DownstreamPort, Some(up));
            let place = (root + 3 + nic, 0, 0);
            let pf = host.add(place, (0x8086, 0x1592), 0x02_0000, Some(down), "ice");
            host.vfs(pf, &format!("ens{}f{nic}", node + 1), 64);
        }
    }
    host.snapshot.functions.sort_by_key(|function| function.address);
    host.snapshot
}

/// A host in the making.
struct Server {
    snapshot: HostSnapshot,
    node: u32,
}

impl Server {
    /// Adds a function in a group of its own.
    fn add(
        &mut self,
        (bus, device, number): (u8, u8, u8),
        (vendor, id): (u16, u16),
        class: u32,
        parent: Option<PciAddress>,
        driver: &str,
    ) -> PciAddress {
        let address = PciAddress::new(0, bus, device, number).expect("an address");
        let group = 100 + u32::try_from(self.snapshot.functions.len()).expect("few functions");
        self.snapshot.functions.push(PciFunction {
            vendor,
            device: id,
            class,
            parent,
            driver: (!driver.is_empty()).then(|| driver.to_owned()),
            iommu_group: Some(group),
            numa_node: Some(self.node),
            ..PciFunction::new(address)
        });
        let group = self.snapshot.iommu.groups.entry(group).or_default();
        group.members.push(address);
        group.isolates = true;
        address
    }

    /// Adds a port that keeps apart what is behind it, unless it has but one thing behind it.
    fn port(
        &mut self,
        place: (u8, u8, u8),
        id: (u16, u16),
        kind: PortKind,
        parent: Option<PciAddress>,
    ) -> PciAddress {
        let address = self.add(place, id, 0x06_0400, parent, "pcieport");
        let config = Config::new(id, 0x06_0400).pcie(kind, false, 3, 16);
        let config = if kind == PortKind::UpstreamPort { config } else { config.isolating() };
        let (capabilities, odd) = Capabilities::parse(&config.bytes());
        assert!(odd.is_empty(), "{odd:?}");
        self.last().capabilities = Some(capabilities);
        address
    }

    /// Gives a PF its VFs, bound for guests.
    fn vfs(&mut self, pf: PciAddress, name: &str, count: u16) {
        self.last().netdevs = vec![name.to_owned()];
        let parent = self.last().parent;
        let mut vfs = BTreeMap::new();
        for index in 0..count {
            let [_, routing] = (0x80 + index).to_be_bytes();
            let place = (pf.bus(), routing >> 3, routing & 7);
            let vf = self.add(place, (0x8086, 0x1889), 0x02_0000, parent, "vfio-pci");
            self.last().vf_of = Some(VfRef { pf, index });
            vfs.insert(index, vf);
        }
        let function = self.snapshot.functions.iter_mut().find(|f| f.address == pf);
        function.expect("the PF").sriov = Some(PfFacts {
            nvme: None,
            total: count,
            present: count,
            autoprobe: true,
            vf_device: 0x1889,
            offset: 128,
            stride: 1,
            vfs,
            vf_settings: BTreeMap::new(),
        });
    }

    fn last(&mut self) -> &mut PciFunction {
        self.snapshot.functions.last_mut().expect("a function")
    }
}

/// A virtual machine of a cloud: no IOMMU.
pub fn cloud(directory: &Path) -> Tree {
    let tree = Tree::new(directory);
    tree.add(Function::new("0000:00:00.0", (0x8086, 0x1237), 0x06_0000));
    tree.add(Function::new("0000:00:01.0", (0x8086, 0x7000), 0x06_0100));
    tree.add(Function::new("0000:00:03.0", (0x1d0f, 0x1111), 0x03_0000));
    tree.add(Function::new("0000:00:04.0", (0x1d0f, 0x8061), 0x01_0802).driver("nvme"));
    tree.add(
        Function::new("0000:00:05.0", (0x1d0f, 0xec20), 0x02_0000).driver("ena").netdev("eth0"),
    );
    tree
}

/// A snapshot that nobody could have read: parents in a circle and out of nowhere, a VF of a VF, a
/// chain of bridges without end, names made to break a picture.
pub fn hostile() -> HostSnapshot {
    let at = |bus: u8, device: u8| PciAddress::new(0, bus, device, 0).expect("an address");
    let mut snapshot = HostSnapshot::default();
    for device in 0..8 {
        let mut function = PciFunction::new(at(1, device));
        function.parent = Some(at(1, (device + 1) % 8));
        function.class = 0x06_0400;
        function.vf_of = (device < 2).then(|| VfRef { pf: at(1, 1 - device), index: 65_535 });
        function.driver = Some("<b>&\u{202e}\u{1b}[31m".repeat(50));
        function.netdevs = vec!["\u{300}".repeat(5000)];
        function.iommu_group = Some(4_000_000_000);
        snapshot.functions.push(function);
    }
    for bus in 2..=255 {
        let mut function = PciFunction::new(at(bus, 0));
        function.class = 0x06_0400;
        function.parent = Some(at(bus - 1, 0));
        function.iommu_group = Some(u32::from(bus % 3));
        snapshot.functions.push(function);
    }
    for device in 1..32 {
        let mut function = PciFunction::new(at(200, device));
        function.iommu_group = Some(0);
        function.parent = Some(at(0, 31));
        snapshot.functions.push(function);
    }
    snapshot.functions.sort_by_key(|function| function.address);
    for function in &snapshot.functions {
        let number = function.iommu_group.unwrap_or(0);
        let group = snapshot.iommu.groups.entry(number).or_default();
        group.members.push(function.address);
        group.isolates = true;
    }
    snapshot
}
