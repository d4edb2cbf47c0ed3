//! Images that are made for tests, and a look through any image.

use std::collections::BTreeMap;
use std::io::Write;
use std::sync::{Arc, Mutex};

use flate2::Compression;
use flate2::write::DeflateEncoder;

use crate::qcow2::HEADER;
use crate::qcow2::header::{Header, MAGIC};

/// An image to be made.
#[derive(Debug, Clone, Copy)]
pub struct Shape {
    /// 2 or 3.
    pub version: u32,
    /// 9 to 21.
    pub cluster_bits: u32,
    /// 0 to 6; 4 in version 2.
    pub count_order: u32,
    /// Bytes of the disk.
    pub size: u64,
}

/// What a cluster of a new image has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cluster {
    /// These bytes over and over.
    Data(u8),
    /// The same, compressed.
    Packed(u8),
    /// Nothing, in a cluster of its own: from version 3 on.
    Zeroes,
    /// These bytes, in a cluster that a snapshot has as well.
    Shared(u8),
}

impl Shape {
    /// An image with these clusters, by their numbers, and nothing else. Its first levels are in the
    /// order header, refcount table, L1 table. There is no snapshot, only what it would refer to, where
    /// the image `is_shared`: tables and clusters then have another reference.
    ///
    /// # Panics
    /// Where one refcount block does not reach.
    pub fn make(&self, clusters: &BTreeMap<u64, Cluster>, is_shared: bool) -> Vec<u8> {
        let cluster = 1_usize << self.cluster_bits;
        let entries = cluster as u64 / 8;
        let map_entries = self.size.div_ceil(cluster as u64 * entries) as usize;
        let map_clusters = (map_entries * 8).div_ceil(cluster);
        let mut counts = vec![1_u64; 3 + map_clusters];
        let mut file = vec![0; cluster * counts.len()];
        let put = |file: &mut Vec<u8>, at: usize, bytes: &[u8]| {
            file.resize(file.len().max((at + bytes.len()).next_multiple_of(cluster)), 0);
            file[at..at + bytes.len()].copy_from_slice(bytes);
        };
        let long = |number: usize| (number as u64).to_be_bytes();
        let (counts_at, block_at, map_at) = (cluster, 2 * cluster, 3 * cluster);
        put(&mut file, counts_at, &long(block_at));
        let owned = 1_u64 << 63;
        let mut tables = BTreeMap::new();
        for (number, what) in clusters {
            let index = (number / entries) as usize;
            let table = *tables.entry(index).or_insert_with(|| {
                let place = file.len();
                file.resize(place + cluster, 0);
                counts.push(1 + u64::from(is_shared));
                let entry = place as u64 | if is_shared { 0 } else { owned };
                put(&mut file, map_at + index * 8, &entry.to_be_bytes());
                place
            });
            let place = file.len();
            let entry = match what {
                Cluster::Data(byte) | Cluster::Shared(byte) => {
                    put(&mut file, place, &vec![*byte; cluster]);
                    place as u64 | if *what == Cluster::Data(*byte) { owned } else { 0 }
                }
                Cluster::Zeroes => {
                    file.resize(place + cluster, 0xaa);
                    place as u64 | 1 | owned
                }
                Cluster::Packed(byte) => {
                    let packed = pack(*byte, cluster);
                    // Not at the beginning of a sector.
                    let at = place + 5;
                    put(&mut file, at, &packed);
                    let sectors = (at + packed.len() - 1) / 512 - at / 512;
                    1 << 62 | (sectors as u64) << (62 - (self.cluster_bits - 8)) | at as u64
                }
            };
            let shared = is_shared || matches!(what, Cluster::Shared(_));
            let entry = if shared { entry & !owned } else { entry };
            counts.resize(file.len() / cluster, 1 + u64::from(shared));
            put(&mut file, table + (number % entries) as usize * 8, &entry.to_be_bytes());
        }
        assert!(counts.len() * (1 << self.count_order) <= cluster * 8, "too many clusters");
        for (number, count) in counts.iter().enumerate() {
            set(&mut file[block_at..], self.count_order, number, *count);
        }
        put(&mut file, 0, &MAGIC);
        put(&mut file, 4, &self.version.to_be_bytes());
        put(&mut file, 20, &self.cluster_bits.to_be_bytes());
        put(&mut file, 24, &self.size.to_be_bytes());
        put(&mut file, 36, &(map_entries as u32).to_be_bytes());
        put(&mut file, 40, &long(map_at));
        put(&mut file, 48, &long(counts_at));
        put(&mut file, 56, &1_u32.to_be_bytes());
        if self.version == 3 {
            put(&mut file, 96, &self.count_order.to_be_bytes());
            put(&mut file, 100, &104_u32.to_be_bytes());
        }
        file
    }
}

