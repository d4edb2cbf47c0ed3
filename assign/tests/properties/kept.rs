//! What guests had last time, and that they have it again where nothing speaks against it.

use std::collections::BTreeMap;

use assign::choose::{self, Because, Previous, identity};
use assign::plan::Plan;
use assign::plan::mac::Macs;
use policies::{Documents, Driver, NumaChoice, Pool};
use proptest::prelude::*;
use proptest::test_runner::TestCaseError;
use sriov::{HostSnapshot, PciAddress, Target, VfRef};

use super::Case;
use super::hosts::{Before, card_at};

/// What is remembered: of a card that was moved, another place.
pub fn previous(host: &HostSnapshot, documents: &Documents, before: &[Before]) -> Vec<Previous> {
    let any: Vec<(PciAddress, Option<u16>)> =
        (0..3).flat_map(|card| (0..8).map(move |index| (card_at(card), Some(index)))).collect();
    let previous = |one: &Before| {
        let guest = cycled(&documents.guests, one.guest)?;
        let claims: Vec<choose::Asked<'_>> = choose::claims(guest).collect();
        let asked = cycled(&claims, one.claim)?;
        let pool = documents.pool(&asked.claim.pool).map(|(_, pool)| pool);
        let devices = match pool.filter(|_| !one.any) {
            Some(pool) => devices(host, pool),
            None => any.clone(),
        };
        let (at, index) = *cycled(&devices, one.device)?;
        let identity = identity(&Macs::of(host), host.function(at)?);
        let address = match one.moved {
            true => PciAddress::new(1, 0xee, 0, 0)?,
            false => at,
        };
        Some(Previous {
            guest: guest.name.clone(),
            claim: asked.name.to_owned(),
            pool: asked.claim.pool.clone(),
            vf: index.map(|index| VfRef { pf: address, index }),
            address,
            identity,
        })
    };
    // A claim had one device.
    let all = before.iter().filter_map(previous);
    let all = all.map(|one| ((one.guest.clone(), one.claim.clone()), one));
    all.collect::<BTreeMap<_, _>>().into_values().collect()
}

fn cycled<T>(list: &[T], number: usize) -> Option<&T> {
    list.get(number.checked_rem(list.len())?)
}

/// What a pool has: cards with the indexes of their VFs, or whole functions.
fn devices(host: &HostSnapshot, pool: &Pool) -> Vec<(PciAddress, Option<u16>)> {
    let cards = host.functions.iter().filter(|one| pool.from.matches(host, one).is_ok());
    let devices = cards.flat_map(|card| match pool.vfs() {
        Some(_) => pool.indexes().map(|index| (card.address, Some(index))).collect(),
        None => vec![(card.address, None)],
    });
    devices.collect()
}

/// Where a device that is remembered is now, by nothing but what it is.
fn now(host: &HostSnapshot, previous: &Previous) -> Option<Target> {
    let mut cards = host.functions.iter().filter(|one| one.vf_of.is_none());
    let macs = Macs::of(host);
    let card = cards.find(|one| identity(&macs, one) == previous.identity)?.address;
    Some(match previous.vf {
        Some(vf) => Target::Vf(VfRef { pf: card, index: vf.index }),
        None => Target::Function(card),
    })
}

/// Claims that have to get what they had: it is of their pool, nobody else had it, nobody has any of
/// its group, and it is not too far. Each with that device.
pub fn expected<'a>(
    case: &'a Case,
    plan: &Plan,
    after: &HostSnapshot,
) -> Vec<(usize, &'a Previous, Target)> {
    let host = &case.before.host;
    let group = |target: Target| {
        let at = match target {
            Target::Vf(vf) => after.vf_address(vf),
            Target::Function(address) => Some(address),
        };
        at.and_then(|at| after.function(at)).map(|one| (one.address, one.iommu_group))
    };
    let mut expected = Vec::new();
    for previous in &case.previous {
        let guests = &case.documents.guests;
        let Some(number) = guests.iter().position(|guest| guest.name == previous.guest) else {
            continue;
        };
        let guest = &guests[number];
        let Some(asked) = choose::claims(guest).find(|asked| asked.name == previous.claim) else {
            continue;
        };
        let Some(target) = now(host, previous) else { continue };
        let Some((policy, pool)) = case.documents.pool(&asked.claim.pool) else { continue };
        let card = match target {
            Target::Vf(vf) => vf.pf,
            Target::Function(address) => address,
        };
        let Some(function) = host.function(card) else { continue };
        let of_pool = pool.from.matches(host, function).is_ok()
            && match target {
                Target::Vf(vf) => pool.indexes().any(|index| index == vf.index),
                Target::Function(_) => pool.vfs().is_none(),
            };
        // What the host lends may be in its own use.
        let is_bound = pool.driver != Driver::Host && policy.isolation.acs == policies::Acs::Kernel;
        let is_near = match (asked.claim.numa, guest.memory.numa) {
            (NumaChoice::Required, Some(node)) => function.numa_node == Some(node),
            _ => true,
        };
        let Some((_, own)) = group(target) else { continue };
        let others = case.previous.iter().filter(|other| *other != previous);
        let mut others = others.filter_map(|other| now(host, other));
        let nobody_else_had = others.all(|other| {
            other != target && group(other).is_none_or(|(_, other)| other.is_none() || other != own)
        });
        let nobody_has = case.leases.iter().all(|lease| {
            lease.guest != guest.name
                && after.function(lease.device).and_then(|one| one.iommu_group) != own
        });
        let starts = plan.guests.get(number).is_some_and(|told| told.starts);
        if of_pool && is_bound && is_near && nobody_else_had && nobody_has && starts {
            expected.push((number, previous, target));
        }
    }
    expected
}

/// That these claims have them again, and for that reason.
pub fn check(case: &Case, plan: &Plan, after: &HostSnapshot) -> Result<(), TestCaseError> {
    for (number, previous, target) in expected(case, plan, after) {
        let told = &plan.guests[number];
        let mut given = told.choice.given();
        let given = given.find(|(claim, _)| *claim == previous.claim).map(|(_, given)| given);
        let has = given.map(|given| match given.vf {
            Some(vf) => Some(Target::Vf(vf)),
            None => given.address.map(Target::Function),
        });
        prop_assert_eq!(has, Some(Some(target)), "{} {:?}", told.guest, previous);
        prop_assert_eq!(given.map(|given| given.because), Some(Because::Kept));
    }
    Ok(())
}
