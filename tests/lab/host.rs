//! A running host, and what a scenario does in it.

use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result};

use crate::binaries::BUILT;
use crate::emulator;
use crate::job::{Job, JobState, Output};
use crate::machine::{Machine, Shared, keep};
use crate::monitor::Monitor;
use crate::processor::Processor;
use crate::scratch::Scratch;
use crate::setup::Ready;
use crate::shape::Shape;
use crate::wire::{Event, Message, Request, VERSION};

/// How long a command may take where nothing else is said.
const COMMAND: Duration = Duration::from_secs(120);

/// How long a host may take to say what a command waits for that does not end.
const ANSWERS_WITHIN: Duration = Duration::from_secs(30);
/// From one look at a host's processor to the next.
const LOOKS_AGAIN: Duration = Duration::from_millis(300);

/// Prints for each thread of our programs its name, its state, and where it is in the kernel.
const WAITS: &str = "for task in $(pidof assign assign-vmm); do for task in /proc/$task/task/*; do \
    echo \"$task $(cat $task/comm) $(cut -d' ' -f3 $task/stat) $(cat $task/syscall)\"; \
    cat $task/stack; done; done 2>&1";

/// How long a host may take until its agent answers. Two at once on two busy cores have taken 15 s.
const BOOT: Duration = Duration::from_secs(90);

/// A running host. It ends, with everything in it, when this is dropped.
pub struct Host {
    machine: Arc<Machine>,
    link: Arc<Link>,
    monitor: Monitor,
    next_id: AtomicU32,
    boot_time: Duration,
    /// Dropped after the machine, which may have files open there.
    _scratch: Scratch,
}

/// The way to the agent.
pub(crate) struct Link(Mutex<UnixStream>);

impl Link {
    pub fn send(&self, request: &Request) {
        let mut stream = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        // A host that is gone is noticed, with the reason, by whoever waits for the answer.
        let _ = request.send(&mut *stream);
    }
}

impl Host {
    /// Boots it. QEMU 10.0 has faults that strike while firmware and kernel start
    /// ([`emulator`]); no scenario can have caused them before it began, so the host is
    /// then booted once more.
    pub(crate) fn start(ready: &Ready, shape: &Shape) -> Result<Self> {
        let mut again = true;
        loop {
            let scratch = Scratch::new()?;
            let (machine, link, monitor) = Self::launch(ready, shape, scratch.path())?;
            let booted = machine.shared.wait(BOOT, |state| state.agent_ready.then_some(()));
            let Err(why) = booted else {
                let boot_time = machine.begun().elapsed();
                let next_id = AtomicU32::new(1);
                return Ok(Host { machine, link, monitor, next_id, boot_time, _scratch: scratch });
            };
            let error = machine.error(why, BOOT, "booting the host");
            let fault = emulator::boot_fault(&machine.shared.lock());
            let Some(fault) = fault.filter(|_| again) else { return Err(error) };
            again = false;
            eprintln!("lab: {fault}: booting the host once more: {error:#}");
        }
    }

    /// Starts QEMU, and listens to the agent that is going to answer.
    fn launch(
        ready: &Ready,
        shape: &Shape,
        scratch: &Path,
    ) -> Result<(Arc<Machine>, Arc<Link>, Monitor)> {
        let pair = || UnixStream::pair().context("cannot make a socket pair");
        let ((ours, agents), (monitor, qemus)) = (pair()?, pair()?);
        let mut command = shape.command(ready, scratch, "lab.agent")?;
        command.args(Shape::agent_port(agents.as_raw_fd()));
        command.args(Shape::monitor(qemus.as_raw_fd()));
        let theirs = [OwnedFd::from(agents), OwnedFd::from(qemus)];
        // SAFETY: the closure runs between fork and exec and makes system calls only. It owns the
        // descriptors, which therefore are still open, and still these sockets, when it runs.
        unsafe {
            command.pre_exec(move || {
                let none = rustix::io::FdFlags::empty();
                Ok(theirs.iter().try_for_each(|end| rustix::io::fcntl_setfd(end, none))?)
            });
        }
        // With a clock of instructions one thread wakes the other at each pause of a guest that spins,
        // and they get in each other's way.
        let processor = (!shape.is_counted()).then(Processor::take).transpose()?;
        let machine = Arc::new(Machine::start(command, shape.time_limit(), processor)?);
        thread::spawn({
            let (stream, shared) = (ours.try_clone()?, machine.shared.clone());
            move || listen(stream, &shared)
        });
        Ok((machine, Arc::new(Link(Mutex::new(ours))), Monitor::new(monitor)?))
    }

    /// How long it took from the start of QEMU until commands could be run.
    pub fn boot_time(&self) -> Duration {
        self.boot_time
    }

