//! The steps of one PF.
//!
//! The order: the PF's interface up, since VFs do not answer below one that is down, and some
//! drivers make none; before that, its ears closed to routers, or the host would get addresses and a
//! default route from a network that only its guests are to be on. The host's drivers kept off, so that none claims a new VF; off until the VFs
//! are bound, because a module that udev loads late would claim them then. VFs by way of none,
//! which is the only way the kernel goes. Then the bindings, and after them the addresses, so that
//! on the way back each VF has its old address again before its old driver looks. VFs that the host
//! keeps (`driver: host`, or in no pool) get its driver last of all, for it to find the address they are to have.

use ::policies::{Acs, Driver, Policy};
use sriov::{
    Binding, Change, HostSnapshot, PciAddress, PciFunction, PfFacts, Target, VfRef, VfState, usage,
};

use super::mac::Macs;
use super::site::Site;
use super::{VfFeed, acs, adopt, network, nvme};
use crate::failure::{Failure, OwnReason};
use crate::state::{Drive, Lease, Step};

/// The steps that make `pf` what the pools it feeds want.
pub(super) fn steps(
    site: &Site<'_>,
    pf: &PciFunction,
    feeds: &[VfFeed<'_>],
) -> Result<Vec<Step>, Vec<Failure>> {
    let snapshot = site.snapshot;
    let (Some(facts), Some(first)) = (&pf.sriov, feeds.first()) else { return Ok(Vec::new()) };
    let count = first.count;
    let mut refusals: Vec<Failure> = check_count(pf, facts, count).err().into_iter().collect();
    for feed in feeds {
        refusals.extend(network::unable(snapshot, pf, facts, feed.pool));
        if feed.policy.isolation.acs == Acs::Required
            && let Some(cause) = acs::gaps(snapshot, pf)
        {
            refusals.push(no_acs(pf, &cause));
        }
    }
    if !refusals.is_empty() {
        return Err(refusals);
    }
    let by = |feed: &VfFeed<'_>, change| Step::of(feed.policy, change);
    let mut steps: Vec<Step> =
        link_up(snapshot, pf).into_iter().map(|change| by(first, change)).collect();
    // Somebody else's hand, or a command that was killed: a policy leaves it as it found it.
    let is_missed = !facts.autoprobe && site.found_autoprobe(pf.address);
    let restored = is_missed.then(|| by(first, autoprobe(pf, false, true)));
    if facts.present == count {
        steps.extend(restored);
        let repairs = nvme::repair(snapshot, pf, facts).map_err(|failure| vec![failure])?;
        steps.extend(repairs.into_iter().map(|change| by(first, change)));
        steps.extend(adopt::steps(site, pf, facts, feeds)?);
        return Ok(steps);
    }
    check_leases(site, facts, first)?;
    let (addresses, settings) = of_new(&site.macs, pf, feeds);
    // The host's drivers begin with all VFs as they come where that is right for all: else they get
    // theirs when these have what is set for them.
    let is_host = feeds.iter().all(|feed| feed.pool.driver == Driver::Host);
    let as_they_come = is_host && addresses.is_empty() && settings.is_empty();
    let [before, after] =
        frame(snapshot, pf, facts, count, as_they_come).map_err(|failure| vec![failure])?;
    let (restored_before, restored_after) = match as_they_come {
        true => (restored, None),
        false => (None, restored),
    };
    steps.extend(restored_before);
    for change in before {
        steps.push(by(first, by_force(site, first.policy, facts, change)?));
    }
    for feed in feeds {
        let Some(driver) = site.driver(feed.pool.driver, &future_vf(pf, facts)) else { continue };
        for index in feed.indexes.iter() {
            let device = Target::Vf(VfRef { pf: pf.address, index });
            let (from, driver) = (Binding::default(), driver.clone());
            steps.push(by(feed, Change::Bind { device, from, driver }));
        }
    }
    steps.extend(addresses);
    steps.extend(settings);
    steps.extend(after.into_iter().map(|change| by(first, change)));
    steps.extend(restored_after);
    if (facts.autoprobe || is_missed) && !as_they_come {
        let to_host = |feed: &VfFeed<'_>, index| {
            let device = Target::Vf(VfRef { pf: pf.address, index });
            by(feed, Change::Yield { device, from: Binding::default() })
        };
        match is_host {
            true => steps.extend((0..count).map(|index| to_host(first, index))),
            false => {
                let for_guests = |index: u16| {
                    let mut of = feeds.iter().filter(|feed| feed.indexes.contains(index));
                    of.any(|feed| feed.pool.driver != Driver::Host)
                };
                // Those of no pool as well: they end as if the kernel alone had made them.
                let of = |index: u16| {
                    let mut own = feeds.iter().filter(|feed| feed.indexes.contains(index));
                    own.next().unwrap_or(first)
                };
                let others = (0..count).filter(|index| !for_guests(*index));
                steps.extend(others.map(|index| to_host(of(index), index)));
            }
        }
    }
    Ok(steps)
}

