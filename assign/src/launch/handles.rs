//! Everything with a path is opened here, by the launcher: the VMM gets descriptors and opens
//! nothing.

use std::fs::{File, OpenOptions};
use std::io::{self, ErrorKind};
use std::os::fd::OwnedFd;
use std::path::Path;

use policies::{Boot, Guest};
use sriov::{HostRoot, MacAddress};

use super::error;
use super::tap::{self, Network, Tap};
use crate::choose::Connection;
use crate::control::Place;
use crate::failure::{Failure, OwnReason};

/// What a guest boots.
#[derive(Debug)]
pub struct BootFiles {
    /// The kernel.
    pub kernel: OwnedFd,
    /// The initial RAM disk.
    pub initrd: Option<OwnedFd>,
    /// The kernel's command line.
    pub cmdline: String,
}

/// What is known of it before anything is touched.
#[derive(Debug)]
pub enum Opened<'g> {
    /// Files of the host.
    Files(BootFiles),
    /// It is on a disk, and read when that is open.
    OnDisk(OnDisk<'g>),
}

/// What a boot loader is asked for.
#[derive(Debug)]
pub struct OnDisk<'g> {
    /// The place of the disk among the guest's.
    pub disk: usize,
    /// The id or title of the entry; none is the default.
    pub entry: Option<&'g str>,
    /// What is added to its command line.
    pub cmdline: &'g str,
}

impl BootFiles {
    /// Opens what `guest` boots, where these are files of the host.
    ///
    /// # Errors
    /// Names what is missing, empty or no regular file.
    pub fn open(guest: &Guest) -> Result<Opened<'_>, Failure> {
        match &guest.boot {
            Boot::Files { kernel, initrd, cmdline } => {
                let kernel = boot_file(guest, "kernel", kernel)?;
                let initrd = initrd.as_deref().map(|path| boot_file(guest, "initrd", path));
                let (initrd, cmdline) = (initrd.transpose()?, cmdline.clone());
                Ok(Opened::Files(BootFiles { kernel, initrd, cmdline }))
            }
            Boot::Disk { disk, entry, cmdline } => {
                let found = guest.disks.iter().position(|one| one.name == *disk);
                // The language sees to that.
                let disk = found.ok_or_else(|| error::no_boot_disk(guest, disk))?;
                Ok(Opened::OnDisk(OnDisk { disk, entry: entry.as_deref(), cmdline }))
            }
        }
    }
}

fn boot_file(guest: &Guest, what: &str, path: &Path) -> Result<OwnedFd, Failure> {
    let wrong = |cause: String| error::boot_file(guest, what, path, &cause);
    // Looked at before it is opened: opening a pipe would wait for its writer.
    let found = std::fs::metadata(path).map_err(|error| wrong(plain(&error)))?;
    if !found.is_file() {
        return Err(wrong("it is not a regular file".to_owned()));
    }
    if found.len() == 0 {
        return Err(wrong("it is empty".to_owned()));
    }
    File::open(path).map(OwnedFd::from).map_err(|error| wrong(plain(&error)))
}

/// The error without the number that Rust appends.
fn plain(error: &io::Error) -> String {
    match error.kind() {
        ErrorKind::NotFound => "there is no such file".to_owned(),
        _ => error.to_string(),
    }
}

/// Opens `/dev/kvm`.
///
/// # Errors
/// Cause and remedy for this CPU.
pub fn open_kvm(root: &HostRoot) -> Result<OwnedFd, Failure> {
    let path = root.dev("kvm");
    match OpenOptions::new().read(true).write(true).open(&path) {
        Ok(file) => Ok(file.into()),
        Err(error) => {
            let flags = std::fs::read_to_string(root.proc("cpuinfo")).unwrap_or_default();
            let (cause, remedy) = no_kvm(&error, &flags);
            let message = format!("cannot start a guest: {cause}");
            Err(Failure::failed(OwnReason::NoKvm, path.display(), message).with_remedy(remedy))
        }
    }
}

/// Cause and remedy, by what the kernel answered and what the CPU can.
fn no_kvm(error: &io::Error, cpuinfo: &str) -> (String, String) {
    let has = |flag| cpuinfo.split_ascii_whitespace().any(|word| word == flag);
    let module = match (has("vmx"), has("svm")) {
        (true, _) => Some("kvm_intel"),
        (_, true) => Some("kvm_amd"),
        _ => None,
    };
    // A file left in /dev by hand answers ENXIO or ENODEV while nothing is behind it.
    let absent = error.kind() == ErrorKind::NotFound
        || matches!(error.raw_os_error(), Some(libc::ENXIO | libc::ENODEV));
    match (error.kind(), module) {
        (ErrorKind::PermissionDenied, _) => (
            "this user may not open it".to_owned(),
            "Run assign as root, or join the group that owns the file.".to_owned(),
        ),
        (_, Some(module)) if absent => (
            "the kernel's KVM is not loaded".to_owned(),
            format!(
                "Load it with `modprobe {module}`. If that fails, switch virtualization (VT-x, SVM) \
                 on in the firmware's settings."
            ),
        ),
        (_, Some(_)) => (error.to_string(), "The kernel's log (dmesg) may say more.".to_owned()),
        (_, None) => (
            "the CPU shows no virtualization (VT-x or AMD-V)".to_owned(),
            "Switch it on in the firmware's settings; inside a virtual machine, let its host pass \
             it on (nested virtualization)."
                .to_owned(),
        ),
    }
}

