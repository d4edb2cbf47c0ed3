//! FAT12, FAT16 and FAT32 with long names, as an EFI system partition has it (Microsoft's FAT
//! specification 1.03, and 13.3 of UEFI 2.10).

use std::io::{self, ErrorKind, Read};

use super::disk::{Part, half, word};
use super::volume::{Files, MOST_NAMES};

/// Bytes of an entry of a folder.
const ENTRY: usize = 32;
/// Most bytes of a folder.
const FOLDER_MAX: u64 = 2 << 20;
/// Longest name in UTF-16 units.
const NAME_MAX: usize = 255;
/// Fewest clusters of FAT16: nothing else tells it from FAT12.
const FAT16: u64 = 4085;

/// A filesystem.
#[derive(Debug)]
pub struct Fat {
    part: Part,
    /// Bits of an entry of the table: 12, 16 or 32.
    bits: u32,
    /// Where the first table begins.
    table: u64,
    /// Where cluster 2 begins, which is the first.
    data: u64,
    /// Bytes of a cluster.
    cluster: u64,
    clusters: u64,
    root: Chain,
}

/// Where a file or folder is.
#[derive(Debug, Clone, Copy)]
enum Chain {
    /// From a cluster on, each naming the next; below 2 there is none.
    Clusters(u32),
    /// The root folder of FAT12 and FAT16.
    Fixed { at: u64, bytes: u64 },
}

/// An entry of a folder.
#[derive(Debug)]
struct Found {
    name: String,
    short: String,
    is_folder: bool,
    first: u32,
    bytes: u32,
}

impl Fat {
    /// Whether a part begins like one.
    pub fn is_fat(part: &Part) -> bool {
        let mut boot = [0; 512];
        part.read(0, &mut boot).is_ok() && Geometry::of(&boot).is_some()
    }

    /// The one on `part`, its serial number as GRUB writes it, and its label.
    ///
    /// # Errors
    /// Why it cannot be read.
    pub fn load(part: &Part) -> Result<(Fat, String, String), String> {
        let mut boot = [0; 512];
        part.read(0, &mut boot).map_err(|error| error.to_string())?;
        let Geometry { sector, cluster, reserved, tables, table, root, sectors } =
            Geometry::of(&boot).ok_or("its first sector is damaged")?;
        let fixed = u64::from(root) * ENTRY as u64;
        let start = reserved * sector;
        let after = start + u64::from(tables) * table * sector;
        let data = after + fixed.next_multiple_of(sector);
        let room = (sectors * sector).min(part.size());
        let clusters = room.saturating_sub(data) / cluster;
        let bits = match clusters {
            0 => return Err("it has no room for files".to_owned()),
            // As Linux tells it, since there are small ones of the large kind, too.
            _ if half(&boot, 22) == 0 => 32,
            few if few < FAT16 => 12,
            _ => 16,
        };
        let is_32 = bits == 32;
        let root = match is_32 {
            true => Chain::Clusters(word(&boot, 44)),
            false => Chain::Fixed { at: after, bytes: fixed },
        };
        let at = if is_32 { 67 } else { 39 };
        let serial = word(&boot, at);
        let uuid = format!("{:04X}-{:04X}", serial >> 16, serial & 0xffff);
        let label = String::from_utf8_lossy(&boot[at + 4..at + 15]).trim_end().to_owned();
        let fat = Fat { part: part.clone(), bits, table: start, data, cluster, clusters, root };
        Ok((fat, uuid, label))
    }

    /// The cluster that follows; `None` at the end.
    fn next(&self, cluster: u32) -> io::Result<Option<u32>> {
        let at = self.table + u64::from(cluster) * u64::from(self.bits) / 8;
        let mut bytes = [0; 4];
        let length = if self.bits == 32 { 4 } else { 2 };
        self.part.read(at, &mut bytes[..length])?;
        let entry = u32::from_le_bytes(bytes);
        let (entry, last) = match self.bits {
            12 if cluster % 2 == 1 => (entry >> 4, 0xff7),
            12 => (entry & 0xfff, 0xff7),
            16 => (entry, 0xfff7),
            _ => (entry & 0x0fff_ffff, 0x0fff_fff7),
        };
        match entry {
            entry if entry > last => Ok(None),
            entry if self.has(entry) => Ok(Some(entry)),
            _ => Err(damaged()),
        }
    }

