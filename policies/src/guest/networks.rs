//! `networks`: the network interfaces of a guest.

use std::fmt;

use serde::{Deserialize, Serialize};
use sriov::netlink::MacvtapMode;

use super::{CLAIM, Claim, Claims, claim};
use crate::amounts;
use crate::error::Report;
use crate::fields::Fields;
use crate::grammar::{Field, Form, Mapping, Rule, later, word};
use crate::names;

/// One network interface of a guest: a claim, a virtio device, or the one with the other to fall
/// back on. At least one of the two is there.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct GuestNetwork {
    /// Its name, unique within the guest.
    pub name: String,
    /// The pool a VF is taken from.
    pub claim: Option<Claim>,
    /// The virtio device where there is no claim or no VF for it. `None`: no VF means no start.
    pub fallback: Option<Virtio>,
    /// How many queues that has in each direction: 1 to 8, and no more than there are vCPUs.
    #[serde(default = "one")]
    pub queues: u16,
}

fn one() -> u16 {
    1
}

/// The host's end of a virtio network device. In JSON it is as in a document: `{"bridge": "br0"}`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Virtio {
    /// A TAP interface of its own on a bridge.
    Bridge {
        /// The bridge's name.
        bridge: String,
    },
    /// A macvtap interface of its own on an interface of the host.
    Macvtap {
        /// The name of the interface below.
        macvtap: String,
        /// Who hears whom among those that share it.
        mode: MacvtapMode,
    },
    /// A TAP interface that the host has already.
    Tap {
        /// Its name.
        tap: String,
    },
}

impl fmt::Display for Virtio {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Virtio::Bridge { bridge } => f.write_str(bridge),
            Virtio::Macvtap { macvtap, .. } => write!(f, "{macvtap} (macvtap)"),
            Virtio::Tap { tap } => f.write_str(tap),
        }
    }
}

/// Most queues of a virtio network; the VMM's own limit.
const MAX_NETWORK_QUEUES: u64 = 8;

const VIRTIO_FORM: &str = "{bridge: br0}, {macvtap: eth0} or {tap: tap0}";
const NETWORK_FORM: &str = "claim: {pool: lan}, or virtio: {bridge: br0}";

pub(super) static NETWORK: Mapping = Mapping {
    what: "a network",
    fields: &[
        Field::new(
            "name",
            Form::Text(names::NAME),
            "net0",
            "Its name, unique among the networks and devices of the guest.",
        )
        .needed(),
        Field::new("claim", Form::Map(&CLAIM), "{pool: lan}", "The pool it gets a device from."),
        Field::new(
            "fallback",
            Form::Map(&FALLBACK),
            "{virtio: {bridge: br0}}",
            "What it is where the pool has no device for it. Left out: then the guest does not start.",
        ),
        Field::new("virtio", Form::Map(&VIRTIO), "{bridge: br0}", "A virtio device and no claim."),
        Field::new(
            "queues",
            Form::Number(1, MAX_NETWORK_QUEUES),
            "2",
            "How many queues the virtio device has in each direction, so that as many vCPUs send and receive \
             at a time: no more than there are vCPUs. Each has a task of the host's kernel where that moves \
             the frames (vhost-net).",
        )
        .or("1"),
    ],
    rules: &[
        Rule::Apart {
            field: "virtio",
            beside: "claim",
            message: "virtio beside a claim is its fallback: write `fallback: {virtio: {bridge: …}}`",
            accepted: NETWORK_FORM,
        },
        Rule::Needs {
            field: "fallback",
            also: "claim",
            message: "`fallback` without a `claim` has nothing to stand in for: write `virtio: {bridge: …}`",
            accepted: NETWORK_FORM,
        },
        Rule::OneOf {
            fields: &["claim", "virtio", "fallback"],
            message: "a network needs `claim` or `virtio`",
            accepted: NETWORK_FORM,
        },
    ],
    later: &[later("failover", "that a virtio device stands by while it has a VF")],
};

static FALLBACK: Mapping = Mapping {
    what: "`fallback`",
    fields: &[
        Field::new("virtio", Form::Map(&VIRTIO), "{bridge: br0}", "A virtio device.").needed()
    ],
    rules: &[],
    later: &[],
};

