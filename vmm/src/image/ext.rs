//! ext2, ext3 and ext4, with what their journal still holds.

use std::io::{self, Read};

use ext4_view::{Ext4, Ext4Error, Ext4Read, PathBuf};

use super::disk::{Part, word};
use super::volume::{Files, MOST_NAMES, PATH_MAX};

/// Most symbolic links on the way to a file.
const MOST_LINKS: usize = 32;
/// Most block groups: at 128 MiB each, the usual size, these are 128 TiB.
const MOST_GROUPS: u64 = 1 << 20;

/// A filesystem.
pub struct Ext(Ext4);

/// As the reader of the filesystem reads.
struct Bytes(Part);

impl Ext4Read for Bytes {
    fn read(
        &mut self,
        place: u64,
        bytes: &mut [u8],
    ) -> Result<(), Box<dyn std::error::Error + Send + Sync + 'static>> {
        Ok(self.0.read(place, bytes)?)
    }
}

impl Ext {
    /// The one on `part`, its UUID and its label.
    ///
    /// # Errors
    /// Why it cannot be read.
    pub fn load(part: &Part) -> Result<(Ext, String, String), String> {
        check_size(part)?;
        let ext = Ext4::load(Box::new(Bytes(part.clone()))).map_err(|error| error.to_string())?;
        let uuid = ext.uuid().to_string();
        let label = ext.label().to_str().unwrap_or_default().to_owned();
        Ok((Ext(ext), uuid, label))
    }

    /// The path without symbolic links; `None` where there is no such file.
    fn resolve(&self, path: &str) -> Result<Option<PathBuf>, Ext4Error> {
        let mut ahead: Vec<Vec<u8>> = reversed(path.as_bytes());
        let mut behind: Vec<Vec<u8>> = Vec::new();
        let mut links = 0;
        while let Some(name) = ahead.pop() {
            match name.as_slice() {
                b"" | b"." => continue,
                b".." => {
                    behind.pop();
                    continue;
                }
                _ => behind.push(name),
            }
            let here = joined(&behind)?;
            let found = match self.0.symlink_metadata(&here) {
                Err(Ext4Error::NotFound | Ext4Error::NotADirectory) => return Ok(None),
                found => found?,
            };
            if !found.is_symlink() {
                continue;
            }
            links += 1;
            if links > MOST_LINKS {
                return Err(Ext4Error::TooManySymlinks);
            }
            // Its target is read as a whole.
            if found.len() > PATH_MAX as u64 {
                return Err(Ext4Error::PathTooLong);
            }
            let target = self.0.read_link(&here)?;
            behind.pop();
            if target.is_absolute() {
                behind.clear();
            }
            ahead.extend(reversed(target.as_ref()));
        }
        joined(&behind).map(Some)
    }
}

/// The names of a path, the last one first.
fn reversed(path: &[u8]) -> Vec<Vec<u8>> {
    path.split(|byte| *byte == b'/').rev().map(<[u8]>::to_vec).collect()
}

fn joined(names: &[Vec<u8>]) -> Result<PathBuf, Ext4Error> {
    let mut path = b"/".to_vec();
    path.extend(names.join(&b'/'));
    if path.len() > PATH_MAX {
        return Err(Ext4Error::PathTooLong);
    }
    PathBuf::try_from(path).map_err(|_| Ext4Error::MalformedPath)
}

/// That the filesystem is not larger than its place, and its description no larger than can be read.
fn check_size(part: &Part) -> Result<(), String> {
    let mut block = [0; 1024];
    part.read(1024, &mut block).map_err(|error| error.to_string())?;
    let word = |at| word(&block, at);
    let (low, log, per_group) = (word(0x4), word(0x18), word(0x20));
    // INCOMPAT_64BIT
    let high = if word(0x60) & 0x80 == 0 { 0 } else { word(0x150) };
    let blocks = u64::from(high) << 32 | u64::from(low);
    let bytes = 1024_u64.checked_shl(log).filter(|_| log <= 6);
    let whole = bytes.and_then(|bytes| blocks.checked_mul(bytes));
    if whole.is_none_or(|whole| whole > part.size()) {
        return Err("it is larger than its place".to_owned());
    }
    if per_group == 0 || blocks / u64::from(per_group) > MOST_GROUPS {
        return Err("its block groups are too many".to_owned());
    }
    Ok(())
}

impl Files for Ext {
    fn open(&self, path: &str) -> io::Result<Option<Box<dyn Read + '_>>> {
        let Some(path) = self.resolve(path).map_err(io::Error::other)? else { return Ok(None) };
        match self.0.open(&path) {
            Ok(file) => Ok(Some(Box::new(file))),
            Err(Ext4Error::NotFound) => Ok(None),
            Err(error) => Err(io::Error::other(error)),
        }
    }

    fn list(&self, path: &str) -> io::Result<Vec<String>> {
        let Some(path) = self.resolve(path).map_err(io::Error::other)? else {
            return Ok(Vec::new());
        };
        let entries = match self.0.read_dir(&path) {
            Ok(entries) => entries,
            Err(Ext4Error::NotFound | Ext4Error::NotADirectory) => return Ok(Vec::new()),
            Err(error) => return Err(io::Error::other(error)),
        };
        let mut names = Vec::new();
        for entry in entries.take(MOST_NAMES) {
            let entry = entry.map_err(io::Error::other)?;
            names.extend(entry.file_name().as_str().ok().map(str::to_owned));
        }
        Ok(names)
    }
}
