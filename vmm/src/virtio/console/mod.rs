//! virtio-console (virtio 1.3, section 5.3): streams of bytes between programs of the guest and of its host,
//! each a port with a name. One that is a console is a terminal in the guest (hvc0); the others are files
//! there (/dev/virtio-ports/NAME).
//!
//! ```text
//! program of the host ─ socket ─ client ─┬─ held back, a buffer at most ─► receive queue ─► guest
//!                                        └─◄─ as fast as it takes it ──── transmit queue ◄─ guest
//!                   who is there, on both sides: control queues ([`control`])
//! ```
//! Each port has a listening socket that our launcher made, and one client at a time: another one is let go
//! of at once, unless the one before has left. What the guest has no buffers for stays in its client's
//! socket, and what a client does not take in the guest's queue, so that nothing grows here. A console's
//! driver waits for that queue with a CPU of the guest's, so that what its client does not take is lost.
//!
//! A port that is no console does without a client until its driver was told of it, and no client gets what
//! was said to the one before.

mod client;
mod control;
mod port;

use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Arc, Mutex, OnceLock, Weak};

use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};
use rustix::io::Errno;
use vmm_sys_util::eventfd::{EFD_CLOEXEC, EFD_NONBLOCK, EventFd};

use self::client::Client;
use self::control::Heard;
use self::port::Port;
use super::queue::{self, Fate, Progress, work_off};
use super::{Activation, VirtioDevice, read_bytes};
use crate::descriptor::borrow;
use crate::error::{Error, Result, Trying};
use crate::machine::event_loop::{EventLoop, Ready, Trigger, Watch};
use crate::spec::{self, MAX_PORTS, PortStats};
use crate::warnings::Warnings;

const KIND_CONSOLE: u16 = 3;
/// A communication controller of no further kind.
const CLASS_COMMUNICATION: u32 = 0x07_80_00;

/// Feature bit: several ports, and queues to speak about them (virtio 1.3, 5.3.3).
const F_MULTIPORT: u64 = 1 << 1;

/// The queues of control messages, between those of port 0 and of port 1 (virtio 1.3, 5.3.2).
const CONTROL_IN: usize = 2;
const CONTROL_OUT: usize = 3;
/// Linux fills the receive queue of each port with pages.
const QUEUE_SIZE: u16 = 64;
const QUEUE_SIZES: [u16; 2 * (MAX_PORTS + 2)] = [QUEUE_SIZE; 2 * (MAX_PORTS + 2)];
/// Buffers of a queue before others get their turn.
const BATCH: usize = 16;

/// By which the event loop says what is ready, beside the queues: sockets of ports, and clients.
pub(super) const LISTENERS: u32 = 1 << 16;
pub(super) const CLIENTS: u32 = 1 << 17;
/// The port of it.
const PORT: u32 = 0xffff;

/// The ports of a guest.
pub struct VirtioConsole {
    /// One for each queue.
    kicks: Vec<EventFd>,
    state: Mutex<State>,
    /// Where clients are watched, and who is told.
    events: OnceLock<(Arc<EventLoop>, Weak<VirtioConsole>)>,
    warnings: Warnings,
}

struct State {
    active: Option<Activation>,
    /// By their numbers. Port 0 is a console: a driver that knows nothing of several ports takes it for one.
    /// Without a console there is none.
    ports: Vec<Option<Port>>,
}

impl State {
    /// With another driver, or none.
    fn begin_anew(&mut self, active: Option<Activation>) {
        let is_alone = active.as_ref().is_some_and(|active| active.features & F_MULTIPORT == 0);
        for (number, port) in (0..).zip(&mut self.ports) {
            port.iter_mut().for_each(|port| port.begin_anew(is_alone && number == 0));
        }
        self.active = active;
    }
}

