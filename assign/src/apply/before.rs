//! What VFs had that were there before a policy and were made anew for it: they have it again when
//! the policy goes.

use std::collections::{BTreeMap, BTreeSet};

use sriov::{Change, PciAddress, Target, VfRef, VfSetting, VfState};

/// The VFs that went for the first other number of VFs of their PF, as they were before any of
/// `changes` (first to last).
pub(super) fn vfs(changes: &[Change]) -> BTreeMap<VfRef, VfState> {
    let mut resized: BTreeSet<PciAddress> = BTreeSet::new();
    let mut vfs = BTreeMap::new();
    for (at, change) in changes.iter().enumerate() {
        match change.plain() {
            Change::SetVfCount { pf, to: 0, .. } => drop(resized.insert(*pf)),
            // What is remembered later are VFs of ours.
            Change::RememberVf { vf, had } if !resized.contains(&vf.pf) => {
                let earlier = changes.iter().take(at).rev().filter(|one| is_about(one, *vf));
                vfs.insert(*vf, earlier.fold(had.clone(), without));
            }
            _ => {}
        }
    }
    vfs
}

/// Whether the host bound drivers to new VFs of this PF by itself, before any of `changes`; false
/// where none of them says so, since they would otherwise have kept it from that.
pub(super) fn autoprobe(changes: &[Change], pf: PciAddress) -> bool {
    let first = changes.iter().find_map(|change| match change.plain() {
        Change::SetAutoprobe { pf: own, from, .. } if *own == pf => Some(*from),
        _ => None,
    });
    first.unwrap_or(false)
}

fn is_about(change: &Change, vf: VfRef) -> bool {
    change.device() == Target::Vf(vf)
}

/// What a VF had before this change of it.
fn without(had: VfState, change: &Change) -> VfState {
    let VfState { mut binding, mut settings } = had;
    match change.plain() {
        Change::Bind { from, .. } | Change::Restore { from, .. } | Change::Yield { from, .. } => {
            binding = from.clone();
        }
        Change::SetVfMac { from, .. } => {
            if let Some(settings) = &mut settings {
                settings.mac = *from;
            }
            binding.mac = Some(*from).filter(|mac| !mac.is_zero());
        }
        Change::SetVf { setting, .. } => {
            if let Some(settings) = &mut settings {
                match setting {
                    VfSetting::Vlan(step) => settings.vlan = step.from,
                    VfSetting::Trust(step) => settings.trust = Some(step.from),
                    VfSetting::SpoofCheck(step) => settings.spoof_check = Some(step.from),
                    VfSetting::LinkState(step) => settings.link_state = step.from,
                    VfSetting::Rate(step) => settings.rate = step.from,
                    // A new VF has the number its driver chooses.
                    VfSetting::Msix(_) => {}
                }
            }
        }
        _ => {}
    }
    VfState { binding, settings }
}

/// Has the VFs of `back` that were there before made as they were: after the step that makes them,
/// while no driver of the host takes one before it has its address again.
pub(super) fn remake(mut back: Vec<Change>, changes: &[Change]) -> Vec<Change> {
    let mut pfs: BTreeMap<PciAddress, Vec<Change>> = BTreeMap::new();
    for (vf, had) in vfs(changes) {
        pfs.entry(vf.pf).or_default().push(Change::RemakeVf { vf, had });
    }
    for (pf, remakes) in pfs {
        let made = back.iter().position(
            |change| matches!(change, Change::SetVfCount { pf: own, to: 1.., .. } if *own == pf),
        );
        let Some(made) = made else {
            // As many as before are there.
            back.extend(remakes);
            continue;
        };
        let guard = |from, to| Change::SetAutoprobe { pf, from, to };
        // Where it is given back as it was afterwards, it is off until then.
        let guarded = autoprobe(changes, pf) && !back.contains(&guard(false, true));
        let after = guarded.then(|| guard(false, true));
        back.splice(made + 1..made + 1, remakes.into_iter().chain(after));
        if guarded {
            back.insert(made, guard(true, false));
        }
    }
    back
}

/// Whether this change is about a VF that is made as it was as a whole.
pub(super) fn is_remade(change: &Change, vfs: &BTreeMap<VfRef, VfState>) -> bool {
    match (change, change.device()) {
        (Change::SetNvmeSecondary { .. }, _) | (_, Target::Function(_)) => false,
        (_, Target::Vf(vf)) => vfs.contains_key(&vf),
    }
}

