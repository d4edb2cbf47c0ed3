//! Where downloaded and unpacked things are kept between runs.
//!
//! What is in the cache is complete or absent: things are made under a temporary name and renamed
//! when they are whole, so an interrupted run leaves nothing that a later one would take for good.
//! A lock serializes those who make things; who only reads needs none.

use std::fs::{self, File, TryLockError};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};

use crate::progress;

/// The cache folder.
#[derive(Debug, Clone)]
pub struct Cache {
    root: PathBuf,
}

impl Cache {
    /// Opens the folder that `ASSIGN_LAB_CACHE` names, else `assign-lab` in the user's cache
    /// folder, and makes it if need be.
    pub fn open() -> Result<Self> {
        let named = |name| std::env::var_os(name).filter(|value| !value.is_empty());
        let root = named("ASSIGN_LAB_CACHE")
            .map(PathBuf::from)
            .or_else(|| named("XDG_CACHE_HOME").map(|dir| Path::new(&dir).join("assign-lab")))
            .or_else(|| named("HOME").map(|dir| Path::new(&dir).join(".cache/assign-lab")))
            .context("no place for the cache: set ASSIGN_LAB_CACHE to a folder for about 700 MB")?;
        fs::create_dir_all(&root)
            .with_context(|| format!("cannot make the cache folder {}", root.display()))?;
        // apt and QEMU are told these paths and run elsewhere.
        let root = root.canonicalize().with_context(|| format!("{}", root.display()))?;
        Ok(Cache { root })
    }

    /// A path in the cache.
    pub fn path(&self, name: &str) -> PathBuf {
        self.root.join(name)
    }

    /// An error, if there are fewer bytes free than that.
    pub fn ensure_room(&self, bytes: u64) -> Result<()> {
        let disk = rustix::fs::statvfs(&self.root)
            .with_context(|| format!("cannot ask for the room in {}", self.root.display()))?;
        let free = disk.f_bavail.saturating_mul(disk.f_frsize);
        ensure!(
            free >= bytes,
            "{} has {} MB free, and the lab needs {} MB. Make room, or set ASSIGN_LAB_CACHE to a \
             folder where there is some",
            self.root.display(),
            free / 1_000_000,
            bytes / 1_000_000
        );
        Ok(())
    }

    /// Waits until nobody else makes things in the cache; it is ours until the result is dropped.
    pub fn lock(&self) -> Result<File> {
        lock(&self.path("lock"))
    }

    /// Returns folder `name`, first letting `make` fill it if it is not there. The caller holds the
    /// lock.
    pub fn folder(&self, name: &str, make: impl FnOnce(&Path) -> Result<()>) -> Result<PathBuf> {
        let path = self.path(name);
        if path.is_dir() {
            return Ok(path);
        }
        let half = self.path(&format!("{name}.part"));
        if half.exists() {
            fs::remove_dir_all(&half)
                .with_context(|| format!("cannot remove the unfinished {}", half.display()))?;
        }
        fs::create_dir_all(&half).with_context(|| format!("cannot make {}", half.display()))?;
        make(&half)?;
        fs::rename(&half, &path)
            .with_context(|| format!("cannot rename {} to its final name", half.display()))?;
        Ok(path)
    }
}

/// A number that differs for texts that differ (FNV-1a, 64 bits).
pub fn fingerprint(text: &str) -> u64 {
    text.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    })
}

/// Opens a file to be locked, which is made where there is none.
pub fn open_lock(path: &Path) -> Result<File> {
    let file = File::options().create(true).truncate(false).write(true).open(path);
    file.with_context(|| format!("cannot open the lock {}", path.display()))
}

/// Takes an exclusive lock on the file at `path`, saying so if somebody else has it.
pub fn lock(path: &Path) -> Result<File> {
    let file = open_lock(path)?;
    match file.try_lock() {
        Ok(()) => return Ok(file),
        Err(TryLockError::WouldBlock) => {
            progress::note(format!("waiting for another run that holds {}", path.display()));
        }
        Err(TryLockError::Error(error)) => {
            return Err(error).with_context(|| format!("cannot lock {}", path.display()));
        }
    }
    file.lock().with_context(|| format!("cannot lock {}", path.display()))?;
    Ok(file)
}

/// Writes a file so that readers see the old content or the new, never half of it.
pub fn write_whole(path: &Path, content: &[u8]) -> Result<()> {
    let half = path.with_extension(format!("part{}", std::process::id()));
    fs::write(&half, content).with_context(|| format!("cannot write {}", half.display()))?;
    fs::rename(&half, path).with_context(|| format!("cannot write {}", path.display()))
}
