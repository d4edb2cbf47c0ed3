//! The host's ends of a card: a descriptor for each pair of queues, all of the same interface.

use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Mutex;

use super::{HEADER, feature};
use crate::error::{Error, Result};
use crate::virtio::tap;

/// The descriptors of a TAP.
pub struct Taps {
    files: Vec<File>,
    /// Whether these are none, but sockets of a test.
    are_sockets: bool,
    /// How many of them the interface hands frames to: the first ones.
    used: Mutex<usize>,
}

impl Taps {
    /// These, which never block from now on; frames go to the first one only.
    ///
    /// # Errors
    /// Where there is none, or one is not a TAP with `IFF_VNET_HDR`, or of several one is not made with
    /// `IFF_MULTI_QUEUE`.
    pub fn new(files: Vec<OwnedFd>) -> Result<Taps> {
        let Some(first) = files.first() else {
            return Err(Error::Spec("a network card without a TAP".into()));
        };
        tap::set_header(first, HEADER as i32)?;
        tap::set_offloads(first, 0)?;
        files.iter().try_for_each(tap::set_nonblocking)?;
        let used = Mutex::new(files.len());
        let taps =
            Taps { files: files.into_iter().map(File::from).collect(), are_sockets: false, used };
        taps.use_first(1)?;
        Ok(taps)
    }

    /// Test support: of something that gives and takes a frame with its header at each call, and does not
    /// block.
    #[cfg(any(test, feature = "simulated"))]
    pub fn sockets(sockets: Vec<OwnedFd>) -> Taps {
        let files = sockets.into_iter().map(File::from).collect();
        Taps { files, are_sockets: true, used: Mutex::new(1) }
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.files.len()
    }

    /// That of a pair.
    pub fn get(&self, pair: usize) -> Option<&File> {
        self.files.get(pair)
    }

    /// All of them.
    pub fn all(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        self.files.iter().map(File::as_fd)
    }

    /// Has the interface leave to the guest what its driver takes.
    ///
    /// # Errors
    /// The kernel's.
    pub fn set_offloads(&self, features: u64) -> Result<()> {
        match self.files.first() {
            Some(first) if !self.are_sockets => {
                tap::set_offloads(first, feature::offloads(features))
            }
            _ => Ok(()),
        }
    }

    /// Has the interface hand frames to the first `count` descriptors and no others, whose frames that wait
    /// are lost.
    ///
    /// # Errors
    /// The kernel's; some may be in use then that should not be, or the other way round.
    pub fn use_first(&self, count: usize) -> Result<()> {
        let mut used = crate::lock(&self.used);
        while !self.are_sockets && *used != count.clamp(1, self.files.len()) {
            if *used < count {
                tap::set_queue(&self.files[*used], true)?;
                *used += 1;
            } else {
                tap::set_queue(&self.files[*used - 1], false)?;
                *used -= 1;
            }
        }
        Ok(())
    }

    /// Whether the interface is no more.
    pub fn are_gone(&self) -> bool {
        !self.are_sockets && self.files.first().is_some_and(tap::is_gone)
    }
}
