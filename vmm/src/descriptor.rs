//! Taking over the descriptors that the launcher passed: the one place where a number becomes an
//! owned descriptor.

use std::collections::HashSet;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

use rustix::io::{FdFlags, fcntl_getfd, fcntl_setfd};
use vmm_sys_util::eventfd::EventFd;

use crate::error::{Error, Result};
use crate::spec::Descriptor;

/// The inherited descriptors taken so far, so that none is owned twice.
#[derive(Debug, Default)]
pub struct Inherited {
    taken: HashSet<RawFd>,
    /// Instead, those that came with a message: a number is a place in it.
    received: Option<Vec<Option<OwnedFd>>>,
}

impl Inherited {
    /// The descriptors that came with a message, named by their place among them.
    pub fn received(descriptors: Vec<OwnedFd>) -> Self {
        let received = descriptors.into_iter().map(Some).collect();
        Inherited { taken: HashSet::new(), received: Some(received) }
    }

    /// Takes ownership of `descriptor`, which the spec says is `what`, and keeps it from leaking
    /// into any later child.
    ///
    /// # Errors
    /// [`Error::Spec`] where the number is negative, not open, or was taken before.
    pub fn take(&mut self, descriptor: Descriptor, what: &str) -> Result<OwnedFd> {
        let Descriptor(number) = descriptor;
        if number < 0 {
            return Err(Error::Spec(format!("{what}: descriptor {number} is negative")));
        }
        if !self.taken.insert(number) {
            return Err(Error::Spec(format!("{what}: descriptor {number} is named twice")));
        }
        if let Some(received) = &mut self.received {
            let place = received.get_mut(number as usize).and_then(Option::take);
            let missing = || Error::Spec(format!("{what}: no descriptor {number} came with it"));
            return place.ok_or_else(missing);
        }
        // SAFETY: the borrow lasts for this call only, and a number that is not open makes the
        // call fail with EBADF, without any other effect.
        let probe = unsafe { BorrowedFd::borrow_raw(number) };
        fcntl_getfd(probe)
            .and_then(|flags| fcntl_setfd(probe, flags | FdFlags::CLOEXEC))
            .map_err(|_| Error::Spec(format!("{what}: descriptor {number} is not open")))?;
        // SAFETY: the number is open (checked above), this process inherited it for this purpose
        // alone, and `taken` makes sure that it becomes owned once.
        Ok(unsafe { OwnedFd::from_raw_fd(number) })
    }
}

/// Borrows an eventfd, which does not offer that itself.
pub(crate) fn borrow(event: &EventFd) -> BorrowedFd<'_> {
    // SAFETY: the descriptor is open as long as `event` lives, and the borrow is no longer.
    unsafe { BorrowedFd::borrow_raw(event.as_raw_fd()) }
}

#[cfg(test)]
mod tests {
    use std::os::fd::IntoRawFd;

    use super::*;

    #[test]
    fn a_descriptor_is_taken_once() {
        let number = std::fs::File::open("/dev/null").unwrap().into_raw_fd();
        let mut inherited = Inherited::default();
        inherited.take(Descriptor(number), "kernel").unwrap();
        let error = inherited.take(Descriptor(number), "initrd").unwrap_err().to_string();
        assert!(error.contains("initrd") && error.contains("named twice"), "{error}");
    }

    #[test]
    fn what_came_with_a_message_is_named_by_its_place() {
        let null = || OwnedFd::from(std::fs::File::open("/dev/null").unwrap());
        let mut received = Inherited::received(vec![null(), null()]);
        received.take(Descriptor(1), "group").unwrap();
        assert!(received.take(Descriptor(1), "group").is_err());
        // Open in this process, and yet not what came.
        let error = received.take(Descriptor(2), "container").unwrap_err().to_string();
        assert!(error.contains("container: no descriptor 2 came"), "{error}");
    }

    #[test]
    fn what_is_not_open_is_refused() {
        let mut inherited = Inherited::default();
        let error = inherited.take(Descriptor(9_999), "tap").unwrap_err().to_string();
        assert!(error.contains("tap: descriptor 9999 is not open"), "{error}");
        assert!(inherited.take(Descriptor(-1), "tap").is_err());
    }
}
