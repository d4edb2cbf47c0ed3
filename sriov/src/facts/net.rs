//! Network interfaces, and what of the host's own traffic they carry.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv6Addr};
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::reader::Reader;
use crate::address::PciAddress;
use crate::mac::MacAddress;
use crate::netlink::Rtnetlink;

/// The interface is set up (uapi/linux/if.h).
const IFF_UP: u32 = 1;
/// The route rejects (uapi/linux/route.h).
const RTF_REJECT: u32 = 0x200;
/// The route is to an address of the host itself (uapi/linux/ipv6_route.h).
const RTF_LOCAL: u32 = 0x8000_0000;
/// The route comes from a router's advertisement (uapi/linux/ipv6_route.h).
const RTF_ADDRCONF: u32 = 0x4_0000;
/// The address was set by hand or a program, not by advertisement (uapi/linux/if_addr.h).
const IFA_F_PERMANENT: u32 = 0x80;

/// One network interface of this network namespace.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Netdev {
    /// Its name now; udev and people rename interfaces.
    pub name: String,
    /// The kernel's number for it, until it goes away.
    pub index: u32,
    /// Its address; `None` for interfaces without a six-byte one.
    pub mac: Option<MacAddress>,
    /// The address it was made with, which a bond does not change; `None` where the kernel was
    /// not asked (a recorded tree) or does not say.
    pub permanent_mac: Option<MacAddress>,
    /// Whether it is set up (IFF_UP).
    pub up: bool,
    /// Whether there is a link; `None` while the interface is down.
    pub carrier: Option<bool>,
    /// The bridge, bond or team it is a port of.
    pub master: Option<String>,
    /// Interfaces that live on it, such as VLANs, bonds and bridges, sorted.
    pub uppers: Vec<String>,
    /// The PCI function below it.
    pub pci: Option<PciAddress>,
    /// The driver's name for the port (`p0`, or `pf0vf1` for a representor).
    pub port_name: Option<String>,
    /// Addresses of the host's own on it, without IPv6 link-local ones.
    pub addresses: Vec<IpAddr>,
    /// Whether any IPv4 or IPv6 route of the host leaves through it, link-local ones aside.
    pub routes: bool,
    /// Whether a default route does.
    pub default_route: bool,
    /// Whether it takes addresses and routes that routers advertise (`accept_ra`: 0 no, 1 unless the
    /// host forwards, 2 yes); `None` without IPv6.
    pub accept_ra: Option<u8>,
    /// All its addresses and routes are ones that routers advertised (IPv6): the kernel makes them
    /// by itself whenever the interface is up.
    pub autoconfigured: bool,
}

impl Netdev {
    /// A port that stands for a VF inside a NIC's switch (switchdev mode), not for the wire.
    pub fn is_representor(&self) -> bool {
        self.port_name.as_deref().is_some_and(|name| {
            let uplink = name.strip_prefix('p').is_some_and(|rest| {
                !rest.is_empty() && rest.bytes().all(|byte| byte.is_ascii_digit())
            });
            name.contains("vf") || name.contains("sf") || (name.contains("pf") && !uplink)
        })
    }
}

/// Every interface, sorted by name.
pub fn read(reader: &mut Reader, netlink: Option<&mut Rtnetlink>) -> Vec<Netdev> {
    let class = reader.root.net_class();
    let names = reader.entries(&class);
    let mut netdevs: Vec<Netdev> = names.iter().filter_map(|name| read_one(reader, name)).collect();
    let routes = Routes::read(reader);
    for netdev in &mut netdevs {
        netdev.routes = routes.any.contains(&netdev.name);
        netdev.default_route = routes.default.contains(&netdev.name);
        netdev.addresses = routes.addresses.get(&netdev.name).cloned().unwrap_or_default();
        netdev.autoconfigured = !routes.configured.contains(&netdev.name)
            && (netdev.routes || !netdev.addresses.is_empty());
    }
    if let Some(netlink) = netlink {
        add_addresses(reader, netlink, &mut netdevs);
        add_permanent_macs(reader, netlink, &mut netdevs);
    }
    netdevs
}

