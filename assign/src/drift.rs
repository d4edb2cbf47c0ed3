//! How a host differs from policies, attribute by attribute: a pure function of both, which needs no
//! plan to be possible. What a plan would refuse is compared all the same.
//!
//! A fact that could not be read is no difference: it is looked at again, and told as unknown if it
//! still cannot be read. A difference is told once two looks agree on it: some drivers answer with
//! nothing while they reset.

use std::collections::BTreeSet;

use ::policies::{Driver, Policy, Pool, PoolDevices};
use serde::Serialize;
use sriov::isolation::is_vfio_driver;
use sriov::{Change, HostSnapshot, PciAddress, PciFunction, PfFacts, Target, VfRef};

use crate::plan::mac::Macs;
use crate::plan::{Plan, candidates};
use crate::state::Applied;

mod steps;
mod unread;
mod vf;

use unread::Unread;

/// How often the host is looked at for one comparison, at most.
const MOST_LOOKS: usize = 3;

/// What may differ. The words are stable.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Attribute {
    /// Which devices feed a pool.
    Devices,
    /// How many VFs a PF has.
    VfCount,
    /// Whether a VF is there.
    Vf,
    /// Whether the PF's interface is up.
    Link,
    /// Whether the host binds drivers to new VFs.
    Autoprobe,
    /// A device's driver.
    Driver,
    /// Which driver alone may have it.
    Override,
    /// A VF's address.
    Mac,
    /// A VF's VLAN.
    Vlan,
    /// Whether a VF is trusted.
    Trust,
    /// Whether a VF's sender addresses are checked.
    SpoofCheck,
    /// Whether a VF's link follows the PF's.
    LinkState,
    /// How fast a VF may send.
    Rate,
    /// A VF's MSI-X vectors.
    Msix,
    /// What a drive has of what it shares with its VFs.
    Share,
    /// An NVMe VF's controller.
    Controller,
}

impl Attribute {
    /// For a sentence: "its … is".
    pub fn name(self) -> &'static str {
        match self {
            Attribute::Devices => "number of devices",
            Attribute::VfCount => "number of VFs",
            Attribute::Vf => "VF",
            Attribute::Link => "link",
            Attribute::Autoprobe => "drivers for new VFs",
            Attribute::Driver => "driver",
            Attribute::Override => "driver override",
            Attribute::Mac => "address",
            Attribute::Vlan => "VLAN",
            Attribute::Trust => "trust",
            Attribute::SpoofCheck => "spoof check",
            Attribute::LinkState => "link state",
            Attribute::Rate => "rate",
            Attribute::Msix => "number of MSI-X vectors",
            Attribute::Share => "its share",
            Attribute::Controller => "controller",
        }
    }
}

/// One thing that is not as it should be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Difference {
    /// The policy that says how it should be.
    pub policy: String,
    /// Its pool.
    pub pool: Option<String>,
    /// The device; the pool where it is about which devices there are.
    pub device: String,
    /// What of it.
    pub attribute: Attribute,
    /// How it is.
    pub is: String,
    /// How it should be.
    pub should: String,
}

/// One thing that could not be read.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Unknown {
    /// The policy that says how it should be.
    pub policy: String,
    /// Its pool.
    pub pool: Option<String>,
    /// The device.
    pub device: String,
    /// What of it.
    pub attribute: Attribute,
    /// Why it could not be read.
    pub cause: String,
}

/// What one comparison found.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Drift {
    /// What differs, policy by policy in their order.
    pub differences: Vec<Difference>,
    /// What could not be compared.
    pub unknown: Vec<Unknown>,
}

impl Drift {
    /// Whether all is as it should be, and could be seen to be.
    pub fn is_none(&self) -> bool {
        self.differences.is_empty() && self.unknown.is_empty()
    }

    fn has(&self, device: &str, attribute: Attribute) -> bool {
        let same = |one: &Difference| one.device == device && one.attribute == attribute;
        self.differences.iter().any(same)
    }

    fn is_unknown(&self, device: &str, attribute: Attribute) -> bool {
        self.unknown.iter().any(|one| one.device == device && one.attribute == attribute)
    }
}

/// Compares what `look` reads until two looks in a row agree, at most three times; `wait` is called in
/// between. What the last look found and none before is not told: it may be passing.
pub fn confirmed<T>(mut look: impl FnMut() -> (Drift, T), mut wait: impl FnMut()) -> (Drift, T) {
    let (mut before, mut seen) = look();
    let mut earlier = Vec::new();
    for _ in 1..MOST_LOOKS {
        if before.is_none() {
            break;
        }
        wait();
        let (now, saw) = look();
        seen = saw;
        earlier.push(std::mem::replace(&mut before, now));
        let last = earlier.last();
        if last.is_some_and(|last| last.differences == before.differences)
            && before.unknown.is_empty()
        {
            break;
        }
    }
    let was_there = |one: &Difference| {
        earlier.is_empty() || earlier.iter().any(|look| look.has(&one.device, one.attribute))
    };
    before.differences.retain(was_there);
    (before, seen)
}

