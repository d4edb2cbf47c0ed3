//! The host's end of a virtio network: a TAP interface on a bridge, a macvtap interface on one that it
//! shares, or a TAP interface that somebody else made.
//!
//! A TAP interface of ours lives as long as its descriptor: when the guest's process ends, however it ends,
//! the kernel removes it (Documentation/networking/tuntap.rst). A macvtap interface has to be removed.

#![allow(unsafe_code)]

mod macvtap;

use std::fs::{File, OpenOptions};
use std::io::{self, ErrorKind};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use policies::Virtio;
use rustix::io::Errno;
use rustix::ioctl::{Updater, ioctl, opcode};
use sriov::netlink::Rtnetlink;
use sriov::{HostRoot, MacAddress};

use crate::control::Place;
use crate::control::interfaces::index;

/// `TUNSETIFF` (uapi/linux/if_tun.h): attaches the descriptor to an interface and names it.
const TUNSETIFF: rustix::ioctl::Opcode = opcode::write::<std::ffi::c_int>(b'T', 202);
/// `TUNGETIFF` (there): names the interface that a descriptor is attached to.
const TUNGETIFF: rustix::ioctl::Opcode = opcode::read::<std::ffi::c_uint>(b'T', 210);
/// Ethernet frames (uapi/linux/if_tun.h).
const IFF_TAP: u16 = 0x0002;
/// No protocol number before each frame.
const IFF_NO_PI: u16 = 0x1000;
/// A virtio-net header before each frame.
const IFF_VNET_HDR: u16 = 0x4000;
/// Several descriptors, each with a queue of its own.
const IFF_MULTI_QUEUE: u16 = 0x0100;
/// The kernel puts the lowest free number in place of `%d`.
const NAME: &[u8] = b"as-tap%d";

/// Why something cannot be had: the cause, and the remedy.
pub type Why = (String, String);

/// `struct ifreq` (uapi/linux/if.h), as far as `TUNSETIFF` reads and writes it.
#[repr(C)]
struct Request {
    name: [u8; 16],
    flags: u16,
    rest: [u8; 22],
}

/// A TAP or macvtap interface.
#[derive(Debug)]
pub struct Tap {
    /// Descriptors of it, one for each queue. A TAP interface of our own lives as long as one of them.
    pub files: Vec<OwnedFd>,
    /// Its name.
    pub name: String,
    /// The kernel's number for it.
    pub index: u32,
    /// How its frames go on.
    pub kind: Kind,
}

/// How the frames of a guest go on from its interface.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Through the bridge that it is on.
    Bridged,
    /// Out of the interface that it shares.
    Sharing,
    /// As somebody else has arranged.
    Foreign,
}

/// A network of a guest that is to be connected.
#[derive(Debug, Clone, Copy)]
pub struct Network<'a> {
    /// The guest's name.
    pub guest: &'a str,
    /// The network's.
    pub name: &'a str,
    /// The guest's address on it.
    pub mac: MacAddress,
    /// How many queues it has, at least one.
    pub queues: u16,
}

/// Makes the interface, or takes the one that is there, and sets up what is ours.
///
/// # Errors
/// Cause and remedy.
pub fn open(
    root: &HostRoot,
    place: &Place,
    end: &Virtio,
    network: Network<'_>,
) -> Result<Tap, Why> {
    match end {
        Virtio::Bridge { bridge } => on_bridge(root, bridge, network),
        Virtio::Macvtap { macvtap, mode } => macvtap::open(root, place, macvtap, *mode, network),
        Virtio::Tap { tap } => foreign(root, tap, network.queues),
    }
}

/// Makes a TAP interface and puts it on `bridge`.
fn on_bridge(root: &HostRoot, bridge: &str, network: Network<'_>) -> Result<Tap, Why> {
    let bridge_folder = root.netdev(bridge);
    if !HostRoot::is_component(bridge) || !bridge_folder.exists() {
        return Err((
            no_interface(bridge),
            format!(
                "Create it with `ip link add {bridge} type bridge` and `ip link set {bridge} up`, \
                 or name another bridge."
            ),
        ));
    }
    if !bridge_folder.join("bridge").exists() {
        let remedy = format!(
            "`ip link show type bridge` lists those there are; {{macvtap: {bridge}}} shares an interface \
             without one."
        );
        return Err((format!("{bridge} is not a bridge"), remedy));
    }
    let Network { mac, queues, .. } = network;
    let path = root.dev("net/tun");
    let several = queues > 1;
    let another = |name: &[u8]| {
        let file = open_tun(&path)?;
        let name = attach(&file, name, several).map_err(|error| not_attached(&error))?;
        Ok::<_, Why>((OwnedFd::from(file), name))
    };
    let (first, name) = another(NAME)?;
    let mut files = vec![first];
    for _ in 1..queues {
        files.push(another(name.as_bytes())?.0);
    }
    let connect = || -> io::Result<u32> {
        let (tap, bridge) = (index(root, &name)?, index(root, bridge)?);
        let mut netlink = Rtnetlink::open()?;
        netlink.set_mac(tap, own_mac(mac))?;
        netlink.set_controller(tap, bridge)?;
        netlink.set_up(tap, true)?;
        Ok(tap)
    };
    let index =
        connect().map_err(|error| (format!("{name} could not be put on it: {error}"), log()))?;
    Ok(Tap { files, name, index, kind: Kind::Bridged })
}

