//! What a PF has set for its VFs, in the bytes of rtnetlink.
//!
//! Decoded here and not by the crate that knows the other messages: it takes "the driver does not
//! say" for "off", which is the one thing not to be told about a spoof check.

use std::collections::BTreeMap;

use netlink_packet_route::link::{
    LinkVfInfo, VfInfo, VfInfoLinkState, VfInfoMac, VfInfoRate, VfInfoSpoofCheck, VfInfoTrust,
    VfInfoVlan, VfLinkState, VfVlan, VfVlanInfo, VlanProtocol as WireProtocol,
};

use super::attributes::{attributes, word};
use crate::mac::MacAddress;
use crate::vf_settings::{LinkState, Rate, VfSettings, Vlan, VlanProtocol};

/// The message before its attributes (`struct ifinfomsg`).
const LINK_HEADER: usize = 16;

// include/uapi/linux/if_link.h
const IFLA_NUM_VF: u16 = 21;
const IFLA_VFINFO_LIST: u16 = 22;
const IFLA_VF_INFO: u16 = 1;
const IFLA_VF_MAC: u16 = 1;
const IFLA_VF_VLAN: u16 = 2;
const IFLA_VF_SPOOFCHK: u16 = 4;
const IFLA_VF_LINK_STATE: u16 = 5;
const IFLA_VF_RATE: u16 = 6;
const IFLA_VF_TRUST: u16 = 9;
const IFLA_VF_VLAN_LIST: u16 = 12;
const IFLA_VF_VLAN_INFO: u16 = 1;

/// 802.1ad as it is on the wire, in network order.
const ETH_P_8021AD: [u8; 2] = [0x88, 0xa8];
/// What the kernel says where the driver said nothing.
const NOT_TOLD: u32 = u32::MAX;

/// The settings of a PF's VFs by index.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct VfList {
    /// By VF index.
    pub settings: BTreeMap<u16, VfSettings>,
    /// How many VFs the kernel says the PF has; an attribute holds 64 KiB, so the list may lack
    /// some (about 330 and more).
    pub count: Option<u32>,
    /// Nothing was cut off or without meaning.
    pub whole: bool,
}

impl VfList {
    /// Whether every VF is in it.
    pub fn is_complete(&self) -> bool {
        let listed = self.settings.len();
        self.whole
            && self.count.is_none_or(|count| usize::try_from(count).is_ok_and(|c| c <= listed))
    }

    /// Reads a link message (RTM_NEWLINK) from its header on.
    pub fn decode(message: &[u8]) -> VfList {
        let mut list = VfList { whole: true, ..VfList::default() };
        let Some(bytes) = message.get(LINK_HEADER..) else {
            return VfList { whole: false, ..list };
        };
        let mut link = attributes(bytes);
        for (kind, value) in link.by_ref() {
            match kind {
                IFLA_NUM_VF => list.count = word(value, 0),
                IFLA_VFINFO_LIST => list.add_all(value),
                _ => {}
            }
        }
        list.whole &= link.is_whole();
        list
    }

    fn add_all(&mut self, bytes: &[u8]) {
        let mut vfs = attributes(bytes);
        for (_, vf) in vfs.by_ref().filter(|(kind, _)| *kind == IFLA_VF_INFO) {
            match decode_vf(vf) {
                Some((index, settings)) => drop(self.settings.insert(index, settings)),
                None => self.whole = false,
            }
        }
        self.whole &= vfs.is_whole();
    }
}

