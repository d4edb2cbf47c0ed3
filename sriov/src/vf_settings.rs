//! What a network PF sets for its VFs, and one step of setting it.
//!
//! The settings live in the PF's driver, not in the VF: they hold before the VF has a driver, and
//! a guest cannot change them.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::change::Binding;
use crate::mac::MacAddress;

/// All that a PF has set for one VF (`IFLA_VFINFO_LIST`; include/uapi/linux/if_link.h).
///
/// A driver that does not know a setting reports the kernel's preset for it, except for trust and
/// the spoof check, where the kernel says so (net/core/rtnetlink.c, `rtnl_fill_vfinfo`).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct VfSettings {
    /// The administrative address; all zero where none was set.
    pub mac: MacAddress,
    /// The VLAN its frames are put into, which it does not see.
    pub vlan: Vlan,
    /// Whether it may do what only trusted VFs may, such as listening to everything; `None` where
    /// the driver does not say.
    pub trust: Option<bool>,
    /// Whether frames from another address than its own are dropped; `None` where the driver does
    /// not say.
    pub spoof_check: Option<bool>,
    /// Whether its link follows the PF's.
    pub link_state: LinkState,
    /// How fast it may send.
    pub rate: Rate,
}

impl VfSettings {
    /// An address, and all else as the kernel presets it.
    pub fn with_mac(mac: MacAddress) -> VfSettings {
        VfSettings { mac, ..VfSettings::default() }
    }
}

/// The VLAN of a VF. It is written `ID[:QOS[:PROTOCOL]]`, and `none` for none.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Vlan {
    /// 1 to 4094; 0 for none.
    pub id: u16,
    /// Priority of its frames, 0 to 7 (IEEE 802.1Q, PCP).
    pub qos: u8,
    /// How the tag is written.
    pub protocol: VlanProtocol,
}

impl Vlan {
    /// The last id that can be used: 4095 is reserved.
    pub const LAST: u16 = 4094;
    /// The highest priority.
    pub const HIGHEST: u8 = 7;

    /// No tag, and no priority either.
    pub fn is_none(self) -> bool {
        self == Vlan::default()
    }
}

impl fmt::Display for Vlan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_none() {
            return f.write_str("none");
        }
        write!(f, "{}", self.id)?;
        match (self.qos, self.protocol) {
            (0, VlanProtocol::Ieee8021Q) => Ok(()),
            (qos, VlanProtocol::Ieee8021Q) => write!(f, ":{qos}"),
            (qos, protocol) => write!(f, ":{qos}:{protocol}"),
        }
    }
}

/// A text that is no VLAN.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{text:?} is no VLAN: write its id, 0 to 4094, with a priority of 0 to 7 and 802.1Q or 802.1ad \
     behind it if wanted (100, 100:3, 100:0:802.1ad), or none"
)]
pub struct VlanError {
    text: String,
}

impl FromStr for Vlan {
    type Err = VlanError;

    fn from_str(text: &str) -> Result<Vlan, VlanError> {
        let parse = || {
            if text == "none" {
                return Some(Vlan::default());
            }
            let mut parts = text.splitn(3, ':');
            let id = decimal(parts.next()?).filter(|id| *id <= Vlan::LAST)?;
            let qos = parts.next().map_or(Some(0), decimal)?;
            let qos = u8::try_from(qos).ok().filter(|qos| *qos <= Vlan::HIGHEST)?;
            let protocol =
                parts.next().map_or(Some(VlanProtocol::Ieee8021Q), |p| p.parse().ok())?;
            Some(Vlan { id, qos, protocol })
        };
        parse().ok_or_else(|| VlanError { text: text.chars().take(64).collect() })
    }
}

/// Digits only: `parse` would take a sign as well.
fn decimal(text: &str) -> Option<u16> {
    text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse().ok()).flatten()
}

/// How a VLAN tag is written.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum VlanProtocol {
    /// The usual tag (ethertype 0x8100).
    #[default]
    #[serde(rename = "802.1Q")]
    Ieee8021Q,
    /// The provider's tag, outside a guest's own (ethertype 0x88a8).
    #[serde(rename = "802.1ad")]
    Ieee8021Ad,
}

