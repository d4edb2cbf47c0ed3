//! The launcher's way to ask the guest's process: see [`vmm::control`].

use std::io::{self, IoSlice};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Mutex, PoisonError};

use rustix::net::{
    AddressFamily, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketFlags,
    SocketType, recv, sendmsg, socketpair,
};
use vmm::spec::{MAX_PASSED, MAX_REQUEST, Reply, Request};

/// Our end of the socket pair.
#[derive(Debug)]
pub struct Link(Mutex<OwnedFd>);

/// Both ends: ours, and the one that the process inherits.
///
/// # Errors
/// The kernel's.
pub fn pair() -> io::Result<(Link, OwnedFd)> {
    let (kind, flags) = (SocketType::SEQPACKET, SocketFlags::CLOEXEC);
    let (ours, theirs) = socketpair(AddressFamily::UNIX, kind, flags, None)?;
    Ok((Link(Mutex::new(ours)), theirs))
}

impl Link {
    /// Asks, and waits for the reply, which takes as long as a device takes to be reset.
    ///
    /// # Errors
    /// In words: the process has ended, does not understand, or why it did not do it.
    pub fn ask(&self, request: &Request, passed: &[BorrowedFd<'_>]) -> Result<(), String> {
        // Held until the reply has come: they come in order.
        let socket = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let reply = exchange(socket.as_fd(), request, passed);
        match reply.map_err(|error| format!("its process does not answer: {error}"))? {
            Reply::Done => Ok(()),
            Reply::Failed { detail } => Err(detail),
        }
    }
}

fn exchange(
    socket: BorrowedFd<'_>,
    request: &Request,
    passed: &[BorrowedFd<'_>],
) -> io::Result<Reply> {
    let text = serde_json::to_vec(request)?;
    let mut space = [const { MaybeUninit::uninit() }; rustix::cmsg_space!(ScmRights(MAX_PASSED))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    if !passed.is_empty() && !ancillary.push(SendAncillaryMessage::ScmRights(passed)) {
        return Err(io::Error::other("more descriptors than a message holds"));
    }
    sendmsg(socket, &[IoSlice::new(&text)], &mut ancillary, SendFlags::NOSIGNAL)?;
    let mut buffer = vec![0; MAX_REQUEST];
    let (length, _) =
        rustix::io::retry_on_intr(|| recv(socket, &mut buffer[..], RecvFlags::empty()))?;
    let text = buffer.get(..length).unwrap_or_default();
    if text.is_empty() {
        return Err(io::Error::from(io::ErrorKind::UnexpectedEof));
    }
    Ok(serde_json::from_slice(text)?)
}
