//! Makes this machine ready for the lab: `cargo lab setup`.

use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result, anyhow, ensure};

use crate::apt::{self, Apt};
use crate::cache::Cache;
use crate::kit::Kit;
use crate::{progress, qemu, run};

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
    let qemu = qemu::find()?.map_err(|unusable| {
        anyhow!(
            "{unusable}. Debian 12 (backports), Debian 13 and Ubuntu 24.04 have one that will do; if \
             it is installed, let no older one be found before it in PATH"
        )
    })?;
    Ok(Ready { qemu, kit })
}

/// What is there, without installing or downloading anything: for tests.
pub fn present() -> Result<Ready> {
    let kit = Kit::cached(&Cache::open()?).context(
        "the lab's kernel is not in the cache: run `cargo lab setup` (or set ASSIGN_LAB_CACHE to \
         the folder it used)",
    )?;
    let qemu = qemu::find()?.map_err(|unusable| anyhow!("{unusable}: run `cargo lab setup`"))?;
    Ok(Ready { qemu, kit })
}

/// What benchmarks compare `assign` with, and what tests compare its disks with.
const COMPARED: &[&str] = &["pciutils", "qemu-utils"];

fn install_missing(cache: &Cache, apt: &mut Option<Apt>) -> Result<()> {
    let packages = apt::not_installed(COMPARED);
    let qemu = match qemu::find()? {
        Ok(_) => None,
        Err(unusable) => {
            progress::note(unusable.to_string());
            Some("qemu-system-x86")
        }
    };
    if qemu.is_none() && packages.is_empty() {
        return Ok(());
    }
    if qemu.is_none() && !rustix::process::geteuid().is_root() {
        // Everything else works without.
        let packages = packages.join(" ");
        progress::note(format!("for benchmarks and tests: apt-get install {packages}"));
        return Ok(());
    }
    apt.insert(Apt::open(cache)?).install(&packages, qemu)
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
