//! A port: its client, what its driver knows, and the bytes that go either way.
//!
//! ```text
//! driver is there ─ told of the port ─ it is ready: told what it is, and whether there is a client
//!   client comes: told, open ─ client leaves: told, no more open ─ the next one: told, open
//! ```
//! What is to be told is flags, and not a list: however often clients come and go while the driver has no
//! buffer for messages, it hears of the last one, and before that that the others have left.

use std::io::{Read, Write};
use std::mem::take;
use std::os::fd::OwnedFd;

use super::client::{AHEAD, Client, Took};
use super::control::{About, Message, Tell};
use super::{BATCH, input_of};
use crate::machine::event_loop::Watch;
use crate::spec::{self, PortStats};
use crate::virtio::Activation;
use crate::virtio::queue::{Broken, Fate, Progress, work_off};

/// A port.
pub struct Port {
    number: u32,
    spec: spec::Port,
    /// Where clients come.
    pub listener: OwnedFd,
    /// How that is watched.
    pub watch: Option<Watch>,
    /// Whoever is there.
    pub client: Option<Client>,
    /// Its receive queue.
    pub input: usize,
    /// Its transmit queue.
    pub output: usize,
    driver: Driver,
    /// Bytes of the first buffer from the guest that the client has taken.
    taken: usize,
    counts: Counts,
}

/// What a driver knows of a port, and what it is to be told.
#[derive(Default)]
struct Driver {
    add: bool,
    console: bool,
    name: bool,
    /// It can use it.
    is_ready: bool,
    /// Somebody in the guest uses it.
    is_open: bool,
    /// It was told that a client is there.
    knows_client: bool,
    /// That one has left.
    has_left: bool,
    /// It was told something since anybody looked.
    was_told: bool,
}

#[derive(Default)]
struct Counts {
    to_guest: u64,
    from_guest: u64,
    lost: u64,
}

impl Port {
    /// Without a client, and without a driver.
    pub fn new(number: usize, spec: spec::Port, listener: OwnedFd) -> Self {
        let input = input_of(number);
        Port {
            number: number as u32,
            spec,
            listener,
            watch: None,
            client: None,
            input,
            output: input + 1,
            driver: Driver::default(),
            taken: 0,
            counts: Counts::default(),
        }
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.spec.name
    }

    /// The driver is another one, or gone; one that knows of no ports but this uses it without a word.
    pub fn begin_anew(&mut self, is_alone: bool) {
        let is_ready = is_alone && self.spec.console;
        self.driver = Driver { is_ready, ..Driver::default() };
        self.taken = 0;
    }

    /// The driver is to know of it.
    pub fn announce(&mut self) {
        self.driver = Driver { add: true, ..Driver::default() };
    }

    /// Takes in what the driver says of it.
    pub fn hear(&mut self, what: About) {
        match what {
            About::Ready(is_ready) => {
                let console = is_ready && self.spec.console;
                self.driver = Driver { is_ready, console, name: is_ready, ..Driver::default() };
            }
            About::Open(is_open) => self.driver.is_open = is_open,
        }
    }

    /// What the driver is to be told next.
    pub fn next_message(&mut self) -> Option<Message<'_>> {
        let is_there = self.spec.console || self.client.is_some();
        let driver = &mut self.driver;
        let what = if take(&mut driver.add) {
            Tell::Add
        } else if !driver.is_ready {
            return None;
        } else if take(&mut driver.console) {
            Tell::Console
        } else if take(&mut driver.name) {
            Tell::Name(&self.spec.name)
        } else if take(&mut driver.has_left) {
            driver.knows_client = false;
            Tell::Open(false)
        } else if is_there && !driver.knows_client {
            driver.knows_client = true;
            Tell::Open(true)
        } else {
            return None;
        };
        driver.was_told = true;
        Some(Message { number: self.number, what })
    }

    /// Whether the driver was told something since the last time.
    pub fn was_told(&mut self) -> bool {
        take(&mut self.driver.was_told)
    }

    /// Lets go of the client.
    pub fn leave(&mut self) -> Option<Client> {
        // A console's driver takes it that somebody is always there: it would not print otherwise.
        self.driver.has_left = self.driver.knows_client && !self.spec.console;
        self.client.take()
    }

    /// Whether the client has left, and the guest has all that it has said.
    pub fn is_left(&mut self) -> bool {
        self.client.as_mut().is_some_and(Client::is_over)
    }

    /// Whether the two speak to each other: the driver knows this client, and no other.
    fn is_connected(&self) -> bool {
        self.spec.console || self.driver.knows_client && !self.driver.has_left
    }

    /// Moves what the client says into the guest's buffers, while somebody there wants it.
    ///
    /// # Errors
    /// [`Broken`] where the queue makes no sense.
    pub fn receive(&mut self, active: &mut Activation) -> Result<Progress, Broken> {
        let is_heard = self.driver.is_ready && (self.spec.console || self.driver.is_open);
        let is_connected = self.is_connected();
        let Some(client) = self.client.as_mut().filter(|_| is_heard && is_connected) else {
            return Ok(Progress::Done);
        };
        work_off(active, self.input, BATCH, |memory, chain| {
            let says = client.says();
            if says.is_empty() {
                return Ok(Fate::Idle);
            }
            let mut writer = chain.writer(memory)?;
            let count = says.len().min(writer.available_bytes());
            writer.write_all(&says[..count]).map_err(|_| Broken)?;
            client.is_heard(count);
            self.counts.to_guest = self.counts.to_guest.saturating_add(count as u64);
            Ok(Fate::Used(count as u32))
        })
    }

    /// Gives the client what the guest says. Without one it goes nowhere, and so does what the client of a
    /// console does not take: a driver of one waits with a CPU until it has its buffer back.
    ///
    /// # Errors
    /// [`Broken`] where the queue makes no sense.
    pub fn transmit(&mut self, active: &mut Activation) -> Result<Progress, Broken> {
        let is_connected = self.is_connected();
        let mut client = self.client.as_mut().filter(|_| is_connected);
        work_off(active, self.output, BATCH, |memory, chain| {
            let mut reader = chain.reader(memory)?;
            let all = reader.available_bytes();
            // A driver may have made the buffer shorter meanwhile.
            let taken = self.taken.min(all);
            let mut reader = reader.split_at(taken)?;
            let mut bytes = [0; AHEAD];
            let bytes = &mut bytes[..AHEAD.min(all - taken)];
            let took = match &mut client {
                None => Took::Never,
                Some(_) if bytes.is_empty() => Took::Some(0),
                Some(client) => {
                    reader.read_exact(bytes).map_err(|_| Broken)?;
                    client.take(bytes)
                }
            };
            let (taken, lost) = match took {
                Took::Some(count) => {
                    self.counts.from_guest = self.counts.from_guest.saturating_add(count as u64);
                    (taken + count, 0)
                }
                Took::Nothing if !self.spec.console => return Ok(Fate::Idle),
                Took::Nothing | Took::Never => (all, all - taken),
            };
            self.counts.lost = self.counts.lost.saturating_add(lost as u64);
            if taken < all {
                self.taken = taken;
                return Ok(Fate::Kept);
            }
            self.taken = 0;
            Ok(Fate::Used(0))
        })
    }

    /// How it is.
    pub fn stats(&self) -> PortStats {
        let Counts { to_guest, from_guest, lost } = self.counts;
        PortStats {
            name: self.spec.name.clone(),
            client: self.client.is_some(),
            open: self.driver.is_ready && (self.spec.console || self.driver.is_open),
            to_guest,
            from_guest,
            lost,
        }
    }
}
