//! Why a claim gets no VF, and why each VF was not chosen: for people by `Display`, for programs by
//! its fields.

use std::fmt;

use serde::Serialize;
use sriov::PciAddress;

/// Reasons shown per network; a pool of hundreds of VFs has hundreds.
const SHOWN: usize = 4;

/// Who holds a device.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Holder {
    /// The guest it is leased to.
    pub guest: String,
    /// The process that has it.
    pub pid: Option<u32>,
}

impl fmt::Display for Holder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.pid {
            Some(pid) => write!(f, "{} (pid {pid})", self.guest),
            None => f.write_str(&self.guest),
        }
    }
}

/// Why a claim gets no VF.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "reason", rename_all = "kebab-case")]
pub enum NoVf {
    /// Nobody defined the pool.
    NoSuchPool {
        /// Its name.
        pool: String,
        /// Pools there are.
        known: Vec<String>,
    },
    /// Nothing would keep a device from the host's memory.
    NoIommu {
        /// How to get one.
        remedy: String,
    },
    /// No device of this host feeds the pool.
    NoDevice {
        /// The pool.
        pool: String,
        /// What it selects, as written.
        from: String,
    },
    /// Each VF of the pool has a reason of its own.
    NoneFree {
        /// The pool.
        pool: String,
        /// Each VF and its reason.
        vfs: Vec<Rejected>,
    },
}

impl NoVf {
    /// Whether a device was there and withheld, to protect the isolation of devices.
    pub fn is_refusal(&self) -> bool {
        match self {
            NoVf::NoIommu { .. } => true,
            NoVf::NoneFree { vfs, .. } => {
                vfs.iter().all(|vf| matches!(vf.why, Why::NotIsolated { .. }))
            }
            NoVf::NoSuchPool { .. } | NoVf::NoDevice { .. } => false,
        }
    }
}

impl fmt::Display for NoVf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            NoVf::NoSuchPool { pool, known } => {
                write!(f, "no policy has a pool {pool}")?;
                match known.is_empty() {
                    true => f.write_str(": apply one first, or give its file with -f"),
                    false => write!(f, "; there is {}", known.join(", ")),
                }
            }
            NoVf::NoIommu { remedy } => write!(f, "the host has no IOMMU: {}", clause(remedy)),
            NoVf::NoDevice { pool, from } => {
                write!(f, "pool {pool} has no device: nothing on this host matches {from}")
            }
            NoVf::NoneFree { pool, vfs } => {
                write!(f, "pool {pool} has no free VF: ")?;
                let shown: Vec<String> = vfs.iter().take(SHOWN).map(Rejected::to_string).collect();
                f.write_str(&shown.join("; "))?;
                match vfs.len().saturating_sub(SHOWN) {
                    0 => Ok(()),
                    more => write!(f, "; and {more} more"),
                }
            }
        }
    }
}

/// A sentence as the rest of another one.
fn clause(sentence: &str) -> String {
    let mut chars = sentence.trim_end_matches('.').chars();
    chars.next().map(|first| first.to_lowercase().chain(chars).collect()).unwrap_or_default()
}

/// One VF that was not chosen.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Rejected {
    /// Its address, or "VF 0 of eth0" while it is not there.
    pub device: String,
    /// Why.
    #[serde(flatten)]
    pub why: Why,
}

impl fmt::Display for Rejected {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.device, self.why)
    }
}

/// Why a VF cannot be given.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, thiserror::Error)]
#[serde(tag = "why", rename_all = "kebab-case")]
pub enum Why {
    /// Its policy is not applied, or the host has changed since.
    #[error("does not exist: apply the pool's policy first")]
    Missing,
    /// Its policy is not applied, or somebody rebound it.
    #[error("is bound to {}, not to {wanted}: apply the pool's policy", driver.as_deref().unwrap_or("no driver"))]
    OtherDriver {
        /// Its driver.
        driver: Option<String>,
        /// The pool's.
        wanted: String,
    },
    /// Somebody has it.
    #[error("is leased to {holder}")]
    Leased {
        /// Who.
        holder: Holder,
    },
    /// Somebody has another device of its group, and a group is not divided.
    #[error("shares IOMMU group {group} with {device}, which is leased to {holder}")]
    GroupLeased {
        /// The group.
        group: u32,
        /// The other device.
        device: PciAddress,
        /// Who has it.
        holder: Holder,
    },
    /// Its group cannot be given away.
    #[error("cannot be isolated: {cause}")]
    NotIsolated {
        /// Why.
        cause: String,
        /// What to do about it.
        remedy: String,
    },
    /// Another network of the same guest has it.
    #[error("is taken by {network} of the same guest")]
    TakenHere {
        /// That network.
        network: String,
    },
    /// It was chosen, and then could not be opened.
    #[error("could not be opened: {cause}")]
    NotOpened {
        /// What the kernel said.
        cause: String,
    },
}
