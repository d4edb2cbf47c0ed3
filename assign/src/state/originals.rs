//! How devices were before `assign bind` touched them, so that `assign release` gives them back.

use std::os::unix::fs::MetadataExt;

use serde::{Deserialize, Serialize};
use sriov::{Binding, HostRoot, PciAddress, VfRef};

use super::State;
use super::store::{Table, Transaction};
use crate::failure::Failure;

const ORIGINALS: Table = Table::new("originals");

/// A device as it was found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Original {
    /// The device.
    pub device: PciAddress,
    /// Whose VF it is, and which.
    #[serde(default)]
    pub vf: Option<VfRef>,
    /// Which device at this address it is: see [`instance`]. Another one that came in its place is
    /// not given back to where this one was.
    #[serde(default)]
    pub instance: Option<u64>,
    /// Its driver, override and address then.
    pub binding: Binding,
    /// The driver it was given to.
    pub given_to: String,
    /// What the host lost when it was taken by force, as chains.
    #[serde(default)]
    pub lost: Vec<String>,
    /// The boot it was found on; on another one the kernel has bound everything anew.
    pub boot_id: String,
}

/// What tells a device from others that are at its address before and after it: the number of its
/// directory in sysfs, which the kernel gives once (fs/kernfs/dir.c, `__kernfs_new_node`). A VF that
/// is made anew, and a card that was pulled and put back, have another.
pub fn instance(root: &HostRoot, device: PciAddress) -> Option<u64> {
    // The link's target: the link has a number of its own.
    std::fs::metadata(root.pci_device(device)).ok().map(|directory| directory.ino())
}

impl State {
    /// How devices that are still there were found on this boot.
    pub fn originals(&self, root: &HostRoot, boot_id: &str) -> Result<Vec<Original>, Failure> {
        let mut originals: Vec<Original> = self.all(ORIGINALS)?;
        originals.retain(|original| {
            original.boot_id == boot_id && original.instance == instance(root, original.device)
        });
        Ok(originals)
    }
}

impl Transaction<'_> {
    /// Remembers how a device was found, unless an earlier state of this very device is known. Those
    /// of other boots are forgotten.
    pub fn remember_original(&self, original: &Original) -> Result<(), Failure> {
        let mut known = false;
        for other in self.all::<Original>(ORIGINALS)? {
            let same = other.device == original.device && other.instance == original.instance;
            if other.boot_id != original.boot_id {
                self.forget_original(other.device)?;
            } else {
                known |= same;
            }
        }
        match known {
            true => Ok(()),
            false => self.put(ORIGINALS, &original.device.to_string(), original),
        }
    }

    /// The device was given back, or is gone.
    pub fn forget_original(&self, device: PciAddress) -> Result<(), Failure> {
        self.remove(ORIGINALS, &device.to_string())
    }

    /// All VFs of a PF are gone.
    pub fn forget_originals_below(&self, pf: PciAddress) -> Result<(), Failure> {
        for original in self.all::<Original>(ORIGINALS)? {
            if original.vf.is_some_and(|vf| vf.pf == pf) {
                self.forget_original(original.device)?;
            }
        }
        Ok(())
    }
}
