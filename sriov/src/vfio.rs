//! Who uses a device through VFIO now.
//!
//! The kernel gives a group's file to one opener, also where a device of the group is open by its own
//! file, so trying to open it tells whether it is in use, without touching the device. Only then are
//! the processes looked through, to say who it is: unbinding or destroying an open device would block
//! until they let go.
//!
//! A device's own file (`/dev/vfio/devices/vfioN`) can be opened by many at once, and its group does
//! not tell before one of them uses it; a kernel may also have no groups' files. So where a device
//! has such a file, the processes are looked through in any case.

use std::fs::OpenOptions;
use std::io::ErrorKind;
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::address::PciAddress;
use crate::attribute;
use crate::root::HostRoot;

/// Bounds for the search, far beyond a real host's.
const MOST_PROCESSES: usize = 1 << 22;
const MOST_DESCRIPTORS: usize = 1 << 20;

/// A process that holds a device.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct User {
    /// Its process id; 0 where it cannot be seen (another user's, or another namespace's).
    pub pid: u32,
    /// Its command's name.
    pub command: String,
}

impl std::fmt::Display for User {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.pid {
            0 => f.write_str("a process that cannot be seen from here"),
            pid => write!(f, "{} (process {pid})", self.command),
        }
    }
}

/// Processes that hold the device's group or its own VFIO file; none where it is free.
pub fn users(root: &HostRoot, device: PciAddress) -> Vec<User> {
    let (groups, cdevs) = (groups(root, device), cdevs(root, device));
    let busy = |file: &String| {
        let opened = OpenOptions::new().read(true).write(true).open(root.dev(file));
        opened.is_err_and(|error| error.kind() == ErrorKind::ResourceBusy)
    };
    // A recorded tree's files tell nothing by being opened: there, the processes decide.
    let busy = root.is_live() && groups.iter().any(busy);
    if !busy && cdevs.is_empty() && (root.is_live() || groups.is_empty()) {
        return Vec::new();
    }
    let mut users = holders(root, &[groups, cdevs].concat());
    if users.is_empty() && busy {
        users.push(User { pid: 0, command: String::new() });
    }
    users
}

/// The file below `/dev` that is the device's own, by which iommufd takes it: `vfio/devices/vfioN`.
/// None where the kernel has no such files, or no VFIO driver has the device.
pub fn cdev(root: &HostRoot, device: PciAddress) -> Option<String> {
    cdevs(root, device).into_iter().next()
}

/// Whether vfio gives devices away without an IOMMU when asked to (`enable_unsafe_noiommu_mode`,
/// drivers/vfio/vfio_main.c). Such a device reaches all of the host's memory.
pub fn no_iommu_mode(root: &HostRoot) -> bool {
    let parameter = root.module("vfio").join("parameters/enable_unsafe_noiommu_mode");
    attribute::read(&parameter).ok().flatten().as_deref() == Some("Y")
}

/// The files below `/dev` by which the device's group is opened.
fn groups(root: &HostRoot, device: PciAddress) -> Vec<String> {
    let group = attribute::link_name(&root.pci_attribute(device, "iommu_group")).ok().flatten();
    let files =
        group.iter().flat_map(|group| [format!("vfio/{group}"), format!("vfio/noiommu-{group}")]);
    files.filter(|file| root.dev(file).exists()).collect()
}

/// The files below `/dev` by which the device itself is opened: one, or none.
fn cdevs(root: &HostRoot, device: PciAddress) -> Vec<String> {
    let names = attribute::entries(&root.pci_attribute(device, "vfio-dev")).unwrap_or_default();
    let files = names.into_iter().map(|name| format!("vfio/devices/{name}"));
    files.filter(|file| root.dev(file).exists()).collect()
}

fn holders(root: &HostRoot, files: &[String]) -> Vec<User> {
    let processes = attribute::entries(&root.proc("")).unwrap_or_default();
    processes
        .iter()
        .filter_map(|name| name.parse().ok())
        .take(MOST_PROCESSES)
        .filter(|pid: &u32| holds(&root.proc(&format!("{pid}/fd")), files))
        .map(|pid| User { pid, command: command(root, pid) })
        .collect()
}

/// Descriptors link to what was opened, as `/dev/vfio/8` whatever the root is.
fn holds(descriptors: &Path, files: &[String]) -> bool {
    let Ok(entries) = std::fs::read_dir(descriptors) else { return false };
    let mut targets =
        entries.take(MOST_DESCRIPTORS).flatten().filter_map(|entry| entry.path().read_link().ok());
    targets.any(|target| {
        let below = target.strip_prefix("/dev").ok().and_then(Path::to_str);
        below.is_some_and(|below| files.iter().any(|file| file == below))
    })
}

/// A process's command name.
pub fn command(root: &HostRoot, pid: u32) -> String {
    let name = attribute::read(&root.proc(&format!("{pid}/comm")));
    name.ok().flatten().unwrap_or_else(|| "unknown".to_owned())
}
