//! One pool of a policy: which devices are in it, and how they are set up.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::document::Span;
use crate::error::{Report, quote};
use crate::fields::Fields;
use crate::grammar::{Field, Form, Mapping, Rule, word};
use crate::indexes::{self, VfIndexes};
use crate::names;
use crate::network::{self, PoolNetwork};
use crate::read::Taken;
use crate::selector::{self, Selector};

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
    /// Whether it may be that no function matches.
    may_be_empty: bool,
}

/// What must not be repeated among the pools of all policies.
#[derive(Default)]
pub(crate) struct Seen {
    names: Taken,
    pools: Vec<SeenPool>,
}

const DEVICES_FORM: &str = "from: {…} and vfs: {count: 4}, or devices: {…} for whole functions";

/// A pool.
pub(crate) static POOL: Mapping = Mapping {
    what: "a pool",
    fields: &[
        Field::new(
            "name",
            Form::Text(names::NAME),
            "lan",
            "The name guests claim by; unique among all pools of all policies.",
        )
        .needed(),
        Field::new(
            "from",
            Form::Map(&selector::FROM),
            "{interface: eth0}",
            "Which physical functions feed the pool with their VFs: all conditions must hold.",
        ),
        Field::new(
            "vfs",
            Form::Map(&VFS),
            "{count: 4}",
            "The VFs to have on each of these physical functions.",
        ),
        Field::new(
            "use",
            Form::NumberOr(indexes::INDEXES),
            r#""0-3""#,
            "Which of the VFs are in this pool, by index from 0. Left out: all. Pools of one physical \
             function must not overlap.",
        ),
        Field::new(
            "devices",
            Form::Map(&selector::DEVICES),
            r#"{vendor: "10de", class: "0302"}"#,
            "Whole functions for the pool, instead of VFs: all conditions must hold.",
        ),
        Field::new(
            "expect",
            Form::Map(&EXPECT),
            "{min: 1, max: 1}",
            "How many functions must match; another number is an error, not a surprise. Left out: at \
             least 1.",
        ),
        Field::new(
            "driver",
            Form::Words(&[
                word("vfio-pci", "the kernel's generic driver for guests"),
                word("auto", "the vendor's variant of it where there is one, else vfio-pci"),
                word("host", "the host's own driver, except while a guest has the device"),
            ]),
            "vfio-pci",
            "The driver that the devices are bound to.",
        )
        .or("vfio-pci"),
        Field::new(
            "order",
            Form::Words(&[
                word("pack", "the first by physical function and index"),
                word("spread", "one of the physical function with the fewest leased devices"),
            ]),
            "pack",
            "Which free device a guest gets first.",
        )
        .or("pack"),
        Field::new(
            "network",
            Form::Map(&network::NETWORK),
            "{mac: derive}",
            "How the VFs are set up as network cards. It is set through their physical function, \
             before a guest starts, and a guest cannot change it.",
        ),
    ],
    rules: &[
        Rule::Apart {
            field: "from",
            beside: "devices",
            message: "`from` selects functions for their VFs, `devices` whole functions",
            accepted: DEVICES_FORM,
        },
        Rule::Apart {
            field: "vfs",
            beside: "devices",
            message: "`vfs` beside `devices`: whole functions are given away as they are",
            accepted: DEVICES_FORM,
        },
        Rule::Apart {
            field: "use",
            beside: "devices",
            message: "`use` beside `devices`: whole functions have no VF indexes",
            accepted: DEVICES_FORM,
        },
        Rule::Apart {
            field: "network",
            beside: "devices",
            message: "`network` is set through a VF's physical function, and whole functions have none",
            accepted: DEVICES_FORM,
        },
        Rule::Needs {
            field: "from",
            also: "vfs",
            message: "a pool with `from` needs `vfs`",
            accepted: "vfs: {count: 4}, or devices: {…} instead of `from` for whole functions",
        },
        Rule::Needs {
            field: "vfs",
            also: "from",
            message: "a pool with `vfs` needs `from`: whose VFs?",
            accepted: "from: {interface: eth0}",
        },
        Rule::Needs {
            field: "use",
            also: "vfs",
            message: "`use` names VFs, and there is no `vfs`",
            accepted: "vfs: {count: 4}",
        },
        Rule::OneOf {
            fields: &["from", "vfs", "devices"],
            message: "a pool needs `from` and `vfs`, or `devices`",
            accepted: DEVICES_FORM,
        },
    ],
    later: &[],
};

static VFS: Mapping = Mapping {
    what: "`vfs`",
    fields: &[Field::new(
        "count",
        Form::Number(1, u16::MAX as u64),
        "4",
        "How many VFs each physical function is to have.",
    )
    .needed()],
    rules: &[],
    later: &[],
};

static EXPECT: Mapping = Mapping {
    what: "`expect`",
    fields: &[
        Field::new("min", Form::Number(0, MOST_FUNCTIONS), "1", "At least so many."),
        Field::new("max", Form::Number(0, MOST_FUNCTIONS), "1", "At most so many."),
    ],
    rules: &[Rule::NotEmpty { message: "`expect` expects nothing", accepted: "{min: 1, max: 1}" }],
    later: &[],
};

