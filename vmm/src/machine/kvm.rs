//! Opening KVM.

use std::io;
use std::os::fd::{FromRawFd, IntoRawFd, OwnedFd};

use kvm_ioctls::{Cap, Kvm};

use crate::error::{Error, Result};

/// `KVM_API_VERSION`, which has not changed since Linux 2.6.22.
const API_VERSION: i32 = 12;

/// Takes an open `/dev/kvm` over, and makes sure that it is one and can do what a machine needs.
///
/// # Errors
/// [`Error::Kvm`] saying what it lacks.
pub fn open(descriptor: OwnedFd) -> Result<Kvm> {
    // SAFETY: the number leaves its owner here and becomes the new owner's. A descriptor of
    // another kind only makes the calls below fail.
    let kvm = unsafe { Kvm::from_raw_fd(descriptor.into_raw_fd()) };
    let unusable = |text: String| Error::Kvm { action: "be used", source: io::Error::other(text) };
    let version = kvm.get_api_version();
    if version != API_VERSION {
        return Err(unusable(format!(
            "the API version is {version}, not {API_VERSION}: is it /dev/kvm?"
        )));
    }
    for (capability, name) in [
        (Cap::Irqchip, "in-kernel interrupt controllers"),
        (Cap::Irqfd, "interrupts by events"),
        (Cap::Ioeventfd, "notifications by events"),
        (Cap::UserMemory, "user memory"),
        (Cap::TscDeadlineTimer, "the TSC deadline timer"),
    ] {
        if !kvm.check_extension(capability) {
            let text = format!("this host's KVM lacks {name}; Linux 3.8 or newer has it");
            return Err(unusable(text));
        }
    }
    Ok(kvm)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_file_is_not_taken_for_kvm() {
        let file = std::fs::File::open("/dev/null").unwrap();
        let error = open(file.into()).err().unwrap().to_string();
        assert!(error.contains("is it /dev/kvm?"), "{error}");
    }
}
