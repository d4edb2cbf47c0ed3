//! How a queue's requests are carried out.

use std::io;

use vmm_sys_util::eventfd::EventFd;

use super::image::Image;
use super::request::{Operation, Request};
use super::ring::Ring;
use super::worker::Places;

/// One of two ways.
pub enum Engine {
    /// By io_uring, all at a time.
    Ring(Box<Ring>),
    /// By system calls, one at a time: where there is no io_uring.
    Calls {
        /// The place of the next.
        pending: Option<usize>,
    },
}

impl Engine {
    /// The better of those that this kernel has, for requests to `image` that `kick` tells of.
    pub fn new(image: &Image, kick: &EventFd) -> Engine {
        Ring::new(&image.file, kick)
            .map_or_else(|_| Engine::calls(), |ring| Engine::Ring(Box::new(ring)))
    }

    /// By system calls.
    pub fn calls() -> Engine {
        Engine::Calls { pending: None }
    }

    /// Whether it takes another request.
    pub fn has_room(&self) -> bool {
        match self {
            // It has as many entries as there are places.
            Engine::Ring(_) => true,
            Engine::Calls { pending } => pending.is_none(),
        }
    }

    /// Has the request at `place` begin with the next [`Engine::wait`]. False where it cannot.
    pub fn submit(&mut self, place: usize, operation: &Operation, durable: bool) -> bool {
        match self {
            Engine::Ring(ring) => ring.submit(place, operation, durable),
            Engine::Calls { pending } => {
                *pending = Some(place);
                true
            }
        }
    }

    /// Waits until requests are over or the driver kicks, and gives `over` what is over: its place, and
    /// how many bytes were moved.
    ///
    /// # Errors
    /// Where waiting fails.
    pub fn wait(
        &mut self,
        kick: &EventFd,
        places: &Places,
        image: &Image,
        mut over: impl FnMut(usize, io::Result<u64>),
    ) -> io::Result<()> {
        match self {
            Engine::Ring(ring) => ring.wait(over),
            Engine::Calls { pending } => {
                let Some(place) = pending.take() else { return kick.read().map(drop) };
                if let Some(Request { operation, durable, .. }) = places.get(place) {
                    let done = image.carry_out(operation, 0, *durable);
                    over(place, done.map(|()| operation.length()));
                }
                Ok(())
            }
        }
    }
}
