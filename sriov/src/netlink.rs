//! The kernel's rtnetlink, for what has no file: settings of VFs, links up and down, addresses.
//!
//! One blocking socket and one request at a time; the kernel answers before `send` returns to
//! other work, so there is nothing to wait for. One attribute per request, so that an error names
//! its cause.

use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, Ipv4Addr};

use netlink_packet_core::{
    NLM_F_ACK, NLM_F_DUMP, NLM_F_REQUEST, NetlinkDeserializable, NetlinkHeader, NetlinkMessage,
    NetlinkPayload,
};
use netlink_packet_route::address::{AddressAttribute, AddressMessage};
use netlink_packet_route::link::{LinkAttribute, LinkExtentMask, LinkFlags, LinkMessage};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use netlink_sys::protocols::NETLINK_ROUTE;
use netlink_sys::{Socket, SocketAddr};

use crate::mac::MacAddress;
use crate::root::HostRoot;
use crate::simulated::Kernel;

mod answer;
pub(crate) mod attributes;
mod links;
mod macvtap;
mod news;
mod routes;
mod vfs;

pub use answer::NetlinkError;
use answer::Part;
pub use links::{Link, Over};
pub use macvtap::{MacvtapMode, NewMacvtap};
pub use news::{Changed, LinkNews};
pub use routes::Route;
pub use vfs::{VfList, VfValue};

/// The message that tells of a link (uapi/linux/rtnetlink.h).
const RTM_NEWLINK: u16 = 16;

/// Answers to one request: more than any host has addresses; only a bound against running away.
const MOST_DATAGRAMS: usize = 100_000;

/// A connection to the kernel's rtnetlink, in this process's network namespace.
pub struct Rtnetlink {
    line: Line,
    sequence: u32,
}

/// Who answers.
enum Line {
    Kernel(Socket),
    Simulated(Kernel),
}

impl Line {
    fn send(&self, bytes: &[u8]) -> io::Result<()> {
        match self {
            Line::Kernel(socket) => socket.send(bytes, 0).map(drop),
            Line::Simulated(kernel) => kernel.send(b'r', bytes),
        }
    }

    fn receive(&self) -> io::Result<Vec<u8>> {
        match self {
            Line::Kernel(socket) => Ok(socket.recv_from_full()?.0),
            Line::Simulated(kernel) => kernel.receive(),
        }
    }
}

impl std::fmt::Debug for Rtnetlink {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Rtnetlink").field("sequence", &self.sequence).finish_non_exhaustive()
    }
}

impl Rtnetlink {
    /// Connects to the kernel of this process.
    ///
    /// # Errors
    /// The kernel's, should it refuse a netlink socket.
    pub fn open() -> io::Result<Rtnetlink> {
        let mut socket = Socket::new(NETLINK_ROUTE)?;
        socket.bind_auto()?;
        socket.connect(&SocketAddr::new(0, 0))?;
        // Words beside errors, and errors without the request; kernels before 4.12 have neither.
        socket.set_ext_ack(true).ok();
        socket.set_cap_ack(true).ok();
        Ok(Rtnetlink { line: Line::Kernel(socket), sequence: 0 })
    }

    /// Connects to the kernel of a host: this one's, or a simulated one's; `None` for a recorded
    /// tree, which has none.
    ///
    /// # Errors
    /// The kernel's, should it refuse.
    pub fn of(root: &HostRoot) -> io::Result<Option<Rtnetlink>> {
        if root.is_live() {
            return Rtnetlink::open().map(Some);
        }
        let kernel = Kernel::of(root)?;
        Ok(kernel.map(|kernel| Rtnetlink { line: Line::Simulated(kernel), sequence: 0 }))
    }

