//! The host's end of a virtio network: a TAP interface on a bridge.
//!
//! The interface lives as long as its descriptor: when the guest's process ends, however it ends,
//! the kernel removes it (Documentation/networking/tuntap.rst).

#![allow(unsafe_code)]

use std::fs::{File, OpenOptions};
use std::io::{self, ErrorKind};
use std::os::fd::OwnedFd;

use rustix::ioctl::{Updater, ioctl, opcode};
use sriov::netlink::Rtnetlink;
use sriov::{HostRoot, MacAddress};

/// `TUNSETIFF` (uapi/linux/if_tun.h): attaches the descriptor to an interface and names it.
const TUNSETIFF: rustix::ioctl::Opcode = opcode::write::<std::ffi::c_int>(b'T', 202);
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

/// `struct ifreq` (uapi/linux/if.h), as far as `TUNSETIFF` reads and writes it.
#[repr(C)]
struct Request {
    name: [u8; 16],
    flags: u16,
    rest: [u8; 22],
}

/// A TAP interface.
#[derive(Debug)]
pub struct Tap {
    /// Descriptors of it, one for each queue. It lives as long as one of them.
    pub files: Vec<OwnedFd>,
    /// Its name.
    pub name: String,
    /// The kernel's number for it.
    pub index: u32,
}

/// Makes a TAP interface with so many queues, at least one, puts it on `bridge` and sets it up. It is there
/// until its descriptors are closed.
///
/// # Errors
/// Cause and remedy.
pub fn open(
    root: &HostRoot,
    bridge: &str,
    guest_mac: MacAddress,
    queues: u16,
) -> Result<Tap, (String, String)> {
    let log = || "The kernel's log (dmesg) may say more.".to_owned();
    let bridge_folder = root.netdev(bridge);
    if !HostRoot::is_component(bridge) || !bridge_folder.exists() {
        return Err((
            format!("the host has no interface {bridge}"),
            format!(
                "Create it with `ip link add {bridge} type bridge` and `ip link set {bridge} up`, \
                 or name another bridge."
            ),
        ));
    }
    if !bridge_folder.join("bridge").exists() {
        let remedy = "`ip link show type bridge` lists those there are.";
        return Err((format!("{bridge} is not a bridge"), remedy.to_owned()));
    }
    let path = root.dev("net/tun");
    let another = |name: &[u8]| {
        let file = OpenOptions::new().read(true).write(true).open(&path).map_err(|error| {
            let remedy = match error.kind() {
                ErrorKind::NotFound => "Load the kernel's module with `modprobe tun`.".to_owned(),
                ErrorKind::PermissionDenied => "Run assign as root.".to_owned(),
                _ => log(),
            };
            (format!("{}: {error}", path.display()), remedy)
        })?;
        let name = attach(&file, name, queues > 1).map_err(|error| {
            let remedy = match error.kind() {
                ErrorKind::PermissionDenied => {
                    "It needs CAP_NET_ADMIN: run assign as root.".to_owned()
                }
                _ => log(),
            };
            (format!("no TAP interface could be made: {error}"), remedy)
        })?;
        Ok::<_, (String, String)>((OwnedFd::from(file), name))
    };
    let (first, name) = another(NAME)?;
    let mut files = vec![first];
    for _ in 1..queues {
        files.push(another(name.as_bytes())?.0);
    }
    let connect = || -> io::Result<u32> {
        let (tap, bridge) = (index(root, &name)?, index(root, bridge)?);
        let mut netlink = Rtnetlink::open()?;
        netlink.set_mac(tap, own_mac(guest_mac))?;
        netlink.set_controller(tap, bridge)?;
        netlink.set_up(tap, true)?;
        Ok(tap)
    };
    let index =
        connect().map_err(|error| (format!("{name} could not be put on it: {error}"), log()))?;
    Ok(Tap { files, name, index })
}

/// The interface's own address: the guest's with the highest first byte that is local and unicast.
/// A bridge takes the lowest address of its ports for its own, and the host would lose connections
/// if that changed (net/bridge/br_stp_if.c, `br_stp_recalculate_bridge_id`).
fn own_mac(MacAddress([_, b, c, d, e, f]): MacAddress) -> MacAddress {
    MacAddress([0xfe, b, c, d, e, f])
}

/// Attaches `file` to the interface `wanted`, which is made if it is not there, and names it.
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
    let end = request.name.iter().position(|byte| *byte == 0).unwrap_or(request.name.len());
    Ok(String::from_utf8_lossy(request.name.get(..end).unwrap_or_default()).into_owned())
}

fn index(root: &HostRoot, interface: &str) -> io::Result<u32> {
    let text = std::fs::read_to_string(root.netdev(interface).join("ifindex"))?;
    text.trim().parse().map_err(|_| io::Error::from(ErrorKind::InvalidData))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_request_is_as_large_as_the_kernels() {
        assert_eq!(size_of::<Request>(), 40);
        assert_eq!(TUNSETIFF, 0x4004_54ca);
    }

    #[test]
    fn a_missing_bridge_is_named_with_its_remedy() {
        let root = HostRoot::at("/nonexistent");
        let (cause, remedy) =
            open(&root, "br7", MacAddress([2; 6]), 1).expect_err("there is no such bridge");
        assert_eq!(cause, "the host has no interface br7");
        assert!(remedy.contains("ip link add br7 type bridge"), "{remedy}");
    }
}
