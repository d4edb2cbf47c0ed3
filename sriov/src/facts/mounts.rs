//! What is mounted, swapped to, and imported as a pool: the tables that name block devices.

use std::collections::{BTreeMap, BTreeSet};

use super::namespaces::{self, Namespaces};
use super::reader::Reader;
use crate::attribute;

/// What the host has of its block devices. Mounts of this process's and init's mount namespaces
/// first; those of others only for what is mounted in neither, since containers see many of ours.
#[derive(Debug, Default)]
pub(super) struct Mounts {
    /// Mount points by device number.
    pub by_number: BTreeMap<String, Vec<String>>,
    /// Mount points by the kernel's name of the device.
    pub by_name: BTreeMap<String, Vec<String>>,
    /// Mount points by ZFS pool.
    pub by_pool: BTreeMap<String, Vec<String>>,
    /// Names of devices that are swapped to.
    pub swaps: BTreeSet<String>,
    /// ZFS pools that are imported.
    pools: BTreeSet<String>,
}

/// What a line of mountinfo says a filesystem is on.
enum Source {
    Number(String),
    Device(String),
    Pool(String),
}

impl Mounts {
    pub fn read(reader: &mut Reader, namespaces: &Namespaces) -> Mounts {
        let mut mounts = Mounts::default();
        let own = reader.table(&reader.root.proc("self/mountinfo"));
        // Another user may not look at init's: what is our own was read.
        let init = reader.root.proc("1/mountinfo");
        let init = attribute::read_table(&init).unwrap_or_default();
        for line in own.lines().chain(init.lines()) {
            if let Some((source, place)) = parse(reader, line) {
                mounts.places(source).push(place);
            }
        }
        mounts.add_others(reader, namespaces);
        let swaps = reader.root.proc("swaps");
        for line in reader.table(&swaps).lines().skip(1) {
            let source = line.split_whitespace().next().unwrap_or_default();
            mounts.swaps.extend(block_name(reader, &unescape(source)));
        }
        mounts.add_btrfs(reader);
        // One directory per imported pool, beside files (module/os/linux/spl/spl-kstat.c).
        let kstat = reader.root.proc("spl/kstat/zfs");
        mounts.pools = reader.entries(&kstat).into_iter().collect();
        mounts.pools.retain(|name| kstat.join(name).is_dir());
        mounts
    }

    /// The imported pool that a device is a member of, as udev's rules found it on the device. ZFS
    /// itself tells no file which devices it has.
    pub fn pool(&self, reader: &mut Reader, number: &str) -> Option<String> {
        let digits = |text: &str| (1..=10).contains(&text.len()) && all_digits(text);
        let is_number =
            number.split_once(':').is_some_and(|(one, other)| digits(one) && digits(other));
        if self.pools.is_empty() || !is_number {
            return None;
        }
        let facts = reader.table(&reader.root.udev_block(number));
        let fact = |name: &str| facts.lines().find_map(|line| line.strip_prefix(name));
        let pool = fact("E:ID_FS_LABEL=")?;
        let is_member = fact("E:ID_FS_TYPE=") == Some("zfs_member");
        (is_member && self.pools.contains(pool)).then(|| pool.to_owned())
    }

    fn places(&mut self, source: Source) -> &mut Vec<String> {
        match source {
            Source::Number(number) => self.by_number.entry(number).or_default(),
            Source::Device(name) => self.by_name.entry(name).or_default(),
            Source::Pool(pool) => self.by_pool.entry(pool).or_default(),
        }
    }

    fn knows(&self, source: &Source) -> bool {
        match source {
            Source::Number(number) => self.by_number.contains_key(number),
            Source::Device(name) => self.by_name.contains_key(name),
            Source::Pool(pool) => self.by_pool.contains_key(pool),
        }
    }

    fn add_others(&mut self, reader: &mut Reader, namespaces: &Namespaces) {
        for pids in &namespaces.mount {
            let Some(table) = table_of(reader, pids) else { continue };
            let owner = namespaces::process(reader, pids);
            let mut new = Vec::new();
            for line in table.lines() {
                if let Some((source, place)) = parse(reader, line).filter(|(s, _)| !self.knows(s)) {
                    new.push((source, format!("{place}, in the mount namespace of {owner}")));
                }
            }
            for (source, place) in new {
                self.places(source).push(place);
            }
        }
    }

    /// The members of every btrfs that is mounted, wherever.
    fn add_btrfs(&mut self, reader: &mut Reader) {
        let directory = reader.root.btrfs();
        for filesystem in reader.entries(&directory) {
            for member in reader.entries(&directory.join(&filesystem).join("devices")) {
                self.by_name.entry(member).or_default().push(format!("btrfs {filesystem}"));
            }
        }
    }
}

/// The mounts that these processes see; nothing once all of them have ended.
fn table_of(reader: &mut Reader, pids: &[u32]) -> Option<String> {
    for pid in pids {
        match attribute::read_table(&reader.root.proc(&format!("{pid}/mountinfo"))) {
            Ok(table) if !table.is_empty() => return Some(table),
            Ok(_) => {}
            Err(error) if namespaces::is_gone(&error.source) => {}
            Err(error) => {
                reader.note(&error.path, error.to_string());
                return None;
            }
        }
    }
    None
}

/// Id, parent, major:minor, root, mount point, options, optional fields, `-`, type, source
/// (Documentation/filesystems/proc.rst, 3.5).
fn parse(reader: &Reader, line: &str) -> Option<(Source, String)> {
    let mut fields = line.split(' ');
    let number = fields.nth(2)?;
    let place = unescape(fields.nth(1)?);
    let mut fields = fields.skip_while(|field| *field != "-").skip(1);
    let kind = fields.next();
    let source = if !number.starts_with("0:") {
        Source::Number(number.to_owned())
    } else if kind == Some("zfs") {
        // A dataset is named pool/path.
        let dataset = unescape(fields.next()?);
        Source::Pool(dataset.split('/').next().unwrap_or_default().to_owned())
    } else {
        Source::Device(block_name(reader, &unescape(fields.next()?))?)
    };
    Some((source, place))
}

/// The kernel's name of a device node: what is below `/dev` may be a link, as `/dev/mapper` has.
pub(super) fn block_name(reader: &Reader, node: &str) -> Option<String> {
    let below = node.strip_prefix("/dev/")?;
    let path = reader.root.dev(below);
    let path = std::fs::canonicalize(&path).unwrap_or(path);
    path.file_name().map(|name| name.to_string_lossy().into_owned())
}

fn all_digits(text: &str) -> bool {
    text.bytes().all(|byte| byte.is_ascii_digit())
}

/// procfs writes space, tab, newline and backslash as `\ooo`.
pub(super) fn unescape(text: &str) -> String {
    text.replace("\\040", " ").replace("\\011", "\t").replace("\\012", "\n").replace("\\134", "\\")
}
