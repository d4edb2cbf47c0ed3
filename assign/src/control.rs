//! Talking to guests that run: JSON over HTTP on a Unix socket for each, which its launcher serves.
//!
//! ```text
//! assign attach ─► client ─► /run/assign/guests/NAME/control ─► launch::serve ─► assign-vmm
//! ```
//! The directory is also what makes a guest's name its own: its launcher holds a lock there, which
//! goes with its process, so that what a killed one left is nobody's and is taken over.

use std::collections::BTreeMap;
use std::fs::{DirBuilder, File, OpenOptions, TryLockError};
use std::io::{self, ErrorKind, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use sriov::facts::platform::CpuSet;
use sriov::{HostRoot, PciAddress, attribute};
use vmm::spec::Departure;

use crate::failure::{Failure, OwnReason};

pub mod client;
pub mod http;
pub mod interfaces;
pub mod route;
pub mod stats;

/// Devices for a running guest: those at these addresses, which are bound for guests already, or one
/// of a pool.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Attach {
    /// The devices.
    #[serde(default)]
    pub devices: Vec<PciAddress>,
    /// The pool to take one from.
    #[serde(default)]
    pub pool: Option<String>,
}

/// What a guest got.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attached {
    /// The devices, each once.
    pub devices: Vec<PciAddress>,
}

/// How much of its memory a running guest is to keep: it gives the rest back, by its balloon.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Balloon {
    /// In bytes, a multiple of 4096, from 64 MiB to all of it.
    pub keep_bytes: u64,
}

/// What a guest was asked to do, which it does over time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ballooned {
    /// How much it is to keep, in bytes.
    pub keep_bytes: u64,
    /// How much that leaves for it to give, in bytes.
    pub target_bytes: u64,
    /// How much it has given so far, as it says, in bytes.
    pub given_bytes: u64,
    /// Whether it has a driver for that, which heard it.
    pub driven: bool,
}

/// A device to be taken from a running guest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Detach {
    /// Which.
    pub device: PciAddress,
    /// How long its guest may take to let it go, in seconds.
    #[serde(default = "patience")]
    pub timeout: u64,
    /// Take it when that is over, whatever the guest does with it.
    #[serde(default)]
    pub force: bool,
}

/// Seconds that a guest gets to let a device go where nothing else is said: its driver may have to
/// write out what it holds.
pub const PATIENCE: u64 = 30;

fn patience() -> u64 {
    PATIENCE
}

/// How a device came back.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Detached {
    /// Which.
    pub device: PciAddress,
    /// Who let go of it.
    pub by: Departure,
    /// What a person should know.
    pub notes: Vec<String>,
}

impl Detached {
    /// What its guest did, for people: to follow the guest's name.
    pub fn told(&self) -> String {
        Detached::told_of(self.device, self.by)
    }

    /// The same of any device.
    pub fn told_of(device: PciAddress, by: Departure) -> String {
        let how = match by {
            Departure::Guest => "has let go of",
            Departure::Forced => "had to give up",
        };
        format!("{how} {device}")
    }
}

/// A guest that runs, for a list of them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Running {
    /// Its name.
    pub guest: String,
    /// What its vCPUs do.
    pub state: Doing,
    /// How long its present life lasts, in seconds: since power-on, or its last reboot.
    pub up_s: u64,
    /// How many vCPUs it has.
    pub cpus: u32,
    /// The host's CPUs that a vCPU is bound to, by the vCPU's number.
    #[serde(default)]
    pub pin: BTreeMap<u8, CpuSet>,
    /// Those that the other threads of its process are bound to.
    #[serde(default)]
    pub emulator: Option<CpuSet>,
    /// Its memory, in bytes.
    pub memory_bytes: u64,
    /// Whether the host may share its memory with others, so that it can have no device.
    #[serde(default)]
    pub merge: bool,
    /// Whether it has a balloon, so that it can have no device.
    #[serde(default)]
    pub balloon: bool,
    /// The devices of this host that it has.
    pub devices: Vec<PciAddress>,
    /// The CID by which the host's programs reach it over vsock, where it has one.
    #[serde(default)]
    pub cid: Option<u32>,
    /// Its ports, in the order of its document.
    #[serde(default)]
    pub ports: Vec<Port>,
    /// Id of its process.
    pub pid: u32,
    /// Id of the process that started that one and looks after it.
    pub launcher_pid: u32,
}