/// Compares one snapshot with policies. `applied` tells what was done for them on this boot; `plan`
/// is the plan for them on this snapshot, for what only a plan knows.
pub fn compare(
    host: &HostSnapshot,
    policies: &[Policy],
    applied: &[Applied],
    plan: &Plan,
) -> Drift {
    let mut drift = Drift::default();
    let (unread, macs) = (Unread::of(host), Macs::of(host));
    let now: Vec<&Applied> =
        applied.iter().filter(|applied| applied.boot_id == host.platform.boot_id).collect();
    let bound: BTreeSet<Target> = now.iter().flat_map(|applied| applied.bound()).collect();
    let autoprobed = now.iter().flat_map(|applied| applied.autoprobed()).collect();
    for policy in policies {
        for pool in &policy.pools {
            let (macs, bound, autoprobed, unread) = (&macs, &bound, &autoprobed, &unread);
            let at = At { host, macs, policy, pool, bound, autoprobed, unread };
            at.compare(&mut drift);
        }
    }
    steps::add(host, plan, &mut drift);
    drift
}

/// Where in the policies the comparison is.
struct At<'a> {
    host: &'a HostSnapshot,
    macs: &'a Macs<'a>,
    policy: &'a Policy,
    pool: &'a Pool,
    /// Devices that were bound for a policy on this boot.
    bound: &'a BTreeSet<Target>,
    /// PFs whose new VFs the host bound drivers to before.
    autoprobed: &'a BTreeSet<PciAddress>,
    unread: &'a Unread<'a>,
}

/// One fact: how it is and should be, or why it is not known.
enum Fact {
    Same,
    Differs { is: String, should: String },
    Unknown(String),
}

impl Fact {
    fn of(is: impl ToString, should: impl ToString) -> Fact {
        let (is, should) = (is.to_string(), should.to_string());
        if is == should { Fact::Same } else { Fact::Differs { is, should } }
    }
}

