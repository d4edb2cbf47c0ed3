//! Moving a device from one driver to another.
//!
//! The order: the override first, so that nobody else can take the device in between; then off
//! its old driver; then a probe, which reports success even when no driver took the device; so at
//! last the `driver` link is read. `new_id` is never used: it would catch sibling devices.
//!
//! Before a VF goes back to a driver of the host, its PF gives it the address it had: a driver that
//! finds none invents one, and some refuse to work.

use super::{Done, driver, function, link, locate, refuse_if_used, stale};
use crate::address::{PciAddress, VfRef};
use crate::attribute;
use crate::change::{Binding, Target};
use crate::facts::function::is_override;
use crate::facts::iov;
use crate::facts::net;
use crate::facts::pci::PciFunction;
use crate::facts::reader::Reader;
use crate::facts::shown::Shown;
use crate::failure::{ChangeError, Reason};
use crate::isolation::is_vfio_driver;
use crate::root::HostRoot;
use crate::snapshot::HostSnapshot;
use crate::vfio;

/// Binds `device` to `driver`. One that has the driver already, by whatever way, is left alone.
/// `forced` says that it is to be taken also from a host that uses it.
pub fn bind(
    root: &HostRoot,
    device: Target,
    from: &Binding,
    driver: &str,
    forced: bool,
) -> Result<Done, ChangeError> {
    let address = locate(root, device)?;
    let present = hands(root, address)?;
    if present.driver.as_deref() == Some(driver) {
        return Ok(Done::Already);
    }
    if !present.same_hands(from) {
        return Err(stale(device, &present.to_string(), &from.to_string()));
    }
    // A VF that nobody has carries nothing: there is nothing to look for.
    if present.driver.is_some() || matches!(device, Target::Function(_)) {
        check(root, &function(root, address)?, driver, forced)?;
    }
    driver::ensure(root, address, driver)?;
    if let Err(error) = take(root, address, &present, driver) {
        return Err(put_back(root, device, address, from, error));
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
    forced: bool,
) -> Result<Done, ChangeError> {
    let address = locate(root, device)?;
    let present = hands(root, address)?;
    if present.same_hands(to) {
        return match from.same_hands(to) {
            // Nothing but the address is to change.
            true => readdress(root, device, address, present, to),
            false => Ok(Done::Already),
        };
    }
    let expected = [&from.driver, &to.driver, &None];
    if !expected.contains(&&present.driver) {
        return Err(stale(device, &present.to_string(), &from.to_string()));
    }
    put(root, device, address, &present, to, forced)
}

/// From the driver that has the device, whichever that is, to `to`.
fn put(
    root: &HostRoot,
    device: Target,
    address: PciAddress,
    present: &Binding,
    to: &Binding,
    forced: bool,
) -> Result<Done, ChangeError> {
    if present.driver != to.driver {
        check_open(root, address, present.driver.as_deref())?;
        if !forced && present.driver.as_deref().is_some_and(|driver| !is_vfio_driver(driver)) {
            refuse_if_used(root, &function(root, address)?, "take it from its driver")?;
        }
        if let Some(driver) = &to.driver {
            driver::ensure(root, address, driver)?;
        }
        give(root, device, address, present, to)?;
    }
    set_override(root, address, to.driver_override.as_deref())?;
    let after = hands(root, address)?;
    if after.same_hands(to) {
        Ok(Done::Changed)
    } else {
        let message = format!("could not be given back: it has {after} now, and not {to}");
        Err(ChangeError::new(Reason::NotObserved, device, message))
    }
}

/// Lets the host's own drivers have `device`, by having it probed without an override: whichever the
/// kernel finds for it, now or once its module is loaded. A device that one of them has already is
/// left alone.
pub fn give_up(root: &HostRoot, device: Target, from: &Binding) -> Result<Done, ChangeError> {
    let address = locate(root, device)?;
    let present = hands(root, address)?;
    let by_host =
        |hands: &Binding| hands.driver.as_deref().is_some_and(|driver| !is_vfio_driver(driver));
    if by_host(&present) && present.driver_override.is_none() {
        return Ok(Done::Already);
    }
    // One that was interrupted is finished from where it stopped.
    if !present.same_hands(from) && present.driver.is_some() {
        return Err(stale(device, &present.to_string(), &from.to_string()));
    }
    check_open(root, address, present.driver.as_deref())?;
    set_override(root, address, None)?;
    unbind(root, address, present.driver.as_deref())?;
    attribute::write(root, &root.pci_drivers_probe(), &address.to_string()).map_err(|error| {
        ChangeError::attribute(address, "have it probed for the host's driver", &error)
    })?;
    let after = hands(root, address)?;
    match &after.driver {
        Some(driver) if is_vfio_driver(driver) => {
            let message = format!(
                "could not be given to the host's driver: {driver} took it again, without an \
                 override"
            );
            Err(ChangeError::new(Reason::NotObserved, device, message).with_remedy(
                "Look for its vendor and device numbers in `vfio-pci.ids=` on the kernel's command \
                 line and in /etc/modprobe.d.",
            ))
        }
        _ if after.same_hands(&present) => Ok(Done::Already),
        _ => Ok(Done::Changed),
    }
}

/// Takes `device` back from whichever driver of the host has it, and gives it to `to`. Where that is
/// the driver it has, and it is to go by another address there, it is given to it anew.
pub fn retake(root: &HostRoot, device: Target, to: &Binding) -> Result<Done, ChangeError> {
    let address = locate(root, device)?;
    let present = hands(root, address)?;
    if !present.same_hands(to) {
        return put(root, device, address, &present, to, false);
    }
    readdress(root, device, address, present, to)
}

/// Where the host's driver goes by another address than the one in `to`: has it begin anew with that.
fn readdress(
    root: &HostRoot,
    device: Target,
    address: PciAddress,
    present: Binding,
    to: &Binding,
) -> Result<Done, ChangeError> {
    let goes_by = net::port(&mut Reader::new(root), address).and_then(|port| port.mac);
    if to.mac.is_none() || goes_by.is_none() || goes_by == to.mac {
        return Ok(Done::Already);
    }
    refuse_if_used(root, &function(root, address)?, "give it the address it had")?;
    unbind(root, address, present.driver.as_deref())?;
    put(root, device, address, &Binding { driver: None, ..present }, to, false)
}

/// Who has the function.
pub fn binding(function: &PciFunction) -> Binding {
    Binding {
        driver: function.driver.clone(),
        driver_override: function.driver_override.clone(),
        mac: None,
        shown: None,
    }
}

/// Who has the function, with what its next driver may not find any more: for a VF of a network card
/// that the host uses, the address it goes by; and what nobody sees any more without it.
pub fn original(snapshot: &HostSnapshot, function: &PciFunction) -> Binding {
    let set = || {
        let vf = function.vf_of?;
        let settings = &snapshot.function(vf.pf)?.sriov.as_ref()?.vf_settings;
        // Where the kernel tells nothing of this VF, it takes no address for it either.
        let mac = settings.get(&vf.index)?.mac;
        if !mac.is_zero() {
            return Some(mac);
        }
        let own = function.netdevs.iter().find_map(|name| snapshot.netdev(name)?.mac);
        own.filter(|mac| !mac.is_zero())
    };
    // VFs are known by their PF.
    let shown = Shown::of(snapshot, function).filter(|_| function.vf_of.is_none()).map(Box::new);
    Binding { mac: set(), shown, ..binding(function) }
}

/// Who has the device at this moment.
fn hands(root: &HostRoot, address: PciAddress) -> Result<Binding, ChangeError> {
    let mut reader = Reader::new(root);
    let at = |attribute| root.pci_attribute(address, attribute);
    let driver = reader.link_name(&at("driver"));
    let driver_override = reader.text(&at("driver_override")).filter(|text| is_override(text));
    match reader.problems.first() {
        None if driver.is_none() && !root.pci_device(address).is_dir() => {
            Err(ChangeError::new(Reason::NoSuchDevice, address, "is gone"))
        }
        None => Ok(Binding { driver, driver_override, mac: None, shown: None }),
        Some(problem) => {
            let message = format!("does not say which driver has it: {}", problem.cause);
            Err(ChangeError::new(Reason::KernelRefused, address, message))
        }
    }
}

/// The driver that has the device at this moment.
fn driver_now(root: &HostRoot, address: PciAddress) -> Result<Option<String>, ChangeError> {
    attribute::link_name(&root.pci_attribute(address, "driver"))
        .map_err(|error| ChangeError::attribute(address, "see which driver has it", &error))
}

fn check(
    root: &HostRoot,
    device: &PciFunction,
    driver: &str,
    forced: bool,
) -> Result<(), ChangeError> {
    let address = device.address;
    if let Some(pf) = device.sriov.as_ref().filter(|pf| pf.present > 0) {
        let message = format!("will not bind it to {driver}: it has {} VFs", pf.present);
        return Err(ChangeError::new(Reason::HasVfs, address, message)
            .with_remedy(format!("Destroy them with `assign vf destroy {address}` first.")));
    }
    // A device without a driver carries nothing, but firmware's picture stays on a display, and a
    // bridge needs no driver to be one, and is nobody's to force.
    if device.is_bridge() || ((device.driver.is_some() || device.boot_vga) && !forced) {
        refuse_if_used(root, device, &format!("bind it to {driver}"))?;
    }
    check_open(root, address, device.driver.as_deref())
}

/// Taking a device from a vfio driver while it is open would block until its user lets go.
fn check_open(
    root: &HostRoot,
    address: PciAddress,
    driver: Option<&str>,
) -> Result<(), ChangeError> {
    if !driver.is_some_and(is_vfio_driver) {
        return Ok(());
    }
    match vfio::users(root, address).first() {
        None => Ok(()),
        Some(user) => {
            let message = format!("will not take it from its driver: it is in use by {user}");
            Err(ChangeError::new(Reason::DeviceOpen, address, message)
                .with_remedy("Stop the guest that has it first."))
        }
    }
}

/// Override, unbind, probe, look.
fn take(
    root: &HostRoot,
    address: PciAddress,
    present: &Binding,
    driver: &str,
) -> Result<(), ChangeError> {
    set_override(root, address, Some(driver))?;
    unbind(root, address, present.driver.as_deref())?;
    attribute::write(root, &root.pci_drivers_probe(), &address.to_string()).map_err(|error| {
        ChangeError::attribute(address, &format!("have it probed for {driver}"), &error)
    })?;
    let found = driver_now(root, address)?;
    if found.as_deref() == Some(driver) {
        return Ok(());
    }
    // The probe keeps the cause to itself; binding by name tells it, should it fail again.
    let cause =
        match attribute::write(root, &root.pci_driver(driver).join("bind"), &address.to_string()) {
            Ok(()) if driver_now(root, address)?.as_deref() == Some(driver) => return Ok(()),
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

/// From `present` to the driver in `to`, or to none. With autoprobe off, a VF is probed only under
/// an override (drivers/pci/pci-driver.c), so its driver is asked for by one, and the override put
/// right afterwards.
fn give(
    root: &HostRoot,
    device: Target,
    address: PciAddress,
    present: &Binding,
    to: &Binding,
) -> Result<(), ChangeError> {
    let Some(driver) = &to.driver else {
        return unbind(root, address, present.driver.as_deref());
    };
    if let Some(mac) = to.mac.filter(|_| !is_vfio_driver(driver)) {
        link::fix_vf_mac(root, vf_ref(root, device, address)?, mac)?;
    }
    take(root, address, present, driver)
}

fn vf_ref(root: &HostRoot, device: Target, address: PciAddress) -> Result<VfRef, ChangeError> {
    let found = match device {
        Target::Vf(vf) => Some(vf),
        Target::Function(_) => iov::vf_of(&mut Reader::new(root), address),
    };
    found.ok_or_else(|| {
        let message = "has an address to be given back, and is no VF of a PF any more";
        ChangeError::new(Reason::NoSuchDevice, address, message)
    })
}

fn unbind(root: &HostRoot, address: PciAddress, driver: Option<&str>) -> Result<(), ChangeError> {
    let Some(driver) = driver else { return Ok(()) };
    let path = root.pci_driver(driver).join("unbind");
    let written = attribute::write(root, &path, &address.to_string());
    written
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
    device: Target,
    address: PciAddress,
    to: &Binding,
    mut cause: ChangeError,
) -> ChangeError {
    let back = hands(root, address).and_then(|present| {
        if present.driver != to.driver {
            give(root, device, address, &present, to)?;
        }
        set_override(root, address, to.driver_override.as_deref())
    });
    let told = match back {
        Ok(()) => format!("it has {to} again"),
        Err(error) => format!("and giving it back to {to} failed as well: {}", error.message),
    };
    cause.message = format!("{}; {told}", cause.message);
    cause
}
