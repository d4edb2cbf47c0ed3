//! One thing that happened to a guest: the only place that knows what it is called, what a program is
//! told of it, and what a person is.
//!
//! Kinds and fields are described in `guest-events.json`, to which a test holds what is here.

use std::time::SystemTime;

use serde::Serialize;
use sriov::PciAddress;
use sriov::dma_fault::Blocked;
use vmm::spec::Departure;

use crate::control::Detached;
use crate::failure::Failure;
use crate::{overcommit, time};

/// How a guest's life ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum How {
    /// It powered off.
    PoweredOff,
    /// It asked for a reset, or was given one: its next life begins.
    Rebooted,
    /// Somebody asked its launcher to end it.
    Stopped,
    /// Its CPU came to where none goes on.
    Crashed,
    /// The same, by a triple fault.
    TripleFault,
    /// A signal ended its process.
    Killed,
    /// The kernel ended its process for lack of memory.
    OutOfMemory,
    /// A device of it failed, and its document wants it ended then.
    DeviceError,
    /// Its machine failed.
    Failed,
}

/// What happened, with what a program may want of it. `reason` is a text for people everywhere.
#[derive(Debug, Serialize)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub enum What<'a> {
    /// A network or device of its document is as that asks.
    Connected {
        /// Its name there.
        claim: &'a str,
        /// The device of the host that it has; none where it is virtio.
        #[serde(skip_serializing_if = "Option::is_none")]
        device: Option<PciAddress>,
        /// For people: which, and how.
        #[serde(skip)]
        text: String,
    },
    /// A network claimed a device, and is virtio instead.
    Fallback {
        /// Its name in the guest's document.
        claim: &'a str,
        /// Why no device.
        reason: String,
        /// For people: with what it is connected instead, and why.
        #[serde(skip)]
        text: String,
    },
    /// An optional device that the guest does not have.
    LeftOut {
        /// Its name in the guest's document.
        claim: &'a str,
        /// Why not.
        reason: String,
        /// For people.
        #[serde(skip)]
        text: String,
    },
    /// It runs, with the devices that it was given.
    Started,
    /// It did not start.
    NotStarted {
        /// Why not.
        reason: &'a str,
        /// The same with all that there is to say.
        #[serde(skip)]
        failure: &'a Failure,
    },
    /// Its CPUs are held.
    Paused,
    /// They go on.
    Resumed,
    /// A life of it ended. After `rebooted` the next one begins.
    Ended {
        /// How.
        how: How,
        /// Why, where it is no ordinary end.
        #[serde(skip_serializing_if = "Option::is_none")]
        reason: Option<&'a str>,
        /// The same with all that there is to say.
        #[serde(skip)]
        failure: Option<&'a Failure>,
    },
    /// Its devices are of no use to it, and it starts again without them.
    NoDevices {
        /// Why.
        reason: &'a str,
    },
    /// The running guest has a device more.
    Attached {
        /// Which.
        device: PciAddress,
    },
    /// The running guest has a device less.
    Detached {
        /// Which.
        device: PciAddress,
        /// Who let go of it.
        by: Departure,
    },
    /// The host wants a device back: somebody is taking it from its driver.
    Wanted {
        /// Which.
        device: PciAddress,
    },
    /// A device met an error that it cannot recover from.
    DeviceError {
        /// Which.
        device: &'a str,
    },
    /// The file of a disk did not do what was asked of it.
    DiskError {
        /// The disk's name in the guest's document.
        disk: &'a str,
        /// What was tried, and the error.
        reason: &'a str,
    },
    /// A frame of the guest gets nowhere by a virtio network of it; its driver sees no carrier.
    NetworkDown {
        /// Its name in the guest's document.
        network: &'a str,
        /// Why, and what to do about it.
        reason: &'a str,
    },
    /// That is over.
    NetworkUp {
        /// Its name in the guest's document.
        network: &'a str,
    },
    /// A device reached for memory that is not the guest's, and was stopped.
    DmaFault {
        /// Which.
        device: PciAddress,
        /// What it tried.
        #[serde(flatten)]
        blocked: &'a Blocked,
    },
    /// Something did not work, and the guest goes on.
    Trouble {
        /// What it is about, where that is a device.
        #[serde(skip_serializing_if = "Option::is_none")]
        device: Option<PciAddress>,
        /// What, and why.
        reason: String,
        /// The same as a sentence.
        #[serde(skip)]
        text: String,
    },
    /// Its memory is not as its document says.
    Memory {
        /// Why.
        reason: &'a str,
    },
    /// It has more vCPUs than this host has CPUs.
    Overcommitted {
        /// How many vCPUs.
        vcpus: u8,
        /// How many CPUs.
        host_cpus: u32,
    },
    /// The host's programs reach it over vsock.
    Vsock {
        /// By which address.
        cid: u32,
    },
    /// It boots what the boot loader on one of its disks would.
    Boots {
        /// The disk's name in the guest's document.
        disk: &'a str,
        /// How the boot loader's menu calls the entry.
        entry: &'a str,
    },
    /// Its kernel unpacks itself at each start.
    KernelPacked {
        /// Why.
        reason: &'a str,
    },
    /// Its process is not shut in.
    NoSandbox,
    /// Its console is not written down.
    Unwritten {
        /// Why.
        reason: String,
    },
    /// Faults of its devices will not be told.
    FaultsUnheard {
        /// Why.
        reason: String,
    },
}

