//! What a device is told by: numbers in hexadecimal, addresses, and its serial number.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::document::Value;
use crate::error::{Report, quote};
use crate::fields::Given;
use crate::grammar::Text;
use crate::read::plain_meaning;

/// A PCI vendor or device ID.
pub(crate) const PCI_ID: Text = Text {
    accepted: r#"four hexadecimal digits in quotes, such as "8086""#,
    pattern: "^(0[xX])?[0-9a-fA-F]{4}$",
};
/// A PCI class or its beginning.
pub(crate) const CLASS: Text = Text {
    accepted: r#"2, 4 or 6 hexadecimal digits in quotes, such as "0200" for Ethernet"#,
    pattern: "^(0[xX])?([0-9a-fA-F]{2}){1,3}$",
};
/// A PCI address.
pub(crate) const ADDRESS: Text = Text {
    accepted: "domain:bus:device.function in hexadecimal, such as 0000:01:00.0, or 01:00.0",
    pattern: r"^([0-9a-fA-F]{4,8}:)?[0-9a-fA-F]{2}:[01][0-9a-fA-F]\.[0-7]$",
};
/// A root bus.
pub(crate) const PCI_ROOT: Text = Text {
    accepted: r#"domain:bus in hexadecimal, in quotes, such as "0000:00""#,
    pattern: "^[0-9a-fA-F]{4,8}:[0-9a-fA-F]{2}$",
};
/// An Ethernet address.
pub(crate) const MAC: Text = Text {
    accepted: r#"six bytes in hexadecimal, in quotes, such as "52:54:00:12:34:56""#,
    pattern: "^([0-9a-fA-F]{2}:){5}[0-9a-fA-F]{2}$",
};
/// A serial number: printable ASCII, as drives and the kernel write them.
pub(crate) const SERIAL: Text = Text {
    accepted: "a serial number as `assign show` prints it, in quotes",
    pattern: "^[!-~]([ -~]{0,62}[!-~])?$",
};

/// Whether this is what [`SERIAL`] says.
pub(crate) fn serial(text: &str) -> Option<String> {
    let printable = |c: u8| c.is_ascii_graphic() || c == b' ';
    let ok = (1..=64).contains(&text.len()) && text.bytes().all(printable) && text.trim() == text;
    ok.then(|| text.to_owned())
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

    /// Whether every class that begins with this begins with `other` as well.
    pub(crate) fn is_within(self, other: ClassPrefix) -> bool {
        self.digits >= other.digits
            && self.value >> (4 * u32::from(self.digits - other.digits)) == other.value
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

/// Reads a [`PCI_ID`].
pub(crate) fn pci_id(given: Given<'_>, report: &mut Report<'_>) -> Option<u16> {
    let digits = hex_digits(given, report)?;
    let id = (digits.len() == 4).then(|| hex(digits)).flatten();
    given.or_cannot_be(id.and_then(|id| u16::try_from(id).ok()), digits, report)
}

/// Reads a [`CLASS`].
pub(crate) fn class(given: Given<'_>, report: &mut Report<'_>) -> Option<ClassPrefix> {
    let digits = hex_digits(given, report)?;
    given.or_cannot_be(parse_class(digits), digits, report)
}

/// Hexadecimal text. Plain `8086` is the decimal number 8086 (0x1f96) to YAML and an ID to its
/// writer, so it is refused; plain `10c9` and `0x8086` can only mean one thing.
fn hex_digits<'n>(given: Given<'n>, report: &mut Report<'_>) -> Option<&'n str> {
    if let Value::Scalar { text, plain } = &given.node.value {
        let after_prefix = text.strip_prefix("0x").or_else(|| text.strip_prefix("0X"));
        if let Some(digits) = after_prefix {
            return Some(digits);
        }
        if *plain && plain_meaning(text) == Some("a number") {
            let why = format!(
                "is hexadecimal, but {} reads as a decimal number: write \"{text}\"",
                quote(text)
            );
            return given.wrong(why, report);
        }
    }
    given.text(report)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_class_prefix_matches_by_digits() {
        let class = |text: &str| ClassPrefix::try_from(text.to_owned()).unwrap();
        assert!(class("02").matches(0x02_0000) && class("02").matches(0x02_8000));
        assert!(class("0200").matches(0x02_0001) && !class("0200").matches(0x02_8000));
        assert!(class("020001").matches(0x02_0001) && !class("020000").matches(0x02_0001));
        assert!(ClassPrefix::try_from("2".to_owned()).is_err());
    }
}