/// What is set for new VFs: their addresses, then all else.
fn of_new(macs: &Macs<'_>, pf: &PciFunction, feeds: &[VfFeed<'_>]) -> (Vec<Step>, Vec<Step>) {
    let (mut addresses, mut settings) = (Vec::new(), Vec::new());
    for feed in feeds {
        let by = |change| Step::of(feed.policy, change);
        for index in feed.indexes.iter() {
            let vf = VfRef { pf: pf.address, index };
            let (mac, others) = network::of_new(macs, pf, feed.pool, vf);
            addresses.extend(mac.map(by));
            settings.extend(others.into_iter().map(by));
        }
    }
    network::by_kind(&mut settings);
    (addresses, settings)
}

/// A VF as it will be, as far as a driver for it is chosen by that.
fn future_vf(pf: &PciFunction, facts: &PfFacts) -> PciFunction {
    PciFunction {
        vendor: pf.vendor,
        device: facts.vf_device,
        subsystem_vendor: pf.subsystem_vendor,
        subsystem_device: pf.subsystem_device,
        class: pf.class,
        ..PciFunction::new(pf.address)
    }
}

/// The refusal where the way to a device does not isolate it.
pub(super) fn no_acs(function: &PciFunction, cause: &str) -> Failure {
    let message = format!("cannot be given away: {cause}");
    Failure::refused(OwnReason::GroupNotViable, function.address, message).with_remedy(acs::REMEDY)
}

/// No guest may lose its VF because there are to be more or fewer.
fn check_leases(site: &Site<'_>, facts: &PfFacts, feed: &VfFeed<'_>) -> Result<(), Vec<Failure>> {
    let tried = format!(
        "destroy it with the other VFs of its PF, for pool {} of policy {} to have {} of them and \
         not {}",
        feed.pool.name, feed.policy.name, feed.count, facts.present
    );
    let leases = facts.vfs.values().filter_map(|address| site.lease(*address));
    let refusals: Vec<Failure> = leases.map(|lease| leased(lease, &tried)).collect();
    if refusals.is_empty() { Ok(()) } else { Err(refusals) }
}

/// A step on the way to other VFs, by force where the host uses one that goes.
fn by_force(
    site: &Site<'_>,
    policy: &Policy,
    facts: &PfFacts,
    change: Change,
) -> Result<Change, Vec<Failure>> {
    let at = |address: &PciAddress| site.snapshot.function(*address);
    let devices: Vec<&PciFunction> = match &change {
        Change::SetVfCount { to: 0, .. } => facts.vfs.values().filter_map(at).collect(),
        Change::Restore { device: Target::Vf(vf), .. } => {
            facts.vfs.get(&vf.index).and_then(at).into_iter().collect()
        }
        _ => return Ok(change),
    };
    site.take(policy, &devices, change)
}

/// The steps around new VFs: up to making them ready for a driver, and after they were bound.
fn frame(
    snapshot: &HostSnapshot,
    pf: &PciFunction,
    facts: &PfFacts,
    count: u16,
    is_host: bool,
) -> Result<[Vec<Change>; 2], Failure> {
    if is_host {
        return Ok([for_host(snapshot, pf, facts, count)?, Vec::new()]);
    }
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
    let Some(driver) = driver else { return for_host(snapshot, pf, facts, count) };
    let [mut steps, after] = frame(snapshot, pf, facts, count, false)?;
    steps.extend((0..count).map(|index| {
        let device = Target::Vf(VfRef { pf: pf.address, index });
        Change::Bind { device, from: Binding::default(), driver: driver.to_owned() }
    }));
    steps.extend(after);
    Ok(steps)
}

/// The steps to VFs that the host's own drivers take, or not, as it is set.
fn for_host(
    snapshot: &HostSnapshot,
    pf: &PciFunction,
    facts: &PfFacts,
    count: u16,
) -> Result<Vec<Change>, Failure> {
    if facts.nvme.is_none() {
        let mut steps = remember(snapshot, pf, facts);
        // Should that be taken back, none of those that nobody had finds a driver.
        let guard = facts.autoprobe && facts.present > 0;
        if guard {
            steps.insert(0, autoprobe(pf, true, false));
        }
        steps.extend(resize(snapshot, pf, facts, 0)?);
        if guard {
            steps.push(autoprobe(pf, false, true));
        }
        steps.push(Change::SetVfCount { pf: pf.address, from: 0, to: count });
        return Ok(steps);
    }
    let [mut steps, after] = frame(snapshot, pf, facts, count, false)?;
    if facts.autoprobe {
        // No driver could begin with them before they were set up: now the host's may.
        steps.extend((0..count).map(|index| {
            let device = Target::Vf(VfRef { pf: pf.address, index });
            let to = Binding { driver: pf.driver.clone(), ..Binding::default() };
            Change::Restore { device, from: Binding::default(), to }
        }));
    }
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
    Some(needed(function, &uses.uses(function).into_iter().next()?))
}

/// The refusal to take a device that the host uses like this.
pub(super) fn needed(function: &PciFunction, used: &usage::Use) -> Failure {
    let message = format!("will not be taken: the host needs it ({used})");
    let failure = Failure::refused(sriov::Reason::HostUsesDevice, function.address, message);
    failure.with_remedy("Move what it carries elsewhere, or choose another device.")
}
