//! What was told so far, so that each event follows from those before it: which driver a function
//! had before it lost it, whose VF it was, which devices a group held.
//!
//! This is no second snapshot. It is only what events are worded by; who has to decide something
//! reads the host again.

use std::collections::BTreeMap;
use std::path::Path;

use super::event::{
    Description, Disk, DriverChange, HostEvent, Interface, Source, Stage, VfioFile, What,
};
use super::message::{Malformed, Uevent};
use crate::address::{PciAddress, VfRef};
use crate::facts::reader::Reader;
use crate::facts::{block, iov, names, pci};
use crate::root::HostRoot;
use crate::snapshot::{HostSnapshot, Scope};

/// What was told so far.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Known {
    functions: BTreeMap<PciAddress, Function>,
    /// By the kernel's number: the name changes.
    interfaces: BTreeMap<u32, Netdev>,
    disks: BTreeMap<String, Disk>,
    vfio: BTreeMap<String, Vec<PciAddress>>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Function {
    ids: (u16, u16),
    class_code: u16,
    driver: Option<String>,
    /// The last driver it lost.
    had: Option<String>,
    vf_of: Option<VfRef>,
    /// How many VFs it was said to have.
    vfs: u16,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Netdev {
    name: String,
    device: Option<PciAddress>,
}

impl Known {
    /// What is there now.
    pub fn read(root: &HostRoot) -> Known {
        Known::of(root, &HostSnapshot::read_within(root, Scope::Listing))
    }

    fn of(root: &HostRoot, snapshot: &HostSnapshot) -> Known {
        let functions = snapshot.functions.iter().map(|function| {
            let vfs = function.sriov.as_ref().map_or(0, |pf| pf.vfs.len());
            let known = Function {
                ids: (function.vendor, function.device),
                class_code: function.class_code(),
                driver: function.driver.clone(),
                had: None,
                vf_of: function.vf_of,
                vfs: u16::try_from(vfs).unwrap_or(u16::MAX),
            };
            (function.address, known)
        });
        let interfaces = snapshot
            .netdevs
            .iter()
            .map(|netdev| (netdev.index, Netdev { name: netdev.name.clone(), device: netdev.pci }));
        let disks = snapshot.blocks.iter().map(|disk| {
            let known = Disk {
                disk: disk.name.clone(),
                partition_of: disk.partition_of.clone(),
                devices: disk.pci.clone(),
            };
            (disk.name.clone(), known)
        });
        Known {
            functions: functions.collect(),
            interfaces: interfaces.collect(),
            disks: disks.collect(),
            vfio: vfio_files(root),
        }
    }

    /// Everything that is known, as if it had just come.
    pub fn all(&self) -> Vec<HostEvent> {
        Known::default().changes(self, Source::Initial)
    }

    /// What a message means, after what was told before: nothing, an event, or several.
    ///
    /// # Errors
    /// The message lacks what every event of its subsystem has.
    pub fn take(
        &mut self,
        root: &HostRoot,
        source: Source,
        uevent: &Uevent,
    ) -> Result<Vec<HostEvent>, Malformed> {
        let mut told = Vec::new();
        let mut tell = |device, vf_of, what| told.push(HostEvent { source, device, vf_of, what });
        match uevent.subsystem() {
            "pci" => self.function(root, uevent, &mut tell)?,
            "net" => self.interface(uevent, &mut tell)?,
            "block" => self.disk(root, uevent, &mut tell),
            "vfio" | "vfio-dev" => self.vfio_file(root, uevent, &mut tell),
            _ => {}
        }
        Ok(told)
    }

    fn function(
        &mut self,
        root: &HostRoot,
        uevent: &Uevent,
        tell: &mut impl FnMut(Option<PciAddress>, Option<VfRef>, What),
    ) -> Result<(), Malformed> {
        let name = uevent.path().rsplit('/').next();
        let Some(address) = name.and_then(|name| name.parse::<PciAddress>().ok()) else {
            return Ok(());
        };
        if uevent.action() == "remove" {
            if let Some(gone) = self.functions.remove(&address) {
                tell(Some(address), gone.vf_of, What::DeviceRemoved(gone.describe()));
                self.last_vf_gone(gone.vf_of, tell);
            }
            return Ok(());
        }
        if !self.functions.contains_key(&address) {
            let function = Function {
                ids: ids(uevent.get("PCI_ID")).ok_or(Malformed::Missing("PCI_ID"))?,
                class_code: class(uevent.get("PCI_CLASS"))
                    .ok_or(Malformed::Missing("PCI_CLASS"))?,
                // Told by "bind", which follows.
                driver: None,
                had: None,
                vf_of: self.vf_of(root, address),
                vfs: 0,
            };
            tell(Some(address), function.vf_of, What::DeviceAdded(function.describe()));
            self.functions.insert(address, function);
        }
        let Some(function) = self.functions.get_mut(&address) else { return Ok(()) };
        match uevent.action() {
            "bind" => {
                let driver = uevent.get("DRIVER").ok_or(Malformed::Missing("DRIVER"))?;
                if function.driver.as_deref() != Some(driver) {
                    let change = function.bind(driver.to_owned());
                    tell(Some(address), function.vf_of, What::Bound(change));
                }
            }
            "unbind" => {
                if let Some(change) = function.unbind() {
                    tell(Some(address), function.vf_of, What::Unbound(change));
                }
            }
            "change" => {
                let stage = uevent.get("ERROR_EVENT").and_then(stage);
                if let Some(stage) = stage {
                    tell(Some(address), function.vf_of, What::Recovery { stage });
                }
                // The kernel sends one when the VFs of a PF have been made. Reading their number
                // would wait for the lock that is still held then; their links do not.
                let present = iov::vfs(&mut Reader::new(root), address).len();
                let to = u16::try_from(present).unwrap_or(u16::MAX);
                let from = std::mem::replace(&mut function.vfs, to);
                if from != to {
                    tell(Some(address), function.vf_of, What::VfsChanged { from, to });
                }
            }
            _ => {}
        }
        Ok(())
    }

    /// The kernel says nothing of a PF whose VFs are destroyed: it is told when the last is gone.
    fn last_vf_gone(
        &mut self,
        vf: Option<VfRef>,
        tell: &mut impl FnMut(Option<PciAddress>, Option<VfRef>, What),
    ) {
        let Some(VfRef { pf, .. }) = vf else { return };
        let is_ours = |function: &Function| function.vf_of.is_some_and(|vf| vf.pf == pf);
        if self.functions.values().any(is_ours) {
            return;
        }
        if let Some(parent) = self.functions.get_mut(&pf) {
            let from = std::mem::take(&mut parent.vfs);
            if from > 0 {
                tell(Some(pf), None, What::VfsChanged { from, to: 0 });
            }
        }
    }

    /// Whose VF a new function is. The link to its PF comes a moment after the event that says it
    /// is there (drivers/pci/iov.c, `pci_iov_add_virtfn`), so where it is missing the routing ID
    /// tells (PCIe section 9.2.1.2).
    fn vf_of(&self, root: &HostRoot, address: PciAddress) -> Option<VfRef> {
        let mut reader = Reader::new(root);
        if let Some(vf) = iov::vf_of(&mut reader, address) {
            return Some(vf);
        }
        let neighbours = self.functions.keys().filter(|pf| pf.domain() == address.domain());
        neighbours.filter_map(|pf| iov::vf_by_routing_id(&mut reader, *pf, address)).next()
    }

    fn interface(
        &mut self,
        uevent: &Uevent,
        tell: &mut impl FnMut(Option<PciAddress>, Option<VfRef>, What),
    ) -> Result<(), Malformed> {
        let index = uevent.get("IFINDEX").and_then(|index| index.parse().ok());
        let index: u32 = index.ok_or(Malformed::Missing("IFINDEX"))?;
        let name = uevent.get("INTERFACE").ok_or(Malformed::Missing("INTERFACE"))?;
        if uevent.action() == "remove" {
            if let Some(Netdev { name, device }) = self.interfaces.remove(&index) {
                let interface = Interface { interface: name, index };
                tell(device, self.parent_of(device), What::InterfaceRemoved(interface));
            }
            return Ok(());
        }
        let device = pci::function_in(Path::new(uevent.path()));
        let now = Netdev { name: name.to_owned(), device };
        let what = match self.interfaces.insert(index, now) {
            None => What::InterfaceAdded(Interface { interface: name.to_owned(), index }),
            Some(before) if before.name != name => {
                What::InterfaceRenamed { from: before.name, to: name.to_owned(), index }
            }
            Some(_) => return Ok(()),
        };
        tell(device, self.parent_of(device), what);
        Ok(())
    }

    fn disk(
        &mut self,
        root: &HostRoot,
        uevent: &Uevent,
        tell: &mut impl FnMut(Option<PciAddress>, Option<VfRef>, What),
    ) {
        let path = Path::new(uevent.path());
        let Some(name) = path.file_name().and_then(|name| name.to_str()) else { return };
        match uevent.action() {
            "remove" => {
                if let Some(disk) = self.disks.remove(name) {
                    let device = only(&disk.devices);
                    tell(device, self.parent_of(device), What::DiskRemoved(disk));
                }
            }
            "add" if !self.disks.contains_key(name) => {
                let is_partition = uevent.get("DEVTYPE") == Some("partition");
                let above = path.parent().and_then(Path::file_name).and_then(|name| name.to_str());
                let directory = root.block_class().join(name);
                let mut reader = Reader::new(root);
                let disk = Disk {
                    disk: name.to_owned(),
                    partition_of: above.filter(|_| is_partition).map(str::to_owned),
                    devices: block::functions_below(&mut reader, &directory, path, is_partition),
                };
                let device = only(&disk.devices);
                self.disks.insert(name.to_owned(), disk.clone());
                tell(device, self.parent_of(device), What::DiskAdded(disk));
            }
            _ => {}
        }
    }

    fn vfio_file(
        &mut self,
        root: &HostRoot,
        uevent: &Uevent,
        tell: &mut impl FnMut(Option<PciAddress>, Option<VfRef>, What),
    ) {
        // A kernel without VFIO device files has the devices all the same, and no names for them.
        let Some(name) = uevent.get("DEVNAME") else { return };
        let file = name.strip_prefix("/dev/").unwrap_or(name);
        let (what, devices): (fn(VfioFile) -> What, _) = match uevent.action() {
            "remove" => match self.vfio.remove(file) {
                Some(devices) => (What::VfioRemoved, devices),
                None => return,
            },
            "add" if !self.vfio.contains_key(file) => {
                let devices = opened_by(root, file, Path::new(uevent.path()));
                self.vfio.insert(file.to_owned(), devices.clone());
                (What::VfioAdded, devices)
            }
            _ => return,
        };
        let device = only(&devices);
        tell(device, self.parent_of(device), what(VfioFile { file: file.to_owned(), devices }));
    }

    fn parent_of(&self, device: Option<PciAddress>) -> Option<VfRef> {
        self.functions.get(&device?)?.vf_of
    }

    /// Takes over what is there now, and tells what differs: first what is gone, from the top of
    /// the stack down, then what has come, from the bottom up.
    pub fn compare(&mut self, mut now: Known) -> Vec<HostEvent> {
        for (address, function) in &mut now.functions {
            let before = self.functions.get(address);
            function.had = before.and_then(|before| before.driver.clone().or(before.had.clone()));
        }
        let told = self.changes(&now, Source::Comparison);
        *self = now;
        told
    }

    fn changes(&self, now: &Known, source: Source) -> Vec<HostEvent> {
        let mut told = Vec::new();
        let mut tell = |device, vf_of, what| told.push(HostEvent { source, device, vf_of, what });
        for (file, devices) in missing(&self.vfio, &now.vfio, |a, b| a == b) {
            let (file, device) = (file.clone(), only(devices));
            let gone = VfioFile { file, devices: devices.clone() };
            tell(device, self.parent_of(device), What::VfioRemoved(gone));
        }
        for (_, disk) in missing(&self.disks, &now.disks, |a, b| a == b) {
            let device = only(&disk.devices);
            tell(device, self.parent_of(device), What::DiskRemoved(disk.clone()));
        }
        let same_device = |a: &Netdev, b: &Netdev| a.device == b.device;
        for (index, netdev) in missing(&self.interfaces, &now.interfaces, same_device) {
            let gone = Interface { interface: netdev.name.clone(), index: *index };
            tell(netdev.device, self.parent_of(netdev.device), What::InterfaceRemoved(gone));
        }
        for (address, function) in missing(&self.functions, &now.functions, Function::is) {
            let gone = What::DeviceRemoved(function.describe());
            tell(Some(*address), function.vf_of, gone);
        }
        for (address, function) in missing(&now.functions, &self.functions, Function::is) {
            let come = What::DeviceAdded(function.describe());
            tell(Some(*address), function.vf_of, come);
        }
        for (address, after) in &now.functions {
            let before = self.functions.get(address).filter(|before| before.is(after));
            let Some(mut before) = before.cloned() else { continue };
            if before.driver != after.driver {
                if let Some(change) = before.unbind() {
                    tell(Some(*address), after.vf_of, What::Unbound(change));
                }
                if let Some(driver) = &after.driver {
                    let change = before.bind(driver.clone());
                    tell(Some(*address), after.vf_of, What::Bound(change));
                }
            }
            if before.vfs != after.vfs {
                let change = What::VfsChanged { from: before.vfs, to: after.vfs };
                tell(Some(*address), after.vf_of, change);
            }
        }
        for (index, netdev) in missing(&now.interfaces, &self.interfaces, same_device) {
            let come = Interface { interface: netdev.name.clone(), index: *index };
            tell(netdev.device, now.parent_of(netdev.device), What::InterfaceAdded(come));
        }
        for (index, netdev) in &now.interfaces {
            let before = self.interfaces.get(index).filter(|before| same_device(before, netdev));
            if let Some(before) = before.filter(|before| before.name != netdev.name) {
                let (from, to) = (before.name.clone(), netdev.name.clone());
                let renamed = What::InterfaceRenamed { from, to, index: *index };
                tell(netdev.device, now.parent_of(netdev.device), renamed);
            }
        }
        for (_, disk) in missing(&now.disks, &self.disks, |a, b| a == b) {
            let device = only(&disk.devices);
            tell(device, now.parent_of(device), What::DiskAdded(disk.clone()));
        }
        for (file, devices) in missing(&now.vfio, &self.vfio, |a, b| a == b) {
            let (file, device) = (file.clone(), only(devices));
            let come = VfioFile { file, devices: devices.clone() };
            tell(device, now.parent_of(device), What::VfioAdded(come));
        }
        told
    }
}

impl Function {
    /// Whether it is the same device, not another in its place.
    fn is(&self, other: &Function) -> bool {
        self.ids == other.ids && self.class_code == other.class_code
    }

    fn bind(&mut self, driver: String) -> DriverChange {
        let lost = self.driver.replace(driver);
        DriverChange { from: lost.or(self.had.take()), to: self.driver.clone() }
    }

    fn unbind(&mut self) -> Option<DriverChange> {
        self.had = Some(self.driver.take()?);
        Some(DriverChange { from: self.had.clone(), to: None })
    }

    fn describe(&self) -> Description {
        let (vendor, device) = self.ids;
        Description {
            id: format!("{vendor:04x}:{device:04x}"),
            name: names::of_ids(vendor, device),
            class: names::short_class(self.class_code).to_owned(),
            driver: self.driver.clone(),
        }
    }
}

/// Entries of `from` that `other` does not have, or has as something else.
fn missing<'a, K: Ord, V>(
    from: &'a BTreeMap<K, V>,
    other: &'a BTreeMap<K, V>,
    same: impl Fn(&V, &V) -> bool + 'a,
) -> impl Iterator<Item = (&'a K, &'a V)> {
    from.iter().filter(move |(key, value)| !other.get(key).is_some_and(|other| same(value, other)))
}

