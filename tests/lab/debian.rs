//! A stock system of the distribution on a disk, as its cloud images are: its packages as they come,
//! with its own kernel, initrd, systemd and cloud-init. Guests boot it.
//!
//! It is bootstrapped by the distribution's own tool, from the mirror that this machine uses, and put
//! into a file system without mounting that. Beyond what the packages bring there is what whoever
//! makes such an image adds: a menu of GRUB, who configures networks, and a root without a password.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};

use crate::apt::{self, Apt, Family};
use crate::cache::{self, Cache, write_whole};
use crate::disk::{self, PARTUUID, SECTOR, Table};
use crate::progress;
use crate::run::{capture, line};

/// Raised when the disk changes for another reason than what is below.
const FORMAT: u32 = 1;

/// What takes packages to a disk.
const TOOLS: &[&str] = &["mmdebstrap", "e2fsprogs"];

/// The packages beside those that every system has, and a kernel: those that a cloud image boots with, and
/// the agent that others have in it.
const PACKAGES: &[&str] = &[
    "initramfs-tools",
    "zstd",
    "systemd-sysv",
    "udev",
    "dbus",
    "iproute2",
    "cloud-init",
    "qemu-guest-agent",
];

/// What is no part of a package once it is installed: nobody reads it there.
const LEFT_OUT: &[&str] = &["/usr/share/doc/*", "/usr/share/locale/*", "/usr/share/man/*"];

/// The menu, as grub-mkconfig writes it.
const GRUB: &str = include_str!("debian/grub.cfg");
const FSTAB: &str = "PARTUUID=@PARTUUID@ / ext4 rw,discard,errors=remount-ro 0 1\n";
/// Who configures networks as cloud-init has them, and the only locale that is there.
const CLOUD: &str = "system_info: {network: {renderers: [networkd]}}\nlocale: C.UTF-8\n";
/// What the initrd is to check: while it is made there is no disk that says so.
const INITRD: &str = "FSTYPE=ext4";
/// The file system's own number.
const UUID: &str = "5c5d3b5e-0b6a-4d53-9b6c-4f1b1c1a0001";

/// Bytes of the disk, most of which take no room.
const SIZE: u64 = 1 << 30;
/// The first sector of its partition.
const FIRST: u64 = 2048;
/// Bytes of a block of the file system.
const BLOCK: u64 = 4096;
/// Bytes that making it takes for a time.
const ROOM: u64 = 1_500_000_000;

/// The disk's folder in the cache.
pub struct Debian {
    folder: PathBuf,
}

impl Debian {
    /// Takes it from the cache, first making it if it is not there.
    pub fn ready() -> Result<Self> {
        let cache = Cache::open()?;
        let _lock = cache.lock()?;
        if let Some(debian) = Self::cached(&cache) {
            return Ok(debian);
        }
        ensure!(
            rustix::process::geteuid().is_root(),
            "only root can bootstrap a system to boot in guests. Run this once, and then the same \
             again:\n\n    sudo env ASSIGN_LAB_CACHE={} {} setup\n",
            cache.path("").display(),
            std::env::current_exe().unwrap_or_else(|_| "lab".into()).display()
        );
        cache.ensure_room(ROOM)?;
        let apt = Apt::open(&cache)?;
        let missing = apt::not_installed(TOOLS);
        // Ubuntu has the first one where the lab takes nothing from, in universe.
        ensure!(
            apt.family == Family::Debian || missing.is_empty(),
            "bootstrapping a system takes more tools: run `apt-get install {}` and then the same again",
            missing.join(" ")
        );
        if !missing.is_empty() {
            apt.install(&missing, None).context("bootstrapping a system takes more tools")?;
        }
        let name = format!("debian-{:016x}", fingerprint());
        let folder = cache.folder(&name, |folder| make(folder, &apt))?;
        write_whole(&cache.path(&current()), name.as_bytes())?;
        Ok(Debian { folder })
    }

    /// The one that is there.
    pub fn present() -> Result<Self> {
        Self::cached(&Cache::open()?).context(
            "the disk with a stock system is not in the cache: run `cargo lab setup` as root",
        )
    }

    fn cached(cache: &Cache) -> Option<Self> {
        let name = fs::read_to_string(cache.path(&current())).ok()?;
        let debian = Debian { folder: cache.path(&name) };
        fs::metadata(debian.disk()).is_ok_and(|file| file.len() == SIZE).then_some(debian)
    }

    /// The disk, raw. Nobody writes to it.
    pub fn disk(&self) -> PathBuf {
        self.folder.join("disk.raw")
    }
}

/// The file that names the one to use, one for each content.
fn current() -> String {
    format!("current-debian-{:016x}", fingerprint())
}

/// Changes with whatever decides the disk but the packages.
fn fingerprint() -> u64 {
    let lists = [PACKAGES, LEFT_OUT].concat().join(" ");
    cache::fingerprint(&format!("{FORMAT} {SIZE} {lists} {GRUB}{FSTAB}{CLOUD}{INITRD}"))
}

fn make(folder: &Path, apt: &Apt) -> Result<()> {
    let root = folder.join("root");
    let step = progress::step("bootstrapping a system to boot in guests, once (a minute and more)");
    capture(&mut bootstrap(apt, &root)?)?;
    complete(&root)?;
    let disk = folder.join("disk.raw");
    write(&disk, &root).with_context(|| format!("cannot write {}", disk.display()))?;
    fs::remove_dir_all(&root).with_context(|| format!("cannot remove {}", root.display()))?;
    step.done();
    Ok(())
}

