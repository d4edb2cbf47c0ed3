//! The balloon of a guest: memory that it gives back while it runs.

use serde::{Deserialize, Serialize};

/// Unit of a balloon's size, whatever pages guest and host have, in bytes (virtio 1.3, 5.5.6).
pub const BALLOON_PAGE: u64 = 4096;

/// A virtio-balloon device. Only for a guest without passed-through devices, whose memory is pinned, and
/// without [`Pages::huge`](super::Pages::huge), of which no part can be given back.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Balloon {
    /// How much the guest is to give at first, in bytes: a multiple of [`BALLOON_PAGE`] that leaves
    /// [`MIN_MEMORY`](super::MIN_MEMORY).
    pub target: u64,
}

/// How a guest's balloon is, in bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BalloonStats {
    /// Whether a driver of the guest's uses it.
    pub driven: bool,
    /// How much the guest is to give.
    pub target: u64,
    /// How much it says that it has given: at most its RAM.
    pub actual: u64,
    /// What the host got back of pages that the guest gave, since it started; those that it took back and
    /// gave again, again.
    pub inflated: u64,
    /// The same of pages that it has not given, and told that they are free (free page reporting).
    pub reported: u64,
    /// What the guest says of its memory; none where it has not said anything.
    pub said: Option<GuestSays>,
}

/// What a guest says of its memory, in bytes as far as it says it. Nobody else can tell whether it is true.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GuestSays {
    /// How long ago it said so, in milliseconds.
    pub age_ms: u64,
    /// What its kernel has to do with; Linux counts what it has given.
    pub total: Option<u64>,
    /// What it uses for nothing.
    pub free: Option<u64>,
    /// What a new program of its could have without swapping.
    pub available: Option<u64>,
    /// What it uses to keep files at hand.
    pub caches: Option<u64>,
}