#[cfg(test)]
mod tests {
    use sriov::{Binding, MacAddress, Step, VfSettings, Vlan};

    use super::super::settle::settle;
    use super::*;

    fn pf() -> PciAddress {
        "0000:01:00.0".parse().expect("an address")
    }

    fn vf(index: u16) -> VfRef {
        VfRef { pf: pf(), index }
    }

    fn count(from: u16, to: u16) -> Change {
        Change::SetVfCount { pf: pf(), from, to }
    }

    fn autoprobe(from: bool, to: bool) -> Change {
        Change::SetAutoprobe { pf: pf(), from, to }
    }

    fn had(binding: Binding, last: u8) -> VfState {
        let settings = Some(VfSettings::with_mac(MacAddress([2, 0, 0, 0, 0, last])));
        VfState { binding, settings }
    }

    fn remember(index: u16, had: VfState) -> Change {
        Change::RememberVf { vf: vf(index), had }
    }

    fn bind(index: u16, from: Binding) -> Change {
        Change::Bind { device: Target::Vf(vf(index)), from, driver: "vfio-pci".to_owned() }
    }

    /// A new VF's.
    fn nobody() -> Binding {
        Binding::default()
    }

    fn igbvf() -> Binding {
        Binding { driver: Some("igbvf".to_owned()), ..Binding::default() }
    }

    #[test]
    fn a_vf_bound_beforehand_is_bound_again_with_the_number_there_was() {
        let by_hand = had(Binding::forced("vfio-pci"), 1);
        let applied = [
            autoprobe(true, false),
            remember(0, by_hand.clone()),
            count(2, 0),
            count(0, 4),
            bind(0, nobody()),
            bind(1, nobody()),
            autoprobe(false, true),
        ];
        let back = [
            count(4, 0),
            autoprobe(true, false),
            count(0, 2),
            Change::RemakeVf { vf: vf(0), had: by_hand.clone() },
            autoprobe(false, true),
        ];
        assert_eq!(settle(&applied), back);

        // Another apply remembers VFs of ours; and one with the first number needs no new ones.
        let ours = had(Binding::forced("vfio-pci"), 9);
        let again = |to| {
            let more = [
                autoprobe(true, false),
                remember(0, ours.clone()),
                remember(3, ours.clone()),
                count(4, 0),
                count(0, to),
                bind(0, nobody()),
                autoprobe(false, true),
            ];
            settle(&[applied.as_slice(), &more].concat())
        };
        assert_eq!(again(7)[1..], back[1..]);
        assert_eq!(
            again(2),
            [
                Change::Restore {
                    device: Target::Vf(vf(1)),
                    from: Binding::forced("vfio-pci"),
                    to: nobody()
                },
                Change::RemakeVf { vf: vf(0), had: by_hand }
            ]
        );
    }

    #[test]
    fn what_was_changed_before_the_number_is_not_what_it_had() {
        let mac = |last| MacAddress([2, 0, 0, 0, 0, last]);
        let vlan = |id| Vlan { id, ..Vlan::default() };
        let mut with_vlan = had(Binding::forced("vfio-pci"), 8);
        with_vlan.settings = with_vlan.settings.map(|own| VfSettings { vlan: vlan(7), ..own });
        let setting = VfSetting::Vlan(Step { from: vlan(0), to: vlan(7) });
        let changes = [
            bind(0, Binding { mac: Some(mac(1)), ..igbvf() }),
            Change::SetVfMac { vf: vf(0), from: mac(1), to: mac(8) },
            Change::SetVf { vf: vf(0), setting },
            remember(0, with_vlan),
            count(1, 0),
            count(0, 2),
            bind(0, nobody()),
        ];
        let VfState { binding, settings } = vfs(&changes).remove(&vf(0)).expect("it was there");
        assert_eq!(binding, Binding { mac: Some(mac(1)), ..igbvf() });
        assert_eq!(settings, Some(VfSettings::with_mac(mac(1))));
        // Nobody kept the host's drivers off, so they were off.
        assert!(!settle(&changes).iter().any(|step| matches!(step, Change::SetAutoprobe { .. })));
    }
}
