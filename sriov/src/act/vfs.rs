//! Creating and destroying VFs.
//!
//! The kernel goes from none to some and back to none, nothing else. Its write returns after the
//! VFs are made, which takes from 100 ms to a minute, and may make fewer than asked with only a
//! line in its log: the number is read back.

use std::time::Duration;

use super::{Done, function, link, refuse_if_any_used, stale, wait};
use crate::address::PciAddress;
use crate::attribute::{self, AttributeError};
use crate::facts::pci::{PciFunction, PfFacts};
use crate::facts::reader::Reader;
use crate::facts::{iov, net};
use crate::failure::{ChangeError, Reason};
use crate::isolation::is_vfio_driver;
use crate::root::HostRoot;
use crate::{udev, vfio};

// uapi/asm-generic/errno-base.h, errno.h
const EPERM: i32 = 1;
const ENOENT: i32 = 2;
const EIO: i32 = 5;
const EAGAIN: i32 = 11;
const ENOMEM: i32 = 12;
const EBUSY: i32 = 16;
const ENODEV: i32 = 19;
const EINVAL: i32 = 22;
const ENOSPC: i32 = 28;
const ERANGE: i32 = 34;
const EOPNOTSUPP: i32 = 95;
const ENETDOWN: i32 = 100;

/// For the links to the VFs, once the kernel says they are there.
const LINKS_APPEAR: Duration = Duration::from_secs(2);
/// For udev to name their interfaces.
const NAMES_SETTLE: Duration = Duration::from_secs(10);

/// Sets `sriov_drivers_autoprobe`. It does not touch VFs that are bound.
pub fn set_autoprobe(
    root: &HostRoot,
    pf: PciAddress,
    from: bool,
    to: bool,
) -> Result<Done, ChangeError> {
    let facts = sriov_now(root, pf)?;
    if facts.autoprobe == to {
        return Ok(Done::Already);
    }
    if facts.autoprobe != from {
        return Err(stale(pf, flag(facts.autoprobe), flag(from)));
    }
    let path = root.pci_attribute(pf, "sriov_drivers_autoprobe");
    let tried = "set whether the host binds drivers to new VFs";
    attribute::write(root, &path, if to { "1\n" } else { "0\n" })
        .map_err(|error| ChangeError::attribute(pf, tried, &error))?;
    if sriov_now(root, pf)?.autoprobe == to {
        Ok(Done::Changed)
    } else {
        let message = "sriov_drivers_autoprobe was written and still has its old value";
        Err(ChangeError::new(Reason::NotObserved, pf, message))
    }
}

fn flag(value: bool) -> &'static str {
    if value { "sriov_drivers_autoprobe 1" } else { "sriov_drivers_autoprobe 0" }
}

/// Sets `sriov_numvfs` from 0 to a number, or from a number to 0. VFs in `forced` may go although the
/// host uses them.
pub fn set_count(
    root: &HostRoot,
    pf: PciAddress,
    from: u16,
    to: u16,
    forced: &[PciAddress],
) -> Result<Done, ChangeError> {
    let before = function(root, pf)?;
    let facts = sriov(&before)?;
    check_range(pf, &facts, to)?;
    if facts.present == to {
        return Ok(Done::Already);
    }
    if facts.present != from {
        return Err(stale(pf, &count(facts.present), &count(from)));
    }
    check_driver(&before)?;
    if to == 0 {
        check_free(root, pf, &facts, forced)?;
    }
    let path = root.pci_attribute(pf, "sriov_numvfs");
    attribute::write(root, &path, &format!("{to}\n"))
        .map_err(|error| explain(pf, &facts, to, &error))?;
    observe(root, pf, from, to)?;
    if to > 0 && link::expects_carrier(root, pf) {
        // Enabling VFs resets the PF of some NICs (igb), and VFs do not answer until it is back; a
        // link that does not come is no failure of ours.
        link::await_carrier_again(root, pf);
    }
    if to > 0 && facts.autoprobe {
        await_names(root, pf);
    }
    Ok(Done::Changed)
}

/// The SR-IOV side of a PF as it is now.
fn sriov_now(root: &HostRoot, pf: PciAddress) -> Result<PfFacts, ChangeError> {
    match iov::of(&mut Reader::new(root), pf) {
        Some(facts) => Ok(facts),
        // What it is instead takes a closer look to say.
        None => sriov(&function(root, pf)?),
    }
}

/// Interfaces of new VFs get their names from udev, where it runs.
fn await_names(root: &HostRoot, pf: PciAddress) {
    let named = || {
        let mut reader = Reader::new(root);
        let vfs = iov::vfs(&mut reader, pf);
        let mut interfaces = vfs.values().flat_map(|vf| net::of_function(&mut reader, *vf));
        interfaces.all(|netdev| udev::knows_interface(root, netdev.index))
    };
    // A udevd that takes longer has other troubles; names may then change once more.
    udev::settle(root, NAMES_SETTLE, named);
}

fn sriov(function: &PciFunction) -> Result<PfFacts, ChangeError> {
    function.sriov.clone().ok_or_else(|| {
        ChangeError::new(
            Reason::NotSriov,
            function.address,
            match &function.vf_of {
                Some(vf) => format!("is a VF itself (of {})", vf.pf),
                None => "has no SR-IOV capability, so it cannot have VFs".to_owned(),
            },
        )
        .with_remedy(
            "`assign devices` shows how many VFs each device can have. Some cards need SR-IOV \
             enabled in their firmware first.",
        )
    })
}

