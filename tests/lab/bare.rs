//! The guest without an operating system, of tests/bare: a workspace of its own, since it is built
//! without a standard library and with other flags.

use std::fs;

use anyhow::{Context, Result, ensure};

use crate::binaries;
use crate::run::line;

const TARGET: &str = "x86_64-unknown-linux-gnu";
/// Linked where it says, and with nothing that is looked up when it starts.
const FLAGS: &str = "-C relocation-model=static -C target-feature=+crt-static";

/// Builds it, quick when nothing has changed, and returns the kernel's file.
pub fn kernel() -> Result<Vec<u8>> {
    let folder = binaries::workspace().join("tests/bare");
    let target = binaries::lab_folder()?.join("bare");
    let mut cargo = binaries::cargo();
    cargo.args(["build", "--quiet", "--release", "--locked", "--target", TARGET, "--target-dir"]);
    cargo.arg(&target).current_dir(&folder).env("RUSTFLAGS", FLAGS);
    let status = cargo.status().with_context(|| format!("cannot run {}", line(&cargo)))?;
    ensure!(status.success(), "tests/bare does not build (the compiler's messages are above)");
    let file = target.join(TARGET).join("release/lab-bare");
    fs::read(&file).with_context(|| format!("cannot read {}", file.display()))
}
