//! What the host itself needs of a device: what must not be taken from it.
//!
//! Each use is told as the chain that leads to it, so that nobody has to look it up:
//! `0000:01:00.0 → eth0 → bond0 → default route`. The stack is followed upward to its top, through
//! bonds, bridges, VLANs and volumes, into other network namespaces, however deep.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::facts::pci::PciFunction;
use crate::snapshot::HostSnapshot;

mod index;
mod now;
mod walk;

pub use index::{Facts, Index};
pub use now::{Unknown, now, now_each};

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

/// Kinds of use, gravest first. The words are stable: they are recorded where a person overrides
/// the protection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum UseKind {
    /// A bridge: other devices are reached through it.
    Bridge,
    /// The way by which the person who asks is logged in.
    Session,
    /// The filesystem that the host lives on.
    Root,
    /// Another mounted filesystem.
    Mount,
    /// Swap space.
    Swap,
    /// A ZFS pool that is imported.
    Pool,
    /// A default route.
    DefaultRoute,
    /// An address of the host's own.
    Address,
    /// Another route.
    Route,
    /// A bond, bridge, team, VLAN, tunnel or the like above it.
    Stack,
    /// Its interface is in another network namespace, as a container's is.
    Namespace,
    /// An XDP program that handles its packets.
    Program,
    /// A volume, array or mapping made from it.
    Holder,
    /// Claimed by somebody who is not seen, such as a filesystem in no mount table.
    Claimed,
    /// A process has it open, such as a virtual machine on a raw disk.
    Open,
    /// A display, text console or serial console of the host.
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

/// What the host uses a function for, gravest first; nothing where it may be taken. For many
/// functions of one snapshot make an [`Index`] once.
pub fn of(snapshot: &HostSnapshot, function: &PciFunction) -> Vec<Use> {
    Index::of(snapshot).uses(function)
}
