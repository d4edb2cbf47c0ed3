//! What is left to take back of a series of changes: their sum, not their history.
//!
//! A policy that was applied three times with another number of VFs each time has one number to go
//! back to. VFs that go away take their drivers and addresses with them, so those need no step.

use std::collections::BTreeSet;

use sriov::nvme::SecondaryState;
use sriov::{Change, PciAddress, Target, Undo, VfSetting};

use super::before;

/// The changes that take back `changes` (first to last), in order.
pub fn settle(changes: &[Change]) -> Vec<Change> {
    let mut sums: Vec<Change> = Vec::new();
    for change in changes {
        match sums.iter_mut().find(|sum| about(sum) == about(change)) {
            Some(sum) => *sum = then(sum.clone(), change),
            None => sums.push(change.clone()),
        }
    }
    let resized: BTreeSet<PciAddress> = sums
        .iter()
        .filter_map(|sum| match sum {
            Change::SetVfCount { pf, from, to } if from != to => Some(*pf),
            _ => None,
        })
        .collect();
    let gone = |sum: &Change| match (sum, sum.device()) {
        // What a drive gave to a VF's controller it does not take back with the VF.
        (Change::SetNvmeSecondary { .. }, _) | (_, Target::Function(_)) => false,
        (_, Target::Vf(vf)) => resized.contains(&vf.pf),
    };
    let vfs = before::vfs(changes);
    let mut back: Vec<Change> = sums
        .iter()
        .rev()
        .filter(|sum| !is_nothing(sum) && !gone(sum) && !before::is_remade(sum, &vfs))
        .filter_map(|sum| match sum.undo() {
            Undo::Change(back) => Some(back),
            Undo::Nothing | Undo::Impossible(_) => None,
        })
        .flat_map(through_none)
        .collect();
    for pf in resized {
        back = share_out_between(back, pf);
    }
    before::remake(back, changes)
}

/// An NVMe PF is reset to get back its share while it has no VFs, and their controllers are given
/// theirs while no driver has the VFs: all of it around the way through none.
fn share_out_between(changes: Vec<Change>, pf: PciAddress) -> Vec<Change> {
    let of_vfs = |change: &Change| match change {
        Change::SetVfCount { pf: other, .. } | Change::SetNvmePrimary { pf: other, .. } => {
            *other == pf
        }
        Change::SetNvmeSecondary { vf, .. } => vf.pf == pf,
        _ => false,
    };
    let Some(at) = changes.iter().position(of_vfs) else { return changes };
    let (of_vfs, mut others): (Vec<Change>, Vec<Change>) = changes.into_iter().partition(of_vfs);
    let mut of_vfs: Vec<Change> = of_vfs.into_iter().flat_map(through_offline).collect();
    of_vfs.sort_by_key(|change| match change {
        Change::SetNvmeSecondary { to, .. } if *to == SecondaryState::default() => 0,
        Change::SetVfCount { to: 0, .. } => 1,
        Change::SetNvmePrimary { .. } => 2,
        Change::SetVfCount { .. } => 3,
        _ => 4,
    });
    // All that came before the first is still in its place.
    others.splice(at..at, of_vfs);
    others
}

fn through_offline(change: Change) -> Vec<Change> {
    let none = SecondaryState::default();
    match change {
        Change::SetNvmeSecondary { vf, controller, from, to } if from != none && to != none => {
            vec![
                Change::SetNvmeSecondary { vf, controller, from, to: none },
                Change::SetNvmeSecondary { vf, controller, from: none, to },
            ]
        }
        other => vec![other],
    }
}

/// The number of what a drive gives to the controller of a VF, which outlives the VF.
pub(super) const SECONDARY: u8 = 7;

/// What a change is about: one thing of one device. Giving back is the reverse of binding.
pub(crate) fn about(change: &Change) -> (u8, Target) {
    let subject = match change {
        Change::SetAutoprobe { .. } => 0,
        Change::SetVfCount { .. } => 1,
        Change::SetLink { .. } => 2,
        Change::SetVfMac { .. } => 3,
        Change::Bind { .. }
        | Change::Restore { .. }
        | Change::Yield { .. }
        | Change::Retake { .. } => 4,
        Change::SetAcceptRa { .. } => 5,
        Change::SetNvmePrimary { .. } => 6,
        Change::SetNvmeSecondary { .. } => SECONDARY,
        Change::RememberVf { .. } | Change::RemakeVf { .. } => 8,
        Change::SetVf { setting, .. } => match setting {
            VfSetting::Vlan(_) => 9,
            VfSetting::Trust(_) => 10,
            VfSetting::SpoofCheck(_) => 11,
            VfSetting::LinkState(_) => 12,
            VfSetting::Rate(_) => 13,
            VfSetting::Msix(_) => 14,
        },
        Change::Forced { step, .. } => return about(step),
    };
    (subject, change.device())
}

