//! Why a command did not do what was asked: one type for people, for programs and for the exit
//! code.

use std::fmt;

use serde::{Deserialize, Serialize};
use sriov::isolation::NotViable;
use sriov::{ChangeError, Class};

use crate::apply::Undoing;

/// A command that failed, or refused.
#[derive(Debug, Clone, Serialize, Deserialize, thiserror::Error)]
pub struct Failure {
    /// What the caller has to do next, which is the exit code.
    pub class: Class,
    /// Why, for programs: a stable word.
    pub reason: Reason,
    /// The device, policy, guest or file it is about.
    pub thing: String,
    /// What was tried and why it did not work, without a full stop.
    pub message: String,
    /// What to do about it: a sentence.
    pub remedy: Option<String>,
    /// Errors in documents, each with its place.
    #[serde(skip_serializing_if = "Option::is_none", skip_deserializing)]
    pub documents: Option<policies::Errors>,
    /// The steps that were taken back because of it, last first, each with how that went.
    #[serde(skip_serializing_if = "Option::is_none", skip_deserializing)]
    pub taken_back: Option<Box<Undoing>>,
}

/// Why, for programs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Reason {
    /// The host did, or does, not allow it.
    Host(sriov::Reason),
    /// This project's rules do not allow it.
    Own(OwnReason),
}

/// Reasons that are not the host's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum OwnReason {
    /// The command line cannot be meant.
    Usage,
    /// A document is not right.
    InvalidDocument,
    /// A guest has the device.
    Leased,
    /// The device's IOMMU group cannot be given away.
    GroupNotViable,
    /// The device is a VF, and a guest has its PF or is about to.
    PfGivenAway,
    /// The host has no IOMMU in use.
    NoIommu,
    /// The host cannot run guests.
    NoKvm,
    /// The host has no sockets for guests (vhost-vsock).
    NoVsock,
    /// Another guest has the address of the guest's sockets.
    CidTaken,
    /// The host has no such CPU, or it does not run.
    NoSuchCpu,
    /// The host's CPUs cannot be what the guest's are to be.
    CpuModel,
    /// The host has too few huge pages for the guest's memory.
    HugePages,
    /// The guest's memory may be shared, so that no device can have it.
    MemoryShared,
    /// The guest's memory may be given back, so that no device can have it.
    MemoryGivenBack,
    /// The guest has no balloon.
    NoBalloon,
    /// A selector matches another number of devices than expected.
    UnexpectedDevices,
    /// Two pools want the same VFs.
    PoolConflict,
    /// No pool of this name.
    NoSuchPool,
    /// Every VF of the pool is taken.
    PoolExhausted,
    /// No policy of this name was applied.
    NotApplied,
    /// Other policies use what would be taken away.
    UsedByPolicy,
    /// A disruptive step was not confirmed.
    NotConfirmed,
    /// Somebody asked the command to end before it was done.
    Interrupted,
    /// What was waited for did not come in time.
    TimedOut,
    /// It is not known how to tell the device to move data.
    NoEngine,
    /// The device could not be made to show what it reaches.
    NotProven,
    /// Another guest had the device, and nothing has reset it since.
    NotReset,
    /// A guest of this name runs already.
    GuestRuns,
    /// No guest of this name runs.
    NoSuchGuest,
    /// The guest has no port of this name.
    NoSuchPort,
    /// Another program is connected to the guest's port.
    PortTaken,
    /// The guest does not have the device.
    NotWithGuest,
    /// The device is not bound to a driver that gives it to guests.
    NotBound,
    /// Another command is changing the host.
    Locked,
    /// The state cannot be read or written.
    State,
    /// The host is not as planned after all steps.
    NotAsPlanned,
    /// A saved snapshot is not right.
    InvalidSnapshot,
    /// A saved plan is not right.
    InvalidPlan,
    /// A saved plan is not what would be planned now.
    OutOfDate,
    /// A file that a document or the command line names cannot be used.
    File,
    /// The guest's machine failed.
    Guest,
    /// The guest's CPU stopped: a triple fault, say.
    GuestCrashed,
    /// A signal ended the guest's process.
    GuestKilled,
    /// The guest's process was ended for lack of memory.
    OutOfMemory,
    /// What a guest may use of the host cannot be limited here.
    NoLimits,
    /// A device of the guest failed.
    DeviceError,
}

