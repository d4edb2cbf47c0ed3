//! Hosts with thousands of functions: root ports, and below each a network card with 62 virtual
//! functions, with the files that a kernel has for them. Files of the same content are one file by
//! many names, so that 65,536 functions fit in memory.

use std::collections::HashMap;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use sriov::facts::capabilities::PortKind;
use sriov::recorded::Config;

/// Functions below a root port, and itself.
const FAMILY: u32 = 64;
/// Families of a domain.
const DOMAIN: u32 = 128;

/// Lays out a host of `count` functions, a multiple of 64.
pub fn compose(root: &Path, count: u32) -> Result<()> {
    let mut tree = Tree::new(root)?;
    for family in 0..count / FAMILY {
        tree.family(family)?;
    }
    Ok(())
}

struct Tree {
    root: PathBuf,
    /// Where the one file of a content is.
    contents: HashMap<Vec<u8>, PathBuf>,
    groups: u32,
}

/// What a function shows of itself.
struct Function<'a> {
    address: String,
    id: (u16, u16),
    class: u32,
    driver: &'a str,
    config: &'a [u8],
    node: u32,
}

impl Tree {
    fn new(root: &Path) -> Result<Tree> {
        for path in [
            "sys/bus/pci/devices",
            "sys/bus/pci/slots",
            "sys/class/net",
            "sys/kernel/iommu_groups",
            "sys/class/iommu/dmar0",
            "proc/sys/kernel/random",
            "shared",
        ] {
            fs::create_dir_all(root.join(path))?;
        }
        for driver in ["pcieport", "i40e", "vfio-pci"] {
            fs::create_dir_all(root.join("sys/bus/pci/drivers").join(driver))?;
        }
        let id = "11111111-2222-3333-4444-555555555555\n";
        fs::write(root.join("proc/sys/kernel/random/boot_id"), id)?;
        Ok(Tree { root: root.to_owned(), contents: HashMap::new(), groups: 0 })
    }

    fn family(&mut self, family: u32) -> Result<()> {
        let (domain, place) = (family / DOMAIN, family % DOMAIN);
        let (node, bus) = (place % 2, place + 1);
        let port_config = Config::new((0x8086, 0x347a), 0x06_0400)
            .pcie(PortKind::RootPort, false, 4, 8)
            .isolating()
            .bytes();
        let pf_config = Config::new((0x8086, 0x1583), 0x02_0000)
            .standard(0x01, &[0; 6])
            .msi(0)
            .msix(129, 3)
            .pcie(PortKind::Endpoint, true, 3, 8)
            .extended(0x0001, &[0; 40])
            .ari(0)
            .sriov(64, 62, (128, 2), 0x154c)
            .ats(false)
            .isolating()
            .bytes();
        let vf_config = Config::new((0xffff, 0xffff), 0x02_0000)
            .msix(5, 3)
            .pcie(PortKind::Endpoint, true, 0, 0)
            .extended(0x0001, &[0; 40])
            .ari(0)
            .isolating()
            .bytes();
        let root_bus = format!("devices/pci{domain:04x}:00");
        let port = format!("{domain:04x}:00:{:02x}.{}", place / 8 + 1, place % 8);
        self.function(
            &root_bus,
            &Function {
                address: port.clone(),
                id: (0x8086, 0x347a),
                class: 0x06_0400,
                driver: "pcieport",
                config: &port_config,
                node,
            },
        )?;
        let above = format!("{root_bus}/{port}");
        let pf = format!("{domain:04x}:{bus:02x}:00.0");
        let directory = self.function(
            &above,
            &Function {
                address: pf.clone(),
                id: (0x8086, 0x1583),
                class: 0x02_0000,
                driver: "i40e",
                config: &pf_config,
                node,
            },
        )?;
        for (name, text) in [
            ("sriov_totalvfs", "64\n"),
            ("sriov_numvfs", "62\n"),
            ("sriov_drivers_autoprobe", "1\n"),
            ("sriov_vf_device", "154c\n"),
            ("sriov_offset", "128\n"),
            ("sriov_stride", "2\n"),
        ] {
            self.file(&directory.join(name), text.as_bytes())?;
        }
        self.netdev(&directory, family)?;
        for index in 0..FAMILY - 2 {
            let routing = 0x80 + 2 * index;
            let vf = format!("{domain:04x}:{bus:02x}:{:02x}.{}", routing >> 3, routing & 7);
            let function = Function {
                address: vf.clone(),
                id: (0x8086, 0x154c),
                class: 0x02_0000,
                driver: "vfio-pci",
                config: &vf_config,
                node,
            };
            let own = self.function(&above, &function)?;
            symlink(format!("../{pf}"), own.join("physfn"))?;
            symlink(format!("../{vf}"), directory.join(format!("virtfn{index}")))?;
        }
        Ok(())
    }

