//! A device's INTx line and the pin of the guest's I/O APIC that it pulls.
//!
//! The line is level-triggered. When it is asserted, the host masks it and signals an event, for
//! which KVM asserts the guest's pin; when the guest's end of interrupt comes, KVM signals a second
//! event, at which the host unmasks the line: if the device still asserts it, all of this happens
//! again. We take no part in it.

use std::io;
use std::sync::Arc;

use vmm_sys_util::eventfd::{EFD_CLOEXEC, EFD_NONBLOCK, EventFd};

use super::sys::Device;
use crate::error::{Error, Result, Trying};
use crate::machine::interrupts::Lines;

/// The kernel's side of a line.
pub trait Line: Send {
    /// Signals `asserted` from now on when the line is asserted, which masks it, and unmasks it
    /// whenever `ended` is signalled.
    ///
    /// # Errors
    /// The kernel's, such as another kind of interrupts in use; the line is off then.
    fn enable(&self, asserted: &EventFd, ended: &EventFd) -> io::Result<()>;
    /// Ends that.
    ///
    /// # Errors
    /// The kernel's.
    fn disable(&self) -> io::Result<()>;
}

impl Line for Arc<Device> {
    fn enable(&self, asserted: &EventFd, ended: &EventFd) -> io::Result<()> {
        self.enable_line(asserted)?;
        self.unmask_line_by(ended).inspect_err(|_| {
            // It would stay masked after its first interrupt. The error is told.
            let _ = self.disable_line();
        })
    }

    fn disable(&self) -> io::Result<()> {
        self.disable_line()
    }
}

/// One device's line.
pub struct Intx<L> {
    device: L,
    lines: Arc<dyn Lines>,
    pin: u32,
    asserted: EventFd,
    ended: EventFd,
    on: bool,
}

impl<L: Line> Intx<L> {
    /// Off, and leading to `pin` of the I/O APIC.
    ///
    /// # Errors
    /// [`Error::System`] where descriptors are short.
    pub fn new(device: L, lines: Arc<dyn Lines>, pin: u32) -> Result<Self> {
        let event = || EventFd::new(EFD_CLOEXEC | EFD_NONBLOCK).system("create an event");
        Ok(Intx { device, lines, pin, asserted: event()?, ended: event()?, on: false })
    }

    /// Passes the line on from now on.
    ///
    /// # Errors
    /// KVM's or VFIO's; it is off then.
    pub fn turn_on(&mut self) -> Result<()> {
        if self.on {
            return Ok(());
        }
        // What was left from another time is nobody's interrupt now.
        let _ = self.asserted.read();
        let _ = self.ended.read();
        self.lines.connect(self.pin, &self.asserted, &self.ended)?;
        if let Err(source) = self.device.enable(&self.asserted, &self.ended) {
            self.lines.disconnect(self.pin, &self.asserted)?;
            return Err(Error::System { action: "let the device pull its interrupt line", source });
        }
        self.on = true;
        Ok(())
    }

    /// Leaves the line alone from now on, so that the device may interrupt by messages.
    ///
    /// # Errors
    /// KVM's or VFIO's; what could be turned off is.
    pub fn turn_off(&mut self) -> Result<()> {
        if !std::mem::take(&mut self.on) {
            return Ok(());
        }
        let disconnected = self.lines.disconnect(self.pin, &self.asserted);
        self.device.disable().system("silence the device's interrupt line")?;
        disconnected
    }
}

impl<L> Drop for Intx<L> {
    /// One that is on is cut off from the guest here, before the device is closed.
    fn drop(&mut self) {
        if self.on {
            // KVM lets go of an event that is closed, too.
            let _ = self.lines.disconnect(self.pin, &self.asserted);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;

    #[derive(Clone, Default)]
    struct Board {
        calls: Arc<Mutex<Vec<&'static str>>>,
        refuses: bool,
    }

    impl Board {
        fn take(&self) -> Vec<&'static str> {
            std::mem::take(&mut crate::lock(&self.calls))
        }
    }

    impl Lines for Board {
        fn connect(&self, _: u32, _: &EventFd, _: &EventFd) -> Result<()> {
            crate::lock(&self.calls).push("connect");
            Ok(())
        }
        fn disconnect(&self, _: u32, _: &EventFd) -> Result<()> {
            crate::lock(&self.calls).push("disconnect");
            Ok(())
        }
    }

    impl Line for Board {
        fn enable(&self, _: &EventFd, _: &EventFd) -> io::Result<()> {
            crate::lock(&self.calls).push("enable");
            if self.refuses { Err(io::Error::from(io::ErrorKind::ResourceBusy)) } else { Ok(()) }
        }
        fn disable(&self) -> io::Result<()> {
            crate::lock(&self.calls).push("disable");
            Ok(())
        }
    }

    fn line(refuses: bool) -> (Intx<Board>, Board) {
        let board = Board { refuses, ..Board::default() };
        (Intx::new(board.clone(), Arc::new(board.clone()), 16).unwrap(), board)
    }

    #[test]
    fn the_guest_is_connected_first_and_cut_off_first() {
        let (mut line, board) = line(false);
        line.turn_off().unwrap();
        assert!(board.take().is_empty(), "it is off");
        line.turn_on().unwrap();
        line.turn_on().unwrap();
        assert_eq!(board.take(), ["connect", "enable"]);
        line.turn_off().unwrap();
        assert_eq!(board.take(), ["disconnect", "disable"]);
    }

    #[test]
    fn a_line_that_the_host_refuses_is_off() {
        let (mut line, board) = line(true);
        let error = line.turn_on().unwrap_err().to_string();
        assert!(error.contains("interrupt line"), "{error}");
        assert_eq!(board.take(), ["connect", "enable", "disconnect"]);
        line.turn_off().unwrap();
        assert!(board.take().is_empty());
    }

    #[test]
    fn a_line_that_goes_while_it_is_on_is_cut_off() {
        let (mut line, board) = line(false);
        line.turn_on().unwrap();
        board.take();
        drop(line);
        assert_eq!(board.take(), ["disconnect"]);
        drop(self::line(false).0);
        assert!(board.take().is_empty(), "another one, which was off");
    }

    #[test]
    fn old_signals_are_forgotten() {
        let (mut line, _) = line(false);
        line.asserted.write(1).unwrap();
        line.ended.write(1).unwrap();
        line.turn_on().unwrap();
        assert!(line.asserted.read().is_err() && line.ended.read().is_err());
    }
}
