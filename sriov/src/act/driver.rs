//! Having a driver there before a device is taken for it: the one program this crate starts.

use std::process::Command;
use std::sync::{Mutex, PoisonError};

use crate::address::PciAddress;
use crate::failure::{ChangeError, Reason};
use crate::isolation::is_vfio_driver;
use crate::root::HostRoot;

/// Several devices may want the same module at once.
static LOADING: Mutex<()> = Mutex::new(());

/// Loads the module of a vfio driver that is not there yet. A host's driver is the host's: one that
/// is not loaded is named, and not loaded.
pub fn ensure(root: &HostRoot, address: PciAddress, driver: &str) -> Result<(), ChangeError> {
    let missing = |cause: &str, remedy: String| {
        let message = format!("cannot be bound to {driver}: {cause}");
        Err(ChangeError::new(Reason::NoSuchDriver, address, message).with_remedy(remedy))
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
    let _one = LOADING.lock().unwrap_or_else(PoisonError::into_inner);
    if root.pci_driver(driver).is_dir() {
        return Ok(());
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
    let remedy = match driver {
        "vfio-pci" => "Install the kernel's modules; vfio-pci needs CONFIG_VFIO_PCI.",
        _ => "Install the kernel's modules, or choose `--driver vfio-pci`, which fits any device.",
    };
    missing(&format!("its module cannot be loaded ({cause})"), remedy.into())
}
