//! One pool of a policy: which devices are in it, and how they are set up.

use std::fmt;
use std::ops::RangeInclusive;

use serde::{Deserialize, Serialize};

use crate::document::{Node, Span};
use crate::error::{Report, quote};
use crate::network::{self, PoolNetwork};
use crate::read::{Fields, Taken, choice, name, number};
use crate::scalar::{self, VfIndexes};
use crate::selector::Selector;

/// A set of devices that guests claim from by the pool's name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pool {
    /// Its name, unique among all pools of all policies.
    pub name: String,
    /// Which functions feed it: physical functions whose VFs are in it, or the devices themselves.
    pub from: Selector,
    /// What of these functions is in it.
    pub devices: PoolDevices,
    /// How many functions must match, where that is stated.
    pub expect: Option<Expect>,
    /// The driver its devices are bound to.
    pub driver: Driver,
    /// Which free device a guest gets first.
    pub order: Order,
    /// How its VFs are set up as network cards; nothing is set for whole functions.
    pub network: PoolNetwork,
}

impl Pool {
    /// Its VFs on each matching physical function; `None` for a pool of whole functions.
    pub fn vfs(&self) -> Option<(u16, &VfIndexes)> {
        match &self.devices {
            PoolDevices::Vfs { count, indexes } => Some((*count, indexes)),
            PoolDevices::Whole => None,
        }
    }

    /// How many VFs each matching physical function is to have; `None` for whole functions.
    pub fn count(&self) -> Option<u16> {
        self.vfs().map(|(count, _)| count)
    }

    /// The indexes of its VFs in rising order; none for whole functions.
    pub fn indexes(&self) -> impl Iterator<Item = u16> + '_ {
        self.vfs().into_iter().flat_map(|(_, indexes)| indexes.iter())
    }
}

/// What of the functions that a selector finds is in a pool.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum PoolDevices {
    /// Virtual functions of each.
    Vfs {
        /// VFs to have on each matching physical function, 1 to 65,535.
        count: u16,
        /// Which of these VFs are the pool's: all below `count`.
        indexes: VfIndexes,
    },
    /// The functions themselves.
    Whole,
}

/// How many functions a selector must match.
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

/// The driver of a pool's devices.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, Default)]
#[serde(rename_all = "kebab-case")]
pub enum Driver {
    /// The kernel's generic driver for giving devices to user space.
    #[default]
    VfioPci,
    /// The vendor's variant of it where the kernel has one for the device, else vfio-pci.
    Auto,
    /// The host's own driver keeps them, and gives one up only while a guest has it.
    Host,
}

impl fmt::Display for Driver {
    /// As it is written in a policy.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Driver::VfioPci => "vfio-pci",
            Driver::Auto => "auto",
            Driver::Host => "host",
        })
    }
}

/// Which free device of a pool a guest gets first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, Default)]
#[serde(rename_all = "kebab-case")]
pub enum Order {
    /// The first by physical function and index: the others stay whole for those who need many.
    #[default]
    Pack,
    /// One of the physical function with the fewest leased devices: guests share the bandwidth.
    Spread,
}

/// A pool seen while reading, kept to find conflicts with later ones.
struct SeenPool {
    name: String,
    from: Selector,
    devices: PoolDevices,
}

/// What must not be repeated among the pools of all policies.
#[derive(Default)]
pub(crate) struct Seen {
    names: Taken,
    pools: Vec<SeenPool>,
}

const KNOWN: [&str; 9] =
    ["name", "from", "vfs", "use", "devices", "expect", "driver", "order", "network"];
const DEVICES_FORM: &str = "from: {…} and vfs: {count: 4}, or devices: {…}";