/// One change after another about the same thing.
fn then(first: Change, second: &Change) -> Change {
    match (first.plain().clone(), second.plain().clone()) {
        (Change::SetAutoprobe { pf, from, .. }, Change::SetAutoprobe { to, .. }) => {
            Change::SetAutoprobe { pf, from, to }
        }
        (Change::SetVfCount { pf, from, .. }, Change::SetVfCount { to, .. }) => {
            Change::SetVfCount { pf, from, to }
        }
        (Change::SetLink { pf, netdev, from, .. }, Change::SetLink { to, .. }) => {
            Change::SetLink { pf, netdev, from, to }
        }
        (Change::SetAcceptRa { pf, netdev, from, .. }, Change::SetAcceptRa { to, .. }) => {
            Change::SetAcceptRa { pf, netdev, from, to }
        }
        (Change::SetVfMac { vf, from, .. }, Change::SetVfMac { to, .. }) => {
            Change::SetVfMac { vf, from, to }
        }
        (Change::SetNvmePrimary { pf, from, used, .. }, Change::SetNvmePrimary { to, .. }) => {
            Change::SetNvmePrimary { pf, from, to, used }
        }
        (
            Change::SetNvmeSecondary { vf, controller, from, .. },
            Change::SetNvmeSecondary { to, .. },
        ) => Change::SetNvmeSecondary { vf, controller, from, to },
        (Change::SetVf { vf, setting: first }, Change::SetVf { setting: second, .. }) => {
            Change::SetVf { vf, setting: second.after(first) }
        }
        (
            Change::Bind { device, from, .. }
            | Change::Restore { device, from, .. }
            | Change::Yield { device, from },
            Change::Bind { driver, .. },
        ) => Change::Bind { device, from, driver },
        (
            Change::Bind { device, from, .. }
            | Change::Restore { device, from, .. }
            | Change::Yield { device, from },
            Change::Restore { to, .. },
        ) => Change::Restore { device, from, to },
        (
            Change::Bind { device, from, .. } | Change::Restore { device, from, .. },
            Change::Yield { .. },
        ) => Change::Yield { device, from },
        (_, second) => second,
    }
}

fn is_nothing(change: &Change) -> bool {
    match change {
        Change::SetAutoprobe { from, to, .. } | Change::SetLink { from, to, .. } => from == to,
        Change::SetVfCount { from, to, .. } => from == to,
        Change::SetAcceptRa { from, to, .. } => from == to,
        Change::SetVfMac { from, to, .. } => from == to,
        Change::SetNvmePrimary { from, to, .. } => from == to,
        Change::SetNvmeSecondary { from, to, .. } => from == to,
        Change::SetVf { setting, .. } => setting.is_nothing(),
        // A VF of ours goes for good; one that was there before is made as it was.
        Change::RememberVf { .. } | Change::RemakeVf { .. } => true,
        Change::Bind { from, driver, .. } => from.driver.as_ref() == Some(driver),
        // Another address of the same driver is something.
        Change::Restore { from, to, .. } => {
            from.same_hands(to) && (from.mac.is_none() || from.mac == to.mac)
        }
        // Which driver that was is not known; whether there is anything to do is seen then.
        Change::Yield { .. } | Change::Retake { .. } => false,
        Change::Forced { step, .. } => is_nothing(step),
    }
}

/// The kernel goes from one number of VFs to another by way of none only.
fn through_none(change: Change) -> Vec<Change> {
    match change {
        Change::SetVfCount { pf, from, to } if from > 0 && to > 0 => {
            vec![Change::SetVfCount { pf, from, to: 0 }, Change::SetVfCount { pf, from: 0, to }]
        }
        other => vec![other],
    }
}

#[cfg(test)]
mod tests {
    use sriov::nvme::Share;
    use sriov::{Binding, MacAddress, VfRef};

    use super::*;

    fn pf() -> PciAddress {
        "0000:01:00.0".parse().expect("an address")
    }

