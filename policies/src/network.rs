//! How a pool's VFs are set up as network cards.

use serde::{Deserialize, Serialize};
use sriov::{LinkState, Rate, Vlan};

use crate::amounts;
use crate::error::Report;
use crate::fields::{Fields, Given};
use crate::grammar::{Field, Form, Mapping, Rule, word};

/// Settings of a pool's VFs as network cards. What is `None` is left as it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, Default)]
pub struct PoolNetwork {
    /// Their Ethernet addresses.
    pub mac: MacPolicy,
    /// The VLAN their frames are put into; the default one means none.
    pub vlan: Option<Vlan>,
    /// Whether they may do what only trusted VFs may.
    pub trust: Option<bool>,
    /// Whether frames from another address than their own are dropped.
    pub spoof_check: Option<bool>,
    /// Whether their link follows the physical function's.
    pub link_state: Option<LinkState>,
    /// How fast they may send.
    pub rate: Option<Rate>,
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

/// A pool's `network`.
pub(crate) static NETWORK: Mapping = Mapping {
    what: "a pool's `network`",
    fields: &[
        Field::new(
            "mac",
            Form::Words(&[
                word(
                    "derive",
                    "the same VF has the same locally administered address on every boot",
                ),
                word("keep", "whatever it has is left alone"),
            ]),
            "derive",
            "The Ethernet addresses of the VFs.",
        )
        .or("keep"),
        Field::new(
            "vlan",
            Form::WordOr(word("none", "their frames are not put into a VLAN"), &VLAN),
            "{id: 100}",
            "The VLAN their frames are put into, which guests do not see. Left out: as it is.",
        ),
        Field::new(
            "trust",
            Form::Truth,
            "false",
            "Whether they may do what only trusted VFs may, such as hearing everything or having \
             another address. Left out: as it is.",
        ),
        Field::new(
            "spoofCheck",
            Form::Truth,
            "true",
            "Whether frames from another address than their own are dropped. Left out: as it is.",
        ),
        Field::new(
            "linkState",
            Form::Words(&[
                word("auto", "the PF's"),
                word("enable", "always up, so that guests of one PF reach each other"),
                word("disable", "always down"),
            ]),
            "auto",
            "The link that the VFs see. Left out: as it is.",
        ),
        Field::new(
            "rate",
            Form::Map(&RATE),
            "{max: 1Gbit}",
            "How fast each VF may send. Left out: as it is.",
        ),
    ],
    rules: &[],
    later: &[],
};

static VLAN: Mapping = Mapping {
    what: "`vlan`",
    fields: &[
        Field::new(
            "id",
            Form::Number(1, Vlan::LAST as u64),
            "100",
            "Its number. 0 is no VLAN (write `vlan: none`), and 4095 is reserved (IEEE 802.1Q).",
        )
        .needed(),
        Field::new(
            "qos",
            Form::Number(0, Vlan::HIGHEST as u64),
            "0",
            "The priority of their frames (PCP).",
        )
        .or("0"),
        Field::new(
            "protocol",
            Form::Words(&[
                word("802.1Q", "the usual tag"),
                word("802.1ad", "the provider's tag, outside a guest's own"),
            ]),
            "802.1Q",
            "How the tag is written.",
        )
        .or("802.1Q"),
    ],
    rules: &[],
    later: &[],
};

static RATE: Mapping = Mapping {
    what: "`rate`",
    fields: &[
        Field::new(
            "min",
            Form::NumberOr(amounts::RATE),
            "100Mbit",
            "What a VF gets at least; 0 for no guarantee.",
        ),
        Field::new(
            "max",
            Form::NumberOr(amounts::RATE),
            "1Gbit",
            "What a VF gets at most; 0 for no limit.",
        ),
    ],
    rules: &[Rule::NotEmpty { message: "`rate` limits nothing", accepted: "{max: 1Gbit}" }],
    later: &[],
};

/// Reads a pool's `network`.
pub(crate) fn read(fields: &Fields<'_>, report: &mut Report<'_>) -> PoolNetwork {
    PoolNetwork {
        mac: fields.word("mac", report).unwrap_or_default(),
        vlan: fields.get("vlan", report).and_then(|given| vlan(given, report)),
        trust: fields.truth("trust", report),
        spoof_check: fields.truth("spoofCheck", report),
        link_state: fields.word("linkState", report),
        rate: fields.map("rate", report).and_then(|fields| rate(&fields, report)),
    }
}

fn vlan(given: Given<'_>, report: &mut Report<'_>) -> Option<Vlan> {
    if given.is_word() {
        return Some(Vlan::default());
    }
    let fields = given.fields(report)?;
    let id = fields.number("id", report);
    let qos = fields.number("qos", report).unwrap_or_default();
    let protocol = fields.word("protocol", report).unwrap_or_default();
    Some(Vlan { id: id?, qos, protocol })
}

fn rate(fields: &Fields<'_>, report: &mut Report<'_>) -> Option<Rate> {
    let mut read = |name| fields.get(name, report).and_then(|given| amounts::rate(given, report));
    let (min, max) = (read("min").unwrap_or(0), read("max").unwrap_or(0));
    if max != 0 && min > max {
        let message = format!("`rate` can never be met: `min` is {min} and `max` is {max} Mbit/s");
        report.error(fields.at, message, Some("`min` not above `max`"));
        return None;
    }
    Some(Rate { min, max })
}
