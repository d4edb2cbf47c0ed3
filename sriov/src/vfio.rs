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

use std::fs::{File, OpenOptions};
use std::io::{self, ErrorKind};
use std::path::Path;
use std::thread;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::address::PciAddress;
use crate::attribute;
use crate::root::HostRoot;

/// Bounds for the search, far beyond a real host's.
const MOST_PROCESSES: usize = 1 << 22;
const MOST_DESCRIPTORS: usize = 1 << 20;

/// How often, and after which wait each, a group is tried again that nobody seems to have: opening
/// one to try it takes microseconds, and whoever does so is not on a processor all the time.
const TIMES: usize = 20;
const AGAIN: Duration = Duration::from_millis(10);

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
    let is_busy = |file: &String| busy(&try_open(&root.dev(file)));
    // A recorded tree's files tell nothing by being opened: there, the processes decide.
    let seems_busy = root.is_live() && groups.iter().any(is_busy);
    if !seems_busy && cdevs.is_empty() && (root.is_live() || groups.is_empty()) {
        return Vec::new();
    }
    let look = || holders(root, &[groups.clone(), cdevs.clone()].concat());
    let users = look();
    if !users.is_empty() || !seems_busy {
        return users;
    }
    // Somebody may only have tried, as we do: another lane of ours with a device of the same group, or
    // another command.
    if !stays(|| groups.iter().any(is_busy), || thread::sleep(AGAIN)) {
        return Vec::new();
    }
    match look() {
        users if users.is_empty() => vec![User { pid: 0, command: String::new() }],
        users => users,
    }
}

/// Opens a file of VFIO for use. One that is busy is tried again for a moment: somebody may only see
/// whether it is, as [`users`] does.
///
/// # Errors
/// The kernel's; [`ErrorKind::ResourceBusy`] where somebody has it.
pub fn open(path: &Path) -> io::Result<File> {
    let mut opened = try_open(path);
    for _ in 0..TIMES {
        if !busy(&opened) {
            break;
        }
        thread::sleep(AGAIN);
        opened = try_open(path);
    }
    opened
}

fn try_open(path: &Path) -> io::Result<File> {
    OpenOptions::new().read(true).write(true).open(path)
}

fn busy(opened: &io::Result<File>) -> bool {
    opened.as_ref().is_err_and(|error| error.kind() == ErrorKind::ResourceBusy)
}

/// Whether something is so each time it is looked at, with a wait in between.
fn stays(is_so: impl Fn() -> bool, wait: impl Fn()) -> bool {
    (0..TIMES).all(|_| {
        wait();
        is_so()
    })
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

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    #[test]
    fn a_group_that_is_only_tried_by_others_is_in_nobodys_use() {
        let looks = Cell::new(0);
        let busy_until = |times: usize| {
            looks.set(0);
            stays(
                || {
                    looks.set(looks.get() + 1);
                    looks.get() < times
                },
                || {},
            )
        };
        assert!(!busy_until(1) && !busy_until(TIMES));
        assert!(busy_until(TIMES + 1));
        assert_eq!(looks.get(), TIMES);
    }
}
