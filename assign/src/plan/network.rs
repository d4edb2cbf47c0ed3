//! What a PF sets for its VFs, as a pool wants it: a step for each thing that differs.

use ::policies::Pool;
use sriov::{
    Change, HostSnapshot, LinkState, MacAddress, PciFunction, PfFacts, Rate, Reason, Step, VfRef,
    VfSetting, VfSettings, Vlan,
};

use super::mac::Macs;
use crate::failure::Failure;

/// The steps for a VF that is to be made. Drivers differ in what they preset for the spoof check, so
/// that is always made certain of; they trust no VF unasked, and all else is as the kernel presets it.
pub(super) fn of_new(
    macs: &Macs<'_>,
    pf: &PciFunction,
    pool: &Pool,
    vf: VfRef,
) -> (Option<Change>, Vec<Change>) {
    let mac = macs.wanted(pf, pool, vf.index);
    let mac = mac.map(|to| Change::SetVfMac { vf, from: MacAddress([0; 6]), to });
    let wanted = &pool.network;
    let preset = VfSettings {
        trust: Some(false),
        spoof_check: wanted.spoof_check.map(|to| !to),
        vlan: Vlan::default(),
        link_state: LinkState::Auto,
        rate: Rate::default(),
        mac: MacAddress([0; 6]),
    };
    (mac, settings(pool, vf, &preset))
}

/// The steps for a VF that is there. Where the kernel was not asked for what it has (a recorded
/// tree), nothing is known to differ.
pub(super) fn of_present(
    macs: &Macs<'_>,
    pf: &PciFunction,
    facts: &PfFacts,
    pool: &Pool,
    vf: VfRef,
) -> (Option<Change>, Vec<Change>) {
    let Some(now) = facts.vf_settings.get(&vf.index) else { return (None, Vec::new()) };
    let mac = macs.wanted(pf, pool, vf.index).filter(|to| *to != now.mac);
    let mac = mac.map(|to| Change::SetVfMac { vf, from: now.mac, to });
    (mac, settings(pool, vf, now))
}

fn settings(pool: &Pool, vf: VfRef, now: &VfSettings) -> Vec<Change> {
    let wanted = &pool.network;
    let steps = [
        wanted.vlan.map(|to| VfSetting::Vlan(Step { from: now.vlan, to })),
        wanted
            .spoof_check
            .zip(now.spoof_check)
            .map(|(to, from)| VfSetting::SpoofCheck(Step { from, to })),
        wanted.trust.zip(now.trust).map(|(to, from)| VfSetting::Trust(Step { from, to })),
        wanted.link_state.map(|to| VfSetting::LinkState(Step { from: now.link_state, to })),
        wanted.rate.map(|to| VfSetting::Rate(Step { from: now.rate, to })),
    ];
    let steps = steps.into_iter().flatten().filter(|setting| !setting.is_nothing());
    steps.map(|setting| Change::SetVf { vf, setting }).collect()
}

/// Steps of the same kind beside each other, in the order they are in.
pub(super) fn by_kind(steps: &mut [crate::state::Step]) {
    let kind = |change: &Change| match change.plain() {
        Change::SetVf { setting: VfSetting::Vlan(_), .. } => 0,
        Change::SetVf { setting: VfSetting::SpoofCheck(_), .. } => 1,
        Change::SetVf { setting: VfSetting::Trust(_), .. } => 2,
        Change::SetVf { setting: VfSetting::LinkState(_), .. } => 3,
        _ => 4,
    };
    steps.sort_by_key(|step| kind(&step.change));
}

/// Why a PF cannot set what a pool wants of its VFs, as far as that is known beforehand.
pub(super) fn unable(
    snapshot: &HostSnapshot,
    pf: &PciFunction,
    facts: &PfFacts,
    pool: &Pool,
) -> Option<Failure> {
    let wanted = &pool.network;
    let asked = [
        ("VLAN", wanted.vlan.is_some()),
        ("trust", wanted.trust.is_some()),
        ("spoof check", wanted.spoof_check.is_some()),
        ("link state", wanted.link_state.is_some()),
        ("rate", wanted.rate.is_some()),
    ];
    let mut asked = asked.into_iter().filter(|(_, asked)| *asked).map(|(name, _)| name);
    let first = asked.next()?;
    let failure = |name: &str, cause: String| {
        let message = format!("pool {} sets the {name} of its VFs, and {cause}", pool.name);
        Failure::refused(Reason::NotSupported, pf.address, message)
    };
    if snapshot.port_of(pf).is_none() {
        let cause = "it has no network interface to set that by".to_owned();
        return Some(failure(first, cause).with_remedy(format!(
            "Leave `network` out of pool {}, or select a network card with a driver.",
            pool.name
        )));
    }
    let mut told = facts.vf_settings.values();
    let silent = told.find_map(|now| match (wanted.trust, wanted.spoof_check) {
        (Some(_), _) if now.trust.is_none() => Some("trust"),
        (_, Some(_)) if now.spoof_check.is_none() => Some("spoof check"),
        _ => None,
    })?;
    let driver = pf.driver.as_deref().unwrap_or("its driver");
    let cause = format!("driver {driver} does not report that");
    Some(
        failure(silent, cause).with_remedy(
            "Leave this setting out of the pool; what cannot be read back is not set.",
        ),
    )
}