/// A cluster of these bytes, compressed. A fuzzer wants the same ones over and over, and packing takes long.
fn pack(byte: u8, cluster: usize) -> Arc<[u8]> {
    type Packed = BTreeMap<(u8, usize), Arc<[u8]>>;
    static PACKED: Mutex<Packed> = Mutex::new(BTreeMap::new());
    let pack = || {
        let mut packer = DeflateEncoder::new(Vec::new(), Compression::new(1));
        packer.write_all(&vec![byte; cluster]).expect("memory");
        packer.finish().expect("memory").into()
    };
    crate::lock(&PACKED).entry((byte, cluster)).or_insert_with(pack).clone()
}

fn set(block: &mut [u8], order: u32, number: usize, count: u64) {
    let bit = number << order;
    match order {
        0..3 => block[bit / 8] |= (count as u8) << (bit % 8),
        _ => {
            let width = 1 << (order - 3);
            block[bit / 8..bit / 8 + width].copy_from_slice(&count.to_be_bytes()[8 - width..]);
        }
    }
}

/// What is wrong with an image, and how many references its counts have too many.
#[derive(Debug, Default)]
pub struct Found {
    /// References that are not counted, and tables or data at impossible places.
    pub errors: Vec<String>,
    /// Counted references that are not there.
    pub lost: u64,
}

/// Looks through a whole image without snapshots.
///
/// # Panics
/// Where it has no header.
pub fn check(file: &[u8]) -> Found {
    let header = Header::parse(&file[..file.len().min(HEADER)], true).expect("a header");
    let cluster = 1_u64 << header.cluster_bits;
    // Zeroes beyond its end.
    let long = |place: u64| {
        let from = file.get(place as usize..).unwrap_or_default();
        let whole = from
            .first_chunk()
            .copied()
            .unwrap_or_else(|| std::array::from_fn(|at| from.get(at).copied().unwrap_or_default()));
        u64::from_be_bytes(whole)
    };
    let mut found = Found::default();
    let mut used = BTreeMap::<u64, u64>::new();
    let mut refer = |place: u64, length: u64| {
        for number in place / cluster..(place + length).div_ceil(cluster) {
            *used.entry(number).or_default() += 1;
        }
    };
    let place = 0x00ff_ffff_ffff_fe00;
    refer(0, 1);
    refer(header.map_at, header.map_entries * 8);
    refer(header.counts_at, header.counts_clusters * cluster);
    for index in 0..header.map_entries {
        let table = long(header.map_at + index * 8) & place;
        if table == 0 {
            continue;
        }
        refer(table, cluster);
        for index in 0..cluster / 8 {
            let entry = long(table + index * 8);
            if entry >> 62 & 1 == 1 {
                let bits = 62 - (header.cluster_bits - 8);
                let (from, more) = (entry & ((1 << bits) - 1), (entry & ((1 << 62) - 1)) >> bits);
                refer(from & !511, (more + 1) * 512);
            } else if entry & place != 0 {
                refer(entry & place, cluster);
            }
        }
    }
    let mut counts = BTreeMap::new();
    let per_block = (cluster * 8) >> header.count_order;
    for index in 0..header.counts_clusters * cluster / 8 {
        let block = long(header.counts_at + index * 8);
        if block == 0 {
            continue;
        }
        refer(block, cluster);
        let width = 1_u64 << header.count_order;
        for at in (0..cluster).step_by(8) {
            // Most counts are 0, and a row of them is passed over at once.
            let eight = long(block + at);
            for number in (0..64 / width).filter(|_| eight != 0) {
                // Bits of a byte are counted from its lowest, and bytes of a count from the highest.
                let count = match header.count_order {
                    0..3 => {
                        let byte = eight >> (56 - number * width / 8 * 8);
                        byte >> (number * width % 8) & ((1 << width) - 1)
                    }
                    6 => eight,
                    _ => eight >> (64 - (number + 1) * width) & ((1 << width) - 1),
                };
                if count > 0 {
                    counts.insert(index * per_block + at * 8 / width + number, count);
                }
            }
        }
    }
    for (number, count) in &used {
        let counted = counts.remove(number).unwrap_or_default();
        if counted < *count {
            let place = number * cluster;
            found.errors.push(format!("{place:#x}: {count} references, {counted} counted"));
        }
        found.lost += counted.saturating_sub(*count);
    }
    found.lost += counts.values().sum::<u64>();
    found
}
