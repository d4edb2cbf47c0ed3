//! Makes this machine ready for the lab: `cargo lab setup`.

use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result, ensure};

use crate::apt::Apt;
use crate::cache::Cache;
use crate::kit::Kit;
use crate::qemu::{self, Unusable};
use crate::{progress, run};

/// Everything an emulated machine needs that is not built from this workspace.
pub struct Ready {
    /// Where QEMU is.
    pub qemu: PathBuf,
    /// Kernel, modules and busybox.
    pub kit: Kit,
}

/// Installs and downloads what is missing. Quick when nothing is.
pub fn ready() -> Result<Ready> {
    ensure!(
        cfg!(all(target_os = "linux", target_arch = "x86_64")),
        "the lab runs on x86-64 Linux only"
    );
    let cache = Cache::open()?;
    let _lock = cache.lock()?;
    let mut apt = None;
    install_missing(&cache, &mut apt)?;
    let kit = Kit::ready(&cache, || apt.take().map_or_else(|| Apt::open(&cache), Ok))?;
    Ok(Ready { qemu: qemu::require()?, kit })
}

/// What is there, without installing or downloading anything: for tests.
pub fn present() -> Result<Ready> {
    let kit = Kit::cached(&Cache::open()?).context(
        "the lab's kernel is not in the cache: run `cargo lab setup` (or set ASSIGN_LAB_CACHE to \
         the folder it used)",
    )?;
    Ok(Ready { qemu: qemu::require()?, kit })
}

fn install_missing(cache: &Cache, apt: &mut Option<Apt>) -> Result<()> {
    let Err(unusable) = qemu::find()? else { return Ok(()) };
    progress::note(match unusable {
        Unusable::Missing => "QEMU, which emulates the hosts, is not installed here".to_owned(),
        Unusable::TooOld { major, minor } => {
            format!("QEMU here is {major}.{minor}; SR-IOV needs 8.0 or newer")
        }
    });
    let apt = apt.insert(Apt::open(cache)?);
    apt.install(&["qemu-system-x86"], apt.qemu_needs_backports())
}

/// The version of cargo-nextest that is installed where none is.
const NEXTEST: &str = "0.9.143";

/// Returns the command `cargo nextest`, first building it into the cache where it is missing.
pub fn nextest() -> Result<Command> {
    let cargo = crate::binaries::cargo;
    let mut probe = cargo();
    if run::capture(probe.args(["nextest", "--version"])).is_ok() {
        let mut command = cargo();
        command.arg("nextest");
        return Ok(command);
    }
    let cache = Cache::open()?;
    let _lock = cache.lock()?;
    let root = cache.folder(&format!("nextest-{NEXTEST}"), |folder| {
        let step = progress::step("building cargo-nextest, once (minutes)");
        let mut install = cargo();
        install.args(["install", "--quiet", "--locked", "cargo-nextest", "--version", NEXTEST]);
        run::capture(install.arg("--root").arg(folder))?;
        step.done();
        Ok(())
    })?;
    let mut command = Command::new(root.join("bin/cargo-nextest"));
    command.arg("nextest");
    Ok(command)
}