/// Functions of a PCI domain.
const MOST_FUNCTIONS: u64 = 65_536;

/// Reads one pool.
pub(crate) fn read(fields: &Fields<'_>, seen: &mut Seen, report: &mut Report<'_>) -> Option<Pool> {
    let before = report.count();
    let name = fields.parsed("name", names::name, report);
    let expect = fields.map("expect", report).and_then(|fields| expect(&fields, report));
    let driver = fields.word("driver", report).unwrap_or_default();
    let order = fields.word("order", report).unwrap_or_default();
    let network = fields.map("network", report).map(|fields| network::read(&fields, report));
    let from = fields.map("from", report).and_then(|fields| Selector::read(&fields, report));
    let vfs = fields.get("vfs", report);
    let count = vfs.and_then(|given| given.fields(report)?.number::<u16>("count", report));
    let used = fields.get("use", report);
    let given = used.and_then(|given| indexes::read(given, report));
    if let (Some(used), Some(indexes), Some(count)) = (used, &given, count)
        && indexes.last() >= count
    {
        let message = format!("`use` names VF {}, but there are only {count}", indexes.last());
        let form = format!("indexes from 0 to {}", count - 1);
        report.error(used.node.span, message, Some(&form));
    }
    let whole = fields.get("devices", report);
    let (from, devices, at) = match (whole, from, count) {
        (Some(whole), ..) => {
            let from = Selector::read(&whole.fields(report)?, report);
            (from, PoolDevices::Whole, whole.node.span)
        }
        (None, from, Some(count)) => {
            let indexes = given.unwrap_or_else(|| VfIndexes::first(count));
            (from, PoolDevices::Vfs { count, indexes }, used.or(vfs)?.node.span)
        }
        (None, from, None) => (from, PoolDevices::Whole, fields.at),
    };
    let fresh = fields
        .get("name", report)
        .zip(name.as_ref())
        .is_some_and(|(given, name)| seen.names.take(name, given.node.span, "pool", report));
    let (name, from) = (name?, from?);
    if vfs.is_none() && whole.is_none() {
        return None;
    }
    let may_be_empty = expect.is_some_and(|expect| expect.min == 0);
    let own = SeenPool { name, from, devices, may_be_empty };
    if fresh {
        own.conflicts(at, seen, report);
    }
    let SeenPool { name, from, devices, .. } = &own;
    let pool = Pool {
        name: name.clone(),
        from: from.clone(),
        devices: devices.clone(),
        expect,
        driver,
        order,
        network: network.unwrap_or_default(),
    };
    seen.pools.push(own);
    (report.count() == before).then_some(pool)
}

impl SeenPool {
    /// Pools that have functions in common whatever the host is: those of one are all of the
    /// other's. A function can have one number of VFs only, each VF is in one pool, and what is
    /// given away whole has no VFs. Pools whose selectors merely meet on a host are for the plan to
    /// judge.
    fn conflicts(&self, at: Span, seen: &Seen, report: &mut Report<'_>) {
        for other in &seen.pools {
            let (name, others) = (quote(&self.name), quote(&other.name));
            let both = if self.from == other.from {
                format!("pools {others} and {name} select the same devices")
            } else if self.from.implies(&other.from) && !self.may_be_empty {
                format!("all that pool {name} selects is pool {others}'s as well")
            } else if other.from.implies(&self.from) && !other.may_be_empty {
                format!("pool {name} selects all that pool {others} does")
            } else {
                continue;
            };
            let (message, form) = match (&other.devices, &self.devices) {
                (PoolDevices::Whole, PoolDevices::Whole) => {
                    (both + ", and a device is in one only", "conditions that keep them apart")
                }
                (PoolDevices::Whole, _) | (_, PoolDevices::Whole) => (
                    both + ": one wants VFs of them, the other gives them away whole",
                    "conditions that keep them apart",
                ),
                (
                    PoolDevices::Vfs { count: theirs, indexes: used },
                    PoolDevices::Vfs { count, indexes },
                ) => {
                    if theirs != count {
                        (
                            format!("{both}, but they want {theirs} and {count} VFs"),
                            "the same `vfs: {count: …}` in both",
                        )
                    } else if let Some(index) = used.overlap(indexes) {
                        (
                            format!("{both}, and VF {index} is in both"),
                            "`use` with other VF indexes in each pool",
                        )
                    } else {
                        continue;
                    }
                }
            };
            report.error(at, message, Some(form));
        }
    }
}

fn expect(fields: &Fields<'_>, report: &mut Report<'_>) -> Option<Expect> {
    let before = report.count();
    let (min, max) = (fields.number("min", report), fields.number("max", report));
    let min: u32 = min.unwrap_or(0);
    if let Some(max) = max.filter(|max| *max < min) {
        let message = format!("`expect` can never be met: `min` is {min} and `max` is {max}");
        report.error(fields.at, message, Some("`min` not above `max`"));
    }
    (report.count() == before).then_some(Expect { min, max })
}
