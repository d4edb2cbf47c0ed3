//! Devices that can be told to move data: what is known of each kind.

use sriov::PciFunction;
use vmm::vfio::probe::Probe;

use super::edu::Edu;
use super::nvme::Nvme;

/// Bytes of a page; all of it is x86-64.
pub const PAGE: u64 = 4096;
/// Pages from [`Engine`]'s window on that an engine may map for itself.
pub const WINDOW_PAGES: u64 = 8;

/// A device's DMA engine. What goes wrong is told in words.
pub trait Engine {
    /// Makes the device write to an I/O address, within the page that begins there, and waits until it
    /// has ended its try. What it writes is no page's content.
    fn write(&mut self, to: u64) -> Result<(), String>;

    /// Makes the device read from an I/O address, and returns what it got, which is not only zeros by
    /// itself; `None` where it cannot be told to.
    fn read(&mut self, from: u64) -> Result<Option<Vec<u8>>, String>;

    /// Leaves in the device nothing of what was done with it.
    fn restore(&mut self) -> Result<(), String>;
}

/// A kind of device that can be told to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// QEMU's device for teaching.
    Edu,
    /// An NVMe controller, or a VF of one.
    Nvme,
}

/// All of them, for people.
pub const SUPPORTED: &str = "NVMe controllers and their VFs, and QEMU's edu";

impl Kind {
    /// What kind a device is; `None` where it is none of these.
    pub fn of(function: &PciFunction) -> Option<Kind> {
        match (function.vendor, function.device, function.class) {
            (0x1234, 0x11e8, _) => Some(Kind::Edu),
            // NVM Express, section 3.1 of its PCIe transport: I/O controllers.
            (_, _, 0x01_0802) => Some(Kind::Nvme),
            _ => None,
        }
    }

    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Kind::Edu => "edu",
            Kind::Nvme => "nvme",
        }
    }

    /// Takes the device, which answers at its registers. From I/O address `window` on, it may map
    /// [`WINDOW_PAGES`] for itself.
    pub fn start(self, probe: &mut Probe, window: u64) -> Result<Box<dyn Engine>, String> {
        Ok(match self {
            Kind::Edu => Box::new(Edu::start(probe, window)?),
            Kind::Nvme => Box::new(Nvme::start(probe, window)?),
        })
    }
}

#[cfg(test)]
mod tests {
    use sriov::PciAddress;

    use super::*;

    #[test]
    fn devices_are_known_by_their_ids_or_their_class() {
        let address = PciAddress::new(0, 1, 0, 0).expect("an address");
        let kind = |vendor, device, class| {
            let function = PciFunction { vendor, device, class, ..PciFunction::new(address) };
            Kind::of(&function)
        };
        assert_eq!(kind(0x1234, 0x11e8, 0x00_ff00), Some(Kind::Edu));
        assert_eq!(kind(0x144d, 0xa80a, 0x01_0802), Some(Kind::Nvme));
        // An administrative controller, and a network card.
        assert_eq!(kind(0x144d, 0xa80a, 0x01_0803), None);
        assert_eq!(kind(0x8086, 0x10ca, 0x02_0000), None);
    }
}
