//! The `assign` program itself against simulated hosts: whole commands, with a kernel that answers.

mod draining;
mod examples;
#[cfg(target_arch = "x86_64")]
mod faults;
mod gallery;
mod interrupt;
mod lending;
#[cfg(target_arch = "x86_64")]
mod recovering;
#[cfg(target_arch = "x86_64")]
mod saved;
mod variants;
mod vf_set;

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use assign::state::State;
use sriov::recorded::Tree;
use sriov::recorded::simulation::{Kernel, Simulation};
use sriov::{HostRoot, HostSnapshot};

/// A simulated host with what belongs to it; gone when dropped.
struct Host {
    directory: tempfile::TempDir,
    tree: Tree,
    kernel: Kernel,
}

impl Host {
    /// `build` lays out the host in a directory.
    fn new(build: impl FnOnce(&Path) -> Simulation) -> Host {
        // In memory where that can be: thousands of hosts are made, and each waits for its disk.
        let directory = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir());
        let directory = directory.expect("a temporary directory");
        let simulation = build(directory.path());
        let tree = simulation.tree().clone();
        Host { directory, tree, kernel: simulation.start() }
    }

    fn root(&self) -> HostRoot {
        HostRoot::at(self.directory.path())
    }

    fn tree(&self) -> &Tree {
        &self.tree
    }

    fn state(&self) -> State {
        State::at(self.directory.path().join("var/lib/assign"))
    }

    fn snapshot(&self) -> HostSnapshot {
        HostSnapshot::read(&self.root())
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_assign"));
        command.arg("--root").arg(self.directory.path()).args(arguments).stdin(Stdio::null());
        command
    }

    fn assign(&self, arguments: &[&str]) -> Output {
        self.command(arguments).output().expect("assign runs")
    }

    /// Runs a command that has to succeed; returns what it said.
    fn done(&self, arguments: &[&str]) -> String {
        let output = self.assign(arguments);
        let error = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{arguments:?}: {error}");
        String::from_utf8_lossy(&output.stdout).into_owned()
    }
}

/// An example's path.
fn example(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples").join(name)
}
