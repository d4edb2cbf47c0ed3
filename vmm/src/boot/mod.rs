//! From a kernel image to the first instruction.
//!
//! ```text
//! kernel image ─ kernel::load ─► Loaded ─┬─ bzImage ─► zero page  ─► 64-bit entry ─┐
//! initrd ─────── place_initrd ───────────┤                                         ├─► Entry
//! command line ──────────────────────────┴─ vmlinux ─► PVH start_info ─► 32-bit ───┘
//! ACPI tables ── acpi::write
//! ```
//! Images are hostile: every size is checked against the file and against guest RAM before a byte
//! is placed, and what is placed lies in guest RAM only.

pub mod acpi;
mod initrd;
mod kernel;
mod linux64;
mod pvh;

use std::fs::File;

use vm_memory::{Bytes, GuestAddress};

use crate::devices::power;
use crate::error::{Error, Result};
use crate::machine::layout::{
    CONVENTIONAL_END, ECAM_BASE, ECAM_SIZE, FIRMWARE, HIGH_MEMORY_START, Layout,
};
use crate::machine::memory::GuestMemory;

/// Global descriptor table at entry.
const GDT: u64 = 0x500;
/// PVH start_info, its module list and its memory map.
const PVH_START: u64 = 0x6000;
/// Zero page (`struct boot_params`).
const ZERO_PAGE: u64 = 0x7000;
/// Page tables of the 64-bit entry, six pages.
const PAGE_TABLES: u64 = 0x9000;
/// The command line.
const COMMAND_LINE: u64 = 0x2_0000;
/// Where a CPU in real mode restarts the machine (FFFF:0000).
const RESET_VECTOR: u64 = 0xf_fff0;
/// Longest command line in bytes, without its NUL (`COMMAND_LINE_SIZE` of x86 Linux, less one).
const COMMAND_LINE_MAX: usize = 2047;

/// The state in which the first vCPU starts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Entry {
    /// Guest address of the first instruction.
    pub address: u64,
    /// Guest address of the zero page (in RSI) or of the start_info (in EBX).
    pub parameters: u64,
    /// Guest address of the global descriptor table.
    pub gdt: u64,
    /// Its limit in bytes, less one.
    pub gdt_limit: u16,
    /// The CPU mode.
    pub mode: EntryMode,
}

/// CPU mode at entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EntryMode {
    /// 64-bit, paging with the given top-level table (Linux boot protocol, "64-bit").
    Long {
        /// Guest address of the PML4.
        page_table: u64,
    },
    /// 32-bit protected mode without paging (PVH).
    Protected,
}

/// A range of the guest's physical memory as its kernel is told of it.
#[derive(Debug)]
struct MemoryRange {
    start: u64,
    size: u64,
    /// E820 type: 1 RAM, 2 reserved. PVH uses the same numbers.
    kind: u32,
}

const RAM: u32 = 1;
const RESERVED: u32 = 2;

/// Loads everything into guest memory and returns how to start it.
///
/// # Errors
/// [`Error::Boot`] naming the image and what is wrong with it, or how much memory is missing.
pub fn prepare(
    memory: &GuestMemory,
    layout: &Layout,
    mut kernel: File,
    initrd: Option<File>,
    cmdline: &str,
) -> Result<Entry> {
    write_command_line(memory, cmdline)?;
    write_gdt(memory)?;
    write_reset_vector(memory)?;
    let loaded = kernel::load(memory, layout, &mut kernel)?;
    let initrd = initrd.map(|file| initrd::place(memory, layout, &loaded, file)).transpose()?;
    match &loaded.format {
        kernel::Format::BzImage(header) => {
            linux64::enter(memory, layout, &loaded, **header, initrd, cmdline.len())
        }
        kernel::Format::Pvh => pvh::enter(memory, layout, &loaded, initrd),
    }
}

