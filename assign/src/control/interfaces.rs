//! Interfaces of guests that do not go with their descriptors: macvtap ones.

use std::io::{self, ErrorKind};

use sriov::netlink::Rtnetlink;
use sriov::{HostRoot, MacAddress};

/// What their names begin with.
const PREFIX: &str = "as-mv";

/// The name of the one with this address, which is that of one network of one guest.
pub fn name(MacAddress([_, _, c, d, e, f]): MacAddress) -> String {
    format!("{PREFIX}{c:02x}{d:02x}{e:02x}{f:02x}")
}

/// Removes an interface of this name that a killed launcher left. Others than ours stay.
///
/// # Errors
/// The kernel's.
pub fn remove_left(root: &HostRoot, name: &str) -> io::Result<()> {
    let is_ours = HostRoot::is_component(name) && name.starts_with(PREFIX);
    // Nobody's interfaces are in a tree that somebody recorded.
    if !root.is_live() || !is_ours || !root.netdev(name).join("macvtap").exists() {
        return Ok(());
    }
    Ok(Rtnetlink::open()?.delete(index(root, name)?)?)
}

/// The kernel's number for an interface.
///
/// # Errors
/// The kernel's, such as that there is none.
pub fn index(root: &HostRoot, interface: &str) -> io::Result<u32> {
    let text = std::fs::read_to_string(root.netdev(interface).join("ifindex"))?;
    text.trim().parse().map_err(|_| io::Error::from(ErrorKind::InvalidData))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_but_our_own_interfaces_is_removed() {
        let name = name(MacAddress([0x02, 0x11, 0x22, 0x33, 0x44, 0x55]));
        assert_eq!(name, "as-mv22334455");
        assert!(name.len() <= 15, "as long as a name can be: {name}");
        for other in ["lo", "as-mv/../lo", "as-mv00000000", ""] {
            remove_left(&HostRoot::live(), other).expect(other);
        }
        assert!(HostRoot::live().netdev("lo").exists());
    }
}
