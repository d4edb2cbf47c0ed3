//! A real udevd for hosts that ask for one, from the distribution's package, with the libraries of that
//! package's dependencies: none of this machine's own, which may be others or none.
//!
//! It is started through its own loader, so that nothing else in the host sees these libraries, and
//! without the distribution's rules: a scenario brings those that it is about.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use crate::apt::{self, Apt};
use crate::archive::Tree;
use crate::cache::{Cache, write_whole};
use crate::progress;
use crate::run::capture;

/// Raised when the folder's content changes for another reason than the package.
const FORMAT: u32 = 1;

/// Where it lies in a host.
const PLACE: &str = "opt/udev";
/// The program, which is also udevd where it is called by that name, and its loader.
const PROGRAM: &str = "udevadm";
const LOADER: &str = "loader";

/// Bytes that making it takes for a time.
const ROOM: u64 = 300_000_000;

/// udevd's folder in the cache.
pub struct Udevd {
    folder: PathBuf,
}

impl Udevd {
    /// Takes it from the cache, first making it if it is not there.
    pub fn ready() -> Result<Self> {
        let cache = Cache::open()?;
        let _lock = cache.lock()?;
        if let Some(udevd) = Self::cached(&cache) {
            return Ok(udevd);
        }
        cache.ensure_room(ROOM)?;
        let apt = Apt::open(&cache)?;
        let packages = cache.path("packages");
        let needed = apt.libraries_for("udev")?;
        let files =
            needed.iter().map(|name| apt.download(name, &packages)).collect::<Result<Vec<_>>>()?;
        let version = files[0].file_stem().unwrap_or_default().to_string_lossy().into_owned();
        let name = format!("udevd-{version}-{FORMAT}");
        let folder = cache.folder(&name, |folder| make(folder, &files))?;
        write_whole(&cache.path(&current()), name.as_bytes())?;
        Ok(Udevd { folder })
    }

    /// The one that is there.
    pub fn present() -> Result<Self> {
        Self::cached(&Cache::open()?)
            .context("udevd is not in the cache: `cargo lab test` puts it there")
    }

    fn cached(cache: &Cache) -> Option<Self> {
        let name = fs::read_to_string(cache.path(&current())).ok()?;
        let folder = cache.path(&name);
        let whole = |file: &str| fs::metadata(folder.join(file)).is_ok_and(|file| file.len() > 0);
        (whole(PROGRAM) && whole(LOADER)).then_some(Udevd { folder })
    }

    /// Puts it into a host, as `systemd-udevd` and `udevadm`.
    pub fn add(&self, tree: &mut Tree) -> Result<()> {
        for entry in fs::read_dir(&self.folder)? {
            let path = entry?.path();
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            tree.copy(&format!("{PLACE}/{name}"), &path)?;
        }
        for name in ["systemd-udevd", "udevadm"] {
            let script = format!(
                "#!/bin/sh\nexec /{PLACE}/{LOADER} --argv0 {name} --library-path /{PLACE} \
                 /{PLACE}/{PROGRAM} \"$@\"\n"
            );
            tree.program(&format!("usr/sbin/{name}"), script);
        }
        Ok(())
    }
}

/// The file that names the one to use.
fn current() -> String {
    format!("current-udevd-{FORMAT}")
}

/// Puts program, loader and libraries of the packages into a folder.
fn make(folder: &Path, packages: &[PathBuf]) -> Result<()> {
    let step = progress::step("unpacking udevd");
    let raw = folder.join("raw");
    fs::create_dir(&raw)?;
    for package in packages {
        apt::unpack(package, &raw)?;
    }
    // A merged /usr may or may not be visible in the packages.
    let places = |rest: &str| [raw.join("usr").join(rest), raw.join(rest)];
    let file = |rest: &str| {
        let found = places(rest).into_iter().find(|path| path.is_file());
        found.with_context(|| format!("the packages of udevd have no {rest}"))
    };
    let program = file("bin/udevadm")?;
    let loader = file("lib64/ld-linux-x86-64.so.2")
        .or_else(|_| file("lib/x86_64-linux-gnu/ld-linux-x86-64.so.2"))?;
    let folders = ["lib/x86_64-linux-gnu", "lib/systemd", "lib/x86_64-linux-gnu/systemd"];
    let folders: Vec<String> = folders
        .iter()
        .flat_map(|rest| places(rest))
        .filter(|path| path.is_dir())
        .map(|path| path.display().to_string())
        .collect();
    let mut list = Command::new(&loader);
    list.args(["--inhibit-cache", "--library-path", &folders.join(":"), "--list"]).arg(&program);
    for line in capture(&mut list)?.lines() {
        // NAME => PATH (ADDRESS); the loader and the kernel's own have no path of the packages.
        let place = line.split_once("=>").and_then(|(_, place)| place.trim().split(' ').next());
        let Some(place) = place.map(Path::new).filter(|place| place.starts_with(&raw)) else {
            continue;
        };
        let name = place.file_name().context("a library without a name")?;
        fs::copy(place, folder.join(name))
            .with_context(|| format!("cannot copy {}", place.display()))?;
    }
    fs::copy(&loader, folder.join(LOADER)).context("cannot copy the loader")?;
    fs::copy(&program, folder.join(PROGRAM)).context("cannot copy udevadm")?;
    fs::remove_dir_all(&raw)?;
    step.done();
    Ok(())
}
