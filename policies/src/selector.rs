//! Which functions feed a pool.

use std::fmt;

use serde::{Deserialize, Serialize};
use sriov::{HostSnapshot, MacAddress, PciAddress, PciFunction, PciRoot};

use crate::document::Node;
use crate::error::Report;
use crate::read::{Fields, number, text};
use crate::scalar::{self, ClassPrefix};

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
        self.matches_taken(host, function)?;
        self.shown_by_driver(host, function)
    }

    /// The same for a function that this program took from its driver: what only the host's driver
    /// shows (driver, interface, altname, permanent MAC address, an NVMe drive's serial number) is
    /// passed over, since it went with the driver.
    ///
    /// # Errors
    /// As [`Selector::matches`].
    pub fn matches_taken(
        &self,
        host: &HostSnapshot,
        function: &PciFunction,
    ) -> Result<(), Mismatch> {
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
        if let (Some(wanted), Some(found)) = (&self.serial, &function.serial)
            && !found.eq_ignore_ascii_case(wanted)
        {
            return miss("serial", wanted.clone(), found.clone());
        }
        if let Some(LinkSpeed { min }) = self.link_speed {
            let speed = function.link.as_ref().and_then(|link| link.max_speed);
            if speed.is_none_or(|speed| speed < min) {
                let found = match (&function.link, speed) {
                    (_, Some(speed)) => format!("{} at most", scalar::show_speed(speed)),
                    (Some(_), None) => unknown("the kernel does not say"),
                    (None, None) => unknown("it shows no link of its own"),
                };
                return miss("linkSpeed", format!("{} or more", scalar::show_speed(min)), found);
            }
        }
        Ok(())
    }

    fn shown_by_driver(&self, host: &HostSnapshot, function: &PciFunction) -> Result<(), Mismatch> {
        if let Some(wanted) = &self.driver
            && function.driver.as_ref() != Some(wanted)
        {
            return miss("driver", wanted.clone(), function.driver.clone().unwrap_or_else(none));
        }
        if let Some(wanted) = &self.interface
            && !function.netdevs.contains(wanted)
        {
            return miss("interface", wanted.clone(), join(&function.netdevs));
        }
        let netdevs = || function.netdevs.iter().filter_map(|name| host.netdev(name));
        if let Some(wanted) = &self.altname {
            let names: Vec<String> = netdevs().flat_map(|netdev| netdev.altnames.clone()).collect();
            if !names.contains(wanted) {
                return miss("altname", wanted.clone(), join(&names));
            }
        }
        if let Some(wanted) = self.permanent_mac {
            let macs: Vec<MacAddress> =
                netdevs().filter_map(|netdev| netdev.permanent_mac).collect();
            if !macs.contains(&wanted) {
                let found = match (macs.is_empty(), function.netdevs.is_empty()) {
                    (true, true) => none(),
                    (true, false) => unknown("the kernel does not say"),
                    _ => join(&macs),
                };
                return miss("permanentMac", wanted.to_string(), found);
            }
        }
        match (&self.serial, &function.serial) {
            (Some(wanted), None) => {
                miss("serial", wanted.clone(), unknown("it has none, no driver, or is asleep"))
            }
            _ => Ok(()),
        }
    }

    /// Reads a selector; `what` is the field it is the value of.
    pub(crate) fn read(
        node: &Node,
        what: &'static str,
        report: &mut Report<'_>,
    ) -> Option<Selector> {
        const KNOWN: [&str; 14] = [
            "vendor",
            "device",
            "subsystemVendor",
            "subsystemDevice",
            "class",
            "driver",
            "address",
            "interface",
            "altname",
            "permanentMac",
            "serial",
            "pciRoot",
            "numaNode",
            "linkSpeed",
        ];
        let before = report.count();
        let fields = Fields::of(node, what, &KNOWN, report)?;
        if !KNOWN.iter().any(|name| fields.has(name)) {
            let message = format!("{what} selects nothing: give at least one condition");
            report.error(node.span, message, Some(&KNOWN.join(", ")));
            return None;
        }
        let mut id = |name: &str, what| {
            fields.get(name, report).and_then(|node| scalar::pci_id(node, what, report))
        };
        let vendor = id("vendor", "`vendor`");
        let device = id("device", "`device`");
        let subsystem_vendor = id("subsystemVendor", "`subsystemVendor`");
        let subsystem_device = id("subsystemDevice", "`subsystemDevice`");
        let class = fields.get("class", report);
        let driver = fields.get("driver", report);
        let address = fields.get("address", report);
        let interface = fields.get("interface", report);
        let altname = fields.get("altname", report);
        let permanent_mac = fields.get("permanentMac", report);
        let serial = fields.get("serial", report);
        let pci_root = fields.get("pciRoot", report);
        let numa_node = fields.get("numaNode", report);
        let link_speed = fields.get("linkSpeed", report);
        let selector = Selector {
            vendor,
            device,
            subsystem_vendor,
            subsystem_device,
            class: class.and_then(|node| scalar::class(node, report)),
            driver: driver.and_then(|node| driver_name(node, report)),
            address: address.and_then(|node| scalar::address(node, "`address`", report)),
            interface: interface.and_then(|node| scalar::interface(node, "`interface`", report)),
            altname: altname.and_then(|node| scalar::altname(node, report)),
            permanent_mac: permanent_mac.and_then(|node| scalar::mac(node, report)),
            serial: serial.and_then(|node| scalar::serial(node, report)),
            pci_root: pci_root.and_then(|node| scalar::pci_root(node, report)),
            numa_node: numa_node.and_then(|node| numa_node_number(node, "`numaNode`", report)),
            link_speed: link_speed.and_then(|node| link_speed_min(node, report)),
        };
        (report.count() == before).then_some(selector)
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
        let speed = |speed: LinkSpeed| format!("{{min: {}}}", scalar::show_speed(speed.min));
        add("linkSpeed", self.link_speed.map(speed));
        write!(f, "{{{}}}", parts.join(", "))
    }
}

