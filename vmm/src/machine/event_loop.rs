//! The one thread that waits for everything but the vCPUs: console input, taps, queue kicks and
//! the end of the machine.

use std::collections::BTreeMap;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::{Arc, Mutex};

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

/// When a descriptor is reported.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Trigger {
    /// As long as it is readable, or its other end is gone.
    Level,
    /// Once each time it becomes so.
    Edge,
    /// The same, and once each time there is room again to write.
    EdgeOfBoth,
}

/// A set of watched descriptors, which may change while the loop runs.
pub struct EventLoop {
    epoll: rustix::fd::OwnedFd,
    handlers: Mutex<Handlers>,
}

#[derive(Default)]
struct Handlers {
    next: u64,
    by_watch: BTreeMap<Watch, (Arc<dyn Ready>, u32)>,
}

/// A descriptor that is watched.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Watch(u64);

impl EventLoop {
    /// An empty one.
    ///
    /// # Errors
    /// [`crate::error::Error::System`] where descriptors are short.
    pub fn new() -> Result<Self> {
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC).system("create an event queue")?;
        Ok(EventLoop { epoll, handlers: Mutex::default() })
    }

    /// Calls `handler` with `token` when `descriptor` is readable, until it is closed or
    /// [`EventLoop::remove`]d. A copy of it that stays open keeps the watch.
    ///
    /// # Errors
    /// [`crate::error::Error::System`] where it cannot be watched, such as a regular file.
    pub fn add(
        &self,
        descriptor: BorrowedFd<'_>,
        trigger: Trigger,
        handler: Arc<dyn Ready>,
        token: u32,
    ) -> Result<Watch> {
        let mut handlers = crate::lock(&self.handlers);
        let watch = Watch(handlers.next);
        let mut flags = EventFlags::IN;
        match trigger {
            Trigger::Level => {}
            Trigger::Edge => flags |= EventFlags::ET,
            Trigger::EdgeOfBoth => flags |= EventFlags::ET | EventFlags::OUT,
        }
        epoll::add(&self.epoll, descriptor, EventData::new_u64(watch.0), flags)
            .system("watch a descriptor")?;
        handlers.next += 1;
        handlers.by_watch.insert(watch, (handler, token));
        Ok(watch)
    }

    /// Ends a watch of `descriptor`. A call of its handler that is under way goes on.
    pub fn remove(&self, descriptor: BorrowedFd<'_>, watch: Watch) {
        // Fails only where it is not watched, which is what is wanted.
        let _ = epoll::delete(&self.epoll, descriptor);
        crate::lock(&self.handlers).by_watch.remove(&watch);
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
                let watch = Watch(event.data.u64());
                // Not held while it is handled: a handler may change what is watched.
                let handler = crate::lock(&self.handlers).by_watch.get(&watch).cloned();
                if let Some((handler, token)) = handler {
                    handler.ready(token);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

    use super::*;
    use crate::descriptor::borrow;

    /// Ends its own watch at the first call.
    struct Once {
        events: Arc<EventLoop>,
        event: EventFd,
        watch: Mutex<Option<Watch>>,
        calls: AtomicU32,
    }

    impl Ready for Once {
        fn ready(&self, token: u32) {
            assert_eq!(token, 7);
            self.calls.fetch_add(1, Ordering::Relaxed);
            if let Some(watch) = crate::lock(&self.watch).take() {
                self.events.remove(borrow(&self.event), watch);
            }
        }
    }

    #[test]
    fn a_watch_can_be_ended_from_within_its_handler() {
        let events = Arc::new(EventLoop::new().unwrap());
        let event = EventFd::new(EFD_NONBLOCK).unwrap();
        let (watch, calls) = (Mutex::default(), AtomicU32::new(0));
        let once = Arc::new(Once { events: events.clone(), event, watch, calls });
        let watch = events.add(borrow(&once.event), Trigger::Level, once.clone(), 7).unwrap();
        *crate::lock(&once.watch) = Some(watch);
        // Readable from now on, and so again and again, were it watched still.
        once.event.write(1).unwrap();
        let tick = EventFd::new(EFD_NONBLOCK).unwrap();
        struct Tick;
        impl Ready for Tick {
            fn ready(&self, _: u32) {}
        }
        events.add(borrow(&tick), Trigger::Level, Arc::new(Tick), 0).unwrap();
        let mut rounds = 0;
        let ended = events.run(|| {
            rounds += 1;
            if rounds == 2 {
                tick.write(1).unwrap();
            }
            (rounds > 4).then_some(())
        });
        ended.unwrap();
        assert_eq!(once.calls.load(Ordering::Relaxed), 1);
    }
}