impl VirtioConsole {
    /// With these `ports`, each with its listening socket.
    ///
    /// # Errors
    /// Where a socket is none, or events are short.
    pub fn new(ports: Vec<(spec::Port, OwnedFd)>) -> Result<Self> {
        let mut consoles = ports.iter().map(|(port, _)| port.console);
        let first = consoles.position(|is_console| is_console);
        let mut by_number = vec![None];
        for (at, (port, listener)) in ports.into_iter().enumerate() {
            let flags = fcntl_getfl(&listener).system("read a port's flags")?;
            fcntl_setfl(&listener, flags | OFlags::NONBLOCK).system("set a port's flags")?;
            if Some(at) == first {
                by_number[0] = Some(Port::new(0, port, listener));
            } else {
                let number = by_number.len();
                by_number.push(Some(Port::new(number, port, listener)));
            }
        }
        if by_number.len() > MAX_PORTS + 1 {
            return Err(Error::Spec(format!("more than {MAX_PORTS} ports")));
        }
        let event = |_| EventFd::new(EFD_CLOEXEC | EFD_NONBLOCK).system("create an event");
        Ok(VirtioConsole {
            kicks: (0..2 * (by_number.len() + 1)).map(event).collect::<Result<_>>()?,
            state: Mutex::new(State { active: None, ports: by_number }),
            events: OnceLock::new(),
            warnings: Warnings::new("virtio-console"),
        })
    }

    /// Adds its descriptors to the event loop, and clients as they come.
    ///
    /// # Errors
    /// Where they cannot be watched.
    pub fn listen(self: &Arc<Self>, events: &Arc<EventLoop>) -> Result<()> {
        let _ = self.events.set((events.clone(), Arc::downgrade(self)));
        for (token, kick) in (0..).zip(&self.kicks) {
            events.add(borrow(kick), Trigger::Level, self.clone(), token)?;
        }
        let State { ports, .. } = &mut *crate::lock(&self.state);
        for (number, port) in (0..).zip(ports) {
            let Some(port) = port else { continue };
            let listener = port.listener.as_fd();
            let watch = events.add(listener, Trigger::Level, self.clone(), LISTENERS | number)?;
            port.watch = Some(watch);
        }
        Ok(())
    }

    /// How its ports are, in the order of their numbers.
    pub fn stats(&self) -> Vec<PortStats> {
        let state = crate::lock(&self.state);
        state.ports.iter().flatten().map(Port::stats).collect()
    }

    /// Lets somebody in who is at the door of a port, or lets them go: one at a time.
    fn admit(&self, number: u32, port: &mut Port, active: &mut Option<Activation>) {
        let stream = match client::accept(port.listener.as_fd()) {
            Ok(stream) => stream,
            Err(Errno::AGAIN | Errno::INTR | Errno::CONNABORTED) => return,
            Err(error) => {
                // It would be ready for ever.
                self.unwatch(port.listener.as_fd(), port.watch.take());
                let name = port.name();
                return self.warnings.say(format_args!("{name} takes no more clients: {error}"));
            }
        };
        if let Some(before) = &port.client {
            if !before.has_hung_up() {
                return;
            }
            // The guest gets what it takes at once.
            self.turn_of(active, port.input, |active| port.receive(active));
            self.let_go(port, active);
        }
        let watched = self.watch(stream.as_fd(), CLIENTS | number);
        match watched {
            Ok(watch) => port.client = Some(Client::new(stream, watch)),
            Err(error) => self.warnings.say(error),
        }
    }

    /// Lets go of a port's client. What the guest still says to it goes nowhere.
    fn let_go(&self, port: &mut Port, active: &mut Option<Activation>) {
        let Some(Client { stream, watch, .. }) = port.leave() else { return };
        self.unwatch(stream.as_fd(), watch);
        self.turn_of(active, port.output, |active| port.transmit(active));
    }

    fn watch(&self, of: rustix::fd::BorrowedFd<'_>, token: u32) -> Result<Option<Watch>> {
        let Some((events, this)) = self.events.get() else { return Ok(None) };
        let Some(this) = this.upgrade() else { return Ok(None) };
        events.add(of, Trigger::EdgeOfBoth, this, token).map(Some)
    }

    fn unwatch(&self, of: rustix::fd::BorrowedFd<'_>, watch: Option<Watch>) {
        if let (Some((events, _)), Some(watch)) = (self.events.get(), watch) {
            events.remove(of, watch);
        }
    }

    /// Has a queue worked off, if its driver has set it up.
    fn turn_of(
        &self,
        active: &mut Option<Activation>,
        index: usize,
        work: impl FnOnce(&mut Activation) -> std::result::Result<Progress, queue::Broken>,
    ) {
        let is_ready = |active: &Activation| active.queues[index].is_ready();
        if active.as_ref().is_some_and(is_ready) {
            queue::turn(active, &self.kicks[index], work);
        }
    }

