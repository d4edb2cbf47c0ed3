//! The registers by which the guest's ACPI code learns that PCI devices came or are to go, and says
//! that it let one go. What [`crate::boot::acpi`] writes into the tables is the only user.
//!
//! ```text
//! offset 0   slots with a new device, a bit each; reading clears them
//! offset 4   slots whose device is wanted back, a bit each; reading clears them
//! offset 8   writing a slot's bit: the guest has let its device go
//! ```
//! A change is announced by the interrupt of the generic event device (ACPI 6.5, 5.6.9).

use std::sync::{Arc, Mutex};

use vmm_sys_util::eventfd::EventFd;

use crate::bus::Access;
use crate::error::{Result, Trying};
use crate::pci::root::SLOTS;

/// First I/O port.
pub const PORT: u16 = 0x610;
/// How many there are.
pub const PORTS: u16 = 12;
/// The interrupt of the generic event device, a pin of the I/O APIC.
pub const PIN: u32 = 5;

const COME: u64 = 0;
const WANTED: u64 = 4;
const EJECT: u64 = 8;

/// Who takes devices out of slots that the guest has emptied.
pub trait Eject: Send + Sync {
    /// The guest uses the device in `slot` no more. Called by a vCPU, which waits.
    fn eject(&self, slot: usize);
}

/// The registers.
pub struct Controller {
    pending: Mutex<Pending>,
    line: EventFd,
    eject: Mutex<Option<Arc<dyn Eject>>>,
}

#[derive(Debug, Default, Clone, Copy)]
struct Pending {
    come: u32,
    wanted: u32,
}

impl Controller {
    /// With `line` as the event device's interrupt.
    pub fn new(line: EventFd) -> Self {
        Controller { pending: Mutex::default(), line, eject: Mutex::default() }
    }

    /// Has `eject` told of slots that the guest empties, from now on.
    pub fn serve(&self, eject: Arc<dyn Eject>) {
        *crate::lock(&self.eject) = Some(eject);
    }

    /// Tells the guest that there is a new device in `slot`.
    ///
    /// # Errors
    /// The kernel's.
    pub fn announce(&self, slot: usize) -> Result<()> {
        let bit = bit(slot);
        let mut pending = crate::lock(&self.pending);
        pending.come |= bit;
        pending.wanted &= !bit;
        drop(pending);
        self.line.write(1).system("tell the guest of a device")
    }

    /// Asks the guest to let the device in `slot` go.
    ///
    /// # Errors
    /// The kernel's.
    pub fn ask(&self, slot: usize) -> Result<()> {
        crate::lock(&self.pending).wanted |= bit(slot);
        self.line.write(1).system("ask the guest for a device")
    }
}

fn bit(slot: usize) -> u32 {
    1u32.checked_shl(slot as u32).unwrap_or(0)
}

impl Access for Controller {
    fn read(&self, offset: u64, data: &mut [u8]) {
        let mut pending = crate::lock(&self.pending);
        let value = match (offset, data.len()) {
            (COME, 4) => std::mem::take(&mut pending.come),
            (WANTED, 4) => std::mem::take(&mut pending.wanted),
            _ => 0,
        };
        for (byte, value) in data.iter_mut().zip(value.to_le_bytes()) {
            *byte = value;
        }
    }

    fn write(&self, offset: u64, data: &[u8]) {
        let (EJECT, Ok(bytes)) = (offset, data.try_into()) else { return };
        let slots = u32::from_le_bytes(bytes);
        let Some(eject) = crate::lock(&self.eject).clone() else { return };
        for slot in (1..SLOTS).filter(|slot| slots & bit(*slot) != 0) {
            eject.eject(slot);
        }
    }
}

#[cfg(test)]
mod tests {
    use vmm_sys_util::eventfd::EFD_NONBLOCK;

    use super::*;

    #[derive(Default)]
    struct Taken(Mutex<Vec<usize>>);

    impl Eject for Taken {
        fn eject(&self, slot: usize) {
            crate::lock(&self.0).push(slot);
        }
    }

    fn read(controller: &Controller, offset: u64) -> u32 {
        let mut data = [0; 4];
        controller.read(offset, &mut data);
        u32::from_le_bytes(data)
    }

    #[test]
    fn the_guest_learns_once_of_what_comes_and_is_to_go() {
        let line = EventFd::new(EFD_NONBLOCK).unwrap();
        let controller = Controller::new(line.try_clone().unwrap());
        controller.announce(3).unwrap();
        controller.announce(31).unwrap();
        controller.ask(4).unwrap();
        assert_eq!(line.read().unwrap(), 3, "it is interrupted");
        assert_eq!((read(&controller, COME), read(&controller, COME)), (1 << 3 | 1 << 31, 0));
        assert_eq!((read(&controller, WANTED), read(&controller, WANTED)), (1 << 4, 0));
        // Asked for, and then replaced before the guest has looked: the new one may stay.
        controller.ask(5).unwrap();
        controller.announce(5).unwrap();
        assert_eq!((read(&controller, WANTED), read(&controller, COME)), (0, 1 << 5));
    }

    #[test]
    fn only_whole_words_at_the_right_place_eject_and_never_the_host_bridge() {
        let controller = Controller::new(EventFd::new(0).unwrap());
        controller.write(EJECT, &u32::MAX.to_le_bytes());
        let taken = Arc::new(Taken::default());
        controller.serve(taken.clone());
        controller.write(EJECT, &[0xff]);
        controller.write(COME, &u32::MAX.to_le_bytes());
        controller.write(EJECT, &(1 << 7 | 1u32).to_le_bytes());
        assert_eq!(*crate::lock(&taken.0), [7]);
        let mut odd = [0xff; 2];
        controller.read(COME + 1, &mut odd);
        assert_eq!(odd, [0, 0]);
    }
}
