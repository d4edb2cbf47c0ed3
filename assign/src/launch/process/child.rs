//! How `assign-vmm` is started, whatever it is to do: with the descriptors that are named and no
//! others, in its own process group, to die with us.

use std::fs::File;
use std::io::{self, Seek, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use rustix::fs::MemfdFlags;
use rustix::io::FdFlags;
use rustix::process::Signal;
use rustix::thread::{LinkNameSpaceType, UnshareFlags};
use serde::Serialize;

use crate::signals;

/// What is started.
pub struct Start<'a, S> {
    /// The program.
    pub program: &'a Path,
    /// What it is to do: the option before the number of the spec's descriptor.
    pub task: &'static str,
    /// What it is told.
    pub spec: &'a S,
    /// The descriptors that the spec names.
    pub inherits: Vec<RawFd>,
    /// Whether it is to be shut in, for which it gets a space of process ids of its own.
    pub is_shut_in: bool,
    /// Where it says what is no answer, such as a panic.
    pub last_words: Stdio,
}

impl<S: Serialize> Start<'_, S> {
    /// Starts it. Within the process `first` is done before all else; it must neither allocate nor
    /// lock.
    ///
    /// # Errors
    /// The kernel's, from making the process or from what is set up within it.
    pub fn spawn(
        self,
        mut first: impl FnMut() -> io::Result<()> + Send + Sync + 'static,
    ) -> io::Result<Child> {
        let Start { program, task, spec, inherits, is_shut_in, last_words } = self;
        let spec_file = spec_file(spec)?;
        // Within its own space of process ids our own is not to be seen; there, the program itself
        // looks after us once more.
        let parent = (!is_shut_in).then(rustix::process::getpid);
        let spec_number = spec_file.as_raw_fd();
        let mut command = Command::new(program);
        command.args([task, &spec_number.to_string()]);
        // Its own process group: Ctrl-C on the terminal is for us, we pass on what it means.
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(last_words).process_group(0);
        let in_child = move || -> io::Result<()> {
            first()?;
            // Die with the launcher; it may have died before this line.
            rustix::process::set_parent_process_death_signal(Some(Signal::KILL))?;
            if parent.is_some() && rustix::process::getppid() != parent {
                return Err(io::Error::from(rustix::io::Errno::SRCH));
            }
            // The signals we hold back would be held back in the program, too.
            signals::hold_none()?;
            // What we inherited ourselves is not for the guest: from here on only what is named is
            // passed on. Linux before 5.11 refuses, and has our own descriptors closed by their flag.
            // SAFETY: the call sets a flag on open descriptors and touches no memory.
            unsafe { libc::close_range(3, libc::c_uint::MAX, libc::CLOSE_RANGE_CLOEXEC as i32) };
            for number in inherits.iter().chain([&spec_number]) {
                // SAFETY: the parent keeps these descriptors open until the child runs its
                // program, so each number is open for this call.
                let descriptor = unsafe { BorrowedFd::borrow_raw(*number) };
                rustix::io::fcntl_setfd(descriptor, FdFlags::empty())?;
            }
            Ok(())
        };
        // SAFETY: between fork and exec the closure makes system calls only, through functions
        // that neither allocate nor lock.
        unsafe { command.pre_exec(in_child) };
        let space = is_shut_in.then(ProcessSpace::begin).transpose()?;
        let spawned = command.spawn();
        drop(space);
        spawned
    }
}

/// Has processes that this thread makes begin a space of process ids of their own, until it is dropped.
struct ProcessSpace {
    ours: OwnedFd,
}

impl ProcessSpace {
    fn begin() -> io::Result<ProcessSpace> {
        let ours = File::open("/proc/self/ns/pid")?.into();
        // SAFETY: it concerns later children of this thread, and nothing that it has.
        unsafe { rustix::thread::unshare_unsafe(UnshareFlags::NEWPID) }.map_err(|error| {
            let message = format!("it gets no space of process ids of its own ({error})");
            io::Error::other(message)
        })?;
        Ok(ProcessSpace { ours })
    }
}

impl Drop for ProcessSpace {
    fn drop(&mut self) {
        // It is where this thread itself is all the time.
        let space = Some(LinkNameSpaceType::ProcessID);
        rustix::thread::move_into_link_name_space(self.ours.as_fd(), space).ok();
    }
}

/// The spec as a file in memory, to be inherited.
fn spec_file(spec: &impl Serialize) -> io::Result<File> {
    let descriptor = rustix::fs::memfd_create("spec", MemfdFlags::CLOEXEC)?;
    let mut file = File::from(descriptor);
    file.write_all(&serde_json::to_vec(spec)?)?;
    file.rewind()?;
    Ok(file)
}
