//! Host trees built from a few words, for tests: files and links as the kernel lays them out, and
//! no kernel behind them. A write to such a tree stays a written file.
//!
//! This is test support: what cannot be built panics.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use crate::address::PciAddress;
use crate::root::HostRoot;

mod config;
pub mod kernel;
pub mod model;
pub mod simulation;

pub use config::Config;

/// A tree below a directory that the test owns.
#[derive(Debug, Clone)]
pub struct Tree {
    directory: PathBuf,
}

/// A PCI function to be laid out.
#[derive(Debug, Clone)]
pub struct Function {
    /// Its address in full.
    pub address: &'static str,
    /// Addresses of the bridges above it, outermost first.
    pub below: Vec<&'static str>,
    /// Vendor and device ID.
    pub id: (u16, u16),
    /// Class code in 24 bits.
    pub class: u32,
    /// Its driver.
    pub driver: Option<&'static str>,
    /// Its IOMMU group.
    pub group: Option<u32>,
    /// Its interface.
    pub netdev: Option<&'static str>,
    /// Most VFs, and VFs now.
    pub vfs: Option<(u16, u16)>,
    /// Its configuration space, which its VFs do not have.
    pub config: Option<Vec<u8>>,
    /// Other attributes, by name, which its VFs do not have.
    pub attributes: Vec<(&'static str, String)>,
    /// Its NUMA node, and its VFs'.
    pub numa: Option<u32>,
    /// What its VFs are.
    pub vf: VfKind,
}

/// What the VFs of a function are: igb's, unless told otherwise.
#[derive(Debug, Clone)]
pub struct VfKind {
    /// Their device ID.
    pub device: u16,
    /// The IOMMU group of the first; the others follow.
    pub group: u32,
    /// Their driver.
    pub driver: Option<&'static str>,
    /// Their configuration space.
    pub config: Option<Vec<u8>>,
}

impl Default for VfKind {
    fn default() -> VfKind {
        VfKind { device: 0x10ca, group: 16, driver: None, config: None }
    }
}

impl Function {
    /// A function of this vendor, device and class, without driver or group.
    pub fn new(address: &'static str, id: (u16, u16), class: u32) -> Function {
        Function {
            address,
            below: Vec::new(),
            id,
            class,
            driver: None,
            group: None,
            netdev: None,
            vfs: None,
            config: None,
            attributes: Vec::new(),
            numa: None,
            vf: VfKind::default(),
        }
    }

    /// With this driver.
    #[must_use]
    pub fn driver(mut self, driver: &'static str) -> Function {
        self.driver = Some(driver);
        self
    }

    /// In this group.
    #[must_use]
    pub fn group(mut self, group: u32) -> Function {
        self.group = Some(group);
        self
    }

    /// Below this bridge.
    #[must_use]
    pub fn below(mut self, bridge: &'static str) -> Function {
        self.below.push(bridge);
        self
    }

    /// With this interface.
    #[must_use]
    pub fn netdev(mut self, name: &'static str) -> Function {
        self.netdev = Some(name);
        self
    }

    /// With this configuration space.
    #[must_use]
    pub fn config(mut self, config: Config) -> Function {
        self.config = Some(config.bytes());
        self
    }

    /// With this attribute; its newline is added.
    #[must_use]
    pub fn attribute(mut self, name: &'static str, text: &str) -> Function {
        self.attributes.push((name, format!("{text}\n")));
        self
    }

    /// With a link that runs as fast as it can, such as `8.0 GT/s PCIe` on 4 lanes.
    #[must_use]
    pub fn link(self, speed: &str, lanes: u8) -> Function {
        let lanes = lanes.to_string();
        self.attribute("current_link_speed", speed)
            .attribute("max_link_speed", speed)
            .attribute("current_link_width", &lanes)
            .attribute("max_link_width", &lanes)
    }