static VIRTIO: Mapping = Mapping {
    what: "`virtio`",
    fields: &[
        Field::new(
            "bridge",
            Form::Text(names::INTERFACE),
            "br0",
            "The host's bridge that it is put on, by a TAP interface of its own.",
        ),
        Field::new(
            "macvtap",
            Form::Text(names::INTERFACE),
            "eth0",
            "The host's interface that it shares, without a bridge: by a macvtap interface of its own, which \
             has the guest's address and no other. The host itself does not reach the guest by it.",
        ),
        Field::new(
            "mode",
            Form::Words(&[
                word("bridge", "guests that share the interface reach each other at once"),
                word(
                    "vepa",
                    "they reach each other by the switch outside, if that sends frames back where they came from (802.1Qbg)",
                ),
                word("private", "they do not reach each other"),
            ]),
            "private",
            "Who hears whom among the guests that share an interface by macvtap. Left out: bridge.",
        ),
        Field::new(
            "tap",
            Form::Text(names::INTERFACE),
            "tap0",
            "A TAP interface that the host has, made to stay (`ip tuntap add`): for switches and routes that \
             are somebody else's. What it is connected to, and whether it is up, is left as it is.",
        ),
    ],
    rules: &[
        Rule::OneOf {
            fields: &["bridge", "macvtap", "tap"],
            message: "`virtio` does not say what of the host it is connected to",
            accepted: VIRTIO_FORM,
        },
        Rule::Apart {
            field: "macvtap",
            beside: "bridge",
            message: "`macvtap` is in place of a bridge",
            accepted: VIRTIO_FORM,
        },
        Rule::Apart {
            field: "tap",
            beside: "bridge",
            message: "`tap` is in place of a TAP interface of the guest's own on a bridge: the host's bridge \
                      has it already, or it has none",
            accepted: VIRTIO_FORM,
        },
        Rule::Apart {
            field: "tap",
            beside: "macvtap",
            message: "a network has one end on the host, and this has two",
            accepted: VIRTIO_FORM,
        },
        Rule::Needs {
            field: "mode",
            also: "macvtap",
            message: "`mode` is that of a macvtap interface, and this network has none",
            accepted: "macvtap beside it, {macvtap: eth0, mode: private}; or no `mode`",
        },
    ],
    later: &[],
};

/// Reads one.
pub(super) fn read(
    fields: &Fields<'_>,
    cpus: Option<u8>,
    claims: &mut Claims,
    report: &mut Report<'_>,
) -> Option<GuestNetwork> {
    let before = report.count();
    let name = claims.name(fields, report);
    let claim = fields.map("claim", report).and_then(|fields| claim(&fields, claims, report));
    let fallback = fields.map("fallback", report);
    let virtio = match fallback {
        Some(fields) => fields.map("virtio", report),
        None => fields.map("virtio", report),
    };
    let fallback = virtio.and_then(|fields| virtio_network(&fields, claims, report));
    let queues = queues(fields, cpus, report);
    (report.count() == before).then_some(GuestNetwork { name: name?, claim, fallback, queues })
}

/// What of the host a virtio network is connected to.
fn virtio_network(
    fields: &Fields<'_>,
    claims: &mut Claims,
    report: &mut Report<'_>,
) -> Option<Virtio> {
    let mut interface =
        |field| fields.has(field).then(|| fields.parsed(field, names::interface, report));
    let (bridge, macvtap, tap) = (interface("bridge"), interface("macvtap"), interface("tap"));
    let mode = fields.word("mode", report).unwrap_or_default();
    let network = match (bridge, macvtap, tap) {
        (Some(bridge), ..) => Virtio::Bridge { bridge: bridge? },
        (_, Some(macvtap), _) => Virtio::Macvtap { macvtap: macvtap?, mode },
        (_, _, tap) => Virtio::Tap { tap: tap?? },
    };
    if let Virtio::Tap { tap } = &network
        && !claims.taps.insert(tap.clone())
        && let Some(given) = fields.get("tap", report)
    {
        let message = format!("another network of this guest has {tap}, and one alone can have it");
        let form = "a TAP interface for each; or a bridge that all of them are on, {bridge: br0}";
        report.error(given.node.span, message, Some(form));
    }
    Some(network)
}

/// How many queues a network's virtio device has in a guest with so many vCPUs.
fn queues(fields: &Fields<'_>, cpus: Option<u8>, report: &mut Report<'_>) -> u16 {
    let queues: u16 = fields.number("queues", report).unwrap_or(1);
    let Some(given) = fields.get("queues", report) else { return queues };
    if !fields.has("virtio") && !fields.has("fallback") {
        let message = "`queues` are a virtio device's, and this network has none: a VF has as many as its \
                       card gives it";
        let form =
            "no `queues`; or a virtio device to fall back on, fallback: {virtio: {bridge: br0}}";
        report.error(given.node.span, message, Some(form));
    } else if let Some(cpus) = cpus.filter(|cpus| queues > u16::from(*cpus)) {
        let has = amounts::vcpus(cpus);
        let message = format!("a guest with {has} does not make use of {queues} queues");
        let form = format!("a whole number up to {cpus}; or more vCPUs, cpus: {{count: {queues}}}");
        report.error(given.node.span, message, Some(&form));
    }
    queues
}
