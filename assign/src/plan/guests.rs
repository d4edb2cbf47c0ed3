//! Which device each guest would get once the plan is carried out, by the same choice that `assign
//! run` makes.

use std::collections::BTreeMap;

use policies::{Guest, Policy, Virtio};
use serde::Serialize;
use sriov::HostSnapshot;

use super::{Candidates, Known, Reasons};
use crate::choose::{Choice, Given, Holder, Offer, Rejected, Sum, Supply, Unmet, World, claims};

/// Reasons that people get for a claim, with a hint at how many more there are.
const FEW: usize = 6;
/// Reasons in a plan that tells all: beyond that, who gets what of a pool is told of each guest once.
const MOST: usize = 1_000_000;

/// What one guest would get.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct GuestPlan {
    /// The guest's name.
    pub guest: String,
    /// Whether it would start.
    pub starts: bool,
    /// What it is connected to and has; nothing where it would not start.
    #[serde(flatten)]
    pub choice: Choice,
    /// Each claim, in the order of its document: networks, then devices.
    pub claims: Vec<ClaimPlan>,
}

/// What became of one claim.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ClaimPlan {
    /// The network or device that claims.
    pub claim: String,
    /// The pool.
    pub pool: String,
    /// The device it gets.
    pub given: Option<Given>,
    /// Why it gets none.
    pub unmet: Option<Unmet>,
    /// What of the host a network falls back to.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fallback: Option<Virtio>,
    /// Whether the guest does not start without it.
    pub fatal: bool,
    /// Why it gets none of the other devices of the pool.
    pub others: Vec<Rejected>,
    /// Others whose reasons are left out here.
    pub left_out: usize,
    /// How many others there are of each kind, where that was asked for.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub sums: Vec<Sum>,
}

/// Chooses for all guests together, on the host as the plan leaves it.
pub(super) fn plan(
    snapshot: &HostSnapshot,
    policies: &[Policy],
    pools: &[Candidates],
    guests: &[Guest],
    known: Known<'_>,
) -> Vec<GuestPlan> {
    if guests.is_empty() {
        return Vec::new();
    }
    let accepted: BTreeMap<&str, &Candidates> =
        pools.iter().map(|candidates| (candidates.pool.as_str(), candidates)).collect();
    let mut offers = Vec::new();
    for policy in policies {
        for pool in &policy.pools {
            let planned = accepted.get(pool.name.as_str()).map(|found| found.accepted.clone());
            offers.push(Offer {
                policy: policy.name.clone(),
                isolation: policy.isolation,
                protection: policy.protection.clone(),
                pool: pool.clone(),
                planned,
            });
        }
    }
    offers.extend(applied_offers(&offers, known.applied.iter().map(|applied| &applied.policy)));
    let holder = |lease: &crate::state::Lease| {
        (lease.device, Holder { guest: lease.guest.clone(), pid: Some(lease.owner.pid) })
    };
    let holders = known.leases.iter().map(holder).collect();
    let world = World {
        host: snapshot,
        offers: &offers,
        holders: &holders,
        failed: &BTreeMap::new(),
        previous: known.previous,
        runs: true,
    };
    let mut supply = Supply::new(world, guests);
    supply.decide();
    let total: usize = guests.iter().map(|guest| claims(guest).count()).sum();
    let each = match known.reasons {
        Reasons::Few | Reasons::Sums => FEW,
        Reasons::All => MOST / total.max(1),
    };
    // Summing up looks at every device for each claim: people look at the first of thousands.
    let mut looks = if known.reasons == Reasons::Sums { MOST } else { 0 };
    let told = |(at, guest)| told(&supply, at, guest, each, &mut looks);
    guests.iter().enumerate().map(told).collect()
}

/// Pools of policies that were applied before, unless a policy of the same name or a pool of the same
/// name is there already.
pub fn applied_offers<'a>(
    given: &[Offer],
    applied: impl Iterator<Item = &'a Policy>,
) -> Vec<Offer> {
    let mut offers: Vec<Offer> = Vec::new();
    for policy in applied {
        if given.iter().any(|offer| offer.policy == policy.name) {
            continue;
        }
        for pool in &policy.pools {
            if given.iter().chain(&offers).all(|offer| offer.pool.name != pool.name) {
                offers.push(Offer {
                    policy: policy.name.clone(),
                    isolation: policy.isolation,
                    protection: policy.protection.clone(),
                    pool: pool.clone(),
                    planned: None,
                });
            }
        }
    }
    offers
}

fn told(
    supply: &Supply<'_>,
    at: usize,
    guest: &Guest,
    each: usize,
    looks: &mut usize,
) -> GuestPlan {
    let answers: Vec<Result<Given, Unmet>> = claims(guest)
        .enumerate()
        .map(|(claim, asked)| supply.answered(at, claim, asked.claim, each))
        .collect();
    let choice = supply.choice_within(at, each);
    let fatal = choice.as_ref().err().map(|unconnected| unconnected.claim.clone());
    let claims = claims(guest).zip(answers).enumerate().map(|(claim, (asked, answer))| {
        let (others, left_out) = match &answer {
            Ok(_) => supply.others(at, claim, asked.claim, each),
            // They are told with the reason.
            Err(_) => (Vec::new(), 0),
        };
        let network = guest.networks.iter().find(|one| asked.network && one.name == asked.name);
        let fallback = network.and_then(|network| network.fallback.clone());
        let count = supply.count_of_others(at, claim);
        let sums = match looks.checked_sub(count) {
            Some(left) if count > each => {
                *looks = left;
                supply.sums(at, claim, asked.claim)
            }
            _ => Vec::new(),
        };
        let fatal = answer.is_err() && fatal.as_deref() == Some(asked.name);
        let (given, unmet) = match answer {
            Ok(given) => (Some(given), None),
            Err(unmet) => (None, Some(unmet)),
        };
        ClaimPlan {
            claim: asked.name.to_owned(),
            pool: asked.claim.pool.clone(),
            given,
            unmet,
            fallback,
            fatal,
            others,
            left_out,
            sums,
        }
    });
    GuestPlan {
        guest: guest.name.clone(),
        starts: choice.is_ok(),
        claims: claims.collect(),
        choice: choice.unwrap_or_default(),
    }
}
