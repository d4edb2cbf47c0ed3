//! Disks and scripts of any bytes, for tests and fuzzers.

use std::fs::File;
use std::io::Write;

use rustix::fs::MemfdFlags;

use super::disk::Disk;
use super::grub::{Devices, Script, default_of};
use super::version;
use crate::spec::{DiskFormat, FoundEntry, Unbootable};

/// What is booted from a disk with these contents; its files go nowhere.
///
/// # Errors
/// Why nothing is.
///
/// # Panics
/// Where there is no memory for the disk.
pub fn disk(contents: &[u8], wanted: Option<&str>) -> Result<FoundEntry, Unbootable> {
    let memory = || {
        let file = rustix::fs::memfd_create("fuzzed", MemfdFlags::CLOEXEC);
        File::from(file.expect("memory"))
    };
    let mut file = memory();
    file.write_all(contents).expect("memory");
    let size = contents.len() as u64;
    let disk = Disk::open(file, size, DiskFormat::Raw).expect("a raw disk is as it is");
    super::read(&disk, wanted, &mut memory(), &mut memory())
}

/// The number of entries in the menu of a GRUB script, each of which is carried out; none where the
/// script is given up.
pub fn script(text: &str) -> Option<usize> {
    let mut script = Script::new(&Nothing, 0, "/grub");
    script.run(text).ok()?;
    let entries = std::mem::take(&mut script.entries);
    let default = default_of(&entries, script.value("default"));
    assert!(default.is_none_or(|at| !entries[at].is_submenu));
    for entry in &entries {
        if let Ok(loads) = script.load(entry) {
            assert!(loads.initrds.len() <= 16 && loads.kernel.is_none_or(|at| at.device == 0));
        }
    }
    Some(entries.len())
}

/// Compares versions both ways: whichever is first, the same one is newer.
pub fn versions(one: &str, other: &str) {
    assert_eq!(version::compare(one, other), version::compare(other, one).reverse());
    assert!(version::compare(one, one).is_eq());
}

/// A filesystem without files.
struct Nothing;

impl Devices for Nothing {
    fn count(&self) -> usize {
        1
    }

    fn by_uuid(&self, uuid: &str) -> Option<usize> {
        (uuid == "1").then_some(0)
    }

    fn by_label(&self, _label: &str) -> Option<usize> {
        None
    }

    fn by_number(&self, number: Option<u32>) -> Option<usize> {
        (number == Some(1)).then_some(0)
    }

    fn has(&self, _device: usize, path: &str) -> bool {
        path == "/grub/grubenv"
    }

    fn text(&self, _device: usize, path: &str) -> Option<String> {
        (path == "/grub/grubenv").then(|| "saved_entry=1\n".to_owned())
    }
}
