//! What a PF sets for a VF, one setting at a time: over rtnetlink, and its vectors by sysfs.
//!
//! A setting holds whether the VF has a driver or not, and most drivers make it known to the VF at
//! its next reset; so it is made before a guest starts. The kernel accepts some settings that a
//! driver then forgets: each is read back.

use std::time::Duration;

use super::link::{port, refused, rtnetlink};
use super::{Done, bind, function, link, locate, stale, wait};
use crate::address::{PciAddress, VfRef};
use crate::attribute;
use crate::change::{Binding, Target};
use crate::facts::net::{self, Netdev};
use crate::facts::pci;
use crate::facts::reader::Reader;
use crate::failure::{ChangeError, Reason};
use crate::mac::MacAddress;
use crate::netlink::{NetlinkError, Rtnetlink, VfValue};
use crate::root::HostRoot;
use crate::vf_settings::{Rate, Step, VfSetting, VfSettings, VfState, VlanProtocol};

/// Errors that mean the same everywhere (uapi/asm-generic/errno.h).
const EPERM: i32 = 1;
const EAGAIN: i32 = 11;
const EACCES: i32 = 13;
const EBUSY: i32 = 16;
const EINVAL: i32 = 22;
const ENOSPC: i32 = 28;
const ERANGE: i32 = 34;
const EPROTONOSUPPORT: i32 = 93;
const EOPNOTSUPP: i32 = 95;
const EADDRNOTAVAIL: i32 = 99;
const ENETDOWN: i32 = 100;

/// How long a rate is tried again, where the driver should take it.
const RATE_TAKEN: Duration = Duration::from_secs(2);

/// Makes one setting and reads it back.
pub fn set(root: &HostRoot, vf: VfRef, setting: VfSetting) -> Result<Done, ChangeError> {
    let (asked, value) = match setting {
        VfSetting::Msix(step) => return set_vectors(root, vf, step),
        VfSetting::Vlan(step) => (Asked::Setting(setting), VfValue::Vlan(step.to)),
        VfSetting::Trust(step) => (Asked::Setting(setting), VfValue::Trust(step.to)),
        VfSetting::SpoofCheck(step) => (Asked::Setting(setting), VfValue::SpoofCheck(step.to)),
        VfSetting::LinkState(step) => (Asked::Setting(setting), VfValue::LinkState(step.to)),
        VfSetting::Rate(step) => (Asked::Setting(setting), VfValue::Rate(step.to)),
    };
    let port = port(root, vf.pf)?;
    let mut netlink = rtnetlink(root, vf, &setting.to_string())?;
    let driver = function(root, vf.pf)?.driver;
    let present = read(&mut netlink, &port, vf, &setting.to_string())?;
    let now = setting.from_now(&present).ok_or_else(|| untold(vf, driver.as_deref(), setting))?;
    if now.is_nothing() {
        return Ok(Done::Already);
    }
    if now != setting {
        let name = setting.name();
        let found = format!("{name} {}", now.before());
        return Err(stale(vf, &found, &format!("{name} {}", setting.before())));
    }
    let mut answer = netlink.set_vf(port.index, vf.index, value);
    if let (Err(_), VfSetting::Rate(rate)) = (&answer, setting)
        && may_be_taken_later(root, &port, vf.pf, rate.to)
    {
        wait(RATE_TAKEN, || {
            answer = netlink.set_vf(port.index, vf.index, value);
            answer.is_ok()
        });
    }
    answer.map_err(|error| explain(vf, driver.as_deref(), asked, &error))?;
    let seen = read(&mut netlink, &port, vf, &setting.to_string())?;
    match setting.from_now(&seen) {
        Some(seen) if seen.is_nothing() => Ok(Done::Changed),
        seen => {
            let shown = seen.map_or_else(|| "nothing".to_owned(), VfSetting::before);
            let driver = driver.as_deref().unwrap_or("its driver");
            let message = format!(
                "could not {setting}: {driver} accepted it and reports {} {shown}",
                setting.name()
            );
            Err(ChangeError::new(Reason::NotObserved, vf, message)
                .with_remedy("The kernel's log (dmesg) may say why."))
        }
    }
}

