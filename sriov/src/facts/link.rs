//! The link of a PCI Express function: how fast it is, and how fast it could be.

use serde::{Deserialize, Serialize};

use super::capabilities::Pcie;
use super::reader::Reader;
use crate::directory::Directory;

/// A link. A function within the root complex, and a virtual function, have none of their own.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Link {
    /// Transfers per second and lane now, in MT/s (2500 is 2.5 GT/s); `None` where it is down or
    /// not known.
    pub speed: Option<u32>,
    /// Lanes now; `None` where it is down or not known.
    pub width: Option<u8>,
    /// Most transfers per second and lane, in MT/s.
    pub max_speed: Option<u32>,
    /// Most lanes.
    pub max_width: Option<u8>,
}

impl Link {
    /// Whether it is slower or narrower than the function could have it.
    pub fn is_reduced(&self) -> bool {
        let less = |now, most| matches!((now, most), (Some(now), Some(most)) if now < most);
        less(self.speed, self.max_speed)
            || less(self.width.map(u32::from), self.max_width.map(u32::from))
    }
}

impl Link {
    /// The link as the function itself has it; `None` where it has none of its own.
    pub fn of(pcie: &Pcie) -> Option<Link> {
        let lanes = |lanes: u8| Some(lanes).filter(|lanes| (1..=32).contains(lanes));
        let link = Link {
            speed: pcie.speed.filter(|_| pcie.width > 0),
            width: lanes(pcie.width),
            max_speed: pcie.max_speed,
            max_width: lanes(pcie.max_width),
        };
        (link != Link::default()).then_some(link)
    }
}

/// The link as the kernel shows it, for whom the function does not tell; `None` where it shows none.
pub fn read(reader: &mut Reader, device: &Directory) -> Option<Link> {
    // Conventional PCI has none of the four.
    if !device.has("max_link_speed") {
        return None;
    }
    let mut speed = |name| {
        let speed = |text: &str| Some(megatransfers(text));
        reader.value_in(device, name, "a speed", speed).flatten()
    };
    let (now, most) = (speed("current_link_speed"), speed("max_link_speed"));
    let mut width = |name| {
        let lanes = reader.number_in::<u8>(device, name);
        // 255 is the kernel's word for "not known" (PCIE_LNK_WIDTH_UNKNOWN).
        lanes.filter(|lanes| (1..=32).contains(lanes))
    };
    let link = Link {
        speed: now,
        max_speed: most,
        width: width("current_link_width"),
        max_width: width("max_link_width"),
    };
    (link != Link::default()).then_some(link)
}

/// What its speed could be, and nothing of how it is now. The kernel does not wake a device for it.
pub fn possible(reader: &mut Reader, device: &Directory) -> Option<Link> {
    let speed = |text: &str| Some(megatransfers(text));
    let max_speed = reader.value_in(device, "max_link_speed", "a speed", speed).flatten()?;
    Some(Link { max_speed: Some(max_speed), ..Link::default() })
}

/// `2.5 GT/s PCIe`, and `8 GT/s` before Linux 5.7; anything else is the kernel's "Unknown".
fn megatransfers(text: &str) -> Option<u32> {
    let (number, unit) = text.split_once(' ')?;
    if !unit.starts_with("GT/s") {
        return None;
    }
    let (whole, tenths) = number.split_once('.').unwrap_or((number, "0"));
    let (whole, tenths) = (whole.parse::<u32>().ok()?, tenths.parse::<u32>().ok()?);
    (whole < 1000 && tenths < 10).then(|| whole * 1000 + tenths * 100)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn speeds_of_all_kernels_and_nothing_else() {
        for (text, speed) in [
            ("2.5 GT/s PCIe", Some(2500)),
            ("8.0 GT/s PCIe", Some(8000)),
            ("8 GT/s", Some(8000)),
            ("64.0 GT/s PCIe", Some(64_000)),
            ("Unknown speed", None),
            ("Unknown", None),
            ("", None),
            ("4294967295 GT/s", None),
            ("2.55 GT/s", None),
            ("66 MHz PCI", None),
        ] {
            assert_eq!(megatransfers(text), speed, "{text:?}");
        }
    }

    #[test]
    fn narrower_or_slower_than_possible_is_reduced() {
        let full =
            Link { speed: Some(8000), width: Some(8), max_speed: Some(8000), max_width: Some(8) };
        assert!(!full.is_reduced() && !Link::default().is_reduced());
        assert!(Link { width: Some(4), ..full.clone() }.is_reduced());
        assert!(Link { speed: Some(2500), ..full }.is_reduced());
    }
}
