//! What people call a device: names from the PCI ID database that is built in, so that a listing
//! needs no network and no file of the host.

use pci_ids::{Device, FromId, SubSystem, Subclass, Vendor};

use serde::{Deserialize, Serialize};

use super::pci::PciFunction;

/// What people call a function, in the database's words.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Names {
    /// The vendor; `None` where the database does not know it.
    pub vendor: Option<String>,
    /// The device; `None` where the database does not know it.
    pub device: Option<String>,
    /// The board; `None` where the database does not know it.
    pub subsystem: Option<String>,
    /// What kind of device it is.
    pub class: String,
}

/// All names of a function.
pub fn of(function: &PciFunction) -> Names {
    let device = Device::from_vid_pid(function.vendor, function.device);
    Names {
        vendor: vendor(function.vendor).map(str::to_owned),
        device: device.map(|device| device.name().to_owned()),
        subsystem: subsystem(function).map(str::to_owned),
        class: class(function.class_code()),
    }
}

/// `Vendor Device`, or the numbers where the database does not know it.
pub fn device(function: &PciFunction) -> String {
    // sysfs shows a VF with its PF's device ID replaced by the VF's own: it is looked up as is.
    match (Device::from_vid_pid(function.vendor, function.device), vendor(function.vendor)) {
        (Some(device), Some(vendor)) => format!("{} {}", short(vendor), device.name()),
        (None, Some(vendor)) => format!("{} device {:04x}", short(vendor), function.device),
        _ => format!("{:04x}:{:04x}", function.vendor, function.device),
    }
}

/// The vendor's name.
pub fn vendor(id: u16) -> Option<&'static str> {
    Vendor::from_id(id).map(|vendor| vendor.name())
}

/// What kind of device it is, in the database's words: "Ethernet controller".
pub fn class(code: u16) -> String {
    let [base, sub] = code.to_be_bytes();
    match Subclass::from_cid_sid(base, sub) {
        Some(class) => class.name().to_owned(),
        None => format!("class {code:04x}"),
    }
}

/// What kind of device it is, in a word that fits a column.
pub fn short_class(code: u16) -> &'static str {
    match code {
        0x0100 | 0x0101 | 0x0104..=0x0107 => "disk",
        0x0108 => "nvme",
        0x0200 => "ethernet",
        0x0207 => "infiniband",

        0x0201..=0x0206 | 0x0208..=0x02ff => "network",
        0x0300..=0x03ff => "display",
        0x0401..=0x0403 => "audio",
        0x0500..=0x05ff => "memory",
        0x0600 => "host-bridge",
        0x0601 => "isa-bridge",
        0x0602..=0x06ff => "bridge",
        0x0c03 => "usb",
        0x0c05 => "smbus",
        0x0b40 => "coprocessor",
        0x1200..=0x12ff => "accelerator",
        _ => "other",
    }
}

/// The board's name, where the database has it.
pub fn subsystem(function: &PciFunction) -> Option<&'static str> {
    let device = Device::from_vid_pid(function.vendor, function.device)?;
    let is_ours = |subsystem: &&SubSystem| {
        subsystem.subvendor() == function.subsystem_vendor
            && subsystem.subdevice() == function.subsystem_device
    };
    device.subsystems().find(is_ours).map(SubSystem::name)
}

/// A vendor's name without its legal form.
fn short(vendor: &str) -> &str {
    let cut =
        [" Corporation", " Corp.", ", Inc.", " Inc.", " Technologies", " Co., Ltd.", ", Ltd."]
            .iter()
            .filter_map(|form| vendor.find(form))
            .min();
    vendor.get(..cut.unwrap_or(vendor.len())).unwrap_or(vendor)
}
