//! Turns the PCI ID database into sorted tables without pointers.
//!
//! As the crate offers it, the database is made of some forty thousand pointers, all of which a
//! program has relocated at each start, and that is most of what a short command costs. Here a table
//! is a sequence of records (the numbers that make up the key, big-endian, then place and length of
//! the name), to be searched where it lies: `facts/names.rs` does.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::{env, fs, io};

use pci_ids::{Classes, Vendors};

/// Names by key; the keys of one table are all of one length.
type Table = BTreeMap<Vec<u8>, &'static str>;

fn key<const N: usize>(numbers: [u16; N]) -> Vec<u8> {
    numbers.iter().flat_map(|number| number.to_be_bytes()).collect()
}

fn main() -> io::Result<()> {
    println!("cargo::rerun-if-changed=build.rs");
    let [mut vendors, mut devices, mut subsystems, mut classes] = [const { Table::new() }; 4];
    for vendor in Vendors::iter() {
        vendors.insert(key([vendor.id()]), vendor.name());
        for device in vendor.devices() {
            devices.insert(key([vendor.id(), device.id()]), device.name());
            for board in device.subsystems() {
                let numbers = [vendor.id(), device.id(), board.subvendor(), board.subdevice()];
                subsystems.insert(key(numbers), board.name());
            }
        }
    }
    for class in Classes::iter() {
        for subclass in class.subclasses() {
            classes.insert(vec![class.id(), subclass.id()], subclass.name());
        }
    }
    let folder = PathBuf::from(env::var_os("OUT_DIR").ok_or(io::ErrorKind::NotFound)?);
    let mut names = Names::default();
    let tables = [
        ("vendors", vendors),
        ("devices", devices),
        ("subsystems", subsystems),
        ("classes", classes),
    ];
    for (name, table) in tables {
        let mut records = Vec::new();
        for (key, name) in table {
            records.extend(key);
            records.extend(names.place(name));
        }
        fs::write(folder.join(format!("{name}.table")), records)?;
    }
    fs::write(folder.join("names.text"), names.text)
}

/// All names in one text, each once.
#[derive(Default)]
struct Names {
    text: String,
    places: BTreeMap<&'static str, [u8; 5]>,
}

impl Names {
    /// Where a name lies: four bytes of offset, one of length.
    fn place(&mut self, name: &'static str) -> [u8; 5] {
        // A board's name may be longer than anybody reads.
        let length = (0..=name.len().min(255)).rev().find(|at| name.is_char_boundary(*at));
        let name = &name[..length.unwrap_or(0)];
        *self.places.entry(name).or_insert_with(|| {
            let [a, b, c, d] = (self.text.len() as u32).to_be_bytes();
            self.text.push_str(name);
            [a, b, c, d, name.len() as u8]
        })
    }
}
