//! Serial numbers: what a device is known by wherever it is put, and whatever it is called there.

use super::capabilities::Capabilities;
use super::config_space::{ConfigFile, ConfigSpace, EXTENDED, SPACE};
use super::pci::PciFunction;
use super::reader::Reader;
use crate::directory::Directory;
use crate::nvme;

/// Device Serial Number (PCIe section 7.9.3): the number in the two double words after its header,
/// low one first.
pub(super) const DEVICE_SERIAL_NUMBER: u16 = 0x0003;
/// Most characters of an NVMe drive's (NVMe base specification, Identify Controller: SN).
const LONGEST: usize = 20;

/// The serial number of a function; `None` where it has none, and of one that sleeps. A drive's is
/// told by its driver, and by nobody without one.
pub fn read(reader: &mut Reader, device: &Directory, function: &PciFunction) -> Option<String> {
    if nvme::is_nvme(function) {
        return of_drive(reader, device);
    }
    let number = match &function.capabilities {
        Some(Capabilities { serial, .. }) => *serial,
        None if sleeps(reader, device) => None,
        // Without privilege it is not shown; that and worse are noted where all of it is read.
        None => device.file("config").ok().and_then(|file| number(&mut ConfigFile::from(file))),
    };
    // All zeros and all ones are numbers that nobody gave.
    number.filter(|number| !matches!(*number, 0 | u64::MAX)).map(show)
}

/// Its driver makes a controller below it; several paths to one drive tell the same number.
fn of_drive(reader: &mut Reader, device: &Directory) -> Option<String> {
    let controllers = device.below("nvme");
    let controllers = reader.accept(controllers)?;
    let mut names = reader.accept(controllers.names());
    names.sort_unstable();
    names.iter().filter(|name| name.starts_with("nvme")).find_map(|name| {
        let controller = controllers.below(name);
        let controller = reader.accept(controller)?;
        let serial = reader.text_in(&controller, "serial")?;
        let serial = serial.trim();
        let printable = |byte: u8| byte.is_ascii_graphic() || byte == b' ';
        let fits = (1..=LONGEST).contains(&serial.len()) && serial.bytes().all(printable);
        fits.then(|| serial.to_owned())
    })
}

/// Reading its configuration space would wake a function that sleeps, and the bridges above it with
/// it (drivers/pci/pci.c, `pci_config_pm_runtime_get`).
fn sleeps(reader: &mut Reader, device: &Directory) -> bool {
    let status = reader.text_in(device, "power/runtime_status");
    let state = reader.text_in(device, "power_state");
    status.is_some_and(|status| status.starts_with("suspend"))
        || state.is_some_and(|state| state.starts_with("D3"))
}

/// Follows the list of extended capabilities to the number, and reads nothing else.
fn number(space: &mut impl ConfigSpace) -> Option<u64> {
    let mut at = EXTENDED;
    // A list that comes back to where it was ends with the turns that a straight one can have.
    for _ in 0..(SPACE - EXTENDED) / 4 {
        let header = space.double(at)?;
        if matches!(header, 0 | u32::MAX) {
            return None;
        }
        if (header & 0xffff) as u16 == DEVICE_SERIAL_NUMBER {
            return space.bytes(at + 4).map(u64::from_le_bytes);
        }
        at = (header >> 20) as usize & !3;
        if at < EXTENDED {
            return None;
        }
    }
    None
}

/// `00-1b-21-ff-ff-12-34-56`, the highest byte first, as other tools write it.
fn show(number: u64) -> String {
    number.to_be_bytes().map(|byte| format!("{byte:02x}")).join("-")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn space(put: &[(usize, u32)]) -> Vec<u8> {
        let mut space = vec![0; SPACE];
        for (at, double) in put {
            space[*at..at + 4].copy_from_slice(&double.to_le_bytes());
        }
        space
    }

    #[test]
    fn the_number_is_found_behind_other_capabilities() {
        let found = |put: &[(usize, u32)]| number(&mut space(put).as_slice()).map(show);
        let dsn = [(0x140, 0x0001_0003), (0x144, 0xff12_3456), (0x148, 0x001b_21ff)];
        let list = [&[(0x100, 0x1401_0001)], &dsn[..]].concat();
        assert_eq!(found(&list).as_deref(), Some("00-1b-21-ff-ff-12-34-56"));
        assert_eq!(found(&[]), None);
        assert_eq!(found(&[(0x100, u32::MAX)]), None);
        assert_eq!(found(&[(0x100, 0x1001_0001)]), None, "a list that bites its tail");
        assert_eq!(found(&[(0x100, 0xffc1_0001), (0xffc, 0x0001_0003)]), None, "over the end");
        assert_eq!(found(&[(0x100, 0x0401_0001)]), None, "back into the header");
        assert_eq!(number(&mut [0; 256].as_slice()), None);
    }
}