impl<'a> What<'a> {
    /// Something that did not work.
    pub fn trouble(failure: &'a Failure) -> What<'a> {
        let (device, reason) = (failure.thing.parse().ok(), failure.message.clone());
        What::Trouble { device, reason, text: failure.to_string() }
    }

    /// The same where there is a sentence and no more.
    pub fn note(note: &str) -> What<'a> {
        What::Trouble { device: None, reason: note.to_owned(), text: note.to_owned() }
    }

    /// An end other than by itself or by request.
    pub fn broke(how: How, failure: &'a Failure) -> What<'a> {
        What::Ended { how, reason: Some(&failure.message), failure: Some(failure) }
    }

    /// A guest that did not start.
    pub fn not_started(failure: &'a Failure) -> What<'a> {
        What::NotStarted { reason: &failure.message, failure }
    }

    /// A line for people. What is no news but something to look after begins with our own name.
    pub fn text(&self, guest: &str) -> String {
        match self {
            What::Connected { text, .. }
            | What::Fallback { text, .. }
            | What::LeftOut { text, .. } => format!("{guest}: {text}"),
            What::Started => format!("{guest}: runs"),
            What::NotStarted { failure, .. } | What::Ended { failure: Some(failure), .. } => {
                format!("assign: {failure}")
            }
            What::Paused => format!("{guest}: paused"),
            What::Resumed => format!("{guest}: goes on"),
            What::Ended { how, failure: None, .. } => format!("{guest}: {}", how.text()),
            What::NoDevices { reason } => {
                format!("assign: {guest}: starting again without: {reason}")
            }
            What::Attached { device } => format!("{guest}: has {device} now"),
            What::Detached { device, by } => {
                format!("{guest}: {}", Detached::told_of(*device, *by))
            }
            What::Wanted { device } => format!("{guest}: the host wants {device} back"),
            What::DeviceError { device } => {
                format!("{guest}: {device} met an error that it cannot recover from")
            }
            What::DiskError { disk, reason } => {
                format!("{guest}: disk {disk}: {reason}; the guest was told of an I/O error")
            }
            What::NetworkDown { network, reason } => {
                format!("{guest}: {network}: the link is down: {reason}")
            }
            What::NetworkUp { network } => format!("{guest}: {network}: the link is up again"),
            What::DmaFault { device, blocked } => {
                format!("{guest}: {device} reached for memory that is not the guest's: {blocked}")
            }
            What::Trouble { text, .. } => format!("assign: {text}"),
            What::Memory { reason } => format!("assign: {guest}: {reason}"),
            What::Overcommitted { vcpus, host_cpus } => {
                let told = overcommit::told((*vcpus).into(), *host_cpus);
                format!("{guest}: overcommitted: {told}")
            }
            What::Vsock { cid } => format!("{guest}: vsock: CID {cid}"),
            What::Boots { disk, entry } => format!("{guest}: boots {entry}, of its disk {disk}"),
            What::KernelPacked { reason } => {
                format!("assign: {guest}: its kernel unpacks itself at each start: {reason}")
            }
            What::NoSandbox => format!(
                "assign: {guest}: NO SANDBOX: whoever breaks out of this guest is root on this host"
            ),
            What::Unwritten { reason } => format!(
                "assign: {guest}: its console and what happens to it are not written down: {reason}"
            ),
            What::FaultsUnheard { reason } => {
                format!("assign: {guest}: faults of its devices are not told: /dev/kmsg: {reason}")
            }
        }
    }
}

impl How {
    fn text(self) -> &'static str {
        match self {
            How::PoweredOff => "powered off",
            How::Rebooted => "rebooted, starting again",
            How::Stopped => "stopped",
            How::Crashed => "crashed",
            How::TripleFault => "crashed by a triple fault",
            How::Killed => "was killed",
            How::OutOfMemory => "was ended for lack of memory",
            How::DeviceError => "was ended because a device failed",
            How::Failed => "failed",
        }
    }
}

/// Something that happened, when, and to whom.
#[derive(Debug, Serialize)]
pub struct Event<'a> {
    time: String,
    guest: &'a str,
    #[serde(flatten)]
    what: What<'a>,
    message: String,
}

impl<'a> Event<'a> {
    /// That `what` happened to `guest` at this time.
    pub fn new(time: SystemTime, guest: &'a str, what: What<'a>) -> Event<'a> {
        let message = what.text(guest);
        Event { time: time::utc(time), guest, what, message }
    }

    /// For people.
    pub fn message(&self) -> &str {
        &self.message
    }

    /// The line of events.log, without its end.
    pub fn text(&self) -> String {
        format!("{} {}", self.time, self.message)
    }

    /// The line of events.jsonl, without its end.
    ///
    /// # Errors
    /// There is none for plain data.
    pub fn json(&self) -> serde_json::Result<String> {
        serde_json::to_string(self)
    }
}
