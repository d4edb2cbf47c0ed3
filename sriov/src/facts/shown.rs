//! What only its driver shows of a function, remembered while vfio has it: people name a card by its
//! interface, which is gone once the card is given away.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::pci::PciFunction;
use crate::isolation::is_vfio_driver;
use crate::{HostSnapshot, MacAddress, PciAddress};

/// What the host's driver showed of a function before it was taken from it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Shown {
    /// The driver.
    pub driver: String,
    /// Its network interfaces, by name.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub interfaces: Vec<Interface>,
    /// Its serial number, if it told one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub serial: Option<String>,
    /// Vendor, device, subsystem vendor and subsystem device: another card in its place is not it.
    pub ids: [u16; 4],
}

/// A network interface of a function.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Interface {
    /// Its name.
    pub name: String,
    /// Its other names.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub altnames: Vec<String>,
    /// The address it was made with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub permanent_mac: Option<MacAddress>,
}

impl Shown {
    /// What is shown now, or was before where vfio has the function. `None` where no driver shows
    /// anything, and nobody remembers.
    pub fn of(host: &HostSnapshot, function: &PciFunction) -> Option<Shown> {
        let driver = function.driver.clone().filter(|driver| !is_vfio_driver(driver));
        if driver.is_none() && function.netdevs.is_empty() {
            return function.shown_before.as_deref().cloned();
        }
        let interfaces = function.netdevs.iter().map(|name| {
            let netdev = host.netdev(name);
            Interface {
                name: name.clone(),
                altnames: netdev.map(|netdev| netdev.altnames.clone()).unwrap_or_default(),
                permanent_mac: netdev.and_then(|netdev| netdev.permanent_mac),
            }
        });
        Some(Shown {
            driver: driver.unwrap_or_default(),
            interfaces: interfaces.collect(),
            serial: function.serial.clone(),
            ids: ids(function),
        })
    }

    /// Whether one of the interfaces had this name, or this other name.
    pub fn was_called(&self, name: &str) -> bool {
        self.interfaces
            .iter()
            .any(|one| one.name == name || one.altnames.iter().any(|other| other == name))
    }

    fn is_of(&self, function: &PciFunction) -> bool {
        let same_serial = match (&self.serial, &function.serial) {
            (Some(then), Some(now)) => then == now,
            _ => true,
        };
        is_silent(function) && self.ids == ids(function) && same_serial
    }
}

impl HostSnapshot {
    /// Adds what is remembered of functions that no driver of the host has now. Of the others, what
    /// their drivers show is true.
    pub fn recall(&mut self, known: &BTreeMap<PciAddress, Shown>) {
        for function in &mut self.functions {
            let shown = known.get(&function.address).filter(|shown| shown.is_of(function));
            function.shown_before = shown.cloned().map(Box::new);
        }
    }

    /// Whether there is a function of which something could be remembered.
    pub fn has_silent_functions(&self) -> bool {
        self.functions.iter().any(is_silent)
    }
}

/// No driver of the host shows anything of it.
fn is_silent(function: &PciFunction) -> bool {
    function.vf_of.is_none()
        && !function.is_bridge()
        && function.driver.as_deref().is_none_or(is_vfio_driver)
}

fn ids(function: &PciFunction) -> [u16; 4] {
    [function.vendor, function.device, function.subsystem_vendor, function.subsystem_device]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn card(driver: Option<&str>) -> PciFunction {
        let address = "0000:01:00.0".parse().expect("an address");
        PciFunction {
            vendor: 0x8086,
            device: 0x10c9,
            driver: driver.map(str::to_owned),
            ..PciFunction::new(address)
        }
    }

    fn recalled(now: PciFunction, shown: &Shown) -> bool {
        let known = BTreeMap::from([(now.address, shown.clone())]);
        let mut host = HostSnapshot { functions: vec![now], ..HostSnapshot::default() };
        host.recall(&known);
        host.functions[0].shown_before.is_some()
    }

    #[test]
    fn it_is_recalled_of_the_same_card_while_the_host_has_no_driver_on_it() {
        let host = HostSnapshot::default();
        let shown = Shown::of(&host, &card(Some("igb"))).expect("shown");
        assert_eq!(shown.driver, "igb");
        assert!(recalled(card(Some("vfio-pci")), &shown));
        assert!(recalled(card(None), &shown), "somebody took it from vfio-pci");
        assert!(!recalled(card(Some("igb")), &shown), "its driver tells by itself");
        assert!(!recalled(PciFunction { device: 0x10d3, ..card(None) }, &shown), "another card");
        let serial = |serial: &str| Some(serial.to_owned());
        let numbered = Shown { serial: serial("a"), ..shown };
        assert!(recalled(card(None), &numbered), "an NVMe drive tells it to its driver only");
        assert!(!recalled(PciFunction { serial: serial("b"), ..card(None) }, &numbered));
    }

    #[test]
    fn what_vfio_has_shows_what_was_before() {
        let host = HostSnapshot::default();
        let shown = Shown::of(&host, &card(Some("igb"))).expect("shown");
        assert_eq!(Shown::of(&host, &card(Some("vfio-pci"))), None);
        let before = Some(Box::new(shown.clone()));
        let taken = PciFunction { shown_before: before, ..card(Some("vfio-pci")) };
        assert_eq!(Shown::of(&host, &taken), Some(shown));
    }
}
