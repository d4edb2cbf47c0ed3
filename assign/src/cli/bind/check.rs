//! Whether `assign bind` takes a device: pure, and of one mind with what the doctor says of the device
//! and what every list, tree and picture shows of it. What only this moment tells, such as who has
//! the device open, is asked beside it.

use sriov::isolation::{self, NotViable};
use sriov::{HostSnapshot, PciAddress, PciFunction, Reason};

use crate::cli::force;
use crate::cli::output::text::counted;
use crate::failure::{Failure, OwnReason};
use crate::plan::vfs;
use crate::state::Lease;
use crate::topology::standing::lease_of_group;

/// What the checks of all devices need.
pub(super) struct Wanted<'a> {
    pub snapshot: &'a HostSnapshot,
    pub leases: &'a [Lease],
    /// The devices that are bound with it.
    pub together: &'a [PciAddress],
    /// Those that are taken also from a host that uses them.
    pub forced: &'a [PciAddress],
    /// That devices may be given away without an IOMMU.
    pub no_iommu: bool,
}

/// What speaks against binding a device.
pub(super) enum Against {
    /// Somebody has or needs it.
    Protected(Failure),
    /// It cannot be given away by itself.
    NotViable(NotViable),
}

impl Wanted<'_> {
    /// Those who have the device first, then what it is.
    ///
    /// # Errors
    /// What speaks against it.
    pub fn check(&self, function: &PciFunction, driver: &str) -> Result<(), Against> {
        let tried = format!("bind it to {driver}");
        if let Some(lease) = self.leases.iter().find(|lease| lease.device == function.address) {
            return Err(Against::Protected(vfs::leased(lease, &tried)));
        }
        if let Some(failure) = force::carries(self.snapshot, function, self.forced) {
            return Err(Against::Protected(failure));
        }
        if let Some(pf) = function.sriov.as_ref().filter(|pf| pf.present > 0) {
            let vfs = counted(pf.present.into(), "VF");
            let message = format!("will not {tried}: it has {vfs}");
            let failure = Failure::refused(Reason::HasVfs, function.address, message);
            let remedy =
                format!("Destroy them with `assign vf destroy {}` first.", function.address);
            return Err(Against::Protected(failure.with_remedy(remedy)));
        }
        if !isolation::is_vfio_driver(driver) {
            return Ok(());
        }
        if let Some(lease) = lease_of_group(self.leases, function) {
            return Err(Against::Protected(beside(function, lease, &tried)));
        }
        match isolation::viability(self.snapshot, function, self.together) {
            Ok(()) => Ok(()),
            Err(NotViable::NoGroup { .. }) if self.no_iommu => Ok(()),
            Err(cause) => Err(Against::NotViable(cause)),
        }
    }
}

/// The refusal to give away a device beside one that a guest has.
fn beside(function: &PciFunction, lease: &Lease, tried: &str) -> Failure {
    let Lease { device, guest, .. } = lease;
    let message = format!(
        "will not {tried}: guest {guest} has {device}, which shares its IOMMU group, and a group \
         goes to one guest"
    );
    Failure::refused(OwnReason::Leased, function.address, message)
        .with_remedy(format!("Stop {guest} first, or choose another device."))
}

#[cfg(test)]
#[path = "check_tests.rs"]
mod tests;
