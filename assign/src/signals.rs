//! Signals as something to read: those that ask a command to end are held back and come out of
//! a descriptor, so that ending is an ordinary step of what the command does.

#![allow(unsafe_code)]

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, FromRawFd, OwnedFd};

use rustix::event::{PollFd, PollFlags, Timespec, poll};

/// What asks a program to end.
const ASKING: [libc::c_int; 4] = [libc::SIGINT, libc::SIGTERM, libc::SIGHUP, libc::SIGQUIT];

/// Signals held back on this thread until it is dropped. The launcher has one thread.
pub struct Signals {
    descriptor: OwnedFd,
    before: libc::sigset_t,
}

impl std::fmt::Debug for Signals {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Signals").field("descriptor", &self.descriptor).finish_non_exhaustive()
    }
}

impl Signals {
    /// Holds SIGINT, SIGTERM, SIGHUP and SIGQUIT back from now on.
    ///
    /// # Errors
    /// The kernel's, such as running out of descriptors.
    pub fn hold() -> io::Result<Signals> {
        let mut set = MaybeUninit::<libc::sigset_t>::uninit();
        let mut before = MaybeUninit::<libc::sigset_t>::uninit();
        // SAFETY: sigemptyset initializes `set`, sigaddset and signalfd take valid signal numbers
        // and that set, pthread_sigmask fills `before` when it answers 0; none keeps a pointer.
        unsafe {
            libc::sigemptyset(set.as_mut_ptr());
            for signal in ASKING {
                libc::sigaddset(set.as_mut_ptr(), signal);
            }
            let number = libc::signalfd(-1, set.as_ptr(), libc::SFD_CLOEXEC | libc::SFD_NONBLOCK);
            if number < 0 {
                return Err(io::Error::last_os_error());
            }
            let descriptor = OwnedFd::from_raw_fd(number);
            match libc::pthread_sigmask(libc::SIG_BLOCK, set.as_ptr(), before.as_mut_ptr()) {
                0 => Ok(Signals { descriptor, before: before.assume_init() }),
                error => Err(io::Error::from_raw_os_error(error)),
            }
        }
    }

    /// Whether one of them has come, which stays to be taken.
    pub fn is_pending(&self) -> bool {
        let mut polled = [PollFd::new(&self.descriptor, PollFlags::IN)];
        let now = Timespec { tv_sec: 0, tv_nsec: 0 };
        poll(&mut polled, Some(&now)).is_ok_and(|ready| ready > 0)
    }

    /// Whether one of them has come; takes all that have.
    pub fn came(&self) -> bool {
        let mut record = [0; size_of::<libc::signalfd_siginfo>()];
        let mut any = false;
        while rustix::io::read(&self.descriptor, &mut record).is_ok_and(|count| count > 0) {
            any = true;
        }
        any
    }
}

/// Lets every signal through to this thread: for a new process, before its program runs. Makes one
/// system call and nothing else.
///
/// # Errors
/// The kernel's; there is none for valid arguments.
pub fn hold_none() -> io::Result<()> {
    let mut set = MaybeUninit::<libc::sigset_t>::uninit();
    // SAFETY: sigemptyset initializes `set`; pthread_sigmask reads it only.
    let error = unsafe {
        libc::sigemptyset(set.as_mut_ptr());
        libc::pthread_sigmask(libc::SIG_SETMASK, set.as_ptr(), std::ptr::null_mut())
    };
    if error == 0 { Ok(()) } else { Err(io::Error::from_raw_os_error(error)) }
}

impl AsFd for Signals {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.descriptor.as_fd()
    }
}

impl Drop for Signals {
    fn drop(&mut self) {
        // What has come by now has been answered by ending.
        self.came();
        // SAFETY: `before` was filled by pthread_sigmask; the call reads it only.
        unsafe {
            libc::pthread_sigmask(libc::SIG_SETMASK, &self.before, std::ptr::null_mut());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_signal_is_read_instead_of_ending_the_process() {
        let signals = Signals::hold().expect("a signalfd");
        assert!(!signals.came());
        // SAFETY: raises a signal in this thread, which holds it back.
        unsafe { libc::raise(libc::SIGTERM) };
        assert!(signals.is_pending() && signals.is_pending());
        assert!(signals.came());
        assert!(!signals.came() && !signals.is_pending());
    }
}
