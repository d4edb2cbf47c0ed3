//! `assign`: gives PCI devices to KVM guests, and takes them back.
//!
//! ```text
//! HostSnapshot ─┐
//! policies ─────┼─► plan ─► apply ─► state ─► launch ─► assign-vmm
//! state ────────┘     └──► refusals (a reason per device)
//! ```
//!
//! Facts are read in one pass by the crate `sriov`; `plan` decides without touching anything, and
//! `choose` which device each guest gets; `inputs` is what they are made from;
//! `apply` makes small journalled steps that it can take back; `state` remembers who has what;
//! `launch` starts a guest, in a group that limits what it may use (`cgroup`), and `control` speaks to it
//! while it runs; `history` is what happened to it, written down and followed; `doctor` says what is in the way, `drift` what is not as policies say, `prove` what a device's DMA reaches. `cli` has one file per verb.

#![deny(unsafe_code)]

pub mod apply;
mod cgroup;
pub mod choose;
pub mod cli;
pub mod control;
mod detach;
pub mod doctor;
pub mod drift;
pub mod failure;
pub mod history;
pub mod inputs;
pub mod launch;
mod overcommit;
pub mod plan;
pub mod prove;
mod signals;
pub mod state;
pub mod status;
mod terminal;
mod time;
pub mod topology;
mod visible;

pub use failure::{Failure, OwnReason, Reason};
