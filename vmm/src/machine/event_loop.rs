//! The one thread that waits for everything but the vCPUs: console input, taps, queue kicks and
//! the end of the machine.

use std::collections::BTreeMap;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;

use rustix::event::epoll::{self, EventData, EventFlags};
use rustix::io::Errno;

use crate::error::{Result, Trying};

/// Something to do when a descriptor becomes readable.
pub trait Ready: Send + Sync {
    /// Called on the event loop's thread with the number the descriptor was added under. It must
    /// not block, and must take what made the descriptor readable unless it was added with
    /// [`Trigger::Edge`].
    fn ready(&self, token: u32);
}

/// When a readable descriptor is reported.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Trigger {
    /// As long as it is readable.
    Level,
    /// Once each time it becomes so.
    Edge,
}

/// A set of watched descriptors.
pub struct EventLoop {
    epoll: rustix::fd::OwnedFd,
    handlers: BTreeMap<u64, (Arc<dyn Ready>, u32)>,
}

impl EventLoop {
    /// An empty one.
    ///
    /// # Errors
    /// [`crate::error::Error::System`] where descriptors are short.
    pub fn new() -> Result<Self> {
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC).system("create an event queue")?;
        Ok(EventLoop { epoll, handlers: BTreeMap::new() })
    }

    /// Calls `handler` with `token` when `descriptor` is readable. The descriptor must stay open
    /// as long as the loop runs; closing it ends the watch.
    ///
    /// # Errors
    /// [`crate::error::Error::System`] where it cannot be watched, such as a regular file.
    pub fn add(
        &mut self,
        descriptor: BorrowedFd<'_>,
        trigger: Trigger,
        handler: Arc<dyn Ready>,
        token: u32,
    ) -> Result<()> {
        let key = self.handlers.len() as u64;
        let mut flags = EventFlags::IN;
        if trigger == Trigger::Edge {
            flags |= EventFlags::ET;
        }
        epoll::add(&self.epoll, descriptor, EventData::new_u64(key), flags)
            .system("watch a descriptor")?;
        self.handlers.insert(key, (handler, token));
        Ok(())
    }

    /// Dispatches events until `stopped` says so after one of them.
    ///
    /// # Errors
    /// [`crate::error::Error::System`] where waiting fails.
    pub fn run<T>(&self, mut stopped: impl FnMut() -> Option<T>) -> Result<T> {
        let mut events = Vec::with_capacity(16);
        loop {
            if let Some(result) = stopped() {
                return Ok(result);
            }
            events.clear();
            match epoll::wait(self.epoll.as_fd(), rustix::buffer::spare_capacity(&mut events), None)
            {
                Ok(_) | Err(Errno::INTR) => {}
                Err(error) => return Err(error).system("wait for events"),
            }
            for event in &events {
                let event: &epoll::Event = event;
                if let Some((handler, token)) = self.handlers.get(&event.data.u64()) {
                    handler.ready(*token);
                }
            }
        }
    }
}
