//! The filesystems on a disk: which there are, and their files.

use std::io::{self, Read};

use super::disk::Part;
use super::ext::Ext;
use super::fat::Fat;
use super::partitions;

/// Longest path, in bytes (Linux, `PATH_MAX`).
pub const PATH_MAX: usize = 4096;
/// Most names that are taken from a folder: others are passed over.
pub const MOST_NAMES: usize = 4096;
/// Most filesystems that are looked into.
const MOST: usize = 64;

/// The files of a filesystem. Paths begin at its root, with or without a slash; names that are not
/// UTF-8 do not exist.
pub trait Files {
    /// Opens a regular file; `None` where there is none of this path.
    ///
    /// # Errors
    /// Damage, or a path that leads to what is no regular file.
    fn open(&self, path: &str) -> io::Result<Option<Box<dyn Read + '_>>>;

    /// The names in a folder, [`MOST_NAMES`] at most, in any order; none where there is no folder.
    ///
    /// # Errors
    /// Damage.
    fn list(&self, path: &str) -> io::Result<Vec<String>>;
}

/// A filesystem that can be read.
pub struct Volume {
    /// The number of its partition; none where it is the whole disk.
    pub number: Option<u32>,
    /// What it is, such as "ext4".
    pub kind: &'static str,
    /// As `search --fs-uuid` of GRUB compares it, whatever the case.
    pub uuid: String,
    /// As `search --label` does.
    pub label: String,
    /// Its files.
    pub files: Box<dyn Files>,
}

impl Volume {
    /// What messages call it.
    pub fn name(&self) -> String {
        place(self.number, self.kind)
    }

    /// The text of a file of at most `most` bytes; `None` where there is no such file.
    ///
    /// # Errors
    /// Damage, and files that are longer. What is not UTF-8 is replaced.
    pub fn text(&self, path: &str, most: u64) -> io::Result<Option<String>> {
        let Some(file) = self.files.open(path)? else { return Ok(None) };
        let mut bytes = Vec::new();
        file.take(most + 1).read_to_end(&mut bytes)?;
        if bytes.len() as u64 > most {
            return Err(io::Error::other(format!("it has more than {most} bytes")));
        }
        Ok(Some(String::from_utf8_lossy(&bytes).into_owned()))
    }

    /// Whether there is such a regular file.
    pub fn has(&self, path: &str) -> bool {
        matches!(self.files.open(path), Ok(Some(_)))
    }
}

/// What is on a disk.
#[derive(Default)]
pub struct Volumes {
    /// The filesystems that can be read.
    pub all: Vec<Volume>,
    /// What else there is: each with its place.
    pub others: Vec<String>,
}

impl Volumes {
    /// Those of `disk`.
    ///
    /// # Errors
    /// What is wrong with its partition table.
    pub fn find(disk: &Part) -> Result<Volumes, String> {
        let mut volumes = Volumes::default();
        for (number, part) in partitions::read(disk)?.parts {
            if volumes.all.len() + volumes.others.len() == MOST {
                break;
            }
            match identify(&part) {
                Kind::Ext => match Ext::load(&part) {
                    Ok((ext, uuid, label)) => volumes.all.push(Volume {
                        number,
                        kind: "ext4",
                        uuid,
                        label,
                        files: Box::new(ext),
                    }),
                    Err(cause) => {
                        volumes.others.push(format!("{} ({cause})", place(number, "ext4")));
                    }
                },
                Kind::Fat => match Fat::load(&part) {
                    Ok((fat, uuid, label)) => volumes.all.push(Volume {
                        number,
                        kind: "FAT",
                        uuid,
                        label,
                        files: Box::new(fat),
                    }),
                    Err(cause) => {
                        volumes.others.push(format!("{} ({cause})", place(number, "FAT")));
                    }
                },
                Kind::Other(kind) => volumes.others.push(place(number, kind)),
                Kind::Unknown => {}
            }
        }
        Ok(volumes)
    }
}

fn place(number: Option<u32>, kind: &str) -> String {
    match number {
        Some(number) => format!("partition {number}: {kind}"),
        None => format!("the whole disk: {kind}"),
    }
}

enum Kind {
    Ext,
    Fat,
    Other(&'static str),
    Unknown,
}

/// What has which bytes where, as blkid(8) tells them apart.
const OTHERS: &[(u64, &[u8], &str)] = &[
    (0, b"XFSB", "XFS"),
    (0x1_0040, b"_BHRfS_M", "btrfs"),
    (0, b"LUKS\xba\xbe", "encrypted (LUKS)"),
    (0x218, b"LVM2 001", "LVM"),
    (0, b"hsqs", "squashfs"),
    (0x400, b"\xe2\xe1\xf5\xe0", "EROFS"),
    (0x400, b"\x10\x20\xf5\xf2", "F2FS"),
    (3, b"NTFS    ", "NTFS"),
    (0x8001, b"CD001", "ISO 9660"),
];

fn identify(part: &Part) -> Kind {
    if part.has(0x438, b"\x53\xef") {
        return Kind::Ext;
    }
    let other = OTHERS.iter().find(|(at, bytes, _)| part.has(*at, bytes));
    match other {
        Some((_, _, kind)) => Kind::Other(kind),
        None if Fat::is_fat(part) => Kind::Fat,
        None => Kind::Unknown,
    }
}
