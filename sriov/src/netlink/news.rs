//! Which interfaces change, as rtnetlink tells all who listen (`RTNLGRP_LINK`).
//!
//! What a message says may be over when it is read, and anybody with CAP_NET_ADMIN can send one. So all that
//! is taken from it is the interface's number: whoever listens asks the kernel how that is now.

use std::collections::BTreeSet;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};

use netlink_sys::protocols::NETLINK_ROUTE;
use netlink_sys::{Socket, SocketAddr};

use super::attributes::word;

/// The group of messages about interfaces, as a mask (uapi/linux/rtnetlink.h, `RTMGRP_LINK`).
const LINKS: u32 = 1;
/// Where the number is behind the header of a message (`struct ifinfomsg`).
const HEADER: usize = 16;
const INDEX: usize = 4;
/// Datagrams read at a time: the rest is readable still.
const MOST_DATAGRAMS: usize = 1000;

/// A socket on which interfaces that change are told of.
pub struct LinkNews(Socket);

/// Whose interfaces have changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Changed {
    /// These, by their numbers.
    These(BTreeSet<u32>),
    /// Any may have: the kernel told more than was read.
    Any,
}

impl Changed {
    /// Whether one of these may have changed.
    pub fn may_be(&self, mut among: impl Iterator<Item = u32>) -> bool {
        match self {
            Changed::These(these) => among.any(|one| these.contains(&one)),
            Changed::Any => true,
        }
    }
}

impl std::fmt::Debug for LinkNews {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("LinkNews").field(&self.0.as_raw_fd()).finish()
    }
}

impl LinkNews {
    /// Listens from now on, in this process's network namespace.
    ///
    /// # Errors
    /// The kernel's, such as EMFILE; it needs no privilege.
    pub fn open() -> io::Result<LinkNews> {
        let mut socket = Socket::new(NETLINK_ROUTE)?;
        socket.bind(&SocketAddr::new(0, LINKS))?;
        socket.set_non_blocking(true)?;
        Ok(LinkNews(socket))
    }

    /// What has changed since the last time, without waiting.
    ///
    /// # Errors
    /// The kernel's.
    pub fn take(&self) -> io::Result<Changed> {
        let mut changed = BTreeSet::new();
        for _ in 0..MOST_DATAGRAMS {
            let datagram = match self.0.recv_from_full() {
                Ok((datagram, _)) => datagram,
                Err(error) => match error.raw_os_error() {
                    Some(libc::EAGAIN) => break,
                    Some(libc::EINTR) => continue,
                    Some(libc::ENOBUFS) => return Ok(Changed::Any),
                    _ => return Err(error),
                },
            };
            changed.extend(indexes(&datagram));
        }
        Ok(Changed::These(changed))
    }
}

impl AsFd for LinkNews {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// The interfaces that the messages of a datagram are about, as far as these are whole.
fn indexes(datagram: &[u8]) -> Vec<u32> {
    let mut rest = datagram;
    let next = || {
        let length = usize::try_from(word(rest, 0)?).ok()?;
        let index = word(rest.get(HEADER..length)?, INDEX)?;
        // The length counts the header, so that the next one always lies further on.
        rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some(index)
    };
    std::iter::from_fn(next).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(index: u32) -> Vec<u8> {
        let mut bytes = 32u32.to_ne_bytes().to_vec();
        bytes.extend([0; HEADER]);
        bytes.extend(index.to_ne_bytes());
        bytes.extend([0; 8]);
        bytes
    }

    #[test]
    fn the_interfaces_are_named_and_nothing_else_is_believed() {
        let both = [message(7), message(8)].concat();
        assert_eq!(indexes(&both), [7, 8]);
        for length in 0..both.len() {
            assert_eq!(indexes(&both[..length]).len(), length / 32, "{length}");
        }
        for length in [0u32, 15, 16, 23, u32::MAX] {
            let mut odd = both.clone();
            odd[..4].copy_from_slice(&length.to_ne_bytes());
            assert!(indexes(&odd).is_empty(), "{length}");
        }
        let news = LinkNews::open().expect("anybody may listen");
        news.take().expect("there may be nothing");
        let these = Changed::These(BTreeSet::from([7]));
        assert!(these.may_be([9, 7].into_iter()) && !these.may_be([9].into_iter()));
        assert!(Changed::Any.may_be([9].into_iter()));
    }
}
