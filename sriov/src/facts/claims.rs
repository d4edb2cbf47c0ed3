//! Who has a device of a function open: asked right before the function is taken, not for listings,
//! since it looks at every process and opens disks.
//!
//! A disk that somebody claimed for themselves alone (ZFS, a filesystem that no mount table shows,
//! a program with `O_EXCL`) cannot be opened so by us: the kernel answers EBUSY without asking the
//! disk (block/bdev.c, `bd_prepare_to_claim`). Whoever has a device node open without a claim, as a
//! virtual machine on a raw disk or a daemon on a network card's clock, is found by its descriptors.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;

use super::block::BlockDevice;
use super::namespaces;
use super::pci;
use super::reader::Reader;
use crate::address::PciAddress;
use crate::attribute;
use crate::vfio;

/// Bounds for the search, far beyond a real host's.
const MOST_PROCESSES: usize = 1 << 22;
const MOST_DESCRIPTORS: usize = 1 << 20;

/// Somebody's hold on a device of a function.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Claim {
    /// The device's file below `/dev`: `sdb`, `ptp0`, `input/event3`.
    pub device: String,
    /// Who has it open; `None` where it is claimed by the kernel, or by one that is not seen.
    pub by: Option<vfio::User>,
}

/// A device node's number, and whether it is a block device's.
type Number = (bool, u64);

/// Device nodes, each with its function and its name.
type Nodes = BTreeMap<Number, (PciAddress, String)>;

/// The claims on the devices of these functions.
pub fn read(
    reader: &mut Reader,
    functions: &[PciAddress],
    blocks: &[BlockDevice],
) -> Vec<(PciAddress, Claim)> {
    let functions: BTreeSet<PciAddress> = functions.iter().copied().collect();
    let own = || blocks.iter().filter(|block| owner(&functions, block).is_some());
    let nodes = nodes(reader, &functions, own());
    let mut claims = if nodes.is_empty() { Vec::new() } else { open(reader, &nodes) };
    if !reader.root.is_live() {
        return claims;
    }
    // What is known to be used needs no second proof, and a whole disk counts as claimed while one
    // of its partitions is: so the partitions come first.
    let mut explained: BTreeSet<String> =
        claims.iter().map(|(_, claim)| claim.device.clone()).collect();
    let (parts, disks): (Vec<&BlockDevice>, Vec<&BlockDevice>) =
        own().partition(|block| block.partition_of.is_some());
    for block in parts.into_iter().chain(disks) {
        let device = block.name.replace('!', "/");
        let is_known = block.swap
            || block.pool.is_some()
            || !(block.mounts.is_empty() && block.holders.is_empty());
        if is_known {
            explained.insert(device.clone());
        } else if !explained.contains(&device) && is_claimed(reader, block) {
            explained.insert(device.clone());
            let function = owner(&functions, block);
            let claim = Claim { device: device.clone(), by: None };
            claims.extend(function.map(|function| (function, claim)));
        }
        if let Some(disk) = block.partition_of.clone().filter(|_| explained.contains(&device)) {
            explained.insert(disk);
        }
    }
    claims
}

/// The first of the functions that a disk is on: to take one of several ways to it is to take it.
fn owner(functions: &BTreeSet<PciAddress>, block: &BlockDevice) -> Option<PciAddress> {
    block.pci.iter().find(|function| functions.contains(function)).copied()
}

/// The device nodes of the functions. What vfio and sound servers hold does not count: who has a
/// device through vfio is asked elsewhere, and a sound server keeps the controls of every card open
/// from the first login on, whether anything plays or not.
fn nodes<'a>(
    reader: &mut Reader,
    functions: &BTreeSet<PciAddress>,
    blocks: impl Iterator<Item = &'a BlockDevice>,
) -> Nodes {
    let mut nodes = BTreeMap::new();
    let characters = reader.root.sys("dev/char");
    for number in reader.entries(&characters) {
        let link = reader.accept(attribute::link_target(&characters.join(&number)));
        let Some(link) = link else { continue };
        let Some(function) = pci::function_in(&link).filter(|of| functions.contains(of)) else {
            continue;
        };
        let name = link.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let is_vfio = link.iter().any(|part| part == "vfio-dev");
        if let Some(number) = parse_number(&number).filter(|_| !is_vfio && !is_control(&name)) {
            nodes.insert((false, number), (function, name));
        }
    }
    for block in blocks {
        if let (Some(number), Some(of)) = (parse_number(&block.number), owner(functions, block)) {
            nodes.insert((true, number), (of, block.name.clone()));
        }
    }
    nodes
}