/// Whether a driver that refused a rate may take it in a moment: while there is no link none is, and
/// making VFs may have cost the link just now, or the interface was set up just now and never had one.
/// Waits for the link. What the interface says of it is no proof of what the driver found: igb asks its
/// registers, which lose the link without the interface (seen with QEMU's 82576, half a second long).
fn may_be_taken_later(root: &HostRoot, port: &Netdev, pf: PciAddress, rate: Rate) -> bool {
    port.up
        && link::await_carrier(root, pf)
        && net::speed(root, &port.name).is_none_or(|speed| rate.max <= speed)
}

/// What the PF has set for this VF now.
fn read(
    netlink: &mut Rtnetlink,
    port: &Netdev,
    vf: VfRef,
    tried: &str,
) -> Result<VfSettings, ChangeError> {
    let list = netlink.vf_list(port.index).map_err(|error| refused(vf, tried, &error))?;
    list.settings.get(&vf.index).copied().ok_or_else(|| {
        let message = format!("cannot {tried}: {} does not tell of this VF", port.name);
        ChangeError::new(Reason::NoSuchDevice, vf, message)
            .with_remedy("List the VFs with `assign vf list`.")
    })
}

/// What cannot be read could neither be checked nor taken back.
fn untold(vf: VfRef, driver: Option<&str>, setting: VfSetting) -> ChangeError {
    let driver =
        driver.map_or_else(|| "its PF's driver".to_owned(), |name| format!("driver {name}"));
    let message = format!("cannot {setting}: {driver} does not report the {}", setting.name());
    ChangeError::new(Reason::NotSupported, vf, message)
        .with_remedy("Leave this setting out; what cannot be read back is not set.")
}

/// What was asked of a PF's driver.
#[derive(Debug, Clone, Copy)]
pub(super) enum Asked {
    /// Another address.
    Mac(MacAddress),
    /// Another setting.
    Setting(VfSetting),
}

impl Asked {
    fn tried(self) -> String {
        match self {
            Asked::Mac(mac) if mac.is_zero() => "clear its address".to_owned(),
            Asked::Mac(mac) => format!("set its address to {mac}"),
            Asked::Setting(setting) => setting.to_string(),
        }
    }

    fn name(self) -> &'static str {
        match self {
            Asked::Mac(_) => "address",
            Asked::Setting(setting) => setting.name(),
        }
    }

    /// What drivers that know the setting want of its value.
    fn wanted(self) -> &'static str {
        match self {
            Asked::Mac(mac) if mac.is_zero() => {
                "Some drivers do not let an address be cleared: give the VF another one."
            }
            Asked::Mac(_) => "Use an address of one station, such as 02:00:00:00:00:01.",
            Asked::Setting(VfSetting::Rate(_)) => {
                "Drivers limit rates only while the PF has a link, to at most its speed, and many \
                 know no least rate."
            }
            Asked::Setting(VfSetting::Vlan(_)) => {
                "Try without a priority, or another VLAN; the kernel's log (dmesg) may say more."
            }
            Asked::Setting(_) => "The kernel's log (dmesg) may say more.",
        }
    }
}

