//! A queue and the thread that works it off.

use std::io;
use std::sync::{Arc, Condvar, Mutex, PoisonError};

use vmm_sys_util::eventfd::EventFd;

use super::QUEUE_SIZE;
use super::engine::Engine;
use super::image::Image;
use super::request::{Operation, Request, Status};
use crate::machine::memory::GuestMemory;
use crate::virtio::queue::{Broken, Queue, next_chain};
use crate::virtio::{Failure, Interrupt};

/// A queue of the disk.
pub struct Lane {
    /// Signalled by the driver.
    pub kick: EventFd,
    state: Mutex<State>,
    /// Nothing is under way any more.
    idle: Condvar,
}

#[derive(Default)]
struct State {
    active: Option<Active>,
    /// Requests that reach into guest memory.
    under_way: usize,
}

struct Active {
    queue: Queue,
    interrupt: Interrupt,
    memory: GuestMemory,
    failure: Arc<Failure>,
    durable: bool,
}

impl Lane {
    /// One that `kick` wakes, without a queue yet.
    pub fn new(kick: EventFd) -> Lane {
        Lane { kick, state: Mutex::default(), idle: Condvar::new() }
    }

    /// The driver is ready. Where it cannot flush, its writes are to be `durable`.
    pub fn begin(
        &self,
        queue: Queue,
        interrupt: Interrupt,
        memory: GuestMemory,
        failure: Arc<Failure>,
        durable: bool,
    ) {
        let active = Active { queue, interrupt, memory, failure, durable };
        crate::lock(&self.state).active = Some(active);
        // Requests may be there already.
        let _ = self.kick.write(1);
    }

    /// The driver takes the queue back: on return, nothing reaches into guest memory for it.
    pub fn end(&self) {
        let mut state = crate::lock(&self.state);
        state.active = None;
        let idle = self.idle.wait_while(state, |state| state.under_way > 0);
        drop(idle.unwrap_or_else(PoisonError::into_inner));
    }

    /// Takes requests in, as many as there are places, and has them begin.
    fn take(&self, places: &mut Places, engine: &mut Engine, image: &Image) {
        let state = &mut *crate::lock(&self.state);
        let Some(active) = &mut state.active else { return };
        let mut taken = || -> Result<(), Broken> {
            while engine.has_room() && places.have_room() {
                let Active { queue, memory, durable, .. } = &mut *active;
                let Some(chain) = next_chain(queue, memory)? else { break };
                let request = Request::parse(chain, memory, image, *durable)?;
                if let Operation::Over(status) = request.operation {
                    active.give_back(&request, status)?;
                    continue;
                }
                let place = places.put(request);
                let Some(request) = places.get_mut(place) else { continue };
                let found = image.place(&request.operation, request.durable);
                let (at, lease) = found.unzip();
                request.lease = lease.flatten();
                engine.submit(place, &request.operation, at, request.durable);
                state.under_way += 1;
            }
            active.notify()
        };
        if let Err(Broken) = taken() {
            active.failure.report();
            state.active = None;
        }
    }

    /// Gives the driver back what is over.
    fn give_back(&self, over: Vec<(Request, Status)>) {
        if over.is_empty() {
            return;
        }
        let state = &mut *crate::lock(&self.state);
        state.under_way -= over.len();
        if let Some(active) = &mut state.active {
            let mut given = over.iter();
            let given = given.try_for_each(|(request, status)| active.give_back(request, *status));
            if let Err(Broken) = given.and_then(|()| active.notify()) {
                active.failure.report();
                state.active = None;
            }
        }
        if state.under_way == 0 {
            self.idle.notify_all();
        }
    }
}

impl Active {
    fn give_back(&mut self, request: &Request, status: Status) -> Result<(), Broken> {
        let written = request.end(&self.memory, status)?;
        self.queue.add_used(&self.memory, request.head, written)
    }

    fn notify(&mut self) -> Result<(), Broken> {
        if self.queue.needs_notification(&self.memory)? {
            self.interrupt.signal();
        }
        Ok(())
    }
}

/// Works `lane` off, for ever.
///
/// # Errors
/// Where it cannot wait any more.
pub fn work(lane: &Lane, image: &Image, mut engine: Engine) -> io::Error {
    let mut places = Places::default();
    loop {
        lane.take(&mut places, &mut engine, image);
        if let Err(error) = wait(lane, image, &mut engine, &mut places) {
            return error;
        }
    }
}

/// Waits until requests are over or the driver kicks, and gives back what is over.
fn wait(lane: &Lane, image: &Image, engine: &mut Engine, places: &mut Places) -> io::Result<()> {
    let mut over = Vec::new();
    let waited = engine.wait(&lane.kick, places, image, |place, outcome| {
        over.push((place, outcome));
    });
    let finished = over.into_iter().filter_map(|(place, outcome)| {
        let request = places.remove(place)?;
        let status = finish(&request, outcome, image);
        Some((request, status))
    });
    lane.give_back(finished.collect());
    waited
}

/// Test support: works `lane` off until there is nothing to do, up to `most` requests that need the
/// file. The engine is one of system calls: what it has begun is over when it was waited for.
#[cfg(any(test, feature = "simulated"))]
pub fn turn(lane: &Lane, image: &Image, engine: &mut Engine, most: usize) {
    let mut places = Places::default();
    for _ in 0..most {
        lane.take(&mut places, engine, image);
        if engine.has_room() || wait(lane, image, engine, &mut places).is_err() {
            return;
        }
    }
}

/// What the driver hears of a request that came to `outcome`. What was not done, or not all of it, is
/// tried by system calls, which have other ways, or tell why not.
fn finish(request: &Request, outcome: io::Result<u64>, image: &Image) -> Status {
    let operation = &request.operation;
    let done = match outcome {
        Ok(moved) if moved >= operation.length() => Ok(()),
        Ok(moved) => image.carry_out(operation, moved, request.durable),
        Err(_) => image.carry_out(operation, 0, request.durable),
    };
    match done {
        Ok(()) => Status::Ok,
        Err(error) => {
            image.failed(operation, &error);
            Status::Failed
        }
    }
}

/// Requests that are under way, each in a place where it stays.
pub struct Places {
    requests: Vec<Option<Request>>,
    free: Vec<usize>,
}

impl Default for Places {
    fn default() -> Self {
        let count = usize::from(QUEUE_SIZE);
        Places { requests: (0..count).map(|_| None).collect(), free: (0..count).collect() }
    }
}

impl Places {
    /// What is at `place`.
    pub fn get(&self, place: usize) -> Option<&Request> {
        self.requests.get(place)?.as_ref()
    }

    fn get_mut(&mut self, place: usize) -> Option<&mut Request> {
        self.requests.get_mut(place)?.as_mut()
    }

    fn have_room(&self) -> bool {
        !self.free.is_empty()
    }

    /// There must be room.
    fn put(&mut self, request: Request) -> usize {
        let place = self.free.pop().unwrap_or_default();
        self.requests[place] = Some(request);
        place
    }

    fn remove(&mut self, place: usize) -> Option<Request> {
        let request = self.requests.get_mut(place)?.take()?;
        self.free.push(place);
        Some(request)
    }
}
