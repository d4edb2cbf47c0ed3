//! The QEMU of this machine.

use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result, ensure};

use crate::run::capture;

/// The program that emulates.
pub const PROGRAM: &str = "qemu-system-x86_64";

/// The first version whose `igb` has SR-IOV.
const OLDEST: (u32, u32) = (8, 0);

/// Why QEMU cannot be used.
#[derive(Debug)]
pub enum Unusable {
    /// It is not in `PATH`.
    Missing,
    /// It is older than the lab needs.
    TooOld { major: u32, minor: u32 },
}

/// Looks for QEMU in `PATH` and asks its version.
pub fn find() -> Result<Result<PathBuf, Unusable>> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found = std::env::split_paths(&path).map(|dir| dir.join(PROGRAM)).find(|p| p.is_file());
    let Some(program) = found else { return Ok(Err(Unusable::Missing)) };
    let text = capture(Command::new(&program).arg("--version"))?;
    let version = version(&text)
        .with_context(|| format!("{} does not tell its version: {text:?}", program.display()))?;
    Ok(if version < OLDEST {
        Err(Unusable::TooOld { major: version.0, minor: version.1 })
    } else {
        Ok(program)
    })
}

/// QEMU, or an error that says what to do.
pub fn require() -> Result<PathBuf> {
    let found = find()?;
    ensure!(found.is_ok(), "QEMU 8.0 or newer is not installed here: run `cargo lab setup`");
    found.map_err(|_| anyhow::anyhow!("no QEMU"))
}

fn version(text: &str) -> Option<(u32, u32)> {
    let mut numbers = text.strip_prefix("QEMU emulator version ")?.split(['.', ' ', '\n']);
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_compared_as_numbers() {
        let of = |text: &str| version(&format!("QEMU emulator version {text}\nCopyright"));
        assert_eq!(of("10.0.2 (Debian 1:10.0.2)"), Some((10, 0)));
        assert!(of("7.2.1").unwrap() < OLDEST && of("10.0.2").unwrap() >= OLDEST);
        assert_eq!(version("nonsense"), None);
    }
}