    /// Takes in what the driver says about the ports.
    fn hear(&self, State { active, ports }: &mut State) {
        self.turn_of(active, CONTROL_OUT, |active| {
            work_off(active, CONTROL_OUT, BATCH, |memory, chain| {
                match control::hear(memory, chain)? {
                    Some(Heard::Device) => ports.iter_mut().flatten().for_each(Port::announce),
                    Some(Heard::Port { number, what }) => {
                        let port = usize::try_from(number).ok().and_then(|at| ports.get_mut(at));
                        port.into_iter().flatten().for_each(|port| port.hear(what));
                    }
                    None => {}
                }
                Ok(Fate::Used(0))
            })
        });
        // Clients may have said something before.
        ports.iter_mut().flatten().for_each(|port| self.receive(port, active));
    }

    /// Moves what a client says, and lets go of one that has left and has been heard.
    fn receive(&self, port: &mut Port, active: &mut Option<Activation>) {
        self.turn_of(active, port.input, |active| port.receive(active));
        if port.is_left() {
            self.let_go(port, active);
        }
    }

    /// Tells the driver what it is to know about the ports, as far as it has buffers for that; whether it was
    /// told something, after which there may be more: a client may have waited for that, and have left.
    fn tell(&self, State { active, ports }: &mut State) -> bool {
        self.turn_of(active, CONTROL_IN, |active| {
            work_off(active, CONTROL_IN, BATCH, |memory, chain| {
                match ports.iter_mut().flatten().find_map(Port::next_message) {
                    Some(message) => message.write(memory, chain),
                    None => Ok(Fate::Idle),
                }
            })
        });
        let mut was_told = false;
        for port in ports.iter_mut().flatten() {
            if port.was_told() {
                self.receive(port, active);
                was_told = true;
            }
        }
        was_told
    }

    /// Something happened that is of interest to one port, or to all.
    fn attend(&self, token: u32, state: &mut State) {
        let index = token as usize;
        if index == CONTROL_IN || index == CONTROL_OUT {
            return self.hear(state);
        }
        let State { active, ports } = state;
        let number = if token < LISTENERS { number_of(index) } else { token & PORT };
        let Some(Some(port)) = ports.get_mut(number as usize) else { return };
        if token & LISTENERS != 0 {
            self.admit(number, port, active);
        }
        if index != port.input {
            self.turn_of(active, port.output, |active| port.transmit(active));
        }
        if index != port.output {
            self.receive(port, active);
        }
    }
}

/// The port of a queue that is not for control messages.
fn number_of(queue: usize) -> u32 {
    (queue / 2).saturating_sub(1) as u32
}

/// The receive queue of a port; its transmit queue is the next one.
fn input_of(number: usize) -> usize {
    if number == 0 { 0 } else { 2 * (number + 1) }
}

impl Ready for VirtioConsole {
    fn ready(&self, token: u32) {
        if let Some(kick) = self.kicks.get(token as usize) {
            let _ = kick.read();
        }
        let state = &mut *crate::lock(&self.state);
        self.attend(token, state);
        // There is an end: nobody new is let in.
        while self.tell(state) {}
    }
}

impl VirtioDevice for VirtioConsole {
    fn name(&self) -> String {
        "virtio-console".to_owned()
    }

    fn kind(&self) -> u16 {
        KIND_CONSOLE
    }

    fn class(&self) -> u32 {
        CLASS_COMMUNICATION
    }

    fn features(&self) -> u64 {
        F_MULTIPORT | queue::FEATURES
    }

    fn queue_sizes(&self) -> &[u16] {
        &QUEUE_SIZES[..self.kicks.len()]
    }

    fn kick(&self, index: u16) -> Option<&EventFd> {
        self.kicks.get(usize::from(index))
    }

    /// Nobody knows the size of a client's terminal, so that there are only `max_nr_ports` (virtio 1.3, 5.3.4).
    fn read_config(&self, offset: u64, data: &mut [u8]) {
        let most = (self.kicks.len() / 2 - 1) as u32;
        read_bytes([[0; 4], most.to_le_bytes(), [0; 4]].as_flattened(), offset, data);
    }

    /// A driver that knows of one port needs the first two only.
    fn may_lack(&self, index: usize) -> bool {
        index >= CONTROL_IN
    }

    fn activate(&self, activation: Activation) {
        crate::lock(&self.state).begin_anew(Some(activation));
        // Buffers may be there already.
        for kick in &self.kicks {
            let _ = kick.write(1);
        }
    }

    /// Clients stay for the next driver.
    fn reset(&self) {
        crate::lock(&self.state).begin_anew(None);
    }
}
