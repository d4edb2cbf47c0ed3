//! Facts by function and by name, so that the uses of many functions are found in one go.

use std::collections::{HashMap, HashSet};

use super::Use;
use super::walk::Walk;
use crate::address::PciAddress;
use crate::facts::block::BlockDevice;
use crate::facts::claims::Claim;
use crate::facts::console::Console;
use crate::facts::elsewhere::Elsewhere;
use crate::facts::net::Netdev;
use crate::facts::pci::PciFunction;
use crate::facts::session::Session;
use crate::snapshot::HostSnapshot;

/// What uses are found in.
#[derive(Debug, Clone, Copy)]
pub struct Facts<'a> {
    /// Interfaces of our network namespace.
    pub netdevs: &'a [Netdev],
    /// Those of others.
    pub elsewhere: &'a Elsewhere,
    /// Disks and partitions.
    pub blocks: &'a [BlockDevice],
    /// Consoles.
    pub consoles: &'a [Console],
    /// How the person who asks is logged in.
    pub session: Option<&'a Session>,
    /// Who has devices of a function open; a snapshot does not know.
    pub claims: &'a [(PciAddress, Claim)],
}

impl<'a> From<&'a HostSnapshot> for Facts<'a> {
    fn from(snapshot: &'a HostSnapshot) -> Facts<'a> {
        Facts {
            netdevs: &snapshot.netdevs,
            elsewhere: &snapshot.elsewhere,
            blocks: &snapshot.blocks,
            consoles: &snapshot.consoles,
            session: snapshot.session.as_ref(),
            claims: &[],
        }
    }
}

/// An interface and where it is: `None` for our own namespace, else the number of the other one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct Place<'a> {
    pub namespace: Option<usize>,
    pub name: &'a str,
}

/// The facts, ready to be looked up.
#[derive(Debug)]
pub struct Index<'a> {
    pub(super) facts: Facts<'a>,
    pub(super) netdevs: HashMap<Place<'a>, &'a Netdev>,
    /// Interfaces of other namespaces that live on one of ours, by its name.
    pub(super) above: HashMap<&'a str, Vec<Place<'a>>>,
    pub(super) blocks: HashMap<&'a str, &'a BlockDevice>,
    pub(super) partitions: HashMap<&'a str, Vec<&'a BlockDevice>>,
    pub(super) netdevs_of: HashMap<PciAddress, Vec<Place<'a>>>,
    pub(super) blocks_of: HashMap<PciAddress, Vec<&'a BlockDevice>>,
    pub(super) consoles_of: HashMap<PciAddress, Vec<&'a Console>>,
    pub(super) claims_of: HashMap<PciAddress, Vec<&'a Claim>>,
    /// Functions whose interface nobody found.
    pub(super) hidden: HashSet<PciAddress>,
}

impl<'a> Index<'a> {
    /// Of a snapshot.
    pub fn of(snapshot: &'a HostSnapshot) -> Index<'a> {
        Index::new(snapshot.into())
    }

    /// Of any facts.
    pub fn new(facts: Facts<'a>) -> Index<'a> {
        let mut index = Index {
            facts,
            netdevs: HashMap::new(),
            above: HashMap::new(),
            blocks: HashMap::new(),
            partitions: HashMap::new(),
            netdevs_of: HashMap::new(),
            blocks_of: HashMap::new(),
            consoles_of: HashMap::new(),
            claims_of: HashMap::new(),
            hidden: facts.elsewhere.hidden.iter().copied().collect(),
        };
        index.add_netdevs(None, facts.netdevs);
        for (number, guests) in facts.elsewhere.namespaces.iter().enumerate() {
            index.add_netdevs(Some(number), &guests.netdevs);
            for (below, names) in &guests.above {
                let places = names.iter().map(|name| Place { namespace: Some(number), name });
                index.above.entry(below).or_default().extend(places);
            }
        }
        for block in facts.blocks {
            index.blocks.insert(&block.name, block);
            if let Some(disk) = &block.partition_of {
                index.partitions.entry(disk).or_default().push(block);
            }
            for function in &block.pci {
                index.blocks_of.entry(*function).or_default().push(block);
            }
        }
        for console in facts.consoles {
            index.consoles_of.entry(console.pci).or_default().push(console);
        }
        for (function, claim) in facts.claims {
            index.claims_of.entry(*function).or_default().push(claim);
        }
        index
    }

    fn add_netdevs(&mut self, namespace: Option<usize>, netdevs: &'a [Netdev]) {
        for netdev in netdevs {
            let place = Place { namespace, name: &netdev.name };
            self.netdevs.insert(place, netdev);
            if let Some(function) = netdev.pci {
                self.netdevs_of.entry(function).or_default().push(place);
            }
        }
    }

    /// What the host uses a function for, gravest first; nothing where it may be taken.
    pub fn uses(&self, function: &PciFunction) -> Vec<Use> {
        let mut walk = Walk::new(self);
        walk.function(function);
        walk.found()
    }
}
