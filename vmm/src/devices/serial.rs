//! The serial console: a 16550 at COM1, as every x86 kernel expects it.

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, TryLockError};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use vm_superio::Trigger;
use vm_superio::serial::{Serial, SerialEvents};
use vmm_sys_util::eventfd::{EFD_CLOEXEC, EFD_NONBLOCK, EventFd};

use crate::bus::Access;
use crate::descriptor::borrow;
use crate::error::{Result, Trying};
use crate::machine::event_loop::{self, EventLoop, Ready};

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
    missed: AtomicBool,
}

const INPUT: u32 = 0;
const DRAINED: u32 = 1;

impl Console {
    /// A console that prints to `output`, reads from `input` and interrupts by `line`.
    ///
    /// # Errors
    /// Where descriptors are short.
    pub fn new(line: EventFd, input: Option<File>, output: File) -> Result<Self> {
        let drained = EventFd::new(EFD_CLOEXEC | EFD_NONBLOCK).system("create an event")?;
        let events = Drained(drained.try_clone().system("copy an event")?);
        let uart = Mutex::new(Serial::with_events(Line(line), events, output));
        Ok(Console { uart, input, drained, missed: AtomicBool::new(false) })
    }

    /// Watches the input, where it is something that can be waited for. A regular file or
    /// /dev/null cannot: the guest hears nothing from those.
    ///
    /// # Errors
    /// Where the event loop is out of room.
    pub fn listen(self: &Arc<Self>, events: &EventLoop) -> Result<()> {
        let Some(input) = &self.input else { return Ok(()) };
        // Edge-triggered, since input that the UART has no room for must not keep us awake.
        let edge = event_loop::Trigger::Edge;
        if events.add(input.as_fd(), edge, self.clone(), INPUT).is_err() {
            return Ok(());
        }
        events.add(borrow(&self.drained), edge, self.clone(), DRAINED)?;
        Ok(())
    }

    fn take_input(&self) {
        let Some(mut input) = self.input.as_ref() else { return };
        // A vCPU may hold the UART for as long as nobody reads what it prints, and the event loop
        // has others to serve: whoever lets go of the UART calls it again.
        self.missed.store(true, Ordering::SeqCst);
        let mut uart = match self.uart.try_lock() {
            Ok(uart) => uart,
            Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
            Err(TryLockError::WouldBlock) => return,
        };
        self.missed.store(false, Ordering::SeqCst);
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

impl Console {
    /// Lets a vCPU use the UART.
    fn with_uart(&self, access: impl FnOnce(&mut Uart)) {
        access(&mut crate::lock(&self.uart));
        if self.missed.swap(false, Ordering::SeqCst) {
            // A full counter means that it is signalled already.
            let _ = self.drained.write(1);
        }
    }
}

/// Whether a read would return at once. The input is not switched to non-blocking instead, since
/// that would switch whatever else shares it, such as the user's terminal.
fn is_readable(input: &File) -> bool {
    is_ready(&mut [PollFd::new(input, PollFlags::IN)])
}

fn is_ready(wanted: &mut [PollFd<'_>; 1]) -> bool {
    matches!(poll(wanted, Some(&Timespec::default())), Ok(1))
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
        self.with_uart(|uart| data.fill_with(|| uart.read(offset as u8)));
    }

    fn write(&self, offset: u64, data: &[u8]) {
        self.with_uart(|uart| {
            for &byte in data {
                // A console nobody reads any more must not stop the guest.
                let _ = uart.write(offset as u8, byte);
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use std::io::{PipeReader, PipeWriter, Write, pipe};
    use std::os::fd::OwnedFd;
    use std::thread;
    use std::time::Duration;

    use super::*;

    const LINE_STATUS: u64 = 5;
    const DATA_READY: u8 = 1;

    fn console() -> (Arc<Console>, PipeWriter, PipeReader) {
        let ((input, typed), (printed, output)) = (pipe().unwrap(), pipe().unwrap());
        let input = File::from(OwnedFd::from(input));
        let output = File::from(OwnedFd::from(output));
        let line = EventFd::new(EFD_NONBLOCK).unwrap();
        (Arc::new(Console::new(line, Some(input), output).unwrap()), typed, printed)
    }

    fn register(console: &Console, offset: u64) -> u8 {
        let mut data = [0];
        console.read(offset, &mut data);
        data[0]
    }

    fn is_drained(console: &Console) -> bool {
        is_ready(&mut [PollFd::from_borrowed_fd(borrow(&console.drained), PollFlags::IN)])
    }

    #[test]
    fn what_the_guest_has_no_room_for_waits_where_it_was_typed() {
        let (console, mut typed, _printed) = console();
        let text: Vec<u8> = (0..200).collect();
        typed.write_all(&text).unwrap();
        console.ready(INPUT);
        let mut heard = Vec::new();
        while register(&console, LINE_STATUS) & DATA_READY != 0 {
            heard.push(register(&console, 0));
            if is_drained(&console) {
                assert_eq!(heard.len() % 64, if heard.len() == 200 { 8 } else { 0 });
                console.ready(DRAINED);
            }
        }
        assert_eq!(heard, text);
    }

    #[test]
    fn the_end_of_the_input_is_no_error() {
        let (console, typed, _printed) = console();
        drop(typed);
        console.ready(INPUT);
        assert_eq!(register(&console, LINE_STATUS) & DATA_READY, 0);
    }

    #[test]
    fn a_guest_that_nobody_listens_to_does_not_stop_the_event_loop() {
        let (console, mut typed, mut printed) = console();
        let guest = thread::spawn({
            let console = console.clone();
            move || console.write(0, &vec![b'x'; 1 << 17])
        });
        while console.uart.try_lock().is_ok() {
            thread::sleep(Duration::from_millis(1));
        }
        typed.write_all(b"a").unwrap();
        console.ready(INPUT);
        assert!(!is_drained(&console));
        let mut bytes = vec![0; 1 << 17];
        printed.read_exact(&mut bytes).unwrap();
        guest.join().unwrap();
        assert!(is_drained(&console), "the event loop is called again");
        console.ready(DRAINED);
        assert_eq!(register(&console, 0), b'a');
    }
}
