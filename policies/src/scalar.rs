//! Values written as text: sizes, hexadecimal identifiers, ranges of indexes.

use std::fmt;

use serde::{Deserialize, Serialize};
use sriov::{MacAddress, PciAddress, PciRoot};

use crate::document::{Node, Value};
use crate::error::{Report, quote};
use crate::read::{plain_meaning, text};
use crate::rules::DeviceName;

/// VF indexes of one PF, as ranges that are sorted and do not touch.
///
/// Printed and stored in the form it is written in: `0-3`, `0,2-3`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct VfIndexes {
    ranges: Vec<(u16, u16)>,
}

/// How `use` is written, for errors.
pub(crate) const INDEXES_FORM: &str = r#"indexes and ranges such as "0", "0-3" or "0,2-3""#;

impl VfIndexes {
    /// The indexes `0..count`. `count` must not be 0; a count of 0 is taken as 1.
    pub fn first(count: u16) -> VfIndexes {
        VfIndexes { ranges: vec![(0, count.saturating_sub(1))] }
    }

    /// The indexes in rising order.
    pub fn iter(&self) -> impl Iterator<Item = u16> + '_ {
        self.ranges.iter().flat_map(|(low, high)| *low..=*high)
    }

    /// Whether `index` is among them.
    pub fn contains(&self, index: u16) -> bool {
        self.ranges.iter().any(|(low, high)| (*low..=*high).contains(&index))
    }

    /// The greatest index.
    pub fn last(&self) -> u16 {
        self.ranges.last().map_or(0, |(_, high)| *high)
    }

    /// The lowest index that both have.
    pub fn overlap(&self, other: &VfIndexes) -> Option<u16> {
        let both = |a: &(u16, u16), b: &(u16, u16)| {
            let low = a.0.max(b.0);
            (low <= a.1.min(b.1)).then_some(low)
        };
        self.ranges.iter().flat_map(|a| other.ranges.iter().filter_map(move |b| both(a, b))).min()
    }

    /// Reads `0,2-3`. Spaces around commas are allowed, an index given twice is not.
    pub(crate) fn parse(text: &str) -> Result<VfIndexes, String> {
        let index = |text: &str| -> Result<u16, String> {
            let digits = !text.is_empty() && text.bytes().all(|c| c.is_ascii_digit());
            let value = digits.then(|| text.parse().ok()).flatten();
            value.ok_or_else(|| format!("{} is no VF index", quote(text)))
        };
        let mut ranges = Vec::new();
        for part in text.split(',').map(str::trim) {
            let (low, high) = match part.split_once('-') {
                Some((low, high)) => (index(low)?, index(high)?),
                None => (index(part)?, index(part)?),
            };
            if low > high {
                return Err(format!("the range {} runs backwards", quote(part)));
            }
            ranges.push((low, high));
        }
        ranges.sort_unstable();
        let mut merged: Vec<(u16, u16)> = Vec::new();
        for (low, high) in ranges {
            match merged.last_mut() {
                Some(last) if low <= last.1 => return Err(format!("VF {low} is named twice")),
                // `last.1 < low`, so adding 1 cannot overflow.
                Some(last) if last.1 + 1 == low => last.1 = high,
                _ => merged.push((low, high)),
            }
        }
        Ok(VfIndexes { ranges: merged })
    }
}

impl fmt::Display for VfIndexes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (position, (low, high)) in self.ranges.iter().enumerate() {
            let comma = if position > 0 { "," } else { "" };
            match low == high {
                true => write!(f, "{comma}{low}")?,
                false => write!(f, "{comma}{low}-{high}")?,
            }
        }
        Ok(())
    }
}

impl From<VfIndexes> for String {
    fn from(indexes: VfIndexes) -> String {
        indexes.to_string()
    }
}

impl TryFrom<String> for VfIndexes {
    type Error = String;

    fn try_from(text: String) -> Result<VfIndexes, String> {
        VfIndexes::parse(&text)
    }
}

/// `use`. A single index may stand without quotes.
pub(crate) fn indexes(node: &Node, report: &mut Report<'_>) -> Option<VfIndexes> {
    let Value::Scalar { text, .. } = &node.value else {
        let message = format!("`use` is text, not {}", node.describe());
        report.error(node.span, message, Some(INDEXES_FORM));
        return None;
    };
    match VfIndexes::parse(text) {
        Ok(indexes) => Some(indexes),
        Err(why) => {
            report.error(node.span, format!("`use`: {why}"), Some(INDEXES_FORM));
            None
        }
    }
}

