//! Power off and reset, by the registers that the ACPI tables announce (ACPI 6.5, 4.8.3.7 and
//! 4.8.3.6), and by the keyboard controller's reset line for kernels told to use that. The power
//! button is a register of our own, which only the tables' code reads, on the interrupt of the generic
//! event device.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use vmm_sys_util::eventfd::EventFd;

use crate::bus::Access;
use crate::error::{Result, Trying};
use crate::spec::StopReason;

/// First I/O port of the power registers.
pub const PORT: u16 = 0x600;
/// How many there are.
pub const PORTS: u16 = 4;
/// Offset of the sleep control register: writing type 5 with the enable bit powers off.
pub const SLEEP_CONTROL: u16 = 0;
/// Offset of the sleep status register.
pub const SLEEP_STATUS: u16 = 1;
/// Offset of the reset register.
pub const RESET: u16 = 2;
/// Offset of the power button: reads 1 once after it was pressed.
pub const BUTTON: u16 = 3;
/// What a reset writes there.
pub const RESET_VALUE: u8 = 1;
/// The sleep type that the DSDT gives for S5.
pub const SLEEP_TYPE_S5: u8 = 5;

/// The keyboard controller's command port, of which only the reset command exists.
pub const KEYBOARD_PORT: u16 = 0x64;
const KEYBOARD_RESET: u8 = 0xfe;
const SLEEP_ENABLE: u8 = 1 << 5;

/// Where the first reason to stop is kept, and the event that tells the main thread of it.
pub struct Stop {
    reason: Mutex<Option<StopReason>>,
    event: EventFd,
}

impl Stop {
    /// With `event`, which is signalled once there is a reason.
    pub fn new(event: EventFd) -> Self {
        Stop { reason: Mutex::new(None), event }
    }

    /// Stops the machine. Only the first reason counts.
    pub fn request(&self, reason: StopReason) {
        crate::lock(&self.reason).get_or_insert(reason);
        // A full counter means that the event is signalled already.
        let _ = self.event.write(1);
    }

    /// The reason, once there is one.
    pub fn reason(&self) -> Option<StopReason> {
        crate::lock(&self.reason).clone()
    }

    /// Readable once there is a reason.
    pub fn event(&self) -> &EventFd {
        &self.event
    }
}

/// The registers at [`PORT`].
pub struct Power {
    stop: Arc<Stop>,
    pressed: AtomicBool,
    line: EventFd,
}

impl Power {
    /// Registers that stop the machine, with `line` as the event device's interrupt.
    pub fn new(stop: Arc<Stop>, line: EventFd) -> Self {
        Power { stop, pressed: AtomicBool::new(false), line }
    }

    /// Presses the power button: what that means is the guest's to say.
    ///
    /// # Errors
    /// The kernel's.
    pub fn press(&self) -> Result<()> {
        self.pressed.store(true, Ordering::SeqCst);
        self.line.write(1).system("press the guest's power button")
    }

    /// Resets the machine.
    pub fn reset(&self) {
        self.stop.request(StopReason::Reboot);
    }
}

impl Access for Power {
    fn read(&self, offset: u64, data: &mut [u8]) {
        data.fill(0);
        if offset == u64::from(BUTTON)
            && let [button] = data
        {
            *button = self.pressed.swap(false, Ordering::SeqCst).into();
        }
    }

    fn write(&self, offset: u64, data: &[u8]) {
        let Some(&value) = data.first() else { return };
        if offset == u64::from(SLEEP_CONTROL)
            && value & SLEEP_ENABLE != 0
            && value >> 2 & 7 == SLEEP_TYPE_S5
        {
            self.stop.request(StopReason::PowerOff);
        } else if offset == u64::from(RESET) && value == RESET_VALUE {
            self.stop.request(StopReason::Reboot);
        }
    }
}

/// The register at [`KEYBOARD_PORT`].
pub struct Keyboard(pub Arc<Stop>);

impl Access for Keyboard {
    fn read(&self, _offset: u64, data: &mut [u8]) {
        data.fill(0);
    }

    fn write(&self, _offset: u64, data: &[u8]) {
        if data.first() == Some(&KEYBOARD_RESET) {
            self.0.request(StopReason::Reboot);
        }
    }
}

#[cfg(test)]
mod tests {
    use vmm_sys_util::eventfd::EFD_NONBLOCK;

    use super::*;

    fn power() -> (Power, Arc<Stop>, EventFd) {
        let stop = Arc::new(Stop::new(EventFd::new(0).unwrap()));
        let line = EventFd::new(EFD_NONBLOCK).unwrap();
        (Power::new(stop.clone(), line.try_clone().unwrap()), stop, line)
    }

    fn after(port: u16, value: u8) -> Option<StopReason> {
        let (power, stop, _) = power();
        power.write(port.into(), &[value]);
        stop.reason()
    }

    #[test]
    fn the_guest_learns_once_that_the_button_was_pressed() {
        let (power, stop, line) = power();
        let read = |offset: u16| {
            let mut data = [0xff];
            power.read(offset.into(), &mut data);
            data[0]
        };
        assert_eq!(read(BUTTON), 0);
        power.press().unwrap();
        power.press().unwrap();
        assert_eq!(line.read().unwrap(), 2, "it is interrupted");
        assert_eq!((read(SLEEP_STATUS), read(BUTTON), read(BUTTON)), (0, 1, 0));
        assert_eq!(stop.reason(), None, "what follows is the guest's to say");
        power.press().unwrap();
        let mut wide = [0xff; 4];
        power.read(0, &mut wide);
        assert_eq!((wide, read(BUTTON)), ([0; 4], 1));
    }

    #[test]
    fn only_s5_and_the_reset_value_stop_the_machine() {
        assert_eq!(after(SLEEP_CONTROL, 5 << 2 | 1 << 5), Some(StopReason::PowerOff));
        assert_eq!(after(SLEEP_CONTROL, 3 << 2 | 1 << 5), None);
        assert_eq!(after(SLEEP_CONTROL, 5 << 2), None);
        assert_eq!(after(RESET, RESET_VALUE), Some(StopReason::Reboot));
        assert_eq!(after(RESET, 0), None);
    }

    #[test]
    fn the_first_reason_counts() {
        let stop = Arc::new(Stop::new(EventFd::new(0).unwrap()));
        Keyboard(stop.clone()).write(0, &[KEYBOARD_RESET]);
        stop.request(StopReason::PowerOff);
        assert_eq!(stop.reason(), Some(StopReason::Reboot));
    }
}
