//! A distribution's kernel image and modules, taken apart.
//!
//! The packages hold a bzImage and hundreds of compressed modules. The lab needs the bzImage as it
//! is, the ELF image inside it (for guests that boot by PVH), and a few modules with whatever these
//! depend on, decompressed ahead: under emulation that would take seconds of every boot.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};

/// Decompresses xz or zstd, recognized by content; other content is returned as it is.
fn decompress(bytes: Vec<u8>) -> Result<Vec<u8>> {
    let mut plain = Vec::new();
    if bytes.starts_with(b"\xfd7zXZ\0") {
        lzma_rust2::XzReader::new(bytes.as_slice(), false).read_to_end(&mut plain).context("xz")?;
    } else if bytes.starts_with(&[0x28, 0xb5, 0x2f, 0xfd]) {
        ruzstd::decoding::StreamingDecoder::new(bytes.as_slice())
            .context("zstd")?
            .read_to_end(&mut plain)
            .context("zstd")?;
    } else {
        plain = bytes;
    }
    Ok(plain)
}

/// Extracts the ELF image from a bzImage: what the kernel's own decompressor would start.
///
/// The setup header says where the compressed payload is (Linux Documentation/arch/x86/boot.rst:
/// `setup_sects` at 0x1f1, magic at 0x202, `payload_offset` at 0x248 and `payload_length` at 0x24c,
/// the offset counted from the end of the setup sectors).
pub fn vmlinux(bzimage: &[u8]) -> Result<Vec<u8>> {
    let number = |at: usize| -> Result<usize> {
        let bytes = bzimage.get(at..at + 4).context("shorter than a setup header")?;
        Ok(u32::from_le_bytes(bytes.try_into()?) as usize)
    };
    ensure!(bzimage.get(0x202..0x206) == Some(b"HdrS"), "not a bzImage: no HdrS at 0x202");
    let setup_sectors = match bzimage[0x1f1] {
        0 => 4,
        sectors => usize::from(sectors),
    };
    let start = (setup_sectors + 1) * 512 + number(0x248)?;
    let payload = start
        .checked_add(number(0x24c)?)
        .and_then(|end| bzimage.get(start..end))
        .context("the payload lies beyond the end of the file")?;
    let elf = decompress(payload.to_vec())?;
    ensure!(
        elf.starts_with(b"\x7fELF"),
        "the payload is compressed in a way the lab does not know (it starts with {:02x?}); xz and \
         zstd it knows",
        &payload[..payload.len().min(4)]
    );
    Ok(elf)
}

/// A kernel module, decompressed.
pub struct Module {
    /// Its name with underscores, as the kernel shows it.
    pub name: String,
    /// The ELF object.
    pub object: Vec<u8>,
    /// The names of modules that must be loaded before it.
    pub depends: Vec<String>,
    /// Patterns of devices and names by which the kernel asks for it.
    pub aliases: Vec<String>,
}

/// The modules of one kernel, by name.
pub struct ModuleTree {
    files: BTreeMap<String, PathBuf>,
    builtin: BTreeSet<String>,
}

impl ModuleTree {
    /// Reads which modules `lib/modules/VERSION` holds.
    pub fn open(folder: &Path) -> Result<Self> {
        let mut files = BTreeMap::new();
        let mut todo = vec![folder.join("kernel")];
        while let Some(folder) = todo.pop() {
            let entries = fs::read_dir(&folder).with_context(|| format!("{}", folder.display()))?;
            for entry in entries {
                let entry = entry?;
                if entry.file_type()?.is_dir() {
                    todo.push(entry.path());
                } else if let Some((name, _)) =
                    entry.file_name().to_string_lossy().split_once(".ko")
                {
                    files.insert(name.replace('-', "_"), entry.path());
                }
            }
        }
        let list = fs::read_to_string(folder.join("modules.builtin")).unwrap_or_default();
        let builtin = list
            .lines()
            .filter_map(|line| {
                Some(line.rsplit('/').next()?.strip_suffix(".ko")?.replace('-', "_"))
            })
            .collect();
        Ok(ModuleTree { files, builtin })
    }

    /// Loads the named modules and all they depend on, each after its dependencies. A name that is
    /// built into the kernel is left out; one that is nowhere is an error.
    pub fn closure(&self, names: &[&str]) -> Result<Vec<Module>> {
        let mut done = BTreeSet::new();
        let mut modules = Vec::new();
        for name in names {
            self.visit(name, &mut done, &mut modules)?;
        }
        Ok(modules)
    }

    fn visit(&self, name: &str, done: &mut BTreeSet<String>, out: &mut Vec<Module>) -> Result<()> {
        // Marked before its dependencies: were they ever circular, this would still end.
        if self.builtin.contains(name) || !done.insert(name.to_owned()) {
            return Ok(());
        }
        let file = self.files.get(name).with_context(|| {
            format!("this kernel has no module {name}: the lab needs a kernel of 6.8 or newer")
        })?;
        let module = fs::read(file)
            .map_err(anyhow::Error::from)
            .and_then(decompress)
            .and_then(|object| Module::parse(name, object))
            .with_context(|| format!("module {}", file.display()))?;
        for dependency in &module.depends {
            self.visit(dependency, done, out)?;
        }
        out.push(module);
        Ok(())
    }
}

