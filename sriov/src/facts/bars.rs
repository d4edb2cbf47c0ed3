//! Memory and I/O ranges of a function: its base address registers (BARs) and what is like them.

use serde::{Deserialize, Serialize};

use super::reader::{Reader, hexadecimal};
use crate::directory::Directory;

/// One range that the host has given to a function.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Bar {
    /// What it is for.
    pub owner: BarOwner,
    /// Which BAR, 0 to 5, or which window; 0 for a ROM.
    pub index: u8,
    /// Its first address; 0 where the kernel shows addresses to root only, or gave none.
    pub start: u64,
    /// Its bytes; of a VFs' BAR, those of all VFs together.
    pub size: u64,
    /// How it is reached.
    pub kind: BarKind,
    /// Reading it has no effect, so that reads may be merged.
    pub prefetchable: bool,
}

/// What a range is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum BarOwner {
    /// The function itself.
    Function,
    /// Its expansion ROM.
    Rom,
    /// Its virtual functions (PCIe section 9.3.3.14).
    Vfs,
    /// What is behind the bridge.
    Window,
}

/// How a range is reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum BarKind {
    /// Memory below 4 GiB.
    Memory32,
    /// Memory anywhere.
    Memory64,
    /// I/O ports.
    Io,
}

/// Flags of a resource (include/linux/ioport.h).
const IO: u64 = 0x100;
const MEMORY: u64 = 0x200;
const PREFETCH: u64 = 0x2000;
const WIDE: u64 = 0x10_0000;

/// How the kernel writes a range that is not used.
const UNUSED: &str = "0x0000000000000000 0x0000000000000000 0x0000000000000000";

/// The ranges in `resource`, in the kernel's order; unused ones are left out.
pub fn read(reader: &mut Reader, device: &Directory) -> Vec<Bar> {
    let Some(text) = reader.text_in(device, "resource") else { return Vec::new() };
    let mut bars = Vec::new();
    // A kernel without SR-IOV has a bridge's four windows where others have the VFs' BARs.
    let skipped = if text.lines().count() == 11 { 6 } else { 0 };
    for (number, line) in text.lines().enumerate() {
        let number = if number > 6 { number + skipped } else { number };
        match bar(number, line) {
            Some(bar) => bars.extend(bar),
            None => {
                let cause = format!("{line:?} is not a range of addresses");
                reader.note(&device.at("resource"), cause);
            }
        }
    }
    bars
}

/// First address, last address, flags; the line's number tells the owner (include/linux/pci.h,
/// `PCI_STD_RESOURCES` on). `Some(None)` is an unused one.
fn bar(number: usize, line: &str) -> Option<Option<Bar>> {
    // Most are.
    if line == UNUSED {
        return Some(None);
    }
    let mut words = line.split_whitespace().map(hexadecimal);
    let (start, end, flags) = (words.next()??, words.next()??, words.next()??);
    let kind = match (flags & IO != 0, flags & MEMORY != 0) {
        (true, _) => BarKind::Io,
        (_, true) if flags & WIDE != 0 => BarKind::Memory64,
        (_, true) => BarKind::Memory32,
        _ => return Some(None),
    };
    let (owner, first) = match number {
        0..=5 => (BarOwner::Function, 0),
        6 => (BarOwner::Rom, 6),
        7..=12 => (BarOwner::Vfs, 7),
        _ => (BarOwner::Window, 13),
    };
    let size = end.checked_sub(start)?.checked_add(1)?;
    let index = u8::try_from(number - first).ok()?;
    Some(Some(Bar { owner, index, start, size, kind, prefetchable: flags & PREFETCH != 0 }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_line_has_its_owner() {
        let line = "0x00000000fe000000 0x00000000fe01ffff 0x0000000000040200";
        let owners: Vec<(BarOwner, u8)> = (0..15)
            .filter_map(|number| bar(number, line).flatten())
            .map(|bar| (bar.owner, bar.index))
            .collect();
        assert_eq!(owners.first(), Some(&(BarOwner::Function, 0)));
        assert_eq!(owners.get(6..8), Some([(BarOwner::Rom, 0), (BarOwner::Vfs, 0)].as_slice()));
        assert_eq!(owners.last(), Some(&(BarOwner::Window, 1)));
    }

    #[test]
    fn kinds_come_from_the_flags() {
        let kind = |flags: &str| {
            let bar = bar(0, &format!("0x1000 0x1fff {flags}")).flatten();
            bar.map(|bar| (bar.kind, bar.prefetchable, bar.size))
        };
        assert_eq!(kind("0x40101"), Some((BarKind::Io, false, 0x1000)));
        assert_eq!(kind("0x40200"), Some((BarKind::Memory32, false, 0x1000)));
        assert_eq!(kind("0x14220c"), Some((BarKind::Memory64, true, 0x1000)));
        assert_eq!(kind("0x0"), None);
    }

    #[test]
    fn what_is_no_range_is_told_apart_from_an_unused_one() {
        assert_eq!(bar(0, "0x0 0x0 0x0"), Some(None));
        for line in ["", "0x0", "0x0 0x0", "1 2 0x200", "0x2 0x0 0x200", "0x+1 0x2 0x200"] {
            assert_eq!(bar(0, line), None, "{line:?}");
        }
        let whole = "0x0 0xffffffffffffffff 0x200";
        assert_eq!(bar(0, whole), None, "a size that 64 bits do not hold");
    }
}
