//! Simulated hosts: a tree, and a kernel for it that answers other processes, so that the `assign`
//! program itself can be run against a host that is none. See [`crate::simulated`] for the wire.
//!
//! ```text
//! sysfs.rs       VFs come and go, drivers take and leave functions
//! rtnetlink.rs   links go up and down, PFs set things for their VFs
//! drive.rs       a drive shares its queues and interrupts out
//! ```
//!
//! Each connection has a thread; what it asks for is done while nobody else's is. A test may look at
//! a request before it is done, to hold it up or to fail it: see [`Kernel::before`].

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::Path;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;

use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketAddrUnix, SocketFlags, SocketType, bind, listen,
};

use super::{Function, Tree, VfKind};
use crate::address::PciAddress;
use crate::nvme::Share;
use crate::simulated::SOCKET;
use crate::vf_settings::VfSettings;

mod drive;
mod rtnetlink;
mod sysfs;

pub use drive::Drive;

/// Longest request.
const LONGEST: usize = 64 << 10;

/// A simulated host in the making.
#[derive(Debug)]
pub struct Simulation {
    tree: Tree,
    host: Host,
}

/// What the kernel of a simulated host knows beside the files.
#[derive(Debug, Default)]
struct Host {
    functions: BTreeMap<PciAddress, Function>,
    drives: BTreeMap<PciAddress, Drive>,
    /// By the PF's interface number and the VF's index.
    settings: BTreeMap<(u32, u16), VfSettings>,
    /// The host's drivers, of functions that have none now as well.
    drivers: BTreeMap<PciAddress, &'static str>,
    /// How many VFs a PF is given at most, whatever is asked for: for the rest the kernel finds no
    /// room, and only its log says so.
    most: BTreeMap<PciAddress, u16>,
}

/// What was asked of the kernel, for a test to look at before it is done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Request {
    /// A file was written: its path below the tree, and what.
    Write(String, String),
    /// rtnetlink was asked to change something of the interface of this number.
    SetLink(u32),
    /// rtnetlink was asked for something.
    Get,
    /// A drive got an admin command: its opcode and dword 10.
    Nvme(PciAddress, u8, u32),
}

/// Looks at a request before it is done; an error is what its caller gets instead.
pub type Before = dyn Fn(&Request) -> io::Result<()> + Send + Sync;

struct Shared {
    tree: Tree,
    host: Mutex<Host>,
    before: Mutex<Option<Arc<Before>>>,
    /// Connections that are open.
    open: Mutex<usize>,
    closed: Condvar,
}

/// The kernel of a simulated host, at work until it is dropped.
pub struct Kernel {
    shared: Arc<Shared>,
    listener: Arc<OwnedFd>,
    thread: Option<thread::JoinHandle<()>>,
}

impl std::fmt::Debug for Kernel {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Kernel").field("tree", &self.shared.tree).finish_non_exhaustive()
    }
}

impl Simulation {
    /// A host in this tree; what was added to the tree before has no behaviour.
    pub fn new(tree: &Tree) -> Simulation {
        Simulation { tree: tree.clone(), host: Host::default() }
    }

    /// The tree, to add what has no behaviour.
    pub fn tree(&self) -> &Tree {
        &self.tree
    }

    /// Lays out a function, which takes part from now on. Its VFs are bound to the driver of their
    /// kind where the host binds drivers to new VFs.
    #[must_use]
    pub fn function(mut self, function: Function) -> Simulation {
        let address: PciAddress = function.address.parse().expect("an address");
        if let (Some(name), Some(_)) = (function.netdev, function.vfs) {
            self.tree.file(&format!("proc/sys/net/ipv6/conf/{name}/accept_ra"), "1\n");
        }
        self.tree.add(function.clone());
        if let Some(driver) = function.vf.driver {
            self.tree.driver(driver);
        }
        if let Some(driver) = function.driver {
            self.host.drivers.insert(address, driver);
        }
        self.host.functions.insert(address, function.clone());
        if let Some((_, present)) = function.vfs {
            self.host.new_vfs(&self.tree, address, present, function.vf.driver);
        }
        self
    }

