//! The disks of a guest.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::boot::{PATH, path};
use crate::error::Report;
use crate::fields::Fields;
use crate::grammar::{Field, Form, Mapping, Text, word};
use crate::names;
use crate::read::Taken;

/// Most disks of a guest.
pub(super) const MOST: usize = 16;
/// Most queues of a disk; the VMM's own limit.
const MAX_QUEUES: u64 = 16;
/// Most queues of a disk whose document does not say how many.
const MOST_QUEUES: u16 = 4;
/// Longest serial number in bytes (virtio 1.3, `VIRTIO_BLK_ID_BYTES`).
const MAX_SERIAL: usize = 20;

/// A disk of a guest: a file or a block device of the host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct GuestDisk {
    /// Its name, unique among the guest's disks.
    pub name: String,
    /// Where its contents are. Relative paths of the text are joined to the folder of its file.
    pub path: PathBuf,
    /// Whether the guest cannot write to it.
    pub read_only: bool,
    /// How the file holds the contents; `None`: as it is, unless it looks like anything else.
    pub format: Option<DiskFormat>,
    /// The serial number that the guest reads: 1 to 20 characters.
    pub serial: String,
    /// Number of its queues, 1 to 16; `None` leaves it to the number of vCPUs.
    pub queues: Option<u16>,
}

impl GuestDisk {
    /// Number of its queues in a guest with so many vCPUs.
    pub fn queues_of(&self, cpus: u8) -> u16 {
        self.queues.unwrap_or(u16::from(cpus).min(MOST_QUEUES))
    }
}

/// How a file holds the contents of a disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum DiskFormat {
    /// Byte by byte.
    Raw,
    /// As an image of QEMU's format.
    Qcow2,
}

const SERIAL: Text = Text {
    accepted: "1 to 20 letters, digits and any of . _ -",
    pattern: "^[A-Za-z0-9._-]{1,20}$",
};

pub(super) static DISK: Mapping = Mapping {
    what: "a disk",
    fields: &[
        Field::new(
            "name",
            Form::Text(names::NAME),
            "root",
            "Its name, unique among the disks of the guest.",
        )
        .needed(),
        Field::new(
            "path",
            Form::Text(PATH),
            "root.raw",
            "The file or block device that holds it. A relative path starts from the folder of this \
             file. A guest that writes to it has it alone.",
        )
        .needed(),
        Field::new("readOnly", Form::Truth, "true", "Whether the guest cannot write to it.")
            .or("false"),
        Field::new(
            "format",
            Form::Words(&[
                word("raw", "the disk's contents and nothing else, whatever they begin with"),
                word("qcow2", "an image of QEMU's format, complete in this one file"),
            ]),
            "raw",
            "How the file holds the disk. Left out: raw, and a file that begins like a qcow2 image, a \
             compressed file or anything else that is no disk is refused.",
        ),
        Field::new(
            "serial",
            Form::Text(SERIAL),
            "web-1-root",
            "The serial number that the guest reads (/dev/disk/by-id/virtio-SERIAL). Left out: the disk's \
             name, or the first 20 characters of it.",
        ),
        Field::new(
            "queues",
            Form::Number(1, MAX_QUEUES),
            "2",
            "How many queues it has, each with a thread of the host. Left out: one for each vCPU, and 4 at \
             most.",
        ),
    ],
    rules: &[],
    later: &[],
};

/// Reads the disks of the guest whose `spec` these fields are of.
pub(super) fn read(spec: &Fields<'_>, folder: &Path, report: &mut Report<'_>) -> Vec<GuestDisk> {
    let mut taken = Taken::default();
    let disks = spec.list("disks", report);
    disks.iter().filter_map(|fields| disk(fields, folder, &mut taken, report)).collect()
}

fn disk(
    fields: &Fields<'_>,
    folder: &Path,
    taken: &mut Taken,
    report: &mut Report<'_>,
) -> Option<GuestDisk> {
    let name = fields.parsed("name", names::name, report);
    if let (Some(name), Some(given)) = (&name, fields.get("name", report)) {
        taken.take(name, given.node.span, "disk of this guest", report);
    }
    let path = fields.parsed("path", |text| path(text, folder), report);
    let read_only = fields.truth("readOnly", report).unwrap_or_default();
    let format = fields.word("format", report);
    let serial = fields.parsed("serial", serial, report);
    let queues = fields.number("queues", report);
    let (name, path) = (name?, path?);
    // A name is ASCII.
    let serial = serial.unwrap_or_else(|| name.chars().take(MAX_SERIAL).collect());
    Some(GuestDisk { name, path, read_only, format, serial, queues })
}

/// What [`SERIAL`] says.
fn serial(text: &str) -> Option<String> {
    let ok = (1..=MAX_SERIAL).contains(&text.len())
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(&byte));
    ok.then(|| text.to_owned())
}
