//! The steps of a function that is given away itself: none but its binding. All of its IOMMU group
//! has to be free of the host's drivers then, so the other members are in the pool as well, or in
//! nobody's hands, or it is refused and names them. What is lent leaves the host's drivers with its
//! guest, so there all members have to be lent.

use ::policies::Acs;
use sriov::isolation::{NotViable, is_vfio_driver};
use sriov::{Change, PciFunction, Reason, Target};

use super::site::Site;
use super::{Feed, acs, vfs};
use crate::failure::{Failure, OwnReason};
use crate::state::Step;

/// The steps that make `function` what the pool it feeds wants.
pub(super) fn steps(
    site: &Site<'_>,
    function: &PciFunction,
    feed: &Feed<'_>,
) -> Result<Vec<Step>, Vec<Failure>> {
    let Feed { policy, pool } = *feed;
    let mut refusals = Vec::new();
    if policy.isolation.acs == Acs::Required
        && let Some(cause) = acs::gaps(site.snapshot, function)
    {
        refusals.push(vfs::no_acs(function, &cause));
    }
    if let Err(cause) = site.viability(pool, function) {
        refusals.push(not_viable(function, &cause));
    }
    refusals.extend(site.still_lent(pool, function));
    let Some(driver) = site.driver(pool.driver, function) else {
        // Left with the host's driver; bound when a guest gets it.
        let back = site.give_back(Target::Function(function.address), function, None);
        if let (Some(change), Some(lease)) = (&back, site.lease(function.address)) {
            let tried = format!("{} for pool {}", change.action(), pool.name);
            refusals.push(vfs::leased(lease, &tried));
        }
        let step = |change| Step::of(policy, change);
        let steps = back.into_iter().map(step).collect();
        return if refusals.is_empty() { Ok(steps) } else { Err(refusals) };
    };
    if function.driver.as_deref() == Some(&*driver) {
        let kept = site.keep(Target::Function(function.address), function, &driver);
        let step = |change| Step::of(policy, change);
        return if refusals.is_empty() {
            Ok(kept.into_iter().map(step).collect())
        } else {
            Err(refusals)
        };
    }
    if let Some(facts) = function.sriov.as_ref().filter(|facts| facts.present > 0) {
        let message = format!(
            "will not be given away in pool {}: it has {} VFs, which would go with it",
            pool.name, facts.present
        );
        let failure = Failure::refused(Reason::HasVfs, function.address, message);
        refusals.push(failure.with_remedy(format!(
            "Destroy them with `assign vf destroy {}` first, or choose another device.",
            function.address
        )));
    }
    let bind = Change::Bind {
        device: Target::Function(function.address),
        from: sriov::act::bind::original(site.snapshot, function),
        driver,
    };
    if let Some(lease) = site.lease(function.address) {
        refusals.push(vfs::leased(lease, &format!("{} for pool {}", bind.action(), pool.name)));
    }
    let is_given_away = function.driver.as_deref().is_some_and(is_vfio_driver);
    let taken = match is_given_away {
        true => Ok(bind),
        false => site.take(policy, &[function], bind),
    };
    match taken {
        Ok(change) if refusals.is_empty() => Ok(vec![Step::of(policy, change)]),
        Ok(_) => Err(refusals),
        Err(protected) => {
            refusals.extend(protected);
            Err(refusals)
        }
    }
}

fn not_viable(function: &PciFunction, cause: &NotViable) -> Failure {
    let failure = Failure::not_viable(function.address, cause);
    match cause {
        NotViable::NoGroup { .. } | NotViable::Reserved { .. } | NotViable::PfGivenAway { .. } => {
            failure
        }
        NotViable::Neighbours { .. } => {
            let remedy = cause.remedy();
            debug_assert_eq!(failure.reason, OwnReason::GroupNotViable.into());
            failure.with_remedy(format!(
                "{remedy} A pool that selects all devices of the group takes them together."
            ))
        }
    }
}