/// Reads one pool.
pub(crate) fn read(node: &Node, seen: &mut Seen, report: &mut Report<'_>) -> Option<Pool> {
    let before = report.count();
    let fields = Fields::of(node, "a pool", &KNOWN, report)?;
    let name_node = fields.need("name", "name: lan", report);
    let name = name_node.and_then(|node| name(node, "a pool's `name`", report));
    let expect = fields.get("expect", report).and_then(|node| expect(node, report));
    let drivers = [("vfio-pci", Driver::VfioPci), ("auto", Driver::Auto), ("host", Driver::Host)];
    let driver = fields.get("driver", report);
    let driver = driver.and_then(|node| choice(node, "`driver`", &drivers, report));
    let orders = [("pack", Order::Pack), ("spread", Order::Spread)];
    let order = fields.get("order", report);
    let order = order.and_then(|node| choice(node, "`order`", &orders, report));
    let network = fields.get("network", report).and_then(|node| network::read(node, report));
    let chosen = match fields.has("devices") {
        true => whole(&fields, report),
        false => vfs(&fields, report),
    };
    let fresh = match (name_node, &name) {
        (Some(node), Some(name)) => seen.names.take(name, node.span, "pool", report),
        _ => false,
    };
    let (name, (from, devices, at)) = (name?, chosen?);
    if fresh {
        conflicts(at, &name, &from, &devices, seen, report);
    }
    seen.pools.push(SeenPool { name: name.clone(), from: from.clone(), devices: devices.clone() });
    (report.count() == before).then_some(Pool {
        name,
        from,
        devices,
        expect,
        driver: driver.unwrap_or_default(),
        order: order.unwrap_or_default(),
        network: network.unwrap_or_default(),
    })
}

/// A selector, what of it is meant, and where that stands.
type Chosen = (Selector, PoolDevices, Span);

fn whole(fields: &Fields<'_>, report: &mut Report<'_>) -> Option<Chosen> {
    let node = fields.get("devices", report);
    for (name, why) in [
        ("from", "`from` selects functions for their VFs, `devices` whole functions"),
        ("vfs", "`vfs` beside `devices`: whole functions are given away as they are"),
        ("use", "`use` beside `devices`: whole functions have no VF indexes"),
        ("network", "`network` is set through a VF's physical function; whole functions have none"),
    ] {
        if let Some(at) = fields.place(name) {
            report.error(at, why, Some(DEVICES_FORM));
        }
    }
    let from = Selector::read(node?, "`devices`", report)?;
    Some((from, PoolDevices::Whole, node?.span))
}

fn vfs(fields: &Fields<'_>, report: &mut Report<'_>) -> Option<Chosen> {
    let from = fields.need("from", r#"from: {vendor: "8086", interface: eth0}"#, report);
    let from = from.and_then(|node| Selector::read(node, "`from`", report));
    let vfs = fields.need("vfs", "vfs: {count: 4}, or devices: {…} for whole functions", report);
    let count = vfs.and_then(|node| vf_count(node, report));
    let use_node = fields.get("use", report);
    let given = use_node.and_then(|node| scalar::indexes(node, report));
    if let (Some(node), Some(given), Some(count)) = (use_node, &given, count)
        && given.last() >= count
    {
        let message = format!("`use` names VF {}, but there are only {count}", given.last());
        let form = format!("indexes from 0 to {}", count - 1);
        report.error(node.span, message, Some(&form));
    }
    let (from, count) = (from?, count?);
    let indexes = given.unwrap_or_else(|| VfIndexes::first(count));
    Some((from, PoolDevices::Vfs { count, indexes }, use_node.or(vfs)?.span))
}

/// Two pools with the same selector share functions: these can have one number of VFs only, each VF
/// belongs to one pool, and what is given away whole has no VFs. Pools whose selectors merely meet
/// on a host are for the plan to judge.
fn conflicts(
    at: Span,
    name: &str,
    from: &Selector,
    devices: &PoolDevices,
    seen: &Seen,
    report: &mut Report<'_>,
) {
    for other in seen.pools.iter().filter(|other| other.from == *from) {
        let (name, others) = (quote(name), quote(&other.name));
        let both = format!("pools {others} and {name} select the same devices");
        let (message, form) = match (&other.devices, devices) {
            (PoolDevices::Whole, PoolDevices::Whole) => {
                (both + ", and a device can be in one only", "other conditions in one of them")
            }
            (PoolDevices::Whole, _) | (_, PoolDevices::Whole) => (
                both + ": one wants VFs of them, the other gives them away whole",
                "other conditions in one of them",
            ),
            (
                PoolDevices::Vfs { count: theirs, indexes: used },
                PoolDevices::Vfs { count, indexes },
            ) => {
                if theirs != count {
                    (
                        format!("{both}, but want {theirs} and {count} VFs"),
                        "the same `vfs: {count: …}` in both",
                    )
                } else if let Some(index) = used.overlap(indexes) {
                    let message = format!(
                        "VF {index} is in pool {others} already, which selects the same devices"
                    );
                    (message, "`use` with other VF indexes in each pool")
                } else {
                    continue;
                }
            }
        };
        report.error(at, message, Some(form));
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
