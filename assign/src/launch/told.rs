//! What happens while a guest starts and runs, for those who tell it to people and programs.

use std::io;

use sriov::PciAddress;
use sriov::dma_fault::DmaFault;

use super::vfio::Interface;
use crate::choose::Choice;
use crate::control::Detached;
use crate::control::stats::Entry;
use crate::failure::Failure;
use crate::history::How;

/// What happens on the way.
#[derive(Debug)]
pub enum Told<'a> {
    /// By which CID the host's programs reach it over vsock.
    Vsock {
        /// Its CID.
        cid: u32,
    },
    /// How each network is connected and which devices it has; the leases are taken.
    Connected {
        /// What was chosen.
        choice: &'a Choice,
        /// By which of the kernel's interfaces the devices reach memory; none without devices.
        iommu: Option<Interface>,
    },
    /// Something about the guest's memory that is not as its document says.
    Memory(&'a str),
    /// It has more vCPUs than this host has CPUs that run, which it shares then.
    Overcommitted {
        /// How many vCPUs.
        vcpus: u8,
        /// How many CPUs.
        host_cpus: u32,
    },
    /// Which entry of the boot loader on a disk is booted.
    Boots {
        /// The disk.
        disk: &'a str,
        /// How the boot loader's menu calls the entry.
        entry: &'a str,
    },
    /// Why its kernel has to unpack itself, which takes time at each start.
    Packed(&'a str),
    /// The guest has started, and what that took.
    Timeline(&'a [Entry]),
    /// Why nothing of the guest's console is written down.
    Unwritten(&'a io::Error),
    /// The guest's console is this terminal from now on.
    Console,
    /// Its process is not shut in.
    NoSandbox,
    /// It runs, with the devices that it was given.
    Started,
    /// Why devices are of no use to the guest, which is started again without them.
    NoDevices(&'a str),
    /// The guest rebooted and is started again.
    Rebooting,
    /// Its CPUs are held.
    Paused,
    /// They go on.
    Resumed,
    /// It has ended, and has no device any more.
    Ended {
        /// How.
        how: How,
        /// What there is to say of an end that was neither its own nor asked for.
        failure: Option<&'a Failure>,
    },
    /// The running guest has these devices now.
    Attached(&'a [PciAddress]),
    /// The running guest has a device no more.
    Detached(&'a Detached),
    /// The host wants a device back: somebody is taking it from its driver.
    Wanted(PciAddress),
    /// A device met an error that it cannot recover from.
    DeviceError(&'a str),
    /// The file of a disk did not do what was asked of it.
    DiskError {
        /// The disk.
        disk: &'a str,
        /// What was tried, and the error.
        detail: &'a str,
    },
    /// A frame of the guest gets nowhere by one of its virtio networks, and its driver knows.
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
    /// A device of the guest reached for memory that is not the guest's, and was stopped.
    DmaFault(&'a DmaFault),
    /// Why nobody will be told of that.
    FaultsUnheard(&'a io::Error),
    /// Something did not work, and the guest goes on.
    Trouble(&'a Failure),
}