    /// With these BARs: first address, size, and flags as in include/linux/ioport.h (0x40200 is
    /// memory of 32 bits, 0x14220c prefetchable memory of 64).
    #[must_use]
    pub fn bars(self, bars: &[(u64, u64, u64)]) -> Function {
        let mut lines: Vec<String> = bars
            .iter()
            .map(|(start, size, flags)| {
                format!("{start:#018x} {:#018x} {flags:#018x}", start + size - 1)
            })
            .collect();
        lines.resize(lines.len().max(13), format!("{0:#018x} {0:#018x} {0:#018x}", 0));
        self.attribute("resource", &lines.join("\n"))
    }

    /// On this NUMA node.
    #[must_use]
    pub fn numa(mut self, node: u32) -> Function {
        self.numa = Some(node);
        self
    }

    /// With VFs of this kind.
    #[must_use]
    pub fn vf_kind(mut self, kind: VfKind) -> Function {
        self.vf = kind;
        self
    }

    /// With SR-IOV: at most `total` VFs, `present` of them there now.
    #[must_use]
    pub fn vfs(mut self, total: u16, present: u16) -> Function {
        self.vfs = Some((total, present));
        self
    }
}

impl Tree {
    /// An empty host with KVM and a boot id.
    pub fn new(directory: &Path) -> Tree {
        let tree = Tree { directory: directory.to_owned() };
        for path in ["sys/bus/pci/devices", "sys/bus/pci/drivers", "sys/class/net"] {
            tree.directory(path);
        }
        tree.file("sys/bus/pci/drivers_probe", "");
        tree.file("proc/sys/kernel/random/boot_id", "11111111-2222-3333-4444-555555555555\n");
        tree.file("proc/sys/kernel/osrelease", "6.12.0-test\n");
        tree.file("dev/kvm", "");
        tree
    }

    /// The host of the emulated lab: a root port, an igb NIC with this many of its 7 VFs (without
    /// drivers), and the chipset's group of three with the disk that carries `/`.
    pub fn lab(directory: &Path, vfs: u16) -> Tree {
        let tree = Tree::lab_without_card(directory);
        tree.add(Tree::lab_card(vfs));
        tree
    }

    fn lab_card(vfs: u16) -> Function {
        Function::new("0000:01:00.0", (0x8086, 0x10c9), 0x02_0000)
            .below("0000:00:01.0")
            .driver("igb")
            .group(8)
            .netdev("eth0")
            .vfs(7, vfs)
    }

    fn lab_without_card(directory: &Path) -> Tree {
        let tree = Tree::new(directory);
        tree.file("sys/class/iommu/dmar0/name", "dmar0\n");
        tree.driver("vfio-pci");
        tree.add(
            Function::new("0000:00:01.0", (0x1b36, 0x000c), 0x06_0400).driver("pcieport").group(1),
        );
        tree.add(Function::new("0000:00:1f.0", (0x8086, 0x2918), 0x06_0100).group(5));
        tree.add(
            Function::new("0000:00:1f.2", (0x8086, 0x2922), 0x01_0601).driver("ahci").group(5),
        );
        tree.add(Function::new("0000:00:1f.3", (0x8086, 0x2930), 0x0c_0500).group(5));
        tree.disk("0000:00:1f.2", "sda", "8:0");
        tree.file("proc/self/mountinfo", "25 1 8:0 / / rw,relatime shared:1 - ext4 /dev/sda rw\n");
        tree
    }

    /// The root to read it by.
    pub fn root(&self) -> HostRoot {
        HostRoot::at(&self.directory)
    }

    /// Writes a file, with the directories above it.
    pub fn file(&self, path: &str, text: &str) {
        self.bytes(path, text.as_bytes());
    }

    /// Writes a file that is no text.
    pub fn bytes(&self, path: &str, bytes: &[u8]) {
        let path = self.directory.join(path);
        fs::create_dir_all(path.parent().expect("a path below the tree")).expect("directories");
        fs::write(path, bytes).expect("a file of the tree");
    }

    /// Removes a file.
    pub fn remove(&self, path: &str) {
        fs::remove_file(self.directory.join(path)).expect("a file of the tree");
    }

