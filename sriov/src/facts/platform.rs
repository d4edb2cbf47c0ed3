//! The machine as a whole: whether it can run guests, and which boot this is.

use serde::{Deserialize, Serialize};

use super::reader::Reader;
use crate::root::HostRoot;

/// Facts that are not about a device.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Platform {
    /// Whether `/dev/kvm` is there.
    pub kvm: bool,
    /// The kernel's release (`/proc/sys/kernel/osrelease`).
    pub kernel: String,
    /// The kernel's command line.
    pub command_line: String,
    /// Which boot this is; addresses, groups and bindings hold for one boot only.
    pub boot_id: String,
}

/// The platform's facts.
pub fn read(reader: &mut Reader) -> Platform {
    let mut text = |file| reader.text(&reader.root.proc(file)).unwrap_or_default();
    let (kernel, command_line) = (text("sys/kernel/osrelease"), text("cmdline"));
    let boot_id = boot_id(reader.root);
    Platform { kvm: reader.root.dev("kvm").exists(), kernel, command_line, boot_id }
}

/// The boot's id alone; empty where the kernel does not say.
pub fn boot_id(root: &HostRoot) -> String {
    let path = root.proc("sys/kernel/random/boot_id");
    crate::attribute::read(&path).ok().flatten().unwrap_or_default()
}
