//! Our own programs: built from this workspace, with the libraries they need, ready to be put into
//! an emulated host.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};

use crate::archive::Tree;
use crate::progress;
use crate::run::{capture, line};

/// The programs of an emulated host.
const PROGRAMS: &[&str] = &[
    "assign",
    "assign-vmm",
    "lab-agent",
    "lab-clock",
    "lab-map",
    "lab-change",
    "lab-fault",
    "lab-vsock",
    "lab-walls",
];

/// Set by `cargo lab test` for the tests it starts: the programs were built just before, so that
/// not every test has to ask cargo again. A test started in any other way builds them itself, and
/// so never runs yesterday's.
pub const BUILT: &str = "ASSIGN_LAB_BUILT";

/// The root of the workspace this was built from.
pub fn workspace() -> &'static Path {
    let package = Path::new(env!("CARGO_MANIFEST_DIR"));
    package.parent().unwrap_or(package)
}

/// cargo, without the variables that a cargo which runs us has set for us alone.
pub fn cargo() -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(workspace());
    for (name, _) in std::env::vars_os() {
        let text = name.to_string_lossy();
        let ours =
            ["CARGO_PKG_", "CARGO_MANIFEST_", "CARGO_BIN_", "CARGO_CRATE_", "CARGO_PRIMARY_"];
        if ours.iter().any(|prefix| text.starts_with(prefix)) {
            command.env_remove(name);
        }
    }
    command
}

/// Where cargo puts programs of the profile that this program was built with.
fn folder() -> Result<PathBuf> {
    let program = std::env::current_exe().context("cannot find this program's own file")?;
    let folder = program.parent().context("this program lies in no folder")?;
    // Tests lie one deeper than programs.
    let deeper = folder.file_name().is_some_and(|name| name == "deps");
    Ok(if deeper { folder.parent().unwrap_or(folder) } else { folder }.to_owned())
}

/// The folder in cargo's target folder where the lab leaves what it makes of this workspace.
pub fn lab_folder() -> Result<PathBuf> {
    let folder = folder()?.parent().context("no target folder")?.join("lab");
    fs::create_dir_all(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
    Ok(folder)
}

/// Builds the programs, showing cargo's progress. Quick when nothing has changed.
pub fn build() -> Result<()> {
    let folder = folder()?;
    let profile = match folder.file_name().and_then(|name| name.to_str()) {
        Some("debug") | None => "dev",
        Some(name) => name,
    };
    let mut command = cargo();
    command.args(["build", "--workspace", "--bins", "--profile", profile]);
    if let Some(target) = folder.parent() {
        command.arg("--target-dir").arg(target);
    }
    let status = command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .status()
        .with_context(|| format!("cannot run {}", line(&command)))?;
    ensure!(status.success(), "the workspace does not build (the compiler's messages are above)");
    Ok(())
}

/// The files of the programs, in cargo's target folder.
pub fn programs() -> Result<Vec<PathBuf>> {
    let folder = folder()?;
    Ok(PROGRAMS.iter().map(|name| folder.join(name)).collect())
}

/// Puts the programs, without their debugging data, and all libraries they need into a host's tree.
pub fn add(tree: &mut Tree, scratch: &Path) -> Result<()> {
    let step = progress::step("putting the programs into the host's image");
    add_these(tree, scratch, programs()?)?;
    step.done();
    Ok(())
}

/// The same with one of them, for a guest's.
pub fn add_one(tree: &mut Tree, scratch: &Path, name: &str) -> Result<()> {
    add_these(tree, scratch, vec![folder()?.join(name)])
}

fn add_these(tree: &mut Tree, scratch: &Path, programs: Vec<PathBuf>) -> Result<()> {
    let mut libraries = BTreeSet::new();
    for program in programs {
        let name = program.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let stripped = scratch.join(&name);
        capture(Command::new("strip").arg("--strip-debug").arg("-o").arg(&stripped).arg(&program))
            .with_context(|| format!("{name} was not built, or binutils is not installed"))?;
        tree.copy(&format!("usr/bin/{name}"), &stripped)?;
        libraries.extend(linked(&program)?);
    }
    for library in libraries {
        // At the place where the loader found it here: it has the same defaults there.
        tree.copy(&library, Path::new(&library))?;
    }
    Ok(())
}

/// Paths of the libraries and of the loader that a program of this machine is linked with.
pub(crate) fn linked(program: &Path) -> Result<Vec<String>> {
    Ok(libraries_of(&capture(Command::new("ldd").arg(program))?))
}

/// The same, in the output of `ldd`.
fn libraries_of(ldd: &str) -> Vec<String> {
    ldd.lines()
        .filter_map(|line| {
            let place = line.split_once("=>").map_or(line, |(_, place)| place).trim();
            let path = place.split(' ').next()?;
            path.starts_with('/').then(|| path.to_owned())
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ldd_names_libraries_and_the_loader() {
        let ldd = "\tlinux-vdso.so.1 (0x00007ffc)\n\
                   \tlibc.so.6 => /lib/x86_64-linux-gnu/libc.so.6 (0x00007f)\n\
                   \t/lib64/ld-linux-x86-64.so.2 (0x00007f)\n";
        assert_eq!(
            libraries_of(ldd),
            ["/lib/x86_64-linux-gnu/libc.so.6", "/lib64/ld-linux-x86-64.so.2"]
        );
        assert!(libraries_of("\tstatically linked\n").is_empty());
        assert!(libraries_of("\tnot a dynamic executable\n").is_empty());
    }
}