/// The leading part of a PCI class code: base class, optionally subclass, optionally programming
/// interface (2, 4 or 6 hexadecimal digits). `02` is any network controller, `0200` Ethernet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct ClassPrefix {
    value: u32,
    digits: u8,
}

impl ClassPrefix {
    /// Whether a 24-bit class code begins with this.
    pub fn matches(self, class: u32) -> bool {
        (class & 0xff_ffff) >> (24 - 4 * u32::from(self.digits)) == self.value
    }
}

impl fmt::Display for ClassPrefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:0width$x}", self.value, width = usize::from(self.digits))
    }
}

impl From<ClassPrefix> for String {
    fn from(class: ClassPrefix) -> String {
        class.to_string()
    }
}

impl TryFrom<String> for ClassPrefix {
    type Error = String;

    fn try_from(text: String) -> Result<ClassPrefix, String> {
        parse_class(&text).ok_or_else(|| format!("{} is no PCI class", quote(&text)))
    }
}

fn parse_class(digits: &str) -> Option<ClassPrefix> {
    if !matches!(digits.len(), 2 | 4 | 6) {
        return None;
    }
    // At most 6 digits.
    Some(ClassPrefix { value: hex(digits)?, digits: digits.len() as u8 })
}

fn hex(digits: &str) -> Option<u32> {
    let all_hex = digits.bytes().all(|c| c.is_ascii_hexdigit());
    all_hex.then(|| u32::from_str_radix(digits, 16).ok()).flatten()
}

/// A PCI vendor or device ID: four hexadecimal digits, `0x` allowed before them.
pub(crate) fn pci_id(node: &Node, what: &str, report: &mut Report<'_>) -> Option<u16> {
    let form = r#"four hexadecimal digits in quotes, such as "8086""#;
    let digits = hex_digits(node, what, form, report)?;
    let id = (digits.len() == 4).then(|| hex(digits)).flatten();
    if id.is_none() {
        report.error(node.span, format!("{what} cannot be {}", quote(digits)), Some(form));
    }
    id.and_then(|id| u16::try_from(id).ok())
}

/// A PCI class or its beginning.
pub(crate) fn class(node: &Node, report: &mut Report<'_>) -> Option<ClassPrefix> {
    let form = r#"2, 4 or 6 hexadecimal digits in quotes, such as "0200" for Ethernet"#;
    let digits = hex_digits(node, "`class`", form, report)?;
    let class = parse_class(digits);
    if class.is_none() {
        report.error(node.span, format!("`class` cannot be {}", quote(digits)), Some(form));
    }
    class
}

/// Hexadecimal text. Plain `8086` is the decimal number 8086 (0x1f96) to YAML and an ID to its
/// writer, so it is refused; plain `10c9` and `0x8086` can only mean one thing.
fn hex_digits<'n>(
    node: &'n Node,
    what: &str,
    form: &str,
    report: &mut Report<'_>,
) -> Option<&'n str> {
    if let Value::Scalar { text, plain } = &node.value {
        let after_prefix = text.strip_prefix("0x").or_else(|| text.strip_prefix("0X"));
        if let Some(digits) = after_prefix {
            return Some(digits);
        }
        if *plain && plain_meaning(text) == Some("a number") {
            let message = format!(
                "{what} is hexadecimal, but {} reads as a decimal number: write \"{text}\"",
                quote(text)
            );
            report.error(node.span, message, Some(form));
            return None;
        }
    }
    text(node, what, form, report)
}

/// An amount of memory with its unit, in bytes.
pub(crate) fn size(node: &Node, what: &str, report: &mut Report<'_>) -> Option<u64> {
    let form = "a whole number with MiB or GiB, such as 512MiB or 2GiB";
    let Value::Scalar { text, .. } = &node.value else {
        report.error(node.span, format!("{what} is a size, not {}", node.describe()), Some(form));
        return None;
    };
    let split = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (digits, unit) = text.split_at(split);
    let shift = match unit.trim_start() {
        "MiB" => 20,
        "GiB" => 30,
        "" if !digits.is_empty() => {
            let message = format!("{what}: {} has no unit", quote(text));
            report.error(node.span, message, Some(form));
            return None;
        }
        _ => {
            report.error(node.span, format!("{what} cannot be {}", quote(text)), Some(form));
            return None;
        }
    };
    let bytes = digits.parse::<u64>().ok().filter(|_| !digits.starts_with('0') || digits == "0");
    let bytes = bytes.and_then(|count| count.checked_mul(1 << shift));
    if bytes.is_none() {
        report.error(node.span, format!("{what} cannot be {}", quote(text)), Some(form));
    }
    bytes
}

