//! The QEMU of this machine.

use std::fmt::{self, Display, Formatter};
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result};

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
    TooOld { program: PathBuf, major: u32, minor: u32 },
}

impl Display for Unusable {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self {
            Unusable::Missing => write!(f, "{PROGRAM}, which emulates the hosts, is not in PATH"),
            Unusable::TooOld { program, major, minor } => write!(
                f,
                "{} is version {major}.{minor}, and the lab needs 8.0 or newer, the first with \
                 SR-IOV",
                program.display()
            ),
        }
    }
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
        Err(Unusable::TooOld { program, major: version.0, minor: version.1 })
    } else {
        Ok(program)
    })
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