    fn has(&self, cluster: u32) -> bool {
        cluster >= 2 && u64::from(cluster) < self.clusters + 2
    }

    /// The bytes of a file or folder, `bytes` at most.
    fn reader(&self, chain: Chain, bytes: u64) -> Reader<'_> {
        match chain {
            Chain::Fixed { at, bytes: fixed } => {
                let here = bytes.min(fixed);
                Reader { fat: self, at, here, ahead: 0, next: None, is_file: false }
            }
            Chain::Clusters(first) => {
                let next = self.has(first).then_some(first);
                Reader { fat: self, at: 0, here: 0, ahead: bytes, next, is_file: false }
            }
        }
    }

    fn folder(&self, chain: Chain) -> io::Result<Vec<Found>> {
        let mut reader = self.reader(chain, FOLDER_MAX);
        let (mut found, mut long) = (Vec::new(), Long::default());
        let mut entry = [0; ENTRY];
        while found.len() < MOST_NAMES {
            match reader.read_exact(&mut entry) {
                Err(error) if error.kind() == ErrorKind::UnexpectedEof => break,
                read => read?,
            }
            match (entry[0], entry[11]) {
                (0, _) => break,
                // Deleted.
                (0xe5, _) => long = Long::default(),
                (_, kind) if kind & 0x3f == 0x0f => long.add(&entry),
                // The volume's label.
                (_, kind) if kind & 0x08 != 0 => long = Long::default(),
                (_, kind) => {
                    let short = short_name(&entry);
                    let name = std::mem::take(&mut long).name(&entry);
                    // FAT12 and FAT16 use the upper half for something else.
                    let high = if self.bits == 32 { half(&entry, 20) } else { 0 };
                    found.push(Found {
                        name: name.unwrap_or_else(|| short.clone()),
                        short,
                        is_folder: kind & 0x10 != 0,
                        first: u32::from(high) << 16 | u32::from(half(&entry, 26)),
                        bytes: word(&entry, 28),
                    });
                }
            }
        }
        Ok(found)
    }

    /// What is at `path`; nothing further is known of the root.
    fn find(&self, path: &str) -> io::Result<Option<Found>> {
        let root = Found {
            name: String::new(),
            short: String::new(),
            is_folder: true,
            first: 0,
            bytes: 0,
        };
        let mut here = root;
        for name in path.split('/').filter(|name| !name.is_empty() && *name != ".") {
            if !here.is_folder {
                return Ok(None);
            }
            let is = |one: &Found| {
                one.name.eq_ignore_ascii_case(name) || one.short.eq_ignore_ascii_case(name)
            };
            match self.folder(self.chain(&here))?.into_iter().find(is) {
                Some(found) => here = found,
                None => return Ok(None),
            }
        }
        Ok(Some(here))
    }

    /// Where it is: a folder that names no cluster is the root.
    fn chain(&self, found: &Found) -> Chain {
        match found.first {
            0 if found.is_folder => self.root,
            first => Chain::Clusters(first),
        }
    }
}

fn damaged() -> io::Error {
    io::Error::other("its allocation table is damaged")
}

/// What the first sector says.
struct Geometry {
    /// Bytes of a sector.
    sector: u64,
    /// Bytes of a cluster.
    cluster: u64,
    /// Sectors before the first table.
    reserved: u64,
    tables: u8,
    /// Sectors of a table.
    table: u64,
    /// Entries of the root folder; none of FAT32.
    root: u16,
    sectors: u64,
}

