//! Network interfaces, and what of the host's own traffic they carry.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::reader::Reader;
use super::routes::Routes;
use crate::address::PciAddress;
use crate::attribute;
use crate::mac::MacAddress;
use crate::netlink::{Link, Over, Rtnetlink};
use crate::root::HostRoot;

/// The interface is set up (uapi/linux/if.h).
const IFF_UP: u32 = 1;

/// One network interface of this network namespace.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Netdev {
    /// Its name now; udev and people rename interfaces.
    pub name: String,
    /// Its other names (`IFLA_ALT_IFNAME`), sorted; none where the kernel was not asked (a recorded
    /// tree).
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub altnames: Vec<String>,
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
    /// Interfaces that live on it, such as VLANs, bonds, bridges and tunnels bound to it, sorted.
    pub uppers: Vec<String>,
    /// The PCI function below it.
    pub pci: Option<PciAddress>,
    /// The driver's name for the port (`p0`, or `pf0vf1` for a representor).
    pub port_name: Option<String>,
    /// Addresses of the host's own on it, without IPv6 link-local ones.
    pub addresses: Vec<IpAddr>,
    /// Whether any IPv4 or IPv6 route of the host leaves through it, in whichever table, IPv6
    /// link-local ones aside.
    pub routes: bool,
    /// Whether a default route does.
    pub default_route: bool,
    /// Whether an XDP program handles its packets, past the host's own stack.
    #[serde(default)]
    pub xdp: bool,
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
    let mut routes = Routes::default();
    if let Some(netlink) = netlink {
        add_links(reader, netlink, &mut netdevs);
        routes.ask(reader, netlink, &numbers(&netdevs));
    } else {
        routes.read_v4(reader);
    }
    routes.read_v6(reader, "net");
    for netdev in &mut netdevs {
        netdev.take(&mut routes);
    }
    netdevs
}

impl Netdev {
    /// An interface of another network namespace, of which netlink tells and no file.
    pub(super) fn of_link(link: &Link, names: &BTreeMap<u32, String>) -> Netdev {
        Netdev {
            name: link.name.clone(),
            altnames: link.altnames.clone(),
            index: link.index,
            mac: link.mac,
            permanent_mac: link.permanent_mac,
            up: link.up,
            carrier: None,
            master: link.master.and_then(|index| names.get(&index).cloned()),
            uppers: Vec::new(),
            pci: link.pci,
            port_name: None,
            addresses: Vec::new(),
            routes: false,
            default_route: false,
            xdp: link.xdp,
            accept_ra: None,
            autoconfigured: false,
        }
    }

    /// Takes what the routes and addresses of the host say of it.
    pub(super) fn take(&mut self, routes: &mut Routes) {
        self.routes = routes.any.contains(&self.name);
        self.default_route = routes.default.contains(&self.name);
        self.addresses = routes.addresses.remove(&self.name).unwrap_or_default();
        self.autoconfigured =
            !routes.configured.contains(&self.name) && (self.routes || !self.addresses.is_empty());
    }
}

/// Names by number.
pub(super) fn numbers(netdevs: &[Netdev]) -> BTreeMap<u32, String> {
    netdevs.iter().map(|netdev| (netdev.index, netdev.name.clone())).collect()
}

/// What the kernel says over rtnetlink and in no file.
fn add_links(reader: &mut Reader, netlink: &mut Rtnetlink, netdevs: &mut [Netdev]) {
    let links = netlink.links().unwrap_or_else(|error| {
        // Without it the stack above a device is not known.
        let class = reader.root.net_class();
        reader.note(&class, format!("the interfaces cannot be asked for: {error}"));
        Vec::new()
    });
    let links: BTreeMap<u32, Link> = links.into_iter().map(|link| (link.index, link)).collect();
    for netdev in netdevs.iter_mut() {
        if let Some(link) = links.get(&netdev.index) {
            netdev.permanent_mac = link.permanent_mac;
            netdev.altnames.clone_from(&link.altnames);
            netdev.xdp = link.xdp;
        }
    }
    stack(netdevs, links.values());
}

/// Adds what lives on another interface without a link in sysfs, as a tunnel bound to one does.
pub(super) fn stack<'a>(netdevs: &mut [Netdev], links: impl Iterator<Item = &'a Link>) {
    let mut above: BTreeMap<u32, Vec<String>> = BTreeMap::new();
    for link in links {
        if let Some(Over::Here(below)) = link.over {
            above.entry(below).or_default().push(link.name.clone());
        }
    }
    for netdev in netdevs {
        netdev.uppers.extend(above.remove(&netdev.index).unwrap_or_default());
        netdev.uppers.sort();
        netdev.uppers.dedup();
    }
}

/// How fast the link of an interface is, in Mbit/s; `None` where it has none, or does not tell: the
/// kernel writes -1 then, or answers with an error.
pub fn speed(root: &HostRoot, name: &str) -> Option<u32> {
    let text = attribute::read(&root.netdev(name).join("speed")).ok().flatten()?;
    text.parse().ok().filter(|speed| *speed > 0)
}

/// The interface through which a PF's VFs are set, as it is now, without routes and addresses.
pub fn port(reader: &mut Reader, pf: PciAddress) -> Option<Netdev> {
    of_function(reader, pf).into_iter().find(|netdev| !netdev.is_representor())
}

/// The interfaces of one function, as they are now, without routes and addresses.
pub fn of_function(reader: &mut Reader, function: PciAddress) -> Vec<Netdev> {
    let names = reader.entries(&reader.root.pci_attribute(function, "net"));
    names.iter().filter_map(|name| read_one(reader, name)).collect()
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
        altnames: Vec::new(),
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
        xdp: false,
        accept_ra: reader.number(&reader.root.accept_ra(name)),
        autoconfigured: false,
    })
}

/// Most drivers answer EOPNOTSUPP, which is no problem worth noting.
fn port_name(path: &Path) -> Option<String> {
    crate::attribute::read(path).ok().flatten().filter(|name| !name.is_empty())
}
