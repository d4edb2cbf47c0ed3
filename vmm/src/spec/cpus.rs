//! The CPUs of a guest.

use serde::{Deserialize, Serialize};

/// Most vCPUs a guest may have.
pub const MAX_CPUS: u8 = 64;
/// The last CPU of a host that a thread can be bound to.
pub const LAST_HOST_CPU: u16 = 1023;

/// How many there are, and where they run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Cpus {
    /// Number of vCPUs, 1 to [`MAX_CPUS`].
    pub count: u8,
    /// vCPUs that do not run where the process runs, each once.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub bound: Vec<Bound>,
}

/// A vCPU that runs on some CPUs of the host and no others.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Bound {
    /// Its number, below [`Cpus::count`].
    pub vcpu: u8,
    /// The host's CPUs: at least one range.
    pub to: Vec<HostCpus>,
}

/// A range of CPUs of the host.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HostCpus {
    /// The first one.
    pub first: u16,
    /// The last one, at most [`LAST_HOST_CPU`].
    pub last: u16,
}

impl Cpus {
    /// This many, which run where the process runs.
    pub fn count(count: u8) -> Cpus {
        Cpus { count, bound: Vec::new() }
    }
}
