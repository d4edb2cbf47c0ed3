//! The lab: a whole SR-IOV host, emulated, for people and for machines that have none.
//!
//! [`Host`] is what a scenario uses: it says which host it wants, boots it, and runs commands in it.
//!
//! ```no_run
//! # fn main() -> anyhow::Result<()> {
//! use lab::Host;
//! let host = Host::intel().igb(1).boot()?;
//! host.ok("echo 2 > /sys/class/net/eth0/device/sriov_numvfs");
//! assert_eq!(host.ok("cat /sys/bus/pci/devices/0000:01:10.0/vendor"), "0x8086\n");
//! # Ok(()) }
//! ```
//!
//! Below it, in the order in which things come about:
//! - `setup` finds or installs QEMU; `apt`, `kernel` and `kit` turn packages of the distribution
//!   into a kernel with modules and a busybox, which stay in the `cache`. `host_kernel` builds one for
//!   hosts with iommufd, `debian` bootstraps a system for guests to boot, on a `disk`.
//! - `binaries` builds our own programs; `image` makes file systems of all that (`archive`).
//! - `shape` turns what the scenario wants into a command line of QEMU; `machine` runs it, watches
//!   its console and ends it in time.
//! - `wire` is what we say to the agent in the host, `job` a command that runs there.
//! - `uevent` sends device events from within a host, as a udevd would.
//!
//! - `emulator` tells faults of QEMU from those of what runs in it.
//! - `fault` runs a program and lets it fail or die where we want.
//!
//! Without an emulated host, `fuzz` builds and runs the fuzz targets.
//!
//! On top of it, `demo` shows people what `assign` does.

mod apt;
mod archive;
pub mod bare;
pub mod binaries;
mod cache;
mod contact;
mod debian;
pub mod demo;
pub mod disk;
mod emulator;
#[cfg(target_arch = "x86_64")]
pub mod fault;
pub mod fuzz;
mod guest;
mod host;
mod host_kernel;
pub mod image;
mod job;
mod kernel;
mod kit;
mod machine;
mod monitor;
pub mod peer;
mod processor;
pub mod progress;
mod qemu;
mod run;
mod scratch;
pub mod setup;
mod shape;
mod tsc;
mod udevd;
pub mod uevent;
pub mod wire;

pub use debian::Debian;
pub use guest::boot_guest;
pub use host::Host;
pub use host_kernel::HostKernel;
pub use job::{Job, Output};
pub use kit::Kit;
pub use machine::Machine;
pub use scratch::Scratch;
pub use shape::{LARGE_BAR, ROM, Shape};
pub use udevd::Udevd;

/// The name of the virtio serial port that connects a host with the lab.
pub const AGENT_PORT: &str = "lab.agent";
