//! Block devices, and what of the host lives on them.
//!
//! A filesystem is found by its device number, or where it has none of its own (btrfs, overlays)
//! by its source; what is stacked on a disk (partitions, LVM, MD, encryption) by the kernel's
//! holder links, followed upward.

use std::collections::BTreeSet;
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::holders;
use super::mounts::Mounts;
use super::namespaces::Namespaces;
use super::pci;
use super::reader::Reader;
use crate::address::PciAddress;

/// A disk or partition.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BlockDevice {
    /// The kernel's name, such as `nvme0n1p2`.
    pub name: String,
    /// `major:minor`.
    pub number: String,
    /// The PCI functions below it: several for multipath, or where one is the host of a PCI domain
    /// of its own (Intel VMD); none for virtual ones.
    pub pci: Vec<PciAddress>,
    /// The disk it is a partition of.
    pub partition_of: Option<String>,
    /// The name that people gave it, if it is a device-mapper one: `vg0-root`.
    #[serde(default)]
    pub label: Option<String>,
    /// The ZFS pool it is a member of, which is imported.
    #[serde(default)]
    pub pool: Option<String>,
    /// What is built on it: LVM volumes, MD arrays, dm-crypt, multipath, loop devices, by name; or
    /// in words, where it is no block device (`NVMe target …`).
    pub holders: Vec<String>,
    /// Where it is mounted; in another mount namespace than this process's and init's, with whose.
    pub mounts: Vec<String>,
    /// Whether the host swaps to it.
    pub swap: bool,
}

/// Every block device, sorted by name.
pub fn read(reader: &mut Reader, namespaces: &Namespaces) -> Vec<BlockDevice> {
    let class = reader.root.block_class();
    let names = reader.entries(&class);
    let mut devices: Vec<BlockDevice> =
        names.iter().filter_map(|name| read_one(reader, name)).collect();
    let mounts = Mounts::read(reader, namespaces);
    let mut holders = holders::read(reader, &names);
    for device in &mut devices {
        device.holders.extend(holders.remove(&device.name).unwrap_or_default());
        device.pool = mounts.pool(reader, &device.number);
        let by_number = mounts.by_number.get(&device.number);
        let by_name = mounts.by_name.get(&device.name);
        let by_pool = device.pool.as_ref().and_then(|pool| mounts.by_pool.get(pool));
        let places: BTreeSet<&String> =
            by_number.into_iter().chain(by_name).chain(by_pool).flatten().collect();
        device.mounts = places.into_iter().cloned().collect();
        device.swap = mounts.swaps.contains(&device.name);
    }
    devices
}

fn read_one(reader: &mut Reader, name: &str) -> Option<BlockDevice> {
    let directory = reader.root.block_class().join(name);
    let target = reader.accept(crate::attribute::link_target(&directory))?;
    let is_partition = directory.join("partition").exists();
    let above = target.parent().and_then(Path::file_name).map(|name| name.to_string_lossy());
    Some(BlockDevice {
        name: name.to_owned(),
        number: reader.text(&directory.join("dev")).unwrap_or_default(),
        pci: functions_below(reader, &directory, &target, is_partition),
        partition_of: above.filter(|_| is_partition).map(|name| name.into_owned()),
        label: match name.starts_with("dm-") {
            true => reader.text(&directory.join("dm/name")),
            false => None,
        },
        pool: None,
        holders: reader.entries(&directory.join("holders")),
        mounts: Vec::new(),
        swap: false,
    })
}

/// With native NVMe multipath a namespace hangs below a virtual subsystem, which links to its
/// controllers (drivers/nvme/host/multipath.c); any other disk hangs below its function. A path by
/// way of a virtual function is left out where its PF has one as well: the disk does not go with it.
pub(crate) fn functions_below(
    reader: &mut Reader,
    directory: &Path,
    target: &Path,
    is_partition: bool,
) -> Vec<PciAddress> {
    let functions = pci::functions_in(target);
    if !functions.is_empty() {
        return functions;
    }
    if !target.components().any(|part| part.as_os_str() == "nvme-subsystem") {
        return Vec::new();
    }
    // "device" leads from the disk to its subsystem.
    let subsystem = directory.join(if is_partition { "../device" } else { "device" });
    let disk = if is_partition { target.parent().unwrap_or(target) } else { target };
    let disk = disk.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    let (mut all, mut with_path) = (Vec::new(), Vec::new());
    for entry in reader.entries(&subsystem) {
        if entry.starts_with("nvme") {
            let controller = subsystem.join(&entry);
            let link = reader.accept(crate::attribute::link_target(&controller));
            let Some(function) = link.as_deref().and_then(pci::function_in) else { continue };
            all.push(function);
            if reader.entries(&controller).iter().any(|name| is_path_of(name, disk)) {
                with_path.push(function);
            }
        }
    }
    if with_path.is_empty() {
        // No controller shows its paths: each may have one.
        with_path = all;
    } else {
        let through_pf = |vf: &PciAddress| {
            let pf = reader.link_name(&reader.root.pci_attribute(*vf, "physfn"));
            pf.and_then(|pf| pf.parse().ok()).is_some_and(|pf| with_path.contains(&pf))
        };
        let further: Vec<PciAddress> = with_path.iter().copied().filter(through_pf).collect();
        with_path.retain(|function| !further.contains(function));
    }
    with_path.sort();
    with_path.dedup();
    with_path
}

/// Whether `nvme0c1n2`, a controller's path, leads to `nvme0n2`: the same but for the controller.
fn is_path_of(path: &str, disk: &str) -> bool {
    let Some((subsystem, namespace)) = disk.rsplit_once('n') else { return false };
    path.strip_prefix(subsystem)
        .and_then(|rest| rest.strip_prefix('c'))
        .and_then(|rest| rest.split_once('n'))
        .is_some_and(|(controller, same)| {
            same == namespace && controller.bytes().all(|byte| byte.is_ascii_digit())
        })
}
#[cfg(test)]
mod tests {
    use super::is_path_of;

    #[test]
    fn a_path_is_told_from_others_by_subsystem_and_namespace() {
        assert!(is_path_of("nvme0c1n2", "nvme0n2"));
        assert!(is_path_of("nvme10c123n45", "nvme10n45"));
        for other in
            ["nvme0c1n1", "nvme1c1n2", "nvme0n2", "nvme0cxn2", "nvme0c1", "nvme0c1n2p1", ""]
        {
            assert!(!is_path_of(other, "nvme0n2"), "{other}");
        }
        assert!(!is_path_of("nvme0c1n2", ""));
    }
}
