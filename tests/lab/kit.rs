//! What the emulated machines are made of besides our own programs: a kernel, its modules and
//! busybox, taken from the distribution's packages and kept in the cache, ready to use.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use crate::apt::{self, Apt, Family};
use crate::archive::Tree;
use crate::cache::{self, Cache, write_whole};
use crate::kernel::{self, ModuleTree};
use crate::progress;
use crate::run::capture;

/// The modules of an emulated host. Several are part of the kernel on some distributions.
pub const HOST_MODULES: &[&str] = &[
    "kvm_amd",
    "vfio_pci",
    "vfio_iommu_type1",
    "igb",
    "igbvf",
    "nvme",
    "ext4",
    "crc32c_generic",
    "dm_mod",
    "raid1",
    "bonding",
    "team",
    "team_mode_roundrobin",
    "8021q",
    "macvlan",
    "macvtap",
    "ipip",
    "tun",
    "vhost_net",
    "vhost_vsock",
    "bridge",
    "virtio_pci",
    "virtio_net",
    "virtio_console",
    "virtio_blk",
    "e1000e",
    "net_failover",
    "failover",
    "af_packet",
];

/// The modules of a guest.
pub const GUEST_MODULES: &[&str] = &[
    "button",
    "evdev",
    "igb",
    "igbvf",
    "e1000",
    "e1000e",
    "nvme",
    "xhci_pci",
    "usb_storage",
    "sd_mod",
    "uio_pci_generic",
    "virtio_pci",
    "virtio_net",
    "virtio_console",
    "virtio_blk",
    "virtio_rng",
    "vmw_vsock_virtio_transport",
    "virtio_balloon",
    "net_failover",
    "failover",
    "af_packet",
];

/// Raised when the folder's content changes for another reason than its modules.
const FORMAT: u32 = 1;

/// The files of a kit beside its modules.
const FILES: &[&str] =
    &["vmlinuz", "vmlinux", "release", "modules.dep", "modules.alias", "busybox", "applets"];

/// Bytes that making a kit takes, most of them for a time only: packages, unpacked and compressed.
const ROOM: u64 = 700_000_000;

/// A folder of the cache that holds all these things.
pub struct Kit {
    folder: PathBuf,
}

impl Kit {
    /// Takes the kit from the cache, first making it if it is not there.
    pub fn ready(cache: &Cache, apt: impl FnOnce() -> Result<Apt>) -> Result<Self> {
        if let Some(kit) = Self::cached(cache) {
            return Ok(kit);
        }
        cache.ensure_room(ROOM)?;
        let apt = apt()?;
        let packages = packages(&apt)?;
        let folder = cache.path("packages");
        let files = packages
            .iter()
            .map(|package| apt.download(package, &folder))
            .collect::<Result<Vec<_>>>()?;
        let name = format!("kit-{}-{:016x}", packages[0], fingerprint());
        let damaged = cache.path(&name);
        if damaged.is_dir() && !is_whole(&damaged) {
            fs::remove_dir_all(&damaged)
                .with_context(|| format!("cannot remove the damaged {}", damaged.display()))?;
        }
        let folder = cache.folder(&name, |folder| make(folder, &files))?;
        write_whole(&cache.path(&current()), name.as_bytes())?;
        Ok(Kit { folder })
    }

    /// The kit in the cache, if it is there and is what this version of the lab makes.
    pub fn cached(cache: &Cache) -> Option<Self> {
        let name = fs::read_to_string(cache.path(&current())).ok()?;
        let folder = cache.path(&name);
        is_whole(&folder).then_some(Kit { folder })
    }

    /// The kernel as the distribution ships it.
    pub fn vmlinuz(&self) -> PathBuf {
        self.folder.join("vmlinuz")
    }

    /// The ELF image inside it.
    pub fn vmlinux(&self) -> PathBuf {
        self.folder.join("vmlinux")
    }

    /// Names this kit, and with it all its content.
    pub fn name(&self) -> String {
        self.folder.file_name().unwrap_or_default().to_string_lossy().into_owned()
    }

    /// Puts busybox and a link for each of its commands into a tree.
    pub fn add_busybox(&self, tree: &mut Tree) -> Result<()> {
        tree.copy("bin/busybox", &self.folder.join("busybox"))?;
        for applet in read(&self.folder.join("applets"))?.lines() {
            if applet != "bin/busybox" {
                tree.link(applet, "/bin/busybox");
            }
        }
        Ok(())
    }

    /// Puts modules, all they depend on, and the lists `modprobe` needs into a tree.
    pub fn add_modules(&self, tree: &mut Tree, names: &[&str]) -> Result<()> {
        let all = read(&self.folder.join("modules.dep"))?;
        let lines: BTreeMap<&str, &str> =
            all.lines().filter_map(|line| Some((line.split_once(':')?.0, line))).collect();
        // A name that is not in the list is part of the kernel.
        let mut wanted: Vec<&str> = names
            .iter()
            .filter_map(|name| lines.get(format!("kernel/{name}.ko").as_str()))
            .flat_map(|line| line.split([':', ' ']).filter(|path| !path.is_empty()))
            .collect();
        wanted.sort_unstable();
        wanted.dedup();
        let release = read(&self.folder.join("release"))?;
        let root = format!("lib/modules/{release}");
        let mut dep = String::new();
        for path in wanted {
            tree.copy(&format!("{root}/{path}"), &self.folder.join(path))?;
            dep.push_str(lines[path]);
            dep.push('\n');
        }
        tree.file(&format!("{root}/modules.dep"), dep);
        tree.copy(&format!("{root}/modules.alias"), &self.folder.join("modules.alias"))
    }
}

