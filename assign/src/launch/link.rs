//! The launcher's way to ask the guest's process: see [`vmm::control`].

use std::io::{self, IoSlice};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Mutex, PoisonError};

use rustix::net::{
    AddressFamily, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketFlags,
    SocketType, recv, sendmsg, socketpair,
};
use vmm::spec::{MAX_PASSED, MAX_REQUEST, Reply, Request, Stats};

/// What is said of a reply to another question.
const OTHER: &str = "its process answers something else";

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
        match self.reply(request, passed)? {
            Reply::Done => Ok(()),
            Reply::Failed { detail } => Err(detail),
            Reply::Stats(_) => Err(OTHER.to_owned()),
        }
    }

    /// Asks for what has been counted and timed.
    ///
    /// # Errors
    /// As [`Link::ask`].
    pub fn stats(&self) -> Result<Stats, String> {
        match self.reply(&Request::Stats, &[])? {
            Reply::Stats(stats) => Ok(*stats),
            Reply::Failed { detail } => Err(detail),
            Reply::Done => Err(OTHER.to_owned()),
        }
    }

    fn reply(&self, request: &Request, passed: &[BorrowedFd<'_>]) -> Result<Reply, String> {
        // Held until the reply has come: they come in order.
        let socket = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let reply = exchange(socket.as_fd(), request, passed);
        reply.map_err(|error| format!("its process does not answer: {error}"))
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

#[cfg(test)]
mod tests {
    use std::thread;

    use rustix::net::send;

    use super::*;

    /// What comes of asking a process that answers so; one that answers nothing ends.
    fn stats(answer: Option<&[u8]>) -> Result<Stats, String> {
        let (link, theirs) = pair().expect("sockets");
        thread::scope(|scope| {
            scope.spawn(move || {
                let mut request = vec![0; MAX_REQUEST];
                let (length, _) = recv(&theirs, &mut request[..], RecvFlags::empty())?;
                assert_eq!(&request[..length], b"{\"request\":\"stats\"}");
                answer.map(|answer| send(&theirs, answer, SendFlags::NOSIGNAL)).transpose()
            });
            link.stats()
        })
    }

    #[test]
    fn statistics_come_or_are_an_error() {
        let reply = serde_json::to_vec(&Reply::Stats(Box::new(Stats {
            pinned_bytes: 7,
            ..Stats::default()
        })));
        let counted = stats(Some(&reply.expect("plain data"))).expect("an answer");
        assert_eq!(counted.pinned_bytes, 7);
        let failed = b"{\"reply\":\"failed\",\"detail\":\"no\"}";
        for (answer, expected) in [
            (Some(&failed[..]), "no"),
            (Some(b"{\"reply\":\"done\"}"), "something else"),
            (Some(b"rubbish"), "does not answer"),
            (None, "does not answer"),
        ] {
            let error = stats(answer).expect_err("no statistics");
            assert!(error.contains(expected), "{error}");
        }
    }
}
