//! The rules of a policy: what is demanded before a device is given away, what is taken although the
//! host needs it, and what the host gets back.

use std::collections::HashMap;
use std::fmt;

use serde::{Deserialize, Serialize};
use sriov::{HostSnapshot, PciAddress, PciFunction};

use crate::document::Span;
use crate::error::{Report, quote};
use crate::fields::Fields;
use crate::grammar::{Field, Form, Mapping, Text, word};
use crate::names;

/// What is demanded before a device is given away.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, Default)]
pub struct Isolation {
    /// How an IOMMU group is treated.
    pub group: GroupIsolation,
    /// What is demanded of the way to a device.
    pub acs: Acs,
    /// What happens on a host without an IOMMU.
    pub no_iommu: NoIommu,
    /// By which of the kernel's interfaces devices reach guest memory.
    #[serde(default)]
    pub iommu: IommuInterface,
    /// Whether the devices of a guest reach each other's registers.
    #[serde(default)]
    pub peer_to_peer: PeerToPeer,
}

/// How an IOMMU group is treated.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, Default)]
#[serde(rename_all = "kebab-case")]
pub enum GroupIsolation {
    /// A group goes to one guest as a whole, or not at all.
    #[default]
    Strict,
}

/// What is demanded of the bridges on the way to a device (Access Control Services, PCIe section
/// 6.12).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, Default)]
#[serde(rename_all = "kebab-case")]
pub enum Acs {
    /// What the kernel made of them when it formed the IOMMU groups, quirks and overrides of its
    /// command line included.
    #[default]
    Kernel,
    /// Every bridge on the way shows ACS and has it switched on.
    Required,
}

/// What happens on a host without an IOMMU.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, Default)]
#[serde(rename_all = "kebab-case")]
pub enum NoIommu {
    /// No device is given away.
    #[default]
    Deny,
    /// Devices may be given away all the same; a guest with one could reach all of the host's memory.
    /// No version does it yet: the plan refuses and says so.
    Allow,
}

/// By which of the kernel's interfaces the devices of a guest reach its memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, Default)]
#[serde(rename_all = "kebab-case")]
pub enum IommuInterface {
    /// Iommufd where this host has it and each device of the guest has a file of its own, else type1.
    #[default]
    Auto,
    /// Containers with groups.
    Type1,
    /// Iommufd with character devices.
    Iommufd,
}

/// Whether the devices of a guest reach each other's registers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, Default)]
#[serde(rename_all = "kebab-case")]
pub enum PeerToPeer {
    /// They reach the guest's memory only.
    #[default]
    Deny,
    /// They reach the registers too, as far as the IOMMU's interface can.
    Allow,
}

/// What the host needs and is taken all the same.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, Default)]
pub struct Protection {
    /// Devices, each once.
    pub exceptions: Vec<Exception>,
}

impl Protection {
    /// The exception made for `function`, if there is one.
    pub fn exception(&self, host: &HostSnapshot, function: &PciFunction) -> Option<&Exception> {
        self.exceptions.iter().find(|exception| exception.device.is_of(host, function))
    }
}

/// A device that may be taken although the host uses it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Exception {
    /// Which one.
    pub device: DeviceName,
    /// Why that is right, in the words of whoever decided it: one line.
    pub because: String,
}

/// A device by what people call it.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub enum DeviceName {
    /// Where it sits.
    Address(PciAddress),
    /// The name, or another name (altname), of one of its network interfaces.
    Interface(String),
}

impl DeviceName {
    /// Whether this names `function` on `host`.
    pub fn is_of(&self, host: &HostSnapshot, function: &PciFunction) -> bool {
        match self {
            DeviceName::Address(address) => *address == function.address,
            DeviceName::Interface(name) => function.netdevs.iter().any(|netdev| {
                let netdev = host.netdev(netdev);
                netdev.is_some_and(|netdev| netdev.name == *name || netdev.altnames.contains(name))
            }),
        }
    }
}

impl fmt::Display for DeviceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            DeviceName::Address(address) => address.fmt(f),
            DeviceName::Interface(name) => f.write_str(name),
        }
    }
}

impl From<DeviceName> for String {
    fn from(name: DeviceName) -> String {
        name.to_string()
    }
}

impl TryFrom<String> for DeviceName {
    type Error = String;

    fn try_from(text: String) -> Result<DeviceName, String> {
        names::device(&text).ok_or_else(|| format!("{} names no device", quote(&text)))
    }
}

/// What happens to devices that are no longer wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, Default)]
pub struct Release {
    /// What a device is given back as.
    pub restore: Restore,
}

/// What a device is given back as.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, Default)]
#[serde(rename_all = "kebab-case")]
pub enum Restore {
    /// As it was found: VF count, drivers, overrides, addresses.
    #[default]
    Original,
    /// As it is: removing the policy only forgets it.
    Keep,
}

/// Most exceptions of one policy.
const MAX_EXCEPTIONS: usize = 256;
/// Longest reason in bytes.
const MAX_REASON: usize = 500;