impl fmt::Display for VlanProtocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            VlanProtocol::Ieee8021Q => "802.1Q",
            VlanProtocol::Ieee8021Ad => "802.1ad",
        })
    }
}

/// A text that is no VLAN protocol.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is no VLAN protocol: write 802.1Q or 802.1ad")]
pub struct ProtocolError {
    text: String,
}

impl FromStr for VlanProtocol {
    type Err = ProtocolError;

    fn from_str(text: &str) -> Result<VlanProtocol, ProtocolError> {
        match text.to_ascii_lowercase().as_str() {
            "802.1q" => Ok(VlanProtocol::Ieee8021Q),
            "802.1ad" => Ok(VlanProtocol::Ieee8021Ad),
            _ => Err(ProtocolError { text: text.chars().take(64).collect() }),
        }
    }
}

/// Whether the link that a VF sees follows the PF's.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum LinkState {
    /// It does.
    #[default]
    Auto,
    /// It is always up, so that VFs of one PF reach each other without a cable.
    Enable,
    /// It is always down.
    Disable,
}

impl fmt::Display for LinkState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            LinkState::Auto => "auto",
            LinkState::Enable => "enable",
            LinkState::Disable => "disable",
        })
    }
}

/// How fast a VF may send, in Mbit/s; 0 is no limit, and no guarantee.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rate {
    /// What it gets at least.
    pub min: u32,
    /// What it gets at most.
    pub max: u32,
}

impl fmt::Display for Rate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.min, self.max) {
            (0, 0) => f.write_str("unlimited"),
            (0, max) => write!(f, "at most {max} Mbit/s"),
            (min, 0) => write!(f, "at least {min} Mbit/s"),
            (min, max) => write!(f, "{min} to {max} Mbit/s"),
        }
    }
}

/// What a VF has that goes away with it: what it takes to have it again when its PF has VFs again.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct VfState {
    /// Who has it.
    pub binding: Binding,
    /// What its PF has set for it; `None` where that is not known.
    pub settings: Option<VfSettings>,
}

impl VfState {
    /// Whether a new VF is like this by itself, as far as one can know.
    pub fn is_plain(&self) -> bool {
        let plain = |settings: &VfSettings| {
            // Drivers check what VFs send, but for a few whose presets are not known.
            let &VfSettings { mac, vlan, link_state, rate, trust, spoof_check } = settings;
            mac.is_zero()
                && vlan.is_none()
                && link_state == LinkState::Auto
                && rate == Rate::default()
                && trust != Some(true)
                && spoof_check != Some(false)
        };
        self.binding.same_hands(&Binding::default()) && self.settings.as_ref().is_none_or(plain)
    }
}

impl fmt::Display for VfState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.binding.fmt(f)?;
        let Some(settings) = &self.settings else { return Ok(()) };
        if !settings.mac.is_zero() {
            write!(f, ", {}", settings.mac)?;
        }
        if !settings.vlan.is_none() {
            write!(f, ", VLAN {}", settings.vlan)?;
        }
        if settings.trust == Some(true) {
            f.write_str(", trusted")?;
        }
        if settings.spoof_check == Some(false) {
            f.write_str(", not checked for spoofing")?;
        }
        if settings.link_state != LinkState::Auto {
            write!(f, ", link {}", settings.link_state)?;
        }
        if settings.rate != Rate::default() {
            write!(f, ", {}", settings.rate)?;
        }
        Ok(())
    }
}

/// A value as it is, and as it is to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Step<T> {
    /// As it is.
    pub from: T,
    /// As it is to be.
    pub to: T,
}

impl<T> Step<T> {
    fn after(self, first: Step<T>) -> Step<T> {
        Step { from: first.from, to: self.to }
    }

    fn back(self) -> Step<T> {
        Step { from: self.to, to: self.from }
    }
}