/// A rate in Mbit/s: a plain number, or one with its unit.
pub(crate) fn rate(node: &Node, what: &str, report: &mut Report<'_>) -> Option<u32> {
    let form = "a whole number of Mbit/s, or one with Mbit or Gbit, such as 500Mbit or 1Gbit";
    let Value::Scalar { text, plain } = &node.value else {
        report.error(node.span, format!("{what} is a rate, not {}", node.describe()), Some(form));
        return None;
    };
    let split = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (digits, unit) = text.split_at(split);
    let factor = match unit.trim_start() {
        "" if *plain && !digits.is_empty() => Some(1),
        "Mbit" | "Mbit/s" => Some(1),
        "Gbit" | "Gbit/s" => Some(1000),
        _ => None,
    };
    let number = digits.parse::<u32>().ok().filter(|_| !digits.starts_with('0') || digits == "0");
    let rate = number.zip(factor).and_then(|(number, factor)| number.checked_mul(factor));
    if rate.is_none() {
        report.error(node.span, format!("{what} cannot be {}", quote(text)), Some(form));
    }
    rate
}

/// The speed of a link in MT/s, written in GT/s as the PCI Express specification does.
pub(crate) fn speed(node: &Node, report: &mut Report<'_>) -> Option<u32> {
    let form = "a speed such as 2.5GT/s, 8GT/s or 16GT/s";
    let text = text(node, "`min`", form, report)?;
    let parse = || {
        let (whole, tenths) = {
            let number = text.strip_suffix("GT/s")?.trim_end();
            number.split_once('.').unwrap_or((number, "0"))
        };
        let digits = |part: &str| !part.is_empty() && part.bytes().all(|c| c.is_ascii_digit());
        let (1..=3, 1, true, true) = (whole.len(), tenths.len(), digits(whole), digits(tenths))
        else {
            return None;
        };
        let speed = whole.parse::<u32>().ok()? * 1000 + tenths.parse::<u32>().ok()? * 100;
        (speed > 0).then_some(speed)
    };
    let speed = parse();
    if speed.is_none() {
        report.error(node.span, format!("`min` cannot be {}", quote(text)), Some(form));
    }
    speed
}

/// A speed in MT/s as [`speed`] reads it: `2.5GT/s`.
pub(crate) fn show_speed(speed: u32) -> String {
    match (speed / 1000, speed % 1000 / 100) {
        (whole, 0) => format!("{whole}GT/s"),
        (whole, tenths) => format!("{whole}.{tenths}GT/s"),
    }
}

/// A PCI address.
pub(crate) fn address(node: &Node, what: &str, report: &mut Report<'_>) -> Option<PciAddress> {
    let form = "domain:bus:device.function in hexadecimal, such as 0000:01:00.0, or 01:00.0";
    parsed(node, what, form, report)
}

/// A root bus.
pub(crate) fn pci_root(node: &Node, report: &mut Report<'_>) -> Option<PciRoot> {
    let form = r#"domain:bus in hexadecimal, in quotes, such as "0000:00""#;
    parsed(node, "`pciRoot`", form, report)
}

/// An Ethernet address.
pub(crate) fn mac(node: &Node, report: &mut Report<'_>) -> Option<MacAddress> {
    let form = r#"six bytes in hexadecimal, in quotes, such as "52:54:00:12:34:56""#;
    parsed(node, "`permanentMac`", form, report)
}

fn parsed<T: std::str::FromStr>(
    node: &Node,
    what: &str,
    form: &str,
    report: &mut Report<'_>,
) -> Option<T> {
    let text = text(node, what, form, report)?;
    let value = text.parse().ok();
    if value.is_none() {
        report.error(node.span, format!("{what} cannot be {}", quote(text)), Some(form));
    }
    value
}

