//! Why a machine could not be built or run. The variants follow what a person can do about them.

use std::io;

/// An error of the VMM.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The spec contradicts itself or asks for what this VMM does not do.
    #[error("the guest's description is wrong: {0}")]
    Spec(String),
    /// KVM refused something.
    #[error("KVM: cannot {action}: {source}")]
    Kvm {
        /// What was tried, as an infinitive.
        action: &'static str,
        /// KVM's answer.
        source: io::Error,
    },
    /// KVM does not support what the guest's CPUs are to have.
    #[error(
        "its CPUs cannot be {model}: KVM does not support {missing} here; name a lower level in `cpus: \
         {{model: …}}`, or host"
    )]
    Features {
        /// Their model.
        model: &'static str,
        /// The names of what is missing.
        missing: String,
    },
    /// Guest RAM could not be had.
    #[error("guest memory: cannot {action}: {source}")]
    Memory {
        /// What was tried, as an infinitive.
        action: &'static str,
        /// The kernel's answer.
        source: io::Error,
    },
    /// The kernel image or the initial RAM disk cannot be booted.
    #[error("boot: {0}")]
    Boot(String),
    /// A passed-through device or its container failed.
    #[error("{thing}: cannot {action}: {source}{}", hint(.remedy))]
    Vfio {
        /// The device's address, or the container or group.
        thing: String,
        /// What was tried, as an infinitive.
        action: &'static str,
        /// The kernel's answer.
        source: io::Error,
        /// What to do about it, or empty.
        remedy: &'static str,
    },
    /// A passed-through device is of a kind that cannot be given to a guest.
    #[error("{device}: cannot be passed through: {reason}")]
    Unfit {
        /// The device's address.
        device: String,
        /// Why, with the remedy where there is one.
        reason: String,
    },
    /// A disk is not to be found in its file.
    #[error("its disk {disk} cannot be used: {source}")]
    Disk {
        /// The disk's name.
        disk: String,
        /// The file's error, or what is wrong with what it holds.
        source: io::Error,
    },
    /// The VMM cannot shut itself in.
    #[error(
        "its sandbox: cannot {action}: {source}; `assign run --no-sandbox` starts it without one"
    )]
    Sandbox {
        /// What was tried, as an infinitive.
        action: &'static str,
        /// The kernel's answer.
        source: io::Error,
    },
    /// Another system call failed.
    #[error("cannot {action}: {source}")]
    System {
        /// What was tried, as an infinitive.
        action: &'static str,
        /// The kernel's answer.
        source: io::Error,
    },
}

fn hint(remedy: &str) -> String {
    if remedy.is_empty() { String::new() } else { format!("; {remedy}") }
}

/// What the VMM's fallible functions return.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Adds what was being tried to a bare error of KVM or of the system.
pub(crate) trait Trying<T> {
    /// The failure is KVM's.
    fn kvm(self, action: &'static str) -> Result<T>;
    /// The failure is the kernel's at large.
    fn system(self, action: &'static str) -> Result<T>;
}

impl<T, E: Into<io::Error>> Trying<T> for std::result::Result<T, E> {
    fn kvm(self, action: &'static str) -> Result<T> {
        self.map_err(|error| Error::Kvm { action, source: error.into() })
    }

    fn system(self, action: &'static str) -> Result<T> {
        self.map_err(|error| Error::System { action, source: error.into() })
    }
}
