//! The RAM of a guest.

use serde::{Deserialize, Serialize};

/// Least guest RAM, in bytes: below this no distribution kernel unpacks itself.
pub const MIN_MEMORY: u64 = 64 << 20;

/// How much there is, and what of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
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
}

impl Memory {
    /// This much, of which nothing else is said.
    pub fn bytes(bytes: u64) -> Memory {
        Memory { bytes, pages: Pages::default(), merge: false, at_once: false }
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