/// IPv4 addresses have no file that names their interface: the kernel is asked.
fn add_addresses(reader: &mut Reader, netlink: &mut Rtnetlink, netdevs: &mut [Netdev]) {
    let addresses = netlink.ipv4_addresses().unwrap_or_else(|error| {
        let class = reader.root.net_class();
        reader.note(&class, format!("the host's IPv4 addresses cannot be read: {error}"));
        Vec::new()
    });
    for (index, address) in addresses {
        if let Some(netdev) = netdevs.iter_mut().find(|netdev| netdev.index == index) {
            netdev.addresses.push(IpAddr::V4(address));
            netdev.autoconfigured = false;
        }
    }
}

fn add_permanent_macs(reader: &mut Reader, netlink: &mut Rtnetlink, netdevs: &mut [Netdev]) {
    let macs = netlink.permanent_macs().unwrap_or_else(|error| {
        let class = reader.root.net_class();
        reader.note(&class, format!("permanent addresses cannot be read: {error}"));
        BTreeMap::new()
    });
    for netdev in netdevs {
        netdev.permanent_mac = macs.get(&netdev.index).copied();
    }
}

/// The interface through which a PF's VFs are set, as it is now, without routes and addresses.
pub fn port(reader: &mut Reader, pf: PciAddress) -> Option<Netdev> {
    let names = reader.entries(&reader.root.pci_attribute(pf, "net"));
    let mut ports = names.iter().filter_map(|name| read_one(reader, name));
    ports.find(|netdev| !netdev.is_representor())
}

fn read_one(reader: &mut Reader, name: &str) -> Option<Netdev> {
    let directory = reader.root.netdev(name);
    let at = |attribute: &str| directory.join(attribute);
    // Files such as bonding_masters lie among the links.
    let target = reader.accept(crate::attribute::link_target(&directory))?;
    let index = reader.number(&at("ifindex"))?;
    let uppers = reader.entries(&directory);
    Some(Netdev {
        name: name.to_owned(),
        index,
        mac: reader.text(&at("address")).and_then(|text| text.parse().ok()),
        permanent_mac: None,
        up: reader.number::<u32>(&at("flags")).unwrap_or(0) & IFF_UP != 0,
        // Reading it while the interface is down is EINVAL, which comes as None.
        carrier: reader.flag(&at("carrier")),
        master: reader.link_name(&at("master")),
        uppers: uppers
            .iter()
            .filter_map(|entry| entry.strip_prefix("upper_"))
            .map(str::to_owned)
            .collect(),
        pci: super::pci::function_in(&target),
        port_name: port_name(&at("phys_port_name")),
        addresses: Vec::new(),
        routes: false,
        default_route: false,
        accept_ra: reader.number(&reader.root.accept_ra(name)),
        autoconfigured: false,
    })
}

/// Most drivers answer EOPNOTSUPP, which is no problem worth noting.
fn port_name(path: &Path) -> Option<String> {
    crate::attribute::read(path).ok().flatten().filter(|name| !name.is_empty())
}

/// Interfaces that the host's own traffic uses, from the tables of procfs.
#[derive(Default)]
struct Routes {
    any: BTreeSet<String>,
    default: BTreeSet<String>,
    /// By somebody, not by advertisement.
    configured: BTreeSet<String>,
    addresses: BTreeMap<String, Vec<IpAddr>>,
}

impl Routes {
    fn read(reader: &mut Reader) -> Routes {
        let mut routes = Routes::default();
        let proc = |file| reader.root.proc(file);
        let (v4, v6) = (proc("net/route"), proc("net/ipv6_route"));
        let addresses = proc("net/if_inet6");
        for line in reader.table(&v4).lines().skip(1) {
            routes.add_v4(line);
        }
        for line in reader.table(&v6).lines() {
            routes.add_v6(line);
        }
        for line in reader.table(&addresses).lines() {
            routes.add_address(line);
        }
        routes
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
