use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;

use sriov::dma_fault::Blocked;

use super::*;
use crate::prove::step::Verdict;

/// How a simulated IOMMU goes wrong.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Iommu {
    /// Not at all.
    Sound,
    /// What is not mapped goes to the physical address of the same number.
    Open,
    /// A mapping that was taken away still serves.
    Stale,
    /// It translates, and lets everything on the next page through to the same memory.
    Wide,
    /// It blocks what it should and tells nobody.
    Silent,
    /// It blocks everything.
    Shut,
}

/// A device with memory behind an IOMMU; the first page is at this physical address.
struct World {
    iommu: Iommu,
    mapped: BTreeMap<u64, usize>,
    pages: Arc<Pages>,
    faults: Vec<DmaFault>,
    closed: bool,
}

const FIRST: u64 = 0x7000_0000;
const DEVICE: &str = "0000:01:10.0";

impl World {
    /// The page that an access gets to.
    fn translated(&mut self, address: u64, access: Access) -> Option<usize> {
        let page = self.mapped.get(&address).copied();
        let page = page.or_else(|| match self.iommu {
            Iommu::Open => {
                let page = usize::try_from(address.checked_sub(FIRST)? / PAGE).ok()?;
                (page < COUNT).then_some(page)
            }
            Iommu::Wide => self.mapped.get(&(address - PAGE)).copied(),
            _ => None,
        });
        let page = page.filter(|_| self.iommu != Iommu::Shut);
        if page.is_none() && self.iommu != Iommu::Silent {
            let device = DEVICE.parse().expect("an address");
            let (access, address) = (Some(access), IoAddress(address));
            let blocked = Blocked { access, address, reason: None, count: 1 };
            self.faults.push(DmaFault { device, blocked });
        }
        page
    }
}

#[derive(Clone)]
struct Shared(Rc<RefCell<World>>);

impl Gate for Shared {
    fn map(&mut self, iova: u64, _pages: &Arc<Pages>, page: usize) -> Result<(), String> {
        self.0.borrow_mut().mapped.insert(iova, page);
        Ok(())
    }

    fn unmap(&mut self, iova: u64) -> Result<(), String> {
        let mut world = self.0.borrow_mut();
        if world.iommu != Iommu::Stale {
            world.mapped.remove(&iova);
        }
        Ok(())
    }

    fn physical(&self, _pages: &Pages, page: usize) -> Option<u64> {
        Some(FIRST + page as u64 * PAGE)
    }

    fn faults(&mut self) -> Result<Vec<DmaFault>, String> {
        Ok(std::mem::take(&mut self.0.borrow_mut().faults))
    }

    fn close(&mut self) -> Result<(), String> {
        self.0.borrow_mut().closed = true;
        Ok(())
    }
}

impl Engine for Shared {
    fn write(&mut self, to: u64) -> Result<(), String> {
        let mut world = self.0.borrow_mut();
        if let Some(page) = world.translated(to, Access::Write) {
            world.pages.write(page * PAGE as usize, &[1; 64]).map_err(|error| error.to_string())?;
        }
        Ok(())
    }

    fn read(&mut self, from: u64) -> Result<Option<Vec<u8>>, String> {
        let mut world = self.0.borrow_mut();
        let Some(page) = world.translated(from, Access::Read) else { return Ok(Some(vec![1; 64])) };
        world.pages.read(page * PAGE as usize, 64).map(Some).map_err(|error| error.to_string())
    }

    fn restore(&mut self) -> Result<(), String> {
        Ok(())
    }
}

fn shown(iommu: Iommu) -> (Verdict, Vec<Step>) {
    let pages = Arc::new(Pages::new(COUNT).expect("memory"));
    let (mapped, faults) = (BTreeMap::new(), Vec::new());
    let world = World { iommu, mapped, pages: pages.clone(), faults, closed: false };
    let world = Shared(Rc::new(RefCell::new(world)));
    let none = Duration::ZERO;
    let proof = Proof {
        device: DEVICE.parse().expect("an address"),
        engine: Box::new(world.clone()),
        gate: Box::new(world.clone()),
        pages,
        target: 16 << 20,
        pace: Pace { told_within: none, look_again: none, pause: none },
        told: &|_| {},
        asked_to_end: &|| false,
        steps: Vec::new(),
        notes: Vec::new(),
    };
    let (steps, notes) = proof.run().expect("steps");
    assert!(notes.is_empty() && world.0.borrow().closed, "{notes:?}");
    (Verdict::of(&steps), steps)
}

#[test]
fn a_sound_iommu_is_shown_to_be_one_and_a_broken_one_is_not() {
    let (verdict, steps) = shown(Iommu::Sound);
    assert_eq!((verdict, steps.len()), (Verdict::Isolated, 12), "{steps:?}");
    for (iommu, place) in [
        (Iommu::Open, Place::Physical),
        (Iommu::Stale, Place::TakenAway),
        (Iommu::Wide, Place::Behind),
    ] {
        let (verdict, steps) = shown(iommu);
        assert_eq!(verdict, Verdict::NotIsolated, "{steps:?}");
        let reached = |step: &Step| step.place == place && step.outcome == Outcome::Reached;
        assert!(steps.iter().any(reached), "{place:?} was not reached: {steps:?}");
    }
}

#[test]
fn what_is_not_told_or_does_not_work_shows_nothing() {
    let (verdict, steps) = shown(Iommu::Silent);
    assert_eq!(verdict, Verdict::NotShown, "{steps:?}");
    assert!(steps.iter().any(|step| step.outcome == Outcome::Untold), "{steps:?}");
    let (verdict, steps) = shown(Iommu::Shut);
    assert_eq!(verdict, Verdict::NotShown, "{steps:?}");
    assert!(steps.iter().all(|step| step.place == Place::Mapped), "no stray without a control");
}

#[test]
fn the_place_is_one_that_can_be_mapped() {
    assert_eq!(place(&[]), Some(16 << 20));
    assert_eq!(place(&[(0, 0xfedf_ffff), (0xfef0_0000, u64::MAX)]), Some(16 << 20));
    assert_eq!(place(&[(16 << 20, u64::MAX)]), Some(32 << 20), "room before it");
    assert_eq!(place(&[(0, (16 << 20) + PAGE)]), None, "room behind it");
    assert_eq!(place(&[(1 << 32, u64::MAX)]), None);
}

#[test]
fn secrets_are_found_wherever_they_are() {
    let (one, other) = (secret(), secret());
    assert_ne!(one, other);
    let page = filled_with(&one);
    assert_eq!(page.len() as u64, PAGE);
    assert!(holds(&page[5..], &one) && !holds(&page, &other) && !holds(&page[..15], &one));
}
