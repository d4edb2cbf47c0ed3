//! Why a claim gets a device or none, and why each other was not chosen: for people by `Display`, for
//! programs by its fields.

use std::fmt;

use serde::Serialize;
use sriov::PciAddress;

/// Reasons shown for a claim; a pool of hundreds of VFs has hundreds.
pub const SHOWN: usize = 4;

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

/// Why a device was chosen before all others.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Because {
    /// The guest runs and has it.
    Holds,
    /// The guest had it last time.
    Kept,
    /// It is of a group of which the guest has another device.
    RestOfGroup,
    /// It is on the NUMA node that the claim prefers or demands.
    Near,
    /// It is the first free one of the pool.
    First,
    /// Its PF has the fewest devices in use.
    Spread,
}

impl fmt::Display for Because {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Because::Holds => "it has it now",
            Because::Kept => "as last time",
            Because::RestOfGroup => "the rest of its IOMMU group",
            Because::Near => "on the node of its memory",
            Because::First => "the first free one",
            Because::Spread => "its PF has the fewest in use",
        })
    }
}

/// Why a claim gets no device.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "reason", rename_all = "kebab-case")]
pub enum Unmet {
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
    /// The pool matches another number of devices than it is to.
    Unexpected {
        /// The pool.
        pool: String,
        /// What it is to match, and what it does.
        cause: String,
    },
    /// No device of this host feeds the pool.
    NoDevice {
        /// The pool.
        pool: String,
        /// What it selects, as written.
        from: String,
    },
    /// Each device of the pool has a reason of its own.
    NoneFree {
        /// The pool.
        pool: String,
        /// Whether its devices are VFs.
        are_vfs: bool,
        /// Each device and its reason; of very large plans, the first ones.
        devices: Vec<Rejected>,
        /// Devices that are not listed here; all are in the plan's list of the pool.
        left_out: usize,
    },
}

impl Unmet {
    /// Whether a device was there and withheld, to protect the isolation of devices.
    pub fn is_refusal(&self) -> bool {
        match self {
            Unmet::NoIommu { .. } => true,
            Unmet::NoneFree { devices, .. } => {
                devices.iter().all(|device| matches!(device.why, Why::NotIsolated { .. }))
            }
            Unmet::NoSuchPool { .. } | Unmet::NoDevice { .. } | Unmet::Unexpected { .. } => false,
        }
    }
}

impl fmt::Display for Unmet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Unmet::NoSuchPool { pool, known } => {
                write!(f, "no policy has a pool {pool}")?;
                match known.is_empty() {
                    true => f.write_str(": apply one first, or give its file with -f"),
                    false => write!(f, "; there is {}", known.join(", ")),
                }
            }
            Unmet::NoIommu { remedy } => write!(f, "the host has no IOMMU: {}", clause(remedy)),
            Unmet::Unexpected { pool, cause } => write!(f, "pool {pool}: {cause}"),
            Unmet::NoDevice { pool, from } => {
                write!(f, "pool {pool} has no device: nothing on this host matches {from}")
            }
            Unmet::NoneFree { pool, are_vfs, devices, left_out } => {
                let kind = if *are_vfs { "VF" } else { "device" };
                write!(f, "pool {pool} has no free {kind}: ")?;
                f.write_str(&some(devices, *left_out))
            }
        }
    }
}

/// The first of many reasons, and how many more there are.
pub fn some(rejected: &[Rejected], left_out: usize) -> String {
    let shown: Vec<String> = rejected.iter().take(SHOWN).map(Rejected::to_string).collect();
    let shown = shown.join("; ");
    match rejected.len().saturating_sub(SHOWN).saturating_add(left_out) {
        0 => shown,
        more => format!("{shown}; and {more} more"),
    }
}

/// A sentence as the rest of another one.
fn clause(sentence: &str) -> String {
    let mut chars = sentence.trim_end_matches('.').chars();
    chars.next().map(|first| first.to_lowercase().chain(chars).collect()).unwrap_or_default()
}

/// One device that was not chosen.
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

/// Why a device is not given.
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
    /// The host itself uses it.
    #[error("is in use by the host ({used})")]
    HostUses {
        /// From the device to what it carries.
        used: String,
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
    /// It was chosen, and then could not be opened.
    #[error("could not be opened: {cause}")]
    NotOpened {
        /// What the kernel said.
        cause: String,
    },
    /// Another claim of the same guest has it.
    #[error("is taken by {claim} of the same guest")]
    TakenHere {
        /// That claim.
        claim: String,
    },
    /// Another guest of the same plan gets it.
    #[error("goes to {claim} of {guest}")]
    GoesTo {
        /// That guest.
        guest: String,
        /// Its claim.
        claim: String,
    },
    /// Another guest of the same plan gets a device of its group.
    #[error("shares its IOMMU group with a device that goes to {guest}")]
    GroupGoesTo {
        /// That guest.
        guest: String,
    },
    /// The claim demands another node.
    #[error("is on {}, and {wanted} is demanded", node(*.found))]
    OtherNode {
        /// Its node.
        found: Option<u32>,
        /// The node that is demanded.
        wanted: u32,
    },
    /// It is free, and another one was preferred.
    #[error("is free too, and was not needed")]
    NotNeeded,
    /// It is free, and farther from the guest's memory than the one that was taken.
    #[error("is free too, and on {}", node(*.found))]
    Farther {
        /// Its node.
        found: Option<u32>,
    },
    /// It is free, and was left for the guest that had it last time.
    #[error("is free too, and left for {guest}, which had it last time")]
    LeftFor {
        /// That guest.
        guest: String,
    },
}

/// So many devices that were not chosen for the same kind of reason.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Sum {
    /// How many.
    pub count: usize,
    /// Why, after their number: "free too, on node 0".
    pub why: String,
}

impl fmt::Display for Sum {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.count, self.why)
    }
}

impl Why {
    /// The kind of reason, after a number of devices; `on` is their node, where nodes are known.
    pub fn kind(&self, on: Option<Option<u32>>) -> String {
        let free = |on: Option<Option<u32>>| match on {
            Some(found) => format!("free too, on {}", node(found)),
            None => "free too".to_owned(),
        };
        match self {
            Why::Missing => "not there".to_owned(),
            Why::OtherDriver { driver, .. } => {
                format!("bound to {}", driver.as_deref().unwrap_or("no driver"))
            }
            Why::HostUses { .. } => "in use by the host".to_owned(),
            Why::Leased { .. } => "leased to guests".to_owned(),
            Why::GroupLeased { .. } => "of groups that guests have a part of".to_owned(),
            Why::NotIsolated { .. } => "not to be isolated".to_owned(),
            Why::NotOpened { .. } => "that could not be opened".to_owned(),
            Why::TakenHere { .. } => "taken by the same guest".to_owned(),
            Why::GoesTo { .. } => "for other guests".to_owned(),
            Why::GroupGoesTo { .. } => "of groups that go to other guests".to_owned(),
            Why::OtherNode { found, wanted } => {
                format!("on {}, where node {wanted} is demanded", node(*found))
            }
            Why::NotNeeded => free(on),
            Why::Farther { found } => free(Some(*found)),
            Why::LeftFor { .. } => "free too, left for guests that had them last time".to_owned(),
        }
    }
}

fn node(node: Option<u32>) -> String {
    node.map_or_else(|| "no known node".to_owned(), |node| format!("node {node}"))
}
