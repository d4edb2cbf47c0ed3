//! Addresses and routes of the host's own, by interface.
//!
//! procfs has them as tables; where a kernel can be asked, rtnetlink tells more: IPv4 addresses,
//! routing tables other than the main one, and all ways of a multipath route. What a router's
//! advertisement made is marked in procfs alone, so IPv6 is read there always.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv6Addr};

use super::reader::Reader;
use crate::netlink::{Route, Rtnetlink};

/// The route rejects (uapi/linux/route.h).
const RTF_REJECT: u32 = 0x200;
/// The route is to an address of the host itself (uapi/linux/ipv6_route.h).
const RTF_LOCAL: u32 = 0x8000_0000;
/// The route comes from a router's advertisement (uapi/linux/ipv6_route.h).
const RTF_ADDRCONF: u32 = 0x4_0000;
/// The address was set by hand or a program, not by advertisement (uapi/linux/if_addr.h).
const IFA_F_PERMANENT: u32 = 0x80;

/// Interfaces that the host's own traffic uses, by name.
#[derive(Debug, Default)]
pub(super) struct Routes {
    /// Some route leaves through it.
    pub any: BTreeSet<String>,
    /// A default route does.
    pub default: BTreeSet<String>,
    /// By somebody, not by advertisement.
    pub configured: BTreeSet<String>,
    /// Its addresses.
    pub addresses: BTreeMap<String, Vec<IpAddr>>,
}

impl Routes {
    /// The main table of IPv4, all that files tell of it.
    pub fn read_v4(&mut self, reader: &mut Reader) {
        let routes = reader.root.proc("net/route");
        for line in reader.table(&routes).lines().skip(1) {
            self.add_v4(line);
        }
    }

    /// IPv6: routes of all tables, and addresses; `net` is the directory of procfs for the network
    /// namespace that is meant.
    pub fn read_v6(&mut self, reader: &mut Reader, net: &str) {
        let routes = reader.root.proc(net).join("ipv6_route");
        for line in reader.table(&routes).lines() {
            self.add_v6(line);
        }
        let addresses = reader.root.proc(net).join("if_inet6");
        for line in reader.table(&addresses).lines() {
            self.add_address(line);
        }
    }

    /// What only the kernel tells, with the names of the interfaces it numbers.
    pub fn ask(
        &mut self,
        reader: &mut Reader,
        netlink: &mut Rtnetlink,
        names: &BTreeMap<u32, String>,
    ) {
        if let Err(error) = self.ask_v4_addresses(netlink, names) {
            let path = reader.root.net_class();
            reader.note(&path, format!("the host's IPv4 addresses cannot be read: {error}"));
        }
        match netlink.routes() {
            Ok(routes) => {
                for route in routes.iter().filter(|route| !route.link_local) {
                    let through = route.interfaces.iter().filter_map(|index| names.get(index));
                    through.for_each(|name| self.add_route(name, route));
                }
            }
            Err(error) => {
                let path = reader.root.net_class();
                reader.note(&path, format!("the host's routes cannot be read: {error}"));
            }
        }
    }

    fn ask_v4_addresses(
        &mut self,
        netlink: &mut Rtnetlink,
        names: &BTreeMap<u32, String>,
    ) -> std::io::Result<()> {
        for (index, address) in netlink.ipv4_addresses()? {
            let Some(name) = names.get(&index) else { continue };
            self.configured.insert(name.clone());
            self.addresses.entry(name.clone()).or_default().push(IpAddr::V4(address));
        }
        Ok(())
    }

    fn add_route(&mut self, name: &str, route: &Route) {
        if name == "lo" {
            return;
        }
        self.any.insert(name.to_owned());
        // The kernel's own of IPv6 may come of an advertisement: procfs tells.
        if !(route.ipv6 && route.automatic) {
            self.configured.insert(name.to_owned());
        }
        if route.default {
            self.default.insert(name.to_owned());
        }
    }

    /// Interface, destination, gateway, flags, ..., mask at 7 (net/ipv4/fib_trie.c).
    fn add_v4(&mut self, line: &str) -> Option<()> {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let name = *fields.first()?;
        let number = |at: usize| u32::from_str_radix(fields.get(at)?, 16).ok();
        let (destination, flags, mask) = (number(1)?, number(3)?, number(7)?);
        if flags & RTF_REJECT != 0 || name == "*" {
            return None;
        }
        self.any.insert(name.to_owned());
        self.configured.insert(name.to_owned());
        if destination == 0 && mask == 0 {
            self.default.insert(name.to_owned());
        }
        Some(())
    }

    /// Destination, its length, ..., flags at 8, interface at 9 (net/ipv6/route.c). The kernel
    /// gives every interface link-local and multicast routes of its own, which mean nothing.
    fn add_v6(&mut self, line: &str) -> Option<()> {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let (destination, name) = (*fields.first()?, *fields.get(9)?);
        let length = u8::from_str_radix(fields.get(1)?, 16).ok()?;
        let flags = u32::from_str_radix(fields.get(8)?, 16).ok()?;
        if flags & (RTF_REJECT | RTF_LOCAL) != 0
            || destination.starts_with("fe8")
            || destination.starts_with("ff")
            || name == "lo"
        {
            return None;
        }
        self.any.insert(name.to_owned());
        if flags & RTF_ADDRCONF == 0 {
            self.configured.insert(name.to_owned());
        }
        if length == 0 {
            self.default.insert(name.to_owned());
        }
        Some(())
    }

    /// Address, index, length, scope, flags, interface (net/ipv6/addrconf.c).
    fn add_address(&mut self, line: &str) -> Option<()> {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let (digits, name) = (*fields.first()?, *fields.get(5)?);
        let address = Ipv6Addr::from(u128::from_str_radix(digits, 16).ok()?);
        if !address.is_unicast_link_local() {
            let flags = u32::from_str_radix(fields.get(4)?, 16).ok()?;
            if flags & IFA_F_PERMANENT != 0 {
                self.configured.insert(name.to_owned());
            }
            self.addresses.entry(name.to_owned()).or_default().push(IpAddr::V6(address));
        }
        Some(())
    }
}
