//! A KVM virtual machine monitor for passed-through PCI devices.
//!
//! A [`spec::GuestSpec`] and the descriptors it names go in, [`spec::GuestEvent`]s come out. The
//! way from one to the other is [`machine::Machine::build`] and [`machine::Machine::run`].
//!
//! Locks are taken in this order, and several only where named: a PCI function's state, a virtio
//! device's common configuration, its work (of a disk's: an image's tables, what was unpacked of it, its
//! leases), MSI-X, interrupt routes. The bus's own lock is held for look-ups and changes only, never while
//! a device answers.

#![deny(unsafe_code)]

pub mod boot;
pub mod bus;
pub mod control;
#[allow(unsafe_code)]
pub mod descriptor;
pub mod devices;
pub mod error;
pub mod event;
pub mod image;
pub mod machine;
pub mod pci;
pub mod qcow2;
#[allow(unsafe_code)]
pub mod sandbox;
pub mod spec;
pub mod timeline;
pub mod vfio;
pub mod virtio;
pub mod warnings;

use std::sync::{Mutex, MutexGuard, PoisonError};

/// Locks `mutex`. A device whose handler panicked is in an odd state but holds nothing that could
/// harm anyone but its guest, so the others go on.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
