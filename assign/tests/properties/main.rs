//! What holds for every plan, on hosts and for policies that nobody thought of: its result is as the
//! policy says, or it is a refusal; applying it twice changes nothing; taking back any part of it
//! leaves the host as it was; no plan takes what the host uses, and no guest gets a part of another's
//! group.
//!
//! The steps are carried out by a model of the kernel that knows nothing of plans.

mod hosts;
mod kept;
mod wanted;

use std::collections::BTreeMap;

use assign::apply::settle::settle;
use assign::choose::{self, Choice, Holder, Offer, Previous, World};
use assign::plan::{Known, Plan, plan_with};
use assign::state::{Applied, Lease, Owner};
use policies::{Documents, NumaChoice, Policy, Pool, PoolDevices, VfIndexes};
use proptest::prelude::*;
use proptest::test_runner::TestCaseError;
use sriov::facts::variant::Variants;
use sriov::recorded::model::Model;
use sriov::{Change, HostRoot, HostSnapshot, PciAddress, PciFunction, Undo};

use hosts::Words;
use wanted::{Texts, unsatisfied};

fn leases(held: &[(PciAddress, String)]) -> Vec<Lease> {
    let root = HostRoot::at("/nonexistent");
    let owner = Owner { pid: 4711, started: 1 };
    let lease = |(at, guest): &(PciAddress, String)| Lease::new(&root, *at, guest, owner);
    held.iter().map(lease).collect()
}

/// A case with everything that was made of it.
struct Case {
    before: Model,
    documents: Documents,
    leases: Vec<Lease>,
    variants: Variants,
    previous: Vec<Previous>,
}

impl Case {
    fn new(words: &Words, texts: &Texts) -> Option<Case> {
        let (before, held) = hosts::build(words);
        let documents = texts.parse(words)?;
        let (leases, variants) = (leases(&held), Variants::default());
        let previous = kept::previous(&before.host, &documents, &words.before);
        Some(Case { before, documents, leases, variants, previous })
    }

    fn plan(&self, host: &HostSnapshot) -> Plan {
        self.plan_after(host, &self.previous)
    }

    /// The plan where guests had these before.
    fn plan_after(&self, host: &HostSnapshot, previous: &[Previous]) -> Plan {
        let known = Known {
            leases: &self.leases,
            variants: Some(&self.variants),
            previous,
            ..Known::default()
        };
        plan_with(host, &self.documents.policies, &self.documents.guests, known)
    }
}

/// Takes back steps, last first.
fn undo(model: &mut Model, steps: &[&Change]) -> Result<(), TestCaseError> {
    for step in steps.iter().rev() {
        match step.undo() {
            Undo::Nothing => {}
            Undo::Change(back) => {
                let made = model.make(&back);
                prop_assert!(made.is_ok(), "{made:?} on the way back from {step}");
            }
            Undo::Impossible(why) => prop_assert!(false, "{step} cannot be taken back: {why}"),
        }
    }
    Ok(())
}

/// What is not the same on two hosts. Numbers of groups are nobody's identity: the kernel gives a VF
/// that is made anew another one.
fn differences(one: &HostSnapshot, other: &HostSnapshot) -> Vec<String> {
    let mut differs = Vec::new();
    let plain = |function: &PciFunction| {
        format!("{:?}", PciFunction { iommu_group: None, ..function.clone() })
    };
    let functions = |host: &HostSnapshot| host.functions.iter().map(plain).collect::<Vec<_>>();
    let netdevs = |host: &HostSnapshot| {
        host.netdevs.iter().map(|netdev| format!("{netdev:?}")).collect::<Vec<_>>()
    };
    let groups = |host: &HostSnapshot| {
        let mut groups: Vec<_> = host.iommu.groups.values().map(|group| &group.members).collect();
        groups.sort();
        groups.into_iter().map(|members| format!("{members:?}")).collect::<Vec<_>>()
    };
    for (is, was) in [
        (functions(one), functions(other)),
        (netdevs(one), netdevs(other)),
        (groups(one), groups(other)),
    ] {
        differs.extend(is.iter().filter(|is| !was.contains(is)).map(|is| format!("is {is}")));
        differs.extend(was.iter().filter(|was| !is.contains(was)).map(|was| format!("was {was}")));
    }
    differs
}