    /// Makes a directory.
    pub fn directory(&self, path: &str) {
        fs::create_dir_all(self.directory.join(path)).expect("a directory of the tree");
    }

    /// Makes a link; the target is taken as it is.
    pub fn link(&self, path: &str, target: &str) {
        let path = self.directory.join(path);
        fs::create_dir_all(path.parent().expect("a path below the tree")).expect("directories");
        symlink(target, path).expect("a link of the tree");
    }

    /// Writes an attribute of a function.
    pub fn attribute(&self, address: &str, name: &str, text: &str) {
        self.file(&format!("sys/bus/pci/devices/{address}/{name}"), text);
    }

    /// Loads a driver.
    pub fn driver(&self, name: &str) {
        for file in ["bind", "unbind"] {
            self.file(&format!("sys/bus/pci/drivers/{name}/{file}"), "");
        }
    }

    /// Lays out a function, and its VFs where it has some: as igb does, from 80 (hexadecimal) on
    /// in steps of 2, each in a group of its own from 16 on.
    pub fn add(&self, function: Function) {
        let address: PciAddress = function.address.parse().expect("an address");
        self.lay_out(address, &function);
        let Some((total, present)) = function.vfs else { return };
        for (name, text) in [
            ("sriov_totalvfs", format!("{total}\n")),
            ("sriov_numvfs", format!("{present}\n")),
            ("sriov_drivers_autoprobe", "1\n".to_owned()),
            ("sriov_vf_device", format!("{:04x}\n", function.vf.device)),
            ("sriov_offset", "128\n".to_owned()),
            ("sriov_stride", "2\n".to_owned()),
        ] {
            self.attribute(function.address, name, &text);
        }
        self.add_vfs(&function, present);
    }

    /// Lays out the first VFs of a PF.
    fn add_vfs(&self, function: &Function, present: u16) {
        let address: PciAddress = function.address.parse().expect("an address");
        for index in 0..present {
            let routing = u8::try_from(0x80 + 2 * index).expect("VFs of one bus");
            let vf = PciAddress::new(address.domain(), address.bus(), routing >> 3, routing & 7);
            let vf = vf.expect("an address of a VF");
            let facts = Function {
                id: (function.id.0, function.vf.device),
                driver: function.vf.driver,
                group: function.group.map(|_| function.vf.group + u32::from(index)),
                netdev: None,
                vfs: None,
                config: function.vf.config.clone(),
                attributes: Vec::new(),
                ..function.clone()
            };
            self.lay_out(vf, &facts);
            let device = |address: String| format!("sys/bus/pci/devices/{address}");
            self.link(
                &format!("{}/virtfn{index}", device(address.to_string())),
                &format!("../{vf}"),
            );
            self.link(&format!("{}/physfn", device(vf.to_string())), &format!("../{address}"));
        }
    }

    fn lay_out(&self, address: PciAddress, function: &Function) {
        let place = place(address, function);
        let at = |name: &str| format!("sys/{place}/{name}");
        self.file(&at("vendor"), &format!("{:#06x}\n", function.id.0));
        self.file(&at("device"), &format!("{:#06x}\n", function.id.1));
        self.file(&at("class"), &format!("{:#08x}\n", function.class));
        self.file(&at("driver_override"), "(null)\n");
        let node = function.numa.map_or("-1".to_owned(), |node| node.to_string());
        self.file(&at("numa_node"), &format!("{node}\n"));
        for (name, text) in &function.attributes {
            self.file(&at(name), text);
        }
        if let Some(config) = &function.config {
            self.bytes(&at("config"), config);
        }
        if let Some(driver) = function.driver {
            self.driver(driver);
            self.link(&at("driver"), &format!("../../bus/pci/drivers/{driver}"));
        }
        if let Some(group) = function.group {
            let devices = format!("sys/kernel/iommu_groups/{group}/devices");
            self.link(&format!("{devices}/{address}"), "../../../../devices");
            self.link(&at("iommu_group"), &format!("../../kernel/iommu_groups/{group}"));
        }
        self.add_interface(function);
        self.link(&format!("sys/bus/pci/devices/{address}"), &format!("../../../{place}"));
    }

