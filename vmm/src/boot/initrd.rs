//! Placing the initial RAM disk: as high as the kernel accepts it, away from where it unpacks.

use std::fs::File;
use std::io::{Seek, SeekFrom};

use vm_memory::{Bytes, GuestAddress};

use super::kernel::{Loaded, too_small, unreadable};
use crate::error::{Error, Result};
use crate::machine::layout::Layout;
use crate::machine::memory::GuestMemory;

const PAGE: u64 = 4096;

/// Where the initial RAM disk lies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Initrd {
    /// Guest address.
    pub address: u64,
    /// Bytes.
    pub size: u64,
}

/// Reads `file` into guest memory.
///
/// # Errors
/// [`Error::Boot`] where it cannot be read or memory is short.
pub fn place(
    memory: &GuestMemory,
    layout: &Layout,
    kernel: &Loaded,
    mut file: File,
) -> Result<Initrd> {
    let size = file.seek(SeekFrom::End(0)).map_err(|error| unreadable(&error))?;
    file.rewind().map_err(|error| unreadable(&error))?;
    if size == 0 {
        return Err(Error::Boot("the initial RAM disk is empty".into()));
    }
    let limit = layout.low_ram_end().min(kernel.initrd_limit);
    let address = limit
        .checked_sub(size)
        .map(|address| address / PAGE * PAGE)
        .filter(|&address| address >= kernel.end)
        .ok_or_else(|| {
            too_small(
                "the kernel with its initial RAM disk",
                kernel.end.saturating_add(size).saturating_add(PAGE),
            )
        })?;
    memory
        .read_exact_volatile_from(GuestAddress(address), &mut file, size as usize)
        .map_err(|error| Error::Boot(format!("the initial RAM disk cannot be read: {error}")))?;
    Ok(Initrd { address, size })
}