/// Whether nothing is missing, or empty as after a power cut, of what everything else builds on.
fn is_whole(folder: &Path) -> bool {
    FILES.iter().all(|name| fs::metadata(folder.join(name)).is_ok_and(|file| file.len() > 0))
}

fn read(path: &Path) -> Result<String> {
    fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))
}

/// The file that names the kit to use: one for each content, so that checkouts of this repository
/// that want different modules do not take the cache from each other.
fn current() -> String {
    format!("current-kit-{:016x}", fingerprint())
}

/// Changes with whatever decides a kit's content but the packages.
fn fingerprint() -> u64 {
    let mut text = format!("{FORMAT}");
    for name in HOST_MODULES.iter().chain(GUEST_MODULES) {
        text.push_str(&format!(" {name}"));
    }
    cache::fingerprint(&text)
}

/// Which packages: first the kernel, last busybox.
fn packages(apt: &Apt) -> Result<Vec<String>> {
    let mut packages = match apt.family {
        // The series is fixed because the lab was proven with it, the release within it is not.
        Family::Debian => {
            vec![newest(apt.names("linux-image-6.12.")?, "linux-image-", "-amd64").context(
                "the archive has no kernel 6.12 for amd64: Debian 12 has one in backports and \
                 security, Debian 13 in main",
            )?]
        }
        Family::Ubuntu => {
            let image = newest(apt.names("linux-image-6.")?, "linux-image-", "-generic")
                .context("the archive has no linux-image-6.*-generic")?;
            let modules = image.replacen("image", "modules", 1);
            let extra = image.replacen("image", "modules-extra", 1);
            vec![image, modules, extra]
        }
    };
    packages.push("busybox-static".into());
    Ok(packages)
}

/// The name with the highest version between prefix and suffix. Flavours of the kernel have more
/// words before the suffix and begin with a letter, so they are no versions.
pub(crate) fn newest(names: Vec<String>, prefix: &str, suffix: &str) -> Option<String> {
    names
        .into_iter()
        .filter_map(|name| {
            let version = name.strip_prefix(prefix)?.strip_suffix(suffix)?;
            let flavoured = version.split('-').any(|word| word.starts_with(char::is_alphabetic));
            let numbers: Vec<u64> = version
                .split(|c: char| !c.is_ascii_digit())
                .filter_map(|number| number.parse().ok())
                .collect();
            (!flavoured).then_some((numbers, name))
        })
        .max()
        .map(|(_, name)| name)
}

fn make(folder: &Path, packages: &[PathBuf]) -> Result<()> {
    let step = progress::step("unpacking the kernel and busybox");
    let raw = folder.join("raw");
    fs::create_dir(&raw)?;
    for package in packages {
        apt::unpack(package, &raw)?;
    }
    // A merged /usr may or may not be visible in the packages.
    let places = |rest: &str| [raw.join(rest), raw.join("usr").join(rest)];
    let modules = places("lib/modules").into_iter().find(|path| path.is_dir());
    let release = modules
        .as_ref()
        .and_then(|modules| fs::read_dir(modules).ok()?.next()?.ok())
        .context("the kernel's package has no folder lib/modules")?;
    let version = release.file_name().to_string_lossy().into_owned();
    let image = fs::read(raw.join("boot").join(format!("vmlinuz-{version}")))
        .with_context(|| format!("the kernel's package has no boot/vmlinuz-{version}"))?;
    fs::write(folder.join("vmlinux"), kernel::vmlinux(&image).context("the kernel's image")?)?;
    fs::write(folder.join("vmlinuz"), image)?;
    fs::write(folder.join("release"), &version)?;

    let names: Vec<&str> = HOST_MODULES.iter().chain(GUEST_MODULES).copied().collect();
    let modules = ModuleTree::open(&release.path())?.closure(&names)?;
    fs::create_dir(folder.join("kernel"))?;
    for module in &modules {
        fs::write(folder.join(format!("kernel/{}.ko", module.name)), &module.object)?;
    }
    fs::write(folder.join("modules.dep"), kernel::modules_dep(&modules))?;
    fs::write(folder.join("modules.alias"), kernel::modules_alias(&modules))?;

    let busybox = places("bin/busybox").into_iter().find(|path| path.is_file());
    let busybox = busybox.context("package busybox-static has no bin/busybox")?;
    let applets = capture(Command::new(&busybox).arg("--list-full"))?;
    fs::write(folder.join("applets"), applets)?;
    fs::copy(busybox, folder.join("busybox"))?;
    fs::remove_dir_all(&raw)?;
    step.done();
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_plain_kernel_is_chosen() {
        let names = [
            "linux-image-6.12.9+bpo-amd64",
            "linux-image-6.12.117+deb12-amd64",
            "linux-image-6.12.117+deb12-amd64-dbg",
            "linux-image-6.12.120+deb12-rt-amd64",
            "linux-image-6.12.120+deb12-amd64-unsigned",
        ];
        let names = names.map(String::from).to_vec();
        let newest_of = |suffix| newest(names.clone(), "linux-image-", suffix);
        assert_eq!(newest_of("-amd64").as_deref(), Some("linux-image-6.12.117+deb12-amd64"));
        assert_eq!(newest_of("-generic"), None);
    }
}
