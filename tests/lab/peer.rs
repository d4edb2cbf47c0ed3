//! This machine's QEMU inside a host, for benchmarks that start the same guest with it.
//!
//! It is started through its own loader, so that nothing else in the host sees its libraries.

use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result};

use crate::archive::Tree;
use crate::binaries;
use crate::run::capture;

/// Where it lies in a host.
const PLACE: &str = "opt/qemu";
const LOADER: &str = "ld-linux-x86-64.so.2";
const PROGRAM: &str = "qemu";

/// What it loads to start a Linux kernel on a PC.
const FIRMWARE: [&str; 3] = ["bios-256k.bin", "kvmvapic.bin", "linuxboot_dma.bin"];

/// The command that starts QEMU in a host that has it, before its options.
pub fn command() -> String {
    format!("/{PLACE}/{LOADER} --library-path /{PLACE} /{PLACE}/{PROGRAM} -L /{PLACE}")
}

/// Puts `qemu`, its libraries and its firmware into a host.
pub(crate) fn add(tree: &mut Tree, qemu: &Path) -> Result<()> {
    tree.copy(&format!("{PLACE}/{PROGRAM}"), qemu)?;
    for file in binaries::linked(qemu)? {
        let file = Path::new(&file);
        let name = file.file_name().unwrap_or_default().to_string_lossy();
        tree.copy(&format!("{PLACE}/{name}"), file)?;
    }
    let folders = capture(Command::new(qemu).args(["-L", "help"]))?;
    for name in FIRMWARE {
        let file = folders.lines().map(|folder| Path::new(folder).join(name));
        let file = file.into_iter().find(|file| file.is_file()).with_context(|| {
            format!("{} has no {name} in any of its folders: {folders}", qemu.display())
        })?;
        tree.copy(&format!("{PLACE}/{name}"), &file)?;
    }
    Ok(())
}
