//! What NVMe VFs need beside being made: their controllers get queues and interrupts, and are set
//! online, or no driver can do anything with them.
//!
//! Where these come from, in this order: what a VF's controller has already and can work with; what
//! of the pool is free; what is left with controllers whose VFs are not to exist; and at last what
//! the PF has itself. That costs it a reset, so it is not touched before; but once it is, it counts
//! as one of those who share, so that the host's own disks are not left with the least where VFs
//! have plenty.

use sriov::nvme::{
    self, LEAST_INTERRUPTS, LEAST_QUEUES, NvmeFacts, Pool, Secondary, SecondaryState, Share,
};
use sriov::{Binding, Change, HostSnapshot, PciFunction, PfFacts, Reason, Target, VfRef, usage};

use crate::failure::Failure;
use crate::state::Drive;

/// The steps of sharing out, around the one that makes the VFs.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Sharing {
    /// While there are no VFs.
    pub before: Vec<Change>,
    /// When they are there, and before a driver looks at them.
    pub after: Vec<Change>,
}

/// How `count` new VFs of a PF get what they need; no steps where they need nothing of the kind.
///
/// # Errors
/// The drive has not enough for so many, or was asked and did not answer.
pub(super) fn share(
    snapshot: &HostSnapshot,
    pf: &PciFunction,
    facts: &PfFacts,
    count: u16,
) -> Result<Sharing, Failure> {
    let Some(drive) = &facts.nvme else {
        return silent(snapshot, pf).map_or(Ok(Sharing::default()), Err);
    };
    let mut drive = drive.clone();
    if facts.present > 0 {
        // Their controllers were withdrawn before.
        withdrawn(&mut drive, facts);
    }
    let all = controllers(pf, &drive, count)?;
    let needy: Vec<(u16, Secondary)> =
        all.iter().filter(|(_, secondary)| !secondary.state.suffices()).copied().collect();
    let mut sharing = Sharing::default();
    let has = |share: fn(&SecondaryState) -> u16| {
        needy.iter().map(|(_, secondary)| u32::from(share(&secondary.state))).sum::<u32>()
    };
    let mut asked =
        Asked { needy: needy.len(), queues: has(|s| s.queues), interrupts: has(|s| s.interrupts) };
    let idle: Vec<(u16, Secondary)> = drive
        .secondaries
        .iter()
        .filter(|(index, secondary)| {
            **index >= count && secondary.state != SecondaryState::default()
        })
        .map(|(index, secondary)| (*index, *secondary))
        .collect();
    let mut shares = asked.without_primary(&drive);
    if shares.is_none() && !idle.is_empty() {
        for (index, secondary) in &idle {
            asked.queues += u32::from(secondary.state.queues);
            asked.interrupts += u32::from(secondary.state.interrupts);
            sharing.before.push(set(pf, *index, secondary, SecondaryState::default()));
        }
        shares = asked.without_primary(&drive);
    }
    let share = match shares {
        Some(share) => share,
        None => {
            let (share, primary) = asked.with_primary(pf, &drive, count)?;
            sharing.before.push(Change::SetNvmePrimary {
                pf: pf.address,
                from: drive.primary(),
                to: primary,
                used: carried(snapshot, pf),
            });
            share
        }
    };
    for (index, secondary) in &all {
        let to = match secondary.state.suffices() {
            true => SecondaryState { online: true, ..secondary.state },
            false => give(&drive, &secondary.state, share),
        };
        if to != secondary.state {
            sharing.after.push(set(pf, *index, secondary, to));
        }
    }
    Ok(sharing)
}

/// VFs that are there and whose controllers are not online: what brings them to work.
pub(super) fn repair(
    snapshot: &HostSnapshot,
    pf: &PciFunction,
    facts: &PfFacts,
) -> Result<Vec<Change>, Failure> {
    let Some(drive) = &facts.nvme else { return silent(snapshot, pf).map_or(Ok(Vec::new()), Err) };
    let broken = |index: &u16| drive.secondaries.get(index).is_none_or(|s| !s.state.online);
    if !facts.vfs.keys().any(broken) {
        return Ok(Vec::new());
    }
    let all = share(snapshot, pf, &PfFacts { present: 0, ..facts.clone() }, facts.present)?;
    match all.before.iter().find(|change| matches!(change, Change::SetNvmePrimary { .. })) {
        None => Ok(all.before.into_iter().chain(all.after).collect()),
        Some(_) => {
            let message = "some of its VFs are offline, and giving them queues and interrupts takes \
                           a reset, which its other VFs would not survive";
            Err(Failure::refused(Reason::HasVfs, pf.address, message).with_remedy(format!(
                "Destroy them with `assign vf destroy {}`, and apply again.",
                pf.address
            )))
        }
    }
}