/// `isolation`.
pub(crate) static ISOLATION: Mapping = Mapping {
    what: "`isolation`",
    fields: &[
        Field::new(
            "group",
            Form::Words(&[word("strict", "a group goes to one guest as a whole, or not at all")]),
            "strict",
            "How an IOMMU group is treated: the devices that the IOMMU cannot keep apart.",
        )
        .or("strict"),
        Field::new(
            "acs",
            Form::Words(&[
                word("kernel", "what the kernel made of them when it formed the IOMMU groups"),
                word("required", "each of them shows Access Control Services, switched on"),
            ]),
            "required",
            "What is demanded of the bridges on the way to a device, which could pass its requests on \
             to a neighbour.",
        )
        .or("kernel"),
        Field::new(
            "noIommu",
            Form::Words(&[
                word("deny", "no device is given away"),
                word("allow", "accepted, and refused by the plan: no guest gets a device without an IOMMU yet"),
            ]),
            "deny",
            "What happens on a host without an IOMMU.",
        )
        .or("deny"),
        Field::new(
            "iommu",
            Form::Words(&[
                word("auto", "iommufd where the kernel has it for all devices of a guest, else type1"),
                word("type1", "containers with IOMMU groups in them"),
                word("iommufd", "/dev/iommu, and a file for each device"),
            ]),
            "iommufd",
            "By which of the kernel's interfaces devices reach a guest's memory. Where what is demanded \
             is not there, the device is not given.",
        )
        .or("auto"),
        Field::new(
            "peerToPeer",
            Form::Words(&[
                word("deny", "they reach the guest's memory only"),
                word("allow", "they reach each other's registers too, where the interface can do it"),
            ]),
            "allow",
            "Whether the devices of one guest reach each other without its CPUs. They do where all \
             their policies allow it.",
        )
        .or("deny"),
    ],
    rules: &[],
    later: &[],
};

/// `protection`.
pub(crate) static PROTECTION: Mapping = Mapping {
    what: "`protection`",
    fields: &[Field::new(
        "exceptions",
        Form::List { of: &EXCEPTION, most: MAX_EXCEPTIONS },
        r#"[{device: eth0, because: "a spare port, its address is left over"}]"#,
        "Devices that are taken although the host uses them.",
    )
    .needed()],
    rules: &[],
    later: &[],
};

static EXCEPTION: Mapping = Mapping {
    what: "an exception",
    fields: &[
        Field::new(
            "device",
            Form::Text(names::DEVICE),
            "eth0",
            "The device: its PCI address, or a name of its network interface.",
        )
        .needed(),
        Field::new(
            "because",
            Form::Text(REASON),
            r#""a spare port, its address is left over""#,
            "Why the host can do without it. It is shown before the device is taken, and kept.",
        )
        .needed(),
    ],
    rules: &[],
    later: &[],
};

const REASON: Text = Text {
    accepted: "one line of at most 500 bytes that says why the host can do without this device",
    pattern: r"^[^\x00-\x1f\x7f-\x9f]*[^\s\x00-\x1f\x7f-\x9f][^\x00-\x1f\x7f-\x9f]*\s*$",
};

/// `release`.
pub(crate) static RELEASE: Mapping = Mapping {
    what: "`release`",
    fields: &[Field::new(
        "restore",
        Form::Words(&[
            word("original", "as they were found: number of VFs, drivers, addresses"),
            word("keep", "as they are; removing the policy only forgets it"),
        ]),
        "original",
        "What the host gets back when the policy is removed.",
    )
    .or("original")],
    rules: &[],
    later: &[],
};

pub(crate) fn isolation(fields: &Fields<'_>, report: &mut Report<'_>) -> Isolation {
    Isolation {
        group: fields.word("group", report).unwrap_or_default(),
        acs: fields.word("acs", report).unwrap_or_default(),
        no_iommu: fields.word("noIommu", report).unwrap_or_default(),
        iommu: fields.word("iommu", report).unwrap_or_default(),
        peer_to_peer: fields.word("peerToPeer", report).unwrap_or_default(),
    }
}

pub(crate) fn protection(fields: &Fields<'_>, report: &mut Report<'_>) -> Protection {
    let mut seen: HashMap<DeviceName, Span> = HashMap::new();
    let mut exceptions = Vec::new();
    for fields in fields.list("exceptions", report) {
        let device = fields.parsed("device", names::device, report);
        let because = fields.parsed("because", reason, report);
        let (Some(device), Some(because)) = (device, because) else { continue };
        if let Some(first) = seen.insert(device.clone(), fields.at) {
            let message =
                format!("an exception for {device} is made already, in line {}", first.line);
            report.error(fields.at, message, Some("each device once"));
        }
        exceptions.push(Exception { device, because });
    }
    Protection { exceptions }
}

fn reason(text: &str) -> Option<String> {
    let text = text.trim();
    let ok = (1..=MAX_REASON).contains(&text.len()) && !text.contains(char::is_control);
    ok.then(|| text.to_owned())
}

pub(crate) fn release(fields: &Fields<'_>, report: &mut Report<'_>) -> Release {
    Release { restore: fields.word("restore", report).unwrap_or_default() }
}