    /// Lays out an NVMe drive that shares its queues and interrupts out.
    #[must_use]
    pub fn drive(mut self, function: Function, drive: Drive) -> Simulation {
        let address: PciAddress = function.address.parse().expect("an address");
        let controller = format!("nvme/nvme{}", self.host.drives.len());
        self = self.function(function.attribute("reset", ""));
        self.tree.attribute(&address.to_string(), &format!("{controller}/state"), "live\n");
        self.tree.attribute(&address.to_string(), &format!("{controller}/dev"), "240:0\n");
        self.host.drives.insert(address, drive);
        self
    }

    /// The host of the emulated lab, as [`Tree::lab`] lays it out: an igb NIC whose interface is
    /// down, with so many of its 7 VFs, which igbvf takes.
    pub fn lab(directory: &Path, vfs: u16) -> Simulation {
        let kind = VfKind { driver: Some("igbvf"), ..VfKind::default() };
        Simulation::lab_with_vfs(directory, vfs, kind)
    }

    /// The same with VFs of this kind.
    pub fn lab_with_vfs(directory: &Path, vfs: u16, kind: VfKind) -> Simulation {
        let tree = Tree::lab_without_card(directory);
        Simulation::new(&tree).function(Function { vf: kind, ..Tree::lab_card(vfs) })
    }

    /// The same with an NVMe drive that has 32 VFs at most, none of them there, and all of the pool.
    pub fn lab_with_drive(directory: &Path) -> Simulation {
        let drive = Function::new("0000:02:00.0", (0x1b36, 0x0010), 0x01_0802)
            .below("0000:00:02.0")
            .driver("nvme")
            .group(9)
            .vfs(32, 0)
            .vf_kind(VfKind { device: 0x0010, group: 40, driver: Some("nvme"), config: None });
        let simulation = Simulation::lab(directory, 0);
        let port = Function::new("0000:00:02.0", (0x1b36, 0x000c), 0x06_0400);
        simulation.tree.add(port.driver("pcieport").group(2));
        simulation.drive(drive, Drive::lab(Share { queues: 72, interrupts: 40 }))
    }

    /// Sets the kernel to work.
    pub fn start(self) -> Kernel {
        let Simulation { tree, host } = self;
        let root = tree.root().directory().to_owned();
        let directory = File::open(&root).expect("the tree");
        let flags = SocketFlags::CLOEXEC;
        let kind = SocketType::SEQPACKET;
        let listener = rustix::net::socket_with(AddressFamily::UNIX, kind, flags, None);
        let listener = Arc::new(listener.expect("a socket"));
        // By the directory's descriptor: a path may be too long for an address.
        let name = format!("/proc/self/fd/{}/{SOCKET}", directory.as_raw_fd());
        bind(&*listener, &SocketAddrUnix::new(name).expect("a short name")).expect("a free name");
        listen(&*listener, 64).expect("a listening socket");
        let shared = Arc::new(Shared {
            tree,
            host: Mutex::new(host),
            before: Mutex::new(None),
            open: Mutex::new(0),
            closed: Condvar::new(),
        });
        let thread = {
            let (shared, listener) = (Arc::clone(&shared), Arc::clone(&listener));
            thread::spawn(move || accept(&shared, &listener))
        };
        Kernel { shared, listener, thread: Some(thread) }
    }
}

fn accept(shared: &Arc<Shared>, listener: &OwnedFd) {
    while let Ok(connection) = rustix::net::accept_with(listener, SocketFlags::CLOEXEC) {
        *lock(&shared.open) += 1;
        let shared = Arc::clone(shared);
        thread::spawn(move || {
            serve(&shared, &connection);
            drop(connection);
            *lock(&shared.open) -= 1;
            shared.closed.notify_all();
        });
    }
}

fn serve(shared: &Shared, connection: &OwnedFd) {
    let mut request = vec![0; LONGEST];
    while let Ok((length @ 1.., _)) =
        rustix::net::recv(connection, &mut request, RecvFlags::empty())
    {
        let Some((kind, body)) = request.get(..length).and_then(<[u8]>::split_first) else {
            return;
        };
        for answer in shared.answer(*kind, body) {
            // Whoever asked may be gone by now.
            if rustix::net::send(connection.as_fd(), &answer, SendFlags::NOSIGNAL).is_err() {
                break;
            }
        }
    }
}

