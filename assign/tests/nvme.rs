//! Sharing an NVMe drive out among its VFs: what each gets, from where, and when there is not enough.

use std::sync::OnceLock;

use assign::Reason;
use assign::plan::{Known, Plan, plan, vfs};
use assign::state::Drive;
use policies::{Policy, Source};
use proptest::prelude::*;
use sriov::nvme::{NvmeFacts, Pool, Secondary, SecondaryState, Share};
use sriov::recorded::{Function, Tree};
use sriov::{Change, Class, HostSnapshot, PciAddress, PciFunction};

const PF: &str = "0000:02:00.0";

fn at(text: &str) -> PciAddress {
    text.parse().expect("an address")
}

fn pool(total: u32, primary: u16, private: u16, most: u16) -> Pool {
    Pool { flexible: true, private, total, primary, assigned: 0, most, step: 1 }
}

/// A drive as the lab has it: 32 VFs share 72 queues and 40 interrupts with their PF.
fn drive(primary: Share) -> NvmeFacts {
    let secondary =
        |index| (index, Secondary { controller: index + 1, state: SecondaryState::default() });
    NvmeFacts {
        name: "nvme0".to_owned(),
        serial: "lab".to_owned(),
        controller: 0,
        queues: pool(72, primary.queues, 5, 8),
        interrupts: pool(40, primary.interrupts, 5, 4),
        secondaries: (0..32).map(secondary).collect(),
    }
}

fn state(online: bool, queues: u16, interrupts: u16) -> SecondaryState {
    SecondaryState { online, queues, interrupts }
}

/// Gives a VF's controller something, as somebody did before.
fn give(drive: &mut NvmeFacts, index: u16, state: SecondaryState) {
    drive.secondaries.get_mut(&index).expect("a controller").state = state;
    drive.queues.assigned += u32::from(state.queues);
    drive.interrupts.assigned += u32::from(state.interrupts);
}

/// The lab's host with that drive and so many VFs of it.
fn host(drive: NvmeFacts, vfs: u16, used: bool) -> HostSnapshot {
    with(read(vfs), drive, used)
}

fn read(vfs: u16) -> HostSnapshot {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let tree = Tree::lab(directory.path(), 0);
    let function = Function::new(PF, (0x1b36, 0x0010), 0x01_0802).driver("nvme").group(9);
    tree.add(function.below("0000:00:01.0").vfs(32, vfs));
    HostSnapshot::read(&tree.root())
}

fn with(mut snapshot: HostSnapshot, drive: NvmeFacts, used: bool) -> HostSnapshot {
    let pf = snapshot.functions.iter_mut().find(|function| function.address == at(PF));
    pf.and_then(|pf| pf.sriov.as_mut()).expect("the drive").nvme = Some(drive);
    if used {
        let disk = snapshot.blocks.iter_mut().find(|block| block.name == "sda");
        disk.expect("the disk of the lab").pci.push(at(PF));
    }
    snapshot
}

fn pf(snapshot: &HostSnapshot) -> &PciFunction {
    snapshot.function(at(PF)).expect("the drive")
}

fn texts(changes: &[Change]) -> Vec<String> {
    changes.iter().map(|change| change.to_string().replace(PF, "PF")).collect()
}

fn create(snapshot: &HostSnapshot, count: u16, driver: Option<&str>) -> Vec<String> {
    texts(&vfs::create(snapshot, pf(snapshot), count, driver).expect("a plan"))
}

const NONE: Share = Share { queues: 0, interrupts: 0 };
const ALL: Share = Share { queues: 72, interrupts: 40 };

#[test]
fn a_free_pool_is_shared_out_evenly_and_the_drive_is_not_reset() {
    let snapshot = host(drive(NONE), 0, true);
    assert_eq!(
        create(&snapshot, 2, Some("vfio-pci")),
        [
            "PF: keep the host's drivers off new VFs",
            "PF: create 2 VFs",
            "PF VF 0: give it 8 queues, 4 interrupts and set it online",
            "PF VF 1: give it 8 queues, 4 interrupts and set it online",
            "PF VF 0: bind to vfio-pci",
            "PF VF 1: bind to vfio-pci",
            "PF: let the host bind drivers to new VFs",
        ]
    );
    let all = create(&snapshot, 32, Some("vfio-pci"));
    assert!(all.contains(&"PF VF 31: give it 2 queues, 1 interrupt and set it online".to_owned()));
}

#[test]
fn the_hosts_driver_comes_after_the_controllers_are_online() {
    let steps = create(&host(drive(NONE), 0, false), 1, None);
    assert_eq!(
        steps[2..],
        [
            "PF VF 0: give it 8 queues, 4 interrupts and set it online",
            "PF VF 0: give to nvme",
            "PF: let the host bind drivers to new VFs",
        ]
    );
}

