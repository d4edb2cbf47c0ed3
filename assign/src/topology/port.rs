//! What a bridge is called, and whether it keeps apart what is behind it.

use serde::Serialize;
use sriov::PciFunction;
use sriov::facts::capabilities::{AcsControls, Extent, PortKind};

/// Access control of a port.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Acs {
    /// What is behind it cannot reach its neighbours behind the IOMMU's back.
    On,
    /// It says nothing of the kind, and yet the kernel keeps apart what is behind it: it knows this
    /// port for one that does (drivers/pci/quirks.c, `pci_dev_acs_enabled`), or was told to take it
    /// for one.
    Trusted,
    /// It could keep them apart, and does not.
    Off,
    /// It cannot keep them apart.
    Missing,
}

impl Acs {
    /// The label.
    pub fn label(self) -> &'static str {
        match self {
            Acs::On => "ACS",
            Acs::Trusted => "ACS by kernel",
            Acs::Off => "ACS off",
            Acs::Missing => "no ACS",
        }
    }

    /// What that means, in a sentence.
    pub fn meaning(self) -> &'static str {
        match self {
            Acs::On => "what is behind it is kept apart from its neighbours",
            Acs::Trusted => {
                "it has no ACS that is on, but the kernel takes it for one that keeps apart what is \
                 behind it"
            }
            Acs::Off => "it could keep apart what is behind it, and does not",
            Acs::Missing => "it cannot keep apart what is behind it",
        }
    }

    /// Whether what is behind it is kept apart.
    pub fn isolates(self) -> bool {
        matches!(self, Acs::On | Acs::Trusted)
    }
}

/// What kind of bridge a function is, in two words at most.
pub fn kind(function: &PciFunction) -> &'static str {
    let pcie = function.capabilities.as_ref().and_then(|found| found.pcie.as_ref());
    match (pcie.map(|pcie| pcie.port), function.class_code()) {
        (Some(PortKind::RootPort), _) => "root port",
        (Some(PortKind::UpstreamPort), _) => "upstream port",
        (Some(PortKind::DownstreamPort), _) => "downstream port",
        (Some(PortKind::PcieToPciBridge), _) => "PCI bridge",
        (_, 0x0600) => "host bridge",
        (_, 0x0601) => "ISA bridge",
        (_, 0x0604) => match (function.driver.as_deref(), function.parent) {
            // The driver takes ports of PCI Express only.
            (Some("pcieport"), None) => "root port",
            (Some("pcieport"), Some(_)) => "switch port",
            _ => "PCI bridge",
        },
        _ => "bridge",
    }
}

/// A port's access control, with what is right behind it; `None` for what is no port that could
/// have any, and where its configuration space was not shown in full.
pub fn acs<'a>(
    port: &PciFunction,
    behind: impl IntoIterator<Item = &'a PciFunction>,
) -> Option<Acs> {
    let found = port.capabilities.as_ref()?;
    let kind = found.pcie.as_ref()?.port;
    if !matches!(kind, PortKind::RootPort | PortKind::DownstreamPort)
        || found.extent < Extent::Extended
    {
        return None;
    }
    let mut groups = behind.into_iter().map(|function| function.iommu_group).peekable();
    Some(match &found.acs {
        Some(acs) if acs.isolates() => Acs::On,
        _ if groups.peek().is_some()
            && groups.all(|group| group.is_some() && group != port.iommu_group) =>
        {
            Acs::Trusted
        }
        Some(acs) if could_isolate(&acs.supported) => Acs::Off,
        _ => Acs::Missing,
    })
}

/// The four controls that the kernel asks for (drivers/pci/pci.c, `REQ_ACS_FLAGS`).
fn could_isolate(supported: &AcsControls) -> bool {
    supported.source_validation
        && supported.request_redirect
        && supported.completion_redirect
        && supported.upstream_forwarding
}