    /// Has a PCI Express device of the host meet an error and report it: `id` is QEMU's name of it, see
    /// [`Shape::frail`]. `COMP_TIME` is an uncorrectable one that is not fatal: a completion that did
    /// not come.
    pub fn inject_error(&self, id: &str, error: &str) -> Result<()> {
        self.monitor.inject_error(id, error)
    }

    /// The 8 bytes at a physical address of the host, as one little-endian number: memory, or registers
    /// of a device that answers.
    pub fn physical(&self, address: u64) -> Result<u64> {
        self.monitor.physical(address)
    }

    /// Everything on the host's console so far.
    pub fn console(&self) -> String {
        self.machine.console()
    }

    /// Runs a command line of `sh`, as root in /root, for at most 2 minutes. An exit code that is
    /// not 0 is no error; a command that does not end is one, and is killed.
    pub fn run(&self, command: &str) -> Result<Output> {
        self.run_within(command, COMMAND)
    }

    /// As [`run`](Self::run), with another limit.
    pub fn run_within(&self, command: &str, limit: Duration) -> Result<Output> {
        let job = self.spawn(command);
        job.close_stdin();
        job.wait(limit).map_err(|error| {
            let waits = self.waits();
            job.kill();
            error.context(waits)
        })
    }

    /// What each of our programs waits for, in the kernel: where a command does not end.
    fn waits(&self) -> String {
        let job = self.spawn(WAITS);
        job.close_stdin();
        match job.wait(ANSWERS_WITHIN) {
            Ok(output) => format!("what our programs wait for:\n{}", output.stdout),
            Err(_) => {
                let where_it_is = [(); 3].map(|()| {
                    std::thread::sleep(LOOKS_AGAIN);
                    self.monitor.processor()
                });
                format!(
                    "the host does not answer within {} s; its processor is at\n{}",
                    ANSWERS_WITHIN.as_secs(),
                    where_it_is.join("\n")
                )
            }
        }
    }

    /// Runs a command line that must succeed and returns its standard output.
    ///
    /// # Panics
    /// With all that is known, if it fails or does not end within 2 minutes.
    #[track_caller]
    pub fn ok(&self, command: &str) -> String {
        let job = self.spawn(command);
        job.close_stdin();
        let (stdout, _) = self.must(&job);
        String::from_utf8_lossy(&stdout).into_owned()
    }

    /// Starts a command line and returns at once. Its standard input stays open.
    pub fn spawn(&self, command: &str) -> Job {
        self.spawn_with(command, &[])
    }

    /// As [`spawn`](Self::spawn), with variables in the command's environment.
    pub fn spawn_with(&self, command: &str, env: &[(&str, &str)]) -> Job {
        self.begin(command, env, None)
    }

    /// As [`spawn`](Self::spawn), on a terminal of this many columns. Its errors are then part of
    /// its output, in the order they came. Enter is `\r`, and the end of the input is Ctrl-D.
    pub fn spawn_on_terminal(&self, command: &str, columns: u16) -> Job {
        self.begin(command, &[], Some(columns))
    }

    fn begin(&self, command: &str, env: &[(&str, &str)], terminal: Option<u16>) -> Job {
        let id = self.next_id.fetch_add(1, Ordering::Relaxed);
        self.machine
            .shared
            .change(|state| drop(state.jobs.insert(id, JobState::new(command.to_owned()))));
        let argv = ["/bin/sh", "-c", command].map(str::to_owned).to_vec();
        let env = env.iter().map(|(name, value)| (name.to_string(), value.to_string())).collect();
        self.link.send(&Request::Start { id, argv, env, terminal });
        Job { id, machine: self.machine.clone(), link: self.link.clone() }
    }

    /// The content of a file.
    ///
    /// # Panics
    /// If it cannot be read.
    #[track_caller]
    pub fn read(&self, path: &str) -> Vec<u8> {
        let job = self.spawn_with("cat \"$LAB_PATH\"", &[("LAB_PATH", path)]);
        job.close_stdin();
        self.must(&job).0
    }

    /// Writes a file, making the folders it lies in.
    ///
    /// # Panics
    /// If it cannot be written.
    #[track_caller]
    pub fn write(&self, path: &str, content: impl AsRef<[u8]>) {
        let command = "mkdir -p \"${LAB_PATH%/*}/\" && cat > \"$LAB_PATH\"";
        let job = self.spawn_with(command, &[("LAB_PATH", path)]);
        job.feed(content.as_ref());
        job.close_stdin();
        self.must(&job);
    }

    #[track_caller]
    fn must(&self, job: &Job) -> (Vec<u8>, Vec<u8>) {
        match job.finish(COMMAND) {
            Ok((0, stdout, stderr)) => (stdout, stderr),
            Ok(_) => panic!("a command failed that must not\n{}", job.report()),
            Err(error) => panic!("{error:#}"),
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
