//! Everything known of a host at one moment, as plain data: saved, sent and replayed elsewhere.

use serde::{Deserialize, Serialize};

use crate::address::{PciAddress, PciRoot, VfRef};
use crate::facts::block::{self, BlockDevice};
use crate::facts::console::{self, Console};
use crate::facts::elsewhere::{self, Elsewhere};
use crate::facts::iommu::{self, Iommu};
use crate::facts::iov;
use crate::facts::namespaces::Namespaces;
use crate::facts::net::{self, Netdev};
use crate::facts::pci::{self, PciFunction};
use crate::facts::platform::{self, Platform};
use crate::facts::reader::{Problem, Reader};
use crate::facts::session::{self, Session};
use crate::facts::tree;
use crate::netlink::Rtnetlink;
use crate::nvme;
use crate::root::HostRoot;

/// Version of the serialized form. It grows when a field changes its meaning or goes. A new field
/// does not make it grow: an older program leaves out what it does not know, and where an older
/// snapshot has none, it is what nothing is known of.
pub const SCHEMA: u32 = 1;

/// How much of a host is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Scope {
    /// What a list of devices shows: of functions and groups less than a decision needs, and of
    /// the machine nothing.
    Listing,
    /// PCI functions, their interfaces and the IOMMU. Nothing of what the host uses them for, so
    /// that nothing can be taken from it by such a snapshot.
    Functions,
    /// What it takes to find the VFs of pools that ask for no access controls: the same, with what the
    /// IOMMU keeps for itself, and serial numbers and link speeds of cards that can have VFs.
    Vfs,
    /// What it takes to find the devices of pools: the same, with serial numbers and link speeds of all,
    /// and the access controls on the way to a device. Nothing of what the host uses them for.
    Pools,
    /// What a decision needs. Of configuration spaces those of bridges, for the access controls on
    /// the way to a device; of other devices the serial number, if they are awake, since asking
    /// would wake those that sleep.
    Planning,
    /// Everything, with every function's capabilities: sleeping functions wake up for a moment.
    Whole,
}

/// A host at one moment.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostSnapshot {
    /// [`SCHEMA`] of the program that wrote it.
    pub schema: u32,
    /// Where it comes from, in the words of whoever keeps it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub note: Option<String>,
    /// The machine as a whole.
    pub platform: Platform,
    /// The IOMMU and its groups.
    pub iommu: Iommu,
    /// PCI functions, sorted by address.
    pub functions: Vec<PciFunction>,
    /// Network interfaces, sorted by name.
    pub netdevs: Vec<Netdev>,
    /// Block devices, sorted by name.
    pub blocks: Vec<BlockDevice>,
    /// What other network namespaces have of this host's devices.
    #[serde(default)]
    pub elsewhere: Elsewhere,
    /// Consoles on PCI functions.
    #[serde(default)]
    pub consoles: Vec<Console>,
    /// How whoever took the snapshot was logged in, over the network.
    #[serde(default)]
    pub session: Option<Session>,
    /// Functions that went while they were read, sorted.
    #[serde(default)]
    pub gone: Vec<PciAddress>,
    /// What could not be read or understood.
    pub problems: Vec<Problem>,
}

impl HostSnapshot {
    /// Reads what a decision needs, in one pass. What is odd is in `problems`; nothing stops the
    /// pass.
    pub fn read(root: &HostRoot) -> HostSnapshot {
        HostSnapshot::read_within(root, Scope::Planning)
    }