    fn count(from: u16, to: u16) -> Change {
        Change::SetVfCount { pf: pf(), from, to }
    }

    fn bind(index: u16, driver: Option<&str>) -> Change {
        Change::Bind {
            device: Target::Vf(VfRef { pf: pf(), index }),
            from: Binding { driver: driver.map(str::to_owned), ..Binding::default() },
            driver: "vfio-pci".to_owned(),
        }
    }

    fn link(from: bool, to: bool) -> Change {
        Change::SetLink { pf: pf(), netdev: "eth0".to_owned(), from, to }
    }

    fn autoprobe(from: bool, to: bool) -> Change {
        Change::SetAutoprobe { pf: pf(), from, to }
    }

    fn texts(changes: &[Change]) -> Vec<String> {
        settle(changes).iter().map(ToString::to_string).collect()
    }

    #[test]
    fn what_an_apply_made_goes_away_with_its_vfs() {
        let mac = MacAddress([2, 0, 0, 0, 0, 1]);
        let vf = VfRef { pf: pf(), index: 0 };
        let changes = [
            Change::SetAcceptRa { pf: pf(), netdev: "eth0".to_owned(), from: 1, to: 0 },
            link(false, true),
            autoprobe(true, false),
            count(0, 4),
            bind(0, None),
            Change::SetVfMac { vf, from: MacAddress([0; 6]), to: mac },
            autoprobe(false, true),
        ];
        assert_eq!(
            texts(&changes),
            [
                "0000:01:00.0: destroy its 4 VFs",
                "0000:01:00.0: set eth0 down",
                "0000:01:00.0: let eth0 heed router advertisements"
            ]
        );
    }

    #[test]
    fn several_applies_have_one_number_to_go_back_to() {
        assert_eq!(
            texts(&[count(0, 4), count(4, 0), count(0, 7)]),
            ["0000:01:00.0: destroy its 7 VFs"]
        );
        assert_eq!(
            texts(&[count(2, 0), count(0, 7)]),
            ["0000:01:00.0: destroy its 7 VFs", "0000:01:00.0: create 2 VFs"]
        );
        assert!(texts(&[count(4, 0), count(0, 4)]).is_empty());
    }

    #[test]
    fn a_drive_gets_its_share_back_while_it_has_no_vfs() {
        let state = |queues| SecondaryState { online: queues > 0, queues, interrupts: queues / 2 };
        let share = |queues| Share { queues, interrupts: queues / 2 };
        let secondary = |index, from, to| {
            let (vf, controller) = (VfRef { pf: pf(), index }, index + 1);
            Change::SetNvmeSecondary { vf, controller, from: state(from), to: state(to) }
        };
        let primary = |from, to| Change::SetNvmePrimary {
            pf: pf(),
            from: share(from),
            to: share(to),
            used: None,
        };
        let changes = [
            secondary(0, 4, 0),
            count(1, 0),
            primary(8, 4),
            count(0, 2),
            secondary(0, 0, 2),
            secondary(1, 0, 2),
            bind(0, None),
        ];
        assert_eq!(
            texts(&changes),
            [
                "0000:01:00.0 VF 1: set it offline and take its share back",
                "0000:01:00.0 VF 0: set it offline and take its share back",
                "0000:01:00.0: destroy its 2 VFs",
                "0000:01:00.0: reset it, for it to have 8 queues, 4 interrupts of the pool",
                "0000:01:00.0: create 1 VF",
                "0000:01:00.0 VF 0: give it 4 queues, 2 interrupts and set it online",
            ]
        );
        // VFs that were there and stay keep their number: only their controller goes back.
        assert_eq!(
            texts(&[secondary(0, 0, 2), bind(0, Some("nvme"))]),
            [
                "0000:01:00.0 VF 0: give back to nvme",
                "0000:01:00.0 VF 0: set it offline and take its share back"
            ]
        );
    }

    #[test]
    fn vfs_that_were_there_before_get_their_address_before_their_driver() {
        let vf = VfRef { pf: pf(), index: 1 };
        let mac = |last| MacAddress([2, 0, 0, 0, 0, last]);
        let changes = [bind(1, Some("igbvf")), Change::SetVfMac { vf, from: mac(1), to: mac(2) }];
        assert_eq!(
            texts(&changes),
            [
                "0000:01:00.0 VF 1: set its address to 02:00:00:00:00:01",
                "0000:01:00.0 VF 1: give back to igbvf"
            ]
        );
    }
}
