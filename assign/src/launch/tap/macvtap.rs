//! A macvtap interface: a second address on an interface of the host's, whose frames are the guest's.
//!
//! Unlike a TAP interface it does not go with its descriptors. So its name is written down in the guest's
//! directory before it is made: the launcher removes the interface with the rest of that, and where it was
//! killed, who finds the name there does.

use std::fs::OpenOptions;
use std::io::{self, ErrorKind};
use std::os::fd::{AsFd, OwnedFd};

use sriov::HostRoot;
use sriov::netlink::{MacvtapMode, NetlinkError, NewMacvtap, Rtnetlink};

use super::{Kind, Network, Tap, Why, attach, attached, log, no_interface};
use crate::control::Place;
use crate::control::interfaces::{self, index};

/// Makes one on the interface `over`.
///
/// # Errors
/// Cause and remedy.
pub fn open(
    root: &HostRoot,
    place: &Place,
    over: &str,
    mode: MacvtapMode,
    network: Network<'_>,
) -> Result<Tap, Why> {
    let Network { guest, name: of_network, mac, queues } = network;
    if !HostRoot::is_component(over) || !root.netdev(over).exists() {
        let remedy = "`ip link` lists those there are.";
        return Err((no_interface(over), remedy.to_owned()));
    }
    let failed = |what: &str, error: &io::Error| (format!("{what}: {error}"), log());
    let name = interfaces::name(mac);
    place
        .note_interface(&name)
        .map_err(|error| failed("it could not be written down what is made for it", &error))?;
    interfaces::remove_left(root, &name)
        .map_err(|error| failed(&format!("{name} is in the way"), &error))?;
    let below = index(root, over).map_err(|error| failed(over, &error))?;
    let unmade = |error: NetlinkError| why_not(root, over, &name, &error);
    let mut netlink = Rtnetlink::open().map_err(|error| failed("no rtnetlink", &error))?;
    netlink.add_macvtap(&NewMacvtap { name: &name, over: below, mac, mode }).map_err(unmade)?;
    let number = index(root, &name).map_err(|error| failed(&name, &error))?;
    // The host has no business on it, and would speak up with the guest's address (IPv6 does so by itself).
    // A kernel without IPv6 has no such file.
    std::fs::write(root.proc("sys/net/ipv6/conf").join(&name).join("disable_ipv6"), "1").ok();
    // For people; nothing depends on it.
    netlink.set_alias(number, &format!("assign: network {of_network} of guest {guest}")).ok();
    netlink.set_up_for_all_groups(number).map_err(|error| match error.source.kind() {
        ErrorKind::ResourceBusy => {
            let cause =
                format!("another macvtap or macvlan interface on {over} has its address {mac}");
            (cause, "`ip -d link` lists them; remove that one.".to_owned())
        }
        _ => (format!("{name} could not be set up: {error}"), log()),
    })?;
    let path = root.dev(&format!("tap{number}"));
    let another = |_| {
        let file = OpenOptions::new().read(true).write(true).open(&path).map_err(|error| {
            let remedy = match error.kind() {
                ErrorKind::NotFound => {
                    "The kernel makes it where /dev is a devtmpfs: mount one.".to_owned()
                }
                _ => log(),
            };
            (format!("{}: {error}", path.display()), remedy)
        })?;
        // Interfaces of other network namespaces have such files in the same /dev, by the same numbers.
        let its = attached(file.as_fd()).unwrap_or_default();
        if its != name {
            let cause =
                format!("{} is not that of {name}, but of another interface", path.display());
            return Err((cause, "Try again: the next one gets another number.".to_owned()));
        }
        attach(&file, name.as_bytes(), queues > 1)
            .map_err(|error| failed(&path.display().to_string(), &error))?;
        Ok(OwnedFd::from(file))
    };
    let files = (0..queues).map(another).collect::<Result<_, Why>>()?;
    Ok(Tap { files, name, index: number, kind: Kind::Sharing })
}

/// Why there cannot be one on `over`.
fn why_not(root: &HostRoot, over: &str, name: &str, error: &NetlinkError) -> Why {
    let controller = std::fs::read_link(root.netdev(over).join("master")).ok();
    let controller = controller.as_deref().and_then(|path| path.file_name()?.to_str());
    match (error.source.raw_os_error(), controller) {
        (Some(libc::EBUSY), Some(controller)) => (
            format!("{over} is a port of {controller}, and cannot be shared beside that"),
            if root.netdev(controller).join("bridge").exists() {
                format!("Put the guest on that: virtio: {{bridge: {controller}}}.")
            } else {
                format!("Share that: virtio: {{macvtap: {controller}}}.")
            },
        ),
        (Some(libc::EEXIST), _) => (
            format!("another interface has the name {name}, which its own would have"),
            format!("Rename that with `ip link set {name} name NEW`, or remove it."),
        ),
        (Some(libc::EOPNOTSUPP), _) => (
            format!("the kernel makes no macvtap interfaces: {error}"),
            "Load its module with `modprobe macvtap`, or use a bridge.".to_owned(),
        ),
        (Some(libc::EPERM | libc::EACCES), _) => (
            format!("no macvtap interface could be made: {error}"),
            "It needs CAP_NET_ADMIN: run assign as root.".to_owned(),
        ),
        _ => (
            format!("no macvtap interface could be made on {over}: {error}"),
            "It has to be one of Ethernet, other than lo; the kernel's log (dmesg) may say more."
                .to_owned(),
        ),
    }
}
