//! NVMe controllers with virtual functions.
//!
//! To the drive, the physical function is a *primary* controller and each virtual one a *secondary*
//! controller, which does not work before it has queues and interrupts and was set online. Both
//! come from a pool of *flexible* resources that the primary shares with its secondaries (NVM
//! Express 1.4, section 8.5):
//!
//! ```text
//! pool (VQFRT, VIFRT) ──┬── the primary's (VQRFAP, VIRFAP), beside those that are always its own
//!                       ├── assigned to secondaries (VQRFA, VIRFA)
//!                       └── free
//! ```
//!
//! A secondary's share can be set while it is offline. The primary's can be set at any time and
//! takes effect when its function is reset.
//!
//! ```text
//! command.rs      the admin commands, as numbers
//! identify.rs     what a controller answers, from its bytes
//! passthrough.rs  the one system call
//! controller.rs   a controller that is asked and told
//! ```

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};

use crate::facts::pci::PciFunction;
use crate::facts::reader::Reader;
use crate::failure::Reason;

pub mod command;
pub mod controller;
pub mod identify;
#[allow(unsafe_code)]
mod passthrough;

pub use command::Kind;
pub use controller::Controller;
pub use identify::Pool;

/// Class and subclass of NVMe controllers (PCI Code and ID Assignment Specification, 0108).
const CLASS: u16 = 0x0108;

/// Least queues of a secondary controller that is to be online: one for administration, one for
/// data (NVM Express 1.4, section 8.5).
pub const LEAST_QUEUES: u16 = 2;
/// Least interrupts of a secondary controller that is to be online.
pub const LEAST_INTERRUPTS: u16 = 1;

/// What an NVMe PF says of itself and its secondary controllers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NvmeFacts {
    /// The kernel's name of the controller, such as `nvme0`.
    pub name: String,
    /// Its serial number, without the spaces around it.
    pub serial: String,
    /// Its controller identifier (CNTLID) within the drive.
    pub controller: u16,
    /// Queues that are shared (VQ resources).
    pub queues: Pool,
    /// Interrupts that are shared (VI resources).
    pub interrupts: Pool,
    /// The secondary controllers by the index of their VF, those too whose VF does not exist now.
    pub secondaries: BTreeMap<u16, Secondary>,
}

impl NvmeFacts {
    /// The primary's part of the pool.
    pub fn primary(&self) -> Share {
        Share { queues: self.queues.primary, interrupts: self.interrupts.primary }
    }
}

/// A secondary controller: the drive's side of a VF.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Secondary {
    /// Its controller identifier (SCID).
    pub controller: u16,
    /// Its state.
    #[serde(flatten)]
    pub state: SecondaryState,
}

/// What a secondary controller has, and whether it works.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SecondaryState {
    /// Whether it is online; else its function is there and does nothing.
    pub online: bool,
    /// Its queues, the one for administration too (NVQ).
    pub queues: u16,
    /// Its interrupt vectors (NVI).
    pub interrupts: u16,
}

impl SecondaryState {
    /// Whether it has what it needs to be set online.
    pub fn suffices(&self) -> bool {
        self.queues >= LEAST_QUEUES && self.interrupts >= LEAST_INTERRUPTS
    }

    /// Its queues and interrupts.
    pub fn share(&self) -> Share {
        Share { queues: self.queues, interrupts: self.interrupts }
    }
}

impl fmt::Display for SecondaryState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}, {}", self.share(), if self.online { "online" } else { "offline" })
    }
}

/// A part of the pool.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Share {
    /// Queues.
    pub queues: u16,
    /// Interrupt vectors.
    pub interrupts: u16,
}

impl fmt::Display for Share {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let plural = |count: u16| if count == 1 { "" } else { "s" };
        let Share { queues, interrupts } = *self;
        write!(f, "{queues} queue{}, {interrupts} interrupt{}", plural(queues), plural(interrupts))
    }
}

/// Whether a function is an NVMe controller, by its class.
pub fn is_nvme(function: &PciFunction) -> bool {
    function.class_code() == CLASS
}

/// Asks a PF; `None` where it is no NVMe controller, has no secondary controllers to manage, or
/// cannot be asked: a recorded tree, another driver than the kernel's own, or a reason that is noted
/// under the function's `nvme` directory.
pub fn read(reader: &mut Reader, pf: &PciFunction) -> Option<NvmeFacts> {
    let driven = pf.driver.as_deref() == Some("nvme");
    if !is_nvme(pf) || pf.sriov.is_none() || !driven || !reader.root.has_kernel() {
        return None;
    }
    let asked = Controller::open(reader.root, pf.address).and_then(|controller| controller.facts());
    match asked {
        Ok(facts) => Some(facts),
        Err(error) if error.reason == Reason::NotSriov => None,
        Err(error) => {
            let path = reader.root.pci_attribute(pf.address, "nvme");
            reader.note(&path, error.message);
            None
        }
    }
}