/// That no two guests share a group, and no device is given twice or while somebody else has it.
fn check_guests(case: &Case, plan: &Plan, after: &HostSnapshot) -> Result<(), TestCaseError> {
    let mut devices: BTreeMap<PciAddress, String> = BTreeMap::new();
    let mut groups: BTreeMap<u32, String> = BTreeMap::new();
    for lease in &case.leases {
        devices.insert(lease.device, format!("{} before", lease.guest));
        let group = after.function(lease.device).and_then(|one| one.iommu_group);
        groups.extend(group.map(|group| (group, lease.guest.clone())));
    }
    for (told, guest) in plan.guests.iter().zip(&case.documents.guests) {
        prop_assert_eq!(&told.guest, &guest.name);
        if !told.starts {
            continue;
        }
        for (claim, given) in told.choice.given() {
            let at = match given.vf {
                Some(vf) => after.vf_address(vf),
                None => given.address,
            };
            let function = at.and_then(|at| after.function(at));
            prop_assert!(function.is_some(), "{claim} of {} gets nothing: {given}", told.guest);
            let function = function.expect("it was looked at");
            let owner = format!("{} before", told.guest);
            let before = devices.insert(function.address, format!("{} now", told.guest));
            let fine = before.as_ref().is_none_or(|before| *before == owner);
            prop_assert!(fine, "{} goes to {} and {before:?}", function.address, told.guest);
            if let Some(group) = function.iommu_group {
                let other = groups.entry(group).or_insert_with(|| told.guest.clone());
                prop_assert_eq!(&*other, &told.guest, "group {} is split", group);
            }
            let asked = choose::claims(guest).find(|asked| asked.name == claim);
            let numa = asked.map(|asked| asked.claim.numa);
            let holds = before.is_some();
            if let (Some(NumaChoice::Required), Some(node), false) =
                (numa, guest.memory.numa, holds)
                && after.functions.iter().any(|one| one.numa_node.is_some())
            {
                prop_assert_eq!(function.numa_node, Some(node), "{} is far", function.address);
            }
        }
    }
    Ok(())
}

/// That guests that start one after the other get what the plan said.
fn check_runs(case: &Case, plan: &Plan, after: &HostSnapshot) -> Result<(), TestCaseError> {
    let offers: Vec<Offer> = case
        .documents
        .policies
        .iter()
        .flat_map(|policy| {
            policy.pools.iter().map(|pool| Offer {
                policy: policy.name.clone(),
                isolation: policy.isolation,
                protection: policy.protection.clone(),
                pool: pool.clone(),
                planned: None,
            })
        })
        .collect();
    let holder = |guest: &str| Holder { guest: guest.to_owned(), pid: None };
    let mut holders: BTreeMap<PciAddress, Holder> =
        case.leases.iter().map(|lease| (lease.device, holder(&lease.guest))).collect();
    for (told, guest) in plan.guests.iter().zip(&case.documents.guests) {
        let running = case.leases.iter().any(|lease| lease.guest == guest.name);
        if running {
            // It is not started again; what it has beside is not for the next ones.
            return Ok(());
        }
        let failed = BTreeMap::new();
        let world = World {
            host: after,
            offers: &offers,
            holders: &holders,
            failed: &failed,
            previous: &[],
            runs: false,
        };
        let run = choose::choose(guest, world);
        prop_assert_eq!(run.is_ok(), told.starts, "{} {:?}", guest.name, run);
        let Ok(choice) = run else { continue };
        let names = |choice: &Choice| -> Vec<String> {
            choice.given().map(|(claim, given)| format!("{claim} {}", given.device())).collect()
        };
        prop_assert_eq!(names(&choice), names(&told.choice), "{}", guest.name);
        let given: Vec<PciAddress> = choice.devices().iter().map(|device| device.address).collect();
        holders.extend(given.into_iter().map(|device| (device, holder(&guest.name))));
    }
    Ok(())
}

/// The policies with less in them: without their last pool, or with only the first VF of their last one.
fn shrunk(policies: &[Policy]) -> Vec<Policy> {
    let less = |policy: &Policy| {
        let mut policy = policy.clone();
        if policy.pools.len() > 1 {
            policy.pools.pop();
        } else if let Some(Pool { devices: PoolDevices::Vfs { indexes, .. }, .. }) =
            policy.pools.last_mut()
            && indexes.contains(0)
        {
            *indexes = VfIndexes::first(1);
        }
        policy
    };
    policies.iter().map(less).collect()
}

/// What each policy changed, as it is remembered.
fn remembered(case: &Case, plan: &Plan) -> Vec<Applied> {
    let applied = |policy: &Policy| Applied {
        policy: policy.clone(),
        boot_id: case.before.host.platform.boot_id.clone(),
        changes: plan
            .steps
            .iter()
            .filter(|step| step.policy == policy.name)
            .map(|step| step.change.clone())
            .collect(),
    };
    case.documents.policies.iter().map(applied).collect()
}

