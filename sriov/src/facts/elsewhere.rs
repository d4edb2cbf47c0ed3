//! Interfaces of this host's devices that other network namespaces have.
//!
//! An interface that was moved into a container is gone from `/sys/class/net`, and so is a macvlan
//! made for one on top of an interface of ours. The kernel tells of them in their namespace, which
//! is entered for it by a thread that ends with the answer.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::path::Path;

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use serde::{Deserialize, Serialize};

use super::namespaces::{self, NetNamespace};
use super::net::{self, Netdev};
use super::pci::PciFunction;
use super::reader::Reader;
use super::routes::Routes;
use crate::PciAddress;
use crate::attribute;
use crate::isolation::is_vfio_driver;
use crate::netlink::{Over, Rtnetlink};

/// What other network namespaces have of this host's devices.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Elsewhere {
    /// The namespaces that could be asked, and have something.
    pub namespaces: Vec<Guests>,
    /// Functions whose driver made an interface that this namespace does not see.
    pub hidden: Vec<PciAddress>,
}

/// What one network namespace has.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Guests {
    /// What people know it by: `network namespace blue`.
    pub name: String,
    /// All its interfaces, sorted by name.
    pub netdevs: Vec<Netdev>,
    /// Which of them live on an interface of our own namespace, by that one's name.
    pub above: BTreeMap<String, Vec<String>>,
}

/// Asks every other namespace.
pub fn read(reader: &mut Reader, namespaces: &[NetNamespace], netdevs: &[Netdev]) -> Vec<Guests> {
    if !reader.root.is_live() || namespaces.is_empty() {
        return Vec::new();
    }
    let ours = reader.root.proc("self/ns/net");
    let ours = match File::open(&ours) {
        Ok(file) => file,
        Err(error) => {
            reader.note(&ours, error.to_string());
            return Vec::new();
        }
    };
    let names = net::numbers(netdevs);
    namespaces.iter().filter_map(|other| ask(reader, other, ours.as_fd(), &names)).collect()
}

/// Functions with a network driver and an empty `net` directory: the kernel keeps the directory,
/// and shows in it what our namespace has.
pub fn hidden(reader: &Reader, functions: &[PciFunction]) -> Vec<PciAddress> {
    let candidates = functions.iter().filter(|function| {
        let driver = function.driver.as_deref();
        let at_work = driver.is_some_and(|driver| !is_vfio_driver(driver));
        at_work && function.class >> 16 == 0x02 && function.netdevs.is_empty()
    });
    candidates
        .filter(|function| is_hidden(reader, function))
        .map(|function| function.address)
        .collect()
}

fn is_hidden(reader: &Reader, function: &PciFunction) -> bool {
    let device = reader.root.pci_device(function.address);
    let is_empty = |path: &Path| {
        path.is_dir() && attribute::entries(path).is_ok_and(|entries| entries.is_empty())
    };
    if is_empty(&device.join("net")) {
        return true;
    }
    // A virtio card's interface hangs below its virtio device.
    let is_virtio = function.driver.as_deref() == Some("virtio-pci");
    let entries = if is_virtio { attribute::entries(&device).unwrap_or_default() } else { vec![] };
    let virtio = entries.iter().filter(|name| name.starts_with("virtio"));
    virtio.map(|name| device.join(name).join("net")).any(|path| is_empty(&path))
}

fn ask(
    reader: &mut Reader,
    other: &NetNamespace,
    ours: BorrowedFd<'_>,
    names: &BTreeMap<u32, String>,
) -> Option<Guests> {
    let (file, path) = other.files.iter().find_map(|path| {
        let file = File::open(path).ok()?;
        // A process number may be another's by now, and its namespace our own.
        let opened = reader.root.proc(&format!("self/fd/{}", file.as_raw_fd()));
        let is_it = std::fs::read_link(opened).is_ok_and(|link| link == other.link);
        is_it.then_some((file, path))
    })?;
    let root = reader.root;
    let answer = std::thread::scope(|scope| {
        let inside = scope.spawn(|| {
            let mut reader = Reader::new(root);
            let found = look_inside(&mut reader, file.as_fd(), ours, &other.name, names);
            (found, reader.problems)
        });
        inside.join()
    });
    let (found, problems) = answer.ok()?;
    reader.problems.extend(problems);
    match found {
        Ok(found) => found,
        Err(error) if namespaces::is_gone(&error) => None,
        Err(error) => {
            reader.note(path, format!("{} cannot be looked into: {error}", other.name));
            None
        }
    }
}

/// Runs in a thread of its own: it stays in the other namespace.
fn look_inside(
    reader: &mut Reader,
    namespace: BorrowedFd<'_>,
    ours: BorrowedFd<'_>,
    name: &str,
    names: &BTreeMap<u32, String>,
) -> io::Result<Option<Guests>> {
    move_into_link_name_space(namespace, Some(LinkNameSpaceType::Network))?;
    let mut netlink = Rtnetlink::open()?;
    let links = netlink.links()?;
    let our_id = netlink.namespace_id(ours)?;
    let mut above: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for link in &links {
        let Some(Over::Elsewhere(id, index)) = link.over else { continue };
        if let Some(below) = names.get(&index).filter(|_| our_id == Some(id)) {
            above.entry(below.clone()).or_default().push(link.name.clone());
        }
    }
    if above.is_empty() && links.iter().all(|link| link.pci.is_none()) {
        return Ok(None);
    }
    let here: BTreeMap<u32, String> =
        links.iter().map(|link| (link.index, link.name.clone())).collect();
    let mut netdevs: Vec<Netdev> = links.iter().map(|link| Netdev::of_link(link, &here)).collect();
    net::stack(&mut netdevs, links.iter());
    let mut routes = Routes::default();
    routes.ask(reader, &mut netlink, &here);
    // What "net" leads to is the first thread's.
    routes.read_v6(reader, "thread-self/net");
    for netdev in &mut netdevs {
        netdev.take(&mut routes);
    }
    netdevs.sort_by(|one, other| one.name.cmp(&other.name));
    Ok(Some(Guests { name: name.to_owned(), netdevs, above }))
}
