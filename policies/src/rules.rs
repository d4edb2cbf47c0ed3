//! The rules of a policy: what is demanded before a device is given away, what is taken although the
//! host needs it, and what the host gets back.

use std::collections::HashMap;
use std::fmt;

use serde::{Deserialize, Serialize};
use sriov::{HostSnapshot, PciAddress, PciFunction};

use crate::document::{Node, Span};
use crate::error::{Report, quote};
use crate::read::{Fields, choice, list, text};
use crate::scalar;

/// What is demanded before a device is given away.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, Default)]
pub struct Isolation {
    /// How an IOMMU group is treated.
    pub group: GroupIsolation,
    /// What is demanded of the way to a device.
    pub acs: Acs,
    /// What happens on a host without an IOMMU.
    pub no_iommu: NoIommu,
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
    /// Devices are given away all the same; a guest with one can reach all of the host's memory.
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
        scalar::device_name(&text).ok_or_else(|| format!("{} names no device", quote(&text)))
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
const EXCEPTION_FORM: &str = r#"- {device: eth0, because: "spare port, its address is left over"}"#;

pub(crate) fn isolation(node: &Node, report: &mut Report<'_>) -> Option<Isolation> {
    let fields = Fields::of(node, "`isolation`", &["group", "acs", "noIommu"], report)?;
    let group = fields.get("group", report);
    let group = group
        .and_then(|node| choice(node, "`group`", &[("strict", GroupIsolation::Strict)], report));
    let acs = fields.get("acs", report);
    let choices = [("kernel", Acs::Kernel), ("required", Acs::Required)];
    let acs = acs.and_then(|node| choice(node, "`acs`", &choices, report));
    let no_iommu = fields.get("noIommu", report);
    let choices = [("deny", NoIommu::Deny), ("allow", NoIommu::Allow)];
    let no_iommu = no_iommu.and_then(|node| choice(node, "`noIommu`", &choices, report));
    Some(Isolation {
        group: group.unwrap_or_default(),
        acs: acs.unwrap_or_default(),
        no_iommu: no_iommu.unwrap_or_default(),
    })
}

pub(crate) fn protection(node: &Node, report: &mut Report<'_>) -> Option<Protection> {
    let fields = Fields::of(node, "`protection`", &["exceptions"], report)?;
    let node = fields.need("exceptions", EXCEPTION_FORM, report)?;
    let mut seen: HashMap<DeviceName, Span> = HashMap::new();
    let mut exceptions = Vec::new();
    for item in list(node, "`exceptions`", MAX_EXCEPTIONS, EXCEPTION_FORM, report) {
        let Some((exception, at)) = exception(item, report) else { continue };
        match seen.get(&exception.device) {
            Some(first) => {
                let message = format!(
                    "an exception for {} is made already, in line {}",
                    exception.device, first.line
                );
                report.error(at, message, Some("each device once"));
            }
            None => {
                seen.insert(exception.device.clone(), at);
                exceptions.push(exception);
            }
        }
    }
    Some(Protection { exceptions })
}

fn exception(node: &Node, report: &mut Report<'_>) -> Option<(Exception, Span)> {
    let fields = Fields::of(node, "an exception", &["device", "because"], report)?;
    let device_node = fields.need("device", "device: eth0", report);
    let device = device_node.and_then(|node| scalar::device(node, report));
    let because = fields.need("because", r#"because: "spare port""#, report);
    let because = because.and_then(|node| reason(node, report));
    Some((Exception { device: device?, because: because? }, device_node?.span))
}

fn reason(node: &Node, report: &mut Report<'_>) -> Option<String> {
    let form = "one line of at most 500 bytes that says why the host can do without this device";
    let text = text(node, "`because`", form, report)?.trim();
    if text.is_empty() || text.len() > MAX_REASON || text.contains(char::is_control) {
        report.error(node.span, format!("`because` cannot be {}", quote(text)), Some(form));
        return None;
    }
    Some(text.to_owned())
}

pub(crate) fn release(node: &Node, report: &mut Report<'_>) -> Option<Release> {
    let fields = Fields::of(node, "`release`", &["restore"], report)?;
    let node = fields.get("restore", report)?;
    let choices = [("original", Restore::Original), ("keep", Restore::Keep)];
    Some(Release { restore: choice(node, "`restore`", &choices, report)? })
}
