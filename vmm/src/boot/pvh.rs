//! Entering an ELF kernel by PVH (Xen's public/arch-x86/hvm/start_info.h).

use std::mem::size_of;

use linux_loader::loader::elf::start_info::{
    hvm_memmap_table_entry, hvm_modlist_entry, hvm_start_info,
};
use vm_memory::ByteValued;

use super::initrd::Initrd;
use super::kernel::Loaded;
use super::{COMMAND_LINE, Entry, EntryMode, GDT, GDT_LIMIT, PVH_START, memory_map, put};
use crate::error::Result;
use crate::machine::layout::{ACPI_TABLES, Layout};
use crate::machine::memory::GuestMemory;

const MAGIC: u32 = 0x336e_c578;
/// The version that has a memory map.
const VERSION: u32 = 1;

/// Writes the start_info and returns the entry.
pub fn enter(
    memory: &GuestMemory,
    layout: &Layout,
    kernel: &Loaded,
    initrd: Option<Initrd>,
) -> Result<Entry> {
    let modules = PVH_START + size_of::<hvm_start_info>() as u64;
    let map_at = modules + size_of::<hvm_modlist_entry>() as u64;
    let map = memory_map(layout);
    let mut start = hvm_start_info {
        magic: MAGIC,
        version: VERSION,
        cmdline_paddr: COMMAND_LINE,
        rsdp_paddr: ACPI_TABLES.start,
        memmap_paddr: map_at,
        memmap_entries: map.len() as u32,
        ..Default::default()
    };
    if let Some(initrd) = initrd {
        start.nr_modules = 1;
        start.modlist_paddr = modules;
        let module =
            hvm_modlist_entry { paddr: initrd.address, size: initrd.size, ..Default::default() };
        put(memory, modules, module.as_slice())?;
    }
    put(memory, PVH_START, start.as_slice())?;
    for (index, range) in map.iter().enumerate() {
        let entry = hvm_memmap_table_entry {
            addr: range.start,
            size: range.size,
            type_: range.kind,
            reserved: 0,
        };
        let size = size_of::<hvm_memmap_table_entry>() as u64;
        put(memory, map_at + index as u64 * size, entry.as_slice())?;
    }
    Ok(Entry {
        address: kernel.entry,
        parameters: PVH_START,
        gdt: GDT,
        gdt_limit: GDT_LIMIT,
        mode: EntryMode::Protected,
    })
}
