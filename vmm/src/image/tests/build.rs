//! Disks made of bytes.

use std::fs::File;
use std::io::{Read, Write};

use super::super::disk::{Disk, Part};
use crate::spec::DiskFormat;

const SECTOR: usize = 512;

pub fn file(contents: &[u8]) -> File {
    let mut file = tempfile::tempfile().expect("a file");
    file.write_all(contents).expect("room");
    file
}

pub fn disk(contents: &[u8]) -> Disk {
    let size = contents.len() as u64;
    Disk::open(file(contents), size, DiskFormat::Raw).expect("a raw disk is as it is")
}

pub fn part(contents: &[u8]) -> Part {
    disk(contents).whole()
}

/// An ext4 filesystem of 4 MiB with a journal, as mke2fs 1.47 makes it of a folder.
pub fn ext() -> Vec<u8> {
    let mut contents = Vec::new();
    let packed = include_bytes!("debian.ext4.gz");
    flate2::read::GzDecoder::new(&packed[..]).read_to_end(&mut contents).expect("a gzip file");
    contents
}

/// A disk with a GPT and partitions of these numbers.
pub fn gpt(parts: &[(usize, &[u8])]) -> Vec<u8> {
    let mut entries = vec![0; 128 * 128];
    let mut data = Vec::new();
    for (number, contents) in parts {
        let first = 34 + data.len() as u64 / SECTOR as u64;
        data.extend_from_slice(contents);
        data.resize(data.len().next_multiple_of(SECTOR), 0);
        let last = 33 + data.len() as u64 / SECTOR as u64;
        let entry = &mut entries[(number - 1) * 128..][..128];
        entry[..16].fill(0xaf);
        entry[32..40].copy_from_slice(&first.to_le_bytes());
        entry[40..48].copy_from_slice(&last.to_le_bytes());
    }
    let mut header = vec![0; SECTOR];
    header[..8].copy_from_slice(b"EFI PART");
    header[12] = 92;
    header[72] = 2;
    header[80] = 128;
    header[84] = 128;
    header[88..92].copy_from_slice(&crc32fast::hash(&entries).to_le_bytes());
    let sum = crc32fast::hash(&header[..92]);
    header[16..20].copy_from_slice(&sum.to_le_bytes());
    [mbr_sector(&[(0xee, 1, 0xffff_ffff)]), header, entries, data].concat()
}

/// A disk with partitions of these kinds.
pub fn mbr(parts: &[(u8, &[u8])]) -> Vec<u8> {
    let mut data = Vec::new();
    let mut rows = Vec::new();
    for (kind, contents) in parts {
        let first = 1 + data.len() / SECTOR;
        data.extend_from_slice(contents);
        data.resize(data.len().next_multiple_of(SECTOR), 0);
        let sectors = 1 + data.len() / SECTOR - first;
        rows.push((*kind, first as u32, sectors as u32));
    }
    [mbr_sector(&rows), data].concat()
}

fn mbr_sector(rows: &[(u8, u32, u32)]) -> Vec<u8> {
    let mut sector = vec![0; SECTOR];
    for (at, (kind, first, sectors)) in rows.iter().enumerate() {
        let row = &mut sector[446 + at * 16..][..16];
        row[4] = *kind;
        row[8..12].copy_from_slice(&first.to_le_bytes());
        row[12..].copy_from_slice(&sectors.to_le_bytes());
    }
    sector[510..].copy_from_slice(&[0x55, 0xaa]);
    sector
}

/// A FAT filesystem of these files, with clusters of one sector: 12, 16 or 32 bits an entry.
pub fn fat(bits: u32, files: &[(&str, &[u8])]) -> Vec<u8> {
    let clusters: usize = match bits {
        16 => 5000,
        _ => 200,
    };
    let table = (clusters + 2) * bits as usize / 8 / SECTOR + 1;
    let root = if bits == 32 { 0 } else { 64 };
    let mut fat =
        Builder { bits, table: vec![0; table * SECTOR], data: vec![0; clusters * SECTOR], next: 2 };
    let mut top = Folder::default();
    for (path, contents) in files {
        top.add(path, contents);
    }
    let at = fat.folder(&top);
    let mut boot = vec![0; SECTOR];
    boot[0] = 0xeb;
    boot[11..14].copy_from_slice(&[0, 2, 1]);
    boot[14] = 1;
    boot[16] = 1;
    boot[17] = root;
    let sectors = 1 + table + usize::from(root) * 32 / SECTOR + clusters;
    boot[32..36].copy_from_slice(&(sectors as u32).to_le_bytes());
    match bits {
        32 => {
            boot[36..40].copy_from_slice(&(table as u32).to_le_bytes());
            boot[44..48].copy_from_slice(&at.to_le_bytes());
        }
        _ => boot[22..24].copy_from_slice(&(table as u16).to_le_bytes()),
    }
    boot[510..].copy_from_slice(&[0x55, 0xaa]);
    let fixed = match bits {
        32 => Vec::new(),
        // The same entries, in their own place.
        _ => {
            let mut fixed = vec![0; usize::from(root) * 32];
            let start = (at as usize - 2) * SECTOR;
            let folder = fat.data[start..][..SECTOR * 2].to_vec();
            let length = fixed.len().min(folder.len());
            fixed[..length].copy_from_slice(&folder[..length]);
            fixed
        }
    };
    [boot, fat.table, fixed, fat.data].concat()
}

