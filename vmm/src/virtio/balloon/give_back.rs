//! Giving pages of guest RAM back to the host: whoever reads them afterwards finds zeroes, in pages that
//! the host finds anew.

use std::io;

use rustix::mm::{Advice, madvise};
use vm_memory::{GuestMemoryBackend, GuestMemoryRegion};

use crate::machine::memory::GuestMemory;

/// The least that the host takes back.
const PAGE: u64 = 4096;

/// Gives back whole pages of the `length` bytes at `start` of the guest's addresses, as far as there is
/// RAM: nothing else is touched, whatever is asked. Says how many bytes these were, whether the host had
/// pages for them or not.
///
/// # Errors
/// The kernel's, for the first part of RAM that it does not take; it takes none that is locked or of huge
/// pages.
pub fn give_back(memory: &GuestMemory, start: u64, length: u64) -> io::Result<u64> {
    let end = start.saturating_add(length);
    let mut given = 0;
    for region in memory.iter() {
        let (first, size) = (region.start_addr().0, region.len());
        // Within the region, in whole pages of its own: a region begins with a page on both sides.
        let from = start.saturating_sub(first).min(size).next_multiple_of(PAGE);
        let to = end.saturating_sub(first).min(size) / PAGE * PAGE;
        if from >= to {
            continue;
        }
        let host = region.as_ptr().wrapping_add(from as usize);
        // SAFETY: from `from` to `to` lies within the region, private anonymous memory that stays mapped
        // as long as it is borrowed here. Its pages read as zeroes afterwards, as if the guest had written
        // these, which it may do at any time; nothing in this process holds references into it.
        unsafe { madvise(host.cast(), (to - from) as usize, Advice::LinuxDontNeed) }?;
        given += to - from;
    }
    Ok(given)
}

#[cfg(test)]
mod tests {
    use vm_memory::{Bytes, GuestAddress};

    use super::*;
    use crate::machine::layout::{HIGH_RAM_START, LOW_RAM_END, Layout};
    use crate::machine::memory::allocate;
    use crate::spec::Memory;

    #[test]
    fn whole_pages_of_ram_go_back_and_nothing_else() {
        let layout = Layout::new(LOW_RAM_END + (1 << 20), 40, &[]).unwrap();
        let memory = allocate(&layout, &Memory::bytes(0)).unwrap();
        let holds = |address: u64| memory.read_obj::<u8>(GuestAddress(address)).unwrap() != 0;
        let pages =
            [0, 0x1000, 0x2000, LOW_RAM_END - 0x1000, HIGH_RAM_START, HIGH_RAM_START + 0xf_f000];
        for (start, length, given, gone) in [
            (0x1000, 0x1000, 0x1000, &pages[1..2]),
            // A page and parts of its neighbours.
            (0xfff, 0x1002, 0x1000, &pages[1..2]),
            (0x1001, 0xffe, 0, &[]),
            (0x1001, 0x1000, 0, &[]),
            (0x1000, 0, 0, &[]),
            // Over the hole, and over the end.
            (LOW_RAM_END - 0x1000, HIGH_RAM_START - LOW_RAM_END + 0x2000, 0x2000, &pages[3..5]),
            (HIGH_RAM_START + 0xf_f000, u64::MAX, 0x1000, &pages[5..]),
            // No RAM at all.
            (LOW_RAM_END, HIGH_RAM_START - LOW_RAM_END, 0, &[]),
            (HIGH_RAM_START + (1 << 20), 1 << 40, 0, &[]),
            (u64::MAX, u64::MAX, 0, &[]),
            (0, u64::MAX, LOW_RAM_END + (1 << 20), &pages[..]),
        ] {
            for page in pages {
                memory.write_obj(7u8, GuestAddress(page)).unwrap();
            }
            assert_eq!(give_back(&memory, start, length).unwrap(), given, "{start:#x} {length:#x}");
            for page in pages {
                assert_eq!(holds(page), !gone.contains(&page), "{start:#x} {length:#x}: {page:#x}");
            }
        }
    }

    #[test]
    fn the_host_has_the_pages_again() {
        let layout = Layout::new(64 << 20, 40, &[]).unwrap();
        let memory = allocate(&layout, &Memory::bytes(0)).unwrap();
        let start = memory.iter().next().unwrap().as_ptr();
        let resident = || {
            let mut pages = vec![0u8; (64 << 20) / PAGE as usize];
            // SAFETY: the range is the region, and there is a byte for each of its pages.
            let done = unsafe { libc::mincore(start.cast(), 64 << 20, pages.as_mut_ptr()) };
            assert_eq!(done, 0);
            pages.iter().filter(|page| **page & 1 != 0).count()
        };
        memory.write_slice(&vec![1; 32 << 20], GuestAddress(0)).unwrap();
        let before = resident();
        assert!(before >= (32 << 20) / PAGE as usize);
        give_back(&memory, 8 << 20, 16 << 20).unwrap();
        assert_eq!(before - resident(), (16 << 20) / PAGE as usize);
    }
}
