//! What two pools of one function cannot both have: another number of VFs, the same VF, or the
//! function itself. Nothing wins by priority; the policies have to agree.

use std::collections::BTreeMap;

use policies::Policy;
use sriov::{HostSnapshot, PciAddress, PciFunction};

use super::{Feed, candidates};
use crate::failure::{Failure, OwnReason};

/// What two policies cannot both have.
#[derive(Debug, Clone)]
pub struct Conflict<'a> {
    /// The two, which may be the same one.
    pub policies: [&'a Policy; 2],
    /// Why, as a plan refuses it.
    pub failure: Failure,
}

/// Everything that `policies` cannot have together on this host, whoever is asked first.
pub fn among<'a>(host: &HostSnapshot, policies: &'a [Policy]) -> Vec<Conflict<'a>> {
    let mut feeds: BTreeMap<PciAddress, Vec<Feed<'a>>> = BTreeMap::new();
    for policy in policies {
        for pool in &policy.pools {
            for function in candidates::find(host, pool).accepted {
                feeds.entry(function).or_default().push(Feed { policy, pool });
            }
        }
    }
    let found = feeds.iter().filter_map(|(address, feeds)| Some((host.function(*address)?, feeds)));
    found.flat_map(|(function, feeds)| find(host, function, feeds, &[])).collect()
}

/// Conflicts among the pools that a function feeds, and with policies applied before.
pub(super) fn find<'a>(
    host: &HostSnapshot,
    function: &PciFunction,
    feeds: &[Feed<'a>],
    others: &[&'a Policy],
) -> Vec<Conflict<'a>> {
    let applied = others.iter().flat_map(|policy| {
        let pools = policy.pools.iter();
        let pools = pools.filter(|pool| candidates::is_meant(host, pool, function));
        pools.map(|pool| Feed { policy, pool })
    });
    let applied: Vec<Feed<'_>> = applied.collect();
    let mut conflicts = Vec::new();
    for (at, feed) in feeds.iter().enumerate() {
        let later = feeds.iter().skip(at + 1).chain(&applied);
        conflicts.extend(later.filter_map(|other| between(function, feed, other)));
    }
    conflicts
}

fn between<'a>(function: &PciFunction, one: &Feed<'a>, other: &Feed<'a>) -> Option<Conflict<'a>> {
    let (problem, remedy) = match (one.vfs(), other.vfs()) {
        (None, None) => {
            ("both take it".to_owned(), "Narrow one of the selectors: `address` names one device.")
        }
        (None, Some(_)) | (Some(_), None) => (
            "want it as a whole and its VFs".to_owned(),
            "A device is given away itself, or has VFs that are: narrow one of the selectors.",
        ),
        (Some(first), Some(second)) => {
            let remedy = "Give both the same `vfs` count, and indexes in `use` that differ.";
            if first.count != second.count {
                (format!("want {} and {} VFs on it", first.count, second.count), remedy)
            } else if let Some(index) = first.indexes.overlap(second.indexes) {
                (format!("both use its VF {index}"), remedy)
            } else {
                return None;
            }
        }
    };
    let message = format!(
        "pools {} (policy {}) and {} (policy {}) {problem}",
        one.pool.name, one.policy.name, other.pool.name, other.policy.name
    );
    let failure = Failure::bad_input(OwnReason::PoolConflict, function.address, message);
    Some(Conflict { policies: [one.policy, other.policy], failure: failure.with_remedy(remedy) })
}
