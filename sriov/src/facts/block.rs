//! Block devices, and what of the host lives on them.
//!
//! A filesystem is found by its device number, or where it has none of its own (btrfs, overlays)
//! by its source; what is stacked on a disk (partitions, LVM, MD, encryption) by the kernel's
//! holder links, followed upward.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use serde::{Deserialize, Serialize};

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
    /// The PCI functions below it: several for multipath, none for virtual ones.
    pub pci: Vec<PciAddress>,
    /// The disk it is a partition of.
    pub partition_of: Option<String>,
    /// Devices made from it: LVM volumes, MD arrays, dm-crypt, multipath.
    pub holders: Vec<String>,
    /// Where it is mounted.
    pub mounts: Vec<String>,
    /// Whether the host swaps to it.
    pub swap: bool,
}

/// Every block device, sorted by name.
pub fn read(reader: &mut Reader) -> Vec<BlockDevice> {
    let class = reader.root.block_class();
    let names = reader.entries(&class);
    let mut devices: Vec<BlockDevice> =
        names.iter().filter_map(|name| read_one(reader, name)).collect();
    let mounts = Mounts::read(reader);
    for device in &mut devices {
        let by_number = mounts.by_number.get(&device.number);
        let by_name = mounts.by_name.get(&device.name);
        let places: BTreeSet<&String> = by_number.into_iter().chain(by_name).flatten().collect();
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
        holders: reader.entries(&directory.join("holders")),
        mounts: Vec::new(),
        swap: false,
    })
}

/// With native NVMe multipath a namespace hangs below a virtual subsystem, which links to its
/// controllers (drivers/nvme/host/multipath.c); any other disk hangs below its function.
pub(crate) fn functions_below(
    reader: &mut Reader,
    directory: &Path,
    target: &Path,
    is_partition: bool,
) -> Vec<PciAddress> {
    if let Some(function) = pci::function_in(target) {
        return vec![function];
    }
    if !target.components().any(|part| part.as_os_str() == "nvme-subsystem") {
        return Vec::new();
    }
    // "device" leads from the disk to its subsystem.
    let subsystem = directory.join(if is_partition { "../device" } else { "device" });
    let mut functions: Vec<PciAddress> = Vec::new();
    for entry in reader.entries(&subsystem) {
        if entry.starts_with("nvme") {
            let link = reader.accept(crate::attribute::link_target(&subsystem.join(&entry)));
            functions.extend(link.as_deref().and_then(pci::function_in));
        }
    }
    functions.sort();
    functions.dedup();
    functions
}

/// What is mounted and swapped to, in the mount namespaces of this process and of init.
#[derive(Default)]
struct Mounts {
    by_number: BTreeMap<String, Vec<String>>,
    by_name: BTreeMap<String, Vec<String>>,
    swaps: BTreeSet<String>,
}

impl Mounts {
    fn read(reader: &mut Reader) -> Mounts {
        let mut mounts = Mounts::default();
        let own = reader.table(&reader.root.proc("self/mountinfo"));
        // Another user may not look at init's: what is our own was read.
        let init = reader.root.proc("1/mountinfo");
        let init = crate::attribute::read_table(&init).unwrap_or_default();
        for line in own.lines().chain(init.lines()) {
            mounts.add(reader, line);
        }
        let swaps = reader.root.proc("swaps");
        for line in reader.table(&swaps).lines().skip(1) {
            let source = line.split_whitespace().next().unwrap_or_default();
            mounts.swaps.extend(block_name(reader, &unescape(source)));
        }
        mounts.add_btrfs(reader);
        mounts
    }

    /// Id, parent, major:minor, root, mount point, options, optional fields, `-`, type, source
    /// (Documentation/filesystems/proc.rst, 3.5).
    fn add(&mut self, reader: &Reader, line: &str) -> Option<()> {
        let mut fields = line.split(' ');
        let number = fields.nth(2)?;
        let place = unescape(fields.nth(1)?);
        let source = fields.skip_while(|field| *field != "-").nth(2);
        if !number.starts_with("0:") {
            self.by_number.entry(number.to_owned()).or_default().push(place);
        } else if let Some(name) = source.and_then(|source| block_name(reader, &unescape(source))) {
            self.by_name.entry(name).or_default().push(place);
        }
        Some(())
    }

    /// The members of every btrfs that is mounted, wherever.
    fn add_btrfs(&mut self, reader: &mut Reader) {
        let directory = reader.root.btrfs();
        for filesystem in reader.entries(&directory) {
            for member in reader.entries(&directory.join(&filesystem).join("devices")) {
                self.by_name.entry(member).or_default().push(format!("btrfs {filesystem}"));
            }
        }
    }
}

/// The kernel's name of a device node: what is below `/dev` may be a link, as `/dev/mapper` has.
fn block_name(reader: &Reader, node: &str) -> Option<String> {
    let below = node.strip_prefix("/dev/")?;
    let path = reader.root.dev(below);
    let path = std::fs::canonicalize(&path).unwrap_or(path);
    path.file_name().map(|name| name.to_string_lossy().into_owned())
}

/// procfs writes space, tab, newline and backslash as `\ooo`.
fn unescape(text: &str) -> String {
    text.replace("\\040", " ").replace("\\011", "\t").replace("\\012", "\n").replace("\\134", "\\")
}