/// One VF. Every value begins with its index; `None` where they do not agree or one is cut off.
fn decode_vf(bytes: &[u8]) -> Option<(u16, VfSettings)> {
    let mut settings = VfSettings::default();
    let mut index = None;
    let mut infos = attributes(bytes);
    for (kind, value) in infos.by_ref() {
        let known = [
            IFLA_VF_MAC,
            IFLA_VF_VLAN,
            IFLA_VF_SPOOFCHK,
            IFLA_VF_LINK_STATE,
            IFLA_VF_RATE,
            IFLA_VF_TRUST,
        ];
        if kind == IFLA_VF_VLAN_LIST {
            settings.vlan.protocol = protocol(value).unwrap_or_default();
        }
        if !known.contains(&kind) {
            continue;
        }
        let vf = u16::try_from(word(value, 0)?).ok()?;
        if *index.get_or_insert(vf) != vf {
            return None;
        }
        match kind {
            IFLA_VF_MAC => settings.mac = MacAddress(value.get(4..10)?.try_into().ok()?),
            IFLA_VF_VLAN => {
                settings.vlan.id = u16::try_from(word(value, 4)?).ok()?;
                settings.vlan.qos = u8::try_from(word(value, 8)?).ok()?;
            }
            IFLA_VF_SPOOFCHK => settings.spoof_check = flag(word(value, 4)?),
            IFLA_VF_TRUST => settings.trust = flag(word(value, 4)?),
            IFLA_VF_LINK_STATE => {
                settings.link_state = match word(value, 4)? {
                    0 => LinkState::Auto,
                    1 => LinkState::Enable,
                    2 => LinkState::Disable,
                    _ => return None,
                }
            }
            IFLA_VF_RATE => {
                settings.rate = Rate { min: word(value, 4)?, max: word(value, 8)? };
            }
            _ => {}
        }
    }
    if !infos.is_whole() {
        return None;
    }
    // Where there is no VLAN, the protocol that a driver leaves there means nothing.
    if settings.vlan.id == 0 && settings.vlan.qos == 0 {
        settings.vlan = Vlan::default();
    }
    Some((index?, settings))
}

/// Of the first VLAN in a list: index, id, priority, and the protocol at 12.
fn protocol(list: &[u8]) -> Option<VlanProtocol> {
    let (_, info) = attributes(list).find(|(kind, _)| *kind == IFLA_VF_VLAN_INFO)?;
    match info.get(12..14)? == ETH_P_8021AD {
        true => Some(VlanProtocol::Ieee8021Ad),
        false => Some(VlanProtocol::Ieee8021Q),
    }
}

fn flag(value: u32) -> Option<bool> {
    (value != NOT_TOLD).then_some(value != 0)
}

/// One setting to be made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum VfValue {
    /// The administrative address.
    Mac(MacAddress),
    /// The VLAN.
    Vlan(Vlan),
    /// Whether it is trusted.
    Trust(bool),
    /// Whether its sender addresses are checked.
    SpoofCheck(bool),
    /// Whether its link follows the PF's.
    LinkState(LinkState),
    /// How fast it may send.
    Rate(Rate),
}

impl VfValue {
    /// The attribute that sets it, as an entry of `IFLA_VFINFO_LIST`.
    pub(super) fn encode(self, vf: u16) -> LinkVfInfo {
        let vf = u32::from(vf);
        LinkVfInfo(vec![match self {
            VfValue::Mac(mac) => VfInfo::Mac(VfInfoMac::new(vf, &mac.0)),
            VfValue::Vlan(vlan) => encode_vlan(vf, vlan),
            VfValue::Trust(on) => VfInfo::Trust(VfInfoTrust::new(vf, on)),
            VfValue::SpoofCheck(on) => VfInfo::SpoofCheck(VfInfoSpoofCheck::new(vf, on)),
            VfValue::LinkState(state) => VfInfo::LinkState(VfInfoLinkState::new(
                vf,
                match state {
                    LinkState::Auto => VfLinkState::Auto,
                    LinkState::Enable => VfLinkState::Enable,
                    LinkState::Disable => VfLinkState::Disable,
                },
            )),
            VfValue::Rate(rate) => VfInfo::Rate(VfInfoRate::new(vf, rate.min, rate.max)),
        }])
    }
}

/// Kernels before 4.9 know the plain attribute only, which is 802.1Q.
fn encode_vlan(vf: u32, vlan: Vlan) -> VfInfo {
    let (id, qos) = (u32::from(vlan.id), u32::from(vlan.qos));
    match vlan.protocol {
        VlanProtocol::Ieee8021Q => VfInfo::Vlan(VfInfoVlan::new(vf, id, qos)),
        VlanProtocol::Ieee8021Ad => VfInfo::VlanList(vec![VfVlan::Info(VfVlanInfo::new(
            vf,
            id,
            qos,
            WireProtocol::Ieee8021Ad,
        ))]),
    }
}

#[cfg(test)]
mod tests;
