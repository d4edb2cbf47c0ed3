//! Why a change was not made: the thing, what was tried, the cause, the remedy, and a reason for
//! programs.

use serde::{Deserialize, Serialize};

use crate::attribute::AttributeError;

/// What kind of failure it is, by what a person has to do next.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Class {
    /// It was tried, or would have been, and did not work.
    Failed,
    /// What was asked for does not exist or cannot be meant.
    BadInput,
    /// It was not tried, to protect the host or the isolation of devices.
    Refused,
}

/// Why, for programs: stable words.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Reason {
    /// No such device.
    NoSuchDevice,
    /// The device has no SR-IOV capability.
    NotSriov,
    /// More VFs than the device can have.
    TooManyVfs,
    /// A recorded tree cannot be changed in this way.
    NotThisHost,
    /// The host itself needs the device.
    HostUsesDevice,
    /// Whether the host needs the device cannot be seen.
    UseUnknown,
    /// A guest or another process has the device open.
    DeviceOpen,
    /// The function has VFs.
    HasVfs,
    /// The device is not as it was when the change was planned.
    Stale,
    /// Address space or bus numbers ran out.
    OutOfAddressSpace,
    /// Interrupt vectors ran out.
    OutOfVectors,
    /// The kernel enabled another number of VFs than asked.
    OtherVfCount,
    /// The driver, or the kernel, has no such setting, or takes another value only.
    NotSupported,
    /// A setting cannot be what was asked for.
    InvalidValue,
    /// A driver has the device, and what was asked for needs it without one.
    HasDriver,
    /// The driver is not there and could not be loaded.
    NoSuchDriver,
    /// The driver did not take the device.
    DriverRefused,
    /// The PF has no network interface to set its VFs by.
    NoInterface,
    /// The setting was accepted and is not there.
    NotObserved,
    /// The process lacks the right to do it.
    NotPermitted,
    /// The kernel refused for another reason.
    KernelRefused,
}

impl Reason {
    /// The class of failures for this reason.
    pub fn class(self) -> Class {
        match self {
            Reason::NoSuchDevice
            | Reason::NotSriov
            | Reason::TooManyVfs
            | Reason::InvalidValue
            | Reason::NotThisHost => Class::BadInput,
            Reason::HostUsesDevice
            | Reason::UseUnknown
            | Reason::DeviceOpen
            | Reason::HasDriver
            | Reason::HasVfs => Class::Refused,
            _ => Class::Failed,
        }
    }

    /// Whether it says that the device, or a part of it, is not there.
    pub fn is_absence(self) -> bool {
        matches!(self, Reason::NoSuchDevice | Reason::NotSriov | Reason::NoInterface)
    }

    /// Whether a step that failed for this reason was not begun, so that nothing is to be undone.
    pub fn is_before_acting(self) -> bool {
        self.class() != Class::Failed || {
            matches!(
                self,
                Reason::Stale | Reason::NoInterface | Reason::NotSupported | Reason::NoSuchDriver
            )
        }
    }
}

/// A change that was not made.
#[derive(Debug, thiserror::Error)]
#[error("{thing}: {message}.{}", remedy.as_ref().map(|text| format!(" {text}")).unwrap_or_default())]
pub struct ChangeError {
    /// Why, for programs.
    pub reason: Reason,
    /// The device.
    pub thing: String,
    /// What was tried and why it did not work, without a full stop.
    pub message: String,
    /// What to do about it: a sentence.
    pub remedy: Option<String>,
}

impl ChangeError {
    /// A failure without a remedy yet.
    pub fn new(reason: Reason, thing: impl ToString, message: impl Into<String>) -> ChangeError {
        ChangeError { reason, thing: thing.to_string(), message: message.into(), remedy: None }
    }

    /// The same with a remedy.
    #[must_use]
    pub fn with_remedy(mut self, remedy: impl Into<String>) -> ChangeError {
        self.remedy = Some(remedy.into());
        self
    }

    /// A failure of reading or writing an attribute, while trying to do `tried`.
    pub fn attribute(thing: impl ToString, tried: &str, error: &AttributeError) -> ChangeError {
        let reason = match error.source.kind() {
            std::io::ErrorKind::PermissionDenied => Reason::NotPermitted,
            _ => Reason::KernelRefused,
        };
        ChangeError {
            reason,
            thing: thing.to_string(),
            message: format!("cannot {tried}: {error}"),
            remedy: error.remedy().map(str::to_owned),
        }
    }
}