/// What a virtio network card is made of.
#[derive(Debug)]
pub struct Card {
    /// Its network's name in the guest's document.
    pub network: String,
    /// Its TAP or macvtap interface, with a descriptor for each of its queues.
    pub tap: Tap,
    /// The guest's address on it.
    pub mac: [u8; 6],
    /// An open `/dev/vhost-net` for each queue, by which the kernel moves its frames, where the host has that;
    /// or none.
    pub vhosts: Vec<OwnedFd>,
}

/// Opens what each virtio network is made of, in their order.
///
/// # Errors
/// Names the network and what it was to be connected to, with cause and remedy.
pub fn open_cards(
    root: &HostRoot,
    place: &Place,
    guest: &Guest,
    chosen: &[Connection],
) -> Result<Vec<Card>, Failure> {
    let mut cards = Vec::new();
    for connection in chosen {
        let Connection::Virtio { network, end, .. } = connection else { continue };
        let mac = guest_mac(&guest.name, network);
        let of_document = guest.networks.iter().find(|one| one.name == *network);
        let queues = of_document.map_or(1, |network| network.queues);
        let its = Network { guest: &guest.name, name: network, mac, queues };
        let tap = tap::open(root, place, end, its).map_err(|(cause, remedy)| {
            let message = format!("{network} cannot be connected to {end}: {cause}");
            Failure::failed(OwnReason::Guest, &guest.name, message).with_remedy(remedy)
        })?;
        // Without it the VMM moves the frames, only slower.
        let vhost = |_| OpenOptions::new().read(true).write(true).open(root.dev("vhost-net"));
        let vhosts = (0..queues).map(vhost).map(|file| file.map(OwnedFd::from));
        let vhosts = vhosts.collect::<io::Result<_>>().unwrap_or_default();
        cards.push(Card { network: network.clone(), tap, mac: mac.0, vhosts });
    }
    Ok(cards)
}

/// A number that follows from names, and is the same everywhere (FNV-1a).
pub fn hash(names: impl Iterator<Item = u8>) -> u64 {
    names.fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    })
}

/// The address of a virtio network card: the same for the same names everywhere, locally
/// administered and unicast (IEEE 802, bits 1 and 0 of the first byte).
fn guest_mac(guest: &str, network: &str) -> MacAddress {
    // A NUL, which neither can hold, keeps them apart.
    let names = guest.bytes().chain([0]).chain(network.bytes());
    let [a, b, c, d, e, f, ..] = hash(names).to_be_bytes();
    // The highest bit is left out: 0xfe is the first byte of the host's end of the wire.
    MacAddress([(a & 0x7c) | 0x02, b, c, d, e, f])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn guest(kernel: &str) -> Guest {
        let text = format!(
            "apiVersion: assign/v1\nkind: Guest\nmetadata: {{name: web-1}}\nspec: {{memory: {{size: 64MiB}}, boot: {{kernel: {kernel}}}}}\n"
        );
        let source = policies::Source { name: "guest.yaml".to_owned(), text };
        policies::parse(&[source]).expect("a valid guest").guests.remove(0)
    }

    #[test]
    fn a_kernel_that_cannot_be_read_is_named_with_its_remedy() {
        for (path, cause) in [
            ("/nonexistent/vmlinuz", "there is no such file"),
            ("/dev", "it is not a regular file"),
            ("/dev/null", "it is not a regular file"),
        ] {
            let error = BootFiles::open(&guest(path)).expect_err("no kernel");
            let text = error.to_string();
            assert!(
                text.starts_with(&format!("web-1: cannot read its kernel {path}: {cause}.")),
                "{text}"
            );
            assert!(text.contains("boot: {kernel: …}"), "{text}");
            assert_eq!(error.exit_code(), 2);
        }
    }

    #[test]
    fn each_cause_of_a_missing_kvm_has_its_remedy() {
        let missing = io::Error::from(ErrorKind::NotFound);
        assert!(no_kvm(&missing, "flags : fpu vmx").1.contains("modprobe kvm_intel"));
        assert!(no_kvm(&missing, "flags : fpu svm").1.contains("modprobe kvm_amd"));
        assert!(no_kvm(&missing, "flags : fpu").1.contains("nested virtualization"));
        let denied = io::Error::from(ErrorKind::PermissionDenied);
        assert!(no_kvm(&denied, "flags : fpu vmx").1.contains("as root"));
    }

    #[test]
    fn a_guests_address_is_stable_local_and_its_own() {
        let mac = guest_mac("web-1", "net0");
        assert_eq!(mac, guest_mac("web-1", "net0"));
        assert_eq!(mac.0[0] & 0x83, 2);
        assert_ne!(mac, guest_mac("web-2", "net0"));
        assert_ne!(guest_mac("a", "bc"), guest_mac("ab", "c"));
    }
}