fn only(devices: &[PciAddress]) -> Option<PciAddress> {
    match devices {
        [device] => Some(*device),
        _ => None,
    }
}

/// `8086:10CA`, in hexadecimal.
fn ids(text: Option<&str>) -> Option<(u16, u16)> {
    let (vendor, device) = text?.split_once(':')?;
    let number = |digits| u16::from_str_radix(digits, 16).ok();
    Some((number(vendor)?, number(device)?))
}

/// 24 bits in hexadecimal without leading zeros; the programming interface is left out.
fn class(text: Option<&str>) -> Option<u16> {
    let code = u32::from_str_radix(text?, 16).ok()?;
    u16::try_from(code >> 8).ok()
}

/// drivers/pci/pci-driver.c, `pci_uevent_ers`.
fn stage(text: &str) -> Option<Stage> {
    match text {
        "BEGIN_RECOVERY" => Some(Stage::Begun),
        "SUCCESSFUL_RECOVERY" => Some(Stage::Succeeded),
        "FAILED_RECOVERY" => Some(Stage::Failed),
        _ => None,
    }
}

/// The files that can be opened now, from the two classes that stand for them.
fn vfio_files(root: &HostRoot) -> BTreeMap<String, Vec<PciAddress>> {
    let mut reader = Reader::new(root);
    let mut files = BTreeMap::new();
    for (class, below) in [("vfio", "vfio"), ("vfio-dev", "vfio/devices")] {
        let class = root.sys("class").join(class);
        for name in reader.entries(&class) {
            let entry = class.join(&name);
            // `dev` is the number of the file; without one there is no file.
            if reader.text(&entry.join("dev")).is_none() {
                continue;
            }
            let target = crate::attribute::link_target(&entry).ok().flatten().unwrap_or_default();
            let file = format!("{below}/{name}");
            let devices = opened_by(root, &file, &target);
            files.insert(file, devices);
        }
    }
    files
}

/// The devices behind a file: those of its group, or the one that its place in sysfs names.
fn opened_by(root: &HostRoot, file: &str, place: &Path) -> Vec<PciAddress> {
    let name = file.strip_prefix("vfio/").unwrap_or(file);
    let number = name.strip_prefix("noiommu-").unwrap_or(name);
    if number.parse::<u32>().is_err() {
        return pci::function_in(place).into_iter().collect();
    }
    let members = Reader::new(root).entries(&root.iommu_groups().join(number).join("devices"));
    members.iter().filter_map(|name| name.parse().ok()).collect()
}

#[cfg(test)]
#[path = "known_tests.rs"]
mod tests;
