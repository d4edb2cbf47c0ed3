//! The agent: runs in the emulated host as its process 1 and does what the lab asks.
//!
//! It is started by the host's init script once everything is mounted and loaded, finds the virtio
//! serial port called `lab.agent`, says hello, and from then on starts commands, feeds them input
//! and reports their output and their end. Commands run side by side, each in a process group of
//! its own.
//!
//! A command has pipes or, where the lab asks for it, a terminal: then it finds itself in a session
//! of its own, and its errors come mixed with its output, as they would on a screen.
//!
//! Started with `uevent`, it sends one device event and ends; with `terminal`, it leads such a session
//! ([`lead`]).
//!
//! As process 1 it inherits every orphan and has to reap them all. Therefore only the reaper waits
//! for processes; those that are commands are passed on to the thread that follows them.

use std::collections::HashMap;
use std::fs::{self, File, OpenOptions};
use std::io::{Read, Write};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Command, Stdio};
use std::sync::mpsc::{self, Receiver, Sender};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result};
use lab::wire::{CHUNK, End, Event, Message, Request, VERSION};
use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::io::FdFlags;
use rustix::pipe::PipeFlags;
use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, WaitOptions};
use rustix::pty::OpenptFlags;
use rustix::termios::Winsize;

/// How long after a command's end its output may still be open in a process it left behind.
const GRACE: Duration = Duration::from_secs(3);

/// What a command's follower is told, in this order: all outputs closed (in time), and the end.
enum News {
    OutputClosed,
    Ended(End),
}

struct Job {
    pid: Pid,
    stdin: Option<Sender<Vec<u8>>>,
    follower: Sender<News>,
}

struct Agent {
    port: Mutex<File>,
    jobs: Mutex<HashMap<u32, Job>>,
}

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match arguments.split_first() {
        Some((verb, rest)) if verb == "uevent" => lab::uevent::send(rest),
        Some((verb, rest)) if verb == "terminal" => lead(rest),
        Some((verb, _)) => anyhow::bail!("there is no verb {verb}"),
        None => serve(),
    }
}

/// What it does as process 1.
fn serve() -> Result<()> {
    let mut port = find_port()?;
    let agent = Arc::new(Agent { port: Mutex::new(port.try_clone()?), jobs: Mutex::default() });
    thread::spawn({
        let agent = agent.clone();
        move || agent.reap()
    });
    agent.report(Event::Hello { version: VERSION });
    while let Some(request) = Request::receive(&mut port).context("the lab's request")? {
        agent.clone().serve(request);
    }
    Ok(())
}

/// Opens the port by its name: there is no udev here to make a link of it.
fn find_port() -> Result<File> {
    for entry in fs::read_dir("/sys/class/virtio-ports").context("no virtio serial ports")? {
        let entry = entry?;
        let name = fs::read_to_string(entry.path().join("name")).unwrap_or_default();
        if name.trim() == lab::AGENT_PORT {
            let path = std::path::Path::new("/dev").join(entry.file_name());
            return OpenOptions::new()
                .read(true)
                .write(true)
                .open(&path)
                .with_context(|| format!("cannot open {}", path.display()));
        }
    }
    anyhow::bail!("no virtio serial port is called {}", lab::AGENT_PORT)
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A terminal, without what shows it.
struct Terminal {
    screen: OwnedFd,
    /// Closed when all that came to the screen was read.
    seen: OwnedFd,
}

/// The command that runs `program` on a new terminal, in a session that [`lead`] leads.
fn on_terminal(program: &str, arguments: &[String], columns: u16) -> Result<(Command, Terminal)> {
    let (waits, seen) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC)?;
    let mut command = Command::new("/proc/self/exe");
    command.args(["terminal", &waits.as_raw_fd().to_string(), program]).args(arguments);
    let screen = give_terminal(&mut command, columns, waits)?;
    Ok((command, Terminal { screen, seen }))
}

