//! The walls around this process: what a guest that takes it over could still reach.
//!
//! ```text
//! launcher   process id space of its own
//! enter      mount, network, IPC and host name spaces of its own ─ an empty root directory
//!            ─ another user, no capability, none to be had ─ Landlock ─ system calls of a list
//! threads    system calls of a shorter list ([`Kind`])
//! ```
//! All descriptors are open by then. What is left: those, this process's memory, and the calls on the
//! list. It is entered before anything of the guest is looked at, while there is one thread.

mod privileges;
mod root;
mod seccomp;

use rustix::thread::UnshareFlags;

pub use self::seccomp::Kind;
use crate::error::{Error, Result};
use crate::event::Reporter;
use crate::spec;

/// Shuts this process in. It has one thread so far, which all others come from. The `launcher` alone
/// hears what is reported. `kind` is what it does from then on: anything, or reading a disk.
///
/// # Errors
/// The first wall that the kernel does not put up: a sandbox with a hole is none.
pub fn enter(sandbox: &spec::Sandbox, launcher: &Reporter, kind: Kind) -> Result<()> {
    let failed = |action: &'static str| move |source| Error::Sandbox { action, source };
    let spaces =
        UnshareFlags::NEWNS | UnshareFlags::NEWNET | UnshareFlags::NEWIPC | UnshareFlags::NEWUTS;
    // SAFETY: this process has one thread and shares neither files nor memory with another.
    unsafe { rustix::thread::unshare_unsafe(spaces) }
        .map_err(|error| failed("leave the host's name spaces")(error.into()))?;
    root::leave().map_err(failed("leave the host's files"))?;
    privileges::drop(sandbox).map_err(failed("give up privileges"))?;
    if launcher.is_gone() {
        // It ended before its end was to be ours, too.
        std::process::exit(1);
    }
    privileges::close_files().map_err(failed("have Landlock close all files"))?;
    // What is asked for once and kept: later it would be a call that is not on the list.
    rustix::param::page_size();
    seccomp::restrict(kind).map_err(failed("restrict its system calls"))
}

/// Restricts the calling thread to what its kind needs. Without a sandbox it does nothing.
///
/// # Panics
/// Where the kernel refuses, as it cannot: the first list was taken.
pub fn restrict(kind: Kind) {
    if seccomp::is_on() {
        seccomp::restrict(kind).expect("a shorter list of system calls is taken as the first was");
    }
}
