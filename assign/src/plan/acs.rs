//! `acs: required`: whether every bridge on the way to a device shows access control (ACS) that is
//! on, whatever the kernel made of it in its groups.

use sriov::isolation::{self, AcsGap};
use sriov::{HostSnapshot, PciFunction};

/// What a person can do about it.
pub const REMEDY: &str = "Enable ACS in the firmware's settings, choose a slot below another port, \
                          or demand no more than the kernel's groups: `acs: kernel`.";

/// The places that let a device reach its neighbours, in a sentence; `None` where there is none. Its
/// own functions are the kernel's to judge: those that are not kept apart share a group.
pub fn gaps(host: &HostSnapshot, device: &PciFunction) -> Option<String> {
    let gaps = isolation::acs_path(host, device);
    let bridges = gaps.iter().filter(|gap| gap.at != device.address);
    let list: Vec<String> = bridges.map(AcsGap::to_string).collect();
    let begin = "its policy demands ACS on the whole way, and";
    (!list.is_empty()).then(|| format!("{begin} {}", list.join(" and ")))
}
