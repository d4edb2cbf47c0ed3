//! A PF's interface, and what it sets for its VFs, over rtnetlink.

use std::io;
use std::time::Duration;

use super::vf_settings::{self, Asked};
use super::{Done, function, refuse_if_configured, stale, wait};
use crate::address::{PciAddress, VfRef};
use crate::attribute;
use crate::facts::net::{self, Netdev};
use crate::facts::reader::Reader;
use crate::failure::{ChangeError, Reason};
use crate::mac::MacAddress;
use crate::netlink::{Rtnetlink, VfValue};
use crate::root::HostRoot;

/// A link needs about 1.5 s on real copper; without a cable it never comes.
const CARRIER_APPEARS: Duration = Duration::from_secs(5);
/// How long a link may take to drop after its NIC was told to reset.
const RESET_SHOWS: Duration = Duration::from_millis(200);

/// Sets a PF's interface up or down. Its link takes a while to come: see [`await_carrier`].
pub fn set_up(root: &HostRoot, pf: PciAddress, from: bool, to: bool) -> Result<Done, ChangeError> {
    let port = port(root, pf)?;
    if port.up == to {
        return Ok(Done::Already);
    }
    if port.up != from {
        return Err(stale(&port.name, word(port.up), word(from)));
    }
    if !to {
        refuse_if_configured(root, &function(root, pf)?, "set its interface down")?;
    }
    let tried = format!("set {} {}", port.name, if to { "up" } else { "down" });
    rtnetlink(root, pf, &tried)?
        .set_up(port.index, to)
        .map_err(|error| refused(pf, &tried, &error))?;
    if self::port(root, pf)?.up != to {
        let message = format!("could not {tried}: the kernel accepted it and did not do it");
        return Err(ChangeError::new(Reason::NotObserved, pf, message));
    }
    Ok(Done::Changed)
}

/// Sets whether a PF's interface takes addresses and routes that routers advertise.
pub fn set_accept_ra(
    root: &HostRoot,
    pf: PciAddress,
    from: u8,
    to: u8,
) -> Result<Done, ChangeError> {
    let present = || {
        let port = port(root, pf)?;
        let value = port.accept_ra.ok_or_else(|| {
            let message = format!("{} has no IPv6 to set", port.name);
            ChangeError::new(Reason::NoInterface, pf, message)
        })?;
        Ok((port, value))
    };
    let (port, before) = present()?;
    if before == to {
        return Ok(Done::Already);
    }
    if before != from {
        let accept_ra = |value| format!("accept_ra {value}");
        return Err(stale(&port.name, &accept_ra(before), &accept_ra(from)));
    }
    let tried = format!("set whether {} listens to routers", port.name);
    attribute::write(root, &root.accept_ra(&port.name), &format!("{to}\n"))
        .map_err(|error| ChangeError::attribute(pf, &tried, &error))?;
    match present()? {
        (_, seen) if seen == to => Ok(Done::Changed),
        (_, seen) => {
            let message = format!("could not {tried}: accept_ra is still {seen}");
            Err(ChangeError::new(Reason::NotObserved, pf, message))
        }
    }
}

fn word(up: bool) -> &'static str {
    if up { "its interface up" } else { "its interface down" }
}

/// Sets a VF's administrative address and reads it back. It holds from the VF's next reset on,
/// so it is set before the guest starts.
pub fn set_vf_mac(root: &HostRoot, vf: VfRef, to: MacAddress) -> Result<Done, ChangeError> {
    write_vf_mac(root, vf, to, false)
}

/// The same also where the PF reports that very address already: some report what the VF's driver
/// chose for itself, and forget it when the VF is reset (igb, `igb_vf_reset_event`).
pub fn fix_vf_mac(root: &HostRoot, vf: VfRef, to: MacAddress) -> Result<(), ChangeError> {
    write_vf_mac(root, vf, to, true).map(drop)
}

