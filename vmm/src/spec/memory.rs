//! The RAM of a guest.

use serde::{Deserialize, Serialize};

/// Least guest RAM, in bytes: below this no distribution kernel unpacks itself.
pub const MIN_MEMORY: u64 = 64 << 20;

/// How much there is, and what of.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Memory {
    /// In bytes: a multiple of 4 KiB and of [`Pages::huge`], at least [`MIN_MEMORY`].
    pub bytes: u64,
    /// The host's pages that it is made of.
    #[serde(default)]
    pub pages: Pages,
    /// Whether the host may keep pages once that others have too (KSM); not with [`Pages::huge`].
    #[serde(default)]
    pub merge: bool,
    /// Whether all of it is found before the guest runs, so that a lack of it is told, and not met.
    #[serde(default)]
    pub at_once: bool,
    /// The guest's NUMA nodes, at most [`MAX_NODES`], which together have all of it; none: it sees none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub nodes: Vec<MemoryNode>,
}

/// Most NUMA nodes of a guest.
pub const MAX_NODES: usize = 16;
/// What the RAM of a node is a multiple of, in bytes.
pub const NODE_GRAIN: u64 = 2 << 20;
/// The last NUMA node of a host that RAM can be taken from: no kernel has more (`CONFIG_NODES_SHIFT` goes to
/// 10).
pub const LAST_HOST_NODE: u16 = 1023;

/// One NUMA node of a guest, which has the RAM behind that of the one before.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, Default)]
#[serde(deny_unknown_fields)]
pub struct MemoryNode {
    /// Its RAM in bytes: at least [`MIN_MEMORY`], a multiple of [`NODE_GRAIN`] and of [`Pages::huge`].
    pub bytes: u64,
    /// The vCPUs that are near to it; each of the guest's is in one node.
    pub vcpus: Vec<u8>,
    /// The host's node that its RAM comes from, and from no other, at most [`LAST_HOST_NODE`]; `None` is
    /// anywhere.
    pub host: Option<u16>,
}

impl Memory {
    /// This much, of which nothing else is said.
    pub fn bytes(bytes: u64) -> Memory {
        Memory { bytes, pages: Pages::default(), merge: false, at_once: false, nodes: Vec::new() }
    }
}

/// Which pages of the host.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, Default)]
pub enum Pages {
    /// Huge ones where the host finds some, and 4 KiB elsewhere.
    #[default]
    #[serde(rename = "transparent")]
    Transparent,
    /// 4 KiB and no others.
    #[serde(rename = "4KiB")]
    Small,
    /// 2 MiB, of those that the host has set apart (hugetlb).
    #[serde(rename = "2MiB")]
    Huge2M,
    /// 1 GiB of those.
    #[serde(rename = "1GiB")]
    Huge1G,
}

impl Pages {
    /// Bytes of a page, where they are of those that the host has set apart.
    pub fn huge(self) -> Option<u64> {
        match self {
            Pages::Transparent | Pages::Small => None,
            Pages::Huge2M => Some(2 << 20),
            Pages::Huge1G => Some(1 << 30),
        }
    }
}
