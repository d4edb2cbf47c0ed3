//! Recognising and loading a kernel image.

use std::fs::File;
use std::io::{self, Seek, SeekFrom};
use std::os::unix::fs::FileExt;

use linux_loader::elf::{Elf64_Ehdr, Elf64_Phdr, PT_LOAD, PT_NOTE};
use linux_loader::loader::bootparam::setup_header;
use linux_loader::loader::elf::{Elf, PvhBootCapability};
use linux_loader::loader::{BzImage, KernelLoader};
use vm_memory::{ByteValued, GuestAddress};

use crate::error::{Error, Result};
use crate::machine::layout::{HIGH_MEMORY_START, Layout};
use crate::machine::memory::GuestMemory;

/// Offset of the "HdrS" magic in a bzImage (Documentation/arch/x86/boot.rst).
const HDRS_OFFSET: u64 = 0x202;
/// Bit of `xloadflags`: there is a 64-bit entry point, 0x200 after the load address.
const XLF_KERNEL_64: u16 = 1;
/// Most parts (program headers) of an ELF kernel; Linux has five.
const MOST_PARTS: u16 = 64;
/// Most bytes of its notes; Linux has some hundred.
const MOST_NOTES: u64 = 64 << 10;
/// First boot protocol with `xloadflags`.
const PROTOCOL_2_12: u16 = 0x20c;

/// A kernel in guest memory.
pub struct Loaded {
    /// Guest address of the entry point.
    pub entry: u64,
    /// First guest address that the kernel does not need, while unpacking or after.
    pub end: u64,
    /// Highest address, exclusive, at which it accepts an initial RAM disk.
    pub initrd_limit: u64,
    /// How it wants to be entered.
    pub format: Format,
}

/// Boot protocols.
pub enum Format {
    /// The Linux 64-bit boot protocol, with the image's own header.
    BzImage(Box<setup_header>),
    /// PVH, from an ELF note.
    Pvh,
}

/// Loads `file` by what its first bytes say it is.
///
/// # Errors
/// [`Error::Boot`] for anything that is not a bootable kernel, or does not fit.
pub fn load(memory: &GuestMemory, layout: &Layout, file: &mut File) -> Result<Loaded> {
    let mut magic = [0; 4];
    if file.read_exact_at(&mut magic, 0).is_ok() && magic == *b"\x7fELF" {
        return load_elf(memory, layout, file);
    }
    if file.read_exact_at(&mut magic, HDRS_OFFSET).is_ok() && magic == *b"HdrS" {
        return load_bzimage(memory, layout, file);
    }
    Err(Error::Boot(
        "the kernel is neither a bzImage nor an ELF vmlinux; give the file a distribution \
         installs as /boot/vmlinuz"
            .into(),
    ))
}

fn load_bzimage(memory: &GuestMemory, layout: &Layout, file: &mut File) -> Result<Loaded> {
    let length = file.seek(SeekFrom::End(0)).map_err(|error| unreadable(&error))?;
    if HIGH_MEMORY_START.saturating_add(length) > layout.low_ram_end() {
        return Err(too_small("the kernel image", HIGH_MEMORY_START.saturating_add(length)));
    }
    let result = BzImage::load(memory, None, file, Some(GuestAddress(HIGH_MEMORY_START)))
        .map_err(|error| Error::Boot(format!("the bzImage cannot be loaded: {error}")))?;
    let header =
        result.setup_header.ok_or_else(|| Error::Boot("the bzImage has no setup header".into()))?;
    let (version, flags) = (header.version, header.xloadflags);
    if version < PROTOCOL_2_12 || flags & XLF_KERNEL_64 == 0 {
        return Err(Error::Boot(format!(
            "the bzImage has no 64-bit entry (boot protocol {}.{}, flags {flags:#x}); give a \
             64-bit kernel of Linux 3.8 or newer",
            version >> 8,
            version & 0xff
        )));
    }
    let load = result.kernel_load.0;
    // The image moves to its preferred address and unpacks itself within `init_size` from there.
    let run = load.max(header.pref_address);
    let end = run.saturating_add(header.init_size.into()).max(result.kernel_end);
    if end > layout.low_ram_end() {
        return Err(too_small("the kernel", end));
    }
    Ok(Loaded {
        entry: load + 0x200,
        end,
        initrd_limit: u64::from(header.initrd_addr_max) + 1,
        format: Format::BzImage(Box::new(header)),
    })
}

