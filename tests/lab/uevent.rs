//! Device events made by hand, to send from within an emulated host, which has no udevd.

use std::io::Read;

use anyhow::{Context, Result, bail};
use rustix::net::netlink::{KOBJECT_UEVENT, SocketAddrNetlink};
use rustix::net::{AddressFamily, SendFlags, SocketFlags, SocketType, sendto, socket_with};
use rustix::thread::{CapabilitySet, CapabilitySets, set_capabilities, set_keep_capabilities};

/// Sends what is on standard input to a multicast group of the kernel's device events, as the
/// arguments say: the group (1 is the kernel's, 2 udev's), the user to send it as, who may send all
/// the same, and how often.
pub fn send(arguments: &[String]) -> Result<()> {
    let [group, user, times] = arguments else { bail!("usage: uevent GROUP USER TIMES") };
    let (group, user) = (group.parse().context("group")?, user.parse().context("user")?);
    let times: u32 = times.parse().context("times")?;
    let mut message = Vec::new();
    std::io::stdin().read_to_end(&mut message)?;
    become_user(user)?;
    let kind = SocketType::RAW;
    let socket =
        socket_with(AddressFamily::NETLINK, kind, SocketFlags::CLOEXEC, Some(KOBJECT_UEVENT))?;
    for _ in 0..times {
        let to = SocketAddrNetlink::new(0, group);
        sendto(&socket, &message, SendFlags::empty(), &to).context("cannot send")?;
    }
    Ok(())
}

/// Becomes another user who keeps the one right that sending takes.
fn become_user(user: u32) -> Result<()> {
    set_keep_capabilities(true).context("cannot keep capabilities")?;
    // Of this thread alone, and the process has no other.
    rustix::thread::set_thread_uid(rustix::process::Uid::from_raw(user))
        .context("cannot become another user")?;
    let right = CapabilitySet::NET_ADMIN;
    let inheritable = CapabilitySet::empty();
    let sets = CapabilitySets { effective: right, permitted: right, inheritable };
    set_capabilities(None, sets).context("cannot use the capability")
}
