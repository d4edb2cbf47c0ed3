//! Which functions feed a pool.

use std::fmt;

use serde::{Deserialize, Serialize};
use sriov::facts::shown::Shown;
use sriov::{HostSnapshot, MacAddress, PciAddress, PciFunction, PciRoot};

use crate::amounts;
use crate::error::Report;
use crate::fields::Fields;
use crate::ids::{self, ClassPrefix};
use crate::names;

mod grammar;

pub(crate) use grammar::{DEVICES, FROM, LAST_NODE};

/// Conditions a function must meet, all of them; at least one is given.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Selector {
    /// PCI vendor ID.
    pub vendor: Option<u16>,
    /// PCI device ID.
    pub device: Option<u16>,
    /// PCI subsystem vendor ID.
    pub subsystem_vendor: Option<u16>,
    /// PCI subsystem device ID.
    pub subsystem_device: Option<u16>,
    /// The beginning of its class code.
    pub class: Option<ClassPrefix>,
    /// Name of the driver it is bound to.
    pub driver: Option<String>,
    /// Where it sits.
    pub address: Option<PciAddress>,
    /// Name of one of its network interfaces.
    pub interface: Option<String>,
    /// Another name (altname) of one of its network interfaces.
    pub altname: Option<String>,
    /// The address that one of its network interfaces was made with.
    pub permanent_mac: Option<MacAddress>,
    /// Its serial number, case aside: that of an NVMe drive, or of the PCI Express device.
    pub serial: Option<String>,
    /// The root bus it is below.
    pub pci_root: Option<PciRoot>,
    /// The NUMA node it is on.
    pub numa_node: Option<u32>,
    /// What its link can do.
    pub link_speed: Option<LinkSpeed>,
}

/// The speed of a PCI Express link, whatever it runs at now.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct LinkSpeed {
    /// The least it must be able to do, in MT/s and lane (8000 is 8 GT/s).
    pub min: u32,
}

/// The first condition that a function does not meet: "its vendor is 1af4, not 8086".
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mismatch {
    /// The field of the selector, such as `vendor`.
    pub field: String,
    /// What the selector asks for.
    pub wanted: String,
    /// What the function has; "none" where it has nothing of the kind, "unknown (…)" where that
    /// cannot be told.
    pub found: String,
}

impl std::error::Error for Mismatch {}

impl fmt::Display for Mismatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = match self.field.as_str() {
            "subsystemVendor" => "subsystem vendor",
            "subsystemDevice" => "subsystem device",
            "permanentMac" => "permanent MAC address",
            "pciRoot" => "PCI root",
            "numaNode" => "NUMA node",
            "linkSpeed" => "link speed",
            name => name,
        };
        write!(f, "its {name} is {}, not {}", self.found, self.wanted)
    }
}

impl Selector {
    /// Whether `function` of `host` meets every condition; if not, the first that it misses.
    ///
    /// # Errors
    /// The condition, and what the function has instead.
    pub fn matches(&self, host: &HostSnapshot, function: &PciFunction) -> Result<(), Mismatch> {
        self.shown_by_itself(host, function)?;
        self.shown_by_driver(host, function)
    }

    /// What a function shows to whoever asks.
    fn shown_by_itself(&self, host: &HostSnapshot, function: &PciFunction) -> Result<(), Mismatch> {
        let id = |id: u16| format!("{id:04x}");
        if let Some(wanted) = self.address.filter(|wanted| *wanted != function.address) {
            return miss("address", wanted.to_string(), function.address.to_string());
        }
        for (field, wanted, found) in [
            ("vendor", self.vendor, function.vendor),
            ("device", self.device, function.device),
            ("subsystemVendor", self.subsystem_vendor, function.subsystem_vendor),
            ("subsystemDevice", self.subsystem_device, function.subsystem_device),
        ] {
            if let Some(wanted) = wanted.filter(|wanted| *wanted != found) {
                return miss(field, id(wanted), id(found));
            }
        }
        if let Some(wanted) = self.class.filter(|wanted| !wanted.matches(function.class)) {
            return miss("class", wanted.to_string(), format!("{:06x}", function.class));
        }
        if let Some(wanted) = self.pci_root {
            let found = host.root_of(function);
            if found != wanted {
                return miss("pciRoot", wanted.to_string(), found.to_string());
            }
        }
        if let Some(wanted) = self.numa_node.filter(|wanted| function.numa_node != Some(*wanted)) {
            let found = function.numa_node.map_or_else(none, |node| node.to_string());
            return miss("numaNode", wanted.to_string(), found);
        }
        if let Some(LinkSpeed { min }) = self.link_speed {
            let speed = function.link.as_ref().and_then(|link| link.max_speed);
            if speed.is_none_or(|speed| speed < min) {
                let found = match (&function.link, speed) {
                    (_, Some(speed)) => format!("{} at most", amounts::show_speed(speed)),
                    (Some(_), None) => unknown("the kernel does not say"),
                    (None, None) => unknown("it shows no link of its own"),
                };
                return miss("linkSpeed", format!("{} or more", amounts::show_speed(min)), found);
            }
        }
        Ok(())
    }

