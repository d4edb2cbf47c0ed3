//! What a host and the commands in it are reached by: the machine's console, the agent in it, and QEMU.

use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result};

use crate::binaries::BUILT;
use crate::job::{Job, JobState};
use crate::machine::{Machine, Shared, keep};
use crate::monitor::{Monitor, Place};
use crate::wire::{Event, Message, Request, VERSION};

/// How long a host may take to say what a command waits for that does not end.
const ANSWERS_WITHIN: Duration = Duration::from_secs(30);

/// Prints for each thread of our programs its name, its state, and where it is in the kernel.
const WAITS: &str = "for task in $(pidof assign assign-vmm); do for task in /proc/$task/task/*; do \
    echo \"$task $(cat $task/comm) $(cut -d' ' -f3 $task/stat) $(cat $task/syscall)\"; \
    cat $task/stack; done; done 2>&1";

/// The ways to one host.
pub(crate) struct Contact {
    pub machine: Machine,
    pub monitor: Monitor,
    agent: Mutex<UnixStream>,
    next_id: AtomicU32,
}

impl Contact {
    /// With our ends of the agent's and of the monitor's sockets. What the agent reports is taken in from
    /// now on.
    pub fn new(machine: Machine, agent: UnixStream, monitor: UnixStream) -> Result<Self> {
        let stream = agent.try_clone().context("cannot listen to the agent")?;
        let shared = machine.shared.clone();
        thread::spawn(move || listen(stream, &shared));
        Ok(Contact {
            machine,
            monitor: Monitor::new(monitor)?,
            agent: Mutex::new(agent),
            next_id: AtomicU32::new(1),
        })
    }

    /// Tells the agent.
    pub fn send(&self, request: &Request) {
        let mut stream = self.agent.lock().unwrap_or_else(PoisonError::into_inner);
        // A host that is gone is noticed, with the reason, by whoever waits for the answer.
        let _ = request.send(&mut *stream);
    }

    /// Starts a command line, on a terminal of this many columns or on none.
    pub fn begin(
        self: &Arc<Self>,
        command: &str,
        env: &[(&str, &str)],
        terminal: Option<u16>,
    ) -> Job {
        let id = self.next_id.fetch_add(1, Ordering::Relaxed);
        self.machine
            .shared
            .change(|state| drop(state.jobs.insert(id, JobState::new(command.to_owned()))));
        let argv = ["/bin/sh", "-c", command].map(str::to_owned).to_vec();
        let env = env.iter().map(|(name, value)| (name.to_string(), value.to_string())).collect();
        self.send(&Request::Start { id, argv, env, terminal });
        Job { id, contact: self.clone() }
    }

    /// What each of our programs waits for, in the kernel, and where the processor is: where something
    /// does not come. A guest that spins is noted as the machine's fault.
    pub fn waits(self: &Arc<Self>) -> String {
        let places = self.monitor.places();
        let shown: String = places.iter().map(|place| format!("  {place}\n")).collect();
        let shown = format!("the machine's processor was at\n{shown}");
        let job = self.begin(WAITS, &[], None);
        job.close_stdin();
        match job.answer(ANSWERS_WITHIN) {
            Some(waits) => {
                if Place::spins(&places) {
                    self.machine.shared.change(|state| state.spins = true);
                }
                format!("{shown}our programs wait for\n{waits}")
            }
            None => {
                let seconds = ANSWERS_WITHIN.as_secs();
                format!("{shown}the host does not answer within {seconds} s")
            }
        }
    }
}

/// Takes in what the agent reports.
fn listen(mut stream: UnixStream, shared: &Shared) {
    loop {
        let event = match Event::receive(&mut stream) {
            Ok(Some(event)) => event,
            // QEMU has ended; the keeper says so.
            Ok(None) => return,
            Err(error) => {
                eprintln!("lab: what the agent says makes no sense: {error}");
                return;
            }
        };
        shared.change(|state| match event {
            Event::Hello { version: VERSION } => state.agent_ready = true,
            Event::Hello { version } => {
                state.ended = Some(format!(
                    "its agent speaks version {version} of our protocol and this lab {VERSION}: \
                     build the programs again ({BUILT} is for those who just have)"
                ));
            }
            Event::Stdout { id, bytes } => {
                if let Some(job) = state.jobs.get_mut(&id) {
                    keep(&mut job.stdout, &bytes);
                    keep(&mut job.both, &bytes);
                }
            }
            Event::Stderr { id, bytes } => {
                if let Some(job) = state.jobs.get_mut(&id) {
                    keep(&mut job.stderr, &bytes);
                    keep(&mut job.both, &bytes);
                }
            }
            Event::Exit { id, end } => {
                if let Some(job) = state.jobs.get_mut(&id) {
                    job.end = Some(Ok(end));
                }
            }
            Event::Failed { id, message } => {
                if let Some(job) = state.jobs.get_mut(&id) {
                    job.end = Some(Err(message));
                }
            }
        });
    }
}
