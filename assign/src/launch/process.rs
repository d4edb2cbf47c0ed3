//! The guest's process: `assign-vmm`, which inherits its descriptors and dies with us.

#[allow(unsafe_code)]
mod child;

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{OwnedFd, RawFd};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ExitStatus, Stdio};

use rustix::process::{PidfdFlags, Resource, Rlimit, Signal};
use vmm::spec::{GuestEvent, GuestSpec, StopReason};

pub use self::child::Start;
use super::numa::Node;
use super::placement::Affinity;
use super::session::Ending;

/// What may be locked beyond guest memory: device registers mapped into the guest, and queues.
const LOCKED_SLACK: u64 = 64 << 20;
/// Longest line of events; the longest real one carries an error message.
const MAX_LINE: usize = 64 << 10;

/// The limit of niceness for who may be as urgent as others, 0: it is counted down from 20.
const ORDINARY: u64 = 20;

/// Events that are kept until somebody takes them.
const MAX_NEWS: usize = 256;

/// The program: beside this one, where it is installed, else by PATH.
pub fn program() -> PathBuf {
    let name = "assign-vmm";
    let beside = std::env::current_exe().ok().and_then(|own| Some(own.parent()?.join(name)));
    beside.filter(|path| path.is_file()).unwrap_or_else(|| PathBuf::from(name))
}

/// Where the process has its memory and runs; what is left out is left to the kernel.
#[derive(Debug, Clone, Copy, Default)]
pub struct Near {
    /// The node that its memory comes from.
    pub node: Option<Node>,
    /// The CPUs that it runs on.
    pub cpus: Option<Affinity>,
}

/// What a VMM begins with, beside its spec.
#[derive(Debug)]
pub struct Begins {
    /// The descriptors that the spec names.
    pub inherits: Vec<RawFd>,
    /// The read end of the pipe for events.
    pub events: OwnedFd,
    /// Where it has its memory and runs.
    pub near: Near,
    /// The file that lets it into its control group.
    pub group: Option<OwnedFd>,
    /// Where it says what is no event, such as a panic.
    pub last_words: Stdio,
}

/// A running `assign-vmm`. Dropping it kills and reaps the process, so that no way out of the
/// launcher leaves a guest behind.
#[derive(Debug)]
pub struct Vmm {
    child: Child,
    /// Readable when the process has ended.
    pub pidfd: OwnedFd,
    /// Readable when there are events.
    pub events: Events,
}

