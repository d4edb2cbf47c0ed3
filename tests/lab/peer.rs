//! This machine's QEMU inside a host, for benchmarks that start the same guest with it.
//!
//! It is started through its own loader, so that nothing else in the host sees its libraries.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use crate::archive::Tree;
use crate::run::capture;

/// Where it lies in a host.
const PLACE: &str = "opt/qemu";
const LOADER: &str = "loader";
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
    let linked = capture(Command::new("ldd").arg(qemu))?;
    for (name, file) in libraries(&linked) {
        tree.copy(&format!("{PLACE}/{name}"), &file)?;
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

/// Names and files of what `ldd` has listed, with the loader under its name here.
fn libraries(linked: &str) -> Vec<(String, PathBuf)> {
    let library = |line: &str| {
        let mut words = line.split_whitespace();
        let first = words.next()?;
        match (words.next(), words.next()) {
            (Some("=>"), Some(file)) => Some((first.to_owned(), file.into())),
            // The loader has its path only, and the kernel's own library has none.
            _ if first.starts_with('/') => Some((LOADER.to_owned(), first.into())),
            _ => None,
        }
    };
    linked.lines().filter_map(library).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_loader_is_told_from_libraries_and_the_kernels_own_is_left_out() {
        let linked = "\tlinux-vdso.so.1 (0x00007fdef3957000)\n\
                      \tlibz.so.1 => /lib/x86_64-linux-gnu/libz.so.1 (0x00007fdef1400000)\n\
                      \t/lib64/ld-linux-x86-64.so.2 (0x00007fdef3959000)\n";
        let expected = [
            ("libz.so.1", "/lib/x86_64-linux-gnu/libz.so.1"),
            (LOADER, "/lib64/ld-linux-x86-64.so.2"),
        ];
        let expected = expected.map(|(name, file)| (name.to_owned(), PathBuf::from(file)));
        assert_eq!(libraries(linked), expected);
        assert!(libraries("\tnot a dynamic executable\n").is_empty());
    }
}
