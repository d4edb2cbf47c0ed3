//! A simulated host: a tree whose kernel is a process that answers on a socket of the tree, for whole
//! commands to be tried where nothing can be harmed. What has no socket is a recorded tree: files,
//! and nothing behind them.
//!
//! ```text
//! w PATH 0 VALUE       a write to a file below the tree      → errno, 0 for none (32 bits)
//! r MESSAGE            a message of rtnetlink                → messages of rtnetlink
//! n PF 0 COMMAND       an admin command of NVMe              → status (32 bits), a page
//! ```
//!
//! One request is one datagram. The process behind the socket is as trustworthy as the tree it is
//! in: the way to it may not lead out of the tree, and its answers are bounded and waited for with
//! a limit.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::Path;
use std::time::Duration;

use rustix::fs::{CWD, FileType, Mode, OFlags, ResolveFlags};
use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketAddrUnix, SocketFlags, SocketType, sockopt,
};

use crate::address::PciAddress;
use crate::nvme::command::{Command, Status};
use crate::nvme::identify::Page;
use crate::root::HostRoot;

/// The socket's name, right below the root.
pub const SOCKET: &str = "kernel.socket";

/// Longest answer, as long as a socket's buffer lets one be.
const LONGEST: usize = 256 << 10;
/// Longest wait for an answer: creating many VFs takes a kernel a minute.
const PATIENCE: Duration = Duration::from_secs(90);

/// A connection to the kernel of a simulated host.
#[derive(Debug)]
pub(crate) struct Kernel {
    socket: OwnedFd,
}

impl HostRoot {
    /// Whether changes can be made that no file makes: on this host, and on a simulated one.
    pub fn has_kernel(&self) -> bool {
        self.is_live() || socket(self).is_ok_and(|socket| socket.is_some())
    }
}

/// The socket of a tree that has one.
fn socket(root: &HostRoot) -> io::Result<Option<OwnedFd>> {
    if root.is_live() {
        return Ok(None);
    }
    let tree = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let tree = match rustix::fs::openat(CWD, root.directory(), tree, Mode::empty()) {
        Ok(tree) => tree,
        Err(rustix::io::Errno::NOENT | rustix::io::Errno::NOTDIR) => return Ok(None),
        Err(error) => return Err(error.into()),
    };
    let within = ResolveFlags::BENEATH | ResolveFlags::NO_XDEV | ResolveFlags::NO_SYMLINKS;
    let path = OFlags::PATH | OFlags::CLOEXEC;
    match rustix::fs::openat2(tree, SOCKET, path, Mode::empty(), within) {
        Ok(file) => {
            let kind = FileType::from_raw_mode(rustix::fs::fstat(&file)?.st_mode);
            Ok((kind == FileType::Socket).then_some(file))
        }
        Err(rustix::io::Errno::NOENT) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

impl Kernel {
    /// Connects; `None` where the tree has no kernel.
    ///
    /// # Errors
    /// The socket is there, and nobody answers on it.
    pub fn of(root: &HostRoot) -> io::Result<Option<Kernel>> {
        let Some(file) = socket(root)? else { return Ok(None) };
        let kind = SocketType::SEQPACKET;
        let socket =
            rustix::net::socket_with(AddressFamily::UNIX, kind, SocketFlags::CLOEXEC, None)?;
        sockopt::set_socket_timeout(&socket, sockopt::Timeout::Recv, Some(PATIENCE))?;
        // By its descriptor: a name can be another's by now, and may be too long for an address.
        let address = SocketAddrUnix::new(format!("/proc/self/fd/{}", file.as_raw_fd()))?;
        rustix::net::connect(&socket, &address)
            .map_err(|error| io::Error::other(format!("the simulated kernel is gone: {error}")))?;
        Ok(Some(Kernel { socket }))
    }

    /// Sends one request.
    pub fn send(&self, kind: u8, body: &[u8]) -> io::Result<()> {
        let request = [&[kind], body].concat();
        rustix::net::send(&self.socket, &request, SendFlags::NOSIGNAL)?;
        Ok(())
    }

    /// Receives one answer.
    pub fn receive(&self) -> io::Result<Vec<u8>> {
        let mut answer = vec![0; LONGEST];
        let (length, _) = rustix::net::recv(&self.socket, &mut answer, RecvFlags::empty())?;
        answer.truncate(length);
        match length {
            0 => Err(io::Error::other("the simulated kernel has gone")),
            _ => Ok(answer),
        }
    }

    /// Writes `value` to a file below the root.
    pub fn write(&self, root: &HostRoot, path: &Path, value: &str) -> io::Result<()> {
        let below = path.strip_prefix(root.directory()).map_err(io::Error::other)?;
        let below = below.to_str().ok_or_else(|| io::Error::other("a path that is no text"))?;
        self.send(b'w', format!("{below}\0{value}").as_bytes())?;
        let (code, _) = self.answer()?;
        match code {
            0 => Ok(()),
            errno => Err(io::Error::from_raw_os_error(errno.cast_signed())),
        }
    }

    /// Gives an admin command to the NVMe controller of a function.
    pub fn nvme(
        &self,
        pf: PciAddress,
        command: Command,
        page: Option<&mut Page>,
    ) -> io::Result<()> {
        let mut body = format!("{pf}\0").into_bytes();
        body.push(command.opcode);
        body.extend(command.dword10.to_ne_bytes());
        body.extend(command.dword11.to_ne_bytes());
        self.send(b'n', &body)?;
        let (code, answer) = self.answer()?;
        let status = u16::try_from(code).map_err(io::Error::other)?;
        if let Some(failure) = Status::failure(status) {
            return Err(io::Error::other(failure.to_string()));
        }
        match (page, <&Page>::try_from(answer.as_slice())) {
            (None, _) => Ok(()),
            (Some(page), Ok(answer)) => {
                *page = *answer;
                Ok(())
            }
            (Some(_), Err(_)) => Err(io::Error::other("the simulated controller gave no page")),
        }
    }

    /// A number of 32 bits, and what comes after it.
    fn answer(&self) -> io::Result<(u32, Vec<u8>)> {
        let mut answer = self.receive()?;
        let rest = answer.split_off(answer.len().min(4));
        match <[u8; 4]>::try_from(answer) {
            Ok(code) => Ok((u32::from_ne_bytes(code), rest)),
            Err(_) => Err(io::Error::other("the simulated kernel's answer is cut off")),
        }
    }
}