    /// The same, as far as `scope` says.
    pub fn read_within(root: &HostRoot, scope: Scope) -> HostSnapshot {
        let mut reader = Reader::new(root);
        let mut netlink = open_netlink(&mut reader);
        let netdevs = net::read(&mut reader, netlink.as_mut());
        let (mut functions, gone) = pci::read_all(&mut reader, scope);
        iov::relate(&mut functions);
        tree::mend(&mut reader, &mut functions);
        attach_netdevs(&mut functions, &netdevs);
        if let Some(netlink) = &mut netlink {
            for function in &mut functions {
                add_settings(&mut reader, netlink, &netdevs, function);
            }
        }
        for function in &mut functions {
            let asked = nvme::read(&mut reader, function);
            if let Some(pf) = &mut function.sriov {
                pf.nvme = asked;
            }
        }
        let iommu = iommu::read(&mut reader, &functions, scope);
        if matches!(scope, Scope::Functions | Scope::Vfs | Scope::Pools) {
            let platform = platform::read(&mut reader);
            let problems = reader.problems;
            let rest = HostSnapshot { schema: SCHEMA, ..HostSnapshot::default() };
            return HostSnapshot { platform, iommu, functions, netdevs, gone, problems, ..rest };
        }
        let namespaces = Namespaces::read(&mut reader);
        let elsewhere = Elsewhere {
            namespaces: elsewhere::read(&mut reader, &namespaces.net, &netdevs),
            hidden: elsewhere::hidden(&reader, &functions),
        };
        let blocks = block::read(&mut reader, &namespaces);
        let consoles = console::read(&mut reader);
        let session =
            netlink.as_mut().and_then(|netlink| session::read(&mut reader, netlink, &netdevs));
        let platform = match scope {
            Scope::Listing => Platform::default(),
            Scope::Whole => platform::read_whole(&mut reader),
            _ => platform::read(&mut reader),
        };
        HostSnapshot {
            schema: SCHEMA,
            note: None,
            platform,
            iommu,
            functions,
            netdevs,
            blocks,
            elsewhere,
            consoles,
            session,
            gone,
            problems: reader.problems,
        }
    }

    /// A function by its address.
    pub fn function(&self, address: PciAddress) -> Option<&PciFunction> {
        let at = self.functions.binary_search_by_key(&address, |function| function.address).ok()?;
        self.functions.get(at)
    }

    /// An interface by its name.
    pub fn netdev(&self, name: &str) -> Option<&Netdev> {
        let at = self.netdevs.binary_search_by(|netdev| netdev.name.as_str().cmp(name)).ok()?;
        self.netdevs.get(at)
    }

    /// Where a VF is now.
    pub fn vf_address(&self, vf: VfRef) -> Option<PciAddress> {
        self.function(vf.pf)?.sriov.as_ref()?.vfs.get(&vf.index).copied()
    }

    /// The root bus that leads to a function: the one of its uppermost bridge.
    pub fn root_of(&self, function: &PciFunction) -> PciRoot {
        let (mut address, mut parent) = (function.address, function.parent);
        // A saved snapshot may have a bridge above itself; no path is longer than there are buses.
        for _ in 0..=u8::MAX {
            let Some(above) = parent else { break };
            address = above;
            parent = self.function(above).and_then(|bridge| bridge.parent);
        }
        PciRoot { domain: address.domain(), bus: address.bus() }
    }

    /// The interface through which a PF's VFs are set: its port on the wire.
    pub fn port_of(&self, pf: &PciFunction) -> Option<&Netdev> {
        let mut ports = pf.netdevs.iter().filter_map(|name| self.netdev(name));
        ports.find(|netdev| !netdev.is_representor())
    }

    /// What the kernel of this host would need for an IOMMU to be in use.
    pub fn iommu_remedy(&self) -> &'static str {
        self.iommu.remedy()
    }
}

/// A recorded tree has no kernel to ask; a refusal of one that is there is noted.
fn open_netlink(reader: &mut Reader) -> Option<Rtnetlink> {
    let path = reader.root.net_class();
    let opened = Rtnetlink::of(reader.root);
    opened.map_err(|error| reader.note(&path, format!("no rtnetlink: {error}"))).ok().flatten()
}

fn attach_netdevs(functions: &mut [PciFunction], netdevs: &[Netdev]) {
    for netdev in netdevs {
        let Some(address) = netdev.pci else { continue };
        let at = functions.binary_search_by_key(&address, |function| function.address);
        if let Some(function) = at.ok().and_then(|at| functions.get_mut(at)) {
            function.netdevs.push(netdev.name.clone());
        }
    }
}

fn add_settings(
    reader: &mut Reader,
    netlink: &mut Rtnetlink,
    netdevs: &[Netdev],
    function: &mut PciFunction,
) {
    let Some(pf) = function.sriov.as_mut().filter(|pf| !pf.vfs.is_empty()) else { return };
    let named = |name: &String| {
        let at = netdevs.binary_search_by(|netdev| netdev.name.cmp(name)).ok()?;
        netdevs.get(at)
    };
    let mut ports = function.netdevs.iter().filter_map(named);
    if let Some(port) = ports.find(|netdev| !netdev.is_representor()) {
        pf.vf_settings = iov::read_settings(reader, netlink, &port.name, port.index);
    }
}
