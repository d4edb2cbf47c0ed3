//! What people call a device: names from the PCI ID database that is built in, so that a listing
//! needs no network and no file of the host.

use std::cmp::Ordering;

use serde::{Deserialize, Serialize};

use super::pci::PciFunction;

/// Tables of sorted records, as `build.rs` lays them out.
const VENDORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/vendors.table"));
const DEVICES: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/devices.table"));
const SUBSYSTEMS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/subsystems.table"));
const CLASSES: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/classes.table"));
const NAMES: &str = include_str!(concat!(env!("OUT_DIR"), "/names.text"));

/// Bytes after the key in a record: offset and length of the name.
const PLACE: usize = 5;

/// The name at a key, whose length must be the table's.
fn find(table: &'static [u8], key: &[u8]) -> Option<&'static str> {
    let size = key.len() + PLACE;
    let (mut low, mut high) = (0, table.len() / size);
    while low < high {
        let middle = low + (high - low) / 2;
        let (found, place) = table.get(middle * size..(middle + 1) * size)?.split_at(key.len());
        match found.cmp(key) {
            Ordering::Less => low = middle + 1,
            Ordering::Greater => high = middle,
            Ordering::Equal => {
                let [a, b, c, d, length] = *place else { return None };
                let start = u32::from_be_bytes([a, b, c, d]) as usize;
                return NAMES.get(start..start + usize::from(length));
            }
        }
    }
    None
}

fn device_key(vendor: u16, device: u16) -> [u8; 4] {
    let ([a, b], [c, d]) = (vendor.to_be_bytes(), device.to_be_bytes());
    [a, b, c, d]
}

fn board_key(function: [u16; 2], board: [u16; 2]) -> [u8; 8] {
    let [a, b, c, d] = device_key(function[0], function[1]);
    let [e, f, g, h] = device_key(board[0], board[1]);
    [a, b, c, d, e, f, g, h]
}

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
    Names {
        vendor: vendor(function.vendor).map(str::to_owned),
        device: find(DEVICES, &device_key(function.vendor, function.device)).map(str::to_owned),
        subsystem: subsystem(function).map(str::to_owned),
        class: class(function.class_code()),
    }
}

/// `Vendor Device`, or the numbers where the database does not know it.
pub fn device(function: &PciFunction) -> String {
    // sysfs shows a VF with its PF's device ID replaced by the VF's own: it is looked up as is.
    of_ids(function.vendor, function.device)
}

/// The device without its vendor, where the database knows it: for where there is little room.
pub fn model(function: &PciFunction) -> Option<&'static str> {
    find(DEVICES, &device_key(function.vendor, function.device))
}

/// `Vendor Device` by vendor and device ID.
pub fn of_ids(vendor_id: u16, device_id: u16) -> String {
    let key = device_key(vendor_id, device_id);
    match (find(DEVICES, &key), vendor(vendor_id)) {
        (Some(device), Some(vendor)) => format!("{} {device}", short(vendor)),
        (None, Some(vendor)) => format!("{} device {device_id:04x}", short(vendor)),
        _ => format!("{vendor_id:04x}:{device_id:04x}"),
    }
}

/// The vendor's name.
pub fn vendor(id: u16) -> Option<&'static str> {
    find(VENDORS, &id.to_be_bytes())
}

/// What kind of device it is, in the database's words: "Ethernet controller".
pub fn class(code: u16) -> String {
    match find(CLASSES, &code.to_be_bytes()) {
        Some(class) => class.to_owned(),
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
    let PciFunction { vendor, device, subsystem_vendor, subsystem_device, .. } = *function;
    find(SUBSYSTEMS, &board_key([vendor, device], [subsystem_vendor, subsystem_device]))
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

#[cfg(test)]
mod tests {
    use pci_ids::FromId;

    use super::*;

    /// The tables hold what the database does, from the first entry to the last.
    #[test]
    fn every_name_of_the_database_is_found() {
        let mut devices = 0;
        for known in pci_ids::Vendors::iter() {
            assert_eq!(vendor(known.id()), Some(known.name()));
            for device in known.devices() {
                devices += 1;
                let found = find(DEVICES, &device_key(known.id(), device.id()));
                assert_eq!(found, Some(device.name()), "{:04x}:{:04x}", known.id(), device.id());
                for board in device.subsystems() {
                    let of = [board.subvendor(), board.subdevice()];
                    let found = find(SUBSYSTEMS, &board_key([known.id(), device.id()], of));
                    assert!(found.is_some_and(|found| board.name().starts_with(found)));
                }
            }
        }
        assert!(devices > 10_000, "{devices}");
        assert_eq!(class(0x0200), "Ethernet controller");
        assert_eq!(class(0xfefe), "class fefe");
        let mut free = (0..=u16::MAX).filter(|id| pci_ids::Vendor::from_id(*id).is_none());
        assert!(free.all(|id| vendor(id).is_none()));
    }

    #[test]
    fn damaged_tables_yield_no_name() {
        assert_eq!(find(&[], &[1, 2]), None);
        assert_eq!(find(&[0x12, 0x34, 0xff, 0xff, 0xff, 0xff, 9], &[0x12, 0x34]), None);
        assert_eq!(find(&[0x12, 0x34, 0xff], &[0x12, 0x34]), None);
    }
}
