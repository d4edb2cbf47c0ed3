//! Builds fuzz targets with the stable compiler, which is told what `cargo fuzz` would tell it.

use std::path::PathBuf;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};

use super::target::{self, Target};
use crate::apt::Apt;
use crate::cache::Cache;
use crate::run::{capture, line};
use crate::{binaries, progress};

/// Counters for each edge, by which libFuzzer learns. One unit of code a crate, since counters of several
/// end up in one section each.
const FLAGS: &[&str] = &[
    "--cfg",
    "fuzzing",
    "-Cpasses=sancov-module",
    "-Ccodegen-units=1",
    "-Cllvm-args=-sanitizer-coverage-level=4",
    "-Cllvm-args=-sanitizer-coverage-inline-8bit-counters",
    "-Cllvm-args=-sanitizer-coverage-pc-table",
];
/// A look at what is compared: how magic numbers are found, for half of the time that most targets take.
const COMPARES: &str = "-Cllvm-args=-sanitizer-coverage-trace-compares";
/// It is named, so that build scripts and macros are built without these flags.
const TRIPLE: &str = "x86_64-unknown-linux-gnu";

/// The folder in cargo's target folder for all that fuzzing makes, with what is compared or without.
///
/// # Errors
/// Where it cannot be made.
pub fn folder(compares: bool) -> Result<PathBuf> {
    let lab = binaries::lab_folder()?;
    let name = if compares { "fuzz" } else { "fuzz-fast" };
    Ok(lab.parent().context("no target folder")?.join(name))
}

/// Builds these targets, showing cargo's progress, and returns the folder they are in. Quick when nothing
/// has changed.
///
/// # Errors
/// Where there is no C++ compiler, or they do not build.
pub fn targets(targets: &[Target], compares: bool) -> Result<PathBuf> {
    cpp_compiler()?;
    let folder = folder(compares)?;
    progress::note("building the fuzz targets (minutes, the first time)");
    let mut command = binaries::cargo();
    command.args(["build", "--locked", "--release", "--target", TRIPLE, "--manifest-path"]);
    command.arg(target::folder().join("Cargo.toml")).arg("--target-dir").arg(&folder);
    for target in targets {
        command.args(["--bin", &target.name]);
    }
    let flags: Vec<&str> = FLAGS.iter().copied().chain(compares.then_some(COMPARES)).collect();
    // As cargo has it where flags are several words: RUSTFLAGS would be ignored then.
    command.env_remove("RUSTFLAGS").env("CARGO_ENCODED_RUSTFLAGS", flags.join("\x1f"));
    let status = command
        .stdin(Stdio::null())
        .status()
        .with_context(|| format!("cannot run {}", line(&command)))?;
    ensure!(status.success(), "the fuzz targets do not build (the compiler's messages are above)");
    Ok(folder.join(TRIPLE).join("release"))
}

/// libFuzzer is written in C++.
fn cpp_compiler() -> Result<()> {
    let program = std::env::var_os("CXX").unwrap_or_else(|| "c++".into());
    if capture(Command::new(&program).arg("--version")).is_ok() {
        return Ok(());
    }
    let cache = Cache::open()?;
    let _lock = cache.lock()?;
    Apt::open(&cache)?.install(&["g++"], None).context("fuzzing needs a C++ compiler")
}
