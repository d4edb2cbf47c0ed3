//! The way up from a function through everything that is stacked on it.

use std::collections::HashSet;

use super::index::{Index, Place};
use super::{Use, UseKind};
use crate::address::PciAddress;
use crate::facts::block::BlockDevice;
use crate::facts::net::Netdev;
use crate::facts::pci::PciFunction;

/// Deeper than anybody stacks (the kernel allows 8 interfaces, MAX_NEST_DEV): a bound against
/// snapshots that somebody made up.
const DEEPEST: usize = 64;

/// One function's uses being gathered. What was seen already ends a way: things may be linked in
/// more than one.
pub(super) struct Walk<'a> {
    index: &'a Index<'a>,
    netdevs: HashSet<Place<'a>>,
    blocks: HashSet<&'a str>,
    found: Vec<Use>,
}

impl<'a> Walk<'a> {
    pub fn new(index: &'a Index<'a>) -> Walk<'a> {
        Walk { index, netdevs: HashSet::new(), blocks: HashSet::new(), found: Vec::new() }
    }

    pub fn found(mut self) -> Vec<Use> {
        self.found.sort();
        self.found.dedup();
        self.found
    }

    pub fn function(&mut self, function: &PciFunction) {
        let index = self.index;
        let (address, own) = (function.address, vec![function.address.to_string()]);
        if function.is_bridge() {
            self.end(UseKind::Bridge, &own, "the devices behind it");
        }
        let netdevs = index.netdevs_of.get(&address).map(Vec::as_slice).unwrap_or_default();
        for place in netdevs {
            self.netdevs.clear();
            self.netdev(*place, &own, false);
        }
        if netdevs.is_empty() && index.hidden.contains(&address) {
            self.end(UseKind::Namespace, &own, "an interface in another network namespace");
        }
        for block in index.blocks_of.get(&address).into_iter().flatten() {
            self.blocks.clear();
            self.block(block, &own);
        }
        self.consoles(function, &own);
        self.claims(address, &own);
    }

    fn consoles(&mut self, function: &PciFunction, own: &[String]) {
        if function.boot_vga {
            self.end(UseKind::Console, own, "the boot display");
        }
        for console in self.index.consoles_of.get(&function.address).into_iter().flatten() {
            let here = chain(own, &console.device);
            self.end(UseKind::Console, &here, console.role.describe());
        }
    }

    fn claims(&mut self, function: PciAddress, own: &[String]) {
        for claim in self.index.claims_of.get(&function).into_iter().flatten() {
            let here = chain(own, &claim.device);
            match &claim.by {
                Some(user) => self.end(UseKind::Open, &here, &format!("open in {user}")),
                None => self.end(UseKind::Claimed, &here, "claimed by the kernel or a process"),
            }
        }
    }

    /// `stacked` says whether it lives on another interface.
    fn netdev(&mut self, place: Place<'a>, below: &[String], stacked: bool) {
        if below.len() > DEEPEST || !self.netdevs.insert(place) {
            return;
        }
        let here = chain(below, &self.name(place));
        let Some(netdev) = self.index.netdevs.get(&place) else {
            return self.end(UseKind::Stack, below, place.name);
        };
        let before = self.found.len();
        self.traffic(netdev, place, &here);
        let uppers = netdev.master.iter().chain(&netdev.uppers);
        for name in uppers {
            self.netdev(Place { namespace: place.namespace, name }, &here, true);
        }
        if place.namespace.is_none() {
            for upper in self.index.above.get(place.name).into_iter().flatten() {
                self.netdev(*upper, &here, true);
            }
        }
        // What carries nothing itself is a use as well on top of a stack (a bridge for guests), and
        // where somebody moved it to.
        if self.found.len() == before && (stacked || place.namespace.is_some()) {
            let kind = if stacked { UseKind::Stack } else { UseKind::Namespace };
            self.found.push(Use { kind, chain: here, autoconfigured: false });
        }
    }

    fn traffic(&mut self, netdev: &Netdev, place: Place<'_>, here: &[String]) {
        let before = self.found.len();
        if netdev.default_route {
            self.end(UseKind::DefaultRoute, here, "default route");
        } else if let Some(address) = netdev.addresses.first() {
            self.end(UseKind::Address, here, &format!("address {address}"));
        } else if netdev.routes {
            self.end(UseKind::Route, here, "a route");
        }
        if let Some(used) = self.found.get_mut(before..).and_then(<[Use]>::first_mut) {
            used.autoconfigured = netdev.autoconfigured;
        }
        if netdev.xdp {
            self.end(UseKind::Program, here, "an XDP program");
        }
        let session = self.index.facts.session.filter(|_| place.namespace.is_none());
        if session.is_some_and(|session| session.interfaces.contains(&netdev.name)) {
            self.end(UseKind::Session, here, "this SSH session");
        }
    }

    fn name(&self, place: Place<'_>) -> String {
        let namespaces = &self.index.facts.elsewhere.namespaces;
        match place.namespace.and_then(|number| namespaces.get(number)) {
            Some(guests) => format!("{}, in {}", place.name, guests.name),
            None => place.name.to_owned(),
        }
    }

    fn block(&mut self, block: &'a BlockDevice, below: &[String]) {
        if below.len() > DEEPEST || !self.blocks.insert(&block.name) {
            return;
        }
        let index = self.index;
        let here = chain(below, block.label.as_ref().unwrap_or(&block.name));
        for place in &block.mounts {
            let kind = if place == "/" { UseKind::Root } else { UseKind::Mount };
            self.end(kind, &here, place);
        }
        if block.swap {
            self.end(UseKind::Swap, &here, "swap");
        }
        if let Some(pool) = &block.pool {
            self.end(UseKind::Pool, &here, &format!("ZFS pool {pool}"));
        }
        for holder in &block.holders {
            let before = self.found.len();
            let Some(upper) = index.blocks.get(holder.as_str()) else {
                self.end(UseKind::Holder, &here, holder);
                continue;
            };
            self.block(upper, &here);
            let label = upper.label.as_ref().unwrap_or(&upper.name);
            for partition in index.partitions.get(upper.name.as_str()).into_iter().flatten() {
                self.block(partition, &chain(&here, label));
            }
            if self.found.len() == before {
                self.end(UseKind::Holder, &here, label);
            }
        }
    }

    fn end(&mut self, kind: UseKind, here: &[String], what: &str) {
        self.found.push(Use { kind, chain: chain(here, what), autoconfigured: false });
    }
}

fn chain(below: &[String], next: &str) -> Vec<String> {
    let mut chain = below.to_vec();
    chain.push(next.to_owned());
    chain
}
