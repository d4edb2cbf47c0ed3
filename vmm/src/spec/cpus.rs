//! The CPUs of a guest.

use serde::{Deserialize, Serialize};

/// Most vCPUs a guest may have.
pub const MAX_CPUS: u8 = 64;
/// The last CPU of a host that a thread can be bound to.
pub const LAST_HOST_CPU: u16 = 1023;

/// How many there are, how they look to the guest, and where they run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Cpus {
    /// Number of vCPUs, 1 to [`MAX_CPUS`].
    pub count: u8,
    /// How they lie; without it each is a core, and all are in one socket.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub topology: Option<Topology>,
    /// vCPUs that do not run where the process runs, each once.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub bound: Vec<Bound>,
}

/// Sockets, the cores of each, and the threads of each core. They make up [`Cpus::count`], and follow
/// each other in this order: vCPU 1 is the second thread of the first core.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Topology {
    /// How many sockets.
    pub sockets: u8,
    /// How many cores in each.
    pub cores: u8,
    /// How many threads in each core.
    pub threads: u8,
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
        Cpus { count, topology: None, bound: Vec::new() }
    }
}