impl Module {
    fn parse(name: &str, object: Vec<u8>) -> Result<Self> {
        let (mut depends, mut aliases) = (Vec::new(), Vec::new());
        for entry in modinfo(&object)?.split(|byte| *byte == 0) {
            let entry = String::from_utf8_lossy(entry);
            match entry.split_once('=') {
                Some(("depends", list)) => depends.extend(
                    list.split(',')
                        .filter(|name| !name.is_empty())
                        .map(|name| name.replace('-', "_")),
                ),
                Some(("alias", pattern)) => aliases.push(pattern.to_owned()),
                _ => {}
            }
        }
        Ok(Module { name: name.to_owned(), object, depends, aliases })
    }
}

/// The `.modinfo` section of a module: `name=value` entries, each ended by a zero byte.
fn modinfo(object: &[u8]) -> Result<&[u8]> {
    let number = |at: usize, size: usize| -> Result<usize> {
        let bytes = object.get(at..at + size).context("an ELF file that ends too early")?;
        let mut whole = [0; 8];
        whole[..size].copy_from_slice(bytes);
        Ok(usize::from_le_bytes(whole))
    };
    ensure!(object.starts_with(b"\x7fELF\x02\x01"), "not a 64-bit little-endian ELF file");
    // Offsets of the ELF64 header: e_shoff, e_shentsize, e_shnum, e_shstrndx; then those of a
    // section header: sh_name, sh_offset, sh_size.
    let (table, size, count) = (number(0x28, 8)?, number(0x3a, 2)?, number(0x3c, 2)?);
    let header = |index: usize| table.checked_add(index * size).context("a damaged section table");
    let names = number(header(number(0x3e, 2)?)? + 0x18, 8)?;
    for index in 0..count {
        let section = header(index)?;
        let name = names + number(section, 4)?;
        if object.get(name..).is_some_and(|rest| rest.starts_with(b".modinfo\0")) {
            let start = number(section + 0x18, 8)?;
            let end = start.checked_add(number(section + 0x20, 8)?);
            return end.and_then(|end| object.get(start..end)).context("a damaged .modinfo");
        }
    }
    bail!("no .modinfo section")
}

/// The content of `modules.dep` for modules that all lie in `kernel/NAME.ko`: each with everything
/// it needs, directly or not, nearest first.
pub fn modules_dep(modules: &[Module]) -> String {
    let by_name: BTreeMap<&str, &Module> =
        modules.iter().map(|module| (module.name.as_str(), module)).collect();
    let mut content = String::new();
    for module in modules {
        let mut needed: Vec<&str> = Vec::new();
        let mut todo: Vec<&str> = module.depends.iter().map(String::as_str).collect();
        while !todo.is_empty() {
            let name = todo.remove(0);
            let Some(dependency) = by_name.get(name) else { continue };
            // Met again deeper down: it must be loaded earlier, so it moves to the end.
            needed.retain(|other| *other != name);
            needed.push(name);
            todo.extend(dependency.depends.iter().map(String::as_str));
        }
        content.push_str(&format!("kernel/{}.ko:", module.name));
        for name in needed {
            content.push_str(&format!(" kernel/{name}.ko"));
        }
        content.push('\n');
    }
    content
}

/// The content of `modules.alias`.
pub fn modules_alias(modules: &[Module]) -> String {
    let mut content = String::new();
    for module in modules {
        for alias in &module.aliases {
            content.push_str(&format!("alias {alias} {}\n", module.name));
        }
    }
    content
}

#[cfg(test)]
mod tests {
    use super::*;

    fn module(name: &str, depends: &[&str]) -> Module {
        let depends = depends.iter().map(|name| name.to_string()).collect();
        Module { name: name.into(), object: Vec::new(), depends, aliases: vec![] }
    }

    #[test]
    fn what_is_needed_by_several_comes_last() {
        let modules =
            [module("kvm", &[]), module("ccp", &["kvm"]), module("kvm_amd", &["kvm", "ccp"])];
        assert_eq!(
            modules_dep(&modules),
            "kernel/kvm.ko:\nkernel/ccp.ko: kernel/kvm.ko\n\
             kernel/kvm_amd.ko: kernel/ccp.ko kernel/kvm.ko\n"
        );
    }

    #[test]
    fn damaged_files_are_errors() {
        assert!(vmlinux(&[0; 16]).is_err());
        let mut image = vec![0; 0x300];
        image[0x202..0x206].copy_from_slice(b"HdrS");
        image[0x248..0x250].fill(0xff);
        assert!(vmlinux(&image).is_err());
        assert!(Module::parse("x", b"\x7fELF\x02\x01".to_vec()).is_err());
        assert!(Module::parse("x", b"text".to_vec()).is_err());
    }
}
