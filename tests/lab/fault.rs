//! Runs a program, unchanged, and lets it fail or die at a place of our choice: at its N-th call that
//! changes a host, or that writes to the database in which `assign` remembers things.
//!
//! ```text
//! filter.rs   a seccomp filter that stops the program at such calls only, to be quick
//! trace.rs    ptrace(2): what the program is stopped by, and what is done about it
//! point.rs    which calls count
//! ```
//!
//! For x86-64, whose registers it reads and writes.

use std::io;
use std::process::Command;

#[allow(unsafe_code)]
mod filter;
mod point;
#[allow(unsafe_code)]
mod trace;

/// Which calls count.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scope {
    /// Those that change the host: writes to sysfs and procfs, changes over rtnetlink, commands to
    /// a drive; and the same of a simulated host.
    Host,
    /// Those that write to the database: writes, lengths, and what brings them to the disk.
    State,
}

/// What is done at the place that was chosen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum How {
    /// SIGKILL instead of the call.
    KillBefore,
    /// SIGKILL when the call has come back.
    KillAfter,
    /// The call fails with this errno, and nothing is done.
    Fail(i32),
}

/// A fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fault {
    /// At which of the calls that count, from 0.
    pub at: usize,
    /// What then.
    pub how: How,
}

/// What came of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ran {
    /// The program's exit code; `None` where a signal ended it.
    pub code: Option<i32>,
    /// The calls that counted, in order, in words: "write /sys/…/sriov_numvfs".
    pub points: Vec<String>,
    /// Whether it came as far as the fault.
    pub hit: bool,
}

/// Runs a command to its end, with a fault or, to count, without.
///
/// Output that goes into pipes is to be read by somebody else meanwhile.
///
/// # Errors
/// The program cannot be started, or this process may not trace it.
pub fn run(command: Command, scope: Scope, fault: Option<Fault>) -> io::Result<Ran> {
    trace::run(command, scope, fault)
}
