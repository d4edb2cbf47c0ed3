//! Names of things: of ours, of network interfaces, drivers and devices.

use crate::grammar::Text;
use crate::rules::DeviceName;

/// A name of ours: a DNS label (RFC 1123 section 2.1) in lower case.
pub(crate) const NAME: Text = Text {
    accepted: "1 to 63 of a-z, 0-9 and -, beginning and ending with a letter or digit",
    pattern: "^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$",
};
/// A network interface, as the kernel's `dev_valid_name` has it.
pub(crate) const INTERFACE: Text = Text {
    accepted: "the name of a network interface, such as eth0: at most 15 characters, no / : or space",
    pattern: r"^[^/:\s\x00-\x1f\x7f-\x9f]{1,15}$",
};
/// Another name of a network interface.
pub(crate) const ALTNAME: Text = Text {
    accepted: "another name of a network interface (ip link: altname), at most 127 characters",
    pattern: r"^[^/:\s\x00-\x1f\x7f-\x9f]{1,127}$",
};
/// A kernel driver.
pub(crate) const DRIVER: Text = Text {
    accepted: "the name of a kernel driver, such as igb",
    pattern: "^[A-Za-z0-9_-][A-Za-z0-9_.-]{0,62}$",
};
/// A device.
pub(crate) const DEVICE: Text = Text {
    accepted: "a PCI address such as 0000:01:00.0, or the name of a network interface such as eth0",
    pattern: concat!(
        r"^(([0-9a-fA-F]{4,8}:)?[0-9a-fA-F]{2}:[01][0-9a-fA-F]\.[0-7]",
        r"|[^/:\s\x00-\x1f\x7f-\x9f]{1,127})$"
    ),
};

/// Longest name of an interface in bytes (`IFNAMSIZ` less its NUL).
const LONGEST_NAME: usize = 15;
/// Longest other name of an interface in bytes (`ALTIFNAMSIZ` less its NUL).
const LONGEST_ALTNAME: usize = 127;

/// What [`NAME`] says.
pub(crate) fn name(text: &str) -> Option<String> {
    let inner = |c: u8| c.is_ascii_lowercase() || c.is_ascii_digit() || c == b'-';
    let ok = (1..=63).contains(&text.len())
        && text.bytes().all(inner)
        && !text.starts_with('-')
        && !text.ends_with('-');
    ok.then(|| text.to_owned())
}

/// What [`INTERFACE`] says.
pub(crate) fn interface(text: &str) -> Option<String> {
    netdev(text, LONGEST_NAME)
}

/// What [`ALTNAME`] says.
pub(crate) fn altname(text: &str) -> Option<String> {
    netdev(text, LONGEST_ALTNAME)
}

fn netdev(name: &str, longest: usize) -> Option<String> {
    let bad = |c: char| matches!(c, '/' | ':') || c.is_whitespace() || c.is_control();
    let ok =
        (1..=longest).contains(&name.len()) && !name.contains(bad) && name != "." && name != "..";
    ok.then(|| name.to_owned())
}

/// What [`DRIVER`] says.
pub(crate) fn driver(text: &str) -> Option<String> {
    let ok = (1..=63).contains(&text.len())
        && text.bytes().all(|c| c.is_ascii_alphanumeric() || matches!(c, b'-' | b'_' | b'.'))
        && !text.starts_with('.');
    ok.then(|| text.to_owned())
}

/// What [`DEVICE`] says.
pub(crate) fn device(text: &str) -> Option<DeviceName> {
    match text.parse() {
        Ok(address) => Some(DeviceName::Address(address)),
        Err(_) => altname(text).map(DeviceName::Interface),
    }
}
