//! What a function says of itself in its configuration space: its capabilities (PCI Local Bus 3.0
//! section 6.7, PCIe base specification section 7.5 on).
//!
//! Both lists are links through the device's own registers, and a device may be broken, asleep,
//! gone, or made to confuse. So every register belongs to one capability at most: a list that
//! comes back to one that was read ends there, which bounds it. What is odd is told; what could be
//! read of the rest is kept.

use serde::{Deserialize, Serialize};

use super::config_space::ConfigSpace;

mod extended;
mod standard;
mod walk;

/// The capabilities that matter for giving a device away; the others by their ids.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Capabilities {
    /// How much of the configuration space could be read: what lies beyond is not known to be
    /// absent.
    pub extent: Extent,
    /// The device answers with all ones: it is gone, without power, or hangs.
    pub dead: bool,
    /// Message-signalled interrupts.
    pub msi: Option<Msi>,
    /// Message-signalled interrupts with a table.
    pub msix: Option<Msix>,
    /// What it is on PCI Express; `None` on conventional PCI.
    pub pcie: Option<Pcie>,
    /// Access control: whether what is behind it can be kept apart.
    pub acs: Option<Acs>,
    /// More than eight functions below one device.
    pub ari: Option<Ari>,
    /// Virtual functions, as the device itself has them.
    pub sriov: Option<SriovCapability>,
    /// Address translation that the device caches.
    pub ats: Option<Ats>,
    /// The serial number of the device (PCIe section 7.9.3).
    #[serde(default)]
    pub serial: Option<u64>,
    /// BARs whose size can be chosen.
    pub resizable_bars: Vec<ResizableBar>,
    /// The same of its VFs' BARs.
    pub vf_resizable_bars: Vec<ResizableBar>,
    /// Ids of its other capabilities, in the order of the list.
    pub others: Vec<u8>,
    /// Ids of its other extended capabilities, in the order of the list.
    pub extended: Vec<u16>,
}

impl Capabilities {
    /// Reads an image of 64 bytes (what readers without privilege get), 256 (conventional PCI) or
    /// 4096 (PCI Express), with a text for each thing that is odd. Any other length, and anything
    /// in it, will do as well.
    pub fn parse(config: &[u8]) -> (Capabilities, Vec<String>) {
        let mut image = config;
        Capabilities::read(&mut image)
    }

    /// The same from a space that is read where the lists lead.
    pub fn read(space: &mut impl ConfigSpace) -> (Capabilities, Vec<String>) {
        walk::walk(space)
    }
}

/// How far a configuration space could be read.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Extent {
    /// Not even its header.
    #[default]
    Nothing,
    /// Its header, without any capability: run as root to see them.
    Header,
    /// All that conventional PCI has, 256 bytes.
    Standard,
    /// Extended capabilities as well.
    Extended,
}

/// Message-signalled interrupts (PCI 3.0 section 6.8.1).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Msi {
    /// Vectors it can use: 1, 2, 4, 8, 16 or 32.
    pub vectors: u8,
    /// Each vector can be masked.
    pub maskable: bool,
    /// It takes addresses of 64 bits.
    pub wide: bool,
}

/// MSI-X (PCI 3.0 section 6.8.2).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Msix {
    /// Vectors it has, 1 to 2048.
    pub vectors: u16,
    /// Its table of vectors, 16 bytes each.
    pub table: BarPlace,
    /// Its array of pending bits, 8 bytes for each 64 vectors.
    pub pending: BarPlace,
}

/// A place in the memory of a function.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct BarPlace {
    /// Which BAR, 0 to 5.
    pub bar: u8,
    /// Bytes from its begin, a multiple of 8.
    pub offset: u32,
}