impl Vmm {
    /// Starts the VMM on `spec`.
    ///
    /// # Errors
    /// The kernel's, from making the process or from what is set up within it.
    pub fn start(program: &Path, spec: &GuestSpec, begins: Begins) -> io::Result<Vmm> {
        let Begins { inherits, events, near, group, last_words } = begins;
        let locked = spec.vfio.is_some().then_some(spec.memory.bytes.saturating_add(LOCKED_SLACK));
        let limit = locked.map(raised_limit);
        let in_child = move || -> io::Result<()> {
            if let Some(group) = &group {
                // Before anything that counts. 0 is whoever writes it, in whatever space of ids.
                rustix::io::write(group, b"0")?;
            }
            if let Some(limit) = &limit {
                // Who may not raise it may still have CAP_IPC_LOCK, which needs no limit; who has
                // neither is told by the VMM when it maps memory for the device.
                rustix::process::setrlimit(Resource::Memlock, *limit).ok();
            }
            if let Some(node) = &near.node {
                node.bind()?;
            }
            if let Some(cpus) = &near.cpus {
                cpus.bind()?;
            }
            // Its threads are to become as urgent again as they were.
            let nice = Rlimit { current: Some(ORDINARY), maximum: Some(ORDINARY) };
            rustix::process::setrlimit(Resource::Nice, nice).ok();
            Ok(())
        };
        let is_shut_in = spec.sandbox.is_some();
        let start = Start { program, task: "--spec", spec, inherits, is_shut_in, last_words };
        let mut child = start.spawn(in_child)?;
        let ready = rustix::process::pidfd_open(pid(&child), PidfdFlags::empty())
            .and_then(|pidfd| Ok((pidfd, Events::new(events)?)));
        match ready {
            Ok((pidfd, events)) => Ok(Vmm { child, pidfd, events }),
            Err(error) => {
                // Nothing is left of it, and its own end is of no interest.
                child.kill().and_then(|()| child.wait()).ok();
                Err(error.into())
            }
        }
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Ends it. It has nothing to put in order: the kernel closes what it has.
    pub fn kill(&self) {
        // A process that has ended already is what was wanted.
        rustix::process::pidfd_send_signal(&self.pidfd, Signal::KILL).ok();
    }

    /// Waits for its end, and says why the guest stopped: by its own last event, else by how the
    /// process ended.
    pub fn reap(mut self) -> io::Result<Ending> {
        let status = self.child.wait()?;
        self.events.read()?;
        let told = self.events.stopped.take().map(Ending::Guest);
        Ok(told.unwrap_or_else(|| from_status(status)))
    }
}

impl Drop for Vmm {
    fn drop(&mut self) {
        // Both fail only for a process that is reaped, as after `reap`.
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

/// Lets a running VMM lock `memory_bytes` of guest memory for its first device.
///
/// # Errors
/// The kernel's; who may not raise the limit may still have no need to.
pub fn let_lock(vmm: u32, memory_bytes: u64) -> io::Result<()> {
    let pid = i32::try_from(vmm).ok().and_then(rustix::process::Pid::from_raw);
    let limit = raised_limit(memory_bytes.saturating_add(LOCKED_SLACK));
    match rustix::process::prlimit(pid, Resource::Memlock, limit) {
        Ok(_) | Err(rustix::io::Errno::PERM) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

fn pid(child: &Child) -> rustix::process::Pid {
    rustix::process::Pid::from_child(child)
}

/// The limit of locked memory, raised to `bytes` where it is lower.
fn raised_limit(bytes: u64) -> Rlimit {
    let now = rustix::process::getrlimit(Resource::Memlock);
    // `None` is unlimited.
    Rlimit {
        current: now.current.map(|limit| limit.max(bytes)),
        maximum: now.maximum.map(|limit| limit.max(bytes)),
    }
}

/// How the process ended, where it did not say itself ([`StopReason::exit_status`]).
fn from_status(status: ExitStatus) -> Ending {
    Ending::Guest(match (status.code(), status.signal()) {
        (Some(0), _) => StopReason::PowerOff,
        (Some(5), _) => {
            StopReason::Crash { triple_fault: false, detail: "its CPU stopped".to_owned() }
        }
        (Some(6), _) => StopReason::Reboot,
        (Some(7), _) => {
            StopReason::NoDevices { device: None, detail: "they could not be used".to_owned() }
        }
        (Some(code), _) => {
            StopReason::Failed { detail: format!("assign-vmm ended with exit status {code}") }
        }
        (None, signal) => return Ending::Killed(signal.unwrap_or_default()),
    })
}

/// The read end of the events' pipe. The VMM is not trusted: lines that are no event are left out,
/// and of an endless line only so much is kept.
#[derive(Debug)]
pub struct Events {
    /// The pipe, which never blocks.
    pub pipe: File,
    line: Vec<u8>,
    stopped: Option<StopReason>,
    /// What has been told and not been taken yet: a VMM that floods us is not kept up with.
    news: Vec<GuestEvent>,
}

impl Events {
    fn new(pipe: OwnedFd) -> rustix::io::Result<Events> {
        rustix::io::ioctl_fionbio(&pipe, true)?;
        Ok(Events { pipe: File::from(pipe), line: Vec::new(), stopped: None, news: Vec::new() })
    }

    /// Takes in what is there. False at the end of the stream.
    pub fn read(&mut self) -> io::Result<bool> {
        let mut bytes = [0; 4096];
        loop {
            match self.pipe.read(&mut bytes) {
                Ok(0) => return Ok(false),
                Ok(count) => bytes.iter().take(count).for_each(|byte| self.take(*byte)),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(true),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// What has been told since the last time.
    pub fn take_news(&mut self) -> Vec<GuestEvent> {
        std::mem::take(&mut self.news)
    }

    fn take(&mut self, byte: u8) {
        if byte != b'\n' {
            if self.line.len() < MAX_LINE {
                self.line.push(byte);
            }
            return;
        }
        match serde_json::from_slice(&self.line) {
            Ok(GuestEvent::Stopped { reason }) => self.stopped = Some(reason),
            Ok(event) if self.news.len() < MAX_NEWS => self.news.push(event),
            Ok(_) | Err(_) => {}
        }
        self.line.clear();
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::os::fd::{AsFd, AsRawFd};
    use std::process::Command;

    use rustix::io::FdFlags;

    use super::*;
    use crate::signals;

    fn pipe_with(text: &str) -> Events {
        let (read, write) =
            rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).expect("a pipe");
        File::from(write).write_all(text.as_bytes()).expect("room in the pipe");
        Events::new(read).expect("a pipe can be non-blocking")
    }

    #[test]
    fn events_are_read_and_rubbish_is_left_out() {
        let mut events = pipe_with(
            "{\"event\":\"started\"}\nrubbish\n{\"event\":\"stopped\",\"reason\":{\"kind\":\"reboot\"}}\n",
        );
        assert!(!events.read().expect("a readable pipe"));
        assert_eq!(events.take_news(), [GuestEvent::Started]);
        assert_eq!(events.stopped, Some(StopReason::Reboot));
    }

    #[test]
    fn an_endless_line_is_not_kept() {
        let mut events = pipe_with("");
        for _ in 0..2 * MAX_LINE {
            events.take(b'x');
        }
        assert_eq!(events.line.len(), MAX_LINE);
    }

    /// A program in place of assign-vmm, which tells as its last event what `words` prints.
    fn told_by_program(words: &str, has_vfio: bool) -> String {
        use std::os::unix::fs::PermissionsExt;
        let folder = tempfile::tempdir().expect("a folder");
        let program = folder.path().join("program");
        let script = format!(
            "#!/bin/sh\nevents=$(sed 's/.*\"events\":\\([0-9]*\\).*/\\1/' /proc/self/fd/$2)\n\
             printf '{{\"event\":\"stopped\",\"reason\":{{\"kind\":\"failed\",\"detail\":\"%s\"}}}}\\n' \
             \"$({words})\" > /proc/self/fd/$events\n"
        );
        std::fs::write(&program, script).expect("a script");
        std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o700))
            .expect("its owner may change it");
        let (read, write) =
            rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).expect("a pipe");
        let null = || OwnedFd::from(File::open("/dev/null").expect("/dev/null is always there"));
        let vfio = vmm::spec::Vfio {
            iommu: vmm::spec::Iommu::Iommufd { descriptor: vmm::spec::Descriptor(-1) },
            devices: Vec::new(),
            reserved: Vec::new(),
            peer_to_peer: false,
        };
        let kernel = null();
        let spec = GuestSpec {
            name: "web-1".to_owned(),
            cpus: vmm::spec::Cpus::count(1),
            memory: vmm::spec::Memory::bytes(1 << 40),
            kvm: vmm::spec::Descriptor(-1),
            boot: vmm::spec::Boot {
                kernel: vmm::spec::Descriptor(kernel.as_raw_fd()),
                initrd: None,
                cmdline: String::new(),
            },
            console: vmm::spec::Console { input: None, output: vmm::spec::Descriptor(1) },
            events: Some(vmm::spec::Descriptor(write.as_raw_fd())),
            control: None,
            networks: Vec::new(),
            disks: Vec::new(),
            rng: false,
            packed_rings: false,
            vsock: None,
            balloon: None,
            ports: Vec::new(),
            vfio: has_vfio.then_some(vfio),
            sandbox: None,
        };
        let signals = signals::Signals::hold().expect("a signalfd");
        let begins = Begins {
            inherits: vec![write.as_raw_fd(), kernel.as_raw_fd()],
            events: read,
            near: Near::default(),
            group: None,
            last_words: Stdio::inherit(),
        };
        let vmm = Vmm::start(&program, &spec, begins).expect("a program that runs");
        drop((write, kernel));
        let nobody = rustix::event::eventfd(0, rustix::event::EventfdFlags::NONBLOCK);
        let nobody = nobody.expect("a counter");
        let ending = super::super::session::attend(
            vmm,
            &signals,
            [nobody.as_fd(), nobody.as_fd()],
            super::super::session::Host::default(),
            |_| std::ops::ControlFlow::Continue(()),
            |_| {},
            |_| {},
        );
        match ending.expect("an end") {
            Ending::Guest(StopReason::Failed { detail }) => detail,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn the_program_reads_its_spec_and_its_event_arrives() {
        assert_eq!(told_by_program("echo hello", false), "hello");
    }

    #[test]
    fn the_program_gets_no_signal_held_back() {
        let blocked = told_by_program("sed -n 's/^SigBlk:[ \t]*//p' /proc/$$/status", false);
        assert_eq!(blocked, "0000000000000000");
    }

    #[test]
    fn the_program_gets_no_descriptor_but_its_own() {
        // As if our own parent had left it open for us and all our children.
        let folder = tempfile::tempdir().expect("a folder");
        let left_open = File::create(folder.path().join("left-open")).expect("a file");
        rustix::io::fcntl_setfd(&left_open, FdFlags::empty()).expect("an open descriptor");
        let words = "ls -l /proc/$$/fd | grep -c left-open";
        let ordinary = Command::new("sh").args(["-c", words]).output().expect("a shell");
        assert_eq!(ordinary.stdout, b"1\n", "an ordinary child has it");
        assert_eq!(told_by_program(words, false), "0");
    }

    #[test]
    fn memory_may_be_locked_for_a_device() {
        let limit = told_by_program("ulimit -l", true);
        let enough = limit == "unlimited" || limit.parse::<u64>().is_ok_and(|kib| kib >> 30 >= 1);
        let may_raise =
            rustix::process::setrlimit(Resource::Memlock, raised_limit(1 << 50)).is_ok();
        assert!(enough || !may_raise, "{limit}");
    }

    #[test]
    fn an_end_without_a_word_is_told_by_its_status() {
        assert_eq!(from_status(ExitStatus::from_raw(0)), Ending::Guest(StopReason::PowerOff));
        assert_eq!(from_status(ExitStatus::from_raw(6 << 8)), Ending::Guest(StopReason::Reboot));
        assert_eq!(from_status(ExitStatus::from_raw(9)), Ending::Killed(9));
    }
}
