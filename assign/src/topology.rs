//! How a host's devices hang together, and what can become of each: the model that `assign groups`,
//! `assign devices --tree`, `assign show` and `assign topology` draw from.
//!
//! ```text
//! HostSnapshot ─┬─► Standings ─┬─► Topology ─┬─► tree (text)
//! leases ───────┘              └─► groups    └─► svg  (a picture)
//! ```
//!
//! All of it is pure: plain data in, text out, the same each time. A snapshot may come from anybody:
//! a parent that is missing, or its own grandchild, costs a place in the tree and nothing else.

use std::collections::{BTreeMap, BTreeSet};

use sriov::{HostSnapshot, PciAddress, PciFunction};

pub mod fold;
pub mod groups;
pub mod port;
pub mod standing;
pub mod svg;
pub mod tree;

pub use standing::{Standing, Standings};

/// Deepest tree that is drawn: a bridge needs a bus of its own, and a domain has 256.
const DEEPEST: usize = 256;

/// All devices of a host by where they hang.
#[derive(Debug)]
pub struct Topology<'a> {
    /// Root buses, sorted.
    pub buses: Vec<Bus<'a>>,
}

/// A root bus: where a host bridge's devices begin.
#[derive(Debug)]
pub struct Bus<'a> {
    /// Its domain.
    pub domain: u32,
    /// Its number.
    pub number: u8,
    /// The NUMA node of its devices, where the first that names one is right for all.
    pub numa_node: Option<u32>,
    /// What is on it.
    pub nodes: Vec<Node<'a>>,
}

/// A function that is no virtual one, with what is behind it.
#[derive(Debug)]
pub struct Node<'a> {
    /// The function.
    pub function: &'a PciFunction,
    /// What can become of it.
    pub standing: &'a Standing,
    /// Functions behind it, if it is a bridge.
    pub below: Vec<Node<'a>>,
    /// Its virtual functions by index.
    pub vfs: Vec<Vf<'a>>,
}

/// A virtual function.
#[derive(Debug, Clone, Copy)]
pub struct Vf<'a> {
    /// Its index.
    pub index: u16,
    /// The function.
    pub function: &'a PciFunction,
    /// What can become of it.
    pub standing: &'a Standing,
}

impl Node<'_> {
    /// Its access control, where it is a port that could have any and it can be seen.
    pub fn acs(&self) -> Option<port::Acs> {
        port::acs(self.function, self.below.iter().map(|node| node.function))
    }
}

impl std::fmt::Display for Bus<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:04x}:{:02x}", self.domain, self.number)
    }
}

impl<'a> Topology<'a> {
    /// The tree of a snapshot.
    pub fn new(snapshot: &'a HostSnapshot, standings: &'a Standings) -> Topology<'a> {
        let mut children: BTreeMap<Option<PciAddress>, Vec<&PciFunction>> = BTreeMap::new();
        let mut vfs: BTreeMap<PciAddress, Vec<Vf>> = BTreeMap::new();
        let known = |address: &PciAddress| snapshot.function(*address).is_some();
        for function in &snapshot.functions {
            if let Some(vf) = function.vf_of.filter(|vf| is_pf(snapshot, vf.pf)) {
                let standing = standings.of(function.address);
                vfs.entry(vf.pf).or_default().push(Vf { index: vf.index, function, standing });
            } else {
                let parent = function.parent.filter(known);
                children.entry(parent).or_default().push(function);
            }
        }
        let mut planter = Planter { standings, children, vfs, seen: BTreeSet::new() };
        let mut roots = planter.children.remove(&None).unwrap_or_default();
        let mut nodes = planter.plant(&roots, 0);
        // What is left has no way to a root: a snapshot that goes in circles, or too deep.
        roots = snapshot.functions.iter().filter(|function| function.vf_of.is_none()).collect();
        nodes.extend(planter.plant(&roots, 0));
        Topology { buses: buses(nodes) }
    }

    /// Every node, from the top down.
    pub fn nodes(&self) -> impl Iterator<Item = &Node<'a>> {
        let mut waiting: Vec<&Node> =
            self.buses.iter().rev().flat_map(|b| b.nodes.iter().rev()).collect();
        std::iter::from_fn(move || {
            let node = waiting.pop()?;
            waiting.extend(node.below.iter().rev());
            Some(node)
        })
    }
}

fn is_pf(snapshot: &HostSnapshot, address: PciAddress) -> bool {
    snapshot.function(address).is_some_and(|function| function.vf_of.is_none())
}

struct Planter<'a> {
    standings: &'a Standings,
    children: BTreeMap<Option<PciAddress>, Vec<&'a PciFunction>>,
    vfs: BTreeMap<PciAddress, Vec<Vf<'a>>>,
    seen: BTreeSet<PciAddress>,
}

impl<'a> Planter<'a> {
    fn plant(&mut self, functions: &[&'a PciFunction], depth: usize) -> Vec<Node<'a>> {
        let mut nodes = Vec::new();
        for function in functions {
            if depth >= DEEPEST || !self.seen.insert(function.address) {
                continue;
            }
            let below = self.children.remove(&Some(function.address)).unwrap_or_default();
            let mut vfs = self.vfs.remove(&function.address).unwrap_or_default();
            vfs.sort_by_key(|vf| (vf.index, vf.function.address));
            let below = self.plant(&below, depth + 1);
            let standing = self.standings.of(function.address);
            nodes.push(Node { function, standing, below, vfs });
        }
        nodes
    }
}

fn buses(nodes: Vec<Node>) -> Vec<Bus> {
    let mut buses: BTreeMap<(u32, u8), Vec<Node>> = BTreeMap::new();
    for node in nodes {
        let address = node.function.address;
        buses.entry((address.domain(), address.bus())).or_default().push(node);
    }
    let buses = buses.into_iter().map(|((domain, number), mut nodes)| {
        nodes.sort_by_key(|node| node.function.address);
        Bus { domain, number, numa_node: nodes.iter().find_map(numa_node), nodes }
    });
    buses.collect()
}

/// A link's speed from MT/s: `2.5 GT/s`, `8 GT/s`.
pub fn gigatransfers(megatransfers: u32) -> String {
    match megatransfers % 1000 {
        0 => format!("{} GT/s", megatransfers / 1000),
        rest => format!("{}.{} GT/s", megatransfers / 1000, rest / 100),
    }
}

/// Firmware often names the node for devices and not for the bridges above them.
fn numa_node(node: &Node) -> Option<u32> {
    node.function.numa_node.or_else(|| node.below.iter().find_map(numa_node))
}
