//! The language in which people say what a host and its guests should be.
//!
//! Text goes in, typed [`Policy`] and [`Guest`] values come out, or a list of errors that each
//! point at a place. Nothing here looks at a host: the same text means the same everywhere.
//!
//! ```text
//! Source ── document.rs ──► Node tree ── policy.rs, guest.rs ──► Policy, Guest
//!   text    YAML, bounded    raw, each     read.rs: strict        resolved, nothing
//!                            with a place  scalar.rs: values      optional by accident
//! ```
//!
//! The raw tree is read in one walk that collects every error instead of stopping at the first, so
//! that a file is corrected in one go. Only a syntax error ends its file.

#![forbid(unsafe_code)]

mod amounts;
mod document;
mod documents;
mod error;
mod fields;
mod grammar;
mod guest;
mod ids;
mod indexes;
mod limits;
mod load;
mod names;
mod network;
mod policy;
mod pool;
mod read;
mod rules;
mod schema;
mod selector;
mod syntax;

pub use amounts::parse_size;
pub use documents::{Documents, Source, parse};
pub use error::{Error, Errors};
pub use guest::{
    Boot, Claim, CloudInit, CpuModel, CpuTopology, Cpus, DiskFormat, FIRST_CID, Guest, GuestDevice,
    GuestDisk, GuestNetwork, GuestNode, GuestPort, LAST_CID, LAST_HOST_CPU, MAX_CMDLINE, MAX_CPUS,
    MAX_NODES, MAX_PORTS, MAX_SEED_FILE, MIN_MEMORY, Memory, NumaChoice, OnDeviceError, Pages,
    Rings, SEED, SeedFile, Virtio, Vsock,
};
pub use ids::ClassPrefix;
pub use indexes::VfIndexes;
pub use limits::Limits;
pub use load::{MAX_FILE_BYTES, load, load_each, sources};
pub use network::{MacPolicy, PoolNetwork};
pub use policy::Policy;
pub use pool::{Driver, Expect, Order, Pool, PoolDevices};
pub use rules::{
    Acs, DeviceName, Exception, GroupIsolation, IommuInterface, Isolation, NoIommu, PeerToPeer,
    Protection, Release, Restore,
};
pub use schema::{SchemaKind, schema};
pub use selector::{LinkSpeed, Mismatch, Selector};
