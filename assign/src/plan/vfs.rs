//! The steps of one PF.
//!
//! The order: the PF's interface up, since VFs do not answer below one that is down, and some
//! drivers make none; before that, its ears closed to routers, or the host would get addresses and a
//! default route from a network that only its guests are to be on. The host's drivers kept off, so that none claims a new VF; off until the VFs
//! are bound, because a module that udev loads late would claim them then. VFs by way of none,
//! which is the only way the kernel goes. Then the bindings, and after them the addresses, so that
//! on the way back each VF has its old address again before its old driver looks.

use ::policies::{MacPolicy, Pool};
use sriov::{
    Binding, Change, HostSnapshot, MacAddress, PciFunction, PfFacts, Target, VfRef, VfState,
    isolation, usage,
};

use super::{Feed, mac, nvme};
use crate::failure::{Failure, OwnReason};
use crate::state::{Drive, Lease, Step};

/// The steps that make `pf` what the pools it feeds want.
pub(super) fn steps(
    snapshot: &HostSnapshot,
    pf: &PciFunction,
    feeds: &[Feed<'_>],
    leases: &[Lease],
) -> Result<Vec<Step>, Vec<Failure>> {
    let (Some(facts), Some(first)) = (&pf.sriov, feeds.first()) else { return Ok(Vec::new()) };
    let Some(count) = first.pool.count() else { return Ok(Vec::new()) };
    check_count(pf, facts, count).map_err(|failure| vec![failure])?;
    let by = |feed: &Feed<'_>, change| Step { policy: feed.policy.name.clone(), change };
    let mut steps: Vec<Step> =
        link_up(snapshot, pf).into_iter().map(|change| by(first, change)).collect();
    if facts.present == count {
        let repairs = nvme::repair(snapshot, pf, facts).map_err(|failure| vec![failure])?;
        steps.extend(repairs.into_iter().map(|change| by(first, change)));
        steps.extend(adopt(snapshot, pf, facts, feeds, leases)?);
        return Ok(steps);
    }
    check_free(snapshot, facts, leases).map_err(|failure| vec![failure])?;
    let [before, after] = frame(snapshot, pf, facts, count).map_err(|failure| vec![failure])?;
    steps.extend(before.into_iter().map(|change| by(first, change)));
    for feed in feeds {
        for index in feed.pool.indexes() {
            let device = Target::Vf(VfRef { pf: pf.address, index });
            let driver = "vfio-pci".to_owned();
            steps.push(by(feed, Change::Bind { device, from: Binding::default(), driver }));
        }
    }
    for feed in feeds {
        for index in feed.pool.indexes() {
            let vf = VfRef { pf: pf.address, index };
            if let Some(to) = wanted_mac(snapshot, pf, feed.pool, index) {
                steps.push(by(feed, Change::SetVfMac { vf, from: MacAddress([0; 6]), to }));
            }
        }
    }
    steps.extend(after.into_iter().map(|change| by(first, change)));
    Ok(steps)
}

/// The steps around new VFs: up to making them ready for a driver, and after they were bound.
fn frame(
    snapshot: &HostSnapshot,
    pf: &PciFunction,
    facts: &PfFacts,
    count: u16,
) -> Result<[Vec<Change>; 2], Failure> {
    let (mut before, mut after) = (Vec::new(), Vec::new());
    if facts.autoprobe {
        before.push(autoprobe(pf, true, false));
        after.push(autoprobe(pf, false, true));
    }
    before.extend(remember(snapshot, pf, facts));
    before.extend(resize(snapshot, pf, facts, count)?);
    Ok([before, after])
}

fn autoprobe(pf: &PciFunction, from: bool, to: bool) -> Change {
    Change::SetAutoprobe { pf: pf.address, from, to }
}

/// What the VFs have that are about to go, for them to have it again should a later step fail. Those
/// of a drive are taken from their drivers and set offline by steps of their own.
pub fn remember(snapshot: &HostSnapshot, pf: &PciFunction, facts: &PfFacts) -> Vec<Change> {
    if facts.nvme.is_some() {
        return Vec::new();
    }
    let vfs = facts.vfs.iter().filter_map(|(index, at)| {
        let binding = sriov::act::bind::original(snapshot, snapshot.function(*at)?);
        let had = VfState { binding, settings: facts.vf_settings.get(index).copied() };
        let vf = VfRef { pf: pf.address, index: *index };
        (!had.is_plain()).then_some(Change::RememberVf { vf, had })
    });
    vfs.collect()
}

/// The steps by which all VFs go, if there are any. Should they be taken back, no driver of the host
/// takes a VF before it has its address again.
fn clear(
    snapshot: &HostSnapshot,
    pf: &PciFunction,
    facts: &PfFacts,
) -> Result<Vec<Change>, Failure> {
    let mut steps = remember(snapshot, pf, facts);
    let guard = facts.autoprobe && !steps.is_empty();
    if guard {
        steps.insert(0, autoprobe(pf, true, false));
    }
    steps.extend(resize(snapshot, pf, facts, 0)?);
    if guard {
        steps.push(autoprobe(pf, false, true));
    }
    Ok(steps)
}

/// From one number of VFs to another, by way of none. Where VFs have to be set up to work, they are.
///
/// # Errors
/// The device has not enough for so many.
fn resize(
    snapshot: &HostSnapshot,
    pf: &PciFunction,
    facts: &PfFacts,
    count: u16,
) -> Result<Vec<Change>, Failure> {
    let set = |from, to| Change::SetVfCount { pf: pf.address, from, to };
    let mut steps = Vec::new();
    if facts.present == count {
        return Ok(steps);
    }
    if facts.present > 0 {
        steps.extend(nvme::withdraw(snapshot, pf, facts));
        steps.push(set(facts.present, 0));
    }
    if count > 0 {
        let sharing = nvme::share(snapshot, pf, facts, count)?;
        steps.extend(sharing.before);
        steps.push(set(0, count));
        steps.extend(sharing.after);
    }
    Ok(steps)
}

/// The steps of `assign vf create PF N --driver D`, with all VFs to one driver; without a driver
/// the host's own drivers take them, or not, as it is set.
///
/// # Errors
/// The device has not enough for so many.
pub fn create(
    snapshot: &HostSnapshot,
    pf: &PciFunction,
    count: u16,
    driver: Option<&str>,
) -> Result<Vec<Change>, Failure> {
    let Some(facts) = &pf.sriov else { return Ok(Vec::new()) };
    if facts.present == count {
        return Ok(Vec::new());
    }
    if driver.is_none() && facts.nvme.is_none() {
        let mut steps = clear(snapshot, pf, facts)?;
        steps.push(Change::SetVfCount { pf: pf.address, from: 0, to: count });
        return Ok(steps);
    }
    let [mut steps, after] = frame(snapshot, pf, facts, count)?;
    steps.extend((0..count).filter_map(|index| {
        let device = Target::Vf(VfRef { pf: pf.address, index });
        let from = Binding::default();
        match driver {
            Some(driver) => Some(Change::Bind { device, from, driver: driver.to_owned() }),
            // No driver could begin with them before they were set up: now the host's may.
            None if facts.autoprobe => {
                let to = Binding { driver: pf.driver.clone(), ..Binding::default() };
                Some(Change::Restore { device, from, to })
            }
            None => None,
        }
    }));
    steps.extend(after);
    Ok(steps)
}

/// The steps of `assign vf destroy PF`; a drive from which VFs got what they had gets it back.
pub fn destroy(
    snapshot: &HostSnapshot,
    pf: &PciFunction,
    drive: Option<&Drive>,
) -> Result<Vec<Change>, Failure> {
    let Some(facts) = &pf.sriov else { return Ok(Vec::new()) };
    let mut steps = clear(snapshot, pf, facts)?;
    steps.extend(drive.and_then(|drive| nvme::give_back(snapshot, pf, facts, drive)));
    Ok(steps)
}

fn check_count(pf: &PciFunction, facts: &PfFacts, count: u16) -> Result<(), Failure> {
    if count <= facts.total {
        return Ok(());
    }
    let message = format!("cannot have {count} VFs: its maximum is {}", facts.total);
    Err(Failure::bad_input(sriov::Reason::TooManyVfs, pf.address, message)
        .with_remedy(format!("Set `count` to at most {}.", facts.total)))
}

fn link_up(snapshot: &HostSnapshot, pf: &PciFunction) -> Vec<Change> {
    let Some(port) = snapshot.port_of(pf).filter(|port| !port.up) else { return Vec::new() };
    let (pf, netdev) = (pf.address, port.name.clone());
    let listens = port.accept_ra.filter(|value| *value != 0);
    let deaf = listens.map(|from| Change::SetAcceptRa { pf, netdev: netdev.clone(), from, to: 0 });
    deaf.into_iter().chain([Change::SetLink { pf, netdev, from: false, to: true }]).collect()
}

/// Steps for VFs that are there already.
fn adopt(
    snapshot: &HostSnapshot,
    pf: &PciFunction,
    facts: &PfFacts,
    feeds: &[Feed<'_>],
    leases: &[Lease],
) -> Result<Vec<Step>, Vec<Failure>> {
    let together: Vec<_> = feeds
        .iter()
        .flat_map(|feed| feed.pool.indexes().filter_map(|index| facts.vfs.get(&index)))
        .copied()
        .collect();
    let (mut bindings, mut addresses, mut refusals) = (Vec::new(), Vec::new(), Vec::new());
    for feed in feeds {
        let by = |change| Step { policy: feed.policy.name.clone(), change };
        for index in feed.pool.indexes() {
            let vf = VfRef { pf: pf.address, index };
            let Some(function) = facts.vfs.get(&index).and_then(|at| snapshot.function(*at)) else {
                continue;
            };
            if let Err(cause) = isolation::viability(snapshot, function, &together) {
                refusals.push(Failure::not_viable(function.address, &cause));
                continue;
            }
            let steps = [
                bind(snapshot, function, vf, "vfio-pci"),
                set_mac(snapshot, pf, facts, feed.pool, vf),
            ];
            let lease = leases.iter().find(|lease| lease.device == function.address);
            match (lease, steps.iter().flatten().next()) {
                (Some(lease), Some(change)) => {
                    refusals.push(leased(lease, &change.action().to_string()))
                }
                (None, Some(_)) => refusals.extend(carries(snapshot, function)),
                _ => {}
            }
            let [binding, address] = steps;
            bindings.extend(binding.map(by));
            addresses.extend(address.map(by));
        }
    }
    bindings.extend(addresses);
    if refusals.is_empty() { Ok(bindings) } else { Err(refusals) }
}

/// One that has the driver already, by whatever way, is left alone.
fn bind(
    snapshot: &HostSnapshot,
    function: &PciFunction,
    vf: VfRef,
    driver: &str,
) -> Option<Change> {
    (function.driver.as_deref() != Some(driver)).then(|| Change::Bind {
        device: Target::Vf(vf),
        from: sriov::act::bind::original(snapshot, function),
        driver: driver.to_owned(),
    })
}

/// Where the kernel was not asked for the present address (a recorded tree), it is not known to
/// differ.
fn set_mac(
    snapshot: &HostSnapshot,
    pf: &PciFunction,
    facts: &PfFacts,
    pool: &Pool,
    vf: VfRef,
) -> Option<Change> {
    let to = wanted_mac(snapshot, pf, pool, vf.index)?;
    let from = facts.vf_settings.get(&vf.index)?.mac;
    (from != to).then_some(Change::SetVfMac { vf, from, to })
}

/// Only a network PF has an interface to set addresses by.
fn wanted_mac(
    snapshot: &HostSnapshot,
    pf: &PciFunction,
    pool: &Pool,
    index: u16,
) -> Option<MacAddress> {
    let derived = pool.network.mac == MacPolicy::Derive && snapshot.port_of(pf).is_some();
    derived.then(|| mac::derive(snapshot, pf, &pool.name, index))
}

/// No VF may be in anybody's hands when all of them go.
pub fn check_free(
    snapshot: &HostSnapshot,
    facts: &PfFacts,
    leases: &[Lease],
) -> Result<(), Failure> {
    let uses = usage::Index::of(snapshot);
    for address in facts.vfs.values() {
        if let Some(lease) = leases.iter().find(|lease| lease.device == *address) {
            return Err(leased(lease, "destroy it with the other VFs of its PF"));
        }
        let function = snapshot.function(*address);
        if let Some(failure) = function.and_then(|function| refusal(&uses, function)) {
            return Err(failure);
        }
    }
    Ok(())
}

/// The refusal to touch a device that a guest has.
pub fn leased(lease: &Lease, tried: &str) -> Failure {
    let (guest, pid) = (&lease.guest, lease.owner.pid);
    let message = format!("will not {tried}: it is in use by guest {guest} (process {pid})");
    Failure::refused(OwnReason::Leased, lease.device, message)
        .with_remedy(format!("Stop {guest} first."))
}

/// The refusal to take a device that the host needs.
pub fn carries(snapshot: &HostSnapshot, function: &PciFunction) -> Option<Failure> {
    refusal(&usage::Index::of(snapshot), function)
}

fn refusal(uses: &usage::Index<'_>, function: &PciFunction) -> Option<Failure> {
    let used = uses.uses(function).into_iter().next()?;
    let message = format!("will not be taken: the host needs it ({used})");
    let failure = Failure::refused(sriov::Reason::HostUsesDevice, function.address, message);
    Some(failure.with_remedy("Move what it carries elsewhere, or choose another device."))
}
