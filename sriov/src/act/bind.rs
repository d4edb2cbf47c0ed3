//! Moving a device from one driver to another.
//!
//! The order: the override first, so that nobody else can take the device in between; then off
//! its old driver; then a probe, which reports success even when no driver took the device; so at
//! last the `driver` link is read. `new_id` is never used: it would catch sibling devices.

use std::process::Command;

use super::{Done, function, locate, refuse_if_used, stale};
use crate::address::PciAddress;
use crate::attribute;
use crate::change::{Binding, Target};
use crate::facts::pci::PciFunction;
use crate::failure::{ChangeError, Reason};
use crate::isolation::is_vfio_driver;
use crate::root::HostRoot;
use crate::vfio;

/// Binds `device` to `driver`. One that has the driver already, by whatever way, is left alone.
pub fn bind(
    root: &HostRoot,
    device: Target,
    from: &Binding,
    driver: &str,
) -> Result<Done, ChangeError> {
    let address = locate(root, device)?;
    let before = function(root, address)?;
    let present = binding(&before);
    if present.driver.as_deref() == Some(driver) {
        return Ok(Done::Already);
    }
    if present != *from {
        return Err(stale(device, &present.to_string(), &from.to_string()));
    }
    check(root, &before, driver)?;
    load(root, address, driver)?;
    if let Err(error) = take(root, address, driver) {
        return Err(put_back(root, address, &present, error));
    }
    Ok(Done::Changed)
}

/// Puts `device` back under its driver and override. It may be half way already: a step that was
/// interrupted is finished from where it stopped.
pub fn restore(
    root: &HostRoot,
    device: Target,
    from: &Binding,
    to: &Binding,
) -> Result<Done, ChangeError> {
    let address = locate(root, device)?;
    let before = function(root, address)?;
    let present = binding(&before);
    if present == *to {
        return Ok(Done::Already);
    }
    let expected = [&from.driver, &to.driver, &None];
    if !expected.contains(&&present.driver) {
        return Err(stale(device, &present.to_string(), &from.to_string()));
    }
    if present.driver != to.driver {
        check_open(root, address)?;
        if present.driver.as_deref().is_some_and(|driver| !is_vfio_driver(driver)) {
            refuse_if_used(root, &before, "take it from its driver")?;
        }
        // With autoprobe off, a VF is probed only under an override (drivers/pci/pci-driver.c).
        match &to.driver {
            Some(driver) => take(root, address, driver)?,
            None => unbind(root, address)?,
        }
    }
    set_override(root, address, to.driver_override.as_deref())?;
    let after = binding(&function(root, address)?);
    if after == *to {
        Ok(Done::Changed)
    } else {
        let message = format!("could not be given back: it has {after} now, and not {to}");
        Err(ChangeError::new(Reason::NotObserved, device, message))
    }
}

/// Who has the function.
pub fn binding(function: &PciFunction) -> Binding {
    Binding { driver: function.driver.clone(), driver_override: function.driver_override.clone() }
}

fn check(root: &HostRoot, device: &PciFunction, driver: &str) -> Result<(), ChangeError> {
    let address = device.address;
    if let Some(pf) = device.sriov.as_ref().filter(|pf| pf.present > 0) {
        let message = format!("will not bind it to {driver}: it has {} VFs", pf.present);
        return Err(ChangeError::new(Reason::HasVfs, address, message)
            .with_remedy(format!("Destroy them with `assign vf destroy {address}` first.")));
    }
    // A device without a driver carries nothing, but a bridge needs none to be one.
    if device.driver.is_some() || device.is_bridge() {
        refuse_if_used(root, device, &format!("bind it to {driver}"))?;
    }
    check_open(root, address)
}

/// Taking a device from vfio-pci while it is open would block until its user lets go.
fn check_open(root: &HostRoot, address: PciAddress) -> Result<(), ChangeError> {
    match vfio::users(root, address).first() {
        None => Ok(()),
        Some(user) => {
            let message = format!("will not take it from its driver: it is in use by {user}");
            Err(ChangeError::new(Reason::DeviceOpen, address, message)
                .with_remedy("Stop the guest that has it first."))
        }
    }
}