    /// What a PF has set for its VFs; nothing for an interface that has none (`IFLA_VFINFO_LIST`,
    /// asked for with `RTEXT_FILTER_VF`, and without counters, which would take half the room).
    ///
    /// # Errors
    /// The kernel's, such as ENODEV.
    pub fn vf_list(&mut self, interface: u32) -> io::Result<VfList> {
        let mut link = link_message(interface);
        let mask = vec![LinkExtentMask::Vf, LinkExtentMask::SkipStats];
        link.attributes.push(LinkAttribute::ExtMask(mask));
        let mut list = None;
        self.exchange(RouteNetlinkMessage::GetLink(link), 0, |kind, message| {
            if kind == RTM_NEWLINK {
                list = Some(VfList::decode(message));
            }
            Ok(())
        })?;
        let other = "the kernel's answer is about something else";
        list.ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, other))
    }

    /// The administrative address of each VF of a PF, by VF index.
    ///
    /// # Errors
    /// The kernel's, such as ENODEV.
    pub fn vf_macs(&mut self, interface: u32) -> io::Result<BTreeMap<u16, MacAddress>> {
        let settings = self.vf_list(interface)?.settings;
        Ok(settings.into_iter().map(|(index, settings)| (index, settings.mac)).collect())
    }

    /// Makes one setting of a VF: one attribute, so that an error can only mean that one.
    ///
    /// # Errors
    /// The kernel's, or the driver's, with its words where it has some. EOPNOTSUPP is a driver that
    /// does not know the setting.
    pub fn set_vf(&mut self, interface: u32, vf: u16, value: VfValue) -> Result<(), NetlinkError> {
        let mut link = link_message(interface);
        link.attributes.push(LinkAttribute::VfInfoList(vec![value.encode(vf)]));
        self.exchange(RouteNetlinkMessage::SetLink(link), NLM_F_ACK, |_, _| Ok(()))
    }

    /// Sets an interface up or down (IFF_UP).
    pub fn set_up(&mut self, interface: u32, up: bool) -> io::Result<()> {
        let mut link = link_message(interface);
        link.header.change_mask = LinkFlags::Up;
        if up {
            link.header.flags = LinkFlags::Up;
        }
        self.request(RouteNetlinkMessage::SetLink(link), NLM_F_ACK).map(drop)
    }

    /// Puts an interface on a bridge, bond or team (`IFLA_MASTER`).
    pub fn set_controller(&mut self, interface: u32, controller: u32) -> io::Result<()> {
        let mut link = link_message(interface);
        link.attributes.push(LinkAttribute::Controller(controller));
        self.request(RouteNetlinkMessage::SetLink(link), NLM_F_ACK).map(drop)
    }

    /// Sets an interface's own address (`IFLA_ADDRESS`).
    pub fn set_mac(&mut self, interface: u32, mac: MacAddress) -> io::Result<()> {
        let mut link = link_message(interface);
        link.attributes.push(LinkAttribute::Address(mac.0.to_vec()));
        self.request(RouteNetlinkMessage::SetLink(link), NLM_F_ACK).map(drop)
    }

    /// Every IPv4 address of the host with its interface's number.
    pub fn ipv4_addresses(&mut self) -> io::Result<Vec<(u32, Ipv4Addr)>> {
        let mut message = AddressMessage::default();
        message.header.family = AddressFamily::Inet;
        let mut addresses = Vec::new();
        let request = RouteNetlinkMessage::GetAddress(message);
        self.each(request, NLM_F_DUMP, |answer| {
            let RouteNetlinkMessage::NewAddress(message) = answer else { return };
            // On a point-to-point link Address is the peer, and Local the host's own.
            let own = |attribute: &AddressAttribute| match attribute {
                AddressAttribute::Local(address) => Some(*address),
                _ => None,
            };
            if let Some(IpAddr::V4(address)) = message.attributes.iter().find_map(own) {
                addresses.push((message.header.index, address));
            }
        })?;
        Ok(addresses)
    }

    fn request(
        &mut self,
        message: RouteNetlinkMessage,
        flags: u16,
    ) -> io::Result<Vec<RouteNetlinkMessage>> {
        let mut answers = Vec::new();
        self.each(message, flags, |answer| answers.push(answer))?;
        Ok(answers)
    }

    /// The same without keeping the answers: a full routing table has a million of them.
    fn each(
        &mut self,
        message: RouteNetlinkMessage,
        flags: u16,
        mut answer: impl FnMut(RouteNetlinkMessage),
    ) -> io::Result<()> {
        let decode = |kind, body: &[u8]| {
            let mut header = NetlinkHeader::default();
            header.message_type = kind;
            let message = RouteNetlinkMessage::deserialize(&header, body)
                .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
            answer(message);
            Ok(())
        };
        Ok(self.exchange(message, flags, decode)?)
    }

    /// Sends one request; `answer` gets the type and the body of each message that answers it.
    fn exchange(
        &mut self,
        message: RouteNetlinkMessage,
        flags: u16,
        answer: impl FnMut(u16, &[u8]) -> io::Result<()>,
    ) -> Result<(), NetlinkError> {
        self.sequence = self.sequence.wrapping_add(1);
        let mut header = NetlinkHeader::default();
        header.flags = NLM_F_REQUEST | flags;
        header.sequence_number = self.sequence;
        let mut packet = NetlinkMessage::new(header, NetlinkPayload::from(message));
        packet.finalize();
        let mut bytes = vec![0; packet.buffer_len()];
        packet.serialize(&mut bytes);
        self.line.send(&bytes)?;
        self.answers(flags, answer)
    }

    /// Reads until the answer is complete: a dump ends with "done", a change with an
    /// acknowledgement, a plain question with its one answer.
    fn answers(
        &mut self,
        flags: u16,
        mut answer: impl FnMut(u16, &[u8]) -> io::Result<()>,
    ) -> Result<(), NetlinkError> {
        // The flags of a dump are two bits, one of which others have as well.
        let is_question = flags & NLM_F_DUMP != NLM_F_DUMP && flags & NLM_F_ACK == 0;
        let mut answered = false;
        for _ in 0..MOST_DATAGRAMS {
            let datagram = self.line.receive()?;
            for part in answer::parts(&datagram, self.sequence)? {
                match part {
                    Part::Message(kind, body) => {
                        answered = true;
                        answer(kind, body)?;
                    }
                    Part::End => return Ok(()),
                }
            }
            if is_question && answered {
                return Ok(());
            }
        }
        let endless = io::Error::new(io::ErrorKind::InvalidData, "the kernel's answer has no end");
        Err(endless.into())
    }
}

fn link_message(interface: u32) -> LinkMessage {
    let mut link = LinkMessage::default();
    link.header.index = interface;
    link
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernel_answers_a_dump_and_names_its_error() {
        let mut netlink = Rtnetlink::open().expect("rtnetlink is always there");
        netlink.ipv4_addresses().expect("anybody may list addresses");
        let links = netlink.links().expect("anybody may list interfaces");
        assert!(links.iter().any(|link| link.name == "lo"), "{links:?}");
        netlink.routes().expect("anybody may list routes");
        let lo = links.iter().find(|link| link.name == "lo").map(|link| link.index);
        let here = IpAddr::V4(Ipv4Addr::LOCALHOST);
        assert_eq!(netlink.way_to(here, None).expect("a way to ourselves"), lo);
        let error = netlink.vf_macs(u32::from(u16::MAX)).expect_err("no such interface");
        assert_eq!(error.raw_os_error(), Some(19), "ENODEV: {error}");
    }
}