fn driver_name(node: &Node, report: &mut Report<'_>) -> Option<String> {
    let form = "the name of a kernel driver, such as igb";
    let name = text(node, "`driver`", form, report)?;
    let ok = (1..=63).contains(&name.len())
        && name.bytes().all(|c| c.is_ascii_alphanumeric() || matches!(c, b'-' | b'_' | b'.'))
        && !name.starts_with('.');
    if !ok {
        let message = format!("`driver` cannot be {}", crate::error::quote(name));
        report.error(node.span, message, Some(form));
    }
    ok.then(|| name.to_owned())
}

/// A node's number: the kernel has room for 1,024 (`CONFIG_NODES_SHIFT` is 10 at most).
pub(crate) fn numa_node_number(node: &Node, what: &str, report: &mut Report<'_>) -> Option<u32> {
    u32::try_from(number(node, what, 0..=1023, report)?).ok()
}

fn link_speed_min(node: &Node, report: &mut Report<'_>) -> Option<LinkSpeed> {
    let fields = Fields::of(node, "`linkSpeed`", &["min"], report)?;
    let node = fields.need("min", "min: 8GT/s", report)?;
    Some(LinkSpeed { min: scalar::speed(node, report)? })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn function() -> PciFunction {
        PciFunction {
            vendor: 0x8086,
            device: 0x10c9,
            class: 0x02_0000,
            driver: Some("igb".to_owned()),
            iommu_group: Some(9),
            netdevs: vec!["eth0".to_owned()],
            ..PciFunction::new("0000:01:00.0".parse().expect("a valid address"))
        }
    }

    fn selector(json: &str) -> Selector {
        serde_json::from_str(json).expect("a selector")
    }

    #[test]
    fn all_conditions_must_hold() {
        let host = HostSnapshot::default();
        let all = selector(
            r#"{"vendor": 32902, "device": 4297, "class": "02", "driver": "igb",
                "address": "0000:01:00.0", "interface": "eth0"}"#,
        );
        assert_eq!(all.matches(&host, &function()), Ok(()));
        let miss =
            |json| selector(json).matches(&host, &function()).expect_err("a mismatch").to_string();
        assert_eq!(miss(r#"{"vendor": 6900}"#), "its vendor is 8086, not 1af4");
        assert_eq!(miss(r#"{"class": "0108"}"#), "its class is 020000, not 0108");
        assert_eq!(miss(r#"{"interface": "eth1"}"#), "its interface is eth0, not eth1");
    }

    #[test]
    fn a_function_without_driver_or_interface_has_none() {
        let host = HostSnapshot::default();
        let bare = PciFunction { driver: None, netdevs: Vec::new(), ..function() };
        let miss = |json| selector(json).matches(&host, &bare).expect_err("a mismatch").to_string();
        assert_eq!(miss(r#"{"driver": "igb"}"#), "its driver is none, not igb");
        assert_eq!(miss(r#"{"interface": "eth0"}"#), "its interface is none, not eth0");
    }
}