impl Shared {
    fn answer(&self, kind: u8, body: &[u8]) -> Vec<Vec<u8>> {
        match kind {
            b'w' => vec![code(self.written(body))],
            b'r' => rtnetlink::answer(self, body),
            b'n' => vec![drive::answer(self, body)],
            _ => vec![code(Err(io::Error::from_raw_os_error(EINVAL)))],
        }
    }

    fn written(&self, body: &[u8]) -> io::Result<()> {
        let text = std::str::from_utf8(body).map_err(io::Error::other)?;
        let (path, value) = text.split_once('\0').ok_or_else(|| io::Error::other("no value"))?;
        self.ask_before(&Request::Write(path.to_owned(), value.to_owned()))?;
        lock(&self.host).written(&self.tree, path, value.trim_end())
    }

    /// The lock is not held meanwhile, so that requests of several connections can be here at once.
    fn ask_before(&self, request: &Request) -> io::Result<()> {
        let before = lock(&self.before).clone();
        before.map_or(Ok(()), |before| before(request))
    }
}

impl Kernel {
    /// Sets what looks at each request before it is done.
    pub fn before(&self, look: impl Fn(&Request) -> io::Result<()> + Send + Sync + 'static) {
        *lock(&self.shared.before) = Some(Arc::new(look));
    }

    /// From now on no more VFs of this PF are enabled than that, though more may be asked for.
    pub fn enable_at_most(&self, pf: PciAddress, count: u16) {
        lock(&self.shared.host).most.insert(pf, count);
    }

    /// The drives as they are now.
    pub fn drives(&self) -> Vec<Drive> {
        let host = lock(&self.shared.host);
        let drives = host.drives.values().cloned();
        // To be given what it has is to be given nothing.
        drives
            .map(|one| Drive { next: one.next.filter(|next| *next != one.primary), ..one })
            .collect()
    }

    /// Waits until what processes that are gone have asked for is done: no connection is open then.
    pub fn settle(&self) {
        let root = self.shared.tree.root();
        // It is accepted after all that came before it.
        let last = crate::simulated::Kernel::of(&root).expect("the kernel answers");
        let last = last.expect("a socket");
        // No request at all, which is answered as such.
        last.send(b'?', b"").and_then(|()| last.receive()).expect("the kernel answers");
        drop(last);
        let mut open = lock(&self.shared.open);
        while *open > 0 {
            open = self.shared.closed.wait(open).unwrap_or_else(PoisonError::into_inner);
        }
    }
}

impl Drop for Kernel {
    fn drop(&mut self) {
        rustix::net::shutdown(&*self.listener, rustix::net::Shutdown::Both).ok();
        if let Some(thread) = self.thread.take() {
            thread.join().ok();
        }
        std::fs::remove_file(self.shared.tree.root().directory().join(SOCKET)).ok();
    }
}

/// A panic of one thread is told by the test that it fails; the others go on.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

// uapi/asm-generic/errno-base.h, errno.h
const ENOENT: i32 = 2;
const EIO: i32 = 5;
const EBUSY: i32 = 16;
const ENODEV: i32 = 19;
const EINVAL: i32 = 22;
const ERANGE: i32 = 34;
const EOPNOTSUPP: i32 = 95;
const ENETUNREACH: i32 = 101;

/// Gives the file at `path` another content at once, as the kernel does: who reads it meanwhile gets the one or the
/// other, and not an empty file.
fn put(tree: &Tree, path: &Path, content: &[u8]) -> io::Result<()> {
    // The host is locked, so there is one at a time; and no folder that anybody lists has it.
    let next = tree.root().directory().join(".next");
    fs::write(&next, content)?;
    fs::rename(next, path)
}

fn errno(number: i32) -> io::Error {
    io::Error::from_raw_os_error(number)
}

fn code(result: io::Result<()>) -> Vec<u8> {
    let code = result.map_or_else(|error| error.raw_os_error().unwrap_or(EIO), |()| 0);
    code.to_ne_bytes().to_vec()
}
