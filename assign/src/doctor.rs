//! What is in the way, and what to do about it: a pure function of facts.
//!
//! ```text
//! HostSnapshot ─┐
//! leases ───────┼─► host()   ─► findings of this machine
//! state ────────┘   device() ─► findings of one device, its verdict, the first command
//! ```
//!
//! A finding is *ok*, a *warning* (it works, and somebody should know) or a *problem* (it does not
//! work, or is not safe). Each shows what it was concluded from. What cannot be told from the
//! facts, as in a recorded tree, is no finding, or says that it is unknown.

use serde::Serialize;
use sriov::HostSnapshot;
use sriov::facts::platform::{Category, Kind};

use crate::state::Lease;

mod cpu;
mod device;
mod io;
mod memory;
mod surroundings;

pub use device::{Diagnosis, Verdict, device};

/// How bad it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Level {
    /// As it should be.
    Ok,
    /// It works, and somebody should know.
    Warning,
    /// It does not work, or is not safe.
    Problem,
}

impl Level {
    /// The word for it.
    pub fn word(self) -> &'static str {
        match self {
            Level::Ok => "ok",
            Level::Warning => "warning",
            Level::Problem => "problem",
        }
    }
}

/// One thing that was looked at.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// What was looked at, for programs: a stable word.
    pub id: &'static str,
    /// How bad it is.
    pub level: Level,
    /// What was found, in a few words.
    pub title: String,
    /// What it was concluded from.
    pub evidence: String,
    /// What to do about it: sentences; none where nothing is to be done.
    pub remedy: Option<String>,
}

impl Finding {
    fn ok(id: &'static str, title: impl Into<String>, evidence: impl Into<String>) -> Finding {
        Finding {
            id,
            level: Level::Ok,
            title: title.into(),
            evidence: evidence.into(),
            remedy: None,
        }
    }

    fn warning(
        id: &'static str,
        title: impl Into<String>,
        evidence: impl Into<String>,
        remedy: impl Into<String>,
    ) -> Finding {
        let level = Level::Warning;
        Finding { level, remedy: Some(remedy.into()), ..Finding::ok(id, title, evidence) }
    }

    fn problem(
        id: &'static str,
        title: impl Into<String>,
        evidence: impl Into<String>,
        remedy: impl Into<String>,
    ) -> Finding {
        let level = Level::Problem;
        Finding { level, ..Finding::warning(id, title, evidence, remedy) }
    }
}

/// What a diagnosis goes by.
#[derive(Debug, Clone, Copy)]
pub struct Facts<'a> {
    /// The host, read whole.
    pub snapshot: &'a HostSnapshot,
    /// Who has which device; empty where nothing is remembered.
    pub leases: &'a [Lease],
    /// Where things are remembered; `None` where it is not of this host.
    pub state: Option<&'a StateDirectory>,
}

/// The state directory, as far as this process may use it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StateDirectory {
    /// Where it is, or would be.
    pub path: String,
    /// Why nothing can be written there.
    pub error: Option<String>,
}

impl<'a> Facts<'a> {
    /// The first sign that this runs on something of a category.
    fn runs_on(self, category: Category) -> Option<&'a sriov::facts::platform::Finding> {
        let mut found = self.snapshot.platform.runs_on.iter();
        // Xen's dom0 has the devices, whatever runs beneath.
        let dom0 = self.runs_on_kind(Kind::XenDom0).is_some();
        let is_it = |kind: Kind| kind.category() == category;
        found.find(|found| is_it(found.kind) && !(dom0 && category == Category::Virtual))
    }

    fn runs_on_kind(self, kind: Kind) -> Option<&'a sriov::facts::platform::Finding> {
        self.snapshot.platform.runs_on.iter().find(|found| found.kind == kind)
    }

    fn is_root(self) -> bool {
        self.snapshot.platform.process.is_some_and(|process| process.is_root())
    }
}

/// Everything about the machine, in the order in which things build on each other.
pub fn host(facts: Facts) -> Vec<Finding> {
    let mut found = surroundings::platform(facts);
    found.extend(cpu::findings(facts));
    found.extend(io::findings(facts));
    found.extend(memory::findings(facts));
    found.extend(surroundings::findings(facts));
    found
}

/// The worst of them; ok where there is none.
pub fn worst<'a>(findings: impl IntoIterator<Item = &'a Finding>) -> Level {
    findings.into_iter().map(|finding| finding.level).max().unwrap_or(Level::Ok)
}