/// Refuses a command line that no kernel could be given.
///
/// # Errors
/// [`Error::Boot`] saying what is wrong with it.
pub fn check_command_line(cmdline: &str) -> Result<()> {
    if cmdline.len() > COMMAND_LINE_MAX {
        return Err(Error::Boot(format!(
            "the kernel command line has {} bytes; at most {COMMAND_LINE_MAX} are possible",
            cmdline.len()
        )));
    }
    if cmdline.bytes().any(|byte| byte == 0) {
        return Err(Error::Boot("the kernel command line contains a NUL byte".into()));
    }
    Ok(())
}

fn write_command_line(memory: &GuestMemory, cmdline: &str) -> Result<()> {
    check_command_line(cmdline)?;
    let mut bytes = cmdline.as_bytes().to_vec();
    bytes.push(0);
    put(memory, COMMAND_LINE, &bytes)
}

/// A table that agrees with the flat segments the vCPU starts with: null, null, code, data, task.
fn write_gdt(memory: &GuestMemory) -> Result<()> {
    const ENTRIES: [u64; 5] =
        [0, 0, 0x00af_9b00_0000_ffff, 0x00cf_9300_0000_ffff, 0x008f_8b00_0000_ffff];
    let bytes: Vec<u8> = ENTRIES.iter().flat_map(|entry| entry.to_le_bytes()).collect();
    put(memory, GDT, &bytes)
}

/// The one piece of firmware: Linux on hardware-reduced ACPI without EFI reboots by jumping to the
/// BIOS, so there the reset register is written: mov dx, port; mov al, value; out dx, al; hlt.
fn write_reset_vector(memory: &GuestMemory) -> Result<()> {
    let [low, high] = (power::PORT + power::RESET).to_le_bytes();
    put(memory, RESET_VECTOR, &[0xba, low, high, 0xb0, power::RESET_VALUE, 0xee, 0xf4])
}

const GDT_LIMIT: u16 = 5 * 8 - 1;

/// What the kernel is told about its memory.
fn memory_map(layout: &Layout) -> Vec<MemoryRange> {
    let range = |start, end, kind| MemoryRange { start, size: end - start, kind };
    let mut map = vec![
        range(0, CONVENTIONAL_END, RAM),
        range(FIRMWARE.start, FIRMWARE.end, RESERVED),
        range(HIGH_MEMORY_START, layout.low_ram_end(), RAM),
        range(ECAM_BASE, ECAM_BASE + ECAM_SIZE, RESERVED),
    ];
    map.extend(layout.ram.iter().skip(1).map(|more| range(more.start, more.end, RAM)));
    map.sort_unstable_by_key(|range| range.start);
    map
}

fn put(memory: &GuestMemory, address: u64, bytes: &[u8]) -> Result<()> {
    memory
        .write_slice(bytes, GuestAddress(address))
        .map_err(|error| Error::Boot(format!("cannot write to guest memory: {error}")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spec::AddressRange;

    #[test]
    fn the_memory_map_has_all_of_a_divided_ram() {
        let mib = |at: u64| at << 20;
        let reserved =
            [mib(100), mib(3000), mib(5000)].map(|at| AddressRange { first: at, last: at });
        let layout = Layout::new(mib(4096), 40, &reserved).unwrap();
        assert_eq!(layout.ram.len(), 5);
        let map = memory_map(&layout);
        let ends = map.iter().map(|range| range.start + range.size);
        assert!(map.iter().skip(1).zip(ends).all(|(next, end)| next.start >= end), "{map:?}");
        let ram = |start| map.iter().find(|range| range.start == start && range.kind == RAM);
        assert_eq!(ram(HIGH_MEMORY_START).unwrap().size, mib(99));
        for range in &layout.ram[1..] {
            assert_eq!(ram(range.start).unwrap().size, range.end - range.start);
        }
        assert_eq!(map.iter().filter(|range| range.kind == RESERVED).count(), 2);
    }
}
