//! Which physical functions feed a pool.

use std::fmt;

use serde::{Deserialize, Serialize};
use sriov::{PciAddress, PciFunction};

use crate::document::Node;
use crate::error::Report;
use crate::read::{Fields, text};
use crate::scalar::{self, ClassPrefix};

/// Conditions a function must meet, all of them; at least one is given.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Selector {
    /// PCI vendor ID.
    pub vendor: Option<u16>,
    /// PCI device ID.
    pub device: Option<u16>,
    /// The beginning of its class code.
    pub class: Option<ClassPrefix>,
    /// Name of the driver it is bound to.
    pub driver: Option<String>,
    /// Where it sits.
    pub address: Option<PciAddress>,
    /// Name of one of its network interfaces.
    pub interface: Option<String>,
}

/// The first condition that a function does not meet: "its vendor is 1af4, not 8086".
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("its {field} is {found}, not {wanted}")]
pub struct Mismatch {
    /// The field of the selector, such as `vendor`.
    pub field: String,
    /// What the selector asks for.
    pub wanted: String,
    /// What the function has; "none" where it has nothing of the kind.
    pub found: String,
}

impl Selector {
    /// Whether `function` meets every condition; if not, the first that it misses.
    pub fn matches(&self, function: &PciFunction) -> Result<(), Mismatch> {
        let id = |id: u16| format!("{id:04x}");
        let none = || "none".to_owned();
        let miss = |field: &str, wanted: String, found: String| {
            Err(Mismatch { field: field.to_owned(), wanted, found })
        };
        if let Some(wanted) = self.address.filter(|wanted| *wanted != function.address) {
            return miss("address", wanted.to_string(), function.address.to_string());
        }
        if let Some(wanted) = self.vendor.filter(|wanted| *wanted != function.vendor) {
            return miss("vendor", id(wanted), id(function.vendor));
        }
        if let Some(wanted) = self.device.filter(|wanted| *wanted != function.device) {
            return miss("device", id(wanted), id(function.device));
        }
        if let Some(wanted) = self.class.filter(|wanted| !wanted.matches(function.class)) {
            return miss("class", wanted.to_string(), format!("{:06x}", function.class));
        }
        if let Some(wanted) = &self.driver
            && function.driver.as_ref() != Some(wanted)
        {
            return miss("driver", wanted.clone(), function.driver.clone().unwrap_or_else(none));
        }
        if let Some(wanted) = &self.interface
            && !function.netdevs.contains(wanted)
        {
            let found = match function.netdevs.is_empty() {
                true => none(),
                false => function.netdevs.join(", "),
            };
            return miss("interface", wanted.clone(), found);
        }
        Ok(())
    }

    /// Reads `from`.
    pub(crate) fn read(node: &Node, report: &mut Report<'_>) -> Option<Selector> {
        const KNOWN: [&str; 6] = ["vendor", "device", "class", "driver", "address", "interface"];
        let before = report.count();
        let fields = Fields::of(node, "`from`", &KNOWN, report)?;
        if !KNOWN.iter().any(|name| fields.has(name)) {
            let message = "`from` selects nothing: give at least one condition";
            report.error(node.span, message, Some(&KNOWN.join(", ")));
            return None;
        }
        let vendor = fields.get("vendor", report);
        let device = fields.get("device", report);
        let class = fields.get("class", report);
        let driver = fields.get("driver", report);
        let address = fields.get("address", report);
        let interface = fields.get("interface", report);
        let selector = Selector {
            vendor: vendor.and_then(|node| scalar::pci_id(node, "`vendor`", report)),
            device: device.and_then(|node| scalar::pci_id(node, "`device`", report)),
            class: class.and_then(|node| scalar::class(node, report)),
            driver: driver.and_then(|node| driver_name(node, report)),
            address: address.and_then(|node| pci_address(node, report)),
            interface: interface.and_then(|node| scalar::interface(node, "`interface`", report)),
        };
        (report.count() == before).then_some(selector)
    }
}

impl fmt::Display for Selector {
    /// In the form it is written in: `{vendor: "8086", interface: eth0}`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut parts = Vec::new();
        let mut add = |name: &str, value: Option<String>| {
            parts.extend(value.map(|value| format!("{name}: {value}")));
        };
        add("vendor", self.vendor.map(|id| format!("\"{id:04x}\"")));
        add("device", self.device.map(|id| format!("\"{id:04x}\"")));
        add("class", self.class.map(|class| format!("\"{class}\"")));
        add("driver", self.driver.clone());
        add("address", self.address.map(|address| format!("\"{address}\"")));
        add("interface", self.interface.clone());
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

fn pci_address(node: &Node, report: &mut Report<'_>) -> Option<PciAddress> {
    let form = "domain:bus:device.function in hexadecimal, such as 0000:01:00.0, or 01:00.0";
    let text = text(node, "`address`", form, report)?;
    let address = text.parse().ok();
    if address.is_none() {
        let message = format!("`address` cannot be {}", crate::error::quote(text));
        report.error(node.span, message, Some(form));
    }
    address
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
        let all = selector(
            r#"{"vendor": 32902, "device": 4297, "class": "02", "driver": "igb",
                "address": "0000:01:00.0", "interface": "eth0"}"#,
        );
        assert_eq!(all.matches(&function()), Ok(()));
        let miss = |json| selector(json).matches(&function()).expect_err("a mismatch").to_string();
        assert_eq!(miss(r#"{"vendor": 6900}"#), "its vendor is 8086, not 1af4");
        assert_eq!(miss(r#"{"class": "0108"}"#), "its class is 020000, not 0108");
        assert_eq!(miss(r#"{"interface": "eth1"}"#), "its interface is eth0, not eth1");
    }

    #[test]
    fn a_function_without_driver_or_interface_has_none() {
        let bare = PciFunction { driver: None, netdevs: Vec::new(), ..function() };
        let miss = |json| selector(json).matches(&bare).expect_err("a mismatch").to_string();
        assert_eq!(miss(r#"{"driver": "igb"}"#), "its driver is none, not igb");
        assert_eq!(miss(r#"{"interface": "eth0"}"#), "its interface is none, not eth0");
    }
}