    /// Lays out the interface of a function, if it has one.
    fn add_interface(&self, function: &Function) {
        let Some(name) = function.netdev else { return };
        let address: PciAddress = function.address.parse().expect("an address");
        let net = format!("{}/net/{name}", place(address, function));
        // The loopback interface, which is not laid out, is the first.
        let others = fs::read_dir(self.directory.join("sys/class/net")).expect("a directory");
        self.netdev(name, 2 + u32::try_from(others.count()).expect("a number"), &net);
    }

    /// Takes away all VFs of a PF.
    fn remove_vfs(&self, pf: PciAddress) -> std::io::Result<()> {
        let root = self.root();
        for entry in fs::read_dir(root.pci_device(pf))?.flatten() {
            if !entry.file_name().to_string_lossy().starts_with("virtfn") {
                continue;
            }
            let vf = fs::canonicalize(entry.path())?;
            let name = vf.file_name().unwrap_or_default().to_owned();
            fs::remove_file(entry.path())?;
            if let Ok(group) = fs::read_link(vf.join("iommu_group")) {
                let number = group.file_name().unwrap_or_default();
                let group = root.iommu_groups().join(number);
                fs::remove_file(group.join("devices").join(&name))?;
                if fs::read_dir(group.join("devices"))?.next().is_none() {
                    fs::remove_dir_all(group)?;
                }
            }
            fs::remove_dir_all(vf)?;
            fs::remove_file(root.pci_devices().join(name))?;
        }
        Ok(())
    }

    /// What the kernel says of a group: its default domain, and lines of reserved addresses such
    /// as `0x00000000fee00000 0x00000000feefffff msi`.
    pub fn group(&self, number: u32, kind: &str, reserved: &[&str]) {
        let directory = format!("sys/kernel/iommu_groups/{number}");
        self.file(&format!("{directory}/type"), &format!("{kind}\n"));
        let lines: String = reserved.iter().map(|line| format!("{line}\n")).collect();
        self.file(&format!("{directory}/reserved_regions"), &lines);
    }

    /// An interface at a place below `sys`, down and without addresses.
    pub fn netdev(&self, name: &str, index: u32, place: &str) {
        self.file(&format!("sys/{place}/ifindex"), &format!("{index}\n"));
        self.file(&format!("sys/{place}/address"), "52:54:00:00:00:01\n");
        self.file(&format!("sys/{place}/flags"), "0x1002\n");
        self.link(&format!("sys/class/net/{name}"), &format!("../../{place}"));
    }

    /// An interface without a device, such as a bridge.
    pub fn virtual_netdev(&self, name: &str, index: u32) {
        self.netdev(name, index, &format!("devices/virtual/net/{name}"));
    }

    /// Puts an interface on top of another.
    pub fn stack(&self, lower: &str, upper: &str) {
        self.link(&format!("sys/class/net/{lower}/upper_{upper}"), &format!("../{upper}"));
        self.link(&format!("sys/class/net/{lower}/master"), &format!("../{upper}"));
    }

    /// A disk of a function that is directly on a root bus.
    pub fn disk(&self, address: &str, name: &str, number: &str) {
        let place = format!("devices/pci0000:00/{address}/ata1/block/{name}");
        self.file(&format!("sys/{place}/dev"), &format!("{number}\n"));
        self.directory(&format!("sys/{place}/holders"));
        self.link(&format!("sys/class/block/{name}"), &format!("../../{place}"));
    }
}

/// Where a function's directory is below `sys`.
fn place(address: PciAddress, function: &Function) -> String {
    let above: String = function.below.iter().map(|bridge| format!("{bridge}/")).collect();
    format!("devices/pci{:04x}:00/{above}{address}", address.domain())
}
