//! What can keep a guest from starting, as [`Failure`]s: each names the guest or file, the cause and
//! the remedy.

use std::io;
use std::path::Path;

use policies::{Guest, GuestDisk};

use super::vfio::NotOpened;
use crate::cgroup::usage::OutOfMemory;
use crate::choose::{Unconnected, Unmet};
use crate::failure::{Failure, OwnReason};

/// A file of the guest's `boot` cannot be used; `what` is the field.
pub fn boot_file(guest: &Guest, what: &str, path: &Path, cause: &str) -> Failure {
    let message = format!("cannot read its {what} {}: {cause}", path.display());
    Failure::bad_input(OwnReason::File, &guest.name, message).with_remedy(format!(
        "Correct `boot: {{{what}: …}}` in its document; a relative path starts from the \
         document's folder."
    ))
}

/// A disk of the guest cannot be used.
pub fn disk(guest: &Guest, disk: &str, path: &Path, cause: &str) -> Failure {
    let message = format!("cannot have the disk {disk}, {}: {cause}", path.display());
    Failure::bad_input(OwnReason::File, &guest.name, message)
}

/// A file that its cloud-init is to be given cannot be; `field` of `cloudInit` names it.
pub fn seed_file(guest: &Guest, field: &str, path: &Path, cause: &str) -> Failure {
    let message = format!("cannot read the file of its cloudInit, {}: {cause}", path.display());
    Failure::bad_input(OwnReason::File, &guest.name, message).with_remedy(format!(
        "Correct it, or `cloudInit: {{{field}: {{file: …}}}}` in its document; a relative path starts from \
         the document's folder."
    ))
}

/// Its document names a disk to boot from that it does not have.
pub fn no_boot_disk(guest: &Guest, disk: &str) -> Failure {
    let message = format!("cannot boot from its disk {disk}: there is none of that name");
    Failure::bad_input(OwnReason::File, &guest.name, message)
        .with_remedy("Correct `boot: {disk: …}` in its document.")
}

/// What the boot loader on a disk of the guest has cannot be booted.
pub fn image(guest: &Guest, disk: &GuestDisk, cause: &str) -> Failure {
    let GuestDisk { name, path, .. } = disk;
    let message = format!("cannot boot from its disk {name}, {}: {cause}", path.display());
    Failure::bad_input(OwnReason::File, &guest.name, message)
}

/// A claim has no device, and the guest does not start without it.
pub fn unconnected(guest: &Guest, unconnected: &Unconnected) -> Failure {
    let Unconnected { claim, network, because } = unconnected;
    let reason = match because {
        Unmet::NoSuchPool { .. } => OwnReason::NoSuchPool,
        Unmet::NoIommu { .. } => OwnReason::NoIommu,
        Unmet::NoDevice { .. } | Unmet::Unexpected { .. } => OwnReason::UnexpectedDevices,
        Unmet::NoneFree { .. } if because.is_refusal() => OwnReason::GroupNotViable,
        Unmet::NoneFree { .. } => OwnReason::PoolExhausted,
    };
    let (message, remedy) = match network {
        true => (
            format!("{claim} cannot be connected: {because}"),
            "Give the network a `fallback: {virtio: {bridge: …}}` to start it without a VF.",
        ),
        false => (
            format!("cannot have {claim}: {because}"),
            "Write `optional: true` beside the claim to start it without.",
        ),
    };
    let failure = match because.is_refusal() {
        true => Failure::refused(reason, &guest.name, message),
        false => Failure::failed(reason, &guest.name, message),
    };
    failure.with_remedy(remedy)
}

/// A running guest gets no device of a pool.
pub fn none_to_attach(guest: &Guest, unconnected: &Unconnected) -> Failure {
    let mut failure = self::unconnected(guest, unconnected);
    failure.message = format!("cannot have {}: {}", unconnected.claim, unconnected.because);
    failure.remedy = None;
    failure.with_remedy("It runs on as it is.")
}

/// The files of a VF could not be opened when the guest was to start again.
pub fn not_opened(guest: &Guest, error: &NotOpened) -> Failure {
    let message = format!("cannot be opened for {}: {}", guest.name, error.cause);
    Failure::failed(OwnReason::Guest, error.address, message)
        .with_remedy(format!("Run {} again to choose anew.", guest.name))
}

/// `assign-vmm` could not be run.
pub fn vmm(guest: &Guest, program: &Path, error: &io::Error) -> Failure {
    let message = format!("cannot run {}: {error}", program.display());
    Failure::failed(OwnReason::Guest, &guest.name, message)
        .with_remedy("assign-vmm belongs beside assign, or into a folder of PATH.")
}

/// Its process cannot be shut in by this user.
pub fn not_shut_in(guest: &Guest) -> Failure {
    let message = "its process is to be shut in, which root alone can do";
    Failure::failed(sriov::Reason::NotPermitted, &guest.name, message).with_remedy(
        "Run assign as root, or with --no-sandbox: then whoever breaks out of the guest is this user \
         here.",
    )
}

/// A system call that does not fail on a sound host.
pub fn system(guest: &Guest, tried: &str, error: &io::Error) -> Failure {
    Failure::failed(OwnReason::Guest, &guest.name, format!("cannot {tried}: {error}"))
}

/// The guest was stopped, as its document demands where one of its devices fails.
pub fn stopped_for(guest: &Guest, device: &str) -> Failure {
    let message = format!(
        "stopped, because {device} met an error that it cannot recover from (onDeviceError: stop)"
    );
    Failure::failed(OwnReason::DeviceError, &guest.name, message).with_remedy(format!(
        "The kernel's log says what the error was. `assign show {device}` says how the device is now."
    ))
}

/// The guest's CPU came to where none goes on: a triple fault, say.
pub fn crashed(guest: &Guest, detail: &str) -> Failure {
    Failure::failed(OwnReason::GuestCrashed, &guest.name, format!("crashed: {detail}"))
}

/// Its process found that it cannot go on.
pub fn failed(guest: &Guest, detail: &str) -> Failure {
    let message = format!("its virtual machine failed: {detail}");
    Failure::failed(OwnReason::Guest, &guest.name, message)
}

/// Somebody ended its process, or the kernel did.
pub fn killed(guest: &Guest, signal: i32) -> Failure {
    let message = format!("its virtual machine failed: assign-vmm was ended by signal {signal}");
    Failure::failed(OwnReason::GuestKilled, &guest.name, message)
}

/// The kernel ended its process for lack of memory.
pub fn out_of_memory(guest: &Guest, cause: OutOfMemory) -> Failure {
    let (message, remedy) = match cause {
        OutOfMemory::Limit(bytes) => (
            format!("was ended: it reached its memory limit of {} MiB", bytes >> 20),
            "Raise `limits: {memory: …}` in its document.",
        ),
        OutOfMemory::Host => (
            "was ended: this host ran out of memory, and its kernel chose this guest".to_owned(),
            "Run fewer guests, or smaller ones. The kernel's log (dmesg) says who had how much.",
        ),
    };
    Failure::failed(OwnReason::OutOfMemory, &guest.name, message).with_remedy(remedy)
}
