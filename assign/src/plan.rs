//! From what a host is and what it should be to the steps in between: a pure function. No file, no
//! clock, no system call; the same input gives the same plan, here or on another machine.
//!
//! ```text
//! candidates.rs  which functions feed a pool, and why the others do not
//! conflicts.rs   what two pools cannot both have
//! site.rs        the host with its indexes: who has what, what carries what, who may be taken
//! whole.rs       the steps of a function that is given away itself
//! vfs.rs         the steps of one PF, in an order that argues for itself
//! adopt.rs       those of VFs that are there already
//! network.rs     what a PF sets for its VFs, as the pool wants it
//! nvme.rs        what the VFs of a drive need to work
//! returned.rs    the steps back of what policies changed and no longer want
//! removal.rs     what taking back has to respect
//! acs.rs         whether the way to a device isolates it
//! mac.rs         the address of a VF
//! guests.rs      which device each guest would get, after all steps
//! saved.rs       a plan in a file, to be carried out later or not at all
//! ```
//!
//! What must not be done is a refusal, each with its reason; a plan with a refusal is not carried
//! out at all.

use std::collections::BTreeMap;

use ::policies::{Guest, NoIommu, Policy, Pool, PoolDevices};
use serde::Serialize;
use sriov::facts::variant::Variants;
use sriov::{HostSnapshot, PciAddress, PciFunction, VfRef, isolation};

use crate::choose::{Previous, Unmet};
use crate::failure::{Failure, OwnReason};
use crate::state::{Applied, Lease, Step};

pub mod acs;
mod adopt;
pub mod candidates;
pub mod conflicts;
pub mod guests;
pub mod mac;
mod network;
mod nvme;
pub(crate) mod removal;
mod returned;
pub mod saved;
mod site;
pub mod vfs;
mod whole;

pub use candidates::{Candidates, Rejected};
pub use guests::{ClaimPlan, GuestPlan};
use site::Site;

/// Most refusals that a plan tells one by one: whoever has thousands has one cause.
const MOST_REFUSALS: usize = 256;

/// What is to be done, or why it is not.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Plan {
    /// Steps in order; none when the host is as wanted.
    pub steps: Vec<Step>,
    /// What a person should know before.
    pub notes: Vec<String>,
    /// Why nothing is to be done.
    pub refusals: Vec<Failure>,
    /// Which devices feed which pool.
    pub pools: Vec<Candidates>,
    /// What each guest would get once all steps are made; none where there is a refusal.
    pub guests: Vec<GuestPlan>,
}

impl Plan {
    /// Whether somebody may notice the steps, so that they are asked first.
    pub fn is_disruptive(&self) -> bool {
        self.steps.iter().any(|step| step.change.is_disruptive())
    }

    /// Guests that would not start.
    pub fn would_not_start(&self) -> impl Iterator<Item = &GuestPlan> {
        self.guests.iter().filter(|guest| !guest.starts)
    }

    /// The refusal of a guest that claims from a pool which is in no policy, given or applied. Where it
    /// has a fallback it would start, and never get what its document says: that is a slip of the pen.
    pub fn unknown_pool(&self) -> Option<Failure> {
        let claims = self
            .guests
            .iter()
            .flat_map(|guest| guest.claims.iter().map(move |claim| (guest, claim)));
        let (guest, claim, unmet) = claims
            .filter_map(|(guest, claim)| Some((guest, claim, claim.unmet.as_ref()?)))
            .find(|(_, _, unmet)| matches!(unmet, Unmet::NoSuchPool { .. }))?;
        let message = format!("{} cannot have a device: {unmet}", claim.claim);
        Some(Failure::bad_input(OwnReason::NoSuchPool, &guest.guest, message).with_remedy(
            "Correct the claim's `pool`, or give the file of the policy that has it with -f.",
        ))
    }

    /// The gravest refusal: bad input before protection, since it has to be mended first.
    pub fn refusal(&self) -> Option<&Failure> {
        let bad_input = |failure: &&Failure| failure.class == sriov::Class::BadInput;
        self.refusals.iter().find(bad_input).or_else(|| self.refusals.first())
    }
}

