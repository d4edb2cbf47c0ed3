//! What the host has, one file per subject. Reading never changes anything and forks nothing: it
//! reads sysfs and procfs below a [`HostRoot`](crate::root::HostRoot), and on the live host the
//! kernel's rtnetlink for what has no file. How much is read, and whether a device is asked, says
//! the [`Scope`](crate::Scope).
//!
//! A value that is not as the kernel writes it does not stop the pass: it is left out and noted
//! as a [`reader::Problem`], so that one odd device does not hide the others.

pub mod bars;
pub mod block;
pub mod capabilities;
pub mod claims;
pub mod config_space;
pub mod console;
pub mod elsewhere;
pub mod function;
mod holders;
pub mod interrupts;
pub mod iommu;
pub mod iov;
pub mod link;
mod mounts;
pub mod names;
pub mod namespaces;
pub mod net;
pub mod pci;
pub mod platform;
pub mod process;
pub mod reader;
mod routes;
mod serial;
pub mod session;
pub mod shown;
pub mod tree;
pub mod variant;