#[derive(Default)]
struct Folder<'c> {
    files: Vec<(String, &'c [u8])>,
    folders: Vec<(String, Folder<'c>)>,
}

impl<'c> Folder<'c> {
    fn add(&mut self, path: &str, contents: &'c [u8]) {
        let Some((name, rest)) = path.split_once('/') else {
            return self.files.push((path.to_owned(), contents));
        };
        let at = self.folders.iter().position(|(one, _)| one == name).unwrap_or_else(|| {
            self.folders.push((name.to_owned(), Folder::default()));
            self.folders.len() - 1
        });
        self.folders[at].1.add(rest, contents);
    }
}

struct Builder {
    bits: u32,
    table: Vec<u8>,
    data: Vec<u8>,
    next: u32,
}

impl Builder {
    /// Puts bytes into clusters, and answers the first one.
    fn put(&mut self, contents: &[u8]) -> u32 {
        let count = contents.len().div_ceil(SECTOR).max(1) as u32;
        let first = self.next;
        self.next += count;
        let start = (first as usize - 2) * SECTOR;
        self.data[start..start + contents.len()].copy_from_slice(contents);
        for cluster in first..first + count {
            let last = 0xffff_ffff;
            self.set(cluster, if cluster + 1 == first + count { last } else { cluster + 1 });
        }
        first
    }

    fn set(&mut self, cluster: u32, value: u32) {
        let cluster = cluster as usize;
        match self.bits {
            12 => {
                let at = cluster * 3 / 2;
                let pair = u16::from_le_bytes([self.table[at], self.table[at + 1]]);
                let value = value as u16 & 0xfff;
                let pair =
                    if cluster % 2 == 1 { pair & 0xf | value << 4 } else { pair & 0xf000 | value };
                self.table[at..at + 2].copy_from_slice(&pair.to_le_bytes());
            }
            16 => self.table[cluster * 2..][..2].copy_from_slice(&(value as u16).to_le_bytes()),
            _ => self.table[cluster * 4..][..4].copy_from_slice(&value.to_le_bytes()),
        }
    }

    fn folder(&mut self, folder: &Folder<'_>) -> u32 {
        let mut entries = Vec::new();
        let mut number = 0;
        let mut entry = |name: &str, kind: u8, first: u32, bytes: u32| {
            number += 1;
            let short = format!("NAME~{number:<3}   ");
            let short = &short.as_bytes()[..11];
            let sum = short.iter().fold(0_u8, |sum, byte| sum.rotate_right(1).wrapping_add(*byte));
            let mut units: Vec<u16> = name.encode_utf16().collect();
            units.push(0);
            let parts: Vec<&[u16]> = units.chunks(13).collect();
            for (at, part) in parts.iter().enumerate().rev() {
                let mut long = [0xff; 32];
                let is_last = at + 1 == parts.len();
                long[0] = (at as u8 + 1) | if is_last { 0x40 } else { 0 };
                long[11] = 0x0f;
                long[12] = 0;
                long[13] = sum;
                long[26..28].fill(0);
                let places = (1..11).step_by(2).chain((14..26).step_by(2)).chain([28, 30]);
                for (place, unit) in places.zip(part.iter()) {
                    long[place..place + 2].copy_from_slice(&unit.to_le_bytes());
                }
                entries.extend(long);
            }
            let mut own = [0; 32];
            own[..11].copy_from_slice(short);
            own[11] = kind;
            own[20..22].copy_from_slice(&((first >> 16) as u16).to_le_bytes());
            own[26..28].copy_from_slice(&(first as u16).to_le_bytes());
            own[28..].copy_from_slice(&bytes.to_le_bytes());
            entries.extend(own);
        };
        for (name, contents) in &folder.files {
            let first = self.put(contents);
            entry(name, 0x20, first, contents.len() as u32);
        }
        for (name, inner) in &folder.folders {
            let first = self.folder(inner);
            entry(name, 0x10, first, 0);
        }
        self.put(&entries)
    }
}