impl From<sriov::Reason> for Reason {
    fn from(reason: sriov::Reason) -> Reason {
        Reason::Host(reason)
    }
}

impl From<OwnReason> for Reason {
    fn from(reason: OwnReason) -> Reason {
        Reason::Own(reason)
    }
}

impl Failure {
    /// It was tried, and did not work.
    pub fn failed(
        reason: impl Into<Reason>,
        thing: impl ToString,
        message: impl Into<String>,
    ) -> Failure {
        Failure::new(Class::Failed, reason, thing, message)
    }

    /// What was asked for does not exist or cannot be meant.
    pub fn bad_input(
        reason: impl Into<Reason>,
        thing: impl ToString,
        message: impl Into<String>,
    ) -> Failure {
        Failure::new(Class::BadInput, reason, thing, message)
    }

    /// It was not tried, to protect the host or isolation.
    pub fn refused(
        reason: impl Into<Reason>,
        thing: impl ToString,
        message: impl Into<String>,
    ) -> Failure {
        Failure::new(Class::Refused, reason, thing, message)
    }

    fn new(
        class: Class,
        reason: impl Into<Reason>,
        thing: impl ToString,
        message: impl Into<String>,
    ) -> Failure {
        Failure {
            class,
            reason: reason.into(),
            thing: thing.to_string(),
            message: message.into(),
            remedy: None,
            documents: None,
            taken_back: None,
        }
    }

    /// The same with a remedy.
    #[must_use]
    pub fn with_remedy(mut self, remedy: impl Into<String>) -> Failure {
        self.remedy = Some(remedy.into());
        self
    }

    /// A device that cannot be given away by itself.
    pub fn not_viable(device: impl ToString, cause: &NotViable) -> Failure {
        let reason = match cause {
            NotViable::NoGroup { .. } => OwnReason::NoIommu,
            NotViable::PfGivenAway { .. } => OwnReason::PfGivenAway,
            NotViable::Reserved { .. } | NotViable::Neighbours { .. } => OwnReason::GroupNotViable,
        };
        Failure::refused(reason, device, format!("cannot be given away: {cause}"))
            .with_remedy(cause.remedy())
    }

    /// The exit code: 1 failed, 2 bad input, 3 refused.
    pub fn exit_code(&self) -> u8 {
        match self.class {
            Class::Failed => 1,
            Class::BadInput => 2,
            Class::Refused => 3,
        }
    }
}

impl fmt::Display for Failure {
    /// One paragraph; errors in documents keep their lines, since they point at a place.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(documents) = &self.documents {
            return documents.fmt(f);
        }
        write!(f, "{}: {}.", self.thing, self.message)?;
        match &self.remedy {
            Some(remedy) => write!(f, " {remedy}"),
            None => Ok(()),
        }
    }
}

impl From<ChangeError> for Failure {
    fn from(error: ChangeError) -> Failure {
        Failure {
            class: error.reason.class(),
            reason: Reason::Host(error.reason),
            thing: error.thing,
            message: error.message,
            remedy: error.remedy,
            documents: None,
            taken_back: None,
        }
    }
}

impl From<policies::Errors> for Failure {
    fn from(errors: policies::Errors) -> Failure {
        let first = errors.iter().next();
        let thing = first.map(|error| error.file().to_owned()).unwrap_or_default();
        let message = first.map(|error| error.message().to_owned()).unwrap_or_default();
        let mut failure = Failure::new(Class::BadInput, OwnReason::InvalidDocument, thing, message);
        failure.documents = Some(errors);
        failure
    }
}
