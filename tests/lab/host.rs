//! A running host, and what a scenario does in it.

use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};

use crate::contact::Contact;
use crate::emulator;
use crate::job::{Job, Output};
use crate::machine::Machine;
use crate::processor::Processor;
use crate::scratch::Scratch;
use crate::setup::Ready;
use crate::shape::Shape;

/// How long a command may take where nothing else is said.
const COMMAND: Duration = Duration::from_secs(120);

/// How long a host may take until its agent answers. Two at once on two busy cores have taken 15 s.
const BOOT: Duration = Duration::from_secs(90);

/// A running host. It ends, with everything in it, when this is dropped.
pub struct Host {
    contact: Arc<Contact>,
    boot_time: Duration,
    /// Dropped after the machine, which may have files open there.
    _scratch: Scratch,
}

impl Host {
    /// Boots it. QEMU 10.0 has faults that strike while firmware and kernel start
    /// ([`emulator`]); no scenario can have caused them before it began, so the host is
    /// then booted once more.
    pub(crate) fn start(ready: &Ready, shape: &Shape) -> Result<Self> {
        let mut again = true;
        loop {
            let scratch = Scratch::new()?;
            let contact = Self::launch(ready, shape, scratch.path())?;
            let machine = &contact.machine;
            let booted = machine.shared.wait(BOOT, |state| state.agent_ready.then_some(()));
            let Err(why) = booted else {
                let boot_time = machine.begun().elapsed();
                return Ok(Host { contact: Arc::new(contact), boot_time, _scratch: scratch });
            };
            let error = machine.error(why, BOOT, "booting the host");
            let fault = emulator::boot_fault(&machine.shared.lock());
            let Some(fault) = fault.filter(|_| again) else { return Err(error) };
            again = false;
            eprintln!("lab: {fault}: booting the host once more: {error:#}");
        }
    }

    /// Starts QEMU, and listens to the agent that is going to answer.
    fn launch(ready: &Ready, shape: &Shape, scratch: &Path) -> Result<Contact> {
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
        let machine = Machine::start(command, shape.time_limit(), processor)?;
        Contact::new(machine, ours, monitor)
    }

    /// How long it took from the start of QEMU until commands could be run.
    pub fn boot_time(&self) -> Duration {
        self.boot_time
    }

    /// Has a PCI Express device of the host meet an error and report it: `id` is QEMU's name of it, see
    /// [`Shape::frail`]. `COMP_TIME` is an uncorrectable one that is not fatal: a completion that did
    /// not come.
    pub fn inject_error(&self, id: &str, error: &str) -> Result<()> {
        self.contact.monitor.inject_error(id, error)
    }

    /// The 8 bytes at a physical address of the host, as one little-endian number: memory, or registers
    /// of a device that answers.
    pub fn physical(&self, address: u64) -> Result<u64> {
        self.contact.monitor.physical(address)
    }

    /// Everything on the host's console so far.
    pub fn console(&self) -> String {
        self.contact.machine.console()
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
        job.wait(limit).inspect_err(|_| job.kill())
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
        self.contact.begin(command, env, None)
    }

    /// As [`spawn`](Self::spawn), on a terminal of this many columns. Its errors are then part of
    /// its output, in the order they came. Enter is `\r`, and the end of the input is Ctrl-D.
    pub fn spawn_on_terminal(&self, command: &str, columns: u16) -> Job {
        self.contact.begin(command, &[], Some(columns))
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