/// Takes a TAP interface that is there, as it is.
fn foreign(root: &HostRoot, tap: &str, queues: u16) -> Result<Tap, Why> {
    let folder = root.netdev(tap);
    let several = queues > 1;
    let make = || {
        let more = if several { " multi_queue" } else { "" };
        format!("ip tuntap add {tap} mode tap{more}")
    };
    if !HostRoot::is_component(tap) || !folder.exists() {
        let remedy = format!(
            "Create it with `{}`, and put it where it belongs; or name a bridge, {{bridge: br0}}, and it is \
             made for the guest.",
            make()
        );
        return Err((no_interface(tap), remedy));
    }
    // TUNSETIFF would make one where there is none, and says EINVAL for all else.
    let flags = flags(&folder).filter(|flags| flags & IFF_TAP != 0);
    let Some(flags) = flags else {
        let remedy =
            "`ip tuntap show` lists those there are; {macvtap: …} shares other interfaces.";
        return Err((format!("{tap} is not a TAP interface"), remedy.to_owned()));
    };
    if several != (flags & IFF_MULTI_QUEUE != 0) {
        let (has, wanted) =
            if several { ("one queue", "several") } else { ("several queues", "one") };
        let cause = format!("{tap} was made for {has}, and the network has {wanted}");
        let remedy = format!(
            "Make it again with `ip tuntap del {tap} mode tap` and `{}`, or change the network's `queues`.",
            make()
        );
        return Err((cause, remedy));
    }
    let path = root.dev("net/tun");
    let another = |_| {
        let file = open_tun(&path)?;
        attach(&file, tap.as_bytes(), several).map_err(|error| match error.kind() {
            ErrorKind::ResourceBusy => (
                format!("another program has {tap}"),
                "Stop that, or name another interface; each guest needs its own.".to_owned(),
            ),
            _ => (format!("{tap} cannot be used: {error}"), not_attached(&error).1),
        })?;
        Ok(OwnedFd::from(file))
    };
    let files = (0..queues).map(another).collect::<Result<_, Why>>()?;
    let index = index(root, tap).map_err(|error| (format!("{tap}: {error}"), log()))?;
    Ok(Tap { files, name: tap.to_owned(), index, kind: Kind::Foreign })
}

/// What a TAP or TUN interface was made with (drivers/net/tun.c, `tun_flags_show`).
fn flags(folder: &Path) -> Option<u16> {
    let text = std::fs::read_to_string(folder.join("tun_flags")).ok()?;
    let flags = u32::from_str_radix(text.trim().strip_prefix("0x")?, 16).ok()?;
    u16::try_from(flags & 0xffff).ok()
}

fn open_tun(path: &Path) -> Result<File, Why> {
    OpenOptions::new().read(true).write(true).open(path).map_err(|error| {
        let remedy = match error.kind() {
            ErrorKind::NotFound => "Load the kernel's module with `modprobe tun`.".to_owned(),
            ErrorKind::PermissionDenied => "Run assign as root.".to_owned(),
            _ => log(),
        };
        (format!("{}: {error}", path.display()), remedy)
    })
}

fn not_attached(error: &io::Error) -> Why {
    let remedy = match error.kind() {
        ErrorKind::PermissionDenied => "It needs CAP_NET_ADMIN: run assign as root.".to_owned(),
        _ => log(),
    };
    (format!("no TAP interface could be made: {error}"), remedy)
}

fn no_interface(name: &str) -> String {
    format!("the host has no interface {name}")
}

fn log() -> String {
    "The kernel's log (dmesg) may say more.".to_owned()
}

/// The interface's own address: the guest's with the highest first byte that is local and unicast.
/// A bridge takes the lowest address of its ports for its own, and the host would lose connections
/// if that changed (net/bridge/br_stp_if.c, `br_stp_recalculate_bridge_id`).
fn own_mac(MacAddress([_, b, c, d, e, f]): MacAddress) -> MacAddress {
    MacAddress([0xfe, b, c, d, e, f])
}

