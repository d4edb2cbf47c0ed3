//! What a process is told that reads the boot loader's entries on a disk, and what it answers.
//!
//! It is `assign-vmm --read-boot FD`, with an [`ImageSpec`] on that descriptor. It runs no guest: it
//! shuts itself in, reads the disk, and answers one [`ImageAnswer`] as a line of JSON.

use serde::{Deserialize, Serialize};

use super::{Descriptor, DiskFormat, Sandbox};

/// Longest answer, in bytes.
pub const MAX_ANSWER: usize = 64 << 10;
/// Largest kernel image that is taken from a disk, in bytes.
pub const MAX_DISK_KERNEL: u64 = 512 << 20;
/// Most bytes of initial RAM disks, all of an entry's together.
pub const MAX_DISK_INITRD: u64 = 1 << 30;

/// A disk to be read, and what is wanted of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ImageSpec {
    /// A regular file or block device, open for reading: the contents of the disk.
    pub disk: Descriptor,
    /// How it holds them.
    pub format: DiskFormat,
    /// An empty file, open for writing: the kernel goes there, [`MAX_DISK_KERNEL`] bytes at most.
    pub kernel: Descriptor,
    /// The same for the initial RAM disk, [`MAX_DISK_INITRD`] bytes at most.
    pub initrd: Descriptor,
    /// The write end of a pipe for the answer.
    pub answer: Descriptor,
    /// The id or title of the wanted entry; none is the boot loader's default.
    pub entry: Option<String>,
    /// How the process shuts itself in before it looks at the disk; without it, it does not.
    pub sandbox: Option<Sandbox>,
}

/// What was found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "answer", rename_all = "kebab-case", deny_unknown_fields)]
pub enum ImageAnswer {
    /// An entry; its files are copied.
    Found(FoundEntry),
    /// None that can be booted.
    Unbootable {
        /// Why not.
        why: Unbootable,
    },
}

/// A boot loader's entry.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FoundEntry {
    /// How the menu calls it.
    pub title: String,
    /// The kernel's command line.
    pub cmdline: String,
    /// Whether it has an initial RAM disk.
    pub has_initrd: bool,
}

/// Why nothing on a disk can be booted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Unbootable {
    /// No filesystem on it can be read.
    NoFilesystem {
        /// What there is instead, each such as "partition 1: XFS".
        found: Vec<String>,
    },
    /// The filesystems hold no entry.
    NoEntries {
        /// What was looked through, and what could not be, in the same form.
        found: Vec<String>,
    },
    /// The wanted entry is not among them.
    NoSuchEntry {
        /// Those there are: the id, and the title where it is another.
        entries: Vec<String>,
    },
    /// The entry cannot be booted.
    BadEntry {
        /// How the menu calls it.
        title: String,
        /// What is wrong with it.
        cause: String,
    },
    /// The disk, or all that is on it, cannot be read.
    Unreadable {
        /// What was read, and the error.
        cause: String,
    },
}
