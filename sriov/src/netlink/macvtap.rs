//! Interfaces that share another one: macvtap, whose frames a program reads and writes.

use netlink_packet_core::{NLM_F_ACK, NLM_F_CREATE, NLM_F_EXCL};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::link::{
    InfoData, InfoKind, InfoMacVtap, LinkAttribute, LinkFlags, LinkInfo, MacVtapMode,
};
use serde::{Deserialize, Serialize};

use super::{NetlinkError, Rtnetlink, link_message};
use crate::mac::MacAddress;

/// How the macvtap interfaces on one interface stand to each other (uapi/linux/if_link.h,
/// `IFLA_MACVLAN_MODE`). There is no `passthru`: it would take the interface below from the host.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, Default)]
#[serde(rename_all = "kebab-case")]
pub enum MacvtapMode {
    /// They reach each other at once.
    #[default]
    Bridge,
    /// They reach each other by a switch that sends frames back where they came from.
    Vepa,
    /// They do not reach each other.
    Private,
}

/// A macvtap interface to be made.
#[derive(Debug, Clone, Copy)]
pub struct NewMacvtap<'a> {
    /// Its name: at most 15 bytes.
    pub name: &'a str,
    /// The number of the interface that it shares.
    pub over: u32,
    /// Its address: frames to others do not reach it.
    pub mac: MacAddress,
    /// How it stands to others.
    pub mode: MacvtapMode,
}

impl Rtnetlink {
    /// Makes a macvtap interface, which is down.
    ///
    /// # Errors
    /// The kernel's: EBUSY where the interface below is a port of something, EEXIST where the name is
    /// taken, EOPNOTSUPP where the kernel has no macvtap, EINVAL for one below that has no Ethernet.
    pub fn add_macvtap(&mut self, new: &NewMacvtap<'_>) -> Result<(), NetlinkError> {
        let mode = match new.mode {
            MacvtapMode::Bridge => MacVtapMode::Bridge,
            MacvtapMode::Vepa => MacVtapMode::Vepa,
            MacvtapMode::Private => MacVtapMode::Private,
        };
        let mut link = link_message(0);
        link.attributes = vec![
            LinkAttribute::IfName(new.name.to_owned()),
            LinkAttribute::Link(new.over),
            LinkAttribute::Address(new.mac.0.to_vec()),
            LinkAttribute::LinkInfo(vec![
                LinkInfo::Kind(InfoKind::MacVtap),
                LinkInfo::Data(InfoData::MacVtap(vec![InfoMacVtap::Mode(mode)])),
            ]),
        ];
        let flags = NLM_F_ACK | NLM_F_CREATE | NLM_F_EXCL;
        self.exchange(RouteNetlinkMessage::NewLink(link), flags, |_, _| Ok(()))
    }

    /// Sets an interface up, to hear all multicast groups: which ones a guest listens to only the guest
    /// knows (IFF_UP, IFF_ALLMULTI).
    ///
    /// # Errors
    /// The kernel's, such as EBUSY for a macvtap interface whose address another one has.
    pub fn set_up_for_all_groups(&mut self, interface: u32) -> Result<(), NetlinkError> {
        let mut link = link_message(interface);
        link.header.flags = LinkFlags::Up | LinkFlags::Allmulti;
        link.header.change_mask = link.header.flags;
        self.exchange(RouteNetlinkMessage::SetLink(link), NLM_F_ACK, |_, _| Ok(()))
    }

    /// Writes down what an interface is for (`IFLA_IFALIAS`, at most 255 bytes).
    ///
    /// # Errors
    /// The kernel's.
    pub fn set_alias(&mut self, interface: u32, alias: &str) -> Result<(), NetlinkError> {
        let mut link = link_message(interface);
        link.attributes.push(LinkAttribute::IfAlias(alias.to_owned()));
        self.exchange(RouteNetlinkMessage::SetLink(link), NLM_F_ACK, |_, _| Ok(()))
    }

    /// Removes an interface that is none of a device.
    ///
    /// # Errors
    /// The kernel's: ENODEV where there is none, EOPNOTSUPP for a device's.
    pub fn delete(&mut self, interface: u32) -> Result<(), NetlinkError> {
        let link = link_message(interface);
        self.exchange(RouteNetlinkMessage::DelLink(link), NLM_F_ACK, |_, _| Ok(()))
    }
}