/// What an answer of the kernel means here: the attribute, the driver, the remedy.
pub(super) fn explain(
    vf: VfRef,
    driver: Option<&str>,
    asked: Asked,
    error: &NetlinkError,
) -> ChangeError {
    let tried = asked.tried();
    let driver =
        driver.map_or_else(|| "its PF's driver".to_owned(), |name| format!("driver {name}"));
    let said = error.said.as_ref().map(|said| format!(" ({said})")).unwrap_or_default();
    let because = |reason, cause: String, remedy: &str| {
        ChangeError::new(reason, vf, format!("cannot {tried}: {cause}{said}")).with_remedy(remedy)
    };
    match error.source.raw_os_error() {
        Some(EOPNOTSUPP) => because(
            Reason::NotSupported,
            format!("{driver} does not support setting the {} of a VF", asked.name()),
            "Leave this setting out, or use a driver for the PF that knows it.",
        ),
        Some(EPROTONOSUPPORT) => because(
            Reason::NotSupported,
            format!("{driver} does not support {} for VFs", VlanProtocol::Ieee8021Ad),
            "Use 802.1Q.",
        ),
        Some(EINVAL | ERANGE | EADDRNOTAVAIL) => because(
            Reason::KernelRefused,
            format!("{driver} does not accept this value ({})", error.source),
            asked.wanted(),
        ),
        Some(EPERM | EACCES) => because(
            Reason::NotPermitted,
            error.source.to_string(),
            "Run assign as root, on the host and not in a container.",
        ),
        Some(ENETDOWN | EBUSY | EAGAIN) => because(
            Reason::KernelRefused,
            format!("the PF is down or busy ({})", error.source),
            "Set its interface up, and try again in a moment.",
        ),
        _ => because(
            Reason::KernelRefused,
            error.source.to_string(),
            "The kernel's log (dmesg) may say why.",
        ),
    }
}

/// Gives a VF that many MSI-X vectors, which the kernel takes while the VF has no driver only
/// (Documentation/ABI/testing/sysfs-bus-pci, `sriov_vf_msix_count`). The file cannot be read: what
/// came of it is in the VF's MSI-X capability.
fn set_vectors(root: &HostRoot, vf: VfRef, step: Step<u16>) -> Result<Done, ChangeError> {
    let address = locate(root, Target::Vf(vf))?;
    let tried = VfSetting::Msix(step).to_string();
    if !divides_vectors(root, vf) {
        let driver = function(root, vf.pf)?.driver;
        let driver = driver.map_or_else(
            || "its PF has no driver, which".to_owned(),
            |name| format!("driver {name} of its PF"),
        );
        let message = format!("cannot {tried}: {driver} does not divide vectors among VFs");
        return Err(ChangeError::new(Reason::NotSupported, vf, message)
            .with_remedy("Leave --msix out; few drivers can (mlx5 is one)."));
    }
    let path = root.pci_attribute(address, "sriov_vf_msix_count");
    let present = vectors(root, address);
    if present == Some(step.to) {
        return Ok(Done::Already);
    }
    if step.from != 0 && present != Some(step.from) {
        let shown = |count: Option<u16>| match count {
            Some(count) => format!("{count} MSI-X vectors"),
            None => "no MSI-X".to_owned(),
        };
        return Err(stale(vf, &shown(present), &shown(Some(step.from))));
    }
    if let Some(driver) = function(root, address)?.driver {
        let message = format!("will not {tried}: {driver} has it, and uses those it has");
        return Err(ChangeError::new(Reason::HasDriver, vf, message)
            .with_remedy("Take it from its driver first."));
    }
    attribute::write(root, &path, &format!("{}\n", step.to)).map_err(|error| {
        let because = |reason, cause: &str, remedy: &str| {
            ChangeError::new(reason, vf, format!("cannot {tried}: {cause}")).with_remedy(remedy)
        };
        match error.source.raw_os_error() {
            Some(EOPNOTSUPP) => because(
                Reason::NotSupported,
                "its PF's driver cannot do it now (EOPNOTSUPP)",
                "Bind the host's driver to the PF first.",
            ),
            Some(EBUSY) => because(
                Reason::HasDriver,
                "a driver has taken it in between (EBUSY)",
                "Take it from its driver first.",
            ),
            Some(EINVAL | ERANGE | ENOSPC) => because(
                Reason::OutOfVectors,
                "the PF has not that many to give (sriov_vf_total_msix says how many in all)",
                "Ask for fewer, or take some from other VFs first.",
            ),
            _ => ChangeError::attribute(vf, &tried, &error),
        }
    })?;
    let seen = vectors(root, address);
    if step.to == 0 || seen == Some(step.to) {
        return Ok(Done::Changed);
    }
    let shown = seen.map_or_else(|| "none".to_owned(), |count| count.to_string());
    let message = format!("could not {tried}: it was accepted, and the VF has {shown}");
    Err(ChangeError::new(Reason::NotObserved, vf, message))
}

