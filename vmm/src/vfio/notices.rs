//! What the host says of a device while a guest has it: that it met an uncorrectable error, and that
//! the host wants it back. Both are told to the launcher, which knows what is to happen then.
//!
//! The kernel signals an event for each (Linux drivers/vfio/pci/vfio_pci_core.c: `error_detected`,
//! and `request`, again every few seconds as long as somebody waits for the device).

use std::sync::Arc;

use vfio_bindings::bindings::vfio::{VFIO_PCI_ERR_IRQ_INDEX, VFIO_PCI_REQ_IRQ_INDEX};
use vmm_sys_util::eventfd::{EFD_CLOEXEC, EFD_NONBLOCK, EventFd};

use super::device::VfioFunction;
use crate::descriptor::borrow;
use crate::error::{Result, Trying};
use crate::event::Reporter;
use crate::machine::event_loop::{EventLoop, Ready, Trigger, Watch};
use crate::spec::GuestEvent;

/// The event that is reported of a device at this address.
type Tell = fn(String) -> GuestEvent;

/// What is listened to.
const KINDS: [(u32, Tell); 2] = [
    (VFIO_PCI_ERR_IRQ_INDEX, |device| GuestEvent::DeviceError { device }),
    (VFIO_PCI_REQ_IRQ_INDEX, |device| GuestEvent::Wanted { device }),
];

/// The watch of one device.
pub struct Notices {
    heard: Vec<(Arc<Heard>, Watch)>,
}

struct Heard {
    event: EventFd,
    device: String,
    tell: Tell,
    reporter: Arc<Reporter>,
}

impl Ready for Heard {
    fn ready(&self, _token: u32) {
        // Several at once are told once.
        let _ = self.event.read();
        self.reporter.send(&(self.tell)(self.device.clone()));
    }
}

impl Notices {
    /// Listens to all that `function`'s kernel driver can tell.
    ///
    /// # Errors
    /// Where an event cannot be made or watched.
    pub fn listen(
        function: &VfioFunction,
        events: &EventLoop,
        reporter: &Arc<Reporter>,
    ) -> Result<Notices> {
        let mut notices = Notices { heard: Vec::new() };
        for (index, tell) in KINDS {
            let event = EventFd::new(EFD_CLOEXEC | EFD_NONBLOCK).system("create an event")?;
            // Conventional PCI devices have no error interrupt, other drivers may have neither.
            if !function.notify(index, &event) {
                continue;
            }
            let device = function.address().to_owned();
            let heard = Arc::new(Heard { event, device, tell, reporter: reporter.clone() });
            match events.add(borrow(&heard.event), Trigger::Level, heard.clone(), 0) {
                Ok(watch) => notices.heard.push((heard, watch)),
                Err(error) => {
                    notices.end(events);
                    return Err(error);
                }
            }
        }
        Ok(notices)
    }

    /// Listens no more. The kernel lets go of the events when the device is closed.
    pub fn end(self, events: &EventLoop) {
        for (heard, watch) in self.heard {
            events.remove(borrow(&heard.event), watch);
        }
    }
}
