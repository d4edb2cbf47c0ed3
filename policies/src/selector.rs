//! Which functions feed a pool.

use std::fmt;

use serde::{Deserialize, Serialize};
use sriov::{HostSnapshot, MacAddress, PciAddress, PciFunction, PciRoot};

use crate::amounts;
use crate::error::Report;
use crate::fields::Fields;
use crate::grammar::{Field, Form, Mapping, Rule};
use crate::ids::{self, ClassPrefix};
use crate::names;

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
                    (_, Some(speed)) => format!("{} at most", amounts::show_speed(speed)),
                    (Some(_), None) => unknown("the kernel does not say"),
                    (None, None) => unknown("it shows no link of its own"),
                };
                return miss("linkSpeed", format!("{} or more", amounts::show_speed(min)), found);
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

/// Highest number of a NUMA node: the kernel has room for 1,024 (`CONFIG_NODES_SHIFT` is 10 at most).
pub(crate) const LAST_NODE: u64 = 1023;

const CONDITIONS: &[Field] = &[
    Field::new(
        "vendor",
        Form::Text(ids::PCI_ID),
        r#""8086""#,
        "PCI vendor ID, in hexadecimal and quotes.",
    ),
    Field::new(
        "device",
        Form::Text(ids::PCI_ID),
        r#""10c9""#,
        "PCI device ID, in hexadecimal and quotes.",
    ),
    Field::new(
        "subsystemVendor",
        Form::Text(ids::PCI_ID),
        r#""8086""#,
        "PCI subsystem vendor ID: who made the card.",
    ),
    Field::new(
        "subsystemDevice",
        Form::Text(ids::PCI_ID),
        r#""a03c""#,
        "PCI subsystem device ID: which card it is.",
    ),
    Field::new(
        "class",
        Form::Text(ids::CLASS),
        r#""0200""#,
        "PCI class or its beginning: 02 is any network controller, 0200 Ethernet, 0108 NVMe and the \
         like, 03 any display.",
    ),
    Field::new(
        "driver",
        Form::Text(names::DRIVER),
        "igb",
        "The driver that the host has bound to it.",
    ),
    Field::new(
        "address",
        Form::Text(ids::ADDRESS),
        "0000:01:00.0",
        "PCI address. Firmware may give a device another one when cards are added.",
    ),
    Field::new(
        "interface",
        Form::Text(names::INTERFACE),
        "eth0",
        "The name of its network interface.",
    ),
    Field::new(
        "altname",
        Form::Text(names::ALTNAME),
        "enp1s0f0",
        "Another name of its network interface (`ip link` shows it as altname).",
    ),
    Field::new(
        "permanentMac",
        Form::Text(ids::MAC),
        r#""52:54:00:12:34:56""#,
        "The address its network interface was made with, which a bond does not change.",
    ),
    Field::new(
        "serial",
        Form::Text(ids::SERIAL),
        r#""00-1b-21-ff-ff-12-34-56""#,
        "Its serial number: of an NVMe drive its own, of others that of the PCI Express device. \
         `assign show` prints it.",
    ),
    Field::new(
        "pciRoot",
        Form::Text(ids::PCI_ROOT),
        r#""0000:00""#,
        "The root bus it is below, in quotes.",
    ),
    Field::new("numaNode", Form::Number(0, LAST_NODE), "0", "The NUMA node it is on."),
    Field::new(
        "linkSpeed",
        Form::Map(&LINK_SPEED),
        "{min: 8GT/s}",
        "What its PCI Express link can do, whatever it runs at now.",
    ),
];

static LINK_SPEED: Mapping = Mapping {
    what: "`linkSpeed`",
    fields: &[Field::new(
        "min",
        Form::Text(amounts::SPEED),
        "8GT/s",
        "The least it must be able to do, in transfers per second and lane.",
    )
    .needed()],
    rules: &[],
};

const NAMES: &str = "vendor, device, class, driver, address, interface and more";

/// `from`.
pub(crate) static FROM: Mapping = Mapping {
    what: "`from`",
    fields: CONDITIONS,
    rules: &[Rule::NotEmpty {
        message: "`from` selects nothing: give at least one condition",
        accepted: NAMES,
    }],
};

