//! How a queue's requests are carried out.

use std::collections::VecDeque;
use std::io;

use vmm_sys_util::eventfd::EventFd;

use super::image::Image;
use super::request::{Operation, Request};
use super::ring::Ring;
use super::worker::Places;

/// One of two ways.
pub enum Engine {
    /// By io_uring, all at a time.
    Ring {
        ring: Box<Ring>,
        /// The places of those that it cannot do: they are done by system calls, one at a time.
        others: VecDeque<usize>,
    },
    /// By system calls, one at a time: where there is no io_uring.
    Calls {
        /// The place of the next.
        pending: Option<usize>,
    },
}

impl Engine {
    /// The better of those that this kernel has, for requests to `image` that `kick` tells of.
    pub fn new(image: &Image, kick: &EventFd) -> Engine {
        Ring::new(&image.file, kick).map_or_else(
            |_| Engine::calls(),
            |ring| Engine::Ring { ring: Box::new(ring), others: VecDeque::new() },
        )
    }

    /// By system calls.
    pub fn calls() -> Engine {
        Engine::Calls { pending: None }
    }

    /// Whether it takes another request.
    pub fn has_room(&self) -> bool {
        match self {
            // It has as many entries as there are places.
            Engine::Ring { .. } => true,
            Engine::Calls { pending } => pending.is_none(),
        }
    }

    /// Has the request at `place` begin with the next [`Engine::wait`]; `at` is where its data is in the
    /// file, if it can be moved there as it is.
    pub fn submit(&mut self, place: usize, operation: &Operation, at: Option<u64>, durable: bool) {
        match self {
            Engine::Ring { ring, others } => {
                let is_begun = at.is_some_and(|at| ring.submit(place, operation, at, durable));
                if !is_begun {
                    others.push_back(place);
                }
            }
            Engine::Calls { pending } => *pending = Some(place),
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
        let next = match self {
            Engine::Ring { ring, others } => {
                let next = others.pop_front();
                ring.wait(next.is_some(), &mut over)?;
                next
            }
            Engine::Calls { pending } => match pending.take() {
                None => return kick.read().map(drop),
                next => next,
            },
        };
        if let Some((place, request)) = next.and_then(|place| Some((place, places.get(place)?))) {
            let Request { operation, durable, .. } = request;
            let done = image.carry_out(operation, 0, *durable);
            over(place, done.map(|()| operation.length()));
        }
        Ok(())
    }
}