impl Geometry {
    fn of(boot: &[u8; 512]) -> Option<Geometry> {
        let sector = u64::from(half(boot, 11));
        let per_cluster = boot[13];
        let large = |small: u16, large: usize| match small {
            0 => u64::from(word(boot, large)),
            small => u64::from(small),
        };
        let geometry = Geometry {
            sector,
            cluster: sector * u64::from(per_cluster),
            reserved: u64::from(half(boot, 14)),
            tables: boot[16],
            table: large(half(boot, 22), 36),
            root: half(boot, 17),
            sectors: large(half(boot, 19), 32),
        };
        let is_one = matches!(boot[0], 0xeb | 0xe9)
            && boot[510..] == [0x55, 0xaa]
            && matches!(sector, 512 | 1024 | 2048 | 4096)
            && per_cluster.is_power_of_two()
            && geometry.reserved > 0
            && matches!(geometry.tables, 1 | 2)
            && geometry.table > 0
            && geometry.sectors > 0;
        is_one.then_some(geometry)
    }
}

/// A long name on the way: its parts come last first, before the entry that they belong to.
#[derive(Debug, Default)]
struct Long {
    units: Vec<u16>,
    checksum: u8,
}

impl Long {
    fn add(&mut self, entry: &[u8; ENTRY]) {
        // Where units are: 13 of an entry.
        let places = (1..11).step_by(2).chain((14..26).step_by(2)).chain([28, 30]);
        let mut units: Vec<u16> = places.map(|at| half(entry, at)).collect();
        // The part with this flag is the last of the name.
        if entry[0] & 0x40 != 0 {
            self.units.clear();
            self.checksum = entry[13];
            let end = units.iter().position(|unit| *unit == 0);
            units.truncate(end.unwrap_or(units.len()));
        }
        units.append(&mut self.units);
        units.truncate(NAME_MAX);
        self.units = units;
    }

    /// The name, if it is that of this entry.
    fn name(self, entry: &[u8; ENTRY]) -> Option<String> {
        let sum =
            entry[..11].iter().fold(0_u8, |sum, byte| sum.rotate_right(1).wrapping_add(*byte));
        let is_its = !self.units.is_empty() && sum == self.checksum;
        is_its.then(|| String::from_utf16_lossy(&self.units))
    }
}

fn short_name(entry: &[u8; ENTRY]) -> String {
    let part = |bytes: &[u8], is_lower: bool| {
        let text = String::from_utf8_lossy(bytes).trim_end().to_owned();
        if is_lower { text.to_ascii_lowercase() } else { text }
    };
    let (name, end) =
        (part(&entry[..8], entry[12] & 8 != 0), part(&entry[8..11], entry[12] & 16 != 0));
    if end.is_empty() { name } else { format!("{name}.{end}") }
}

/// Bytes along a chain. It ends: each step takes from what is `ahead`.
struct Reader<'f> {
    fat: &'f Fat,
    /// The place in the part, and how many bytes are there.
    at: u64,
    here: u64,
    /// Bytes after these.
    ahead: u64,
    next: Option<u32>,
    /// Whether there must be so many: nobody says how long a folder is.
    is_file: bool,
}

impl Read for Reader<'_> {
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        if self.here == 0 && self.ahead > 0 {
            let Some(cluster) = self.next else {
                return if self.is_file { Err(damaged()) } else { Ok(0) };
            };
            self.at = self.fat.data + u64::from(cluster - 2) * self.fat.cluster;
            self.here = self.ahead.min(self.fat.cluster);
            self.ahead -= self.here;
            self.next = if self.ahead > 0 { self.fat.next(cluster)? } else { None };
        }
        let count = (bytes.len() as u64).min(self.here);
        self.fat.part.read(self.at, &mut bytes[..count as usize])?;
        self.at += count;
        self.here -= count;
        Ok(count as usize)
    }
}

impl Files for Fat {
    fn open(&self, path: &str) -> io::Result<Option<Box<dyn Read + '_>>> {
        let Some(found) = self.find(path)? else { return Ok(None) };
        if found.is_folder {
            return Err(io::Error::other("it is a folder"));
        }
        let reader = self.reader(self.chain(&found), found.bytes.into());
        Ok(Some(Box::new(Reader { is_file: true, ..reader })))
    }

    fn list(&self, path: &str) -> io::Result<Vec<String>> {
        match self.find(path)? {
            Some(found) if found.is_folder => {
                let names = self.folder(self.chain(&found))?.into_iter();
                Ok(names
                    .map(|found| found.name)
                    .filter(|name| name != "." && name != "..")
                    .collect())
            }
            _ => Ok(Vec::new()),
        }
    }
}
