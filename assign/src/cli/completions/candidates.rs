//! What a host has that could be typed: read for each Tab, so only what is asked for is read, a few
//! attributes a device at most, and never a configuration space.

use std::path::PathBuf;
use std::time::Duration;

use sriov::facts::{names, pci};
use sriov::{HostRoot, PciAddress, attribute};

use crate::control;
use crate::state::{DIRECTORY, State};

/// What a value's name in `--help` stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Any PCI function, by address or interface.
    Device,
    /// One that can have VFs.
    Pf,
    /// A VF.
    Vf,
    /// An IOMMU group's number.
    Group,
    /// A PCI driver that is loaded.
    Driver,
    /// A guest that runs, or has devices.
    Guest,
}

impl Kind {
    /// The kind of this name.
    pub fn named(name: &str) -> Option<Kind> {
        Some(match name {
            "DEVICE" => Kind::Device,
            "PF" => Kind::Pf,
            "VF" => Kind::Vf,
            "GROUP" | "NUMBER" => Kind::Group,
            "DRIVER" => Kind::Driver,
            "GUEST" | "NAME" => Kind::Guest,
            _ => return None,
        })
    }
}

/// How long a Tab waits for a command that holds the state.
const PATIENCE: Duration = Duration::from_millis(200);
/// Devices that are described; of more than these nobody reads the list.
const MOST_DESCRIBED: usize = 512;

/// A host to look at.
pub struct Host {
    root: HostRoot,
    state: State,
}

impl Host {
    /// The host below `root`.
    pub fn new(root: &str, state: Option<&str>) -> Host {
        let root = PathBuf::from(root);
        let below = root.join(DIRECTORY.trim_start_matches('/'));
        let state = State::at(state.map_or(below, PathBuf::from)).with_patience(PATIENCE);
        Host { root: HostRoot::at(root), state }
    }

    /// Words of this kind that begin with what was typed, each with what it is. What cannot be read
    /// is not offered: a shell has no place for an error.
    pub fn candidates(&self, kind: Kind, typed: &str) -> Vec<(String, String)> {
        match kind {
            Kind::Device | Kind::Pf | Kind::Vf => self.devices(kind, typed),
            Kind::Group => self.groups(),
            Kind::Driver => {
                let drivers = attribute::entries(&self.root.pci_driver(""));
                drivers.unwrap_or_default().into_iter().map(|name| (name, String::new())).collect()
            }
            Kind::Guest => {
                let leases = self.state.leases(&self.root).unwrap_or_default();
                let of_leases = leases.into_iter().map(|lease| lease.guest);
                let guests = of_leases.chain(control::guests(&self.root));
                let mut guests: Vec<(String, String)> =
                    guests.map(|guest| (guest, String::new())).collect();
                guests.sort();
                guests.dedup();
                guests
            }
        }
    }

    fn devices(&self, kind: Kind, typed: &str) -> Vec<(String, String)> {
        let names = attribute::entries(&self.root.pci_devices()).unwrap_or_default();
        let mut addresses: Vec<PciAddress> =
            names.iter().filter_map(|name| name.parse().ok()).collect();
        addresses.sort();
        let fits = |address: PciAddress| match kind {
            Kind::Pf => self.root.pci_attribute(address, "sriov_totalvfs").exists(),
            Kind::Vf => self.root.pci_attribute(address, "physfn").exists(),
            _ => true,
        };
        let mut found = Vec::new();
        for address in addresses {
            let full = address.to_string();
            // The domain may be left out; who began without it goes on without it.
            let short = full.strip_prefix("0000:").filter(|short| {
                !typed.is_empty() && !full.starts_with(typed) && short.starts_with(typed)
            });
            let word = short.unwrap_or(&full);
            if word.starts_with(typed) && fits(address) {
                let about = match found.len() < MOST_DESCRIBED {
                    true => self.about(address),
                    false => String::new(),
                };
                found.push((word.to_owned(), about));
            }
        }
        let class = self.root.net_class();
        for name in attribute::entries(&class).unwrap_or_default() {
            let link = attribute::link_target(&class.join(&name)).ok().flatten();
            let address = link.as_deref().and_then(pci::function_in);
            if let Some(address) =
                address.filter(|address| name.starts_with(typed) && fits(*address))
            {
                found.push((name, address.to_string()));
            }
        }
        found
    }

    /// Class, driver and IOMMU group.
    fn about(&self, address: PciAddress) -> String {
        let at = |name| self.root.pci_attribute(address, name);
        let class = attribute::read(&at("class")).ok().flatten();
        let class =
            class.and_then(|text| u32::from_str_radix(text.trim_start_matches("0x"), 16).ok());
        let class = class.and_then(|class| u16::try_from(class >> 8).ok()).map(names::short_class);
        let driver = attribute::link_name(&at("driver")).ok().flatten();
        let group = attribute::link_name(&at("iommu_group")).ok().flatten();
        let parts = [
            class.map(str::to_owned),
            Some(driver.unwrap_or_else(|| "no driver".to_owned())),
            group.map(|group| format!("group {group}")),
        ];
        parts.into_iter().flatten().collect::<Vec<_>>().join(", ")
    }

    fn groups(&self) -> Vec<(String, String)> {
        let groups = attribute::entries(&self.root.iommu_groups()).unwrap_or_default();
        let mut numbers: Vec<u32> = groups.iter().filter_map(|name| name.parse().ok()).collect();
        numbers.sort_unstable();
        let about = |number: u32| {
            let devices = self.root.iommu_groups().join(number.to_string()).join("devices");
            attribute::entries(&devices).unwrap_or_default().join(" ")
        };
        numbers.into_iter().map(|number| (number.to_string(), about(number))).collect()
    }
}
