//! Interfaces as rtnetlink shows them, with what sysfs has no link for: what lies below a tunnel,
//! and the PCI function of an interface in a network namespace whose sysfs is not ours.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

use netlink_packet_core::NLM_F_DUMP;
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::link::{
    InfoKind, LinkAttribute, LinkExtentMask, LinkFlags, LinkInfo, LinkMessage, LinkXdp, Prop,
    XdpAttached,
};
use netlink_packet_route::nsid::{NsidAttribute, NsidMessage};

use super::{Rtnetlink, link_message};
use crate::address::PciAddress;
use crate::mac::MacAddress;

/// One interface of the namespace that was asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Link {
    /// The kernel's number for it.
    pub index: u32,
    /// Its name.
    pub name: String,
    /// Its other names (`IFLA_PROP_LIST`), sorted.
    pub altnames: Vec<String>,
    /// Whether it is set up (IFF_UP).
    pub up: bool,
    /// Whether it has a carrier (IFF_LOWER_UP): for a card, a cable with something at its other end.
    pub carrier: bool,
    /// Its address, where it has one of six bytes.
    pub mac: Option<MacAddress>,
    /// The address it was made with; it does not follow the one a bond gives its ports
    /// (`IFLA_PERM_ADDRESS`).
    pub permanent_mac: Option<MacAddress>,
    /// The number of the bridge, bond or team it is a port of.
    pub master: Option<u32>,
    /// What it lives on (`IFLA_LINK`), as a tunnel does on the interface it is bound to.
    pub over: Option<Over>,
    /// The PCI function below it (`IFLA_PARENT_DEV_NAME`, Linux 5.14).
    pub pci: Option<PciAddress>,
    /// Whether an XDP program handles its packets.
    pub xdp: bool,
}

/// Where the interface below another one is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Over {
    /// In the same namespace, by its number.
    Here(u32),
    /// In the namespace of this id (as the namespace that was asked counts), by its number there.
    Elsewhere(i32, u32),
}

impl Rtnetlink {
    /// Every interface.
    ///
    /// # Errors
    /// The kernel's, or an answer that is none.
    pub fn links(&mut self) -> io::Result<Vec<Link>> {
        let mut message = link_message(0);
        message.attributes.push(LinkAttribute::ExtMask(vec![LinkExtentMask::SkipStats]));
        let mut links = Vec::new();
        self.each(RouteNetlinkMessage::GetLink(message), NLM_F_DUMP, |answer| {
            if let RouteNetlinkMessage::NewLink(message) = answer {
                links.push(link(&message));
            }
        })?;
        Ok(links)
    }

    /// One interface by its number; `None` where there is none.
    ///
    /// # Errors
    /// The kernel's, or an answer that is none.
    pub fn link(&mut self, index: u32) -> io::Result<Option<Link>> {
        let mut message = link_message(index);
        message.attributes.push(LinkAttribute::ExtMask(vec![LinkExtentMask::SkipStats]));
        let mut found = None;
        let asked = self.each(RouteNetlinkMessage::GetLink(message), 0, |answer| {
            if let RouteNetlinkMessage::NewLink(message) = answer {
                found = Some(link(&message));
            }
        });
        match asked {
            Err(error) if error.raw_os_error() == Some(libc::ENODEV) => Ok(None),
            asked => asked.map(|()| found),
        }
    }

    /// The id by which this namespace knows another one; `None` where it has none yet
    /// (`RTM_GETNSID`).
    ///
    /// # Errors
    /// The kernel's.
    pub fn namespace_id(&mut self, other: BorrowedFd<'_>) -> io::Result<Option<i32>> {
        let mut message = NsidMessage::default();
        let number = u32::try_from(other.as_raw_fd()).unwrap_or(u32::MAX);
        message.attributes.push(NsidAttribute::Fd(number));
        let answers = self.request(RouteNetlinkMessage::GetNsId(message), 0)?;
        Ok(answers.into_iter().find_map(|answer| {
            let RouteNetlinkMessage::NewNsId(message) = answer else { return None };
            message.attributes.iter().find_map(|attribute| match attribute {
                // -1 stands for "none".
                NsidAttribute::Id(id) if *id >= 0 => Some(*id),
                _ => None,
            })
        }))
    }
}

fn link(message: &LinkMessage) -> Link {
    let mut link = Link {
        index: message.header.index,
        name: String::new(),
        altnames: Vec::new(),
        up: message.header.flags.contains(LinkFlags::Up),
        carrier: message.header.flags.contains(LinkFlags::LowerUp),
        mac: None,
        permanent_mac: None,
        master: None,
        over: None,
        pci: None,
        xdp: false,
    };
    let (mut below, mut namespace, mut is_pair) = (None, None, false);
    for attribute in &message.attributes {
        match attribute {
            LinkAttribute::IfName(name) => link.name.clone_from(name),
            LinkAttribute::Address(bytes) => link.mac = mac(bytes),
            LinkAttribute::PermAddress(bytes) => link.permanent_mac = mac(bytes),
            LinkAttribute::Controller(index) if *index > 0 => link.master = Some(*index),
            LinkAttribute::Link(index) if *index > 0 => below = Some(*index),
            LinkAttribute::LinkNetNsId(id) => namespace = Some(*id),
            LinkAttribute::ParentDevName(name) => link.pci = name.parse().ok(),
            LinkAttribute::PropList(properties) => {
                link.altnames.extend(properties.iter().filter_map(|property| match property {
                    Prop::AltIfName(name) => Some(name.clone()),
                    _ => None,
                }));
                link.altnames.sort();
            }
            LinkAttribute::Xdp(facts) => link.xdp = facts.iter().any(has_program),
            LinkAttribute::LinkInfo(facts) => {
                // Their link is the other end of the cable.
                let pair = |kind: &InfoKind| {
                    matches!(kind, InfoKind::Veth | InfoKind::Vxcan | InfoKind::Netkit)
                };
                is_pair = facts.iter().any(|fact| matches!(fact, LinkInfo::Kind(k) if pair(k)));
            }
            _ => {}
        }
    }
    link.over = match (below, namespace) {
        _ if is_pair => None,
        (Some(index), Some(id)) => Some(Over::Elsewhere(id, index)),
        (Some(index), None) if index != link.index => Some(Over::Here(index)),
        _ => None,
    };
    link
}

fn mac(bytes: &[u8]) -> Option<MacAddress> {
    <[u8; 6]>::try_from(bytes).ok().map(MacAddress)
}

fn has_program(fact: &LinkXdp) -> bool {
    matches!(fact, LinkXdp::Attached(attached) if *attached != XdpAttached::None)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_interface_has_all_its_names() {
        let mut message = LinkMessage::default();
        message.header.index = 2;
        message.attributes = vec![
            LinkAttribute::IfName("eth0".to_owned()),
            LinkAttribute::PropList(vec![
                Prop::AltIfName("wan".to_owned()),
                Prop::AltIfName("enp1s0f0".to_owned()),
            ]),
            LinkAttribute::PermAddress(vec![0x52, 0x54, 0, 0, 0, 1]),
        ];
        let link = link(&message);
        assert_eq!((link.index, link.name.as_str()), (2, "eth0"));
        assert_eq!(link.altnames, ["enp1s0f0", "wan"]);
        assert_eq!(link.permanent_mac, Some(MacAddress([0x52, 0x54, 0, 0, 0, 1])));
    }
}