/// That policies with less in them give back what they do not want any more, once, and that nothing of
/// it is left then for their removal.
fn check_shrunk(case: &Case, plan: &Plan, made_so: &Model) -> Result<bool, TestCaseError> {
    let (mut model, after) = (made_so.clone(), &made_so.host);
    let mut applied = remembered(case, plan);
    let policies = shrunk(&case.documents.policies);
    let plan_less = |host: &HostSnapshot, applied: &[Applied]| {
        let known = Known {
            leases: &case.leases,
            variants: Some(&case.variants),
            applied,
            ..Known::default()
        };
        plan_with(host, &policies, &[], known)
    };
    let less = plan_less(after, &applied);
    if less.refusal().is_some() {
        return Ok(false);
    }
    let mut made: Vec<&Change> = Vec::new();
    // In the model, an interface comes back with its addresses. What was taken by force and is in use
    // again is not taken once more without anybody's word, on the way back neither.
    let forced = plan.steps.iter().any(|step| matches!(step.change, Change::Forced { .. }));
    for step in &less.steps {
        let made_it = model.make(&step.change);
        prop_assert!(made_it.is_ok(), "{:?} for {}", made_it, step.change);
        made.push(&step.change);
        if forced {
            continue;
        }
        let mut back = model.clone();
        undo(&mut back, &made)?;
        let differs = differences(&back.host, after);
        prop_assert!(
            differs.is_empty(),
            "after {} of {}: {differs:#?}",
            made.len(),
            less.steps.len()
        );
    }
    let again = plan_less(&model.host, &applied);
    prop_assert!(again.refusal().is_none(), "{:?}", again.refusals);
    prop_assert!(again.steps.is_empty(), "left to be done: {:#?}", again.steps);
    // What is forgotten then, and what was changed this time, is what is remembered.
    for one in &mut applied {
        let own = less.steps.iter().filter(|step| step.policy == one.policy.name);
        let (returned, other): (Vec<_>, Vec<_>) = own.partition(|step| step.returns);
        one.forget(&returned.iter().map(|step| step.change.device()).collect::<Vec<_>>());
        one.changes.extend(other.into_iter().map(|step| step.change.clone()));
    }
    let again = plan_less(&model.host, &applied);
    prop_assert!(again.steps.is_empty(), "left when it is forgotten: {:#?}", again.steps);
    for policy in &policies {
        let lacks = unsatisfied(&model.host, policy);
        prop_assert!(lacks.is_empty(), "{lacks:?}");
    }
    for lease in &case.leases {
        let driver = model.host.function(lease.device).map(|one| one.driver.clone());
        prop_assert_eq!(driver, Some(Some("vfio-pci".to_owned())), "{} is lost", lease.device);
    }
    Ok(less.steps.iter().any(|step| step.returns))
}

fn check(words: &Words, texts: &Texts) -> Result<(), TestCaseError> {
    let Some(case) = Case::new(words, texts) else { return Ok(()) };
    let plan = case.plan(&case.before.host);
    if plan.refusal().is_some() {
        prop_assert!(plan.steps.is_empty() && plan.guests.is_empty());
        return Ok(());
    }
    let steps: Vec<&Change> = plan.steps.iter().map(|step| &step.change).collect();
    for step in &steps {
        // What a policy does not except is never forced.
        if let Change::Forced { devices, because, .. } = step {
            let excepted = devices.iter().all(|device| {
                case.documents.policies.iter().any(|policy| {
                    let function = case.before.host.function(*device);
                    function.is_some_and(|one| {
                        policy.protection.exception(&case.before.host, one).is_some()
                    })
                })
            });
            prop_assert!(excepted && because.as_deref() == Some("it is a test"), "{step}");
        }
    }
    let mut model = case.before.clone();
    let mut made: Vec<&Change> = Vec::new();
    for step in &steps {
        match model.make(step) {
            Ok(()) => made.push(step),
            // Known only once there are VFs; the apply is taken back then.
            Err(error) if error.contains("is not reported") && !words.reports_trust => break,
            Err(error) => prop_assert!(false, "{error}"),
        }
        // Any prefix can be taken back.
        let mut back = model.clone();
        undo(&mut back, &made)?;
        let differs = differences(&back.host, &case.before.host);
        prop_assert!(differs.is_empty(), "after {} of {}: {differs:#?}", made.len(), steps.len());
    }
    if made.len() < steps.len() {
        return Ok(());
    }
    let after = model.host.clone();
    prop_assert!(after.check().is_ok());
    // Nothing that the host uses was taken, whatever the model says of it.
    for netdev in &case.before.host.netdevs {
        let used = netdev.default_route || !netdev.addresses.is_empty();
        let excepted = steps.iter().any(|step| match step {
            Change::Forced { devices, .. } => netdev.pci.is_some_and(|at| devices.contains(&at)),
            _ => false,
        });
        let kept = after.netdev(&netdev.name).is_some_and(|now| now.pci == netdev.pci);
        prop_assert!(!used || excepted || kept, "{} is lost", netdev.name);
    }
    // Nor anything that a guest has.
    for lease in &case.leases {
        let driver = after.function(lease.device).map(|one| one.driver.clone());
        prop_assert_eq!(driver, Some(Some("vfio-pci".to_owned())), "{} is lost", lease.device);
    }
    let again = case.plan(&after);
    if let Some(refusal) = again.refusal() {
        // How the kernel groups new VFs, and what a driver tells of them, is known only when they are
        // there; the apply is taken back.
        let grouped = refusal.reason == assign::OwnReason::GroupNotViable.into();
        let grouped = grouped && words.cards.iter().any(|card| !card.isolating);
        let untold = refusal.reason == sriov::Reason::NotSupported.into() && !words.reports_trust;
        prop_assert!(grouped || untold, "{refusal}");
        return Ok(());
    }
    prop_assert!(again.steps.is_empty(), "left to be done: {:#?}", again.steps);
    for policy in &case.documents.policies {
        let lacks = unsatisfied(&after, policy);
        prop_assert!(lacks.is_empty(), "{lacks:?}");
    }
    check_shrunk(&case, &plan, &model)?;
    check_removal(&case, &plan, model)?;
    check_guests(&case, &plan, &after)?;
    kept::check(&case, &plan, &after)?;
    // What a guest had it gets before all others only where all are asked at once.
    check_runs(&case, &case.plan_after(&case.before.host, &[]), &after)
}