/// Whether the driver of a VF's PF gives its VFs vectors from a pool: the kernel shows the files of
/// that for every driver, and 0 in all where one does not (drivers/pci/iov.c).
pub fn divides_vectors(root: &HostRoot, vf: VfRef) -> bool {
    let pool = attribute::read(&root.pci_attribute(vf.pf, "sriov_vf_total_msix")).ok().flatten();
    pool.and_then(|text| text.parse().ok()).is_some_and(|pool: u32| pool > 0)
}

/// How many MSI-X vectors a function has; `None` where its configuration space does not tell.
pub fn vectors(root: &HostRoot, address: PciAddress) -> Option<u16> {
    let capabilities = pci::capabilities_of(&mut Reader::new(root), address)?;
    capabilities.msix.map(|msix| msix.vectors)
}

/// Remembers what a VF has, before it goes: looks whether that is still so.
pub fn remember(root: &HostRoot, vf: VfRef, had: &VfState) -> Result<Done, ChangeError> {
    let function = function(root, locate(root, Target::Vf(vf))?)?;
    let present = bind::binding(&function);
    if !present.same_hands(&had.binding) {
        return Err(stale(vf, &present.to_string(), &had.binding.to_string()));
    }
    Ok(Done::Changed)
}

/// Gives a VF that was made anew what it had: its settings first, for its driver to find them. One
/// that fails keeps none of the others from it; the first failure is told.
pub fn remake(root: &HostRoot, vf: VfRef, had: &VfState) -> Result<Done, ChangeError> {
    let address = locate(root, Target::Vf(vf))?;
    let mut first = None;
    if let Some(settings) = had.settings.as_ref().filter(|_| root.has_kernel()) {
        let port = port(root, vf.pf)?;
        let tried = "give it the settings it had";
        let mut netlink = rtnetlink(root, vf, tried)?;
        let driver = function(root, vf.pf)?.driver;
        let present = read(&mut netlink, &port, vf, tried)?;
        for (asked, value) in missing(&present, settings) {
            if let Err(error) = netlink.set_vf(port.index, vf.index, value) {
                first.get_or_insert_with(|| explain(vf, driver.as_deref(), asked, &error));
            }
        }
    }
    let present: Binding = bind::binding(&function(root, address)?);
    if !present.same_hands(&had.binding) {
        let back = bind::restore(root, Target::Vf(vf), &present, &had.binding, false);
        if let Err(error) = back {
            first.get_or_insert(error);
        }
    }
    first.map_or(Ok(Done::Changed), Err)
}

/// What it takes to come from one set of settings to another.
fn missing(present: &VfSettings, wanted: &VfSettings) -> Vec<(Asked, VfValue)> {
    let mut missing = Vec::new();
    if present.mac != wanted.mac {
        missing.push((Asked::Mac(wanted.mac), VfValue::Mac(wanted.mac)));
    }
    let settings = [
        (VfSetting::Vlan(Step { from: present.vlan, to: wanted.vlan }), VfValue::Vlan(wanted.vlan)),
        (
            VfSetting::LinkState(Step { from: present.link_state, to: wanted.link_state }),
            VfValue::LinkState(wanted.link_state),
        ),
        (VfSetting::Rate(Step { from: present.rate, to: wanted.rate }), VfValue::Rate(wanted.rate)),
    ];
    missing.extend(settings.into_iter().map(|(setting, value)| (Asked::Setting(setting), value)));
    if let (Some(from), Some(to)) = (present.trust, wanted.trust) {
        let step = VfSetting::Trust(Step { from, to });
        missing.push((Asked::Setting(step), VfValue::Trust(to)));
    }
    if let (Some(from), Some(to)) = (present.spoof_check, wanted.spoof_check) {
        let step = VfSetting::SpoofCheck(Step { from, to });
        missing.push((Asked::Setting(step), VfValue::SpoofCheck(to)));
    }
    missing.retain(|(asked, _)| match asked {
        Asked::Mac(_) => true,
        Asked::Setting(setting) => !setting.is_nothing(),
    });
    missing
}

#[cfg(test)]
mod tests;
