//! DEVICE on the command line: a PCI address, with or without its domain, or an interface's name.

use std::collections::BTreeSet;

use sriov::facts::iov;
use sriov::facts::reader::Reader;
use sriov::{
    HostRoot, HostSnapshot, PciAddress, PciFunction, Reason, Target, VfRef, isolation, vfio,
};

use super::Context;
use crate::apply::Operation;
use crate::failure::Failure;

/// The function that a person means.
///
/// # Errors
/// There is none of this name on this host.
pub fn find<'a>(snapshot: &'a HostSnapshot, name: &str) -> Result<&'a PciFunction, Failure> {
    let unknown = |message: &str| {
        let shown: String = name.chars().filter(|c| !c.is_control()).take(64).collect();
        Failure::bad_input(Reason::NoSuchDevice, shown, message)
            .with_remedy("`assign devices` lists the devices of this host.")
    };
    if let Some(netdev) = snapshot.netdev(name) {
        let function = netdev.pci.and_then(|address| snapshot.function(address));
        return function.ok_or_else(|| unknown("this interface is not of a PCI device"));
    }
    match name.parse::<PciAddress>() {
        Ok(address) => {
            snapshot.function(address).ok_or_else(|| unknown("this host has no such PCI device"))
        }
        Err(_) => Err(unknown("is neither an interface of this host nor a PCI address")),
    }
}

/// All of them, each once, in the order given.
///
/// # Errors
/// The first that is not there.
pub fn find_all<'a>(
    snapshot: &'a HostSnapshot,
    names: &[String],
) -> Result<Vec<&'a PciFunction>, Failure> {
    let mut found: Vec<&PciFunction> = Vec::new();
    for name in names {
        let function = find(snapshot, name)?;
        if !found.contains(&function) {
            found.push(function);
        }
    }
    Ok(found)
}

/// With every endpoint that shares an IOMMU group with one of them, each once: those named first.
pub fn with_groups<'a>(
    snapshot: &'a HostSnapshot,
    named: &[&'a PciFunction],
) -> Vec<&'a PciFunction> {
    let groups: BTreeSet<u32> = named.iter().filter_map(|function| function.iommu_group).collect();
    let shares = |function: &&PciFunction| {
        function.iommu_group.is_some_and(|group| groups.contains(&group))
            && !function.is_bridge()
            && !named.contains(function)
    };
    named.iter().copied().chain(snapshot.functions.iter().filter(shares)).collect()
}

/// Begins a command that changes the devices of these names. Where that cannot be, a name that means
/// nothing is the first thing to be told.
///
/// # Errors
/// As [`find`] and [`Operation::begin`].
pub fn begin<'a>(
    context: &'a Context,
    verb: &str,
    names: &[String],
) -> Result<Operation<'a>, Failure> {
    Operation::begin(&context.root, &context.state, verb).or_else(|failure| {
        find_all(&HostSnapshot::read(&context.root), names)?;
        Err(failure)
    })
}

/// Whose VF a device is, and which.
pub fn vf_of(root: &HostRoot, device: Target) -> Option<VfRef> {
    match device {
        Target::Vf(vf) => Some(vf),
        Target::Function(address) => iov::vf_of(&mut Reader::new(root), address),
    }
}

/// Refuses to touch a device that a process has open, before anything else is touched.
///
/// # Errors
/// It is open; the process is named.
pub fn check_open(context: &Context, function: &PciFunction, tried: &str) -> Result<(), Failure> {
    let has_vfio = function.driver.as_deref().is_some_and(isolation::is_vfio_driver);
    let users = if has_vfio { vfio::users(&context.root, function.address) } else { Vec::new() };
    let Some(user) = users.first() else { return Ok(()) };
    let message = format!("will not {tried}: it is in use by {user}");
    Err(Failure::refused(Reason::DeviceOpen, function.address, message)
        .with_remedy("Stop the guest that has it first."))
}
