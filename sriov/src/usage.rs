//! What the host itself needs of a device: what must not be taken from it.
//!
//! Each use is told as the chain that leads to it, so that nobody has to look it up:
//! `0000:01:00.0 → eth0 → bond0 → default route`. The stack is followed upward to its top, through
//! bonds, bridges, VLANs and volumes, however deep.

use std::collections::BTreeSet;
use std::fmt;

use serde::{Deserialize, Serialize};

use crate::facts::block::BlockDevice;
use crate::facts::net::Netdev;
use crate::facts::pci::PciFunction;
use crate::snapshot::HostSnapshot;

/// One thing that the host would lose.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Use {
    /// What kind of thing it is; the gravest sorts first.
    pub kind: UseKind,
    /// From the device to what it carries.
    pub chain: Vec<String>,
    /// It came by router advertisement and comes again by itself: lost with the device like any
    /// other, but nobody's work.
    pub autoconfigured: bool,
}

/// Kinds of use, gravest first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum UseKind {
    /// A bridge: other devices are reached through it.
    Bridge,
    /// A mounted filesystem.
    Mount,
    /// Swap space.
    Swap,
    /// A default route.
    DefaultRoute,
    /// An address of the host's own.
    Address,
    /// Another route.
    Route,
    /// A bond, bridge, team or VLAN above it.
    Stack,
    /// A volume, array or mapping made from it.
    Holder,
    /// The display that firmware booted on.
    Console,
}

impl fmt::Display for Use {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.chain.join(" → "))
    }
}

impl Use {
    /// The chain without the device itself: what the device carries.
    pub fn carried(&self) -> String {
        self.chain.get(1..).unwrap_or_default().join(" → ")
    }
}

/// What the host uses a function for, gravest first; nothing where it may be taken.
pub fn of(snapshot: &HostSnapshot, function: &PciFunction) -> Vec<Use> {
    uses(function, &snapshot.netdevs, &snapshot.blocks)
}

/// The same from parts, for a look at one device that is fresh.
pub fn uses(function: &PciFunction, netdevs: &[Netdev], blocks: &[BlockDevice]) -> Vec<Use> {
    let mut found = Vec::new();
    let own = vec![function.address.to_string()];
    if function.is_bridge() {
        let chain = chain(&own, "the devices behind it");
        found.push(Use { kind: UseKind::Bridge, chain, autoconfigured: false });
    }
    for netdev in netdevs.iter().filter(|netdev| netdev.pci == Some(function.address)) {
        let mut walk = Walk { seen: BTreeSet::new(), found: &mut found };
        walk.netdev(netdev, netdevs, &own);
    }
    let below = |block: &&BlockDevice| block.pci.contains(&function.address);
    for block in blocks.iter().filter(below) {
        let mut walk = Walk { seen: BTreeSet::new(), found: &mut found };
        walk.block(block, blocks, &own);
    }
    if function.boot_vga {
        let chain = chain(&own, "the boot display");
        found.push(Use { kind: UseKind::Console, chain, autoconfigured: false });
    }
    found.sort();
    found.dedup();
    found
}

/// A way up the stack. Names already seen end it: uppers may be linked in more than one way.
struct Walk<'a> {
    seen: BTreeSet<String>,
    found: &'a mut Vec<Use>,
}

impl Walk<'_> {
    fn netdev(&mut self, netdev: &Netdev, all: &[Netdev], below: &[String]) {
        if !self.seen.insert(netdev.name.clone()) {
            return;
        }
        let here = chain(below, &netdev.name);
        let before = self.found.len();
        if netdev.default_route {
            self.end(UseKind::DefaultRoute, &here, "default route");
        } else if let Some(address) = netdev.addresses.first() {
            self.end(UseKind::Address, &here, &format!("address {address}"));
        } else if netdev.routes {
            self.end(UseKind::Route, &here, "a route");
        }
        if let Some(used) = self.found.get_mut(before..).and_then(<[Use]>::first_mut) {
            used.autoconfigured = netdev.autoconfigured;
        }
        for name in netdev.master.iter().chain(&netdev.uppers) {
            match all.iter().find(|upper| upper.name == *name) {
                Some(upper) => self.netdev(upper, all, &here),
                None => self.end(UseKind::Stack, &here, name),
            }
        }
        // The top of a stack that carries nothing itself (a bridge for guests) is a use as well.
        let on_top = here.len() > 2 && self.found.len() == before;
        if on_top {
            self.found.push(Use { kind: UseKind::Stack, chain: here, autoconfigured: false });
        }
    }

    fn block(&mut self, block: &BlockDevice, all: &[BlockDevice], below: &[String]) {
        if !self.seen.insert(block.name.clone()) {
            return;
        }
        let here = chain(below, &block.name);
        for place in &block.mounts {
            self.end(UseKind::Mount, &here, place);
        }
        if block.swap {
            self.end(UseKind::Swap, &here, "swap");
        }
        for holder in &block.holders {
            let before = self.found.len();
            if let Some(upper) = all.iter().find(|upper| upper.name == *holder) {
                self.block(upper, all, &here);
                let partitions =
                    all.iter().filter(|part| part.partition_of.as_deref() == Some(&upper.name));
                for partition in partitions {
                    self.block(partition, all, &chain(&here, holder));
                }
            }
            if self.found.len() == before {
                self.end(UseKind::Holder, &here, holder);
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