    /// What only its driver shows, or showed before the function was taken from it.
    fn shown_by_driver(&self, host: &HostSnapshot, function: &PciFunction) -> Result<(), Mismatch> {
        if !self.asks_driver() {
            return Ok(());
        }
        let shown = Shown::of(host, function).unwrap_or_default();
        if let Some(wanted) = &self.driver
            && shown.driver != *wanted
            && function.driver.as_ref() != Some(wanted)
        {
            return miss("driver", wanted.clone(), function.driver.clone().unwrap_or_else(none));
        }
        let interfaces = &shown.interfaces;
        let names: Vec<&str> = interfaces.iter().map(|one| one.name.as_str()).collect();
        self.named("interface", self.interface.as_deref(), &names, host, function)?;
        let altnames = interfaces.iter().flat_map(|one| &one.altnames);
        let altnames: Vec<&str> = altnames.map(String::as_str).collect();
        self.named("altname", self.altname.as_deref(), &altnames, host, function)?;
        if let Some(wanted) = self.permanent_mac {
            let macs: Vec<MacAddress> =
                interfaces.iter().filter_map(|one| one.permanent_mac).collect();
            if !macs.contains(&wanted) {
                let found = match (macs.is_empty(), interfaces.is_empty()) {
                    (true, true) => none(),
                    (true, false) => unknown("the kernel does not say"),
                    _ => join(&macs),
                };
                return miss("permanentMac", wanted.to_string(), found);
            }
        }
        let Some(wanted) = &self.serial else { return Ok(()) };
        match function.serial.as_ref().or(shown.serial.as_ref()) {
            Some(found) if found.eq_ignore_ascii_case(wanted) => Ok(()),
            Some(found) => miss("serial", wanted.clone(), found.clone()),
            None => miss("serial", wanted.clone(), unknown("it has none, no driver, or is asleep")),
        }
    }

    fn asks_driver(&self) -> bool {
        self.driver.is_some()
            || self.interface.is_some()
            || self.altname.is_some()
            || self.permanent_mac.is_some()
            || self.serial.is_some()
    }

    /// Whether a function has an interface of this name. A name that went free because the card that
    /// had it was taken means that card still, and not one that the kernel gave it to since.
    fn named(
        &self,
        field: &str,
        wanted: Option<&str>,
        names: &[&str],
        host: &HostSnapshot,
        function: &PciFunction,
    ) -> Result<(), Mismatch> {
        let Some(wanted) = wanted else { return Ok(()) };
        if !names.contains(&wanted) {
            return miss(field, wanted.to_owned(), join(names));
        }
        let had = |other: &&PciFunction| {
            other.shown_before.as_ref().is_some_and(|before| before.was_called(wanted))
        };
        let first = host.functions.iter().filter(|_| function.shown_before.is_none()).find(had);
        match first {
            Some(first) => {
                let found =
                    format!("{wanted} only since {}, which had it, was taken", first.address);
                miss(field, wanted.to_owned(), found)
            }
            None => Ok(()),
        }
    }

