//! What a host has, and single changes to it. No policy: this crate says what is there, what the
//! host itself needs, and how to take one small reversible step; others decide which steps.
//!
//! ```text
//! HostRoot ──► HostSnapshot (plain data) ──► usage, isolation   what may be given away
//!     └──────► Change::perform ──► Undo                         what can be done about it
//! ```
//!
//! Everything read from sysfs and procfs is taken as hostile: bounded, checked, and never a panic.
#![deny(unsafe_code)]

pub mod act;
pub mod address;
pub mod attribute;
pub mod change;
pub mod directory;
pub mod dma_fault;
pub mod facts;
pub mod failure;
pub mod isolation;
pub mod mac;
pub mod netlink;
pub mod nvme;
#[cfg(any(test, feature = "recorded"))]
pub mod recorded;
pub mod root;
pub mod saved;
pub mod simulated;
pub mod snapshot;
pub mod udev;
pub mod usage;
pub mod vf_settings;
pub mod vfio;
pub mod watch;

pub use address::{PciAddress, PciRoot, VfRef};
pub use change::{Binding, Change, Target, Undo};
pub use facts::pci::{PciFunction, PfFacts};
pub use failure::{ChangeError, Class, Reason};
pub use mac::MacAddress;
pub use root::HostRoot;
pub use snapshot::{HostSnapshot, Scope};
pub use vf_settings::{LinkState, Rate, Step, VfSetting, VfSettings, VfState, Vlan, VlanProtocol};