/// Before all VFs of a PF go: drivers let go of them in order, as long as the controllers
/// answer, and these give back what they have.
pub(super) fn withdraw(snapshot: &HostSnapshot, pf: &PciFunction, facts: &PfFacts) -> Vec<Change> {
    let Some(drive) = &facts.nvme else { return Vec::new() };
    let driven = facts.vfs.iter().filter_map(|(index, address)| {
        let function = snapshot.function(*address)?;
        // vfio-pci as well: should a later step fail, the VFs that are made anew have it again.
        let from = sriov::act::bind::binding(function);
        let device = Target::Vf(VfRef { pf: pf.address, index: *index });
        let had = from.driver.is_some();
        had.then_some(Change::Restore { device, from, to: Binding::default() })
    });
    let has = facts.vfs.keys().filter_map(|index| {
        let secondary = drive.secondaries.get(index)?;
        let to = SecondaryState::default();
        (secondary.state != to).then(|| set(pf, *index, secondary, to))
    });
    driven.chain(has).collect()
}

/// What a PF had before VFs got a part of it, unless somebody else has changed that since.
pub(super) fn give_back(
    snapshot: &HostSnapshot,
    pf: &PciFunction,
    facts: &PfFacts,
    drive: &Drive,
) -> Option<Change> {
    let now = facts.nvme.as_ref()?;
    let ours = now.serial == drive.serial && now.primary() == drive.left;
    (ours && drive.left != drive.found).then(|| Change::SetNvmePrimary {
        pf: pf.address,
        from: drive.left,
        to: drive.found,
        used: carried(snapshot, pf),
    })
}

fn carried(snapshot: &HostSnapshot, pf: &PciFunction) -> Option<String> {
    usage::of(snapshot, pf).into_iter().next().map(|used| used.carried())
}

/// The drive as it is after [`withdraw`].
fn withdrawn(drive: &mut NvmeFacts, facts: &PfFacts) {
    for index in facts.vfs.keys() {
        if let Some(secondary) = drive.secondaries.get_mut(index) {
            let Share { queues, interrupts } = secondary.state.share();
            drive.queues.assigned = drive.queues.assigned.saturating_sub(queues.into());
            drive.interrupts.assigned = drive.interrupts.assigned.saturating_sub(interrupts.into());
            secondary.state = SecondaryState::default();
        }
    }
}

/// Whether its VFs would be of no use, because the drive was asked about them and did not answer.
fn silent(snapshot: &HostSnapshot, pf: &PciFunction) -> Option<Failure> {
    let asked = |problem: &&sriov::facts::reader::Problem| {
        let mut parts =
            problem.path.components().rev().filter_map(|part| part.as_os_str().to_str());
        parts.next() == Some("nvme") && parts.next() == Some(&pf.address.to_string())
    };
    let problem = snapshot.problems.iter().find(asked).filter(|_| nvme::is_nvme(pf))?;
    let message = format!("its VFs cannot be set up: {}", problem.cause);
    Some(Failure::failed(Reason::KernelRefused, pf.address, message).with_remedy(
        "Run assign as root, with /dev mounted; the kernel's log (dmesg) may say more.",
    ))
}

/// The controllers of VFs 0 to `count` - 1.
fn controllers(
    pf: &PciFunction,
    drive: &NvmeFacts,
    count: u16,
) -> Result<Vec<(u16, Secondary)>, Failure> {
    (0..count)
        .map(|index| match drive.secondaries.get(&index) {
            Some(secondary) => Ok((index, *secondary)),
            None => {
                let message =
                    format!("cannot have {count} VFs: it has no controller for VF {index}");
                Err(Failure::bad_input(Reason::TooManyVfs, pf.address, message)
                    .with_remedy(fewer(index.into())))
            }
        })
        .collect()
}