/// Attaches `file` to the interface `wanted`, which is made if it is not there, and names it. A descriptor
/// of a macvtap interface has its already, and only learns how frames are to be.
fn attach(file: &File, wanted: &[u8], of_several: bool) -> io::Result<String> {
    let flags = IFF_TAP | IFF_NO_PI | IFF_VNET_HDR | if of_several { IFF_MULTI_QUEUE } else { 0 };
    let mut request = Request { name: [0; 16], flags, rest: [0; 22] };
    // The last byte stays 0.
    for (byte, wanted) in request.name.iter_mut().zip(wanted.iter().take(15)) {
        *byte = *wanted;
    }
    // SAFETY: TUNSETIFF reads and writes one `struct ifreq` of 40 bytes, whose layout `Request` has
    // in full; it keeps no pointer.
    unsafe {
        let update = Updater::<TUNSETIFF, Request>::new(&mut request);
        ioctl(file, update)?;
    }
    Ok(request.name())
}

/// The name of the interface that a descriptor is attached to.
///
/// # Errors
/// EBADFD or ENOLINK where that is gone (`tun_chr_ioctl`, `tap_ioctl`).
fn attached(file: BorrowedFd<'_>) -> Result<String, Errno> {
    let mut request = Request { name: [0; 16], flags: 0, rest: [0; 22] };
    // SAFETY: as above; TUNGETIFF only writes it.
    unsafe {
        let update = Updater::<TUNGETIFF, Request>::new(&mut request);
        ioctl(file, update)?;
    }
    Ok(request.name())
}

/// Whether the interface of a descriptor is no more.
pub fn is_gone(file: &OwnedFd) -> bool {
    matches!(attached(file.as_fd()), Err(Errno::BADFD | Errno::NOLINK))
}

impl Request {
    fn name(&self) -> String {
        let end = self.name.iter().position(|byte| *byte == 0).unwrap_or(self.name.len());
        String::from_utf8_lossy(self.name.get(..end).unwrap_or_default()).into_owned()
    }
}

#[cfg(test)]
mod tests {
    use sriov::netlink::MacvtapMode;

    use super::*;

    #[test]
    fn the_request_is_as_large_as_the_kernels() {
        assert_eq!(size_of::<Request>(), 40);
        assert_eq!(TUNSETIFF, 0x4004_54ca);
        assert_eq!(TUNGETIFF, 0x8004_54d2);
    }

    /// What `end` is refused with on a host with these interfaces: each a name and a file in its folder.
    fn refused(end: &Virtio, queues: u16, interfaces: &[(&str, &str, &str)]) -> String {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let root = HostRoot::at(directory.path());
        for (name, file, text) in interfaces {
            let folder = root.netdev(name);
            std::fs::create_dir_all(&folder).expect("a folder");
            std::fs::write(folder.join(file), text).expect("a file");
        }
        let place = Place::take(&root, "web-1").expect("nobody has it");
        let network = Network { guest: "web-1", name: "net0", mac: MacAddress([2; 6]), queues };
        let (cause, remedy) = open(&root, &place, end, network).expect_err("there is no kernel");
        format!("{cause}. {remedy}")
    }

    #[test]
    fn what_is_missing_or_something_else_is_named_with_its_remedy() {
        let bridge = Virtio::Bridge { bridge: "br7".to_owned() };
        let text = refused(&bridge, 1, &[]);
        assert!(text.starts_with("the host has no interface br7. Create it"), "{text}");
        assert!(text.contains("ip link add br7 type bridge"), "{text}");
        let text = refused(&bridge, 1, &[("br7", "ifindex", "7")]);
        assert!(text.starts_with("br7 is not a bridge. "), "{text}");
        assert!(text.contains("{macvtap: br7}"), "{text}");

        let tap = Virtio::Tap { tap: "tap7".to_owned() };
        let text = refused(&tap, 2, &[]);
        assert!(text.contains("`ip tuntap add tap7 mode tap multi_queue`"), "{text}");
        let text = refused(&tap, 1, &[("tap7", "ifindex", "7")]);
        assert!(text.starts_with("tap7 is not a TAP interface. "), "{text}");
        let text = refused(&tap, 1, &[("tap7", "tun_flags", "0x1001\n")]);
        assert!(text.starts_with("tap7 is not a TAP interface. "), "a TUN interface: {text}");
        let text = refused(&tap, 2, &[("tap7", "tun_flags", "0x1802\n")]);
        assert!(
            text.starts_with("tap7 was made for one queue, and the network has several."),
            "{text}"
        );
        let text = refused(&tap, 1, &[("tap7", "tun_flags", "0x1902\n")]);
        assert!(
            text.starts_with("tap7 was made for several queues, and the network has one."),
            "{text}"
        );
        let text = refused(&tap, 1, &[("tap7", "tun_flags", "0x1802\n")]);
        assert!(text.contains("modprobe tun"), "as far as one comes without a kernel: {text}");

        let macvtap = Virtio::Macvtap { macvtap: "eth7".to_owned(), mode: MacvtapMode::Bridge };
        let text = refused(&macvtap, 1, &[]);
        assert!(text.starts_with("the host has no interface eth7. "), "{text}");
    }
}
