//! Routes of every table and both families: procfs shows the main table of IPv4 only, and of a
//! route over several ways the first.

use std::io;
use std::net::IpAddr;

use netlink_packet_core::NLM_F_DUMP;
use netlink_packet_route::route::{
    RouteAddress, RouteAttribute, RouteMessage, RouteProtocol, RouteType,
};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};

use super::Rtnetlink;

/// A route by which the host sends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Route {
    /// The numbers of the interfaces it leaves through: several for a multipath route.
    pub interfaces: Vec<u32>,
    /// To everywhere.
    pub default: bool,
    /// To an IPv6 link-local or multicast destination: the kernel gives every interface these.
    pub link_local: bool,
    /// Whether the kernel made it by itself, from an address or an advertisement.
    pub automatic: bool,
    /// Whether it is for IPv6.
    pub ipv6: bool,
}

impl Rtnetlink {
    /// Unicast routes of all tables.
    ///
    /// # Errors
    /// The kernel's, or an answer that is none.
    pub fn routes(&mut self) -> io::Result<Vec<Route>> {
        let mut routes = Vec::new();
        for family in [AddressFamily::Inet, AddressFamily::Inet6] {
            let mut message = RouteMessage::default();
            message.header.address_family = family;
            let request = RouteNetlinkMessage::GetRoute(message);
            let done = self.each(request, NLM_F_DUMP, |answer| {
                if let RouteNetlinkMessage::NewRoute(message) = answer {
                    add(&mut routes, &message);
                }
            });
            match done {
                // A kernel without IPv6 has no such family.
                Err(error) if family == AddressFamily::Inet6 && is_unsupported(&error) => {}
                done => done?,
            }
        }
        Ok(routes)
    }

    /// The number of the interface by which the host answers `to` from its own address `from`;
    /// `None` where it has no way.
    ///
    /// # Errors
    /// The kernel's, other than that there is no route.
    pub fn way_to(&mut self, to: IpAddr, from: Option<IpAddr>) -> io::Result<Option<u32>> {
        let mut message = RouteMessage::default();
        let (family, bits) = match to {
            IpAddr::V4(_) => (AddressFamily::Inet, 32),
            IpAddr::V6(_) => (AddressFamily::Inet6, 128),
        };
        message.header.address_family = family;
        message.header.destination_prefix_length = bits;
        message.attributes.push(RouteAttribute::Destination(RouteAddress::from(to)));
        if let Some(from) = from.filter(|from| from.is_ipv4() == to.is_ipv4()) {
            message.header.source_prefix_length = bits;
            message.attributes.push(RouteAttribute::Source(RouteAddress::from(from)));
        }
        match self.request(RouteNetlinkMessage::GetRoute(message), 0) {
            Ok(answers) => Ok(answers.into_iter().find_map(|answer| match answer {
                RouteNetlinkMessage::NewRoute(message) => interfaces(&message).first().copied(),
                _ => None,
            })),
            Err(error) if is_no_way(&error) => Ok(None),
            Err(error) => Err(error),
        }
    }
}

fn is_unsupported(error: &io::Error) -> bool {
    use rustix::io::Errno;
    let errno = error.raw_os_error();
    [Errno::OPNOTSUPP, Errno::AFNOSUPPORT].iter().any(|no| errno == Some(no.raw_os_error()))
}

fn is_no_way(error: &io::Error) -> bool {
    use rustix::io::Errno;
    let errno = error.raw_os_error();
    let no_way = [Errno::NETUNREACH, Errno::HOSTUNREACH, Errno::INVAL, Errno::ACCESS];
    no_way.iter().any(|no| errno == Some(no.raw_os_error()))
}

/// Routes to the host itself are no way out.
fn add(routes: &mut Vec<Route>, message: &RouteMessage) {
    if message.header.kind != RouteType::Unicast {
        return;
    }
    let to = message.attributes.iter().find_map(|attribute| match attribute {
        RouteAttribute::Destination(RouteAddress::Inet6(address)) => Some(*address),
        _ => None,
    });
    let route = Route {
        interfaces: interfaces(message),
        default: message.header.destination_prefix_length == 0,
        link_local: to.is_some_and(|to| to.is_unicast_link_local() || to.is_multicast()),
        automatic: matches!(message.header.protocol, RouteProtocol::Kernel | RouteProtocol::Ra),
        ipv6: message.header.address_family == AddressFamily::Inet6,
    };
    // A router's million routes leave by few interfaces: what is said already is not kept.
    if !route.interfaces.is_empty() && routes.last() != Some(&route) {
        routes.push(route);
    }
}

fn interfaces(message: &RouteMessage) -> Vec<u32> {
    let mut found = Vec::new();
    for attribute in &message.attributes {
        match attribute {
            RouteAttribute::Oif(index) => found.push(*index),
            RouteAttribute::MultiPath(ways) => {
                found.extend(ways.iter().map(|way| way.interface_index));
            }
            _ => {}
        }
    }
    found
}