fn load_elf(memory: &GuestMemory, layout: &Layout, file: &mut File) -> Result<Loaded> {
    check_parts(layout, file)?;
    let result = Elf::load(memory, None, file, Some(GuestAddress(HIGH_MEMORY_START)))
        .map_err(|error| Error::Boot(format!("the ELF kernel cannot be loaded: {error}")))?;
    let PvhBootCapability::PvhEntryPresent(entry) = result.pvh_boot_cap else {
        return Err(Error::Boot(
            "the ELF kernel has no PVH entry; build it with CONFIG_PVH=y or give its bzImage"
                .into(),
        ));
    };
    if result.kernel_end > layout.low_ram_end() {
        return Err(too_small("the kernel", result.kernel_end));
    }
    if !(HIGH_MEMORY_START..result.kernel_end).contains(&entry.0) {
        return Err(Error::Boot(format!(
            "the ELF kernel's PVH entry, {:#x}, is not within the kernel",
            entry.0
        )));
    }
    Ok(Loaded {
        entry: entry.0,
        end: result.kernel_end,
        initrd_limit: layout.low_ram_end(),
        format: Format::Pvh,
    })
}

/// Refuses an ELF file that would keep us for hours: the loader reads every part, however many refer to
/// the same bytes, and of notes every single one.
fn check_parts(layout: &Layout, file: &File) -> Result<()> {
    let unloadable =
        |error: io::Error| Error::Boot(format!("the ELF kernel cannot be loaded: {error}"));
    let mut header = Elf64_Ehdr::default();
    file.read_exact_at(header.as_mut_slice(), 0).map_err(unloadable)?;
    if header.e_phnum > MOST_PARTS {
        return Err(Error::Boot(format!(
            "the ELF kernel has {} program headers; at most {MOST_PARTS} are possible",
            header.e_phnum
        )));
    }
    let (mut loaded, mut notes) = (0u64, 0u64);
    for index in 0..u64::from(header.e_phnum) {
        let mut part = Elf64_Phdr::default();
        let at = header.e_phoff.saturating_add(index * size_of::<Elf64_Phdr>() as u64);
        file.read_exact_at(part.as_mut_slice(), at).map_err(unloadable)?;
        match part.p_type {
            PT_LOAD => loaded = loaded.saturating_add(part.p_filesz),
            PT_NOTE => notes = notes.saturating_add(part.p_filesz),
            _ => {}
        }
    }
    if loaded > layout.low_ram_end() {
        return Err(too_small("the kernel", loaded));
    }
    if notes > MOST_NOTES {
        return Err(Error::Boot(format!(
            "the ELF kernel has {notes} bytes of notes; at most {MOST_NOTES} are possible"
        )));
    }
    Ok(())
}

pub(super) fn too_small(what: &str, needed: u64) -> Error {
    Error::Boot(format!(
        "the guest has too little memory: {what} needs at least {} MiB",
        needed.div_ceil(1 << 20)
    ))
}