/// One setting of a VF and how it changes, without its address: that has a step of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum VfSetting {
    /// Its VLAN.
    Vlan(Step<Vlan>),
    /// Whether it is trusted.
    Trust(Step<bool>),
    /// Whether its sender addresses are checked.
    SpoofCheck(Step<bool>),
    /// Whether its link follows the PF's.
    LinkState(Step<LinkState>),
    /// How fast it may send.
    Rate(Step<Rate>),
    /// How many MSI-X vectors it has; 0 lets the driver choose. While it has no driver only.
    Msix(Step<u16>),
}

impl VfSetting {
    /// The reverse.
    #[must_use]
    pub fn back(self) -> VfSetting {
        match self {
            VfSetting::Vlan(step) => VfSetting::Vlan(step.back()),
            VfSetting::Trust(step) => VfSetting::Trust(step.back()),
            VfSetting::SpoofCheck(step) => VfSetting::SpoofCheck(step.back()),
            VfSetting::LinkState(step) => VfSetting::LinkState(step.back()),
            VfSetting::Rate(step) => VfSetting::Rate(step.back()),
            VfSetting::Msix(step) => VfSetting::Msix(step.back()),
        }
    }

    /// What it is about, for a sentence.
    pub fn name(self) -> &'static str {
        match self {
            VfSetting::Vlan(_) => "VLAN",
            VfSetting::Trust(_) => "trust",
            VfSetting::SpoofCheck(_) => "spoof check",
            VfSetting::LinkState(_) => "link state",
            VfSetting::Rate(_) => "rate",
            VfSetting::Msix(_) => "number of MSI-X vectors",
        }
    }

    /// The same, from how it is now; `None` where the driver does not say, or where the PF is not
    /// asked (vectors).
    #[must_use]
    pub fn from_now(self, now: &VfSettings) -> Option<VfSetting> {
        Some(match self {
            VfSetting::Vlan(step) => VfSetting::Vlan(Step { from: now.vlan, ..step }),
            VfSetting::Trust(step) => VfSetting::Trust(Step { from: now.trust?, ..step }),
            VfSetting::SpoofCheck(step) => {
                VfSetting::SpoofCheck(Step { from: now.spoof_check?, ..step })
            }
            VfSetting::LinkState(step) => {
                VfSetting::LinkState(Step { from: now.link_state, ..step })
            }
            VfSetting::Rate(step) => VfSetting::Rate(Step { from: now.rate, ..step }),
            VfSetting::Msix(_) => return None,
        })
    }

    /// This step and an earlier one as one step; this one where they are about different settings.
    #[must_use]
    pub fn after(self, first: VfSetting) -> VfSetting {
        match (first, self) {
            (VfSetting::Vlan(a), VfSetting::Vlan(b)) => VfSetting::Vlan(b.after(a)),
            (VfSetting::Trust(a), VfSetting::Trust(b)) => VfSetting::Trust(b.after(a)),
            (VfSetting::SpoofCheck(a), VfSetting::SpoofCheck(b)) => {
                VfSetting::SpoofCheck(b.after(a))
            }
            (VfSetting::LinkState(a), VfSetting::LinkState(b)) => VfSetting::LinkState(b.after(a)),
            (VfSetting::Rate(a), VfSetting::Rate(b)) => VfSetting::Rate(b.after(a)),
            (VfSetting::Msix(a), VfSetting::Msix(b)) => VfSetting::Msix(b.after(a)),
            (_, second) => second,
        }
    }

    /// What it is before the step, for a sentence.
    pub fn before(self) -> String {
        let on = |on| if on { "on" } else { "off" }.to_owned();
        match self {
            VfSetting::Vlan(step) => step.from.to_string(),
            VfSetting::Trust(step) => on(step.from),
            VfSetting::SpoofCheck(step) => on(step.from),
            VfSetting::LinkState(step) => step.from.to_string(),
            VfSetting::Rate(step) => step.from.to_string(),
            VfSetting::Msix(step) => step.from.to_string(),
        }
    }

    /// Whether there is nothing to change.
    pub fn is_nothing(self) -> bool {
        self == self.back()
    }

    /// Whether a guest goes on as before under it, only slower or faster.
    pub fn is_harmless(self) -> bool {
        matches!(self, VfSetting::Rate(_))
    }
}

