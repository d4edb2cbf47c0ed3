//! Where people see and type: text consoles, lit displays, serial consoles.

use std::path::Path;

use serde::{Deserialize, Serialize};

use super::pci;
use super::reader::Reader;
use crate::address::PciAddress;
use crate::attribute;
use crate::root::HostRoot;

/// One way to the host's console that a PCI function is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Console {
    /// The function.
    pub pci: PciAddress,
    /// The kernel's name of the device: `fb0`, `card0-HDMI-A-1`, `ttyS4`.
    pub device: String,
    /// What it is to people.
    pub role: Role,
}

/// What a console device is to people.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Role {
    /// The kernel writes its messages there, and may have a login on it.
    Kernel,
    /// The virtual terminals are drawn on it.
    Text,
    /// A monitor is connected and shows a picture.
    Display,
}

impl Role {
    /// For the end of a chain.
    pub fn describe(self) -> &'static str {
        match self {
            Role::Kernel => "the kernel's console",
            Role::Text => "the text console",
            Role::Display => "a monitor that is on",
        }
    }
}

/// Every console on a PCI function.
pub fn read(reader: &mut Reader) -> Vec<Console> {
    let mut found = Vec::new();
    let active = reader.text(&reader.root.sys("class/tty/console/active")).unwrap_or_default();
    for tty in active.split_whitespace().filter(|name| HostRoot::is_component(name)) {
        let link = reader.root.sys("class/tty").join(tty);
        add(reader, &mut found, &link, tty, Role::Kernel);
    }
    if draws_text(reader) {
        // Where several are there, the terminals are on the first (drivers/video/fbdev/core/fbcon.c).
        let mut buffers = reader.entries(&reader.root.sys("class/graphics"));
        buffers.retain(|name| name.strip_prefix("fb").is_some_and(|n| n.parse::<u8>().is_ok()));
        if let Some(first) = buffers.iter().min_by_key(|name| (name.len(), name.as_str())) {
            let link = reader.root.sys("class/graphics").join(first);
            add(reader, &mut found, &link, first, Role::Text);
        }
    }
    let drm = reader.root.sys("class/drm");
    for connector in reader.entries(&drm).iter().filter(|name| name.contains('-')) {
        let is = |reader: &mut Reader, attribute: &str, value: &str| {
            let text = reader.text(&drm.join(connector).join(attribute));
            text.as_deref() == Some(value)
        };
        if is(reader, "status", "connected") && is(reader, "enabled", "enabled") {
            add(reader, &mut found, &drm.join(connector), connector, Role::Display);
        }
    }
    found
}

/// Whether the virtual terminals are drawn on a frame buffer: a driver of theirs that says so is
/// bound (Documentation/driver-api/console.rst).
fn draws_text(reader: &mut Reader) -> bool {
    let class = reader.root.sys("class/vtconsole");
    reader.entries(&class).iter().any(|name| {
        let at = |attribute: &str| class.join(name).join(attribute);
        reader.text(&at("name")).is_some_and(|name| name.contains("frame buffer"))
            && reader.flag(&at("bind")).unwrap_or(false)
    })
}

/// A device that hangs below no PCI function is nobody's loss.
fn add(reader: &mut Reader, found: &mut Vec<Console>, link: &Path, device: &str, role: Role) {
    let target = reader.accept(attribute::link_target(link));
    if let Some(pci) = target.as_deref().and_then(pci::function_in) {
        found.push(Console { pci, device: device.to_owned(), role });
    }
}