fn fewer(most: u32) -> String {
    match most {
        0 => "It can have none.".to_owned(),
        most => format!("Ask for at most {most}."),
    }
}

fn set(pf: &PciFunction, index: u16, secondary: &Secondary, to: SecondaryState) -> Change {
    Change::SetNvmeSecondary {
        vf: VfRef { pf: pf.address, index },
        controller: secondary.controller,
        from: secondary.state,
        to,
    }
}

/// A share on top of what is not shared and cannot be changed.
fn give(drive: &NvmeFacts, has: &SecondaryState, share: Share) -> SecondaryState {
    SecondaryState {
        online: true,
        queues: if drive.queues.flexible { share.queues } else { has.queues },
        interrupts: if drive.interrupts.flexible { share.interrupts } else { has.interrupts },
    }
}

/// So many controllers want a share, and have this already, which counts as free for them.
struct Asked {
    needy: usize,
    queues: u32,
    interrupts: u32,
}

impl Asked {
    /// Even shares of what is free; `None` where that is not enough.
    fn without_primary(&self, drive: &NvmeFacts) -> Option<Share> {
        let of = |pool: &Pool, has: u32, least| {
            let each = self.even(pool, pool.free().saturating_add(has), 0);
            (!pool.flexible || self.needy == 0 || each >= least_of(pool, least)).then_some(each)
        };
        Some(Share {
            queues: of(&drive.queues, self.queues, LEAST_QUEUES)?,
            interrupts: of(&drive.interrupts, self.interrupts, LEAST_INTERRUPTS)?,
        })
    }

    /// Even shares with the primary among those who share, and what is left to it.
    fn with_primary(
        &self,
        pf: &PciFunction,
        drive: &NvmeFacts,
        count: u16,
    ) -> Result<(Share, Share), Failure> {
        let kinds = [
            ("queue", &drive.queues, self.queues, LEAST_QUEUES),
            ("interrupt", &drive.interrupts, self.interrupts, LEAST_INTERRUPTS),
        ];
        let [queues, interrupts] = kinds.map(|(word, pool, has, least)| {
            let wanted = least_of(pool, least);
            // The drive itself has to go on.
            let kept = u32::from(least.saturating_sub(pool.private));
            let all = pool.free().saturating_add(has).saturating_add(pool.primary.into());
            let all = all.saturating_sub(kept);
            let fair = self.even(pool, all, 1);
            let each = if fair >= wanted { fair } else { self.even(pool, all, 0) };
            if !pool.flexible {
                return Ok((0, pool.primary));
            }
            if each < wanted {
                let has = u32::from(count).saturating_sub(self.count());
                let most = match pool.most >= wanted {
                    true => has + all / u32::from(wanted),
                    false => 0,
                };
                let plural = if wanted == 1 { "" } else { "s" };
                let message = format!(
                    "cannot have {count} VFs: each needs {wanted} {word}{plural}, and {all} can be \
                     had"
                );
                return Err(Failure::bad_input(Reason::TooManyVfs, pf.address, message)
                    .with_remedy(fewer(most)));
            }
            let given = u32::from(each).saturating_mul(self.count());
            let left = (all + kept).saturating_sub(given);
            // Never more than before: what is free beside stays free.
            Ok((each, u16::try_from(left).unwrap_or(u16::MAX).min(pool.primary)))
        });
        let (queues, interrupts) = (queues?, interrupts?);
        let share = Share { queues: queues.0, interrupts: interrupts.0 };
        Ok((share, Share { queues: queues.1, interrupts: interrupts.1 }))
    }

    fn count(&self) -> u32 {
        u32::try_from(self.needy).unwrap_or(u32::MAX)
    }

    /// What each gets of `all`, with `others` who share beside.
    fn even(&self, pool: &Pool, all: u32, others: u32) -> u16 {
        let each = all / self.count().saturating_add(others).max(1);
        let each = u16::try_from(each).unwrap_or(u16::MAX).min(pool.most);
        each - each % pool.step.max(1)
    }
}

/// The least number in the steps that the drive prefers.
fn least_of(pool: &Pool, least: u16) -> u16 {
    least.checked_next_multiple_of(pool.step.max(1)).unwrap_or(u16::MAX)
}
