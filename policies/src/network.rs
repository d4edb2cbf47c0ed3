//! How a pool's VFs are set up as network cards.

use serde::{Deserialize, Serialize};
use sriov::{LinkState, Rate, Vlan, VlanProtocol};

use crate::document::{Node, Value};
use crate::error::Report;
use crate::read::{Fields, boolean, choice, number};
use crate::scalar;

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

const KNOWN: [&str; 6] = ["mac", "vlan", "trust", "spoofCheck", "linkState", "rate"];
const VLAN_FORM: &str = "{id: 100}, with qos: 0 to 7 and protocol: 802.1ad if wanted; or none";

/// Reads a pool's `network`.
pub(crate) fn read(node: &Node, report: &mut Report<'_>) -> Option<PoolNetwork> {
    let fields = Fields::of(node, "a pool's `network`", &KNOWN, report)?;
    let macs = [("derive", MacPolicy::Derive), ("keep", MacPolicy::Keep)];
    let mac = fields.get("mac", report).and_then(|node| choice(node, "`mac`", &macs, report));
    let vlan = fields.get("vlan", report).and_then(|node| vlan(node, report));
    let trust = fields.get("trust", report).and_then(|node| boolean(node, "`trust`", report));
    let spoof_check = fields.get("spoofCheck", report);
    let spoof_check = spoof_check.and_then(|node| boolean(node, "`spoofCheck`", report));
    let states =
        [("auto", LinkState::Auto), ("enable", LinkState::Enable), ("disable", LinkState::Disable)];
    let link_state = fields.get("linkState", report);
    let link_state = link_state.and_then(|node| choice(node, "`linkState`", &states, report));
    let rate = fields.get("rate", report).and_then(|node| rate(node, report));
    let mac = mac.unwrap_or_default();
    Some(PoolNetwork { mac, vlan, trust, spoof_check, link_state, rate })
}

fn vlan(node: &Node, report: &mut Report<'_>) -> Option<Vlan> {
    if matches!(&node.value, Value::Scalar { text, .. } if text == "none") {
        return Some(Vlan::default());
    }
    if matches!(node.value, Value::Scalar { .. }) {
        let message = format!("`vlan` is a mapping or the word none, not {}", node.describe());
        report.error(node.span, message, Some(VLAN_FORM));
        return None;
    }
    let fields = Fields::of(node, "`vlan`", &["id", "qos", "protocol"], report)?;
    let before = report.count();
    let id = fields.need("id", "id: 100", report);
    let id = id.and_then(|node| number(node, "`id`", 1..=u64::from(Vlan::LAST), report));
    let qos = fields.get("qos", report);
    let qos = qos.and_then(|node| number(node, "`qos`", 0..=u64::from(Vlan::HIGHEST), report));
    let protocols = [("802.1Q", VlanProtocol::Ieee8021Q), ("802.1ad", VlanProtocol::Ieee8021Ad)];
    let protocol = fields.get("protocol", report);
    let protocol = protocol.and_then(|node| choice(node, "`protocol`", &protocols, report));
    if report.count() != before {
        return None;
    }
    Some(Vlan {
        id: u16::try_from(id?).ok()?,
        qos: u8::try_from(qos.unwrap_or(0)).ok()?,
        protocol: protocol.unwrap_or_default(),
    })
}

fn rate(node: &Node, report: &mut Report<'_>) -> Option<Rate> {
    let fields = Fields::of(node, "`rate`", &["min", "max"], report)?;
    let before = report.count();
    let mut read =
        |name: &str| scalar::rate(fields.get(name, report)?, &format!("`{name}`"), report);
    let (min, max) = (read("min"), read("max"));
    if report.count() != before {
        return None;
    }
    if min.is_none() && max.is_none() {
        report.error(node.span, "`rate` limits nothing", Some("{max: 1Gbit}"));
        return None;
    }
    let (min, max) = (min.unwrap_or(0), max.unwrap_or(0));
    if max != 0 && min > max {
        let message = format!("`rate` can never be met: `min` is {min} and `max` is {max} Mbit/s");
        report.error(node.span, message, Some("`min` not above `max`"));
        return None;
    }
    Some(Rate { min, max })
}