fn write_vf_mac(
    root: &HostRoot,
    vf: VfRef,
    to: MacAddress,
    always: bool,
) -> Result<Done, ChangeError> {
    let port = port(root, vf.pf)?;
    let tried = format!("set its address to {to}");
    let mut netlink = rtnetlink(root, vf, &tried)?;
    let present = |netlink: &mut Rtnetlink| {
        let macs = netlink.vf_macs(port.index).map_err(|error| refused(vf, &tried, &error))?;
        macs.get(&vf.index).copied().ok_or_else(|| {
            let message = format!("cannot {tried}: {} does not know this VF", port.name);
            ChangeError::new(Reason::NoSuchDevice, vf, message)
        })
    };
    if present(&mut netlink)? == to && !always {
        return Ok(Done::Already);
    }
    netlink.set_vf(port.index, vf.index, VfValue::Mac(to)).map_err(|error| {
        let driver = function(root, vf.pf).ok().and_then(|pf| pf.driver);
        vf_settings::explain(vf, driver.as_deref(), Asked::Mac(to), &error)
    })?;
    let seen = present(&mut netlink)?;
    if seen != to {
        let message = format!("could not {tried}: the PF's driver reports {seen}");
        return Err(ChangeError::new(Reason::NotObserved, vf, message));
    }
    Ok(Done::Changed)
}

/// Whether the PF has an interface with a link now.
fn has_carrier(root: &HostRoot, pf: PciAddress) -> bool {
    net::port(&mut Reader::new(root), pf).is_some_and(|port| port.carrier == Some(true))
}

/// Whether the PF's interface is up and ever had a link, so that one is worth waiting for: a port
/// without a cable is not.
pub fn expects_carrier(root: &HostRoot, pf: PciAddress) -> bool {
    let Some(port) = net::port(&mut Reader::new(root), pf) else { return false };
    let ever = attribute::read(&root.netdev(&port.name).join("carrier_up_count"));
    port.up && ever.ok().flatten().is_some_and(|count| count != "0")
}

/// Waits a bounded time for the link of a PF; says whether it is there.
pub fn await_carrier(root: &HostRoot, pf: PciAddress) -> bool {
    wait(CARRIER_APPEARS, || has_carrier(root, pf))
}

/// The same for a link that is about to be reset: it may not have gone yet.
pub fn await_carrier_again(root: &HostRoot, pf: PciAddress) -> bool {
    wait(RESET_SHOWS, || !has_carrier(root, pf));
    await_carrier(root, pf)
}

pub(super) fn port(root: &HostRoot, pf: PciAddress) -> Result<Netdev, ChangeError> {
    net::port(&mut Reader::new(root), pf).ok_or_else(|| {
        let message = "has no network interface by which its VFs could be set";
        ChangeError::new(Reason::NoInterface, pf, message).with_remedy(
            "Bind the host's driver to it; an interface that was moved to another network \
             namespace has to come back first.",
        )
    })
}

pub(super) fn rtnetlink(
    root: &HostRoot,
    thing: impl ToString,
    tried: &str,
) -> Result<Rtnetlink, ChangeError> {
    match Rtnetlink::of(root) {
        Ok(Some(netlink)) => Ok(netlink),
        Ok(None) => {
            let message = format!("cannot {tried}: a recorded tree has no kernel to do it");
            Err(ChangeError::new(Reason::NotThisHost, thing, message)
                .with_remedy("Leave out --root to change this host."))
        }
        Err(error) => Err(refused(thing, tried, &error)),
    }
}

pub(super) fn refused(thing: impl ToString, tried: &str, error: &io::Error) -> ChangeError {
    let message = format!("cannot {tried}: {error}");
    if error.kind() == io::ErrorKind::PermissionDenied {
        ChangeError::new(Reason::NotPermitted, thing, message).with_remedy("Run assign as root.")
    } else {
        ChangeError::new(Reason::KernelRefused, thing, message)
    }
}
