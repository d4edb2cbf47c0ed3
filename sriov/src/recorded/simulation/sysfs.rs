//! What a kernel does when a file of sysfs or procfs is written.

use std::fs;
use std::io;
use std::path::Path;

use super::{EBUSY, EINVAL, ENODEV, ENOENT, EOPNOTSUPP, ERANGE, Host, Tree, errno, put};
use crate::address::PciAddress;
use crate::mac::MacAddress;
use crate::recorded::Function;
use crate::vf_settings::{Rate, VfSettings};

impl Host {
    /// A write of `value`, without its newline, to the file at `path` below the tree.
    pub(super) fn written(&mut self, tree: &Tree, path: &str, value: &str) -> io::Result<()> {
        let root = tree.root();
        let file = root.directory().join(path);
        if !file.is_file() {
            return Err(errno(ENOENT));
        }
        let path = Path::new(path);
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        let above = path.parent().and_then(Path::file_name).and_then(|name| name.to_str());
        let above = above.unwrap_or_default();
        let device = || above.parse::<PciAddress>().map_err(|_| errno(ENODEV));
        match name {
            "sriov_numvfs" => self.set_count(tree, device()?, value),
            "sriov_vf_msix_count" => set_vectors(tree, device()?, value),
            "sriov_drivers_autoprobe" if !matches!(value, "0" | "1") => Err(errno(EINVAL)),
            "driver_override" => {
                let value = if value.is_empty() { "(null)" } else { value };
                put(tree, &file, format!("{value}\n").as_bytes())
            }
            "drivers_probe" => {
                let device = value.parse().map_err(|_| errno(EINVAL))?;
                self.probe(tree, device);
                Ok(())
            }
            "bind" => {
                let device = value.parse().map_err(|_| errno(ENODEV))?;
                match driver(tree, device) {
                    None if self.fits(tree, device, above) => self.bind(tree, device, above),
                    _ => Err(errno(ENODEV)),
                }
            }
            "unbind" => {
                let device = value.parse().map_err(|_| errno(ENODEV))?;
                match driver(tree, device).as_deref() == Some(above) {
                    true => self.unbind(tree, device),
                    false => Err(errno(ENODEV)),
                }
            }
            "reset" => {
                if let Some(drive) = self.drives.get_mut(&device()?) {
                    drive.reset();
                }
                Ok(())
            }
            _ => put(tree, &file, format!("{value}\n").as_bytes()),
        }
    }

    fn set_count(&mut self, tree: &Tree, pf: PciAddress, value: &str) -> io::Result<()> {
        let mut wanted: u16 = value.parse().map_err(|_| errno(EINVAL))?;
        let function = self.functions.get(&pf).cloned().ok_or_else(|| errno(ENODEV))?;
        let (total, _) = function.vfs.ok_or_else(|| errno(ENOENT))?;
        let number = |name| read(tree, pf, name).and_then(|text| text.parse::<u16>().ok());
        let present = number("sriov_numvfs").unwrap_or(0);
        if driver(tree, pf) != function.driver.map(str::to_owned) {
            return Err(errno(ENOENT));
        }
        match (present, wanted) {
            _ if wanted > total => return Err(errno(ERANGE)),
            (present, wanted) if present == wanted => return Ok(()),
            (1.., 1..) => return Err(errno(EBUSY)),
            (_, 0) => {
                tree.remove_vfs(pf)?;
                self.settings.retain(|(index, _), _| Some(*index) != interface(tree, &function));
            }
            (_, asked) => {
                wanted = asked.min(self.most.get(&pf).copied().unwrap_or(asked));
                let own = (number("sriov_drivers_autoprobe") == Some(1))
                    .then_some(function.vf.driver)
                    .flatten();
                let mut made = function.clone();
                made.vf.driver = own;
                tree.add_vfs(&made, wanted);
                self.new_vfs(tree, pf, wanted, function.vf.driver);
            }
        }
        let count = tree.root().pci_attribute(pf, "sriov_numvfs");
        put(tree, &count, format!("{wanted}\n").as_bytes())
    }

    /// What is known of VFs that were laid out: the driver the host has for them, and that nothing
    /// is set for them.
    pub(super) fn new_vfs(
        &mut self,
        tree: &Tree,
        pf: PciAddress,
        count: u16,
        driver: Option<&'static str>,
    ) {
        let links = tree.root().pci_device(pf);
        let name = self.functions.get(&pf).and_then(|function| function.netdev);
        let index = name.and_then(|name| number(tree, name));
        for vf in 0..count {
            let address = fs::read_link(links.join(format!("virtfn{vf}"))).ok();
            let address = address.as_deref().and_then(Path::file_name).and_then(|n| n.to_str());
            if let (Some(Ok(address)), Some(driver)) = (address.map(str::parse), driver) {
                self.drivers.insert(address, driver);
            }
            if let Some(index) = index {
                self.settings.insert((index, vf), fresh());
            }
        }
    }

