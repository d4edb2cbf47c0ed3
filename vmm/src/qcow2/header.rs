//! The header of an image, and what of it rules the image out.
//!
//! The launcher reads it too, to tell people what to do about an image before anything starts. All of it
//! is in the first [`HEADER`] bytes, and nothing it says is followed here.

use thiserror::Error;

/// Bytes of a file that [`Header::parse`] wants, or all of a shorter one.
pub const HEADER: usize = 512;
/// What every image begins with.
pub const MAGIC: [u8; 4] = *b"QFI\xfb";

/// Largest table of a first level, in bytes: of what an image says about itself no more is kept in
/// memory. Clusters of 64 KiB make 128 TiB of that.
pub const LARGEST_TABLE: u64 = 2 << 20;
/// Smallest and largest clusters, as powers of two.
const CLUSTERS: std::ops::RangeInclusive<u32> = 9..=21;
/// Bytes of the header of version 2, and the fewest of version 3.
const SIZES: [usize; 2] = [72, 104];
/// Least size of a disk in bytes: a sector.
const LEAST: u64 = 512;

/// Incompatible features (byte 72).
const DIRTY: u64 = 1;
const CORRUPT: u64 = 1 << 1;
const EXTERNAL_DATA: u64 = 1 << 2;
const COMPRESSION: u64 = 1 << 3;
const EXTENDED_ENTRIES: u64 = 1 << 4;

/// Where the header has what is changed in it: autoclear features, and place and size of the table of
/// reference counts.
pub const AUTOCLEAR_AT: u64 = 88;
/// See [`AUTOCLEAR_AT`].
pub const COUNTS_AT: u64 = 48;

/// How clusters are compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Compression {
    /// Deflate, without the header of zlib.
    Deflate,
    /// Zstandard.
    Zstd,
}

/// What the header says of an image that can be used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Header {
    /// 2 or 3.
    pub version: u32,
    /// A cluster has two to the power of this bytes: 9 to 21.
    pub cluster_bits: u32,
    /// Size of the disk in bytes: 512 at least.
    pub size: u64,
    /// Where the map's first level (L1) is, in bytes: a cluster's start.
    pub map_at: u64,
    /// Entries of it that the disk needs, of 8 bytes.
    pub map_entries: u64,
    /// Where the first level of reference counts is: a cluster's start.
    pub counts_at: u64,
    /// Clusters of it.
    pub counts_clusters: u64,
    /// A reference count has two to the power of this bits: 0 to 6.
    pub count_order: u32,
    /// How clusters are compressed, where they are.
    pub compression: Compression,
    /// Features whose bits go when somebody writes who does not know them; we know none.
    pub autoclear: u64,
}

/// Why an image cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum Unusable {
    /// It is something else.
    #[error("it is no qcow2 image")]
    Other,
    /// A version that is not known here.
    #[error("it is a qcow2 image of version {0}; 2 and 3 are known here")]
    Version(u32),
    /// A part of its contents is in another file.
    #[error("it has a backing file, and contents of other files are not read")]
    Backing,
    /// All of them are.
    #[error("its contents are in an external data file, which is not read")]
    ExternalData,
    /// Its contents are encrypted.
    #[error("it is encrypted")]
    Encrypted,
    /// Clusters are divided.
    #[error("it has extended L2 entries (subclusters), which are not known here")]
    ExtendedEntries,
    /// Features that are not known, as their bits.
    #[error("it has features that are not known here (incompatible features {0:#x})")]
    Features(u64),
    /// Its reference counts may be wrong.
    #[error(
        "it was not closed by whoever wrote to it last (dirty bit), so its reference counts may be wrong"
    )]
    Dirty,
    /// Somebody found it to be corrupt.
    #[error("it is marked as corrupt")]
    Corrupt,
    /// Its tables would be too large.
    #[error("its clusters of {cluster} bytes are too small for a disk of {size} bytes")]
    SmallClusters {
        /// Bytes of a cluster.
        cluster: u64,
        /// Bytes of the disk.
        size: u64,
    },
    /// It contradicts itself or the standard.
    #[error("it is damaged: {0}")]
    Damaged(String),
}

impl Unusable {
    /// What to do about it, for an image at `path`.
    pub fn remedy(&self, path: &str) -> String {
        let convert = |options: &str| {
            format!(
                "`qemu-img convert -O qcow2 {options}{path} {path}.new` makes an image of it that can be used."
            )
        };
        match self {
            Unusable::Other => {
                format!(
                    "Leave `format` out if it is a raw image; `qemu-img info {path}` tells what it is."
                )
            }
            Unusable::Backing => format!(
                "`qemu-img rebase -b \"\" {path}` copies what it needs of the backing file into it."
            ),
            Unusable::Dirty | Unusable::Corrupt | Unusable::Damaged(_) => format!(
                "`qemu-img check -r all {path}` repairs what can be repaired: copy the image first."
            ),
            Unusable::SmallClusters { .. } => convert("-o cluster_size=64k "),
            Unusable::Encrypted => {
                "`qemu-img convert` with the image's secret makes one of it that is not: see `man \
                 qemu-img`, `--object secret`."
                    .to_owned()
            }
            _ => convert(""),
        }
    }
}

