//! Whether a step shows on the host, without making it: for what was interrupted.

use super::{bind, function, link, locate};
use crate::attribute;
use crate::change::Change;
use crate::facts::iov;
use crate::facts::reader::Reader;
use crate::failure::ChangeError;
use crate::isolation::is_vfio_driver;
use crate::mac::MacAddress;
use crate::nvme::Controller;
use crate::root::HostRoot;
use crate::vf_settings::VfSettings;
use crate::{PciAddress, VfRef};

impl Change {
    /// Whether the host is now as this step makes it, by whatever way.
    ///
    /// # Errors
    /// The host cannot be asked. What is about a device that is not there is not made.
    pub fn is_made(&self, root: &HostRoot) -> Result<bool, ChangeError> {
        match is_made(self.plain(), root) {
            Err(error) if error.reason.is_absence() => Ok(false),
            result => result,
        }
    }
}

fn is_made(change: &Change, root: &HostRoot) -> Result<bool, ChangeError> {
    let pf_facts = |pf: PciAddress| iov::of(&mut Reader::new(root), pf);
    Ok(match change {
        Change::SetAutoprobe { pf, to, .. } => {
            pf_facts(*pf).is_some_and(|facts| facts.autoprobe == *to)
        }
        // In a recorded tree they do not go with their number.
        Change::SetVfCount { pf, to, .. } => pf_facts(*pf).is_some_and(|facts| {
            let there = facts.vfs.len() == usize::from(*to) || !root.has_kernel();
            facts.present == *to && there
        }),
        Change::SetLink { pf, to, .. } => link::port(root, *pf)?.up == *to,
        Change::SetAcceptRa { pf, to, .. } => link::port(root, *pf)?.accept_ra == Some(*to),
        Change::SetVfMac { vf, to, .. } => mac(root, *vf)? == Some(*to),
        Change::SetNvmePrimary { pf, to, .. } => {
            Controller::open(root, *pf)?.facts()?.primary() == *to
        }
        Change::SetNvmeSecondary { vf, controller, to, .. } => {
            let facts = Controller::open(root, vf.pf)?.facts()?;
            let secondary = facts.secondaries.get(&vf.index);
            secondary.is_some_and(|one| one.controller == *controller && one.state == *to)
        }
        Change::SetVf { vf, setting } => match setting {
            crate::VfSetting::Msix(step) => {
                let address = locate(root, change.device())?;
                step.to == 0 || super::vf_settings::vectors(root, address) == Some(step.to)
            }
            _ => {
                let now = settings(root, *vf)?.and_then(|now| setting.from_now(&now));
                now.is_some_and(|now| now.is_nothing())
            }
        },
        Change::Bind { device, driver, .. } => {
            let address = locate(root, *device)?;
            let now = attribute::link_name(&root.pci_attribute(address, "driver"));
            let now =
                now.map_err(|error| ChangeError::attribute(address, "see its driver", &error));
            now?.as_ref() == Some(driver)
        }
        Change::Restore { device, to, .. } => {
            bind::binding(&function(root, locate(root, *device)?)?).same_hands(to)
        }
        // Without a driver it may not have been probed yet, unless the host is to bind none to it.
        Change::Yield { device, .. } => {
            let address = locate(root, *device)?;
            let now = bind::binding(&function(root, address)?);
            now.driver_override.is_none()
                && match now.driver {
                    Some(driver) => !is_vfio_driver(&driver),
                    None => iov::vf_of(&mut Reader::new(root), address)
                        .and_then(|vf| pf_facts(vf.pf))
                        .is_some_and(|facts| !facts.autoprobe),
                }
        }
        Change::Retake { device, to } => {
            bind::binding(&function(root, locate(root, *device)?)?).same_hands(to)
        }
        // Nothing shows of it.
        Change::RememberVf { .. } => true,
        Change::RemakeVf { vf, had } => {
            let address = locate(root, change.device())?;
            let same_settings = match &had.settings {
                Some(had) => settings(root, *vf)?.as_ref() == Some(had),
                None => true,
            };
            same_settings && bind::binding(&function(root, address)?).same_hands(&had.binding)
        }
        Change::Forced { step, .. } => is_made(step.plain(), root)?,
    })
}

fn settings(root: &HostRoot, vf: VfRef) -> Result<Option<VfSettings>, ChangeError> {
    let port = link::port(root, vf.pf)?;
    let tried = "see what it has";
    let list = link::rtnetlink(root, vf, tried)?.vf_list(port.index);
    let list = list.map_err(|error| link::refused(vf, tried, &error))?;
    Ok(list.settings.get(&vf.index).copied())
}

fn mac(root: &HostRoot, vf: VfRef) -> Result<Option<MacAddress>, ChangeError> {
    Ok(settings(root, vf)?.map(|settings| settings.mac))
}
