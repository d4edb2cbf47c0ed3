//! The serial console: a 16550 at COM1, as every x86 kernel expects it.

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::AsFd;
use std::sync::{Arc, Mutex};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use vm_superio::Trigger;
use vm_superio::serial::{Serial, SerialEvents};
use vmm_sys_util::eventfd::{EFD_CLOEXEC, EFD_NONBLOCK, EventFd};

use crate::bus::Access;
use crate::descriptor::borrow;
use crate::error::{Result, Trying};
use crate::machine::event_loop::{self, EventLoop, Ready};
use crate::machine::interrupts::Interrupts;

/// First I/O port of COM1.
pub const PORT: u16 = 0x3f8;
/// Its eight registers.
pub const PORTS: u16 = 8;
/// Its pin at the I/O APIC.
pub const PIN: u32 = 4;

struct Line(EventFd);

impl Trigger for Line {
    type E = io::Error;

    fn trigger(&self) -> io::Result<()> {
        self.0.write(1)
    }
}

/// Signals that the guest has read all that was typed.
struct Drained(EventFd);

impl SerialEvents for Drained {
    fn buffer_read(&self) {}
    fn out_byte(&self) {}
    fn tx_lost_byte(&self) {}
    fn in_buffer_empty(&self) {
        // A full counter means that it is signalled already.
        let _ = self.0.write(1);
    }
}

type Uart = Serial<Line, Drained, File>;

/// The console's port and, if something is typed to it, its input.
///
/// The UART holds 64 bytes. What is typed beyond that stays in the input's own pipe or terminal
/// until the guest has read: nothing is lost and nothing grows here.
pub struct Console {
    uart: Mutex<Uart>,
    input: Option<File>,
    drained: EventFd,
}

const INPUT: u32 = 0;
const DRAINED: u32 = 1;

impl Console {
    /// A console that prints to `output` and reads from `input`.
    ///
    /// # Errors
    /// Where its interrupt cannot be set up.
    pub fn new(interrupts: &Interrupts, input: Option<File>, output: File) -> Result<Self> {
        let line = EventFd::new(EFD_CLOEXEC).system("create an event")?;
        let drained = EventFd::new(EFD_CLOEXEC | EFD_NONBLOCK).system("create an event")?;
        interrupts.connect_pin(PIN, &line)?;
        let events = Drained(drained.try_clone().system("copy an event")?);
        let uart = Mutex::new(Serial::with_events(Line(line), events, output));
        Ok(Console { uart, input, drained })
    }

    /// Watches the input, where it is something that can be waited for. A regular file or
    /// /dev/null cannot: the guest hears nothing from those.
    ///
    /// # Errors
    /// Where the event loop is out of room.
    pub fn listen(self: &Arc<Self>, events: &mut EventLoop) -> Result<()> {
        let Some(input) = &self.input else { return Ok(()) };
        // Edge-triggered, since input that the UART has no room for must not keep us awake.
        let edge = event_loop::Trigger::Edge;
        if events.add(input.as_fd(), edge, self.clone(), INPUT).is_err() {
            return Ok(());
        }
        events.add(borrow(&self.drained), edge, self.clone(), DRAINED)
    }

    fn take_input(&self) {
        let Some(mut input) = self.input.as_ref() else { return };
        let mut uart = crate::lock(&self.uart);
        loop {
            let mut bytes = [0; 64];
            let room = uart.fifo_capacity().min(bytes.len());
            if room == 0 || !is_readable(input) {
                return;
            }
            match input.read(&mut bytes[..room]) {
                Ok(0) => return,
                Ok(count) => {
                    // There is room for all of them, and a lost interrupt shows with the next.
                    let _ = uart.enqueue_raw_bytes(&bytes[..count]);
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => return,
            }
        }
    }
}

/// Whether a read would return at once. The input is not switched to non-blocking instead, since
/// that would switch whatever else shares it, such as the user's terminal.
fn is_readable(input: &File) -> bool {
    let mut wanted = [PollFd::new(input, PollFlags::IN)];
    matches!(poll(&mut wanted, Some(&Timespec::default())), Ok(1))
}

impl Ready for Console {
    fn ready(&self, token: u32) {
        if token == DRAINED {
            let _ = self.drained.read();
        }
        self.take_input();
    }
}

impl Access for Console {
    fn read(&self, offset: u64, data: &mut [u8]) {
        let mut uart = crate::lock(&self.uart);
        data.fill_with(|| uart.read(offset as u8));
    }

    fn write(&self, offset: u64, data: &[u8]) {
        let mut uart = crate::lock(&self.uart);
        for &byte in data {
            // A console nobody reads any more must not stop the guest.
            let _ = uart.write(offset as u8, byte);
        }
    }
}
