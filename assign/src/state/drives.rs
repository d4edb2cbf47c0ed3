//! What NVMe PFs had of their queues and interrupts before `assign vf create` took some for VFs, so
//! that `assign vf destroy` gives them back.
//!
//! The drive itself remembers its share over a boot and a power cut, so these entries do as well; the
//! serial number tells whether it is the same drive.

use serde::{Deserialize, Serialize};
use sriov::nvme::Share;
use sriov::{Change, HostSnapshot, PciAddress};

use super::State;
use super::store::{Table, Transaction};
use crate::failure::Failure;

const DRIVES: Table = Table::new("drives");

/// A drive's share as it was and as it was left.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Drive {
    /// Its PF.
    pub pf: PciAddress,
    /// Its serial number.
    pub serial: String,
    /// What the PF had when it was found.
    pub found: Share,
    /// What it was left with.
    pub left: Share,
}

impl Drive {
    /// The drives whose share is among `changes`.
    pub fn of(snapshot: &HostSnapshot, changes: &[Change]) -> Vec<Drive> {
        let drive = |change: &Change| {
            let Change::SetNvmePrimary { pf, from, to, .. } = change else { return None };
            let facts = snapshot.function(*pf)?.sriov.as_ref()?.nvme.as_ref()?;
            Some(Drive { pf: *pf, serial: facts.serial.clone(), found: *from, left: *to })
        };
        changes.iter().filter_map(drive).collect()
    }
}

impl State {
    /// How a drive was found, if its share was changed.
    pub fn drive(&self, pf: PciAddress) -> Result<Option<Drive>, Failure> {
        Ok(self.all::<Drive>(DRIVES)?.into_iter().find(|drive| drive.pf == pf))
    }
}

impl Transaction<'_> {
    /// Remembers how a drive was found, unless that is known from before.
    pub fn remember_drive(&self, drive: &Drive) -> Result<(), Failure> {
        let key = drive.pf.to_string();
        let known = self.get::<Drive>(DRIVES, &key)?;
        let known = known.filter(|known| known.serial == drive.serial && known.left == drive.found);
        let found = known.map_or(drive.found, |known| known.found);
        self.put(DRIVES, &key, &Drive { found, ..drive.clone() })
    }

    /// Its share was given back.
    pub fn forget_drive(&self, pf: PciAddress) -> Result<(), Failure> {
        self.remove(DRIVES, &pf.to_string())
    }
}
