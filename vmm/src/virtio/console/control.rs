//! Control messages (virtio 1.3, 5.3.6.2): a driver and a device tell each other which ports there are, and
//! who is there.

use std::io::{Read, Write};

use crate::machine::memory::GuestMemory;
use crate::virtio::queue::{Broken, Chain, Fate};

/// What a message is about.
mod event {
    pub const DEVICE_READY: u16 = 0;
    pub const DEVICE_ADD: u16 = 1;
    pub const PORT_READY: u16 = 3;
    pub const CONSOLE_PORT: u16 = 4;
    pub const PORT_OPEN: u16 = 6;
    pub const PORT_NAME: u16 = 7;
}

/// Bytes of a message without what follows: the port's number, what it is about, and a value.
const SIZE: usize = 8;

/// What a driver says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Heard {
    /// It wants to know the ports.
    Device,
    /// Something about one port, or about none that there is.
    Port {
        /// Its number.
        number: u32,
        /// What.
        what: About,
    },
}

/// What a driver says of a port.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum About {
    /// Whether it can use it.
    Ready(bool),
    /// Whether somebody in the guest uses it.
    Open(bool),
}

/// What a driver says in a buffer; nothing where that is not understood.
///
/// # Errors
/// [`Broken`] where the buffer is not in memory.
pub fn hear(memory: &GuestMemory, chain: Chain<'_>) -> Result<Option<Heard>, Broken> {
    let mut reader = chain.reader(memory)?;
    if reader.available_bytes() < SIZE {
        return Ok(None);
    }
    let mut bytes = [0; SIZE];
    reader.read_exact(&mut bytes).map_err(|_| Broken)?;
    let [a, b, c, d, event, event_high, value, value_high] = bytes;
    let number = u32::from_le_bytes([a, b, c, d]);
    let is_so = u16::from_le_bytes([value, value_high]) != 0;
    Ok(match u16::from_le_bytes([event, event_high]) {
        event::DEVICE_READY if is_so => Some(Heard::Device),
        event::PORT_READY => Some(Heard::Port { number, what: About::Ready(is_so) }),
        event::PORT_OPEN => Some(Heard::Port { number, what: About::Open(is_so) }),
        _ => None,
    })
}

/// What a driver is told of a port.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tell<'p> {
    /// There is one of this number.
    Add,
    /// It is a console.
    Console,
    /// Its name.
    Name(&'p str),
    /// Whether somebody of the host is there.
    Open(bool),
}

/// A message for the driver.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Message<'p> {
    /// The port's number.
    pub number: u32,
    /// What it is told.
    pub what: Tell<'p>,
}

impl Message<'_> {
    /// Writes it into a buffer of the driver's. What does not fit is cut off, which the driver can tell.
    ///
    /// # Errors
    /// [`Broken`] where the buffer is not in memory.
    pub fn write(&self, memory: &GuestMemory, chain: Chain<'_>) -> Result<Fate, Broken> {
        let mut writer = chain.writer(memory)?;
        let (event, value, more) = match self.what {
            Tell::Add => (event::DEVICE_ADD, true, ""),
            Tell::Console => (event::CONSOLE_PORT, true, ""),
            Tell::Name(name) => (event::PORT_NAME, true, name),
            Tell::Open(is_open) => (event::PORT_OPEN, is_open, ""),
        };
        let mut bytes = self.number.to_le_bytes().to_vec();
        bytes.extend(event.to_le_bytes());
        bytes.extend(u16::from(value).to_le_bytes());
        bytes.extend(more.as_bytes());
        bytes.truncate(writer.available_bytes());
        writer.write_all(&bytes).map_err(|_| Broken)?;
        Ok(Fate::Used(bytes.len() as u32))
    }
}
