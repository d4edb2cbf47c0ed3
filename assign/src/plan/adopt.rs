//! The steps of VFs that are there already: they leave the drivers they are not to have, get what is
//! set for them, and go to the host's driver last, for it to find that.

use sriov::isolation::is_vfio_driver;
use sriov::{Binding, Change, MacAddress, PciFunction, PfFacts, Target, VfRef};

use super::site::Site;
use super::{VfFeed, network, vfs};
use crate::failure::Failure;
use crate::state::Step;

/// The steps that make the VFs of `pf` what the pools it feeds want.
pub(super) fn steps(
    site: &Site<'_>,
    pf: &PciFunction,
    facts: &PfFacts,
    feeds: &[VfFeed<'_>],
) -> Result<Vec<Step>, Vec<Failure>> {
    let mut adopted = Adopted::default();
    let mut refusals = Vec::new();
    for feed in feeds {
        for index in feed.indexes.iter() {
            let vf = VfRef { pf: pf.address, index };
            let at = facts.vfs.get(&index).and_then(|at| site.snapshot.function(*at));
            let Some(function) = at else { continue };
            match steps_of(site, pf, facts, feed, vf, function) {
                Ok(one) => adopted.add(feed, one),
                Err(failures) => refusals.extend(failures),
            }
        }
    }
    if refusals.is_empty() { Ok(adopted.steps()) } else { Err(refusals) }
}

/// The steps of one VF that is there already.
#[derive(Default)]
struct Own {
    /// Off its driver, to the one for guests or to none.
    binding: Option<Change>,
    mac: Option<Change>,
    settings: Vec<Change>,
    /// To the host's driver.
    back: Option<Change>,
}

/// Those of all VFs of a PF, by kind.
#[derive(Default)]
struct Adopted {
    bindings: Vec<Step>,
    addresses: Vec<Step>,
    settings: Vec<Step>,
    back: Vec<Step>,
}

impl Adopted {
    fn add(&mut self, feed: &VfFeed<'_>, one: Own) {
        let by = |change| Step::of(feed.policy, change);
        self.bindings.extend(one.binding.map(by));
        self.addresses.extend(one.mac.map(by));
        self.settings.extend(one.settings.into_iter().map(by));
        self.back.extend(one.back.map(by));
    }

    fn steps(mut self) -> Vec<Step> {
        network::by_kind(&mut self.settings);
        [self.bindings, self.addresses, self.settings, self.back].concat()
    }
}

fn steps_of(
    site: &Site<'_>,
    pf: &PciFunction,
    facts: &PfFacts,
    feed: &VfFeed<'_>,
    vf: VfRef,
    function: &PciFunction,
) -> Result<Own, Vec<Failure>> {
    let VfFeed { policy, pool, .. } = feed;
    if let Err(cause) = site.viability(pool, function) {
        return Err(vec![Failure::not_viable(function.address, &cause)]);
    }
    if let Some(failure) = site.still_lent(pool, function) {
        return Err(vec![failure]);
    }
    let (mac, settings) = network::of_present(&site.macs, pf, facts, pool, vf);
    let wanted = site.macs.wanted(pf, pool, vf.index);
    let mut own = Own { mac, settings, ..Own::default() };
    match site.driver(pool.driver, function) {
        Some(driver) => own.binding = bind(site, function, vf, driver),
        None => own.back = site.give_back(Target::Vf(vf), function, wanted),
    }
    if let Some(lease) = site.lease(function.address) {
        let all = own.binding.iter().chain(&own.mac).chain(&own.settings).chain(&own.back);
        let mut felt = all.filter(|change| !is_harmless(change));
        if let Some(change) = felt.next() {
            let tried = format!("{} for pool {}", change.action(), pool.name);
            return Err(vec![vfs::leased(lease, &tried)]);
        }
    }
    let by_host = function.driver.as_deref().is_some_and(|name| !is_vfio_driver(name));
    if let Some(binding) = own.binding.take() {
        own.binding = Some(match by_host {
            true => site.take(policy, &[function], binding)?,
            false => binding,
        });
    } else if (own.mac.is_some() || !own.settings.is_empty())
        && let Some(used) = site.uses(function).first()
    {
        return Err(vec![vfs::needed(function, used)]);
    } else if own.mac.is_some() && by_host {
        (own.binding, own.back) = anew(site, function, vf, wanted);
    }
    Ok(own)
}

/// A driver of the host looks for its VF's address once, when it begins with it: off it, and to it
/// again with `mac`.
fn anew(
    site: &Site<'_>,
    function: &PciFunction,
    vf: VfRef,
    mac: Option<MacAddress>,
) -> (Option<Change>, Option<Change>) {
    let device = Target::Vf(vf);
    let had = sriov::act::bind::original(site.snapshot, function);
    let nobody = Binding::default();
    let to = Binding { mac, ..had.clone() };
    let off = Change::Restore { device, from: had, to: nobody.clone() };
    (Some(off), Some(Change::Restore { device, from: nobody, to }))
}

/// Whether a guest that has the VF goes on as before.
fn is_harmless(change: &Change) -> bool {
    match change {
        Change::SetVf { setting, .. } => setting.is_harmless(),
        // Only who may have it next.
        Change::Restore { from, to, .. } => from.driver == to.driver,
        _ => false,
    }
}

/// One that has the driver already, by whatever way, is left alone, unless its override says another.
fn bind(site: &Site<'_>, function: &PciFunction, vf: VfRef, driver: String) -> Option<Change> {
    let device = Target::Vf(vf);
    if function.driver.as_ref() == Some(&driver) {
        return site.keep(device, function, &driver);
    }
    let from = sriov::act::bind::original(site.snapshot, function);
    Some(Change::Bind { device, from, driver })
}
