//! The proof: what a device is made to try, and what came of it.
//!
//! ```text
//!               …│ before │ target │ behind │…   I/O addresses
//!  control        nothing   page 1   nothing      must arrive: else nothing is shown by what does not
//!  at its place   page 0 is mapped at the physical address of page 1: must arrive there, not in page 1
//!  strays         before, behind, the physical address with nothing mapped there; at last the target
//!                 itself, once its mapping is taken away: must not arrive, and the IOMMU must tell
//! ```
//! Page 1 stays mapped, and thereby where it is, while the device is aimed at its physical address: were
//! there no IOMMU in the way, it would change. The control comes first: a device whose addresses are
//! not translated does not get past it, and so writes nowhere else.

use std::sync::Arc;
use std::thread::sleep;
use std::time::{Duration, Instant};

use sriov::PciAddress;
use sriov::dma_fault::{Access, DmaFault, IoAddress, WINDOW};
use vmm::vfio::probe::Pages;

use super::engine::{Engine, PAGE, WINDOW_PAGES};
use super::step::{Outcome, Place, Step};

/// How often a device tries again whose fault was not told: the kernel limits how many it tells.
const TRIES: u32 = 3;
/// The page that is mapped; its neighbours are for what must not be reached.
const TARGET: usize = 1;
pub const COUNT: usize = 3;

/// Why a proof did not come to its end.
#[derive(Debug)]
pub enum Broken {
    /// Somebody asked for that.
    Interrupted,
    /// Something did not work, in words.
    Failed(String),
}

impl From<String> for Broken {
    fn from(cause: String) -> Broken {
        Broken::Failed(cause)
    }
}

/// What stands between a device and memory, and tells of what it blocks. What goes wrong is told in
/// words.
pub trait Gate {
    /// Lets the device reach a page at an I/O address.
    fn map(&mut self, iova: u64, pages: &Arc<Pages>, page: usize) -> Result<(), String>;

    /// Takes away what was mapped at an I/O address.
    fn unmap(&mut self, iova: u64) -> Result<(), String>;

    /// The physical address of a page that is mapped; `None` where it is not told.
    fn physical(&self, pages: &Pages, page: usize) -> Option<u64>;

    /// The faults that were told since the last call.
    fn faults(&mut self) -> Result<Vec<DmaFault>, String>;

    /// Lets the device reach nothing any more.
    fn close(&mut self) -> Result<(), String>;
}

/// How long is waited for the kernel to tell of a fault, and before it is tried again.
#[derive(Debug, Clone, Copy)]
pub struct Pace {
    told_within: Duration,
    look_again: Duration,
    pause: Duration,
}

/// A kernel tells at once, or not before the time of its limit is over.
pub const KERNEL: Pace = Pace {
    told_within: Duration::from_secs(1),
    look_again: Duration::from_millis(20),
    pause: WINDOW,
};

/// A proof under way.
pub struct Proof<'a> {
    /// The device.
    pub device: PciAddress,
    /// It. Dropped first: it keeps the device open.
    pub engine: Box<dyn Engine + 'a>,
    /// What it has to pass.
    pub gate: Box<dyn Gate + 'a>,
    /// Memory of [`COUNT`] pages.
    pub pages: Arc<Pages>,
    /// Where the page is mapped that it is to reach: see [`place`].
    pub target: u64,
    /// How long is waited.
    pub pace: Pace,
    /// Is told each step.
    pub told: &'a dyn Fn(&Step),
    /// Says whether there are to be no more.
    pub asked_to_end: &'a dyn Fn() -> bool,
    /// What was tried so far.
    pub steps: Vec<Step>,
    /// What a person should know.
    pub notes: Vec<String>,
}

