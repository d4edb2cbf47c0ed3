//! A KVM virtual machine monitor for passed-through PCI devices.
//!
//! A [`spec::GuestSpec`] and the descriptors it names go in, [`spec::GuestEvent`]s come out. The
//! way from one to the other is [`machine::Machine::build`] and [`machine::Machine::run`].

pub mod boot;
pub mod bus;
pub mod descriptor;
pub mod devices;
pub mod error;
pub mod machine;
pub mod pci;
pub mod spec;
pub mod vfio;
pub mod virtio;

use std::sync::{Mutex, MutexGuard, PoisonError};

/// Locks `mutex`. A device whose handler panicked is in an odd state but holds nothing that could
/// harm anyone but its guest, so the others go on.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
