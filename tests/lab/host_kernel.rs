//! A kernel for hosts that no distribution has one for: with iommufd and character devices of VFIO.
//!
//! It is built from the distribution's own source package, once, into the cache; its configuration is
//! `host-kernel.config`. All drivers are built in, so it needs no modules. Guests keep the kernel of the
//! kit.

use std::fs;
use std::num::NonZero;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};

use crate::apt::{self, Apt, Family};
use crate::cache::{self, Cache, write_whole};
use crate::kit::newest;
use crate::progress;
use crate::run::capture;

const CONFIG: &str = include_str!("host-kernel.config");

/// Raised when the kernel changes for another reason than its configuration.
const FORMAT: u32 = 1;

/// What building takes, beside cargo's own compiler and linker.
const TOOLS: &[&str] = &["make", "gcc", "flex", "bison", "bc", "libelf-dev", "xz-utils", "bzip2"];

/// Bytes that building takes for a time: the package, its sources and what is made of them.
const ROOM: u64 = 2_000_000_000;

/// What is not unpacked: sources of drivers and processors that are never built, the larger half. The
/// files that describe options must stay, whatever they are for.
const LEFT_OUT: &[&str] = &[
    "*/drivers/gpu/*/*.[ch]",
    "*/sound/*.[ch]",
    "*/arch/[a-w]*/*.[chS]",
    "*/arch/[a-w]*/*.dts*",
    "*/Documentation/*/*",
    "*/tools/testing/*",
];

/// The kernel's folder in the cache.
pub struct HostKernel {
    folder: PathBuf,
}

impl HostKernel {
    /// Takes the kernel from the cache, first building it if it is not there.
    pub fn ready() -> Result<Self> {
        let cache = Cache::open()?;
        if let Some(kernel) = Self::cached(&cache) {
            return Ok(kernel);
        }
        // Its own lock: what else is made in the cache does not wait for minutes.
        let _lock = cache::lock(&cache.path("host-kernel.lock"))?;
        if let Some(kernel) = Self::cached(&cache) {
            return Ok(kernel);
        }
        let package = {
            let _lock = cache.lock()?;
            cache.ensure_room(ROOM)?;
            let apt = Apt::open(&cache)?;
            let missing = apt::not_installed(TOOLS);
            if !missing.is_empty() {
                apt.install(&missing, None).context("building a kernel takes more tools")?;
            }
            apt.download(&source_package(&apt)?, &cache.path("packages"))?
        };
        // Its name has the version: linux-source-6.12_6.12.117-1~deb12u1_all.
        let version = package.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        let name = format!("host-kernel-{version}-{:016x}", fingerprint());
        let damaged = cache.path(&name);
        if damaged.is_dir() && !is_whole(&damaged) {
            fs::remove_dir_all(&damaged)
                .with_context(|| format!("cannot remove the damaged {}", damaged.display()))?;
        }
        let folder = cache.folder(&name, |folder| build(folder, &package))?;
        write_whole(&cache.path(&current()), name.as_bytes())?;
        // It is large, and is not needed again.
        fs::remove_file(&package)
            .with_context(|| format!("cannot remove {}", package.display()))?;
        Ok(HostKernel { folder })
    }

    /// The kernel that is there.
    pub fn present() -> Result<Self> {
        Self::cached(&Cache::open()?).context(
            "the kernel of hosts with iommufd is not in the cache: run `cargo lab kernel` (10 minutes \
             and more)",
        )
    }

    fn cached(cache: &Cache) -> Option<Self> {
        let name = fs::read_to_string(cache.path(&current())).ok()?;
        let folder = cache.path(&name);
        is_whole(&folder).then_some(HostKernel { folder })
    }

    /// The ELF image.
    pub fn vmlinux(&self) -> PathBuf {
        self.folder.join("vmlinux")
    }

    /// Names this kernel, and with it its content.
    pub fn name(&self) -> String {
        self.folder.file_name().unwrap_or_default().to_string_lossy().into_owned()
    }
}

fn is_whole(folder: &Path) -> bool {
    fs::metadata(folder.join("vmlinux")).is_ok_and(|file| file.len() > 0)
}

/// The file that names the kernel to use, one for each configuration.
fn current() -> String {
    format!("current-host-kernel-{:016x}", fingerprint())
}

/// Changes with whatever decides the kernel but the package.
fn fingerprint() -> u64 {
    let text = format!("{FORMAT} {}", options().collect::<Vec<_>>().join(" "));
    cache::fingerprint(&text)
}

/// The lines of the configuration that are no comments.
fn options() -> impl Iterator<Item = &'static str> {
    CONFIG.lines().filter(|line| line.starts_with("CONFIG_"))
}

/// The package with the sources of the kernel that the kit has, as far as the archive tells.
fn source_package(apt: &Apt) -> Result<String> {
    let prefix = match apt.family {
        Family::Debian => "linux-source-6.12",
        Family::Ubuntu => "linux-source-6.",
    };
    newest(apt.names(prefix)?, "linux-source-", "").with_context(|| {
        format!("the archive has no package {prefix}…: Debian 12 has one in security and backports")
    })
}