/// A stream of bytes between a program of a guest and one of its host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Port {
    /// Its name.
    pub name: String,
    /// Whether it is a terminal in the guest.
    pub console: bool,
    /// The socket to which a program of the host connects, one at a time.
    pub path: PathBuf,
}

/// What a guest's vCPUs do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Doing {
    /// They are about to run.
    Starting,
    /// They run.
    Running,
    /// They are held.
    Paused,
}

/// A guest is to end.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Stop {
    /// How long it may take after its power button was pressed, in seconds. Then it is ended; at once
    /// where this is 0.
    #[serde(default = "patience")]
    pub timeout: u64,
}

/// How a guest ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stopped {
    /// Who ended it: the guest, in order, or whoever asked.
    pub by: Departure,
}

/// What the stream is switched to where a console is asked for: bytes as they are printed and typed.
pub const CONSOLE_PROTOCOL: &str = "console";

/// Somebody wants to see a guest's console, and to type.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Watch {
    /// How many of the lines that it printed before are shown first.
    #[serde(default)]
    pub lines: usize,
}

/// A request without parameters, or an answer that says no more than that it is done.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Nothing {}

/// A guest's place below `/run`.
#[derive(Debug)]
pub struct Place {
    root: HostRoot,
    directory: PathBuf,
    /// Held as long as the guest has a launcher.
    _lock: File,
}

/// The socket's name in its guest's directory.
const SOCKET: &str = "control";
/// The name of the folder with the sockets of its ports.
const PORTS: &str = "ports";
/// The name of the file with the interfaces that go with it, a name in each line.
const INTERFACES: &str = "interfaces";
/// The name of what its launcher has locked.
const LOCK: &str = "lock";

/// How long another command may hold the lock of a guest that does not run, to clear up after it.
const TIDIES: Duration = Duration::from_millis(100);
/// From one look at the lock to the next.
const LOOKS_AGAIN: Duration = Duration::from_millis(5);

/// The directory of the guest with this name.
fn directory(root: &HostRoot, guest: &str) -> PathBuf {
    root.run("assign/guests").join(guest)
}

/// Names of guests that can be spoken to, or that a killed launcher has left; none where this user may
/// not see them.
pub fn guests(root: &HostRoot) -> Vec<String> {
    let names = attribute::entries(&root.run("assign/guests")).unwrap_or_default();
    names.into_iter().filter(|name| socket(root, name).exists()).collect()
}

/// The socket of a port of a guest.
pub fn port(root: &HostRoot, guest: &str, port: &str) -> PathBuf {
    directory(root, guest).join(PORTS).join(port)
}

/// Removes the sockets and interfaces of guests whose launchers were killed.
pub fn tidy(root: &HostRoot) {
    let names = attribute::entries(&root.run("assign/guests")).unwrap_or_default();
    let has_left = |name: &String| {
        let left = |what| directory(root, name).join(what).exists();
        left(SOCKET) || left(PORTS) || left(INTERFACES)
    };
    for name in names.into_iter().filter(has_left) {
        let locked = File::open(directory(root, &name).join(LOCK)).map(|lock| {
            let is_free = lock.try_lock().is_ok();
            is_free.then_some(lock)
        });
        if let Ok(Some(_lock)) = locked {
            // What stays is removed by the next command, or by the guest's next launcher.
            clear_all(root, &directory(root, &name)).ok();
        }
    }
}

/// Its socket.
fn socket(root: &HostRoot, guest: &str) -> PathBuf {
    directory(root, guest).join(SOCKET)
}