    fn function(&mut self, above: &str, function: &Function<'_>) -> Result<PathBuf> {
        let Function { address, id, class, driver, config, node } = function;
        let place = format!("{above}/{address}");
        let directory = self.root.join("sys").join(&place);
        fs::create_dir_all(&directory)?;
        let up = "../".repeat(place.matches('/').count() + 1);
        let uevent = format!(
            "DRIVER={driver}\nPCI_CLASS={class:X}\nPCI_ID={:04X}:{:04X}\nPCI_SUBSYS_ID=8086:0001\n\
             PCI_SLOT_NAME={address}\nMODALIAS=pci:v{:08X}d{:08X}sv00008086sd00000001bc{:02X}sc{:02X}\
             i{:02X}\n",
            id.0,
            id.1,
            id.0,
            id.1,
            class >> 16,
            class >> 8 & 0xff,
            class & 0xff
        );
        fs::write(directory.join("uevent"), uevent)?;
        let memory = "0x0000002000000000 0x00000020007fffff 0x000000000014220c\n";
        let none = "0x0000000000000000 0x0000000000000000 0x0000000000000000\n";
        let resource = format!("{memory}{}", none.repeat(12));
        for (name, text) in [
            ("vendor", format!("{:#06x}\n", id.0)),
            ("device", format!("{:#06x}\n", id.1)),
            ("class", format!("{class:#08x}\n")),
            ("subsystem_vendor", "0x8086\n".to_owned()),
            ("subsystem_device", "0x0001\n".to_owned()),
            ("revision", "0x02\n".to_owned()),
            ("irq", "0\n".to_owned()),
            ("driver_override", "(null)\n".to_owned()),
            ("numa_node", format!("{node}\n")),
            ("reset_method", "flr bus\n".to_owned()),
            ("power_state", "D0\n".to_owned()),
            ("current_link_speed", "8.0 GT/s PCIe\n".to_owned()),
            ("max_link_speed", "8.0 GT/s PCIe\n".to_owned()),
            ("current_link_width", "8\n".to_owned()),
            ("max_link_width", "8\n".to_owned()),
            ("resource", resource),
        ] {
            self.file(&directory.join(name), text.as_bytes())?;
        }
        self.file(&directory.join("config"), config)?;
        symlink(format!("{up}bus/pci/drivers/{driver}"), directory.join("driver"))?;
        let group = self.group(address)?;
        symlink(format!("{up}kernel/iommu_groups/{group}"), directory.join("iommu_group"))?;
        let link = self.root.join("sys/bus/pci/devices").join(address);
        symlink(format!("../../../{place}"), link)?;
        Ok(directory)
    }

    fn group(&mut self, address: &str) -> Result<u32> {
        let number = self.groups;
        self.groups += 1;
        let directory = self.root.join(format!("sys/kernel/iommu_groups/{number}"));
        fs::create_dir_all(directory.join("devices"))?;
        symlink(
            format!("../../../../bus/pci/devices/{address}"),
            directory.join("devices").join(address),
        )?;
        self.file(&directory.join("type"), b"DMA-FQ\n")?;
        let region = b"0x00000000fee00000 0x00000000feefffff msi\n";
        self.file(&directory.join("reserved_regions"), region)?;
        Ok(number)
    }

    fn netdev(&mut self, directory: &Path, family: u32) -> Result<()> {
        let name = format!("ens{family}");
        let own = directory.join("net").join(&name);
        fs::create_dir_all(&own)?;
        fs::write(own.join("ifindex"), format!("{}\n", family + 2))?;
        self.file(&own.join("address"), b"52:54:00:00:00:01\n")?;
        self.file(&own.join("flags"), b"0x1002\n")?;
        let below_sys = own.strip_prefix(self.root.join("sys"))?.to_owned();
        let link = self.root.join("sys/class/net").join(&name);
        symlink(Path::new("../..").join(below_sys), link)?;
        Ok(())
    }

    /// Writes a file, or gives the one of this content another name.
    fn file(&mut self, path: &Path, content: &[u8]) -> Result<()> {
        if let Some(same) = self.contents.get(content) {
            // A file can have only so many names: then it is one of its own again.
            if fs::hard_link(same, path).is_ok() {
                return Ok(());
            }
        }
        fs::write(path, content).with_context(|| path.display().to_string())?;
        self.contents.insert(content.to_owned(), path.to_owned());
        Ok(())
    }
}
