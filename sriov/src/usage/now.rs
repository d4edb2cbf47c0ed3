//! The uses of functions as they are now, with what no listing looks at.

use std::path::Path;
use std::time::Duration;

use super::{Facts, Index, Use};
use crate::address::PciAddress;
use crate::facts::claims::{self, Claim};
use crate::facts::elsewhere::{self, Elsewhere};
use crate::facts::namespaces::Namespaces;
use crate::facts::pci::PciFunction;
use crate::facts::reader::Reader;
use crate::facts::{block, console, net, session};
use crate::netlink::Rtnetlink;
use crate::root::HostRoot;

/// A device manager opens what it is told of for a moment: who holds on longer means it.
const A_MOMENT: Duration = Duration::from_millis(250);

/// Whether the host needs a device cannot be told, for this reason.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Unknown(pub String);

/// What the host uses a function for now, gravest first.
///
/// # Errors
/// What cannot be seen counts as a use: without the host's addresses, routes and mounts nobody
/// knows what a device carries.
pub fn now(root: &HostRoot, function: &PciFunction) -> Result<Vec<Use>, Unknown> {
    let uses = now_each(root, vec![function.clone()])?;
    Ok(uses.into_iter().flatten().collect())
}

/// The same for several, in their order, by one look at the host.
///
/// # Errors
/// As for one.
pub fn now_each(
    root: &HostRoot,
    mut functions: Vec<PciFunction>,
) -> Result<Vec<Vec<Use>>, Unknown> {
    let mut reader = Reader::new(root);
    let mut netlink =
        Rtnetlink::of(root).map_err(|error| Unknown(format!("rtnetlink: {error}")))?;
    let namespaces = Namespaces::read(&mut reader);
    let netdevs = net::read(&mut reader, netlink.as_mut());
    for function in &mut functions {
        let ours = netdevs.iter().filter(|netdev| netdev.pci == Some(function.address));
        function.netdevs = ours.map(|netdev| netdev.name.clone()).collect();
    }
    let elsewhere = Elsewhere {
        namespaces: elsewhere::read(&mut reader, &namespaces.net, &netdevs),
        hidden: elsewhere::hidden(&reader, &functions),
    };
    let session =
        netlink.as_mut().and_then(|netlink| session::read(&mut reader, netlink, &netdevs));
    let blocks = block::read(&mut reader, &namespaces);
    let consoles = console::read(&mut reader);
    let claims = lasting_claims(&mut reader, &functions, &blocks);
    // One odd device is noted and hides no other; a whole list that is missing hides all, and so
    // does a disk of this function that does not say whether it is claimed.
    let lists = [root.net_class(), root.block_class(), root.btrfs(), root.sys("dev/char")];
    let hides = |path: &Path| {
        path.starts_with(root.proc(""))
            || path.starts_with(root.dev(""))
            || lists.iter().any(|list| list == path)
    };
    if let Some(problem) = reader.problems.iter().find(|problem| hides(&problem.path)) {
        return Err(Unknown(problem.cause.clone()));
    }
    let facts = Facts {
        netdevs: &netdevs,
        elsewhere: &elsewhere,
        blocks: &blocks,
        consoles: &consoles,
        session: session.as_ref(),
        claims: &claims,
    };
    let index = Index::new(facts);
    Ok(functions.iter().map(|function| index.uses(function)).collect())
}

/// What is claimed now, and was a moment ago.
fn lasting_claims(
    reader: &mut Reader,
    functions: &[PciFunction],
    blocks: &[block::BlockDevice],
) -> Vec<(PciAddress, Claim)> {
    let functions: Vec<PciAddress> = functions.iter().map(|function| function.address).collect();
    let mut claims = claims::read(reader, &functions, blocks);
    if !claims.is_empty() && reader.root.is_live() {
        std::thread::sleep(A_MOMENT);
        let still = claims::read(reader, &functions, blocks);
        claims.retain(|claim| still.contains(claim));
    }
    claims
}
