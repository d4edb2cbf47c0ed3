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
    /// What they can do.
    #[serde(default)]
    pub model: Model,
    /// How they lie; without it each is a core, and all are in one socket.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub topology: Option<Topology>,
    /// vCPUs that do not run where the process runs, each once.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub bound: Vec<Bound>,
}

/// What the CPUs of a guest can do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, Default)]
pub enum Model {
    /// What those of the host can.
    #[default]
    #[serde(rename = "host")]
    Host,
    /// The instructions of x86-64-v2 (x86-64 psABI, 3.1.1), and no others.
    #[serde(rename = "x86-64-v2")]
    V2,
    /// Those of x86-64-v3.
    #[serde(rename = "x86-64-v3")]
    V3,
    /// Those of x86-64-v4.
    #[serde(rename = "x86-64-v4")]
    V4,
}

impl Model {
    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Model::Host => "host",
            Model::V2 => "x86-64-v2",
            Model::V3 => "x86-64-v3",
            Model::V4 => "x86-64-v4",
        }
    }

    /// What a host must have for it, by the names of `/proc/cpuinfo`. What every x86-64 has is left out.
    pub fn needs(self) -> impl Iterator<Item = &'static str> {
        const LEVELS: [(Model, &[&str]); 3] = [
            (Model::V2, &["cx16", "lahf_lm", "pni", "popcnt", "sse4_1", "sse4_2", "ssse3"]),
            (Model::V3, &["abm", "avx", "avx2", "bmi1", "bmi2", "f16c", "fma", "movbe", "xsave"]),
            (Model::V4, &["avx512bw", "avx512cd", "avx512dq", "avx512f", "avx512vl"]),
        ];
        let added = LEVELS.into_iter().filter(move |(level, _)| *level <= self);
        added.flat_map(|(_, names)| names).copied()
    }
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
        Cpus { count, model: Model::Host, topology: None, bound: Vec::new() }
    }
}