/// That removing the policies afterwards, the last one first, restores the host.
fn check_removal(case: &Case, plan: &Plan, mut model: Model) -> Result<(), TestCaseError> {
    for policy in case.documents.policies.iter().rev() {
        let steps = plan.steps.iter().filter(|step| step.policy == policy.name);
        let own: Vec<Change> = steps.map(|step| step.change.clone()).collect();
        for back in settle(&own) {
            let made = model.make(&back);
            prop_assert!(made.is_ok(), "{made:?} when {} is removed", policy.name);
        }
    }
    let differs = differences(&model.host, &case.before.host);
    prop_assert!(differs.is_empty(), "after removing: {differs:#?}");
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1000, ..ProptestConfig::default() })]

    #[test]
    fn every_plan_keeps_its_promises(words in hosts::words(), texts in wanted::texts()) {
        check(&words, &texts)?;
    }
}

/// Properties that hold because nothing ever happens would hold of anything.
#[test]
fn the_cases_are_of_all_kinds() {
    use proptest::strategy::ValueTree;
    let mut runner = proptest::test_runner::TestRunner::deterministic();
    let strategy = (hosts::words(), wanted::texts());
    let (mut refused, mut changed, mut given, mut forced, mut kept) = (0, 0, 0, 0, 0);
    let (mut met, mut apart, mut again, mut demanded, mut returned) = (0, 0, 0, 0, 0);
    for _ in 0..1000 {
        let (words, texts) = strategy.new_tree(&mut runner).expect("a case").current();
        let Some(case) = Case::new(&words, &texts) else { continue };
        let plan = case.plan(&case.before.host);
        refused += usize::from(plan.refusal().is_some());
        changed += usize::from(!plan.steps.is_empty());
        given += plan.guests.iter().filter(|guest| guest.choice.given().count() > 0).count();
        forced +=
            usize::from(plan.steps.iter().any(|step| matches!(step.change, Change::Forced { .. })));
        kept += usize::from(!plan.steps.is_empty() && !case.leases.is_empty());
        let conflict = assign::OwnReason::PoolConflict.into();
        let policies = &case.documents.policies;
        met += usize::from(
            policies.len() > 1 && plan.refusal().is_some_and(|one| one.reason == conflict),
        );
        apart += usize::from(policies.len() > 1 && !plan.steps.is_empty());
        let mut model = case.before.clone();
        if plan.steps.iter().all(|step| model.make(&step.change).is_ok()) {
            again += kept::expected(&case, &plan, &model.host).len();
            let is_planned = plan.refusal().is_none();
            returned += usize::from(
                is_planned && check_shrunk(&case, &plan, &model).is_ok_and(|some| some),
            );
        }
        let acs = policies.iter().any(|policy| policy.isolation.acs == policies::Acs::Required);
        demanded += usize::from(acs && plan.refusal().is_none());
    }
    println!(
        "refused {refused}, changed {changed}, guests with a device {given}, forced {forced}, beside \
         leases {kept}, policies that meet {met} or stand beside each other {apart}, devices that a \
         guest has again {again}, ACS demanded and there {demanded}, something given back {returned}"
    );
    assert!(refused > 100 && changed > 100 && given > 100 && forced > 3 && kept > 30);
    assert!(met > 3 && apart > 20 && again > 10 && demanded > 10 && returned > 30);
}
