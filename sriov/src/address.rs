//! Names of PCI functions: their address, and for a virtual function its place below its parent.
//!
//! An address is where a function sits on this boot; firmware may move it. A virtual function (VF)
//! is therefore remembered as [`VfRef`]: its physical function (PF) and its index, which the PCIe
//! specification keeps stable (section 9.2.1.2, Routing IDs follow from offset and stride).

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// Where a PCI function sits: `dddd:bb:dd.f`.
///
/// Ordered by domain, bus, device, function, which is the order `lspci` lists.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct PciAddress {
    domain: u32,
    bus: u8,
    device: u8,
    function: u8,
}

impl PciAddress {
    /// An address from its parts: device 0 to 31 and function 0 to 7 (PCIe section 2.2.6.2), any
    /// bus, and a domain of 32 bits (Intel VMD numbers its domains from 0x10000 on).
    pub fn new(domain: u32, bus: u8, device: u8, function: u8) -> Option<PciAddress> {
        (device < 32 && function < 8).then_some(PciAddress { domain, bus, device, function })
    }

    /// PCI segment group; not limited to 16 bits.
    pub fn domain(self) -> u32 {
        self.domain
    }

    /// Bus number, 0 to 255.
    pub fn bus(self) -> u8 {
        self.bus
    }

    /// Device number, 0 to 31.
    pub fn device(self) -> u8 {
        self.device
    }

    /// Function number, 0 to 7.
    pub fn function(self) -> u8 {
        self.function
    }

    /// Bus, device and function as the 16 bits that requests carry (PCIe section 2.2.6.2).
    pub fn routing_id(self) -> u32 {
        u32::from(self.bus) << 8 | u32::from(self.device) << 3 | u32::from(self.function)
    }
}

impl fmt::Display for PciAddress {
    /// Always in full, as sysfs names it: the domain in four digits or more.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let full =
            format!("{:04x}:{:02x}:{:02x}.{}", self.domain, self.bus, self.device, self.function);
        f.pad(&full)
    }
}

/// A text that is not a PCI address.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{text:?} is not a PCI address: write domain:bus:device.function in hexadecimal, such as \
     0000:01:10.0, or 01:10.0 for domain 0"
)]
pub struct AddressError {
    text: String,
}

impl FromStr for PciAddress {
    type Err = AddressError;

    /// Accepts `dddd:bb:dd.f` with four to eight digits of domain, and `bb:dd.f` for domain 0.
    fn from_str(text: &str) -> Result<PciAddress, AddressError> {
        parse(text).ok_or_else(|| AddressError { text: text.chars().take(64).collect() })
    }
}

fn parse(text: &str) -> Option<PciAddress> {
    let (slot, function) = text.rsplit_once('.')?;
    let (bus, device) = slot.rsplit_once(':')?;
    let (domain, bus) = match bus.rsplit_once(':') {
        Some((domain, bus)) if (4..=8).contains(&domain.len()) => (hex(domain)?, bus),
        Some(_) => return None,
        None => (0, bus),
    };
    if bus.len() != 2 || device.len() != 2 || function.len() != 1 {
        return None;
    }
    let byte = |digits| hex(digits).and_then(|value| u8::try_from(value).ok());
    PciAddress::new(domain, byte(bus)?, byte(device)?, byte(function)?)
}

/// Digits only: `from_str_radix` would take a sign as well.
fn hex(digits: &str) -> Option<u32> {
    let all_digits = digits.bytes().all(|byte| byte.is_ascii_hexdigit());
    all_digits.then(|| u32::from_str_radix(digits, 16).ok()).flatten()
}

impl TryFrom<String> for PciAddress {
    type Error = AddressError;

    fn try_from(text: String) -> Result<PciAddress, AddressError> {
        text.parse()
    }
}

impl From<PciAddress> for String {
    fn from(address: PciAddress) -> String {
        address.to_string()
    }
}

/// A root bus: what leads from the processors to a tree of PCI devices. Written `0000:00`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct PciRoot {
    /// PCI segment group; not limited to 16 bits.
    pub domain: u32,
    /// Its bus number, 0 to 255.
    pub bus: u8,
}

impl fmt::Display for PciRoot {
    /// As the kernel names it in `/sys/devices`: the domain in four digits or more.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&format!("{:04x}:{:02x}", self.domain, self.bus))
    }
}

impl FromStr for PciRoot {
    type Err = RootError;

    /// Accepts `dddd:bb` with four to eight digits of domain.
    fn from_str(text: &str) -> Result<PciRoot, RootError> {
        let parse = || {
            let (domain, bus) = text.split_once(':')?;
            let ok = (4..=8).contains(&domain.len()) && bus.len() == 2;
            let root = PciRoot { domain: hex(domain)?, bus: u8::try_from(hex(bus)?).ok()? };
            ok.then_some(root)
        };
        parse().ok_or_else(|| RootError { text: text.chars().take(64).collect() })
    }
}

/// A text that is not a root bus.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is no PCI root: write domain:bus in hexadecimal, such as 0000:00")]
pub struct RootError {
    text: String,
}

impl TryFrom<String> for PciRoot {
    type Error = RootError;

    fn try_from(text: String) -> Result<PciRoot, RootError> {
        text.parse()
    }
}

impl From<PciRoot> for String {
    fn from(root: PciRoot) -> String {
        root.to_string()
    }
}

/// A virtual function by its parent and index: its identity as long as the VFs exist, and the
/// same again when they are made anew.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct VfRef {
    /// The physical function it belongs to.
    pub pf: PciAddress,
    /// Its index from 0, as in the `virtfnN` links of the PF (the PCIe VF number less one).
    pub index: u16,
}

impl fmt::Display for VfRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} VF {}", self.pf, self.index)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_both_forms_and_prints_in_full() {
        for (text, full) in [
            ("0000:01:10.0", "0000:01:10.0"),
            ("01:10.0", "0000:01:10.0"),
            ("10000:e1:00.7", "10000:e1:00.7"),
            ("00010000:E1:1f.7", "10000:e1:1f.7"),
        ] {
            assert_eq!(text.parse::<PciAddress>().map(|a| a.to_string()).as_deref(), Ok(full));
        }
    }

    #[test]
    fn rejects_what_is_no_address() {
        for text in [
            "",
            ".",
            ":",
            "01:10",
            "01:20.0",
            "01:10.8",
            "1:10.0",
            "01:1.0",
            "01:10.00",
            "+1:10.0",
            "000:01:10.0",
            "123456789:01:10.0",
            "0000:01:10.0 ",
            "x0:10.0",
            "0:0000:01:10.0",
            "äö:10.0",
        ] {
            assert!(text.parse::<PciAddress>().is_err(), "{text:?} was accepted");
        }
    }

    #[test]
    fn orders_as_lspci_lists() {
        let mut addresses: Vec<PciAddress> = ["10000:00:00.0", "0000:02:00.0", "0000:01:10.2"]
            .iter()
            .map(|text| text.parse().expect("a valid address"))
            .collect();
        addresses.sort();
        let texts: Vec<String> = addresses.iter().map(PciAddress::to_string).collect();
        assert_eq!(texts, ["0000:01:10.2", "0000:02:00.0", "10000:00:00.0"]);
    }
}