/// `devices`.
pub(crate) static DEVICES: Mapping = Mapping {
    what: "`devices`",
    fields: CONDITIONS,
    rules: &[Rule::NotEmpty {
        message: "`devices` selects nothing: give at least one condition",
        accepted: NAMES,
    }],
};

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

    /// A host with one card that has all there is to select by.
    fn host() -> HostSnapshot {
        let card = serde_json::json!({
            "name": "eth0", "altnames": ["enp1s0f0"], "index": 2, "mac": null,
            "permanent_mac": "52:54:00:00:00:01", "up": true, "carrier": null, "master": null,
            "uppers": [], "pci": "0000:01:00.0", "port_name": null, "addresses": [],
            "routes": false, "default_route": false, "accept_ra": null, "autoconfigured": false,
        });
        HostSnapshot {
            netdevs: vec![serde_json::from_value(card).expect("an interface")],
            functions: vec![
                PciFunction::new("0000:00:01.0".parse().expect("a valid address")),
                PciFunction {
                    parent: "0000:00:01.0".parse().ok(),
                    subsystem_vendor: 0x8086,
                    subsystem_device: 0xa03c,
                    serial: Some("00-1b-21-ff-ff-12-34-56".to_owned()),
                    numa_node: Some(0),
                    link: Some(sriov::facts::link::Link {
                        max_speed: Some(8000),
                        ..Default::default()
                    }),
                    ..function()
                },
            ],
            ..HostSnapshot::default()
        }
    }

    #[test]
    fn every_condition_has_its_mismatch() {
        let host = host();
        let card = host.functions.last().expect("the card");
        let try_on = |json: &str, card: &PciFunction| selector(json).matches(&host, card);
        for (right, wrong, said) in [
            (
                r#"{"subsystem_vendor": 32902}"#,
                r#"{"subsystem_vendor": 1}"#,
                "its subsystem vendor is 8086, not 0001",
            ),
            (
                r#"{"subsystem_device": 41020}"#,
                r#"{"subsystem_device": 1}"#,
                "its subsystem device is a03c, not 0001",
            ),
            (
                r#"{"altname": "enp1s0f0"}"#,
                r#"{"altname": "eth0"}"#,
                "its altname is enp1s0f0, not eth0",
            ),
            (
                r#"{"permanent_mac": "52:54:00:00:00:01"}"#,
                r#"{"permanent_mac": "52:54:00:00:00:02"}"#,
                "its permanent MAC address is 52:54:00:00:00:01, not 52:54:00:00:00:02",
            ),
            (
                r#"{"serial": "00-1B-21-FF-FF-12-34-56"}"#,
                r#"{"serial": "x"}"#,
                "its serial is 00-1b-21-ff-ff-12-34-56, not x",
            ),
            (
                r#"{"pci_root": "0000:00"}"#,
                r#"{"pci_root": "0000:01"}"#,
                "its PCI root is 0000:00, not 0000:01",
            ),
            (r#"{"numa_node": 0}"#, r#"{"numa_node": 1}"#, "its NUMA node is 0, not 1"),
            (
                r#"{"link_speed": {"min": 8000}}"#,
                r#"{"link_speed": {"min": 16000}}"#,
                "its link speed is 8GT/s at most, not 16GT/s or more",
            ),
        ] {
            assert_eq!(try_on(right, card), Ok(()), "{right}");
            let mismatch = try_on(wrong, card).expect_err(wrong);
            assert_eq!(mismatch.to_string(), said);
        }
    }

    #[test]
    fn what_cannot_be_told_is_said_to_be_unknown() {
        let host = host();
        let bare = PciFunction {
            serial: None,
            numa_node: None,
            link: None,
            netdevs: vec!["gone".to_owned()],
            driver: None,
            ..host.functions.last().expect("the card").clone()
        };
        for (json, said) in [
            (
                r#"{"serial": "x"}"#,
                "its serial is unknown (it has none, no driver, or is asleep), not x",
            ),
            (
                r#"{"permanent_mac": "52:54:00:00:00:01"}"#,
                "its permanent MAC address is unknown (the kernel does not say), not \
                 52:54:00:00:00:01",
            ),
            (r#"{"numa_node": 0}"#, "its NUMA node is none, not 0"),
            (
                r#"{"link_speed": {"min": 2500}}"#,
                "its link speed is unknown (it shows no link of its own), not 2.5GT/s or more",
            ),
        ] {
            let mismatch = selector(json).matches(&host, &bare).expect_err(json);
            assert_eq!(mismatch.to_string(), said);
        }
    }

    #[test]
    fn what_went_with_the_driver_is_passed_over_and_nothing_else() {
        let host = host();
        let taken = PciFunction {
            driver: Some("vfio-pci".to_owned()),
            netdevs: Vec::new(),
            serial: None,
            ..host.functions.last().expect("the card").clone()
        };
        let shown_by_driver = [
            r#"{"driver": "igb"}"#,
            r#"{"interface": "eth0"}"#,
            r#"{"altname": "enp1s0f0"}"#,
            r#"{"permanent_mac": "52:54:00:00:00:01"}"#,
            r#"{"serial": "x"}"#,
        ];
        for json in shown_by_driver {
            assert!(selector(json).matches(&host, &taken).is_err(), "{json}");
            assert_eq!(selector(json).matches_taken(&host, &taken), Ok(()), "{json}");
        }
        for json in [r#"{"vendor": 1}"#, r#"{"numa_node": 1}"#, r#"{"class": "03"}"#] {
            assert!(selector(json).matches_taken(&host, &taken).is_err(), "{json}");
        }
        let numbered = PciFunction { serial: Some("y".to_owned()), ..taken };
        assert!(selector(r#"{"serial": "x"}"#).matches_taken(&host, &numbered).is_err());
    }

    #[test]
    fn a_selector_is_shown_as_it_is_written() {
        let all = r#"{vendor: "8086", device: "10c9", subsystemVendor: "8086", subsystemDevice: "a03c", class: "0200", driver: igb, address: "0000:01:00.0", interface: eth0, altname: enp1s0f0, permanentMac: "52:54:00:00:00:01", serial: "x 1", pciRoot: "0000:00", numaNode: 0, linkSpeed: {min: 2.5GT/s}}"#;
        let text = format!(
            "apiVersion: assign/v1\nkind: Policy\nmetadata: {{name: a}}\nspec: {{pools: [{{name: a, devices: {all}}}]}}"
        );
        let source = crate::Source { name: "a.yaml".to_owned(), text };
        let documents = crate::parse(&[source]).unwrap_or_else(|errors| panic!("{errors}"));
        assert_eq!(documents.policies[0].pools[0].from.to_string(), all);
    }
}
