//! What two pools of one PF cannot both have: another number of VFs, or the same VF. Nothing wins by
//! priority; the policies have to agree.

use policies::Policy;
use sriov::{HostSnapshot, PciFunction};

use super::Feed;
use crate::failure::{Failure, OwnReason};

/// Conflicts among the pools that a PF feeds, and with policies applied before.
pub(super) fn find(
    snapshot: &HostSnapshot,
    pf: &PciFunction,
    feeds: &[Feed<'_>],
    others: &[&Policy],
) -> Vec<Failure> {
    let applied = others.iter().flat_map(|policy| {
        let pools = policy.pools.iter().filter(|pool| pool.from.matches(snapshot, pf).is_ok());
        pools.map(|pool| Feed { policy, pool })
    });
    let applied: Vec<Feed<'_>> = applied.collect();
    let mut conflicts = Vec::new();
    for (at, feed) in feeds.iter().enumerate() {
        let later = feeds.iter().skip(at + 1).chain(&applied);
        conflicts.extend(later.filter_map(|other| between(pf, feed, other)));
    }
    conflicts
}

fn between(pf: &PciFunction, one: &Feed<'_>, other: &Feed<'_>) -> Option<Failure> {
    let ((count, indexes), (others, used)) = (one.pool.vfs()?, other.pool.vfs()?);
    let problem = if count != others {
        format!("want {count} and {others} VFs on it")
    } else {
        let index = indexes.overlap(used)?;
        format!("both use its VF {index}")
    };
    let message = format!(
        "pools {} (policy {}) and {} (policy {}) {problem}",
        one.pool.name, one.policy.name, other.pool.name, other.policy.name
    );
    let failure = Failure::bad_input(OwnReason::PoolConflict, pf.address, message);
    Some(failure.with_remedy("Give both the same `vfs` count, and indexes in `use` that differ."))
}
