//! A hostile kernel image. The fuzzer calls this, and so does a test of the crate `assign-vmm` with all
//! seeds and the corpus, which is why this file is part of both.
//!
//! The bytes are:
//! ```text
//! flags         1 there is an initial RAM disk · 2 it is larger than RAM
//! initrd        bytes of it, 16 bits
//! kernel        until the end
//! ```
//! Whatever it is, it is refused or placed: within RAM, with the initial RAM disk whole and beside it.

use std::fs::File;
use std::io::Seek;
use std::os::unix::fs::FileExt;
use std::thread::LocalKey;

use vm_memory::{Bytes, GuestAddress};
use vmm::boot::{Entry, EntryMode, prepare};
use vmm::machine::layout::{HIGH_MEMORY_START, Layout};
use vmm::machine::memory::{GuestMemory, allocate};
use vmm::spec::{MIN_MEMORY, Memory};

use crate::input::Input;

/// What the initial RAM disk holds.
const FILLING: u8 = 0xa5;
/// Where the zero page says where it is and how large (`struct boot_params`).
const RAMDISK: u64 = 0x218;
/// Where PVH's start_info says how many modules there are, and where the first is described.
const MODULES: u64 = 0x0c;

thread_local! {
    /// One for all kernels of a thread, one after the other: it is never unmapped.
    static RAM: (Layout, GuestMemory) = {
        let layout = Layout::new(MIN_MEMORY, 40, &[]).expect("a layout");
        let memory = allocate(&layout, &Memory::bytes(0)).expect("memory");
        (layout, memory)
    };
    /// The same for the files.
    static KERNEL: File = tempfile::tempfile().expect("a file");
    static INITRD: File = tempfile::tempfile().expect("a file");
}

/// Any bytes.
pub fn kernel(bytes: &[u8]) {
    let _ = load(bytes);
}

/// The same; and says how it is entered, or why not.
pub fn load(bytes: &[u8]) -> Result<Entry, String> {
    let mut input = Input(bytes);
    let (flags, size) = (input.byte(), input.short());
    let kernel = file(&KERNEL, input.0);
    let initrd = (flags & 1 != 0).then(|| {
        let initrd = file(&INITRD, &vec![FILLING; size.into()]);
        if flags & 2 != 0 {
            initrd.set_len(MIN_MEMORY + 1).expect("a sparse file");
        }
        initrd
    });
    let has_initrd = initrd.is_some();
    RAM.with(|(layout, memory)| {
        let entry = prepare(memory, layout, kernel, initrd, "quiet");
        let entry = entry.map_err(|error| error.to_string())?;
        let ram = HIGH_MEMORY_START..layout.low_ram_end();
        assert!(ram.contains(&entry.address), "{entry:x?}");
        assert!(entry.parameters < HIGH_MEMORY_START && entry.gdt < HIGH_MEMORY_START);
        let (at, told) = initrd_of(memory, &entry);
        assert_eq!(told, if has_initrd { size.into() } else { 0 });
        if has_initrd {
            assert!(ram.contains(&at) && at + told <= ram.end, "{told} bytes at {at:#x}");
            let mut found = vec![0; size.into()];
            memory.read_slice(&mut found, GuestAddress(at)).expect("it is in RAM");
            assert!(found.iter().all(|byte| *byte == FILLING), "it is not whole");
        }
        Ok(entry)
    })
}

/// The file with these contents and no others.
fn file(key: &'static LocalKey<File>, contents: &[u8]) -> File {
    let mut file = key.with(File::try_clone).expect("a copy");
    file.set_len(0).expect("an empty file");
    file.rewind().expect("its beginning");
    file.write_all_at(contents, 0).expect("room in it");
    file
}

/// Address and size of the initial RAM disk, as the kernel is told.
fn initrd_of(memory: &GuestMemory, entry: &Entry) -> (u64, u64) {
    let word = |at: u64| memory.read_obj::<u32>(GuestAddress(at)).expect("it is in RAM").into();
    let long = |at: u64| memory.read_obj::<u64>(GuestAddress(at)).expect("it is in RAM");
    match entry.mode {
        EntryMode::Long { .. } => {
            (word(entry.parameters + RAMDISK), word(entry.parameters + RAMDISK + 4))
        }
        EntryMode::Protected if word(entry.parameters + MODULES) == 0 => (0, 0),
        EntryMode::Protected => {
            let module = long(entry.parameters + MODULES + 4);
            (long(module), long(module + 8))
        }
    }
}