fn damaged<T>(what: impl Into<String>) -> Result<T, Unusable> {
    Err(Unusable::Damaged(what.into()))
}

impl Header {
    /// Reads the header in `bytes`, the first [`HEADER`] of a file. One that is to be `written` to must
    /// be known to be in order.
    ///
    /// # Errors
    /// Why the image cannot be used.
    pub fn parse(bytes: &[u8], written: bool) -> Result<Header, Unusable> {
        let word = |at: usize| bytes.get(at..at + 4).map_or(0, |word| be(word) as u32);
        let long = |at: usize| bytes.get(at..at + 8).map_or(0, be);
        if bytes.get(..4) != Some(&MAGIC) {
            return Err(Unusable::Other);
        }
        let version = word(4);
        let least = match version {
            2 => SIZES[0],
            3 => SIZES[1],
            other => return Err(Unusable::Version(other)),
        };
        if bytes.len() < least {
            return damaged("it ends within its header");
        }
        let cluster_bits = word(20);
        if !CLUSTERS.contains(&cluster_bits) {
            return damaged(format!(
                "its clusters have 2^{cluster_bits} bytes; 512 bytes to 2 MiB are possible"
            ));
        }
        let cluster = 1_u64 << cluster_bits;
        // Fields that version 2 does not have.
        let (mut incompatible, mut autoclear, mut count_order, mut compression) = (0, 0, 4, 0);
        if version == 3 {
            (incompatible, autoclear, count_order) =
                (long(72), long(AUTOCLEAR_AT as usize), word(96));
            let length = word(100);
            if u64::from(length) > cluster || (length as usize) < least {
                return damaged(format!("its header has {length} bytes"));
            }
            compression = if length as usize > least { word(least) >> 24 } else { 0 };
        }
        if long(8) != 0 {
            return Err(Unusable::Backing);
        }
        if word(32) != 0 {
            return Err(Unusable::Encrypted);
        }
        let known = DIRTY | CORRUPT | EXTERNAL_DATA | COMPRESSION | EXTENDED_ENTRIES;
        match incompatible {
            bits if bits & EXTERNAL_DATA != 0 => return Err(Unusable::ExternalData),
            bits if bits & EXTENDED_ENTRIES != 0 => return Err(Unusable::ExtendedEntries),
            bits if bits & !known != 0 => return Err(Unusable::Features(bits & !known)),
            bits if bits & CORRUPT != 0 && written => return Err(Unusable::Corrupt),
            bits if bits & DIRTY != 0 && written => return Err(Unusable::Dirty),
            _ => {}
        }
        let compression = match (incompatible & COMPRESSION != 0, compression) {
            (false, 0) => Compression::Deflate,
            (true, 1) => Compression::Zstd,
            (_, kind) => return damaged(format!("its compression is of type {kind}")),
        };
        if count_order > 6 {
            return damaged(format!("its reference counts have 2^{count_order} bits"));
        }
        let size = long(24);
        if size < LEAST || i64::try_from(size).is_err() {
            return damaged(format!("its disk has {size} bytes"));
        }
        let map_entries = size.div_ceil(cluster * (cluster / 8));
        if map_entries * 8 > LARGEST_TABLE {
            return Err(Unusable::SmallClusters { cluster, size });
        }
        let (map_at, counts_at) = (long(40), long(COUNTS_AT as usize));
        let (has, counts_clusters) = (u64::from(word(36)), u64::from(word(56)));
        if has < map_entries {
            return damaged(format!(
                "its L1 table has {has} entries; its disk needs {map_entries}"
            ));
        }
        for (what, at) in [("L1 table", map_at), ("refcount table", counts_at)] {
            if at == 0 || !at.is_multiple_of(cluster) || at >= 1 << 56 {
                return damaged(format!("its {what} is at {at:#x}"));
            }
        }
        if counts_clusters == 0 || counts_clusters * cluster > LARGEST_TABLE {
            return damaged(format!("its refcount table has {counts_clusters} clusters"));
        }
        Ok(Header {
            version,
            cluster_bits,
            size,
            map_at,
            map_entries,
            counts_at,
            counts_clusters,
            count_order,
            compression,
            autoclear,
        })
    }
}

/// The big-endian number that these bytes are, 8 at most.
pub fn be(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0, |number, byte| number << 8 | u64::from(*byte))
}
