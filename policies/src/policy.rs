//! `kind: Policy`: pools of virtual functions, and the rules they are given away by.

use std::fmt;
use std::ops::RangeInclusive;

use serde::{Deserialize, Serialize};

use crate::document::{Node, Span};
use crate::error::{Report, quote};
use crate::read::{Fields, Taken, choice, list, name, number};
use crate::scalar::{self, VfIndexes};
use crate::selector::Selector;

/// What a host should look like.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Policy {
    /// Its name, unique among the policies given together.
    pub name: String,
    /// Its pools, in the order of the text; at least one.
    pub pools: Vec<Pool>,
    /// What is demanded before a device is given away.
    pub isolation: Isolation,
    /// What happens to devices that are no longer wanted.
    pub release: Release,
}

/// A set of VFs that guests claim from by the pool's name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pool {
    /// Its name, unique among all pools of all policies.
    pub name: String,
    /// Which physical functions feed it.
    pub from: Selector,
    /// How many physical functions must match, where that is stated.
    pub expect: Option<Expect>,
    /// VFs to have on each matching physical function, 1 to 65,535.
    pub count: u16,
    /// Which of these VFs are the pool's: all below `count`.
    pub indexes: VfIndexes,
    /// The driver its VFs are bound to.
    pub driver: Driver,
    /// How its VFs are set up as network cards.
    pub network: PoolNetwork,
}

/// How many physical functions a selector must match.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Expect {
    /// At least so many.
    pub min: u32,
    /// At most so many; `None` for no limit.
    pub max: Option<u32>,
}

impl Expect {
    /// Whether `found` is among them.
    pub fn contains(&self, found: usize) -> bool {
        let reaches = |limit: u32| usize::try_from(limit).map_or(true, |limit| found <= limit);
        usize::try_from(self.min).is_ok_and(|min| found >= min) && self.max.is_none_or(reaches)
    }
}

impl fmt::Display for Expect {
    /// "exactly 1", "1 to 4", "at least 1".
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.min, self.max) {
            (min, Some(max)) if min == max => write!(f, "exactly {min}"),
            (min, Some(max)) => write!(f, "{min} to {max}"),
            (min, None) => write!(f, "at least {min}"),
        }
    }
}

/// The driver of a pool's VFs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, Default)]
#[serde(rename_all = "kebab-case")]
pub enum Driver {
    /// The kernel's generic driver for giving devices to user space.
    #[default]
    VfioPci,
}

impl Driver {
    /// Its name in sysfs.
    pub fn name(self) -> &'static str {
        match self {
            Driver::VfioPci => "vfio-pci",
        }
    }
}

/// Settings of a pool's VFs as network cards.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, Default)]
pub struct PoolNetwork {
    /// Their Ethernet addresses.
    pub mac: MacPolicy,
}

/// Where a VF's Ethernet address comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, Default)]
#[serde(rename_all = "kebab-case")]
pub enum MacPolicy {
    /// Computed from the VF's place: the same VF has the same address on every boot.
    Derive,
    /// Whatever it has is left alone.
    #[default]
    Keep,
}

/// What is demanded before a device is given away.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, Default)]
pub struct Isolation {
    /// How an IOMMU group is treated.
    pub group: GroupIsolation,
    /// What happens on a host without an IOMMU.
    pub no_iommu: NoIommu,
}

/// How an IOMMU group is treated.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, Default)]
#[serde(rename_all = "kebab-case")]
pub enum GroupIsolation {
    /// A group goes to one guest as a whole, or not at all.
    #[default]
    Strict,
}

/// What happens on a host without an IOMMU.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, Default)]
#[serde(rename_all = "kebab-case")]
pub enum NoIommu {
    /// No device is given away.
    #[default]
    Deny,
}

/// What happens to devices that are no longer wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, Default)]
pub struct Release {
    /// What a device is given back as.
    pub restore: Restore,
}

/// What a device is given back as.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, Default)]
#[serde(rename_all = "kebab-case")]
pub enum Restore {
    /// As it was found: VF count, drivers, overrides, addresses.
    #[default]
    Original,
}

/// A pool seen while reading, kept to find conflicts with later ones.
pub(crate) struct SeenPool {
    name: String,
    from: Selector,
    count: u16,
    indexes: VfIndexes,
}

/// What must not be repeated within the files given together.
#[derive(Default)]
pub(crate) struct Seen {
    names: Taken,
    pool_names: Taken,
    pools: Vec<SeenPool>,
}

/// Most pools of one policy.
const MAX_POOLS: usize = 256;

const POOL_FIELDS: [&str; 7] = ["name", "from", "expect", "vfs", "use", "driver", "network"];
const POOLS_FORM: &str = r#"- {name: lan, from: {interface: eth0}, vfs: {count: 4}}"#;

/// Reads the `spec` of a policy whose name is read already.
pub(crate) fn read(
    named: Option<(String, Span)>,
    spec: Option<&Node>,
    seen: &mut Seen,
    report: &mut Report<'_>,
) -> Option<Policy> {
    let before = report.count();
    if let Some((name, at)) = &named {
        seen.names.take(name, *at, "policy", report);
    }
    let spec = Fields::of(spec?, "a policy's `spec`", &["pools", "isolation", "release"], report)?;
    let mut pools = Vec::new();
    if let Some(node) = spec.need("pools", POOLS_FORM, report) {
        for item in list(node, "`pools`", MAX_POOLS, POOLS_FORM, report) {
            pools.extend(pool(item, seen, report));
        }
    }
    if let Some(node) = spec.get("isolation", report) {
        isolation(node, report);
    }
    if let Some(node) = spec.get("release", report)
        && let Some(fields) = Fields::of(node, "`release`", &["restore"], report)
        && let Some(node) = fields.get("restore", report)
    {
        choice(node, "`restore`", &[("original", ())], report);
    }
    if report.count() != before {
        return None;
    }
    let (name, _) = named?;
    Some(Policy { name, pools, isolation: Isolation::default(), release: Release::default() })
}