    /// Whether whatever meets these conditions meets those of `other` as well.
    pub(crate) fn implies(&self, other: &Selector) -> bool {
        fn same<T: PartialEq>(own: &Option<T>, theirs: &Option<T>) -> bool {
            theirs.is_none() || own == theirs
        }
        let class = match (self.class, other.class) {
            (Some(own), Some(theirs)) => own.is_within(theirs),
            (None, Some(_)) => false,
            (_, None) => true,
        };
        let speed = match (self.link_speed, other.link_speed) {
            (Some(own), Some(theirs)) => own.min >= theirs.min,
            (None, Some(_)) => false,
            (_, None) => true,
        };
        class
            && speed
            && same(&self.vendor, &other.vendor)
            && same(&self.device, &other.device)
            && same(&self.subsystem_vendor, &other.subsystem_vendor)
            && same(&self.subsystem_device, &other.subsystem_device)
            && same(&self.driver, &other.driver)
            && same(&self.address, &other.address)
            && same(&self.interface, &other.interface)
            && same(&self.altname, &other.altname)
            && same(&self.permanent_mac, &other.permanent_mac)
            && same(&self.serial, &other.serial)
            && same(&self.pci_root, &other.pci_root)
            && same(&self.numa_node, &other.numa_node)
    }

    /// Reads a selector.
    pub(crate) fn read(fields: &Fields<'_>, report: &mut Report<'_>) -> Option<Selector> {
        let before = report.count();
        let mut id = |name| fields.get(name, report).and_then(|given| ids::pci_id(given, report));
        let selector = Selector {
            vendor: id("vendor"),
            device: id("device"),
            subsystem_vendor: id("subsystemVendor"),
            subsystem_device: id("subsystemDevice"),
            class: fields.get("class", report).and_then(|given| ids::class(given, report)),
            driver: fields.parsed("driver", names::driver, report),
            address: fields.parsed("address", |text| text.parse().ok(), report),
            interface: fields.parsed("interface", names::interface, report),
            altname: fields.parsed("altname", names::altname, report),
            permanent_mac: fields.parsed("permanentMac", |text| text.parse().ok(), report),
            serial: fields.parsed("serial", ids::serial, report),
            pci_root: fields.parsed("pciRoot", |text| text.parse().ok(), report),
            numa_node: fields.number("numaNode", report),
            link_speed: fields.map("linkSpeed", report).and_then(|fields| {
                Some(LinkSpeed { min: amounts::speed(fields.get("min", report)?, report)? })
            }),
        };
        (report.count() == before && selector != Selector::default()).then_some(selector)
    }
}

fn miss(field: &str, wanted: String, found: String) -> Result<(), Mismatch> {
    Err(Mismatch { field: field.to_owned(), wanted, found })
}

fn none() -> String {
    "none".to_owned()
}

fn unknown(why: &str) -> String {
    format!("unknown ({why})")
}

fn join<T: fmt::Display>(items: &[T]) -> String {
    match items.is_empty() {
        true => none(),
        false => items.iter().map(ToString::to_string).collect::<Vec<_>>().join(", "),
    }
}

impl fmt::Display for Selector {
    /// In the form it is written in: `{vendor: "8086", interface: eth0}`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut parts = Vec::new();
        let mut add = |name: &str, value: Option<String>| {
            parts.extend(value.map(|value| format!("{name}: {value}")));
        };
        let id = |id: Option<u16>| id.map(|id| format!("\"{id:04x}\""));
        let quoted = |value: Option<String>| value.map(|value| format!("\"{value}\""));
        add("vendor", id(self.vendor));
        add("device", id(self.device));
        add("subsystemVendor", id(self.subsystem_vendor));
        add("subsystemDevice", id(self.subsystem_device));
        add("class", quoted(self.class.map(|class| class.to_string())));
        add("driver", self.driver.clone());
        add("address", quoted(self.address.map(|address| address.to_string())));
        add("interface", self.interface.clone());
        add("altname", self.altname.clone());
        add("permanentMac", quoted(self.permanent_mac.map(|mac| mac.to_string())));
        add("serial", quoted(self.serial.clone()));
        add("pciRoot", quoted(self.pci_root.map(|root| root.to_string())));
        add("numaNode", self.numa_node.map(|node| node.to_string()));
        let speed = |speed: LinkSpeed| format!("{{min: {}}}", amounts::show_speed(speed.min));
        add("linkSpeed", self.link_speed.map(speed));
        write!(f, "{{{}}}", parts.join(", "))
    }
}

#[cfg(test)]
mod tests;