/// Leads the session of a command on a terminal: runs it, and ends as it did once its output was seen, which
/// the pipe named by the first argument tells by its end. The kernel takes the terminal away when the leader
/// ends, and what nobody has read by then is lost (drivers/tty/pty.c, `pty_flush_buffer`): were it the command
/// itself, its last words would be.
fn lead(arguments: &[String]) -> Result<()> {
    let [pipe, program, arguments @ ..] = arguments else {
        anyhow::bail!("it takes the number of a pipe and a command");
    };
    let pipe: RawFd = pipe.parse().context("the number of a pipe")?;
    // SAFETY: whoever started this has handed the pipe to it under this number, for nothing else.
    let pipe = unsafe { OwnedFd::from_raw_fd(pipe) };
    rustix::io::fcntl_setfd(&pipe, FdFlags::CLOEXEC)?;
    // What is typed to the command and sent to it is not for its leader.
    mask_signals(true);
    let mut command = Command::new(program);
    command.args(arguments);
    // SAFETY: the closure runs between fork and exec and makes one system call.
    unsafe {
        command.pre_exec(|| {
            mask_signals(false);
            Ok(())
        });
    }
    let mut child = command.spawn().context(program.clone())?;
    let status = child.wait()?;
    for end in 0..3 {
        // SAFETY: nothing is read or written any more by this process.
        drop(unsafe { OwnedFd::from_raw_fd(end) });
    }
    let limit = Timespec::try_from(GRACE).context("a time")?;
    rustix::event::poll(&mut [PollFd::new(&pipe, PollFlags::IN)], Some(&limit)).ok();
    let signal = status.signal().map(|signal| 128 + signal);
    std::process::exit(status.code().or(signal).unwrap_or(1))
}

/// Has no signal come to this thread but those that always do, or all of them.
fn mask_signals(all: bool) {
    // SAFETY: the set is filled before it is read, and lives until the calls return.
    unsafe {
        let mut set: libc::sigset_t = std::mem::zeroed();
        let _ = if all { libc::sigfillset(&raw mut set) } else { libc::sigemptyset(&raw mut set) };
        libc::pthread_sigmask(libc::SIG_SETMASK, &raw const set, std::ptr::null_mut());
    }
}