/// What a function is on PCI Express (PCIe section 7.5.3).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pcie {
    /// Its place in the tree.
    pub port: PortKind,
    /// The port has a slot, in which a card can be changed.
    pub slot: bool,
    /// It can be reset on its own (function-level reset).
    pub flr: bool,
    /// Most transfers per second and lane, in MT/s (2500 is 2.5 GT/s); `None` where the register
    /// does not say, as in a function of the root complex.
    pub max_speed: Option<u32>,
    /// Most lanes; 0 where the register does not say.
    pub max_width: u8,
    /// Transfers per second and lane now, in MT/s; `None` where the register does not say.
    #[serde(default)]
    pub speed: Option<u32>,
    /// Lanes now; 0 where the link is down or the register does not say.
    #[serde(default)]
    pub width: u8,
}

/// Kinds of PCI Express functions (PCIe section 7.5.3.2, Device/Port Type).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum PortKind {
    /// A device.
    Endpoint,
    /// A device that still needs I/O ports or locked requests.
    LegacyEndpoint,
    /// Where the host's PCI Express begins.
    RootPort,
    /// A switch's side towards the host.
    UpstreamPort,
    /// A switch's side towards a device.
    DownstreamPort,
    /// A bridge from PCI Express to conventional PCI.
    PcieToPciBridge,
    /// A bridge from conventional PCI to PCI Express.
    PciToPcieBridge,
    /// A device within the host's own chips.
    RootComplexEndpoint,
    /// Collects the root complex's events.
    EventCollector,
    /// A kind that the specification had not defined.
    Unknown,
}

/// Access Control Services (PCIe section 7.7.11).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Acs {
    /// What it could control.
    pub supported: AcsControls,
    /// What it does control now.
    pub enabled: AcsControls,
}

impl Acs {
    /// Whether what is behind it cannot reach its neighbours behind the IOMMU's back: the four
    /// controls that the kernel asks for (drivers/pci/pci.c, `REQ_ACS_FLAGS` of its IOMMU groups).
    pub fn isolates(&self) -> bool {
        let on = &self.enabled;
        on.source_validation
            && on.request_redirect
            && on.completion_redirect
            && on.upstream_forwarding
    }
}

/// One bit for each of the access controls.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct AcsControls {
    /// Requests must come from a bus that is behind the port.
    pub source_validation: bool,
    /// Requests that claim a translated address are blocked.
    pub translation_blocking: bool,
    /// Requests between neighbours go up, to the IOMMU.
    pub request_redirect: bool,
    /// So do completions.
    pub completion_redirect: bool,
    /// What came down and belongs up is sent there.
    pub upstream_forwarding: bool,
    /// A list says which neighbours may be reached.
    pub egress_control: bool,
    /// Translated requests may go straight to a neighbour.
    pub direct_translated: bool,
}

/// Alternative Routing-ID Interpretation (PCIe section 7.8.7).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ari {
    /// The next function of the device; 0 ends the list.
    pub next_function: u8,
}

/// The SR-IOV capability of a physical function (PCIe section 9.3.3).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SriovCapability {
    /// VFs are enabled.
    pub enabled: bool,
    /// The VFs' memory is enabled.
    pub memory: bool,
    /// VF numbering beyond the PF's eight functions is on in the lowest PF (ARI).
    pub ari_hierarchy: bool,
    /// VFs it starts with.
    pub initial: u16,
    /// Most VFs.
    pub total: u16,
    /// VFs it is set to have.
    pub num: u16,
    /// First VF's distance from the PF in routing IDs.
    pub offset: u16,
    /// Distance between VFs in routing IDs.
    pub stride: u16,
    /// Device ID of its VFs.
    pub vf_device: u16,
    /// Page sizes to which VF BARs can be aligned: bit n stands for 2^(n+12) bytes.
    pub supported_page_sizes: u32,
    /// The one in use, as one such bit.
    pub page_size: u32,
}

/// Address Translation Services (PCIe section 10.5.1).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ats {
    /// The device asks the IOMMU for translations and keeps them.
    pub enabled: bool,
    /// Invalidations it takes before it holds up others, 1 to 32.
    pub queue_depth: u8,
}

/// A BAR whose size can be chosen (PCIe section 7.8.6).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ResizableBar {
    /// Which BAR, 0 to 5.
    pub bar: u8,
    /// Sizes it can have, in bytes, ascending.
    pub sizes: Vec<u64>,
    /// The size it has, in bytes.
    pub current: u64,
}