/// How many reasons a plan gives for each claim of a guest.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Reasons {
    /// Some, for people.
    #[default]
    Few,
    /// Some, and how many others there are of each kind, for people who look at a plan.
    Sums,
    /// Every one, up to a million in all.
    All,
}

/// What is known beside the host itself.
#[derive(Debug, Clone, Copy, Default)]
pub struct Known<'a> {
    /// Leases that are alive.
    pub leases: &'a [Lease],
    /// Policies applied before; those that are planned again are taken from the new text.
    pub applied: &'a [Applied],
    /// What guests had before.
    pub previous: &'a [Previous],
    /// The vendors' variants of vfio-pci that this kernel has; `None` where nobody knows.
    pub variants: Option<&'a Variants>,
    /// How much is told of each claim.
    pub reasons: Reasons,
}

/// A pool that a function feeds, and the policy it stands in.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Feed<'a> {
    pub policy: &'a Policy,
    pub pool: &'a Pool,
}

/// A feed of VFs.
#[derive(Debug, Clone, Copy)]
pub(crate) struct VfFeed<'a> {
    pub policy: &'a Policy,
    pub pool: &'a Pool,
    pub count: u16,
    pub indexes: &'a ::policies::VfIndexes,
}

impl<'a> Feed<'a> {
    fn vfs(self) -> Option<VfFeed<'a>> {
        let Feed { policy, pool } = self;
        match &pool.devices {
            PoolDevices::Vfs { count, indexes } => {
                Some(VfFeed { policy, pool, count: *count, indexes })
            }
            PoolDevices::Whole => None,
        }
    }
}

/// Plans for `policies` on the host as it is.
pub fn plan(snapshot: &HostSnapshot, policies: &[Policy], known: Known<'_>) -> Plan {
    plan_with(snapshot, policies, &[], known)
}

/// The same, and what each of `guests` would get once it is made so.
pub fn plan_with(
    snapshot: &HostSnapshot,
    policies: &[Policy],
    guests: &[Guest],
    known: Known<'_>,
) -> Plan {
    let mut plan = Plan::default();
    let mut feeds: BTreeMap<PciAddress, Vec<Feed<'_>>> = BTreeMap::new();
    for policy in policies {
        for pool in &policy.pools {
            let candidates = candidates::find(snapshot, pool);
            plan.refusals.extend(candidates.refusal(pool));
            for function in &candidates.accepted {
                feeds.entry(*function).or_default().push(Feed { policy, pool });
            }
            plan.pools.push(candidates);
        }
    }
    iommu(snapshot, policies, &mut plan);
    // What was applied before the last boot is not in force: the kernel has forgotten all of it, and
    // nobody could remove it to make room.
    let boot_id = &snapshot.platform.boot_id;
    let others: Vec<&Policy> = known
        .applied
        .iter()
        .filter(|applied| applied.boot_id == *boot_id)
        .map(|applied| &applied.policy)
        .filter(|applied| policies.iter().all(|policy| policy.name != applied.name))
        .collect();
    let site = Site::new(snapshot, known, &feeds);
    for (address, feeds) in &feeds {
        let Some(function) = snapshot.function(*address) else { continue };
        let conflicts = conflicts::find(snapshot, function, feeds, &others);
        if !conflicts.is_empty() {
            // What they do not agree on cannot be planned.
            plan.refusals.extend(conflicts.into_iter().map(|one| one.failure));
            continue;
        }
        let vf_feeds: Vec<VfFeed<'_>> = feeds.iter().filter_map(|feed| feed.vfs()).collect();
        plan.notes.extend(disturbance(&site, function, &vf_feeds));
        let steps = match feeds.first() {
            Some(first) if vf_feeds.is_empty() => whole::steps(&site, function, first),
            _ => vfs::steps(&site, function, &vf_feeds),
        };
        match steps {
            Ok(steps) => plan.steps.extend(steps),
            Err(refusals) => plan.refusals.extend(refusals),
        }
    }
    match returned::steps(&site, policies, &feeds, known) {
        Ok(returned) => {
            plan.steps.extend(returned.steps);
            plan.notes.extend(returned.notes);
        }
        Err(refusals) => plan.refusals.extend(refusals),
    }
    plan.refusals.extend(same_address(&site, &feeds));
    if let Some(more) = plan.refusals.len().checked_sub(MOST_REFUSALS).filter(|more| *more > 0) {
        plan.refusals.truncate(MOST_REFUSALS);
        plan.notes.push(format!("{more} more devices are refused, and not told one by one"));
    }
    if !plan.refusals.is_empty() {
        plan.steps.clear();
        return plan;
    }
    if known.variants.is_none() && crate::inputs::wants_variants(policies) {
        plan.notes.push(
            "which variants of vfio-pci this host's kernel has is not known, so `driver: auto` is \
             planned as vfio-pci"
                .to_owned(),
        );
    }
    plan.guests = guests::plan(snapshot, policies, &plan.pools, guests, known);
    for guest in &plan.guests {
        for (claim, given) in guest.choice.given() {
            let Some(by_force) = &given.by_force else { continue };
            plan.notes.push(format!(
                "{}: {claim} takes {} {by_force}; `assign run` asks before",
                guest.guest,
                given.device()
            ));
        }
    }
    plan
}