    /// Whether this driver may have the function: by its override, or because it is the host's.
    fn fits(&self, tree: &Tree, device: PciAddress, driver: &str) -> bool {
        match read(tree, device, "driver_override").filter(|text| text != "(null)") {
            Some(wanted) => wanted == driver,
            None => self.drivers.get(&device).is_some_and(|own| *own == driver),
        }
    }

    /// A VF is left alone while the host is not to bind drivers to VFs, but for an override
    /// (drivers/pci/pci-driver.c, `pci_device_can_probe`).
    fn probe(&mut self, tree: &Tree, device: PciAddress) {
        let wanted = read(tree, device, "driver_override").filter(|text| text != "(null)");
        let kept_off = tree.root().pci_attribute(device, "physfn/sriov_drivers_autoprobe");
        let kept_off = fs::read_to_string(kept_off).is_ok_and(|text| text.trim() == "0");
        let wanted = match wanted {
            Some(wanted) => Some(wanted),
            None if kept_off => None,
            None => self.drivers.get(&device).map(|own| (*own).to_owned()),
        };
        if let (Some(wanted), None) = (wanted, driver(tree, device)) {
            // A probe keeps its failure to itself.
            self.bind(tree, device, &wanted).ok();
        }
    }

    fn bind(&mut self, tree: &Tree, device: PciAddress, driver: &str) -> io::Result<()> {
        let root = tree.root();
        if !root.pci_driver(driver).is_dir() || !root.pci_device(device).is_dir() {
            return Err(errno(ENODEV));
        }
        let target = format!("../../bus/pci/drivers/{driver}");
        std::os::unix::fs::symlink(target, root.pci_attribute(device, "driver"))?;
        let function = self.functions.get(&device);
        if let Some(function) = function.filter(|function| function.driver == Some(driver)) {
            tree.add_interface(function);
        }
        Ok(())
    }

    /// The interface of a function goes with its driver.
    fn unbind(&mut self, tree: &Tree, device: PciAddress) -> io::Result<()> {
        let root = tree.root();
        let function = self.functions.get(&device);
        let function = function.filter(|one| driver(tree, device).as_deref() == one.driver);
        if let Some(name) = function.and_then(|function| function.netdev) {
            fs::remove_dir_all(root.pci_attribute(device, "net"))?;
            fs::remove_file(root.netdev(name))?;
        }
        fs::remove_file(root.pci_attribute(device, "driver"))
    }
}

/// A driver that divides vectors gives a VF so many, which stand in its MSI-X capability then; or its
/// own number, for 0. Not while the VF has a driver (drivers/pci/iov.c, `sriov_vf_msix_count_store`).
fn set_vectors(tree: &Tree, vf: PciAddress, value: &str) -> io::Result<()> {
    const CAPABILITIES: usize = 0x34;
    const MSIX: u8 = 0x11;
    const OWN: u16 = 3;
    let wanted: u16 = value.parse().map_err(|_| errno(EINVAL))?;
    let pool = read(tree, vf, "physfn/sriov_vf_total_msix");
    let pool = pool.and_then(|text| text.parse().ok()).unwrap_or(0u16);
    if pool == 0 {
        return Err(errno(EOPNOTSUPP));
    }
    if driver(tree, vf).is_some() {
        return Err(errno(EBUSY));
    }
    if wanted > pool {
        return Err(errno(EINVAL));
    }
    let path = tree.root().pci_attribute(vf, "config");
    let mut config = fs::read(&path)?;
    let byte = |at: usize| config.get(at).copied().ok_or_else(|| errno(ENODEV));
    let mut at = usize::from(byte(CAPABILITIES)?);
    while at != 0 && byte(at)? != MSIX {
        at = usize::from(byte(at + 1)?);
    }
    let control = config.get_mut(at + 2..at + 4).filter(|_| at != 0);
    let vectors = if wanted == 0 { OWN } else { wanted };
    // The table's size is written as one less.
    control.ok_or_else(|| errno(EOPNOTSUPP))?.copy_from_slice(&(vectors - 1).to_le_bytes());
    put(tree, &path, &config)
}

/// VFs begin with what drivers such as igb begin with.
fn fresh() -> VfSettings {
    VfSettings {
        mac: MacAddress([0; 6]),
        trust: Some(false),
        spoof_check: Some(true),
        rate: Rate::default(),
        ..VfSettings::default()
    }
}

fn read(tree: &Tree, device: PciAddress, name: &str) -> Option<String> {
    let text = fs::read_to_string(tree.root().pci_attribute(device, name)).ok()?;
    Some(text.trim().to_owned())
}

fn driver(tree: &Tree, device: PciAddress) -> Option<String> {
    let link = fs::read_link(tree.root().pci_attribute(device, "driver")).ok()?;
    Some(link.file_name()?.to_str()?.to_owned())
}

fn interface(tree: &Tree, function: &Function) -> Option<u32> {
    number(tree, function.netdev?)
}

fn number(tree: &Tree, name: &str) -> Option<u32> {
    let text = fs::read_to_string(tree.root().netdev(name).join("ifindex")).ok()?;
    text.trim().parse().ok()
}