fn check_range(pf: PciAddress, facts: &PfFacts, to: u16) -> Result<(), ChangeError> {
    if to <= facts.total {
        return Ok(());
    }
    let message = format!("cannot create {}: it can have at most {}", count(to), facts.total);
    Err(ChangeError::new(Reason::TooManyVfs, pf, message)
        .with_remedy(format!("Ask for 1 to {}.", facts.total)))
}

fn check_driver(pf: &PciFunction) -> Result<(), ChangeError> {
    let refuse = |message: &str, remedy: &str| {
        Err(ChangeError::new(Reason::DriverRefused, pf.address, message).with_remedy(remedy))
    };
    match pf.driver.as_deref() {
        None => refuse(
            "cannot change its number of VFs: no driver is bound to it",
            "Bind the host's driver to it first.",
        ),
        Some(driver) if is_vfio_driver(driver) => refuse(
            "cannot change its number of VFs: it is bound to vfio-pci itself",
            "Give it back to the host with `assign release` first.",
        ),
        Some(_) => Ok(()),
    }
}

/// No VF may be in use when all of them go.
fn check_free(
    root: &HostRoot,
    pf: PciAddress,
    facts: &PfFacts,
    forced: &[PciAddress],
) -> Result<(), ChangeError> {
    let mut hosts = Vec::new();
    for vf in facts.vfs.values() {
        let vf = function(root, *vf)?;
        match vf.driver.as_deref() {
            None => {}
            Some(driver) if is_vfio_driver(driver) => {
                if let Some(user) = vfio::users(root, vf.address).first() {
                    let message =
                        format!("will not destroy its VFs: {} is in use by {user}", vf.address);
                    return Err(ChangeError::new(Reason::DeviceOpen, pf, message)
                        .with_remedy("Stop the guest that has it first."));
                }
            }
            Some(_) if forced.contains(&vf.address) => {}
            Some(_) => hosts.push(vf),
        }
    }
    refuse_if_any_used(root, hosts, "destroy it")
}

/// What each answer of the kernel means here (drivers/pci/iov.c, `sriov_numvfs_store`).
fn explain(pf: PciAddress, facts: &PfFacts, to: u16, error: &AttributeError) -> ChangeError {
    let tried = match to {
        0 => format!("destroy its {}", count(facts.present)),
        _ => format!("create {}", count(to)),
    };
    let because = |reason, cause: &str, remedy: &str| {
        ChangeError::new(reason, pf, format!("cannot {tried}: {cause}")).with_remedy(remedy)
    };
    match error.source.raw_os_error() {
        Some(ENOMEM) => because(
            Reason::OutOfAddressSpace,
            "the kernel found no address space or bus number for them (ENOMEM)",
            "Enable SR-IOV and ARI in the firmware's settings, or boot with pci=realloc.",
        ),
        Some(ENOSPC) => because(
            Reason::OutOfVectors,
            "no MSI-X vectors are left for them (ENOSPC)",
            "Ask for fewer VFs.",
        ),
        Some(ENOENT) => because(
            Reason::DriverRefused,
            "its driver does not support VFs (ENOENT)",
            "Use the vendor's driver for this device.",
        ),
        Some(ERANGE) => because(
            Reason::TooManyVfs,
            "the driver has lowered the most it can have since (ERANGE)",
            "Look how many it can have now with `assign devices`.",
        ),
        Some(EBUSY) => because(
            Reason::KernelRefused,
            "the device is busy (EBUSY)",
            "Its driver may need the interface up, or VFs were made by something else.",
        ),
        Some(EIO | ENODEV | ENETDOWN | EAGAIN) => because(
            Reason::KernelRefused,
            &format!("its driver is not ready for it ({})", error.source),
            "Some drivers need the interface up first: `ip link set INTERFACE up`, then try again.",
        ),
        Some(EINVAL | EOPNOTSUPP | EPERM) => because(
            Reason::DriverRefused,
            &format!("its driver does not do it ({})", error.source),
            "SR-IOV may be off in the card's own firmware, or for this number of VFs; the kernel's \
             log (dmesg) may say more, where assign runs as root.",
        ),
        _ => ChangeError::attribute(pf, &tried, error),
    }
}

/// Reads the number back and waits for the links; what came out otherwise is taken back.
fn observe(root: &HostRoot, pf: PciAddress, from: u16, to: u16) -> Result<(), ChangeError> {
    let path = root.pci_attribute(pf, "sriov_numvfs");
    let now = sriov_now(root, pf)?;
    let present = now.present;
    if present != to {
        let message = match (to, present) {
            (0, _) => format!("was to lose its {}, and still has {present}", count(from)),
            (_, 0) => format!("asked for {}, the kernel made none", count(to)),
            // The kernel goes by way of none only, so they all go.
            _ => match attribute::write(root, &path, "0\n") {
                Ok(()) => format!(
                    "asked for {}, the kernel made {present}; they were destroyed again",
                    count(to)
                ),
                Err(error) => format!(
                    "asked for {}, the kernel made {present}; and destroying them failed: {error}",
                    count(to)
                ),
            },
        };
        return Err(ChangeError::new(Reason::OtherVfCount, pf, message)
            .with_remedy("The kernel's log (dmesg) says why; ask for fewer VFs."));
    }
    let all = usize::from(to);
    let linked = || now.vfs.len() == all || iov::vfs(&mut Reader::new(root), pf).len() == all;
    if root.has_kernel() && !wait(LINKS_APPEAR, linked) {
        let message = format!("{} were made, and sysfs does not show all of them", count(to));
        return Err(ChangeError::new(Reason::NotObserved, pf, message));
    }
    Ok(())
}

fn count(vfs: u16) -> String {
    if vfs == 1 { "1 VF".to_owned() } else { format!("{vfs} VFs") }
}

#[cfg(test)]
mod tests;
