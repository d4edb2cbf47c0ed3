//! Entering a bzImage by the Linux 64-bit boot protocol (Documentation/arch/x86/boot.rst).

use linux_loader::loader::bootparam::{boot_e820_entry, boot_params, setup_header};
use vm_memory::ByteValued;

use super::initrd::Initrd;
use super::kernel::Loaded;
use super::{
    COMMAND_LINE, Entry, EntryMode, GDT, GDT_LIMIT, PAGE_TABLES, ZERO_PAGE, memory_map, put,
};
use crate::error::Result;
use crate::machine::layout::{ACPI_TABLES, Layout};
use crate::machine::memory::GuestMemory;

/// Loader type "undefined": this VMM has no number assigned.
const LOADER_UNDEFINED: u8 = 0xff;

/// Writes the zero page and page tables, and returns the entry.
pub fn enter(
    memory: &GuestMemory,
    layout: &Layout,
    kernel: &Loaded,
    header: setup_header,
    initrd: Option<Initrd>,
    cmdline_length: usize,
) -> Result<Entry> {
    let mut parameters = boot_params { hdr: header, ..Default::default() };
    parameters.hdr.type_of_loader = LOADER_UNDEFINED;
    parameters.hdr.cmd_line_ptr = COMMAND_LINE as u32;
    parameters.hdr.cmdline_size = cmdline_length as u32;
    // Data that a header points to would be read from wherever the image says: there is none. The same
    // goes for an initial RAM disk that nobody gave.
    parameters.hdr.setup_data = 0;
    let (image, size) = initrd.map_or((0, 0), |initrd| (initrd.address, initrd.size));
    parameters.hdr.ramdisk_image = image as u32;
    parameters.hdr.ramdisk_size = size as u32;
    parameters.acpi_rsdp_addr = ACPI_TABLES.start;
    let mut table = parameters.e820_table;
    let map = memory_map(layout);
    for (entry, range) in table.iter_mut().zip(&map) {
        *entry = boot_e820_entry { addr: range.start, size: range.size, r#type: range.kind };
    }
    parameters.e820_table = table;
    parameters.e820_entries = map.len() as u8;
    put(memory, ZERO_PAGE, parameters.as_slice())?;
    write_page_tables(memory)?;
    Ok(Entry {
        address: kernel.entry,
        parameters: ZERO_PAGE,
        gdt: GDT,
        gdt_limit: GDT_LIMIT,
        mode: EntryMode::Long { page_table: PAGE_TABLES },
    })
}

/// Maps the first 4 GiB to themselves with pages of 2 MiB: a PML4, a PDPT, four directories.
fn write_page_tables(memory: &GuestMemory) -> Result<()> {
    const PRESENT_WRITABLE: u64 = 3;
    const LARGE: u64 = 1 << 7;
    const PAGE: u64 = 4096;
    const DIRECTORIES: u64 = 4;
    let pdpt = PAGE_TABLES + PAGE;
    let directories = pdpt + PAGE;
    put(memory, PAGE_TABLES, &(pdpt | PRESENT_WRITABLE).to_le_bytes())?;
    let pointers: Vec<u8> = (0..DIRECTORIES)
        .flat_map(|index| ((directories + index * PAGE) | PRESENT_WRITABLE).to_le_bytes())
        .collect();
    put(memory, pdpt, &pointers)?;
    let entries: Vec<u8> = (0..DIRECTORIES * 512)
        .flat_map(|index| ((index << 21) | PRESENT_WRITABLE | LARGE).to_le_bytes())
        .collect();
    put(memory, directories, &entries)
}

#[cfg(test)]
mod tests {
    use vm_memory::{Bytes, GuestAddress};

    use super::super::kernel::Format;
    use super::*;
    use crate::machine::memory::allocate;
    use crate::spec::Memory;

    #[test]
    fn what_an_image_says_of_data_outside_of_it_does_not_count() {
        let layout = Layout::new(64 << 20, 40, &[]).unwrap();
        let memory = allocate(&layout, &Memory::bytes(0)).unwrap();
        let header = setup_header {
            setup_data: 0x1234,
            ramdisk_image: 0x20_0000,
            ramdisk_size: 4096,
            ..Default::default()
        };
        let (entry, format) = (0x10_0200, Format::BzImage(Box::new(header)));
        let kernel = Loaded { entry, end: 0x20_0000, initrd_limit: 0x4000_0000, format };
        let told = |initrd| {
            enter(&memory, &layout, &kernel, header, initrd, 0).unwrap();
            let parameters: boot_params = memory.read_obj(GuestAddress(ZERO_PAGE)).unwrap();
            let header = parameters.hdr;
            (header.setup_data, header.ramdisk_image, header.ramdisk_size)
        };
        assert_eq!(told(None), (0, 0, 0));
        let initrd = Initrd { address: 0x30_0000, size: 100 };
        assert_eq!(told(Some(initrd)), (0, 0x30_0000, 100));
    }
}