impl At<'_> {
    fn compare(&self, drift: &mut Drift) {
        let found = candidates::find(self.host, self.pool);
        self.devices(&found.accepted.len(), &found, drift);
        for address in &found.accepted {
            let Some(function) = self.host.function(*address) else { continue };
            match (&self.pool.devices, &function.sriov) {
                (PoolDevices::Vfs { count, .. }, Some(facts)) => {
                    self.pf(function, facts, *count, drift);
                }
                (PoolDevices::Vfs { .. }, None) => {}
                (PoolDevices::Whole, _) => {
                    self.driver(Target::Function(*address), function, drift);
                }
            }
        }
    }

    fn tell(&self, device: impl ToString, attribute: Attribute, fact: Fact, drift: &mut Drift) {
        let (policy, pool) = (self.policy.name.clone(), Some(self.pool.name.clone()));
        let device = device.to_string();
        match fact {
            Fact::Same => {}
            // Two pools of one PF say the same of it.
            Fact::Differs { .. } if drift.has(&device, attribute) => {}
            Fact::Differs { is, should } => {
                drift.differences.push(Difference { policy, pool, device, attribute, is, should });
            }
            Fact::Unknown(cause) => {
                drift.unknown.push(Unknown { policy, pool, device, attribute, cause });
            }
        }
    }

    /// Devices that are missing, or more than were expected.
    fn devices(&self, found: &usize, all: &candidates::Candidates, drift: &mut Drift) {
        let expected = match &self.pool.expect {
            Some(expect) if expect.contains(*found) => return,
            Some(expect) => expect.to_string(),
            None if *found > 0 => return,
            None => "at least 1".to_owned(),
        };
        let names: Vec<String> = all.accepted.iter().map(ToString::to_string).collect();
        let is = match names.is_empty() {
            true => "0".to_owned(),
            false => format!("{found} ({})", names.join(", ")),
        };
        let fact = match self.unread.any_device(self.host) {
            // The one that is missed may be one that could not be read.
            Some(cause) => Fact::Unknown(cause),
            None => Fact::Differs { is, should: expected },
        };
        self.tell(format!("pool {}", self.pool.name), Attribute::Devices, fact, drift);
    }

    fn pf(&self, pf: &PciFunction, facts: &PfFacts, count: u16, drift: &mut Drift) {
        let device = pf.address;
        let fact = match self.unread.of_function(device, &["sriov_numvfs"]) {
            Some(cause) => Fact::Unknown(cause),
            None => Fact::of(facts.present, count),
        };
        self.tell(device, Attribute::VfCount, fact, drift);
        self.link(pf, drift);
        if let Some(fact) = self.autoprobe(pf, facts) {
            self.tell(device, Attribute::Autoprobe, fact, drift);
        }
        for index in self.pool.indexes() {
            let vf = VfRef { pf: device, index };
            let function = facts.vfs.get(&index).and_then(|at| self.host.function(*at));
            match function {
                Some(function) => {
                    self.driver(Target::Vf(vf), function, drift);
                    self.settings(pf, facts, vf, drift);
                }
                // That there are others than wanted is told already.
                None if facts.present != count => {}
                None => {
                    let fact = match self.unread.any_device(self.host) {
                        Some(cause) => Fact::Unknown(cause),
                        None => Fact::of("missing", "there"),
                    };
                    self.tell(vf, Attribute::Vf, fact, drift);
                }
            }
        }
    }

    fn link(&self, pf: &PciFunction, drift: &mut Drift) {
        let word = |up: bool| if up { "up" } else { "down" };
        let Some(port) = self.host.port_of(pf) else { return };
        let fact = match self.unread.of_interface(&port.name, "flags") {
            Some(cause) => Fact::Unknown(cause),
            None => Fact::of(word(port.up), word(true)),
        };
        self.tell(pf.address, Attribute::Link, fact, drift);
    }

    /// A policy leaves it as it found it; nobody else is to have changed it since.
    fn autoprobe(&self, pf: &PciFunction, facts: &PfFacts) -> Option<Fact> {
        if !self.autoprobed.contains(&pf.address) {
            return None;
        }
        Some(match self.unread.of_function(pf.address, &["sriov_drivers_autoprobe"]) {
            Some(cause) => Fact::Unknown(cause),
            None => Fact::of(if facts.autoprobe { "on" } else { "off" }, "on"),
        })
    }

    /// The driver, and the override that keeps it.
    fn driver(&self, device: Target, function: &PciFunction, drift: &mut Drift) {
        if let Some(cause) = self.unread.of_function(function.address, &["driver"]) {
            self.tell(device, Attribute::Driver, Fact::Unknown(cause), drift);
            return;
        }
        let has = function.driver.as_deref();
        let wanted = match (self.pool.driver, has) {
            // The host's own, whichever that is; a guest has it in between.
            (Driver::Host, _) => return,
            (Driver::Auto, Some(driver)) if is_vfio_driver(driver) => driver,
            (Driver::Auto, _) => "vfio-pci or its variant",
            (Driver::VfioPci, _) => "vfio-pci",
        };
        if has != Some(wanted) {
            let is = sriov::act::bind::binding(function);
            self.tell(device, Attribute::Driver, Fact::of(is, wanted), drift);
            return;
        }
        let fact = match (
            &function.driver_override,
            self.unread.of_function(function.address, &["driver_override"]),
        ) {
            (_, Some(cause)) => Fact::Unknown(cause),
            (Some(name), None) => Fact::of(name, wanted),
            // One that had its driver beforehand had it by other means.
            (None, None) if self.bound.contains(&device) => Fact::of("none", wanted),
            (None, None) => Fact::Same,
        };
        self.tell(device, Attribute::Override, fact, drift);
    }
}

/// The attribute that a step is about; nothing for steps that only prepare others.
fn attribute_of(change: &Change) -> Option<Attribute> {
    use sriov::VfSetting;
    Some(match change.plain() {
        Change::SetVfCount { .. } => Attribute::VfCount,
        Change::SetLink { .. } => Attribute::Link,
        Change::SetVfMac { .. } => Attribute::Mac,
        Change::Bind { .. } => Attribute::Driver,
        Change::Restore { from, to, .. } if from.driver == to.driver => Attribute::Override,
        Change::Restore { .. } | Change::Yield { .. } | Change::Retake { .. } => Attribute::Driver,
        Change::SetNvmePrimary { .. } => Attribute::Share,
        Change::SetNvmeSecondary { .. } => Attribute::Controller,
        Change::SetAutoprobe { .. } => Attribute::Autoprobe,
        Change::SetVf { setting, .. } => match setting {
            VfSetting::Vlan(_) => Attribute::Vlan,
            VfSetting::Trust(_) => Attribute::Trust,
            VfSetting::SpoofCheck(_) => Attribute::SpoofCheck,
            VfSetting::LinkState(_) => Attribute::LinkState,
            VfSetting::Rate(_) => Attribute::Rate,
            VfSetting::Msix(_) => Attribute::Msix,
        },
        Change::SetAcceptRa { .. }
        | Change::RememberVf { .. }
        | Change::RemakeVf { .. }
        | Change::Forced { .. } => return None,
    })
}
