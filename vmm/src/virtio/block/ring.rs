//! Requests by io_uring: as many at a time as the driver has, and one system call to begin new ones and
//! to wait for those under way.
//!
//! What goes through a ring is out of seccomp's sight. So the ring itself is restricted, before it can
//! be used: to the disk's file and its kick, and to what a disk does with them.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;

use io_uring::register::Restriction;
use io_uring::squeue::{Entry, Flags};
use io_uring::types::{Fixed, FsyncFlags};
use io_uring::{IoUring, opcode};
use vmm_sys_util::eventfd::EventFd;

use super::QUEUE_SIZE;
use super::image::{HOLE, ZEROES};
use super::pieces::Range;
use super::request::{Operation, Transfer};

/// Places in the ring: all requests that are under way, and the wait for a kick.
const ENTRIES: u32 = (QUEUE_SIZE as u32 + 1).next_power_of_two();

/// The ring's files.
const IMAGE: Fixed = Fixed(0);
const KICK: Fixed = Fixed(1);

/// What marks the wait for a kick; requests are marked with their places.
const KICKED: u64 = u64::MAX;

/// A ring for one queue.
pub struct Ring {
    ring: IoUring,
    /// Where the kernel puts the number of kicks.
    kicks: Box<u64>,
    waits_for_kick: bool,
}

impl Ring {
    /// A ring for `image`, kicked by `kick`, which blocks.
    ///
    /// # Errors
    /// Where the kernel has none (before Linux 5.10), or the host's administrator switched them off.
    pub fn new(image: &File, kick: &EventFd) -> io::Result<Ring> {
        let ring = IoUring::builder().setup_r_disabled().build(ENTRIES)?;
        let submitter = ring.submitter();
        submitter.register_files(&[image.as_raw_fd(), kick.as_raw_fd()])?;
        let operations = [
            opcode::Readv::CODE,
            opcode::Writev::CODE,
            opcode::Fsync::CODE,
            opcode::Fallocate::CODE,
            opcode::Read::CODE,
        ];
        let mut allowed = Vec::from(operations.map(Restriction::sqe_op));
        allowed.push(Restriction::sqe_flags_required(Flags::FIXED_FILE.bits()));
        submitter.register_restrictions(&mut allowed)?;
        submitter.register_enable_rings()?;
        Ok(Ring { ring, kicks: Box::new(0), waits_for_kick: false })
    }

    /// Has the request at `place` begin with the next [`Ring::wait`]; its data is at `at` in the file.
    /// Where the ring cannot do it, the answer is false.
    pub fn submit(&mut self, place: usize, operation: &Operation, at: u64, durable: bool) -> bool {
        let allocate = |Range { offset, length }: &Range, how: u32| {
            opcode::Fallocate::new(IMAGE, *length).offset(*offset).mode(how as i32).build()
        };
        let entry = match operation {
            Operation::Read(Transfer { pieces, .. }) => {
                opcode::Readv::new(IMAGE, pieces.as_ptr(), pieces.len() as u32).offset(at).build()
            }
            Operation::Write(Transfer { pieces, .. }) => {
                opcode::Writev::new(IMAGE, pieces.as_ptr(), pieces.len() as u32)
                    .offset(at)
                    .rw_flags(if durable { libc::RWF_DSYNC } else { 0 })
                    .build()
            }
            Operation::Flush => opcode::Fsync::new(IMAGE).flags(FsyncFlags::DATASYNC).build(),
            Operation::Discard(range) => allocate(range, HOLE.bits()),
            Operation::Zero { range, unmap } if !durable => {
                allocate(range, if *unmap { HOLE.bits() } else { ZEROES.bits() })
            }
            Operation::Zero { .. } | Operation::Over(_) => return false,
        };
        self.push(&entry.user_data(place as u64))
    }

    /// Begins what was submitted, and waits until a request is over, or the driver kicks; or, where the
    /// caller is `busy`, does not wait. Each result is given to `over` with its place.
    ///
    /// # Errors
    /// The ring's.
    pub fn wait(
        &mut self,
        busy: bool,
        mut over: impl FnMut(usize, io::Result<u64>),
    ) -> io::Result<()> {
        if !self.waits_for_kick {
            let kicks: *mut u64 = &mut *self.kicks;
            let entry = opcode::Read::new(KICK, kicks.cast(), 8).build();
            self.waits_for_kick = self.push(&entry.user_data(KICKED));
        }
        match self.ring.submit_and_wait(usize::from(!busy)) {
            Ok(_) => {}
            // Woken by a signal, or by more results than there is room for.
            Err(error) if matches!(error.raw_os_error(), Some(libc::EINTR | libc::EBUSY)) => {}
            Err(error) => return Err(error),
        }
        for result in self.ring.completion() {
            if result.user_data() == KICKED {
                self.waits_for_kick = false;
                continue;
            }
            let outcome = u64::try_from(result.result())
                .map_err(|_| io::Error::from_raw_os_error(-result.result()));
            over(result.user_data() as usize, outcome);
        }
        Ok(())
    }

    fn push(&mut self, entry: &Entry) -> bool {
        // SAFETY: pieces and the memory that they describe stay where they are until the request is over
        // ([`super::worker::Places`]); the number of kicks is as old as the ring, and each is read into
        // it at a time.
        unsafe { self.ring.submission().push(entry) }.is_ok()
    }
}
