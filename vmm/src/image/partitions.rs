//! Partition tables: GPT (UEFI 2.10, 5.3) and the MBR's four.

use super::disk::{Part, long, word};

/// Bytes of a sector: what our guests' disks have, so what their tables count in.
const SECTOR: u64 = 512;
/// Most entries of a GPT that are read: 128 are usual.
const MOST: u32 = 1024;
/// Largest entry of a GPT in bytes: 128 are usual.
const LARGEST: u32 = 4096;
/// Of an MBR that is only there to keep others from overwriting a GPT.
const PROTECTIVE: u8 = 0xee;
/// Of partitions that hold further ones.
const EXTENDED: [u8; 3] = [0x05, 0x0f, 0x85];

/// What the disk is divided into.
#[derive(Debug)]
pub struct Table {
    /// The partitions with their numbers, in the table's order; one without a number is all of the
    /// disk, which then has no table.
    pub parts: Vec<(Option<u32>, Part)>,
}

/// Reads the table of `disk`.
///
/// # Errors
/// What is wrong with it.
pub fn read(disk: &Part) -> Result<Table, String> {
    if disk.has(SECTOR, b"EFI PART") {
        return gpt(disk);
    }
    let parts = mbr(disk).unwrap_or_else(|| vec![(None, disk.clone())]);
    Ok(Table { parts })
}

fn gpt(disk: &Part) -> Result<Table, String> {
    let damaged = |what: &str| format!("its partition table (GPT) is damaged: {what}");
    let mut header = [0; SECTOR as usize];
    disk.read(SECTOR, &mut header).map_err(|error| damaged(&error.to_string()))?;
    let word = |at| word(&header, at);
    let length = word(12) as usize;
    if !(92..=header.len()).contains(&length) {
        return Err(damaged("its header has an impossible length"));
    }
    let mut summed = header;
    summed[16..20].fill(0);
    if crc32fast::hash(&summed[..length]) != word(16) {
        return Err(damaged("the checksum of its header is wrong"));
    }
    let (first, count, size) = (long(&header, 72), word(80), word(84));
    if !(128..=LARGEST).contains(&size) || count > MOST {
        return Err(damaged("its entries have an impossible number or size"));
    }
    // At most 4 MiB.
    let mut entries = vec![0; (count * size) as usize];
    let at = first.checked_mul(SECTOR).ok_or_else(|| damaged("its entries are nowhere"))?;
    disk.read(at, &mut entries).map_err(|error| damaged(&error.to_string()))?;
    if crc32fast::hash(&entries) != word(88) {
        return Err(damaged("the checksum of its entries is wrong"));
    }
    let mut parts = Vec::new();
    for (number, entry) in (1..).zip(entries.chunks_exact(size as usize)) {
        // An entry that is not used has no type.
        if entry[..16].iter().all(|byte| *byte == 0) {
            continue;
        }
        let (first, last) = (long(entry, 32), long(entry, 40));
        let sectors = last.checked_sub(first).and_then(|sectors| sectors.checked_add(1));
        let part = sectors.and_then(|sectors| {
            disk.part(first.checked_mul(SECTOR)?, sectors.checked_mul(SECTOR)?)
        });
        // Others may be whole all the same.
        parts.extend(part.map(|part| (Some(number), part)));
    }
    Ok(Table { parts })
}

/// The primary partitions, if this is a table of these: boot code and filesystems begin with a sector
/// that ends in the same way.
fn mbr(disk: &Part) -> Option<Vec<(Option<u32>, Part)>> {
    let mut sector = [0; SECTOR as usize];
    disk.read(0, &mut sector).ok()?;
    if sector[510..] != [0x55, 0xaa] {
        return None;
    }
    let mut parts = Vec::new();
    for (number, entry) in (1..).zip(sector[446..510].chunks_exact(16)) {
        let (status, kind) = (entry[0], entry[4]);
        if status & 0x7f != 0 {
            return None;
        }
        let (first, sectors) = (u64::from(word(entry, 8)), u64::from(word(entry, 12)));
        if kind == 0 || kind == PROTECTIVE || EXTENDED.contains(&kind) {
            continue;
        }
        if first == 0 {
            return None;
        }
        parts.push((Some(number), disk.part(first * SECTOR, sectors * SECTOR)?));
    }
    (!parts.is_empty()).then_some(parts)
}
