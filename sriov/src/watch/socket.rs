//! The netlink socket that device events come from, and who may be believed on it.
//!
//! Anybody with CAP_NET_ADMIN in this network namespace can send to it, a container's process for
//! example. The kernel's own messages come from port 0; udev's come from a process of root. What
//! comes from others is dropped, as udev's own library does.

#![allow(unsafe_code)]

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use rustix::net::netlink::{KOBJECT_UEVENT, SocketAddrNetlink};
use rustix::net::{AddressFamily, SocketFlags, SocketType, bind, socket_with, sockopt};

/// Longest message taken. The kernel's have at most 2 KiB of properties (`UEVENT_BUFFER_SIZE`),
/// udev's a few more.
const LONGEST: usize = 64 << 10;
/// What the kernel may queue for us, beyond its limit for others where we are root: creating 256
/// VFs makes some 2,000 events in a burst, and udev's own value is larger still.
const QUEUE: usize = 16 << 20;

/// Whose messages are followed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sender {
    /// The kernel's (multicast group 1).
    Kernel,
    /// udev's, after its rules ran (multicast group 2).
    Udev,
}

impl Sender {
    fn group(self) -> u32 {
        match self {
            Sender::Kernel => 1,
            Sender::Udev => 2,
        }
    }
}

/// What came.
#[derive(Debug, PartialEq, Eq)]
pub enum Received<'a> {
    /// A message from whom it should come.
    Message(&'a [u8]),
    /// A message from somebody else, or one without an origin.
    Foreign,
    /// The kernel dropped messages, because they came faster than they were read.
    Overrun,
    /// A message was longer than any event is.
    TooLong,
    /// Nothing waits.
    Nothing,
}

/// The socket.
#[derive(Debug)]
pub struct Socket {
    descriptor: OwnedFd,
    sender: Sender,
    buffer: Vec<u8>,
}

impl Socket {
    /// Listens from now on.
    ///
    /// # Errors
    /// The kernel's, such as EMFILE; listening needs no privilege.
    pub fn open(sender: Sender) -> io::Result<Socket> {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let kind = SocketType::RAW;
        let descriptor = socket_with(AddressFamily::NETLINK, kind, flags, Some(KOBJECT_UEVENT))?;
        sockopt::set_socket_passcred(&descriptor, true)?;
        // Beyond the limit with CAP_NET_ADMIN only; without, as much as there is.
        sockopt::set_socket_recv_buffer_size_force(&descriptor, QUEUE)
            .or_else(|_| sockopt::set_socket_recv_buffer_size(&descriptor, QUEUE))?;
        bind(&descriptor, &SocketAddrNetlink::new(0, sender.group()))?;
        Ok(Socket { descriptor, sender, buffer: vec![0; LONGEST] })
    }

    /// The next message, without waiting.
    ///
    /// # Errors
    /// The kernel's, other than those that [`Received`] names.
    pub fn receive(&mut self) -> io::Result<Received<'_>> {
        let envelope = match receive(self.descriptor.as_fd(), &mut self.buffer) {
            Ok(envelope) => envelope,
            Err(error) => {
                return match error.raw_os_error() {
                    Some(libc::EAGAIN | libc::EINTR) => Ok(Received::Nothing),
                    Some(libc::ENOBUFS) => Ok(Received::Overrun),
                    _ => Err(error),
                };
            }
        };
        let is_kernel = envelope.port == 0;
        let from_sender = match self.sender {
            Sender::Kernel => is_kernel,
            Sender::Udev => !is_kernel,
        };
        if !from_sender || envelope.user != Some(0) || envelope.group != self.sender.group() {
            return Ok(Received::Foreign);
        }
        if envelope.cut_off {
            return Ok(Received::TooLong);
        }
        Ok(self.buffer.get(..envelope.length).map_or(Received::TooLong, Received::Message))
    }
}

impl AsFd for Socket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.descriptor.as_fd()
    }
}

/// What the kernel says of a message.
struct Envelope {
    length: usize,
    cut_off: bool,
    /// The sender's netlink port; the kernel's is 0.
    port: u32,
    /// The multicast group it was sent to, as a mask; 0 if it was sent to this socket alone.
    group: u32,
    /// The sender's user, in this user namespace.
    user: Option<u32>,
}

/// Room for one control message, aligned as its header has to be.
#[repr(C, align(8))]
struct Control([u8; 64]);

/// One recvmsg(2). rustix has one too, but its credentials cannot have the process number 0, which
/// the kernel's messages have.
fn receive(socket: BorrowedFd<'_>, buffer: &mut [u8]) -> io::Result<Envelope> {
    let mut part = libc::iovec { iov_base: buffer.as_mut_ptr().cast(), iov_len: buffer.len() };
    let mut control = Control([0; 64]);
    // SAFETY: both are plain C structures of integers and pointers, for which zero is a value.
    let (mut from, mut header) =
        unsafe { (std::mem::zeroed::<libc::sockaddr_nl>(), std::mem::zeroed::<libc::msghdr>()) };
    header.msg_name = (&raw mut from).cast();
    header.msg_namelen = size_of_val(&from) as libc::socklen_t;
    header.msg_iov = &raw mut part;
    header.msg_iovlen = 1;
    header.msg_control = control.0.as_mut_ptr().cast();
    header.msg_controllen = control.0.len() as _;
    // SAFETY: the header points to `from`, `part` (which points to `buffer`) and `control`, each of
    // the size given with it and alive and borrowed by nobody else during the call.
    let length =
        unsafe { libc::recvmsg(socket.as_raw_fd(), &raw mut header, libc::MSG_CMSG_CLOEXEC) };
    let length = usize::try_from(length).map_err(|_| io::Error::last_os_error())?;
    Ok(Envelope {
        length,
        cut_off: header.msg_flags & libc::MSG_TRUNC != 0,
        port: from.nl_pid,
        group: from.nl_groups,
        user: user(&header),
    })
}

/// The user in the credentials that the kernel adds (SCM_CREDENTIALS, unix(7)).
fn user(header: &libc::msghdr) -> Option<u32> {
    // SAFETY: `header` is as recvmsg filled it, and its control buffer is still there: the macro
    // reads within `msg_controllen`, and answers null where there is no whole header.
    let message = unsafe { libc::CMSG_FIRSTHDR(header).as_ref() }?;
    // SAFETY: computes a number.
    let whole = unsafe { libc::CMSG_LEN(size_of::<libc::ucred>() as u32) } as usize;
    let is_credentials =
        (message.cmsg_level, message.cmsg_type) == (libc::SOL_SOCKET, libc::SCM_CREDENTIALS);
    if !is_credentials || (message.cmsg_len as usize) < whole {
        return None;
    }
    // SAFETY: the message is long enough for a `ucred`, three integers, and lies in the control
    // buffer, whose 64 bytes hold it; read_unaligned asks for no alignment.
    let credentials = unsafe { libc::CMSG_DATA(message).cast::<libc::ucred>().read_unaligned() };
    Some(credentials.uid)
}
