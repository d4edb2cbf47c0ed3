//! One message-signalled interrupt vector, of MSI or of MSI-X: the event that its device signals,
//! and the GSI that the kernel raises for it.
//!
//! A vector is *live* while the guest has it enabled and not masked: then its event is tied to a GSI
//! and the kernel delivers it without us. While it is not, a signal stays in the event, which is the
//! vector's pending bit, and is delivered by the kernel at the moment the vector goes live.
//!
//! The order is: route, then connect the event, then let the device signal it; and back: disconnect
//! the event, then silence the device. Another order has crashed hosts.

use std::sync::Arc;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use vmm_sys_util::eventfd::{EFD_CLOEXEC, EFD_NONBLOCK, EventFd};

use crate::descriptor::borrow;
use crate::error::{Result, Trying};
use crate::machine::interrupts::{Delivery, Gsi, Message};

/// Who signals the vectors' events.
pub trait Source: Send {
    /// The guest has turned its vectors on, and all of them are masked. A device may behave otherwise
    /// where messages are off, so they are turned on in it too.
    ///
    /// # Errors
    /// Where the device cannot do that.
    fn turn_on(&mut self) -> Result<()>;
    /// From now on the vectors from `first` on are signalled by these events.
    ///
    /// # Errors
    /// Where the device cannot do that; the vectors stay silent then.
    fn attach(&mut self, first: u16, events: &[Arc<EventFd>]) -> Result<()>;
    /// No vector is signalled any more.
    fn detach_all(&mut self);
}

/// A device of ours, which signals by itself.
pub struct Emulated;

impl Source for Emulated {
    fn turn_on(&mut self) -> Result<()> {
        Ok(())
    }

    fn attach(&mut self, _: u16, _: &[Arc<EventFd>]) -> Result<()> {
        Ok(())
    }

    fn detach_all(&mut self) {}
}

/// One vector.
#[derive(Default)]
pub struct Vector {
    event: Option<Arc<EventFd>>,
    gsi: Option<Gsi>,
    live: bool,
    /// Its source knows the event.
    pub attached: bool,
}

impl Vector {
    /// Its event, made now if need be.
    ///
    /// # Errors
    /// [`crate::error::Error::System`] where descriptors are short.
    pub fn event(&mut self) -> Result<&Arc<EventFd>> {
        match &mut self.event {
            Some(event) => Ok(event),
            none => {
                let event = EventFd::new(EFD_CLOEXEC | EFD_NONBLOCK).system("create an event")?;
                Ok(none.insert(Arc::new(event)))
            }
        }
    }

    /// Lets the kernel deliver `message` for each signal from now on, and for one that is pending.
    ///
    /// # Errors
    /// KVM's; it is as live as it was then.
    pub fn enliven(&mut self, delivery: &dyn Delivery, message: Message) -> Result<()> {
        let gsi = match self.gsi {
            Some(gsi) => gsi,
            None => *self.gsi.insert(delivery.reserve()?),
        };
        delivery.route(gsi, message)?;
        if !self.live {
            let event = self.event()?;
            delivery.connect(gsi, event)?;
            self.live = true;
        }
        Ok(())
    }

    /// Leaves signals pending from now on.
    ///
    /// # Errors
    /// KVM's.
    pub fn silence(&mut self, delivery: &dyn Delivery) -> Result<()> {
        if let (true, Some(gsi), Some(event)) = (self.live, self.gsi, &self.event) {
            delivery.disconnect(gsi, event)?;
            self.live = false;
        }
        Ok(())
    }

    /// Gives its GSI up, for good. Where KVM does not let go of its event it stays reserved, since
    /// another vector's route would get that event's signals.
    pub fn release(&mut self, delivery: &dyn Delivery) {
        if self.silence(delivery).is_ok()
            && let Some(gsi) = self.gsi.take()
        {
            delivery.release(gsi);
        }
    }

    /// The source is silent: what is pending is forgotten.
    pub fn forget(&mut self) {
        self.attached = false;
        if !self.live {
            self.event = None;
        }
    }

    /// Whether it was signalled and not delivered.
    pub fn is_pending(&self) -> bool {
        let signalled = |event: &Arc<EventFd>| {
            let mut wanted = [PollFd::from_borrowed_fd(borrow(event), PollFlags::IN)];
            matches!(poll(&mut wanted, Some(&Timespec::default())), Ok(1))
        };
        !self.live && self.event.as_ref().is_some_and(signalled)
    }

    /// Whether it holds an event.
    #[cfg(test)]
    pub fn has_event(&self) -> bool {
        self.event.is_some()
    }
}

/// Test support: who is called, in order.
#[cfg(test)]
pub mod record {
    use std::sync::Mutex;

    use super::*;

    /// A call to delivery or source.
    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    pub enum Call {
        /// A GSI leads to this message.
        Route(u32, Message),
        /// Its event raises it.
        Connect(u32),
        /// It does no more.
        Disconnect(u32),
        /// It is given up.
        Release(u32),
        /// The source is on, with nothing to signal.
        TurnOn,
        /// The source signals these: first and how many.
        Attach(u16, usize),
        /// It signals none.
        DetachAll,
    }

    /// Takes note of calls.
    #[derive(Default)]
    pub struct Record {
        calls: Mutex<Vec<Call>>,
        reserved: Mutex<u32>,
    }

    impl Record {
        fn note(&self, call: Call) {
            crate::lock(&self.calls).push(call);
        }

        /// The calls since the last time.
        pub fn take(&self) -> Vec<Call> {
            std::mem::take(&mut crate::lock(&self.calls))
        }

        /// GSIs reserved so far.
        pub fn reserved(&self) -> u32 {
            *crate::lock(&self.reserved)
        }
    }

    impl Delivery for Record {
        fn reserve(&self) -> Result<Gsi> {
            *crate::lock(&self.reserved) += 1;
            Ok(Gsi(*crate::lock(&self.reserved)))
        }
        fn route(&self, gsi: Gsi, message: Message) -> Result<()> {
            self.note(Call::Route(gsi.0, message));
            Ok(())
        }
        fn connect(&self, gsi: Gsi, _: &EventFd) -> Result<()> {
            self.note(Call::Connect(gsi.0));
            Ok(())
        }
        fn disconnect(&self, gsi: Gsi, _: &EventFd) -> Result<()> {
            self.note(Call::Disconnect(gsi.0));
            Ok(())
        }
        fn release(&self, gsi: Gsi) {
            self.note(Call::Release(gsi.0));
        }
    }

    /// A source that takes note.
    pub struct Device(pub Arc<Record>);

    impl Source for Device {
        fn turn_on(&mut self) -> Result<()> {
            self.0.note(Call::TurnOn);
            Ok(())
        }
        fn attach(&mut self, first: u16, events: &[Arc<EventFd>]) -> Result<()> {
            self.0.note(Call::Attach(first, events.len()));
            Ok(())
        }
        fn detach_all(&mut self) {
            self.0.note(Call::DetachAll);
        }
    }
}