impl Proof<'_> {
    /// Makes the device try, and returns what came of it, with what a person should know. The device
    /// is left without a trace of it, and closed.
    ///
    /// # Errors
    /// In words; the device may not be as it was then.
    pub fn run(mut self) -> Result<(Vec<Step>, Vec<String>), Broken> {
        self.gate.map(self.target, &self.pages, TARGET)?;
        self.aim_at_mapped(Place::Mapped, self.target, TARGET)?;
        if self.steps.iter().all(|step| step.outcome == Outcome::Arrived) {
            self.aim_elsewhere()?;
        }
        self.engine.restore()?;
        self.gate.close()?;
        Ok((self.steps, self.notes))
    }

    fn aim_elsewhere(&mut self) -> Result<(), Broken> {
        let physical = self.physical()?;
        self.stray(Place::Before, self.target - PAGE)?;
        self.stray(Place::Behind, self.target + PAGE)?;
        if let Some(physical) = physical {
            self.stray(Place::Physical, physical)?;
        }
        self.gate.unmap(self.target)?;
        self.stray(Place::TakenAway, self.target)
    }

    /// The physical address of the mapped page, if the device can be aimed at it: it gets to what is
    /// mapped there, so it would get to the page itself were nothing in the way.
    fn physical(&mut self) -> Result<Option<u64>, Broken> {
        let Some(physical) = self.gate.physical(&self.pages, TARGET) else {
            let note = "the kernel does not tell physical addresses, so none was tried";
            self.notes.push(note.to_owned());
            return Ok(None);
        };
        let ours = self.target - PAGE..self.target + (2 + WINDOW_PAGES) * PAGE;
        let address = IoAddress(physical);
        if ours.contains(&physical) || self.gate.map(physical, &self.pages, 0).is_err() {
            let note = format!(
                "the memory's physical address {address} cannot be mapped, so it was not tried"
            );
            self.notes.push(note);
            return Ok(None);
        }
        let before = self.steps.len();
        self.aim_at_mapped(Place::Translated, physical, 0)?;
        self.gate.unmap(physical)?;
        let arrived = self.steps.iter().skip(before).all(|step| step.outcome == Outcome::Arrived);
        if !arrived {
            let note = format!(
                "the device does not reach I/O address {address}, so it was not aimed there"
            );
            self.notes.push(note);
        }
        Ok(arrived.then_some(physical))
    }

    /// Aims at an I/O address where `page` is mapped.
    fn aim_at_mapped(&mut self, place: Place, address: u64, page: usize) -> Result<(), Broken> {
        for access in [Access::Write, Access::Read] {
            let Some(reached) = self.aim(access, address)? else { continue };
            let outcome = match reached.as_slice() {
                [] => Outcome::Lost,
                only if only == [page] => Outcome::Arrived,
                _ => Outcome::Reached,
            };
            self.note(Step { access, place, address: IoAddress(address), outcome });
        }
        Ok(())
    }

    /// Aims at an I/O address where nothing is mapped.
    fn stray(&mut self, place: Place, address: u64) -> Result<(), Broken> {
        for access in [Access::Write, Access::Read] {
            if let Some(outcome) = self.stray_once(access, address)? {
                self.note(Step { access, place, address: IoAddress(address), outcome });
            }
        }
        Ok(())
    }

    /// None where the device cannot be told to access memory in this way.
    fn stray_once(&mut self, access: Access, address: u64) -> Result<Option<Outcome>, Broken> {
        for left in (0..TRIES).rev() {
            // What came before is of no interest.
            self.told_of(access, address)?;
            let Some(reached) = self.aim(access, address)? else { return Ok(None) };
            if !reached.is_empty() {
                return Ok(Some(Outcome::Reached));
            }
            let end = Instant::now() + self.pace.told_within;
            loop {
                if self.told_of(access, address)? {
                    return Ok(Some(Outcome::Blocked));
                }
                if Instant::now() >= end {
                    break;
                }
                sleep(self.pace.look_again);
            }
            if left > 0 {
                // Until it tells more again.
                sleep(self.pace.pause);
            }
        }
        Ok(Some(Outcome::Untold))
    }

    /// Whether the kernel has told since the last call that the device tried this.
    fn told_of(&mut self, access: Access, address: u64) -> Result<bool, String> {
        Ok(self.gate.faults()?.iter().any(|fault| {
            let blocked = &fault.blocked;
            fault.device == self.device
                && blocked.address.0 / PAGE == address / PAGE
                && blocked.access.is_none_or(|tried| tried == access)
        }))
    }

    /// The pages that were changed, or whose content the device has; none where it cannot be told to
    /// access memory in this way.
    fn aim(&mut self, access: Access, address: u64) -> Result<Option<Vec<usize>>, Broken> {
        if (self.asked_to_end)() {
            return Err(Broken::Interrupted);
        }
        let secrets = self.fill()?;
        let mut got = None;
        match access {
            Access::Write => self.engine.write(address)?,
            Access::Read => match self.engine.read(address)? {
                Some(read) => got = Some(read),
                None => return Ok(None),
            },
        }
        let mut reached = Vec::new();
        for (page, secret) in secrets.iter().enumerate() {
            let now = self.pages.read(page * PAGE as usize, PAGE as usize);
            let is_changed = now.map_err(|error| error.to_string())? != filled_with(secret);
            if is_changed || got.as_ref().is_some_and(|got| holds(got, secret)) {
                reached.push(page);
            }
        }
        Ok(Some(reached))
    }

    /// Fills each page with a secret of its own, and returns them.
    fn fill(&self) -> Result<Vec<Secret>, String> {
        let secrets: Vec<Secret> = (0..COUNT).map(|_| secret()).collect();
        for (page, secret) in secrets.iter().enumerate() {
            let written = self.pages.write(page * PAGE as usize, &filled_with(secret));
            written.map_err(|error| error.to_string())?;
        }
        Ok(secrets)
    }

    fn note(&mut self, step: Step) {
        (self.told)(&step);
        self.steps.push(step);
    }
}

/// What a page is filled with: nobody else has it.
type Secret = [u8; 16];

fn secret() -> Secret {
    use std::hash::{BuildHasher, RandomState};
    // Keyed by the kernel's random numbers, and another each time.
    let half = |half: u8| RandomState::new().hash_one(half).to_ne_bytes();
    let mut secret = [0; 16];
    secret[..8].copy_from_slice(&half(0));
    secret[8..].copy_from_slice(&half(1));
    secret
}

fn filled_with(secret: &Secret) -> Vec<u8> {
    secret.repeat(PAGE as usize / secret.len())
}

fn holds(bytes: &[u8], secret: &Secret) -> bool {
    bytes.windows(secret.len()).any(|window| window == secret)
}

/// An I/O address, below 256 MiB since not every device reaches more, with room before it and for the
/// engine behind it. `ranges` are those that can be mapped, inclusive at both ends; none where they
/// are not known.
pub fn place(ranges: &[(u64, u64)]) -> Option<u64> {
    const STEP: u64 = 16 << 20;
    let fits = |target: &u64| {
        let (first, last) = (target - PAGE, target + (2 + WINDOW_PAGES) * PAGE - 1);
        ranges.is_empty() || ranges.iter().any(|range| range.0 <= first && last <= range.1)
    };
    (1..16).map(|step| step * STEP).find(fits)
}

#[cfg(test)]
#[path = "proof_tests.rs"]
mod tests;
