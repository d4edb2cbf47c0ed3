//! `networks`: the network interfaces of a guest.

use serde::{Deserialize, Serialize};

use super::{CLAIM, Claim, Claims, claim};
use crate::error::Report;
use crate::fields::Fields;
use crate::grammar::{Field, Form, Mapping, Rule, later};
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

/// A virtio network device.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Virtio {
    /// Name of the host's bridge its TAP interface is put on.
    pub bridge: String,
}

/// Most queues of a virtio network; the VMM's own limit.
const MAX_NETWORK_QUEUES: u64 = 8;

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
    fields: &[Field::new(
        "bridge",
        Form::Text(names::INTERFACE),
        "br0",
        "The host's bridge that it is put on.",
    )
    .needed()],
    rules: &[],
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
    let fallback = virtio.and_then(|fields| {
        Some(Virtio { bridge: fields.parsed("bridge", names::interface, report)? })
    });
    let queues = queues(fields, cpus, report);
    (report.count() == before).then_some(GuestNetwork { name: name?, claim, fallback, queues })
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
        let has = if cpus == 1 { "1 vCPU".to_owned() } else { format!("{cpus} vCPUs") };
        let message = format!("a guest with {has} does not make use of {queues} queues");
        let form = format!("a whole number up to {cpus}; or more vCPUs, cpus: {{count: {queues}}}");
        report.error(given.node.span, message, Some(&form));
    }
    queues
}
