//! Stands for the kernel as it works off queues (vhost), and panics where it is told what it would refuse,
//! or what is not in RAM. What the driver offers in the second queue it takes and gives back unread; the
//! first it leaves alone, as long as nobody on the host sends.

use std::ops::Range;
use std::sync::{Arc, Mutex};

use vm_memory::{GuestAddress, GuestMemoryBackend, GuestMemoryRegion};
use vmm_sys_util::eventfd::EventFd;

use super::take_signal;
use crate::error::{Error, Result, Trying};
use crate::machine::memory::GuestMemory;
use crate::virtio::queue::setup::Setup;
use crate::virtio::queue::{Queue, next_chain};
use crate::virtio::vhost::Engine;
use crate::virtio::vhost::sys::Rings;
use crate::virtio::{F_EVENT_IDX, F_INDIRECT_DESC, F_VERSION_1};

const QUEUES: usize = 2;
/// The queue that the driver sends by.
const SENDS: usize = 1;
/// Largest size of a queue that it takes.
const MOST_ENTRIES: u32 = 1 << 15;
/// What it can do, of which some is not for guests (`VHOST_F_LOG_ALL`), sockets that keep messages apart,
/// and frames over several buffers.
const FEATURES: u64 = F_VERSION_1 | F_EVENT_IDX | F_INDIRECT_DESC | 1 << 26 | 1 << 1 | 1 << 15;

/// The kernel.
pub struct Kernel {
    memory: GuestMemory,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    features: Option<u64>,
    queues: [Option<Given>; QUEUES],
    calls: [Option<EventFd>; QUEUES],
    runs: bool,
    signals: u64,
}

/// A queue that it was given.
struct Given {
    queue: Queue,
    kick: EventFd,
    broken: EventFd,
}

impl Kernel {
    /// One that reaches `memory`.
    pub fn new(memory: GuestMemory) -> Arc<Kernel> {
        Arc::new(Kernel { memory, state: Mutex::default() })
    }

    /// How often it has told the driver of used buffers.
    pub fn signals(&self) -> u64 {
        crate::lock(&self.state).signals
    }

    /// Whether it uses queues.
    pub fn runs(&self) -> bool {
        crate::lock(&self.state).runs
    }

    /// Does what it was kicked for, up to so many buffers, and says whether it found a queue broken.
    pub fn turn(&self, most: usize) -> bool {
        let State { queues, calls, runs, signals, .. } = &mut *crate::lock(&self.state);
        let Some(Given { queue, kick, broken }) = queues[SENDS].as_mut().filter(|_| *runs) else {
            return false;
        };
        if !take_signal(kick) {
            return false;
        }
        let mut used = 0;
        for _ in 0..most {
            let head = match next_chain(queue, &self.memory) {
                Ok(Some(chain)) => chain.head(),
                Ok(None) => break,
                Err(_) => return broken.write(1).is_ok(),
            };
            if queue.add_used(&self.memory, head, 0).is_err() {
                return broken.write(1).is_ok();
            }
            used += 1;
        }
        if used > 0
            && let Some(call) = &calls[SENDS]
        {
            *signals += 1;
            // A full counter means that the driver is told already.
            let _ = call.write(1);
        }
        false
    }

    /// The guest's address of what is in RAM with so many bytes.
    fn find(&self, host: u64, length: u64) -> GuestAddress {
        let found = self.memory.iter().find_map(|region| {
            let start = region.as_ptr() as u64;
            let within = Range { start, end: start + region.len() };
            (within.contains(&host) && host + length <= within.end)
                .then(|| GuestAddress(region.start_addr().0 + (host - start)))
        });
        found.unwrap_or_else(|| panic!("{length} bytes at {host:#x} are not in RAM"))
    }

    fn place(&self, rings: &Rings, features: u64) -> Result<Queue> {
        let Rings { size, descriptors, available, used } = *rings;
        let entries = u64::from(size);
        let places =
            [(descriptors, 16 * entries), (available, 6 + 2 * entries), (used, 6 + 8 * entries)];
        let [descriptors, driver, device] = places.map(|(at, length)| self.find(at, length).0);
        let refused = |_| Error::Spec(format!("no queue is made of {rings:?}"));
        let size = size as u16;
        let setup = Setup { most: size, size, is_ready: true, descriptors, driver, device };
        Queue::new(setup, features, &self.memory).map_err(refused)
    }
}

impl Engine for Arc<Kernel> {
    fn features(&self) -> Result<u64> {
        Ok(FEATURES)
    }

    fn set_features(&self, own: u64, _all: u64) -> Result<()> {
        let mut state = crate::lock(&self.state);
        assert!(!state.runs, "features change while queues are in use");
        assert_eq!(own & !FEATURES, 0, "it has no such features");
        state.features = Some(own);
        Ok(())
    }

    fn set_queue(&self, index: u32, rings: &Rings, kick: &EventFd, broken: &EventFd) -> Result<()> {
        let mut state = crate::lock(&self.state);
        assert!(!state.runs, "queue {index} changes while it is in use");
        assert!(rings.size.is_power_of_two() && rings.size <= MOST_ENTRIES, "{rings:?}");
        let features = state.features.expect("features come before queues");
        let share = |event: &EventFd| event.try_clone().system("share an event");
        let queue = self.place(rings, features)?;
        let given = Given { queue, kick: share(kick)?, broken: share(broken)? };
        state.queues[index as usize] = Some(given);
        Ok(())
    }

    fn set_call(&self, index: u32, call: Option<&EventFd>) -> Result<()> {
        let call = call.map(EventFd::try_clone).transpose().system("share an event")?;
        crate::lock(&self.state).calls[index as usize] = call;
        Ok(())
    }

    fn set_running(&self, runs: bool) -> Result<()> {
        let mut state = crate::lock(&self.state);
        assert!(!runs || state.queues.iter().all(Option::is_some), "a queue is missing");
        state.runs = runs;
        if !runs {
            state.queues = [None, None];
        }
        Ok(())
    }
}