/// Each of these has one accepted value so far, so there is nothing to return.
fn isolation(node: &Node, report: &mut Report<'_>) {
    let Some(fields) = Fields::of(node, "`isolation`", &["group", "noIommu"], report) else {
        return;
    };
    if let Some(node) = fields.get("group", report) {
        choice(node, "`group`", &[("strict", ())], report);
    }
    if let Some(node) = fields.get("noIommu", report) {
        choice(node, "`noIommu`", &[("deny", ())], report);
    }
}

fn pool(node: &Node, seen: &mut Seen, report: &mut Report<'_>) -> Option<Pool> {
    let before = report.count();
    let fields = Fields::of(node, "a pool", &POOL_FIELDS, report)?;
    let name_node = fields.need("name", "name: lan", report);
    let name = name_node.and_then(|node| name(node, "a pool's `name`", report));
    let from = fields.need("from", r#"from: {vendor: "8086", interface: eth0}"#, report);
    let from = from.and_then(|node| Selector::read(node, report));
    let expect = fields.get("expect", report).and_then(|node| expect(node, report));
    let vfs = fields.need("vfs", "vfs: {count: 4}", report);
    let count = vfs.and_then(|node| vf_count(node, report));
    let use_node = fields.get("use", report);
    let given = use_node.and_then(|node| scalar::indexes(node, report));
    if let Some(node) = fields.get("driver", report) {
        choice(node, "`driver`", &[("vfio-pci", ())], report);
    }
    let network = fields.get("network", report).and_then(|node| network(node, report));
    let fresh = match (name_node, &name) {
        (Some(node), Some(name)) => seen.pool_names.take(name, node.span, "pool", report),
        _ => false,
    };
    if let (Some(node), Some(given), Some(count)) = (use_node, &given, count)
        && given.last() >= count
    {
        let message = format!("`use` names VF {}, but there are only {count}", given.last());
        let form = format!("indexes from 0 to {}", count - 1);
        report.error(node.span, message, Some(&form));
    }
    let (name, from, count) = (name?, from?, count?);
    let indexes = given.unwrap_or_else(|| VfIndexes::first(count));
    if fresh {
        conflicts(use_node.or(vfs)?.span, &name, &from, count, &indexes, seen, report);
    }
    seen.pools.push(SeenPool {
        name: name.clone(),
        from: from.clone(),
        count,
        indexes: indexes.clone(),
    });
    let network = network.unwrap_or_default();
    (report.count() == before).then_some(Pool {
        name,
        from,
        expect,
        count,
        indexes,
        driver: Driver::VfioPci,
        network,
    })
}

/// Two pools with the same selector share physical functions: these can have one number of VFs
/// only, and each VF belongs to one pool. Pools whose selectors merely meet on a host are for the
/// plan to judge.
fn conflicts(
    at: Span,
    name: &str,
    from: &Selector,
    count: u16,
    indexes: &VfIndexes,
    seen: &Seen,
    report: &mut Report<'_>,
) {
    for other in seen.pools.iter().filter(|other| other.from == *from) {
        let (name, others) = (quote(name), quote(&other.name));
        if other.count != count {
            let message = format!(
                "pools {others} and {name} select the same devices, but want {} and {count} VFs",
                other.count
            );
            report.error(at, message, Some("the same `vfs: {count: …}` in both"));
        } else if let Some(index) = other.indexes.overlap(indexes) {
            let message =
                format!("VF {index} is in pool {others} already, which selects the same devices");
            report.error(at, message, Some("`use` with other VF indexes in each pool"));
        }
    }
}

fn expect(node: &Node, report: &mut Report<'_>) -> Option<Expect> {
    const RANGE: RangeInclusive<u64> = 0..=65_536;
    let fields = Fields::of(node, "`expect`", &["min", "max"], report)?;
    let before = report.count();
    let mut read = |name: &str| {
        let value = number(fields.get(name, report)?, &format!("`{name}`"), RANGE, report)?;
        u32::try_from(value).ok()
    };
    let (min, max) = (read("min"), read("max"));
    if report.count() != before {
        return None;
    }
    if min.is_none() && max.is_none() {
        report.error(node.span, "`expect` expects nothing", Some("{min: 1, max: 1}"));
        return None;
    }
    let min = min.unwrap_or(0);
    if let Some(max) = max.filter(|max| *max < min) {
        let message = format!("`expect` can never be met: `min` is {min} and `max` is {max}");
        report.error(node.span, message, Some("`min` not above `max`"));
        return None;
    }
    Some(Expect { min, max })
}

fn vf_count(node: &Node, report: &mut Report<'_>) -> Option<u16> {
    let fields = Fields::of(node, "`vfs`", &["count"], report)?;
    let node = fields.need("count", "count: 4", report)?;
    let count = number(node, "`count`", 1..=u64::from(u16::MAX), report)?;
    u16::try_from(count).ok()
}

fn network(node: &Node, report: &mut Report<'_>) -> Option<PoolNetwork> {
    let fields = Fields::of(node, "a pool's `network`", &["mac"], report)?;
    let node = fields.get("mac", report)?;
    let choices = [("derive", MacPolicy::Derive), ("keep", MacPolicy::Keep)];
    let mac = choice(node, "`mac`", &choices, report)?;
    Some(PoolNetwork { mac })
}