impl fmt::Display for VfSetting {
    /// What the step does: "put it into VLAN 100".
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            VfSetting::Vlan(step) if step.to.is_none() => {
                write!(f, "take it out of VLAN {}", step.from)
            }
            VfSetting::Vlan(step) => write!(f, "put it into VLAN {}", step.to),
            VfSetting::Trust(step) if step.to => f.write_str("trust it"),
            VfSetting::Trust(_) => f.write_str("trust it no more"),
            VfSetting::SpoofCheck(step) if step.to => f.write_str("check its sender addresses"),
            VfSetting::SpoofCheck(_) => f.write_str("check its sender addresses no more"),
            VfSetting::LinkState(step) => match step.to {
                LinkState::Auto => f.write_str("let its link follow the PF's"),
                LinkState::Enable => f.write_str("keep its link up"),
                LinkState::Disable => f.write_str("keep its link down"),
            },
            VfSetting::Rate(Step { to: Rate { min: 0, max: 0 }, .. }) => {
                f.write_str("let it send without limit")
            }
            VfSetting::Rate(step) => write!(f, "let it send {}", step.to),
            VfSetting::Msix(Step { to: 0, .. }) => {
                f.write_str("let its driver choose its MSI-X vectors")
            }
            VfSetting::Msix(Step { to: 1, .. }) => f.write_str("give it 1 MSI-X vector"),
            VfSetting::Msix(step) => write!(f, "give it {} MSI-X vectors", step.to),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn vlans_are_read_as_they_are_written() {
        let ad = VlanProtocol::Ieee8021Ad;
        for (text, vlan, shown) in [
            ("none", Vlan::default(), "none"),
            ("0", Vlan::default(), "none"),
            ("100", Vlan { id: 100, ..Vlan::default() }, "100"),
            ("4094:7", Vlan { id: 4094, qos: 7, ..Vlan::default() }, "4094:7"),
            ("0:3", Vlan { qos: 3, ..Vlan::default() }, "0:3"),
            ("5:0:802.1Q", Vlan { id: 5, ..Vlan::default() }, "5"),
            ("5:0:802.1AD", Vlan { id: 5, qos: 0, protocol: ad }, "5:0:802.1ad"),
        ] {
            assert_eq!(text.parse(), Ok(vlan), "{text}");
            assert_eq!(vlan.to_string(), shown);
            assert_eq!(shown.parse(), Ok(vlan), "{shown}");
        }
        for text in
            ["", "4095", "-1", "+1", "1:8", "1:", ":1", "1:2:3", "1:2:802.1Q:4", "0x10", "x"]
        {
            let error = text.parse::<Vlan>().expect_err("no VLAN");
            assert!(error.to_string().contains("0 to 4094"), "{error}");
        }
    }

    #[test]
    fn a_step_has_its_reverse_and_its_words() {
        let rate = |min, max| Rate { min, max };
        for (step, words, back) in [
            (
                VfSetting::Vlan(Step {
                    from: Vlan::default(),
                    to: Vlan { id: 9, ..Vlan::default() },
                }),
                "put it into VLAN 9",
                "take it out of VLAN 9",
            ),
            (
                VfSetting::Rate(Step { from: rate(0, 0), to: rate(0, 100) }),
                "let it send at most 100 Mbit/s",
                "let it send without limit",
            ),
            (VfSetting::Trust(Step { from: false, to: true }), "trust it", "trust it no more"),
            (
                VfSetting::LinkState(Step { from: LinkState::Auto, to: LinkState::Disable }),
                "keep its link down",
                "let its link follow the PF's",
            ),
        ] {
            assert_eq!((step.to_string(), step.back().to_string()), (words.into(), back.into()));
            assert_eq!(step.back().back(), step);
            assert!(!step.is_nothing());
            let text = serde_json::to_string(&step).expect("serialized");
            assert_eq!(serde_json::from_str::<VfSetting>(&text).expect("read back"), step);
        }
    }
}