fn build(folder: &Path, package: &Path) -> Result<()> {
    let sources = folder.join("source");
    let step = progress::step("unpacking the kernel's sources");
    unpack(package, folder, &sources)?;
    step.done();

    let cpus = std::thread::available_parallelism().map_or(1, NonZero::get);
    let step = progress::step(format!(
        "building a kernel with iommufd, once (10 minutes and more on {cpus} CPUs)"
    ));
    let wanted = sources.join("wanted.config");
    fs::write(&wanted, CONFIG).with_context(|| format!("cannot write {}", wanted.display()))?;
    let make = || {
        let mut make = Command::new("make");
        make.arg("--silent").arg("--directory").arg(&sources);
        // What cargo has set for its own children is not meant for this one.
        make.env_remove("MAKEFLAGS").env_remove("CARGO_MAKEFLAGS").env("LC_ALL", "C");
        make
    };
    capture(make().arg("allnoconfig").env("KCONFIG_ALLCONFIG", &wanted))?;
    let config = sources.join(".config");
    let config =
        fs::read_to_string(&config).with_context(|| format!("cannot read {}", config.display()))?;
    check(&config)?;
    capture(make().arg(format!("--jobs={cpus}")).arg("vmlinux"))?;
    let strip = folder.join("vmlinux");
    capture(Command::new("strip").arg("-o").arg(&strip).arg(sources.join("vmlinux")))?;
    fs::write(folder.join("config"), config)?;
    fs::remove_dir_all(&sources).with_context(|| format!("cannot remove {}", sources.display()))?;
    step.done();
    Ok(())
}

/// The package holds an archive.
fn unpack(package: &Path, folder: &Path, sources: &Path) -> Result<()> {
    let raw = folder.join("raw");
    apt::unpack(package, &raw)?;
    let archive = archive(&raw.join("usr/src"))?
        .with_context(|| format!("{} has no usr/src/linux-source-*.tar.*", package.display()))?;
    fs::create_dir(sources).with_context(|| format!("cannot make {}", sources.display()))?;
    let mut tar = Command::new("tar");
    tar.arg("--extract").arg("--file").arg(&archive).arg("--directory").arg(sources);
    tar.args(["--strip-components=1", "--anchored", "--wildcards"]).env("LC_ALL", "C");
    // Of the documentation, the build asks for the files at its top only.
    tar.args(LEFT_OUT.iter().map(|pattern| format!("--exclude={pattern}")));
    capture(&mut tar)?;
    fs::remove_dir_all(&raw).with_context(|| format!("cannot remove {}", raw.display()))
}

/// Debian has it in the folder itself, Ubuntu in one of its own.
fn archive(folder: &Path) -> Result<Option<PathBuf>> {
    let entries = fs::read_dir(folder).with_context(|| format!("{}", folder.display()))?;
    for entry in entries {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy().into_owned();
        if !name.starts_with("linux-source-") {
            continue;
        }
        if entry.file_type()?.is_dir() {
            if let Some(found) = archive(&entry.path())? {
                return Ok(Some(found));
            }
        } else if name.contains(".tar") {
            return Ok(Some(entry.path()));
        }
    }
    Ok(None)
}

/// An option whose own needs are not met is left out without a word: that is an error here.
fn check(config: &str) -> Result<()> {
    let lost: Vec<&str> = options()
        .filter(|option| !option.ends_with("=n"))
        .filter(|option| !config.lines().any(|line| line == *option))
        .collect();
    if !lost.is_empty() {
        bail!(
            "this kernel does not take {}: correct tests/lab/host-kernel.config",
            lost.join(", ")
        );
    }
    let modules = config.lines().filter(|line| line.ends_with("=m")).count();
    ensure!(
        modules == 0,
        "{modules} options of host-kernel.config are modules, which the lab has not"
    );
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_configuration_that_lost_an_option_is_refused() {
        let taken: String = options().map(|option| format!("{option}\n")).collect();
        check(&taken).unwrap();
        let lost = taken.replace("CONFIG_IOMMUFD=y", "# CONFIG_IOMMUFD is not set");
        let error = check(&lost).unwrap_err().to_string();
        assert!(error.contains("does not take CONFIG_IOMMUFD=y:"), "{error}");
        assert!(check(&format!("{taken}CONFIG_IGB=m\n")).is_err());
    }

    #[test]
    fn what_iommufd_takes_is_wanted() {
        let wanted = ["IOMMUFD", "VFIO_DEVICE_CDEV", "VFIO_PCI", "INTEL_IOMMU", "KVM_AMD", "PVH"];
        for name in wanted {
            assert!(options().any(|option| option == format!("CONFIG_{name}=y")), "{name}");
        }
    }
}