/// The command that installs the packages below `root`.
fn bootstrap(apt: &Apt, root: &Path) -> Result<Command> {
    let mut command = Command::new("mmdebstrap");
    command.env("LC_ALL", "C").args(["--mode=root", "--variant=minbase", "--format=directory"]);
    let kernel = match apt.family {
        Family::Debian => "linux-image-cloud-amd64",
        Family::Ubuntu => "linux-image-virtual",
    };
    command.arg(format!("--include={kernel},{}", PACKAGES.join(",")));
    // What is half done is thrown away, so nothing need be on the disk at once.
    command.arg("--dpkgopt=force-unsafe-io");
    command.args(LEFT_OUT.iter().map(|path| format!("--dpkgopt=path-exclude={path}")));
    command.args(apt.proxies()?.into_iter().map(|option| format!("--aptopt={option}")));
    // Before there is an initrd.
    let folder = "$1/etc/initramfs-tools/conf.d";
    command.arg(format!(
        "--essential-hook=mkdir -p \"{folder}\" && echo {INITRD} > \"{folder}/fstype\""
    ));
    command.arg("--customize-hook=chroot \"$1\" systemctl enable systemd-networkd");
    command.arg(apt.codename()).arg(root).args(apt.own_sources()?);
    Ok(command)
}

/// Writes what is no package's.
fn complete(root: &Path) -> Result<()> {
    let boot = fs::read_dir(root.join("boot")).context("the system has no /boot")?;
    let names = boot.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
    let version = names.filter_map(|name| Some(name.strip_prefix("vmlinuz-")?.to_owned())).max();
    let version = version.context("the system has no kernel in /boot")?;
    let filled = |text: &str| {
        text.replace("@UUID@", UUID).replace("@PARTUUID@", PARTUUID).replace("@VERSION@", &version)
    };
    let place = |path: &str, text: &str| {
        let path = root.join(path);
        let folder = path.parent().unwrap_or(root);
        fs::create_dir_all(folder)
            .and_then(|()| fs::write(&path, text))
            .with_context(|| format!("cannot write {}", path.display()))
    };
    place("boot/grub/grub.cfg", &filled(GRUB))?;
    place("etc/fstab", &filled(FSTAB))?;
    place("etc/hostname", "debian\n")?;
    place("etc/cloud/cloud.cfg.d/10-network.cfg", CLOUD)?;
    let shadow = fs::read_to_string(root.join("etc/shadow")).context("the system has no users")?;
    ensure!(shadow.contains("root:*:"), "root of the system has a password");
    place("etc/shadow", &shadow.replace("root:*:", "root::"))?;
    for options in ["etc/apt/apt.conf.d/99mmdebstrap", "etc/dpkg/dpkg.cfg.d/99mmdebstrap"] {
        let path = root.join(options);
        if path.exists() {
            fs::remove_file(&path).with_context(|| format!("cannot remove {}", path.display()))?;
        }
    }
    Ok(())
}

/// Makes the disk of what is below `root`.
fn write(disk: &Path, root: &Path) -> Result<()> {
    let file = File::create_new(disk)?;
    file.set_len(SIZE)?;
    let Table { start, end, partition } = disk::table(SIZE, FIRST);
    let mut make = Command::new("mke2fs");
    make.args(["-q", "-t", "ext4", "-b", &BLOCK.to_string(), "-U", UUID, "-L", "root"])
        .arg("-d")
        .arg(root);
    // A file that was just made is empty: no guest need write its zeroes.
    let offset = partition.start * SECTOR;
    make.arg("-E").arg(format!("offset={offset},assume_storage_prezeroed=1")).arg(disk);
    let blocks = (partition.end - partition.start) * SECTOR / BLOCK;
    make.arg(format!("{}k", blocks * BLOCK / 1024));
    make.env("PATH", "/usr/sbin:/sbin:/usr/bin:/bin");
    capture(&mut make).with_context(|| format!("{} has made no file system", line(&make)))?;
    file.write_all_at(&start, 0)?;
    file.write_all_at(&end, SIZE - end.len() as u64)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scratch::Scratch;

    #[test]
    fn a_system_is_completed_for_the_kernel_that_it_has() {
        let scratch = Scratch::new().unwrap();
        let root = scratch.path();
        for (path, text) in [
            ("boot/vmlinuz-6.1.0-9-amd64", ""),
            ("etc/shadow", "daemon:*:1::::::\nroot:*:1:0:99999:7:::\n"),
            ("etc/apt/apt.conf.d/99mmdebstrap", "Acquire::http::Proxy \"http://proxy\";\n"),
        ] {
            let path = root.join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        complete(root).unwrap();
        let text = |path: &str| fs::read_to_string(root.join(path)).unwrap();
        let menu = text("boot/grub/grub.cfg");
        let line = format!("\tlinux\t/boot/vmlinuz-6.1.0-9-amd64 root=PARTUUID={PARTUUID} ro ");
        assert!(menu.contains(&line) && !menu.contains('@'), "{menu}");
        assert!(text("etc/fstab").starts_with(&format!("PARTUUID={PARTUUID} / ext4 ")));
        assert_eq!(text("etc/shadow"), "daemon:*:1::::::\nroot::1:0:99999:7:::\n");
        assert!(!root.join("etc/apt/apt.conf.d/99mmdebstrap").exists(), "what it was made by");
        let again = complete(root).unwrap_err().to_string();
        assert_eq!(again, "root of the system has a password");
    }
}