impl Place {
    /// Takes the place of `guest` for this process.
    ///
    /// # Errors
    /// Refuses ([`OwnReason::GuestRuns`]) where another launcher has it; or why it cannot be made.
    pub fn take(root: &HostRoot, guest: &str) -> Result<Place, Failure> {
        let directory = directory(root, guest);
        let failed = |error: &io::Error| {
            let message = format!("cannot make {}: {error}", directory.display());
            Failure::failed(OwnReason::Guest, guest, message)
        };
        let made = DirBuilder::new().recursive(true).mode(0o700).create(&directory);
        made.map_err(|error| failed(&error))?;
        let lock = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(directory.join(LOCK))
            .map_err(|error| failed(&error))?;
        let limit = Instant::now() + TIDIES;
        loop {
            match lock.try_lock() {
                Ok(()) => break,
                Err(TryLockError::WouldBlock) if Instant::now() < limit => {
                    thread::sleep(LOOKS_AGAIN);
                }
                Err(TryLockError::WouldBlock) => {
                    return Err(Failure::refused(OwnReason::GuestRuns, guest, "runs already")
                        .with_remedy("Stop it first, or give this one another `metadata.name`."));
                }
                Err(TryLockError::Error(error)) => return Err(failed(&error)),
            }
        }
        clear_all(root, &directory).map_err(|error| failed(&error))?;
        Ok(Place { root: root.clone(), directory, _lock: lock })
    }

    /// Where its socket goes.
    pub fn socket(&self) -> PathBuf {
        self.directory.join(SOCKET)
    }

    /// Where the sockets of its ports go.
    pub fn ports(&self) -> PathBuf {
        self.directory.join(PORTS)
    }

    /// Writes down an interface that is to be removed after the guest, before it is made: a killed launcher
    /// leaves it.
    ///
    /// # Errors
    /// The kernel's.
    pub fn note_interface(&self, name: &str) -> io::Result<()> {
        let path = self.directory.join(INTERFACES);
        // One that could not be removed is there still.
        if noted_in(&path)?.lines().any(|noted| noted == name) {
            return Ok(());
        }
        let mut file = OpenOptions::new().append(true).create(true).mode(0o600).open(path)?;
        file.write_all(format!("{name}\n").as_bytes())
    }

    /// Removes the socket and the interfaces, where there are some: the guest's next life makes its own.
    ///
    /// # Errors
    /// The kernel's, of the socket. An interface that stays is removed before the next one is made.
    pub fn clear(&self) -> io::Result<()> {
        clear_interfaces(&self.root, &self.directory).ok();
        clear(&self.socket())
    }
}

fn clear(file: &Path) -> io::Result<()> {
    match std::fs::remove_file(file) {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// Removes the sockets and interfaces of a guest.
fn clear_all(root: &HostRoot, directory: &Path) -> io::Result<()> {
    clear(&directory.join(SOCKET))?;
    match std::fs::remove_dir_all(directory.join(PORTS)) {
        Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    clear_interfaces(root, directory)
}

/// Removes the interfaces that were written down for a guest.
fn clear_interfaces(root: &HostRoot, directory: &Path) -> io::Result<()> {
    let noted = directory.join(INTERFACES);
    for name in noted_in(&noted)?.lines() {
        interfaces::remove_left(root, name)?;
    }
    clear(&noted)
}

/// The names that were written down there.
fn noted_in(path: &Path) -> io::Result<String> {
    match std::fs::read_to_string(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(String::new()),
        read => read,
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        // The directory stays with its lock's file: another launcher may be waiting to look at it,
        // and would hold the lock of a file that is gone.
        clear_all(&self.root, &self.directory).ok();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_for_one_launcher_and_free_when_it_is_gone() {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let root = HostRoot::at(directory.path());
        let place = Place::take(&root, "web-1").expect("nobody has it");
        let error = Place::take(&root, "web-1").expect_err("it has a launcher");
        assert_eq!(error.exit_code(), 3);
        assert!(error.to_string().starts_with("web-1: runs already."), "{error}");
        Place::take(&root, "web-2").expect("another name");
        assert!(guests(&root).is_empty(), "none of them listens yet");
        // A killed launcher leaves its socket, and the lock goes with it.
        std::fs::write(place.socket(), "").expect("a file");
        assert_eq!(guests(&root), ["web-1"]);
        tidy(&root);
        assert_eq!(guests(&root), ["web-1"], "its launcher is there");
        let socket = place.socket();
        drop(place);
        assert!(!socket.exists());
        std::fs::write(&socket, "").expect("a file");
        tidy(&root);
        assert!(!socket.exists());
        Place::take(&root, "web-1").expect("its launcher is gone");
    }
}