#[test]
fn a_drive_that_has_all_itself_gives_up_what_is_needed_and_asks_if_it_is_used() {
    let reset = |used| {
        let snapshot = host(drive(ALL), 0, used);
        let changes = vfs::create(&snapshot, pf(&snapshot), 2, Some("vfio-pci")).expect("a plan");
        (texts(&changes)[1].clone(), changes[1].is_disruptive())
    };
    let text = "PF: reset it, for it to have 56 queues, 32 interrupts of the pool";
    assert_eq!(reset(false), (text.to_owned(), false));
    assert_eq!(reset(true), (format!("{text} (sda → / waits for that long)"), true));
    // With the most it can have, the least is left to it; it has more beside the pool.
    let all = create(&host(drive(ALL), 0, false), 32, Some("vfio-pci"));
    assert_eq!(all[1], "PF: reset it, for it to have 8 queues, 8 interrupts of the pool");
}

#[test]
fn what_a_controller_has_it_keeps_and_what_lies_idle_is_used_before_the_drives_own() {
    let mut facts = drive(Share { queues: 60, interrupts: 30 });
    give(&mut facts, 0, state(false, 3, 2));
    give(&mut facts, 9, state(false, 8, 4));
    let steps = create(&host(facts, 0, false), 3, Some("vfio-pci"));
    assert_eq!(
        steps[1..5],
        [
            "PF VF 9: set it offline and take its share back",
            "PF: create 3 VFs",
            "PF VF 0: give it 3 queues, 2 interrupts and set it online",
            "PF VF 1: give it 4 queues, 4 interrupts and set it online",
        ]
    );
}

#[test]
fn more_than_the_pool_holds_is_bad_input_that_says_how_many_would_do() {
    let mut facts = drive(ALL);
    facts.interrupts.total = 7;
    facts.interrupts.primary = 7;
    let snapshot = host(facts, 0, false);
    let error = vfs::create(&snapshot, pf(&snapshot), 8, None).expect_err("too many");
    assert_eq!(
        (error.class, error.reason),
        (Class::BadInput, Reason::Host(sriov::Reason::TooManyVfs))
    );
    let told = "0000:02:00.0: cannot have 8 VFs: each needs 1 interrupt, and 7 can be had. Ask for \
                at most 7.";
    assert_eq!(error.to_string(), told);
    create(&snapshot, 7, None);
    let mut facts = drive(ALL);
    facts.secondaries.remove(&5);
    let snapshot = host(facts, 0, false);
    let error = vfs::create(&snapshot, pf(&snapshot), 8, None).expect_err("too many");
    assert!(
        error.to_string().contains("it has no controller for VF 5. Ask for at most 5."),
        "{error}"
    );
}

#[test]
fn destroying_gives_back_what_was_taken_unless_it_was_changed_since() {
    let left = Share { queues: 56, interrupts: 32 };
    let mut facts = drive(left);
    for index in 0..2 {
        give(&mut facts, index, state(true, 8, 4));
    }
    let snapshot = host(facts, 2, false);
    let remembered =
        |left, serial: &str| Drive { pf: at(PF), serial: serial.to_owned(), found: ALL, left };
    let destroy = |drive: Option<&Drive>| {
        texts(&vfs::destroy(&snapshot, pf(&snapshot), drive).expect("a plan"))
    };
    let steps = [
        "PF VF 0: set it offline and take its share back",
        "PF VF 1: set it offline and take its share back",
        "PF: destroy its 2 VFs",
    ];
    assert_eq!(destroy(None), steps);
    assert_eq!(destroy(Some(&remembered(left, "another"))), steps);
    assert_eq!(destroy(Some(&remembered(NONE, "lab"))), steps);
    let back = destroy(Some(&remembered(left, "lab")));
    assert_eq!(back[3], "PF: reset it, for it to have 72 queues, 40 interrupts of the pool");
}

fn policy(count: u16) -> Policy {
    let text = format!(
        "apiVersion: assign/v1\nkind: Policy\nmetadata: {{name: slices}}\nspec:\n  pools:\n    \
         - {{name: disks, from: {{class: \"0108\"}}, vfs: {{count: {count}}}}}\n"
    );
    let documents = policies::parse(&[Source { name: "test.yaml".to_owned(), text }]);
    documents.expect("a right policy").policies.remove(0)
}

fn planned(snapshot: &HostSnapshot, count: u16) -> Plan {
    plan(snapshot, &[policy(count)], Known::default())
}

#[test]
fn a_policy_brings_a_controller_that_went_offline_back() {
    let mut facts = drive(NONE);
    give(&mut facts, 0, state(true, 8, 4));
    give(&mut facts, 1, state(false, 0, 0));
    let texts_of =
        |plan: &Plan| texts(&plan.steps.iter().map(|step| step.change.clone()).collect::<Vec<_>>());
    let plan = planned(&host(facts.clone(), 2, false), 2);
    assert_eq!(
        texts_of(&plan),
        [
            "PF VF 1: give it 8 queues, 4 interrupts and set it online",
            "PF VF 0: bind to vfio-pci",
            "PF VF 1: bind to vfio-pci",
        ]
    );
    // Another number goes by way of none, with the controllers withdrawn before and set up after.
    let plan = planned(&host(facts.clone(), 2, false), 1);
    assert_eq!(
        texts_of(&plan)[1..5],
        [
            "PF VF 0: set it offline and take its share back",
            "PF: destroy its 2 VFs",
            "PF: create 1 VF",
            "PF VF 0: give it 8 queues, 4 interrupts and set it online",
        ]
    );
    // With VFs there the drive cannot be reset.
    facts.queues.primary = 64;
    let plan = planned(&host(facts, 2, false), 2);
    let refusal = plan.refusal().expect("a refusal");
    assert_eq!(
        (refusal.class, refusal.reason),
        (Class::Refused, Reason::Host(sriov::Reason::HasVfs))
    );
}

