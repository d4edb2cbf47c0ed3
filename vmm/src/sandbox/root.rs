//! An empty root directory.

use std::ffi::CStr;
use std::io;

use rustix::fs::CWD;
use rustix::io::Errno;
use rustix::mount::{
    MountFlags, MountPropagationFlags, UnmountFlags, mount, mount_change, mount_move, unmount,
};

/// Where the new root is put until it is the root: a directory that every host has.
const PLACE: &str = "/proc";

/// Leaves the host's files. The mounts are this process's own by now.
///
/// # Errors
/// The kernel's.
pub fn leave() -> io::Result<()> {
    // What is done here is not to reach the host's mounts.
    mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC)?;
    let flags = MountFlags::RDONLY | MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
    let options: &CStr = c"mode=0555,size=4k";
    mount("none", PLACE, "tmpfs", flags, Some(options))?;
    rustix::process::chdir(PLACE)?;
    match rustix::process::pivot_root(".", ".") {
        // The old root lies on the new one now.
        Ok(()) => unmount(".", UnmountFlags::DETACH)?,
        // A root that came with the kernel stays below all others, covered.
        Err(Errno::INVAL) => {
            mount_move(".", "/")?;
            rustix::process::chroot(".")?;
        }
        Err(error) => return Err(error.into()),
    }
    rustix::process::chdir("/")?;
    debug_assert!(
        rustix::fs::accessat(
            CWD,
            "/proc",
            rustix::fs::Access::EXISTS,
            rustix::fs::AtFlags::empty()
        )
        .is_err()
    );
    Ok(())
}