/// Refuses where nothing would keep a device from the host's memory. A policy may allow that; our VMM
/// has no use for such a device all the same, so none is taken from the host for nothing.
fn iommu(snapshot: &HostSnapshot, policies: &[Policy], plan: &mut Plan) {
    let mut wanting = policies.iter().filter(|policy| !policy.pools.is_empty()).peekable();
    if wanting.peek().is_none() {
        return;
    }
    if snapshot.iommu.present {
        plan.notes.extend(isolation::pretended(snapshot).map(str::to_owned));
        return;
    }
    let allows = wanting.all(|policy| policy.isolation.no_iommu == NoIommu::Allow);
    let message = match allows {
        true => {
            "no IOMMU is in use, and this version gives no guest a device without one, also where \
             `noIommu: allow` would let it"
        }
        false => {
            "no IOMMU is in use, so a device in a guest could reach all memory, and none is given away"
        }
    };
    let remedy = format!(
        "{} Until then, guests with a virtio fallback start with that.",
        snapshot.iommu.remedy()
    );
    let failure = Failure::refused(OwnReason::NoIommu, "this host", message);
    plan.refusals.push(failure.with_remedy(remedy));
}

/// The refusal where two VFs would have the same derived address: neither would be heard then.
fn same_address(site: &Site<'_>, feeds: &BTreeMap<PciAddress, Vec<Feed<'_>>>) -> Option<Failure> {
    let functions =
        feeds.iter().filter_map(|(at, feeds)| Some((site.snapshot.function(*at)?, feeds)));
    let addresses = functions.flat_map(|(pf, feeds)| {
        let feeds = feeds.iter().filter_map(|feed| feed.vfs());
        feeds.flat_map(move |feed| {
            feed.indexes.iter().filter_map(move |index| {
                let mac = site.macs.wanted(pf, feed.pool, index)?;
                Some((VfRef { pf: pf.address, index }, mac))
            })
        })
    });
    let (one, other, mac) = mac::twice(addresses)?;
    let message = format!("would have the address {mac}, which is derived for {one} as well");
    Some(
        Failure::bad_input(OwnReason::PoolConflict, other, message).with_remedy(
            "Give one of their pools another name: the address is derived from that too.",
        ),
    )
}

/// Some NICs (igb) reset their link when VFs come or go.
fn disturbance(site: &Site<'_>, pf: &PciFunction, feeds: &[VfFeed<'_>]) -> Option<String> {
    let present = pf.sriov.as_ref()?.present;
    let changes = feeds.iter().any(|feed| feed.count != present);
    let used = changes.then(|| site.uses(pf).into_iter().next())??;
    Some(format!("{used}: may lose its link for a moment while its VFs are made"))
}
