//! What happens to a host's devices, as plain data.

use serde::{Deserialize, Serialize};

use crate::address::{PciAddress, VfRef};
use crate::dma_fault::Blocked;

/// One thing that happened, or that is so at the beginning.
///
/// Events are told so that they follow from each other: nothing is added twice, and nothing is
/// removed that was not told of before.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostEvent {
    /// How it is known.
    pub source: Source,
    /// The PCI function that it is about, or the one below what it is about; `None` for what has
    /// none or, see `devices`, several.
    pub device: Option<PciAddress>,
    /// Whose VF the function is, and which.
    pub vf_of: Option<VfRef>,
    /// What happened.
    #[serde(flatten)]
    pub what: What,
}

/// How an event is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Source {
    /// It was so when following began.
    Initial,
    /// The kernel said so.
    Kernel,
    /// udev said so, after its rules ran: names are final.
    Udev,
    /// Messages were lost; the host was read again, and differed from what was told before.
    Comparison,
    /// The kernel wrote it to its log.
    KernelLog,
}

/// What happened.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub enum What {
    /// A PCI function appeared.
    DeviceAdded(Description),
    /// It went away.
    DeviceRemoved(Description),
    /// A driver took a function.
    Bound(DriverChange),
    /// A function lost its driver.
    Unbound(DriverChange),
    /// A physical function has another number of VFs.
    VfsChanged {
        /// VFs before.
        from: u16,
        /// VFs now.
        to: u16,
    },
    /// The kernel recovers a function from a PCIe error (drivers/pci/pcie/err.c).
    Recovery {
        /// How far it is.
        stage: Stage,
    },
    /// The IOMMU kept a function from memory that it was not given.
    DmaFault(Blocked),
    /// A network interface appeared in this network namespace.
    InterfaceAdded(Interface),
    /// It went away, or to another network namespace.
    InterfaceRemoved(Interface),
    /// It has another name.
    InterfaceRenamed {
        /// Its name before.
        from: String,
        /// Its name now.
        to: String,
        /// The kernel's number for it.
        index: u32,
    },
    /// A disk or partition appeared.
    DiskAdded(Disk),
    /// It went away.
    DiskRemoved(Disk),
    /// A group, or one device, can be opened through VFIO.
    VfioAdded(VfioFile),
    /// It no longer can.
    VfioRemoved(VfioFile),
    /// From here on, what happens is told.
    Following {
        /// Whether udevd runs, so that its events are followed and not the kernel's.
        udev: bool,
    },
    /// Something may have been missed. What differs from what was told before comes next, where it is
    /// about devices; faults that were missed are not told.
    EventsLost {
        /// Why.
        cause: String,
    },
}

/// A PCI function in a few words.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Description {
    /// Vendor and device, as `8086:10ca`.
    pub id: String,
    /// Their names.
    pub name: String,
    /// What kind of device it is, in a word.
    pub class: String,
    /// Its driver. One that was just added has none yet, and one that is removed had none any
    /// more.
    pub driver: Option<String>,
}

/// A driver that came or went.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DriverChange {
    /// The driver it has lost or, where it has got one, the last it had.
    pub from: Option<String>,
    /// The driver it has now.
    pub to: Option<String>,
}

/// How far the recovery from an error is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Stage {
    /// It has begun; the device is not to be used.
    Begun,
    /// It has succeeded.
    Succeeded,
    /// It has failed; the device is lost.
    Failed,
}

/// A network interface.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Interface {
    /// Its name.
    pub interface: String,
    /// The kernel's number for it.
    pub index: u32,
}

/// A disk or partition.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Disk {
    /// The kernel's name.
    pub disk: String,
    /// The disk it is a partition of.
    pub partition_of: Option<String>,
    /// The PCI functions below it: several for multipath.
    pub devices: Vec<PciAddress>,
}

/// What VFIO offers to be opened.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VfioFile {
    /// The file below `/dev`: `vfio/8` for a group, `vfio/devices/vfio0` for one device.
    pub file: String,
    /// The devices that are opened by it.
    pub devices: Vec<PciAddress>,
}

impl HostEvent {
    /// Whether it is about this function, one of its VFs, or what is on top of it.
    pub fn concerns(&self, device: PciAddress) -> bool {
        let several = match &self.what {
            What::DiskAdded(disk) | What::DiskRemoved(disk) => disk.devices.as_slice(),
            What::VfioAdded(file) | What::VfioRemoved(file) => file.devices.as_slice(),
            _ => &[],
        };
        self.device == Some(device)
            || self.vf_of.is_some_and(|vf| vf.pf == device)
            || several.contains(&device)
    }

    /// Whether it is about the network interface of this name, or was until now.
    pub fn is_about_interface(&self, name: &str) -> bool {
        match &self.what {
            What::InterfaceAdded(interface) | What::InterfaceRemoved(interface) => {
                interface.interface == name
            }
            What::InterfaceRenamed { from, to, .. } => from == name || to == name,
            _ => false,
        }
    }

    /// Whether it is about the watching itself rather than about a device.
    pub fn is_about_watching(&self) -> bool {
        matches!(self.what, What::Following { .. } | What::EventsLost { .. })
    }
}
