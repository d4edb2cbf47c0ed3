//! Access control on the way from a device to the root: what keeps it from reaching its neighbours
//! without the IOMMU's knowledge.
//!
//! The kernel makes groups by this (drivers/pci/pci.c, `pci_acs_enabled` and
//! `pci_acs_path_enabled`): each root port and each port of a switch on the way has to have ACS, and
//! so has each function that shares its slot with others. Four controls count; one that a port does
//! not offer counts as built in. For some devices that isolate without saying so the kernel has a list
//! of its own (drivers/pci/quirks.c), and for `pcie_acs_override` it believes what it is told: what is
//! found here explains a group that is shared, and is no proof that one is.

use std::collections::BTreeSet;
use std::fmt;

use serde::{Deserialize, Serialize};

use crate::address::PciAddress;
use crate::facts::capabilities::{Acs, Extent, PortKind};
use crate::facts::pci::PciFunction;
use crate::snapshot::HostSnapshot;

/// A place on the way that lets a device reach its neighbours.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AcsGap {
    /// The port, bridge or function.
    pub at: PciAddress,
    /// What it is on PCI Express; `None` on conventional PCI, or where that is not known.
    pub port: Option<PortKind>,
    /// Why.
    pub lack: AcsLack,
}

/// Why a place does not isolate.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum AcsLack {
    /// It has no ACS.
    Capability,
    /// It has ACS, and these controls are off.
    Controls(Vec<AcsControl>),
    /// It is conventional PCI, where all devices of a bus hear each other.
    Conventional,
    /// Its configuration space was not read, or only as much of it as is for everybody.
    Unread,
}

/// The controls that isolation needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum AcsControl {
    /// Requests must come from a bus behind the port.
    SourceValidation,
    /// Requests between neighbours go up, to the IOMMU.
    RequestRedirect,
    /// So do completions.
    CompletionRedirect,
    /// What came down and belongs up is sent there.
    UpstreamForwarding,
}

impl fmt::Display for AcsControl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            AcsControl::SourceValidation => "source validation",
            AcsControl::RequestRedirect => "request redirect",
            AcsControl::CompletionRedirect => "completion redirect",
            AcsControl::UpstreamForwarding => "upstream forwarding",
        })
    }
}

impl fmt::Display for AcsGap {
    /// "root port 0000:00:1c.0 has no ACS".
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let at = self.at;
        match self.port {
            Some(PortKind::RootPort) => write!(f, "root port {at}")?,
            Some(PortKind::UpstreamPort | PortKind::DownstreamPort) => {
                write!(f, "switch port {at}")?
            }
            Some(PortKind::PcieToPciBridge | PortKind::PciToPcieBridge) => {
                write!(f, "bridge {at}")?
            }
            _ => write!(f, "{at}")?,
        }
        match &self.lack {
            AcsLack::Capability => f.write_str(" has no ACS"),
            AcsLack::Conventional => f.write_str(" leads to conventional PCI, which has no ACS"),
            AcsLack::Unread => f.write_str(" was not asked for its ACS"),
            AcsLack::Controls(controls) => {
                let list: Vec<String> = controls.iter().map(AcsControl::to_string).collect();
                write!(f, " has ACS switched off ({})", list.join(", "))
            }
        }
    }
}

/// Every place on the way from `device` to the root that lets it reach its neighbours, the nearest
/// first; none where it is isolated all the way.
pub fn acs_path(snapshot: &HostSnapshot, device: &PciFunction) -> Vec<AcsGap> {
    let mut gaps = Vec::new();
    // The kernel takes a VF for a device of one function (drivers/pci/iov.c).
    if device.vf_of.is_none() && !device.is_bridge() && has_siblings(snapshot, device) {
        gaps.extend(lack(device).map(|lack| gap(device, lack)));
    }
    let mut seen = BTreeSet::from([device.address]);
    let mut above = device.parent;
    // A snapshot from elsewhere may say that two ports are above each other.
    while let Some(port) = above.and_then(|above| snapshot.function(above)) {
        if !seen.insert(port.address) {
            break;
        }
        let kind = port.capabilities.as_ref().and_then(|read| read.pcie.as_ref()).map(|it| it.port);
        // The upper side of a switch has nothing beside it, unless it has more functions.
        let alone = kind == Some(PortKind::UpstreamPort) && !has_siblings(snapshot, port);
        if !alone {
            gaps.extend(lack(port).map(|lack| gap(port, lack)));
        }
        above = port.parent;
    }
    gaps
}

fn gap(function: &PciFunction, lack: AcsLack) -> AcsGap {
    let read = function.capabilities.as_ref();
    let port = read.and_then(|read| read.pcie.as_ref()).map(|it| it.port);
    AcsGap { at: function.address, port, lack }
}

/// Other physical functions of the same device.
fn has_siblings(snapshot: &HostSnapshot, function: &PciFunction) -> bool {
    let slot = |at: PciAddress| (at.domain(), at.bus(), at.device());
    snapshot.functions.iter().any(|other| {
        other.address != function.address
            && other.vf_of.is_none()
            && slot(other.address) == slot(function.address)
    })
}

/// What a place on the way lacks.
fn lack(function: &PciFunction) -> Option<AcsLack> {
    let Some(read) = function.capabilities.as_ref().filter(|read| !read.dead) else {
        return Some(AcsLack::Unread);
    };
    let Some(pcie) = &read.pcie else {
        return Some(match read.extent {
            Extent::Nothing | Extent::Header => AcsLack::Unread,
            Extent::Standard | Extent::Extended => AcsLack::Conventional,
        });
    };
    if matches!(pcie.port, PortKind::PcieToPciBridge | PortKind::PciToPcieBridge) {
        return Some(AcsLack::Conventional);
    }
    match &read.acs {
        Some(acs) => Some(off(acs)).filter(|off| !off.is_empty()).map(AcsLack::Controls),
        None if read.extent == Extent::Extended => Some(AcsLack::Capability),
        None => Some(AcsLack::Unread),
    }
}