#[test]
fn a_drive_that_does_not_answer_gets_no_vfs_that_could_not_work() {
    let mut snapshot = host(drive(NONE), 0, false);
    let pf = snapshot.functions.iter_mut().find(|function| function.address == at(PF));
    pf.and_then(|pf| pf.sriov.as_mut()).expect("the drive").nvme = None;
    assert!(
        planned(&snapshot, 2).refusals.is_empty(),
        "one without such controllers is like a NIC"
    );
    snapshot.problems.push(sriov::facts::reader::Problem {
        path: format!("/sys/bus/pci/devices/{PF}/nvme").into(),
        cause: "its controller nvme0 cannot be asked: its state is dead, not live".to_owned(),
    });
    let plan = planned(&snapshot, 2);
    let refusal = plan.refusal().expect("a refusal").to_string();
    assert!(refusal.contains("its VFs cannot be set up: its controller nvme0"), "{refusal}");
}

proptest! {
    /// Whatever a drive says of itself: no panic, and no plan that gives away more than there is.
    #[test]
    fn no_plan_gives_away_more_than_there_is(
        totals in (any::<u32>(), any::<u32>()),
        owns in (any::<u16>(), any::<u16>()),
        privates in (0..4u16, 0..4u16),
        mosts in (any::<u16>(), any::<u16>()),
        steps in (0..9u16, 0..9u16),
        flexible in (any::<bool>(), any::<bool>()),
        has in proptest::collection::vec((any::<bool>(), 0..9u16, 0..5u16), 0..40),
        count in 1..40u16,
    ) {
        let bounded = |total: u32| if total.is_multiple_of(3) { total } else { total % 200 };
        let kind = |total, primary: u16, private, most: u16, step, flexible| Pool {
            flexible, private, total: bounded(total), primary: primary % 100, assigned: 0,
            most: if most.is_multiple_of(2) { most } else { most % 10 }, step,
        };
        let mut facts = drive(NONE);
        facts.queues = kind(totals.0, owns.0, privates.0, mosts.0, steps.0, flexible.0);
        facts.interrupts = kind(totals.1, owns.1, privates.1, mosts.1, steps.1, flexible.1);
        for (index, (online, queues, interrupts)) in (0..32).zip(has) {
            give(&mut facts, index, state(online, queues, interrupts));
        }
        static BARE: OnceLock<HostSnapshot> = OnceLock::new();
        let snapshot = with(BARE.get_or_init(|| read(0)).clone(), facts.clone(), false);
        let Ok(changes) = vfs::create(&snapshot, pf(&snapshot), count, Some("vfio-pci")) else {
            return Ok(());
        };
        let mut primary = facts.primary();
        for change in &changes {
            match change {
                Change::SetNvmePrimary { to, .. } => primary = *to,
                Change::SetNvmeSecondary { vf, to, .. } => {
                    facts.secondaries.get_mut(&vf.index).expect("a controller").state = *to;
                }
                _ => {}
            }
        }
        for index in 0..count {
            let state = facts.secondaries[&index].state;
            prop_assert!(state.online, "VF {index}: {state}");
            prop_assert!(!facts.queues.flexible || state.queues >= 2, "VF {index}: {state}");
            prop_assert!(!facts.interrupts.flexible || state.interrupts >= 1, "VF {index}: {state}");
        }
        let sum = |of: fn(&SecondaryState) -> u16| {
            facts.secondaries.values().map(|secondary| u64::from(of(&secondary.state))).sum::<u64>()
        };
        let before = snapshot.function(at(PF)).and_then(|pf| pf.sriov.as_ref()?.nvme.clone());
        let before = before.expect("the drive");
        for (pool, old, new, given) in [
            (facts.queues, before.queues, primary.queues, sum(|state| state.queues)),
            (facts.interrupts, before.interrupts, primary.interrupts, sum(|state| state.interrupts)),
        ] {
            let fits = u64::from(old.primary) + u64::from(old.assigned) <= u64::from(old.total);
            prop_assert!(new <= old.primary);
            if pool.flexible && fits {
                prop_assert!(given + u64::from(new) <= u64::from(pool.total), "{pool:?} {given} {new}");
            }
        }
        // The drive itself goes on, if it could before.
        for (pool, old, new, least) in [
            (facts.queues, before.queues, primary.queues, 2),
            (facts.interrupts, before.interrupts, primary.interrupts, 1),
        ] {
            let works = |own: u16| own.saturating_add(pool.private) >= least;
            prop_assert!(works(new) || !works(old.primary) || new == old.primary, "{pool:?} {new}");
        }
    }
}
