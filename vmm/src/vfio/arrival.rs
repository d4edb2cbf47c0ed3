//! How devices and the memory they need arrive while the rest of the machine is made: all that the
//! kernel takes long for happens beside each other.

use std::sync::Arc;
use std::thread::{self, ScopedJoinHandle};

use super::container::IoSpace;
use super::sys::Device;
use crate::error::{Error, Result, Trying};
use crate::machine::memory::{GuestMemory, populate};
use crate::spec::VfioDevice;

/// Opens `devices` of `space` and pins `memory` for them, and does what is `meanwhile` to be done
/// on this thread. Returns what that came to, and the devices in their order.
///
/// # Errors
/// The first of: what went wrong meanwhile, with the memory, with a device.
pub fn arrive<T>(
    space: &Arc<IoSpace>,
    devices: &[VfioDevice],
    memory: &GuestMemory,
    meanwhile: impl FnOnce() -> Result<T>,
) -> Result<(T, Vec<Device>)> {
    thread::scope(|scope| {
        let opening = space.open_all(scope, devices)?;
        let pinning = thread::Builder::new()
            .name("pin".into())
            .spawn_scoped(scope, || {
                populate(memory);
                space.map_memory(memory)
            })
            .system("start a thread")?;
        let done = meanwhile()?;
        joined(pinning)?;
        let devices = opening.into_iter().map(joined).collect::<Result<_>>()?;
        Ok((done, devices))
    })
}

/// What the thread came to.
fn joined<T>(thread: ScopedJoinHandle<'_, Result<T>>) -> Result<T> {
    let panicked = |_| Error::System {
        action: "make its devices ready",
        source: std::io::Error::other("a thread panicked; this is a bug"),
    };
    thread.join().map_err(panicked)?
}
