//! The file systems of the emulated machines: a host's and, inside it, a guest's.
//!
//! In a host, the guest's is `/boot/guest.cpio` and its kernel `/boot/vmlinuz`, both also at hand
//! for starting a guest without a host.

use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::archive::Tree;
use crate::binaries;
use crate::cache::{self, write_whole};
use crate::kit::{GUEST_MODULES, HOST_MODULES, Kit};
use crate::scratch::Scratch;
use crate::setup;

const HOST_INIT: &str = include_str!("host-init.sh");
const GUEST_INIT: &str = include_str!("guest-init.sh");
const GUEST_LEASE: &str = include_str!("guest-lease.sh");

/// Folders that are mounted on, or that programs expect.
const FOLDERS: &[&str] =
    &[".", "dev", "proc", "sys", "run", "tmp", "root", "var/lib/assign", "mnt"];

/// The file system of a host, without what a single test adds: the file's path. It is written again
/// when anything in it has changed.
pub fn host(kit: &Kit) -> Result<PathBuf> {
    let folder = binaries::lab_folder()?;
    let _lock = cache::lock(&folder.join("lock"))?;
    let (image, stamp) = (folder.join("host.cpio"), folder.join("host.stamp"));
    let now = inputs(kit)?;
    if image.is_file() && fs::read_to_string(&stamp).is_ok_and(|before| before == now) {
        return Ok(image);
    }
    // Gone first: should we be interrupted, the image is made again.
    let _ = fs::remove_file(&stamp);
    write_whole(&image, &host_tree(kit, &folder)?.archive()?)?;
    write_whole(&stamp, now.as_bytes())?;
    Ok(image)
}

/// The file system of a guest, as an archive.
pub fn guest(kit: &Kit) -> Result<Vec<u8>> {
    guest_tree(kit)?.archive()
}

fn guest_tree(kit: &Kit) -> Result<Tree> {
    let mut tree = Tree::default();
    add_base(&mut tree, kit, GUEST_MODULES)?;
    tree.program("init", GUEST_INIT);
    tree.program("etc/lease.sh", GUEST_LEASE);
    Ok(tree)
}

/// The same with one of our programs in it, and all that it needs.
pub fn guest_with(program: &str) -> Result<Vec<u8>> {
    build_programs()?;
    let mut tree = guest_tree(&setup::present()?.kit)?;
    binaries::add_one(&mut tree, Scratch::new()?.path(), program)?;
    tree.archive()
}

/// The examples of this repository, which lie at `/examples` in a host.
fn examples() -> PathBuf {
    binaries::workspace().join("examples")
}

fn host_tree(kit: &Kit, scratch: &Path) -> Result<Tree> {
    let mut tree = Tree::default();
    add_base(&mut tree, kit, HOST_MODULES)?;
    tree.program("init", HOST_INIT);
    binaries::add(&mut tree, scratch)?;
    tree.copy("boot/vmlinuz", &kit.vmlinuz())?;
    tree.file("boot/guest.cpio", guest(kit)?);
    tree.folder("examples");
    for file in files_below(&examples())? {
        let name = file.strip_prefix(binaries::workspace()).unwrap_or(&file);
        tree.copy(&name.to_string_lossy(), &file)?;
    }
    Ok(tree)
}

fn add_base(tree: &mut Tree, kit: &Kit, modules: &[&str]) -> Result<()> {
    for folder in FOLDERS {
        tree.folder(folder);
    }
    kit.add_busybox(tree)?;
    kit.add_modules(tree, modules)?;
    tree.file("etc/passwd", "root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534::/:/bin/false\n");
    tree.file("etc/group", "root:x:0:\ntty:x:5:\nkvm:x:107:\nnogroup:x:65534:\n");
    tree.file("etc/hosts", "127.0.0.1 localhost\n");
    Ok(())
}

/// Everything the host's file system is made of, as text that differs when any of it does.
fn inputs(kit: &Kit) -> Result<String> {
    let mut text = format!("{}\n{HOST_INIT}{GUEST_INIT}{GUEST_LEASE}", kit.name());
    // The lab's own file stands for the code that makes the image. It is asked for by the link to
    // what runs: cargo may just have put another build of it under its name, and then its path
    // leads nowhere.
    let mut files = vec![PathBuf::from("/proc/self/exe")];
    files.extend(binaries::programs()?);
    files.extend(files_below(&examples())?);
    for file in files {
        let facts = fs::metadata(&file).with_context(|| {
            format!("{} is missing: build the workspace (`cargo lab` does)", file.display())
        })?;
        let (inode, size) = (facts.ino(), facts.size());
        let (seconds, nanoseconds) = (facts.mtime(), facts.mtime_nsec());
        text.push_str(&format!("{file:?} {inode} {size} {seconds}.{nanoseconds}\n"));
    }
    Ok(text)
}

/// All files in a folder and its folders, sorted; none if there is no such folder.
fn files_below(folder: &Path) -> Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    let mut todo = vec![folder.to_owned()];
    while let Some(folder) = todo.pop() {
        let Ok(entries) = fs::read_dir(&folder) else { continue };
        for entry in entries {
            let entry = entry?;
            match entry.file_type()? {
                kind if kind.is_dir() => todo.push(entry.path()),
                kind if kind.is_file() => files.push(entry.path()),
                _ => {}
            }
        }
    }
    files.sort();
    Ok(files)
}

/// Builds our programs, under cargo's own progress, unless `cargo lab test` has just done so.
pub fn build_programs() -> Result<()> {
    if std::env::var_os(binaries::BUILT).is_some() {
        return Ok(());
    }
    binaries::build()
}

/// Writes one host's initial file system: what all share and what this one adds.
pub fn write_host(kit: &Kit, additions: &Tree, to: &Path) -> Result<()> {
    let shared = host(kit)?;
    let additions = additions.archive()?;
    let write = || -> std::io::Result<()> {
        let mut out = File::create(to)?;
        std::io::copy(&mut File::open(&shared)?, &mut out)?;
        out.write_all(&additions)
    };
    write().with_context(|| format!("cannot write {}", to.display()))
}