/// Loads the module of a vfio driver that is not there yet: the one program this crate starts.
fn load(root: &HostRoot, address: PciAddress, driver: &str) -> Result<(), ChangeError> {
    let missing = |cause: &str, remedy: String| {
        let message = format!("cannot be bound to {driver}: {cause}");
        Err(ChangeError::new(Reason::DriverRefused, address, message).with_remedy(remedy))
    };
    if !HostRoot::is_component(driver) {
        return missing("this is not a driver's name", "Name a driver such as vfio-pci.".into());
    }
    if root.pci_driver(driver).is_dir() {
        return Ok(());
    }
    if !root.is_live() || !is_vfio_driver(driver) {
        return missing("no such driver is loaded", format!("Load it with `modprobe {driver}`."));
    }
    let cause = match Command::new("modprobe").args(["--", driver]).output() {
        Ok(_) if root.pci_driver(driver).is_dir() => return Ok(()),
        Ok(output) => {
            let said = String::from_utf8_lossy(&output.stderr);
            let said: String = said.trim().chars().take(300).collect();
            if said.is_empty() { "modprobe did not load it".to_owned() } else { said }
        }
        Err(error) => format!("modprobe cannot be run: {error}"),
    };
    let remedy = "Install the kernel's modules; vfio-pci needs CONFIG_VFIO_PCI.";
    missing(&format!("its module cannot be loaded ({cause})"), remedy.into())
}

/// Override, unbind, probe, look.
fn take(root: &HostRoot, address: PciAddress, driver: &str) -> Result<(), ChangeError> {
    set_override(root, address, Some(driver))?;
    unbind(root, address)?;
    attribute::write(root, &root.pci_drivers_probe(), &address.to_string()).map_err(|error| {
        ChangeError::attribute(address, &format!("have it probed for {driver}"), &error)
    })?;
    let found = function(root, address)?.driver;
    if found.as_deref() == Some(driver) {
        return Ok(());
    }
    // The probe keeps the cause to itself; binding by name tells it, should it fail again.
    let cause =
        match attribute::write(root, &root.pci_driver(driver).join("bind"), &address.to_string()) {
            Ok(()) if function(root, address)?.driver.as_deref() == Some(driver) => return Ok(()),
            Ok(()) => match found {
                Some(other) => format!("{other} took it"),
                None => "no driver took it".to_owned(),
            },
            Err(error) => error.to_string(),
        };
    let message = format!("cannot be bound to {driver}: {cause}");
    Err(ChangeError::new(Reason::DriverRefused, address, message)
        .with_remedy("The kernel's log (dmesg) may say more."))
}

fn unbind(root: &HostRoot, address: PciAddress) -> Result<(), ChangeError> {
    let Some(driver) = function(root, address)?.driver else { return Ok(()) };
    let path = root.pci_driver(&driver).join("unbind");
    attribute::write(root, &path, &address.to_string())
        .map_err(|error| ChangeError::attribute(address, &format!("take it from {driver}"), &error))
}

/// An override is cleared by a newline; an empty write changes nothing.
fn set_override(
    root: &HostRoot,
    address: PciAddress,
    driver: Option<&str>,
) -> Result<(), ChangeError> {
    let path = root.pci_attribute(address, "driver_override");
    let value = format!("{}\n", driver.unwrap_or_default());
    attribute::write(root, &path, &value)
        .map_err(|error| ChangeError::attribute(address, "set its driver_override", &error))
}

/// After a failed bind: the old driver again. A failure of that is told beside the cause, never
/// instead of it.
fn put_back(
    root: &HostRoot,
    address: PciAddress,
    to: &Binding,
    mut cause: ChangeError,
) -> ChangeError {
    let back = match &to.driver {
        Some(driver) => take(root, address, driver),
        None => unbind(root, address),
    }
    .and_then(|()| set_override(root, address, to.driver_override.as_deref()));
    let told = match back {
        Ok(()) => format!("it has {to} again"),
        Err(error) => format!("and giving it back to {to} failed as well: {}", error.message),
    };
    cause.message = format!("{}; {told}", cause.message);
    cause
}