fn is_control(name: &str) -> bool {
    name.starts_with("controlC")
}

/// `major:minor` as the number that a file's metadata has.
fn parse_number(text: &str) -> Option<u64> {
    let (major, minor) = text.split_once(':')?;
    Some(rustix::fs::makedev(major.parse().ok()?, minor.parse().ok()?))
}

/// Who of all processes but this one has one of the nodes open.
fn open(reader: &mut Reader, nodes: &Nodes) -> Vec<(PciAddress, Claim)> {
    let ourselves = std::process::id();
    let processes = reader.entries(&reader.root.proc(""));
    let mut claims = Vec::new();
    let mut unseen = None;
    for pid in processes.iter().filter_map(|name| name.parse().ok()).take(MOST_PROCESSES) {
        if pid == ourselves {
            continue;
        }
        let descriptors = reader.root.proc(&format!("{pid}/fd"));
        let entries = match std::fs::read_dir(&descriptors) {
            Ok(entries) => entries,
            Err(error) if namespaces::is_gone(&error) => continue,
            Err(error) => {
                unseen.get_or_insert((descriptors, error));
                continue;
            }
        };
        let mut found: Vec<(PciAddress, String)> = entries
            .take(MOST_DESCRIPTORS)
            .flatten()
            .filter_map(|entry| node_of(reader, &entry.path(), nodes))
            .collect();
        found.sort();
        found.dedup();
        for (function, device) in found {
            let by = vfio::User { pid, command: vfio::command(reader.root, pid) };
            claims.push((function, Claim { device, by: Some(by) }));
        }
    }
    if let Some((path, error)) = unseen {
        reader.note(&path, format!("what it has open cannot be seen: {error}"));
    }
    claims
}

/// Which of the nodes a descriptor is, by the path it was opened by, without `/dev/`. Only what
/// was opened below `/dev` is looked at more closely: a file on a network filesystem may not answer.
fn node_of(reader: &Reader, descriptor: &Path, nodes: &Nodes) -> Option<(PciAddress, String)> {
    let path = descriptor.read_link().ok()?;
    let device = path.strip_prefix("/dev").ok()?.to_str()?.to_owned();
    let (function, _) = if reader.root.is_live() {
        let facts = std::fs::metadata(descriptor).ok()?;
        let kind = facts.file_type();
        let is_node = kind.is_block_device() || kind.is_char_device();
        is_node.then(|| nodes.get(&(kind.is_block_device(), facts.rdev())))??
    } else {
        // A recorded tree has the paths and no numbers.
        let name = path.file_name()?.to_string_lossy();
        nodes.values().find(|(_, node)| *node == name)?
    };
    Some((*function, device))
}

/// Whether somebody claimed a disk or partition for themselves alone. It is opened for reading and
/// closed again, without a word to the disk beyond what its driver does on opening.
fn is_claimed(reader: &mut Reader, block: &BlockDevice) -> bool {
    let Some(number) = parse_number(&block.number) else { return false };
    let node: PathBuf = reader.root.dev(&block.name.replace('!', "/"));
    let attempt = || {
        let facts = std::fs::metadata(&node)?;
        if !facts.file_type().is_block_device() || facts.rdev() != number {
            return Err(Errno::NODEV.into());
        }
        let flags = OFlags::RDONLY | OFlags::EXCL | OFlags::NONBLOCK | OFlags::CLOEXEC;
        rustix::fs::open(&node, flags, Mode::empty()).map(File::from).map_err(std::io::Error::from)
    };
    let Err(error) = attempt() else { return false };
    match Errno::from_io_error(&error) {
        Some(Errno::BUSY) => true,
        // The claim is asked for first: a drive without a medium, or that fails, is not claimed.
        Some(Errno::NOMEDIUM | Errno::NXIO | Errno::IO) => false,
        _ => {
            reader.note(&node, format!("whether it is claimed cannot be seen: {error}"));
            false
        }
    }
}
