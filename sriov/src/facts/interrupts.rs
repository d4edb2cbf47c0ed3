//! How often devices that VFIO gives away have interrupted, as `/proc/interrupts` tells.
//!
//! ```text
//!            CPU0       CPU1
//!  45:          0         12  IR-PCI-MSIX-0000:01:10.0    0-edge      vfio-msix[0](0000:01:10.0)
//! ```
//! VFIO names its handlers after the device (Linux drivers/vfio/pci/vfio_pci_intrs.c). A vector's line
//! is there as long as the guest has it enabled, and begins at 0 when it is enabled again.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::address::PciAddress;
use crate::attribute::{self, AttributeError};
use crate::root::HostRoot;

/// Columns that are taken for CPUs' at most: more than Linux can have.
const MOST_CPUS: usize = 1 << 16;

/// One interrupt of a device.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Interrupt {
    /// What VFIO calls it: `msix[0]`, `msi[0]` or `intx`.
    pub name: String,
    /// How often it has fired on all CPUs. Where devices share a line (INTx), all of them together.
    pub count: u64,
}

/// The interrupts of every device that VFIO gives away, in the kernel's order.
///
/// # Errors
/// The kernel's, or that the table is longer than 64 MiB.
pub fn of_vfio(root: &HostRoot) -> Result<BTreeMap<PciAddress, Vec<Interrupt>>, AttributeError> {
    Ok(parse(&attribute::read_table(&root.proc("interrupts"))?))
}

fn parse(table: &str) -> BTreeMap<PciAddress, Vec<Interrupt>> {
    let mut lines = table.lines();
    let heading = lines.next().unwrap_or_default();
    let cpus = heading.split_ascii_whitespace().filter(|word| word.starts_with("CPU"));
    let cpus = cpus.take(MOST_CPUS).count();
    let mut found: BTreeMap<PciAddress, Vec<Interrupt>> = BTreeMap::new();
    for line in lines.filter(|line| line.contains("vfio-")) {
        let words = line.split_ascii_whitespace().skip(1);
        // A number beyond 64 bits is no count.
        let counts = words.clone().take(cpus).map_while(|word| word.parse::<u64>().ok());
        let count = counts.fold(0, u64::saturating_add);
        // Handlers that share a line are listed with commas.
        for (address, name) in words.skip(cpus).filter_map(handler) {
            found.entry(address).or_default().push(Interrupt { name: name.to_owned(), count });
        }
    }
    found
}

/// The device and the interrupt's name, from `vfio-msix[0](0000:01:10.0)`.
fn handler(word: &str) -> Option<(PciAddress, &str)> {
    let word = word.trim_end_matches(',').strip_prefix("vfio-")?.strip_suffix(')')?;
    let (name, address) = word.split_once('(')?;
    let known = ["intx", "msi", "msix"].iter().any(|kind| {
        name.strip_prefix(kind).is_some_and(|rest| rest.is_empty() || rest.starts_with('['))
    });
    known.then_some((address.parse().ok()?, name))
}

#[cfg(test)]
mod tests {
    use super::*;

    const TABLE: &str = "           CPU0       CPU1       \n\
        \x20  1:          9          0  IR-IO-APIC    1-edge      i8042\n\
        \x2016:          3          4  IR-IO-APIC   16-fasteoi   ehci_hcd:usb1, vfio-intx(0000:03:00.0)\n\
        \x2045:         30         12  IR-PCI-MSIX-0000:01:10.0    0-edge      vfio-msix[0](0000:01:10.0)\n\
        \x2046:          5          0  IR-PCI-MSIX-0000:01:10.0    1-edge      vfio-msix[1](0000:01:10.0)\n\
        \x2047:          0          1  PCI-MSI 524288-edge      vfio-msi[0](0000:01:10.2)\n\
        NMI:          0          0   Non-maskable interrupts\n";

    fn counts(table: &str) -> Vec<(String, String, u64)> {
        let found = parse(table).into_iter().flat_map(|(address, interrupts)| {
            interrupts.into_iter().map(move |one| (address.to_string(), one.name, one.count))
        });
        found.collect()
    }

    #[test]
    fn the_counts_of_all_cpus_belong_to_their_devices() {
        let expected = [
            ("0000:01:10.0", "msix[0]", 42),
            ("0000:01:10.0", "msix[1]", 5),
            ("0000:01:10.2", "msi[0]", 1),
            ("0000:03:00.0", "intx", 7),
        ];
        let expected = expected.map(|(at, name, count)| (at.to_owned(), name.to_owned(), count));
        assert_eq!(counts(TABLE), expected);
    }

    #[test]
    fn what_is_cut_off_or_absurd_counts_nothing() {
        for end in 0..TABLE.len() {
            let _ = counts(&TABLE[..end]);
        }
        let line = |rest: &str| format!("  CPU0 CPU1\n 45: {rest}\n");
        for (rest, expected) in [
            ("18446744073709551615 7 x vfio-msix[0](0000:01:10.0)", Some(u64::MAX)),
            ("99999999999999999999 7 x vfio-msix[0](0000:01:10.0)", Some(0)),
            ("-1 7 x vfio-intx(0000:01:10.0)", Some(0)),
            ("1 7 x vfio-msix[0](0000:01:10.9)", None),
            ("1 7 x vfio-msix[0]", None),
            ("1 7 x vfio-other[0](0000:01:10.0)", None),
            ("1 7 x vfio-msixes(0000:01:10.0)", None),
            ("1 7 x my-vfio-msix[0](0000:01:10.0)", None),
            ("vfio-msix[0](0000:01:10.0)", None),
            ("", None),
        ] {
            let found = counts(&line(rest));
            assert_eq!(found.first().map(|(_, _, count)| *count), expected, "{rest}");
        }
    }
}