/// Lets a command run on a new terminal, in a session of its own, with `kept` open; returns the screen's side.
fn give_terminal(command: &mut Command, columns: u16, kept: OwnedFd) -> Result<OwnedFd> {
    let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
    let screen = rustix::pty::openpt(flags)?;
    rustix::pty::unlockpt(&screen)?;
    let size = Winsize { ws_row: 24, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
    rustix::termios::tcsetwinsize(&screen, size)?;
    let keyboard = rustix::pty::ioctl_tiocgptpeer(&screen, flags)?;
    command.stdin(keyboard.try_clone()?).stdout(keyboard.try_clone()?);
    command.stderr(keyboard.try_clone()?);
    // SAFETY: the closure runs between fork and exec and makes three system calls; it neither
    // allocates nor takes a lock, and owns the descriptors it uses.
    unsafe {
        command.pre_exec(move || {
            rustix::io::fcntl_setfd(&kept, FdFlags::empty())?;
            rustix::process::setsid()?;
            Ok(rustix::process::ioctl_tiocsctty(&keyboard)?)
        });
    }
    Ok(screen)
}

/// Passes on what the lab types.
fn feed(mut stdin: impl Write + Send + 'static, input: Receiver<Vec<u8>>) {
    thread::spawn(move || {
        for bytes in input {
            if stdin.write_all(&bytes).is_err() {
                break;
            }
        }
    });
}

impl Agent {
    fn report(&self, event: Event) {
        // If the lab is gone there is nobody to tell; the machine ends with it.
        let _ = event.send(&mut *lock(&self.port));
    }

    fn serve(self: Arc<Self>, request: Request) {
        match request {
            Request::Start { id, argv, env, terminal } => {
                if let Err(error) = self.clone().start(id, &argv, env, terminal) {
                    self.report(Event::Failed { id, message: format!("{error:#}") });
                }
            }
            Request::Stdin { id, bytes } => {
                if let Some(stdin) = lock(&self.jobs).get(&id).and_then(|job| job.stdin.as_ref()) {
                    // A command that no longer reads its input is not an error of the lab.
                    let _ = stdin.send(bytes);
                }
            }
            Request::CloseStdin { id } => {
                if let Some(job) = lock(&self.jobs).get_mut(&id) {
                    job.stdin = None;
                }
            }
            Request::Signal { id, signal } => {
                // Under the lock, so that the reaper cannot free the number for another process
                // between the look-up and the signal.
                let jobs = lock(&self.jobs);
                if let (Some(job), Some(signal)) = (jobs.get(&id), Signal::from_named_raw(signal)) {
                    let _ = rustix::process::kill_process_group(job.pid, signal);
                }
            }
        }
    }

    fn start(
        self: Arc<Self>,
        id: u32,
        argv: &[String],
        env: Vec<(String, String)>,
        terminal: Option<u16>,
    ) -> Result<()> {
        let (program, arguments) = argv.split_first().context("an empty command")?;
        let (news, follower_news) = mpsc::channel();
        let (stdin, input) = mpsc::channel();
        let (mut command, terminal) = match terminal {
            Some(columns) => {
                let (command, terminal) =
                    on_terminal(program, arguments, columns).context("a terminal")?;
                (command, Some(terminal))
            }
            None => {
                let mut command = Command::new(program);
                command.args(arguments).process_group(0);
                command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
                (command, None)
            }
        };
        command.envs(env).current_dir("/root");
        // The lock is held over the spawn: the reaper must find the job when its process ends.
        let mut jobs = lock(&self.jobs);
        let mut child = command.spawn().with_context(|| format!("cannot start {program}"))?;
        jobs.insert(
            id,
            Job { pid: Pid::from_child(&child), stdin: Some(stdin), follower: news.clone() },
        );
        drop(jobs);
        // The command's side of the terminal is held by `command` too; its end must be seen.
        drop(command);
        let mut open = 0;
        let mut listen = |from: Box<dyn Read + Send>,
                          event: fn(u32, Vec<u8>) -> Event,
                          seen: Option<OwnedFd>| {
            open += 1;
            let (agent, news) = (self.clone(), news.clone());
            thread::spawn(move || {
                agent.relay(from, |bytes| event(id, bytes));
                let _ = news.send(News::OutputClosed);
                drop(seen);
            });
        };
        if let Some(stdout) = child.stdout.take() {
            listen(Box::new(stdout), |id, bytes| Event::Stdout { id, bytes }, None);
        }
        if let Some(stderr) = child.stderr.take() {
            listen(Box::new(stderr), |id, bytes| Event::Stderr { id, bytes }, None);
        }
        match (child.stdin.take(), terminal) {
            (Some(stdin), _) => feed(stdin, input),
            (None, Some(Terminal { screen, seen })) => {
                let shown = Box::new(File::from(screen.try_clone()?));
                listen(shown, |id, bytes| Event::Stdout { id, bytes }, Some(seen));
                feed(File::from(screen), input);
            }
            (None, None) => {}
        }
        self.follow(id, open, follower_news);
        Ok(())
    }

    /// Waits for a command's end and, for a while, for what is still in its outputs.
    fn follow(self: Arc<Self>, id: u32, mut open: usize, news: Receiver<News>) {
        thread::spawn(move || {
            let mut ended = None;
            loop {
                let next = match ended {
                    None => news.recv().ok(),
                    Some(_) if open == 0 => None,
                    Some(_) => news.recv_timeout(GRACE).ok(),
                };
                match next {
                    Some(News::OutputClosed) => open -= 1,
                    Some(News::Ended(end)) => ended = Some(end),
                    None => break,
                }
            }
            if let Some(end) = ended {
                self.report(Event::Exit { id, end });
            }
        });
    }

    fn relay(&self, mut from: impl Read, event: impl Fn(Vec<u8>) -> Event) {
        let mut buffer = vec![0; CHUNK];
        while let Ok(count) = from.read(&mut buffer) {
            if count == 0 {
                break;
            }
            self.report(event(buffer[..count].to_vec()));
        }
    }

    fn reap(&self) {
        loop {
            // Look first, reap under the lock: a process that `start` is still starting (and, if
            // that fails, waiting for by itself) is left alone until it is in the table.
            let look = WaitIdOptions::EXITED | WaitIdOptions::NOWAIT;
            if !matches!(rustix::process::waitid(WaitId::All, look), Ok(Some(_))) {
                thread::sleep(Duration::from_millis(5));
                continue;
            }
            let mut jobs = lock(&self.jobs);
            while let Ok(Some((pid, status))) = rustix::process::wait(WaitOptions::NOHANG) {
                let end = match (status.exit_status(), status.terminating_signal()) {
                    (Some(code), _) => End::Code(code),
                    (None, Some(signal)) => End::Signal(signal),
                    (None, None) => continue,
                };
                let id = jobs.iter().find(|(_, job)| job.pid == pid).map(|(id, _)| *id);
                if let Some(job) = id.and_then(|id| jobs.remove(&id)) {
                    let _ = job.follower.send(News::Ended(end));
                }
            }
        }
    }
}
