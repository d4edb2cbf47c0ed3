//! The process that looks: what it may do, and how much memory it may pin.

use rustix::process::{Resource, geteuid, getrlimit};
use serde::{Deserialize, Serialize};

/// Facts of a process, which no other one shares.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Process {
    /// Its effective user.
    pub user: u32,
    /// Bytes it may lock in memory (RLIMIT_MEMLOCK); `None` without a limit. Root, or rather
    /// CAP_IPC_LOCK, is not held to it.
    pub memlock: Option<u64>,
}

impl Process {
    /// This process.
    pub fn of_this() -> Process {
        Process { user: geteuid().as_raw(), memlock: getrlimit(Resource::Memlock).current }
    }

    /// Whether it is root's.
    pub fn is_root(self) -> bool {
        self.user == 0
    }
}
