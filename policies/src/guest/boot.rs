//! What a guest boots.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::disks::GuestDisk;
use crate::error::{Report, quote};
use crate::fields::{Fields, Given};
use crate::grammar::{Field, Form, Mapping, Rule, Text};
use crate::names;

/// Longest kernel command line in bytes, the Linux x86 limit (`COMMAND_LINE_SIZE`) less its NUL.
pub const MAX_CMDLINE: usize = 2047;
/// Longest id or title of a boot loader's entry, in bytes.
const MAX_ENTRY: usize = 255;

/// What a guest boots. Relative paths of the text are joined to the folder of its file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Boot {
    /// Files of the host.
    Files {
        /// The kernel: a bzImage or a vmlinux with a PVH entry.
        kernel: PathBuf,
        /// The initial RAM disk.
        initrd: Option<PathBuf>,
        /// The kernel's command line, at most [`MAX_CMDLINE`] bytes, possibly empty.
        cmdline: String,
    },
    /// What the boot loader on a disk would boot.
    Disk {
        /// The name of one of the guest's disks.
        disk: String,
        /// The id or title of the boot loader's entry; `None` is its default.
        entry: Option<String>,
        /// What is added to the entry's own command line, possibly nothing.
        cmdline: String,
    },
}

const FORM: &str = "kernel: vmlinuz, or disk: root";

pub(super) static BOOT: Mapping = Mapping {
    what: "`boot`",
    fields: &[
        Field::new(
            "kernel",
            Form::Text(PATH),
            "vmlinuz",
            "The kernel: a bzImage, or a vmlinux with a PVH entry. A relative path starts from the \
             folder of this file.",
        ),
        Field::new(
            "initrd",
            Form::Text(PATH),
            "initrd.img",
            "The initial RAM disk. A relative path starts from the folder of this file.",
        ),
        Field::new(
            "disk",
            Form::Text(names::NAME),
            "root",
            "In place of `kernel`: the name of one of the guest's disks. The kernel, its initial RAM disk \
             and its command line are those that the boot loader on it would boot (Boot Loader \
             Specification, or GRUB). Read anew at each start and reboot.",
        ),
        Field::new(
            "entry",
            Form::Text(ENTRY),
            "6.1.0-18-amd64",
            "The id or title of the boot loader's entry. Left out: the default of the boot loader.",
        ),
        Field::new(
            "cmdline",
            Form::Text(CMDLINE),
            "console=ttyS0",
            "The kernel's command line. With `disk`, what is added to that of the entry.",
        ),
    ],
    rules: &[
        Rule::Apart {
            field: "kernel",
            beside: "disk",
            message: "`kernel` beside `disk`: the kernel is either a file of the host or on the disk",
            accepted: FORM,
        },
        Rule::Apart {
            field: "initrd",
            beside: "disk",
            message: "`initrd` beside `disk`: the boot loader's entry says which one it is",
            accepted: FORM,
        },
        Rule::Needs {
            field: "entry",
            also: "disk",
            message: "`entry` without `disk`: it chooses among the entries of a disk's boot loader",
            accepted: FORM,
        },
        Rule::OneOf {
            fields: &["kernel", "disk"],
            message: "`boot` needs `kernel` or `disk`",
            accepted: FORM,
        },
    ],
    later: &[],
};

pub(super) const PATH: Text = Text {
    accepted: "a path; a relative one starts from the folder of this file",
    pattern: r"^[^\x00-\x1f\x7f-\x9f]+$",
};

const ENTRY: Text = Text {
    accepted: "the id or title of an entry, of at most 255 bytes",
    pattern: r"^[^\x00-\x1f\x7f-\x9f]+$",
};

const CMDLINE: Text = Text {
    accepted: r#"one line of at most 2,047 bytes, such as "console=ttyS0 quiet""#,
    pattern: r"^[^\x00-\x1f\x7f-\x9f]*\n*$",
};

/// Reads what the guest with these `disks` boots; `None` where what is wrong with them has been told.
pub(super) fn read(
    fields: &Fields<'_>,
    folder: &Path,
    disks: Option<&[GuestDisk]>,
    report: &mut Report<'_>,
) -> Option<Boot> {
    let kernel = fields.parsed("kernel", |text| path(text, folder), report);
    let initrd = fields.parsed("initrd", |text| path(text, folder), report);
    let disk = fields.parsed("disk", names::name, report);
    let entry = fields.parsed("entry", entry, report);
    let cmdline = fields.get("cmdline", report).and_then(|given| cmdline(given, report));
    let cmdline = cmdline.unwrap_or_default();
    match (kernel, disk) {
        (Some(kernel), None) => Some(Boot::Files { kernel, initrd, cmdline }),
        (None, Some(disk)) => {
            if let Some(disks) = disks.filter(|disks| disks.iter().all(|one| one.name != disk)) {
                let at = fields.get("disk", report)?.node.span;
                let message = format!("the guest has no disk named {}", quote(&disk));
                let names: Vec<&str> = disks.iter().map(|disk| disk.name.as_str()).collect();
                let accepted = match names.is_empty() {
                    true => format!("`disks: [{{name: {disk}, path: {disk}.raw}}]` beside `boot`"),
                    false => names.join(", "),
                };
                report.error(at, message, Some(&accepted));
            }
            Some(Boot::Disk { disk, entry, cmdline })
        }
        _ => None,
    }
}

/// What [`PATH`] says.
pub(super) fn path(text: &str, folder: &Path) -> Option<PathBuf> {
    let ok = (1..=4095).contains(&text.len()) && !text.contains(char::is_control);
    ok.then(|| folder.join(text))
}

/// What [`ENTRY`] says.
fn entry(text: &str) -> Option<String> {
    let ok = (1..=MAX_ENTRY).contains(&text.len()) && !text.contains(char::is_control);
    ok.then(|| text.to_owned())
}

fn cmdline(given: Given<'_>, report: &mut Report<'_>) -> Option<String> {
    // Folded and literal blocks end in a line break that nobody means.
    let text = given.text(report)?.trim_end_matches('\n');
    if text.contains(char::is_control) {
        return given.wrong("has a line break or control character", report);
    }
    if text.len() > MAX_CMDLINE {
        return given.wrong(format!("is {} bytes long", text.len()), report);
    }
    Some(text.to_owned())
}