/// Controls that it has and that are off.
fn off(acs: &Acs) -> Vec<AcsControl> {
    let (has, on) = (&acs.supported, &acs.enabled);
    [
        (AcsControl::SourceValidation, has.source_validation, on.source_validation),
        (AcsControl::RequestRedirect, has.request_redirect, on.request_redirect),
        (AcsControl::CompletionRedirect, has.completion_redirect, on.completion_redirect),
        (AcsControl::UpstreamForwarding, has.upstream_forwarding, on.upstream_forwarding),
    ]
    .into_iter()
    .filter(|(_, has, on)| *has && !on)
    .map(|(control, ..)| control)
    .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::facts::capabilities::{AcsControls, Capabilities, Pcie};

    fn address(text: &str) -> PciAddress {
        text.parse().expect("an address")
    }

    fn all(on: bool) -> AcsControls {
        AcsControls {
            source_validation: on,
            request_redirect: on,
            completion_redirect: on,
            upstream_forwarding: on,
            ..AcsControls::default()
        }
    }

    fn isolating() -> Option<Acs> {
        Some(Acs { supported: all(true), enabled: all(true) })
    }

    fn function(at: &str, below: Option<&str>, port: PortKind, acs: Option<Acs>) -> PciFunction {
        let pcie = Pcie {
            port,
            slot: false,
            flr: true,
            max_speed: None,
            max_width: 1,
            speed: None,
            width: 0,
        };
        let read = Capabilities {
            extent: Extent::Extended,
            pcie: Some(pcie),
            acs,
            ..Capabilities::default()
        };
        let bridge = !matches!(port, PortKind::Endpoint);
        PciFunction {
            class: if bridge { 0x06_0400 } else { 0x02_0000 },
            parent: below.map(address),
            capabilities: Some(read),
            ..PciFunction::new(address(at))
        }
    }

    fn texts(functions: Vec<PciFunction>, device: &str) -> Vec<String> {
        let mut functions = functions;
        functions.sort_by_key(|function| function.address);
        let snapshot = HostSnapshot { functions, ..HostSnapshot::default() };
        let device = snapshot.function(address(device)).expect("the device");
        acs_path(&snapshot, device).iter().map(AcsGap::to_string).collect()
    }

    const NIC: &str = "0000:04:00.0";

    /// A root port, a switch and a card.
    fn behind_a_switch(root: Option<Acs>, down: Option<Acs>) -> Vec<PciFunction> {
        vec![
            function("0000:00:1c.0", None, PortKind::RootPort, root),
            function("0000:02:00.0", Some("0000:00:1c.0"), PortKind::UpstreamPort, None),
            function("0000:03:01.0", Some("0000:02:00.0"), PortKind::DownstreamPort, down),
            function(NIC, Some("0000:03:01.0"), PortKind::Endpoint, None),
        ]
    }

    #[test]
    fn every_port_on_the_way_has_to_isolate() {
        assert!(texts(behind_a_switch(isolating(), isolating()), NIC).is_empty());
        let mut half = all(true);
        half.source_validation = false;
        half.upstream_forwarding = false;
        let half = Some(Acs { supported: all(true), enabled: half });
        assert_eq!(
            texts(behind_a_switch(None, half), NIC),
            [
                "switch port 0000:03:01.0 has ACS switched off (source validation, upstream \
                 forwarding)",
                "root port 0000:00:1c.0 has no ACS"
            ]
        );
        // What a port does not offer is built in (ACS with no control at all).
        let none = Some(Acs { supported: all(false), enabled: all(false) });
        assert!(texts(behind_a_switch(none, isolating()), NIC).is_empty());
    }

    #[test]
    fn functions_of_one_slot_need_it_too_and_vfs_do_not() {
        let mut functions = behind_a_switch(isolating(), isolating());
        functions.push(function("0000:04:00.1", Some("0000:03:01.0"), PortKind::Endpoint, None));
        let vf = crate::VfRef { pf: address(NIC), index: 0 };
        let virtual_function =
            function("0000:04:00.2", Some("0000:03:01.0"), PortKind::Endpoint, None);
        functions.push(PciFunction { vf_of: Some(vf), ..virtual_function });
        assert_eq!(texts(functions.clone(), NIC), ["0000:04:00.0 has no ACS"]);
        assert!(texts(functions, "0000:04:00.2").is_empty());
    }

    #[test]
    fn conventional_pci_isolates_nothing_and_what_was_not_read_is_told() {
        let mut functions = behind_a_switch(isolating(), isolating());
        functions[2] =
            function("0000:03:01.0", Some("0000:02:00.0"), PortKind::PcieToPciBridge, None);
        functions[0].capabilities = None;
        assert_eq!(
            texts(functions, NIC),
            [
                "bridge 0000:03:01.0 leads to conventional PCI, which has no ACS",
                "0000:00:1c.0 was not asked for its ACS"
            ]
        );
    }

    #[test]
    fn ports_above_each_other_are_no_endless_way() {
        let mut functions = behind_a_switch(None, isolating());
        functions[0].parent = Some(address("0000:03:01.0"));
        assert_eq!(texts(functions, NIC), ["root port 0000:00:1c.0 has no ACS"]);
    }
}
