//! Holding all vCPUs between two instructions of theirs, and letting them go on.
//!
//! A vCPU that is to stop is interrupted by a signal, which has KVM_RUN come back, and looks here before
//! it runs again. A signal that comes between the two is lost, so it is sent until the vCPU has come.
//!
//! Only the vCPUs stop: devices go on, those of the host into the guest's memory too.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use vmm_sys_util::signal::Killable;

use super::kvm;
use crate::error::{Error, Result};

/// How long vCPUs may take to stop: one may be held until devices are there, or memory is pinned.
const STOPS_WITHIN: Duration = Duration::from_secs(10);
/// How long until the next signal.
const AGAIN: Duration = Duration::from_millis(2);

/// Where vCPUs wait while the guest is paused.
#[derive(Debug, Default)]
pub struct Pause {
    /// What each vCPU looks at before it runs.
    wanted: AtomicBool,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    threads: Vec<JoinHandle<()>>,
    stopped: usize,
    paused: bool,
}

impl Pause {
    /// With no vCPU yet.
    ///
    /// # Errors
    /// The kernel's, from making the signal known.
    pub fn new() -> Result<Self> {
        kvm::handle_interruption()?;
        Ok(Pause::default())
    }

    fn state(&self) -> MutexGuard<'_, State> {
        crate::lock(&self.state)
    }

    /// Adds the thread of a vCPU, which looks here by [`Pause::pass`].
    pub fn add(&self, thread: JoinHandle<()>) {
        self.state().threads.push(thread);
    }

    /// Whether the guest is paused.
    pub fn is_paused(&self) -> bool {
        self.state().paused
    }

    /// For a vCPU that is about to run: waits while the guest is paused, and says whether it has.
    pub fn pass(&self) -> bool {
        if !self.wanted.load(Ordering::Acquire) {
            return false;
        }
        let mut state = self.state();
        state.stopped += 1;
        self.changed.notify_all();
        while self.wanted.load(Ordering::Acquire) {
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        state.stopped -= 1;
        self.changed.notify_all();
        true
    }

    /// Stops all vCPUs, and returns when none runs. One that is paused stays so.
    ///
    /// # Errors
    /// That a vCPU does not stop; all go on then.
    pub fn pause(&self) -> Result<()> {
        let mut state = self.state();
        self.wanted.store(true, Ordering::Release);
        let limit = Instant::now() + STOPS_WITHIN;
        while state.stopped < state.threads.len() {
            if Instant::now() >= limit {
                drop(state);
                self.resume();
                let detail = "a vCPU is held: devices or their memory are not ready yet; try again";
                return Err(Error::System {
                    action: "pause the guest",
                    source: std::io::Error::other(detail),
                });
            }
            for thread in &state.threads {
                // A thread that has ended has nothing to be interrupted.
                let _ = thread.kill(kvm::interruption());
            }
            let waited = self.changed.wait_timeout(state, AGAIN);
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
        state.paused = true;
        Ok(())
    }

    /// Lets all go on, and returns when they do. One that runs goes on.
    pub fn resume(&self) {
        let mut state = self.state();
        state.paused = false;
        self.wanted.store(false, Ordering::Release);
        self.changed.notify_all();
        while state.stopped > 0 {
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }
}
