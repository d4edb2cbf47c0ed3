//! DEVICE on the command line: a PCI address, with or without its domain, or an interface's name.

use sriov::{HostSnapshot, PciAddress, PciFunction, Reason};

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
