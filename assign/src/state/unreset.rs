//! Devices that a guest had and nothing has reset since. VFIO resets a device when its file is closed,
//! if the kernel knows a way; where it knows none, what the guest left in the device is still there
//! and is for no other guest to find.

use std::time::{SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};
use sriov::facts::platform;
use sriov::{HostRoot, PciAddress, attribute};

use super::State;
use super::originals::instance;
use super::store::{Table, Transaction};
use crate::failure::Failure;

const UNRESET: Table = Table::new("unreset");

/// A device as its last guest left it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Unreset {
    /// The device.
    pub device: PciAddress,
    /// Which device at this address it is: a VF that is made anew is another one.
    pub instance: Option<u64>,
    /// The boot; the next one resets it.
    pub boot_id: String,
    /// The guest that had it, which may have it again.
    pub guest: String,
    /// When the guest gave it back, in seconds since 1970.
    pub since: u64,
}

impl Unreset {
    /// Why no other guest gets it, as the end of a sentence about the device.
    pub fn because(&self) -> String {
        format!(
            "was not reset since guest {} had it, because the kernel knows no way to reset it",
            self.guest
        )
    }

    /// What makes it fit for another guest.
    pub fn remedy(&self) -> String {
        format!(
            "Give it to {} again, boot this host, or make the device anew (a VF with its PF's others; \
             another device with `remove` and `rescan` in sysfs).",
            self.guest
        )
    }
}

/// Whether the kernel can reset a function: the file `reset` is there only then
/// (drivers/pci/pci-sysfs.c, `pci_dev_reset_attr_is_visible`).
pub fn can_reset(root: &HostRoot, device: PciAddress) -> bool {
    root.pci_attribute(device, "reset").exists()
        || attribute::read(&root.pci_attribute(device, "reset_method"))
            .is_ok_and(|methods| methods.is_some_and(|methods| !methods.is_empty()))
}

impl State {
    /// Devices that are as their last guest left them.
    pub fn unreset(&self, root: &HostRoot) -> Result<Vec<Unreset>, Failure> {
        let boot_id = platform::boot_id(root);
        let mut all: Vec<Unreset> = self.all(UNRESET)?;
        all.retain(|one| one.boot_id == boot_id && one.instance == instance(root, one.device));
        Ok(all)
    }
}

impl Transaction<'_> {
    /// Remembers that a guest left a device, unless the kernel can reset it; says whether it cannot.
    pub fn remember_unreset(
        &self,
        root: &HostRoot,
        device: PciAddress,
        guest: &str,
    ) -> Result<bool, Failure> {
        let instance = instance(root, device);
        // One that is gone comes back reset.
        if instance.is_none() || can_reset(root, device) {
            self.remove(UNRESET, &device.to_string())?;
            return Ok(false);
        }
        let now = SystemTime::now().duration_since(UNIX_EPOCH).map(|age| age.as_secs());
        let unreset = Unreset {
            device,
            instance,
            boot_id: platform::boot_id(root),
            guest: guest.to_owned(),
            since: now.unwrap_or(0),
        };
        self.put(UNRESET, &device.to_string(), &unreset)?;
        Ok(true)
    }
}
