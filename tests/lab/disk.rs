//! The partition table of a disk (GPT: UEFI specification 2.10, section 5.3) that one partition fills.

use std::ops::Range;

/// Bytes of a sector.
pub const SECTOR: u64 = 512;
/// Sectors that a table takes at the beginning of a disk, and, one less, at its end.
const TABLE: u64 = 34;
/// Entries of a table, and bytes of each.
const ENTRIES: [usize; 2] = [128, 128];
/// The partition's own number, as the kernel writes it.
pub const PARTUUID: &str = "07070707-0707-0707-0707-070707070707";
/// Linux filesystem data, of which type the partition is.
const KIND: [u8; 16] = [
    0xaf, 0x3d, 0xc6, 0x0f, 0x83, 0x84, 0x72, 0x47, 0x8e, 0x79, 0x3d, 0x69, 0xd8, 0x47, 0x7d, 0xe4,
];

/// What a disk has at its beginning and at its end.
pub struct Table {
    /// From its first sector on.
    pub start: Vec<u8>,
    /// Up to its last sector: the copy.
    pub end: Vec<u8>,
    /// The sectors of the partition.
    pub partition: Range<u64>,
}

/// The table of a disk of so many bytes whose partition begins at the sector `first`.
pub fn table(bytes: u64, first: u64) -> Table {
    let sectors = bytes / SECTOR;
    let last = sectors - TABLE;
    let mut entries = vec![0; ENTRIES[0] * ENTRIES[1]];
    entries[..16].copy_from_slice(&KIND);
    entries[16..32].fill(7);
    entries[32..40].copy_from_slice(&first.to_le_bytes());
    entries[40..48].copy_from_slice(&last.to_le_bytes());
    let mut start = vec![0; SECTOR as usize];
    // What those who know no such tables see: all of it is taken.
    start[446..462]
        .copy_from_slice(&[0, 0, 2, 0, 0xee, 0xff, 0xff, 0xff, 1, 0, 0, 0, 0xff, 0xff, 0xff, 0xff]);
    start[510..].copy_from_slice(&[0x55, 0xaa]);
    start.extend(header(&entries, [1, sectors - 1], last, 2));
    start.extend(&entries);
    let mut end = entries.clone();
    end.extend(header(&entries, [sectors - 1, 1], last, last + 1));
    Table { start, end, partition: first..last + 1 }
}

/// The header at the first of these `places`, whose other one is at the second.
fn header(entries: &[u8], places: [u64; 2], last: u64, entries_at: u64) -> Vec<u8> {
    let mut header = vec![0; SECTOR as usize];
    header[..8].copy_from_slice(b"EFI PART");
    header[8..16].copy_from_slice(&[0, 0, 1, 0, 92, 0, 0, 0]);
    let fields = [places[0], places[1], TABLE, last];
    for (place, field) in header[24..56].chunks_exact_mut(8).zip(fields) {
        place.copy_from_slice(&field.to_le_bytes());
    }
    header[56..72].fill(9);
    header[72..80].copy_from_slice(&entries_at.to_le_bytes());
    header[80..84].copy_from_slice(&(ENTRIES[0] as u32).to_le_bytes());
    header[84..88].copy_from_slice(&(ENTRIES[1] as u32).to_le_bytes());
    header[88..92].copy_from_slice(&crc(entries).to_le_bytes());
    let sum = crc(&header[..92]);
    header[16..20].copy_from_slice(&sum.to_le_bytes());
    header
}

fn crc(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(!0, |crc, byte| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| {
            (crc >> 1) ^ (0xedb8_8320 & (crc & 1_u32).wrapping_neg())
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_headers_say_the_same_of_the_partition() {
        let Table { start, end, partition } = table(1 << 20, 64);
        assert_eq!((start.len(), end.len()), (34 * 512, 33 * 512));
        assert_eq!(partition, 64..2048 - 33);
        let [first, copy] = [&start[512..1024], &end[32 * 512..]];
        let number = |header: &[u8], at: usize| {
            u64::from_le_bytes(header[at..at + 8].try_into().expect("8 bytes"))
        };
        assert_eq!((number(first, 24), number(first, 32), number(first, 72)), (1, 2047, 2));
        assert_eq!((number(copy, 24), number(copy, 32), number(copy, 72)), (2047, 1, 2015));
        assert_eq!(first[40..72], copy[40..72]);
        assert_eq!(crc(b"123456789"), 0xcbf4_3926);
    }
}