pub(super) fn unreadable(error: &io::Error) -> Error {
    Error::Boot(format!("a boot image cannot be read: {error}"))
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;
    use crate::machine::memory::allocate;
    use crate::spec::Memory;

    fn machine(image: &[u8]) -> (Layout, GuestMemory, File) {
        let layout = Layout::new(64 << 20, 40, &[]).unwrap();
        let memory = allocate(&layout, &Memory::bytes(0)).unwrap();
        let mut file = tempfile();
        file.write_all(image).unwrap();
        (layout, memory, file)
    }

    fn refusal(image: &[u8]) -> String {
        let (layout, memory, mut file) = machine(image);
        match load(&memory, &layout, &mut file) {
            Ok(_) => panic!("loaded {} bytes of nonsense", image.len()),
            Err(error) => error.to_string(),
        }
    }

    fn tempfile() -> File {
        vmm_sys_util::tempfile::TempFile::new().unwrap().into_file()
    }

    fn bzimage(change: impl FnOnce(&mut setup_header)) -> Vec<u8> {
        let mut header = setup_header {
            setup_sects: 1,
            header: 0x5372_6448,
            version: 0x20f,
            loadflags: 1,
            code32_start: 0x10_0000,
            xloadflags: 1,
            init_size: 1 << 20,
            pref_address: 16 << 20,
            initrd_addr_max: 0x7fff_ffff,
            ..Default::default()
        };
        change(&mut header);
        let mut image = vec![0; 0x1f1];
        image.extend_from_slice(header.as_slice());
        image.resize(4096, 0);
        image
    }

    /// An ELF kernel with parts of these kinds and sizes, all of them of the same bytes: a note with a
    /// PVH entry.
    fn elf(parts: &[(u32, u64)], entry: u32) -> Vec<u8> {
        let mut header = Elf64_Ehdr {
            e_entry: HIGH_MEMORY_START,
            e_phoff: size_of::<Elf64_Ehdr>() as u64,
            e_phentsize: size_of::<Elf64_Phdr>() as u16,
            e_phnum: parts.len() as u16,
            ..Default::default()
        };
        header.e_ident[..6].copy_from_slice(b"\x7fELF\x02\x01");
        let mut image = header.as_slice().to_vec();
        let offset = (image.len() + parts.len() * size_of::<Elf64_Phdr>()) as u64;
        for &(p_type, size) in parts {
            let part = Elf64_Phdr {
                p_type,
                p_offset: offset,
                p_paddr: HIGH_MEMORY_START,
                p_filesz: size,
                p_memsz: size,
                ..Default::default()
            };
            image.extend_from_slice(part.as_slice());
        }
        for word in [4, 4, 18, u32::from_le_bytes(*b"Xen\0"), entry] {
            image.extend_from_slice(&word.to_le_bytes());
        }
        image
    }

    #[test]
    fn an_elf_kernel_that_would_be_read_for_hours_is_refused() {
        let many = vec![(PT_NOTE, 20); usize::from(u16::MAX)];
        assert!(refusal(&elf(&many, 0)).contains("65535 program headers"));
        let long = [(PT_NOTE, MOST_NOTES), (PT_NOTE, 1)];
        assert!(refusal(&elf(&long, 0)).contains("65537 bytes of notes"));
        let large = [(PT_LOAD, 40 << 20); 2];
        assert!(refusal(&elf(&large, 0)).contains("at least 80 MiB"));
        refusal(&elf(&[(PT_LOAD, u64::MAX), (PT_LOAD, u64::MAX)], 0));
    }

    #[test]
    fn an_elf_kernel_is_entered_within_itself() {
        for entry in [0, 0x9_0000, 0x10_0014, u32::MAX] {
            let text = refusal(&elf(&[(PT_LOAD, 20), (PT_NOTE, 20)], entry));
            assert!(text.contains("not within the kernel"), "{text}");
        }
        let (layout, memory, mut file) = machine(&elf(&[(PT_LOAD, 20), (PT_NOTE, 20)], 0x10_0000));
        let loaded = load(&memory, &layout, &mut file).unwrap();
        assert_eq!((loaded.entry, loaded.end), (0x10_0000, 0x10_0014));
    }

    #[test]
    fn nonsense_is_refused_with_advice() {
        assert!(refusal(b"").contains("neither a bzImage nor an ELF"));
        assert!(refusal(&[0; 8192]).contains("/boot/vmlinuz"));
        assert!(refusal(b"\x7fELF").contains("ELF kernel"));
        assert!(refusal(&bzimage(|h| h.xloadflags = 0)).contains("64-bit"));
    }

    #[test]
    fn a_kernel_that_would_not_fit_says_how_much_it_needs() {
        let text = refusal(&bzimage(|h| h.init_size = 100 << 20));
        assert!(text.contains("at least 116 MiB"), "{text}");
        refusal(&bzimage(|h| h.pref_address = u64::MAX));
        refusal(&bzimage(|h| h.code32_start = 0x1000));
        refusal(&bzimage(|h| h.code32_start = 0xffff_ff00));
        refusal(&bzimage(|h| h.setup_sects = 255));
    }

    #[test]
    fn a_bzimage_keeps_room_to_unpack_itself() {
        let (layout, memory, mut file) = machine(&bzimage(|_| ()));
        let loaded = load(&memory, &layout, &mut file).unwrap();
        assert_eq!((loaded.entry, loaded.end), (0x10_0200, 17 << 20));
    }
}
