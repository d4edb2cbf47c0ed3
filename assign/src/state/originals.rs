//! How devices were before `assign bind` touched them, so that `assign release` gives them back.

use serde::{Deserialize, Serialize};
use sriov::{Binding, PciAddress};

use super::State;
use super::store::{Table, Transaction};
use crate::failure::Failure;

const ORIGINALS: Table = Table::new("originals");

/// A device as it was found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Original {
    /// The device.
    pub device: PciAddress,
    /// Its driver and override then.
    pub binding: Binding,
    /// The driver it was given to.
    pub given_to: String,
    /// The boot it was found on; on another one the kernel has bound everything anew.
    pub boot_id: String,
}

impl State {
    /// How a device was found on this boot, if it was touched.
    pub fn original(&self, device: PciAddress, boot_id: &str) -> Result<Option<Original>, Failure> {
        let originals: Vec<Original> = self.all(ORIGINALS)?;
        Ok(originals
            .into_iter()
            .find(|original| original.device == device && original.boot_id == boot_id))
    }
}

impl Transaction<'_> {
    /// Remembers how a device was found, unless an earlier state of this boot is known.
    pub fn remember_original(&self, original: &Original) -> Result<(), Failure> {
        let key = original.device.to_string();
        match self.get::<Original>(ORIGINALS, &key)? {
            Some(known) if known.boot_id == original.boot_id => Ok(()),
            _ => self.put(ORIGINALS, &key, original),
        }
    }

    /// The device was given back, or is gone.
    pub fn forget_original(&self, device: PciAddress) -> Result<(), Failure> {
        self.remove(ORIGINALS, &device.to_string())
    }
}