/// A serial number: printable ASCII, as drives and the kernel write them.
pub(crate) fn serial(node: &Node, report: &mut Report<'_>) -> Option<String> {
    let form = "a serial number as `assign show` prints it, in quotes";
    let text = text(node, "`serial`", form, report)?;
    let printable = |c: u8| c.is_ascii_graphic() || c == b' ';
    let ok = (1..=64).contains(&text.len()) && text.bytes().all(printable) && text.trim() == text;
    if !ok {
        report.error(node.span, format!("`serial` cannot be {}", quote(text)), Some(form));
    }
    ok.then(|| text.to_owned())
}

/// A device by its address or the name of its interface.
pub(crate) fn device(node: &Node, report: &mut Report<'_>) -> Option<DeviceName> {
    let form =
        "a PCI address such as 0000:01:00.0, or the name of a network interface such as eth0";
    let text = text(node, "`device`", form, report)?;
    let device = device_name(text);
    if device.is_none() {
        report.error(node.span, format!("`device` cannot be {}", quote(text)), Some(form));
    }
    device
}

pub(crate) fn device_name(text: &str) -> Option<DeviceName> {
    match text.parse() {
        Ok(address) => Some(DeviceName::Address(address)),
        Err(_) => {
            is_netdev_name(text, LONGEST_ALTNAME).then(|| DeviceName::Interface(text.to_owned()))
        }
    }
}

/// Longest name of an interface in bytes (`IFNAMSIZ` less its NUL).
const LONGEST_NAME: usize = 15;
/// Longest other name of an interface in bytes (`ALTIFNAMSIZ` less its NUL).
const LONGEST_ALTNAME: usize = 127;

/// Whether the kernel takes this for the name of an interface (`dev_valid_name`).
fn is_netdev_name(name: &str, longest: usize) -> bool {
    let bad = |c: char| matches!(c, '/' | ':') || c.is_whitespace() || c.is_control();
    (1..=longest).contains(&name.len()) && !name.contains(bad) && name != "." && name != ".."
}

/// Another name of a network interface.
pub(crate) fn altname(node: &Node, report: &mut Report<'_>) -> Option<String> {
    let form = "another name of a network interface (ip link: altname), at most 127 characters";
    let name = text(node, "`altname`", form, report)?;
    let ok = is_netdev_name(name, LONGEST_ALTNAME);
    if !ok {
        report.error(node.span, format!("`altname` cannot be {}", quote(name)), Some(form));
    }
    ok.then(|| name.to_owned())
}

/// A name of a network interface: at most 15 bytes, as the kernel's `dev_valid_name` accepts it.
pub(crate) fn interface(node: &Node, what: &str, report: &mut Report<'_>) -> Option<String> {
    let form =
        "the name of a network interface, such as eth0: at most 15 characters, no / : or space";
    let name = text(node, what, form, report)?;
    let ok = is_netdev_name(name, LONGEST_NAME);
    if !ok {
        report.error(node.span, format!("{what} cannot be {}", quote(name)), Some(form));
    }
    ok.then(|| name.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn indexes_are_read_sorted_and_joined() {
        let read = |text| VfIndexes::parse(text).map(|indexes| indexes.to_string());
        assert_eq!(read("0-3").as_deref(), Ok("0-3"));
        assert_eq!(read("2-3, 0").as_deref(), Ok("0,2-3"));
        assert_eq!(read("1,0,2").as_deref(), Ok("0-2"));
        assert_eq!(read("65535").as_deref(), Ok("65535"));
        for wrong in ["", "-", "0-", "-1", "3-1", "0,0", "0-3,2", "65536", "a", "0--1", "1,", "+1"]
        {
            assert!(VfIndexes::parse(wrong).is_err(), "{wrong:?} was accepted");
        }
    }

    #[test]
    fn overlap_finds_the_lowest_common_index() {
        let read = |text| VfIndexes::parse(text).unwrap();
        assert_eq!(read("0-3").overlap(&read("2-5")), Some(2));
        assert_eq!(read("0,2").overlap(&read("1,3")), None);
    }

    #[test]
    fn a_class_prefix_matches_by_digits() {
        let class = |text: &str| ClassPrefix::try_from(text.to_owned()).unwrap();
        assert!(class("02").matches(0x02_0000) && class("02").matches(0x02_8000));
        assert!(class("0200").matches(0x02_0001) && !class("0200").matches(0x02_8000));
        assert!(class("020001").matches(0x02_0001) && !class("020000").matches(0x02_0001));
        assert!(ClassPrefix::try_from("2".to_owned()).is_err());
    }
}
