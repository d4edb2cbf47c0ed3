//! Reads what the boot loader on a disk would boot: its entries, and of one of them the kernel, the
//! initial RAM disk and the command line.
//!
//! ```text
//! disk ─► partitions ─► volumes: ext, fat ─┬► bls  (loader/entries) ─┬► menu ─► one entry ─► its files
//!                                          └► grub (grub.cfg) ───────┘
//! ```
//! A disk is hostile: whoever had it before, or the guest that has it, wrote what is there. So this is
//! done by a process of its own, which has nothing but the disk and the files it fills, and shuts
//! itself in before it looks ([`serve`]). Sizes, depths and numbers are bounded; how long it takes is
//! bounded by whoever waits for the answer.

mod bls;
mod disk;
mod ext;
mod fat;
mod grub;
mod menu;
mod partitions;
#[cfg(feature = "simulated")]
pub mod simulated;
mod version;
mod volume;

use std::fs::File;
use std::io::{self, BufWriter, ErrorKind, Read, Write};

use rustix::process::{Resource, Rlimit, setrlimit};

use self::disk::Disk;
use self::grub::Location;
use self::menu::Menu;
use self::volume::Volumes;
use crate::descriptor::Inherited;
use crate::error::{Error, Result};
use crate::event::Reporter;
use crate::sandbox::{self, Kind};
use crate::spec::{
    Descriptor, FoundEntry, ImageAnswer, ImageSpec, MAX_DISK_INITRD, MAX_DISK_KERNEL, Unbootable,
};

/// Memory of the process, in bytes: of what a disk says about itself no more is believed.
const MEMORY_MAX: u64 = 512 << 20;
/// Most entries that are told.
const MOST_TOLD: usize = 64;
/// Longest text that is told, in bytes.
const LONGEST_TOLD: usize = 256;
/// How initial RAM disks begin within a file of several (Linux, `initramfs-buffer-format`).
const ALIGNED: u64 = 4;
const CHUNK: usize = 256 << 10;

/// Does what `spec` says: shuts this process in, reads, and answers.
///
/// # Errors
/// Descriptors that are not as the spec says, and walls that the kernel does not put up.
pub fn serve(spec: &ImageSpec, inherited: &mut Inherited) -> Result<()> {
    let mut take =
        |descriptor: Descriptor, what: &str| inherited.take(descriptor, what).map(File::from);
    let answer = Reporter::new(Some(take(spec.answer, "the answer's pipe")?));
    let mut disk = take(spec.disk, "the disk")?;
    let mut kernel = take(spec.kernel, "the file for the kernel")?;
    let mut initrd = take(spec.initrd, "the file for the initrd")?;
    let failed = |action: &'static str| move |source| Error::System { action, source };
    for (resource, most) in [(Resource::As, MEMORY_MAX), (Resource::Fsize, MAX_DISK_INITRD)] {
        let limit = Rlimit { current: Some(most), maximum: Some(most) };
        let limited = setrlimit(resource, limit).map_err(io::Error::from);
        limited.map_err(failed("limit its memory and files"))?;
    }
    let size = disk::size(&mut disk).map_err(failed("find out how large the disk is"))?;
    if let Some(walls) = &spec.sandbox {
        sandbox::enter(walls, &answer, Kind::Image)?;
    }
    let disk = Disk::open(disk, size, spec.format)
        .map_err(|error| Unbootable::Unreadable { cause: told(&error.to_string()) });
    let found = disk.and_then(|disk| read(&disk, spec.entry.as_deref(), &mut kernel, &mut initrd));
    answer.send(&match found {
        Ok(entry) => ImageAnswer::Found(entry),
        Err(why) => ImageAnswer::Unbootable { why },
    });
    Ok(())
}

/// The entry `wanted` of the boot loader on `disk`, or its default, with its files copied.
fn read(
    disk: &Disk,
    wanted: Option<&str>,
    kernel: &mut File,
    initrd: &mut File,
) -> Result<FoundEntry, Unbootable> {
    let unreadable = |cause: String| Unbootable::Unreadable { cause: told(&cause) };
    let volumes = Volumes::find(&disk.whole()).map_err(unreadable)?;
    if volumes.all.is_empty() {
        return Err(Unbootable::NoFilesystem { found: all_told(volumes.others.iter()) });
    }
    let menu = Menu::find(&volumes).map_err(unreadable)?;
    let Some(mut menu) = menu else {
        let names: Vec<String> = volumes.all.iter().map(volume::Volume::name).collect();
        return Err(Unbootable::NoEntries { found: all_told(names.iter().chain(&volumes.others)) });
    };
    let item = match wanted {
        None => menu.default,
        Some(wanted) => menu.named(wanted).ok_or_else(|| {
            let names: Vec<String> = menu.items.iter().map(menu::Item::name).collect();
            Unbootable::NoSuchEntry { entries: all_told(names.iter()) }
        })?,
    };
    let title = told(&menu.items[item].title);
    let bad = |cause: String| Unbootable::BadEntry { title: title.clone(), cause: told(&cause) };
    let loads = menu.load(item).map_err(bad)?;
    let Some(from) = loads.kernel else {
        return Err(bad(match loads.other {
            Some(command) => format!("it boots no Linux kernel ({command})"),
            None => "it names no kernel, or one that is on no filesystem of this disk".to_owned(),
        }));
    };
    copy(&volumes, &from, kernel, MAX_DISK_KERNEL).map_err(bad)?;
    let mut all = 0_u64;
    for from in &loads.initrds {
        let gap = all.next_multiple_of(ALIGNED) - all;
        let zeros = [0; ALIGNED as usize];
        initrd.write_all(&zeros[..gap as usize]).map_err(|error| bad(error.to_string()))?;
        all += gap;
        all += copy(&volumes, from, initrd, MAX_DISK_INITRD - all).map_err(bad)?;
    }
    let has_initrd = !loads.initrds.is_empty();
    Ok(FoundEntry { title: title.clone(), cmdline: loads.cmdline, has_initrd })
}

/// Appends a file to `to`: its number of bytes.
fn copy(volumes: &Volumes, from: &Location, to: &mut File, most: u64) -> Result<u64, String> {
    let volume = &volumes.all[from.device];
    let failed = |error: io::Error| format!("{} of {}: {error}", from.path, volume.name());
    let file = volume.files.open(&from.path).map_err(failed)?;
    let file = file.ok_or_else(|| failed(ErrorKind::NotFound.into()))?;
    let mut to = BufWriter::with_capacity(CHUNK, to);
    let count = io::copy(&mut file.take(most + 1), &mut to).map_err(failed)?;
    to.flush().map_err(failed)?;
    match count {
        0 => Err(failed(io::Error::other("it is empty"))),
        count if count > most => {
            Err(failed(io::Error::other(format!("it has more than {} MiB", most >> 20))))
        }
        count => Ok(count),
    }
}

fn all_told<'t>(texts: impl Iterator<Item = &'t String>) -> Vec<String> {
    texts.take(MOST_TOLD).map(|text| told(text)).collect()
}

/// A text of the disk's, no longer than anybody reads.
fn told(text: &str) -> String {
    let end = text.floor_char_boundary(LONGEST_TOLD);
    if end == text.len() { text.to_owned() } else { format!("{}…", &text[..end]) }
}

#[cfg(test)]
mod tests;
