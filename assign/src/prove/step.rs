//! What a device is made to try, what came of it, and what all of that shows.

use serde::Serialize;
use sriov::dma_fault::{Access, IoAddress};

/// Where a device is aimed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Place {
    /// At a page that is mapped for it.
    Mapped,
    /// At a page that is mapped where another page has its physical address.
    Translated,
    /// At the page before the mapped one.
    Before,
    /// At the page behind the mapped one.
    Behind,
    /// At the physical address of the mapped page.
    Physical,
    /// At the page that was mapped, once it is no more.
    TakenAway,
}

/// What came of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Outcome {
    /// It arrived where it is mapped to, and nowhere else.
    Arrived,
    /// It did not arrive where it is mapped to.
    Lost,
    /// It arrived nowhere, and the kernel told of the fault.
    Blocked,
    /// It arrived nowhere, and nothing was told of it.
    Untold,
    /// It arrived where it must not.
    Reached,
}

/// One try.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Step {
    /// What the device tried.
    pub access: Access,
    /// Where it was aimed.
    pub place: Place,
    /// The I/O address.
    pub address: IoAddress,
    /// What came of it.
    pub outcome: Outcome,
}

/// What all of them show.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Verdict {
    /// The device reaches what is mapped for it, and was kept from all else.
    Isolated,
    /// It reached what it must not.
    NotIsolated,
    /// Neither.
    NotShown,
}

impl Verdict {
    /// Isolated takes a control that worked, strays, and that each was blocked.
    pub fn of(steps: &[Step]) -> Verdict {
        let is = |step: &Step, wanted: Outcome| step.outcome == wanted;
        let strays = || steps.iter().filter(|step| !step.place.is_mapped());
        if steps.iter().any(|step| is(step, Outcome::Reached)) {
            return Verdict::NotIsolated;
        }
        let control = |step: &Step| step.place == Place::Mapped && is(step, Outcome::Arrived);
        let lost = steps.iter().any(|step| step.place == Place::Mapped && is(step, Outcome::Lost));
        let blocked = strays().count() > 0 && strays().all(|step| is(step, Outcome::Blocked));
        match steps.iter().any(control) && !lost && blocked {
            true => Verdict::Isolated,
            false => Verdict::NotShown,
        }
    }
}

impl Place {
    /// Whether something is mapped there.
    pub fn is_mapped(self) -> bool {
        matches!(self, Place::Mapped | Place::Translated)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn step(place: Place, outcome: Outcome) -> Step {
        Step { access: Access::Write, place, address: IoAddress(0x1000), outcome }
    }

    #[test]
    fn only_what_was_tried_and_told_is_proven() {
        let arrived = step(Place::Mapped, Outcome::Arrived);
        let blocked = step(Place::Behind, Outcome::Blocked);
        let untold = step(Place::Physical, Outcome::Untold);
        let of = Verdict::of;
        assert_eq!(of(&[arrived, blocked]), Verdict::Isolated);
        assert_eq!(of(&[]), Verdict::NotShown);
        assert_eq!(of(&[arrived]), Verdict::NotShown, "nothing was tried");
        assert_eq!(of(&[blocked]), Verdict::NotShown, "it may reach nothing at all");
        assert_eq!(of(&[arrived, blocked, untold]), Verdict::NotShown);
        let lost = step(Place::Mapped, Outcome::Lost);
        assert_eq!(of(&[arrived, lost, blocked]), Verdict::NotShown);
        // An engine of short reach is told in a note.
        let short = step(Place::Translated, Outcome::Lost);
        assert_eq!(of(&[arrived, short, blocked]), Verdict::Isolated);
        for place in [Place::Mapped, Place::TakenAway] {
            let reached = step(place, Outcome::Reached);
            assert_eq!(of(&[arrived, blocked, reached, untold]), Verdict::NotIsolated);
        }
    }
}
