//! The program that benchmarks run.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};

/// The command in the profile that benchmarks have, built if it is not.
pub fn assign() -> Result<PathBuf> {
    let built = Command::new(env!("CARGO"))
        .args(["build", "--release", "--package", "assign", "--bin", "assign"])
        .status()?;
    ensure!(built.success(), "assign cannot be built");
    // This program is in `deps`, beside which programs are.
    let own = std::env::current_exe()?;
    let release = own.parent().and_then(Path::parent).context("the folder of programs")?;
    Ok(release.join("assign"))
}
