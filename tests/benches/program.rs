//! The program that benchmarks run.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};

/// The command in the profile that this benchmark has, built if it is not.
pub fn assign() -> Result<PathBuf> {
    // This program is in `deps`, beside which programs are, in the folder of their profile.
    let own = std::env::current_exe()?;
    let folder = own.parent().and_then(Path::parent).context("the folder of programs")?;
    let profile = match folder.file_name().and_then(|name| name.to_str()) {
        Some("debug") | None => "dev",
        Some(name) => name,
    };
    let built = Command::new(env!("CARGO"))
        .args(["build", "--profile", profile, "--package", "assign", "--bin", "assign"])
        .status()?;
    ensure!(built.success(), "assign cannot be built");
    Ok(folder.join("assign"))
}
