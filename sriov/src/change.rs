//! Every change this project makes to a host: one small step, its dry-run text, and its reverse.
//!
//! A step says what it expects to find (`from`), so that its reverse is known before it is done
//! and can be journalled first. [`Change::perform`] reads the device again right before it acts,
//! refuses when it is not as expected, and reads the result right after: success means observed.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::act;
use crate::address::{PciAddress, VfRef};
use crate::facts::shown::Shown;
use crate::failure::{ChangeError, Reason};
use crate::isolation::is_vfio_driver;
use crate::mac::MacAddress;
use crate::nvme::{SecondaryState, Share};
use crate::root::HostRoot;
use crate::vf_settings::{VfSetting, VfState};

/// The device of a step. A VF is named by its PF and index, since it may not be there yet, and
/// may sit at another address when it is made anew.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Target {
    /// A function by its address.
    Function(PciAddress),
    /// A virtual function by its place below its PF.
    Vf(VfRef),
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Target::Function(address) => address.fmt(f),
            Target::Vf(vf) => vf.fmt(f),
        }
    }
}

/// Who has a device: its driver, and the override that decides who may.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Binding {
    /// The driver it is bound to.
    pub driver: Option<String>,
    /// Its `driver_override`.
    pub driver_override: Option<String>,
    /// For a VF of a network card: the address that its PF gives it before the driver looks, so that
    /// the host finds the same card again. `None` where it is left alone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mac: Option<MacAddress>,
    /// What its driver shows of it, where somebody else is to have it: its interfaces go with the
    /// driver, and people know it by them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub shown: Option<Box<Shown>>,
}

impl Binding {
    /// Bound to `driver` by an override, as assign binds.
    pub fn forced(driver: &str) -> Binding {
        let driver = Some(driver.to_owned());
        Binding { driver_override: driver.clone(), driver, mac: None, shown: None }
    }

    /// Whether the same driver has it, under the same override.
    pub fn same_hands(&self, other: &Binding) -> bool {
        (&self.driver, &self.driver_override) == (&other.driver, &other.driver_override)
    }
}

impl fmt::Display for Binding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.driver.as_deref().unwrap_or("no driver"))?;
        match &self.driver_override {
            Some(name) if Some(name) != self.driver.as_ref() => write!(f, " (override {name})"),
            _ => Ok(()),
        }
    }
}

/// One step. Its `Display` is what a dry run shows.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "change", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Change {
    /// Whether the host binds drivers to new VFs of a PF by itself.
    SetAutoprobe {
        /// The PF.
        pf: PciAddress,
        /// As it is.
        from: bool,
        /// As it is to be.
        to: bool,
    },
    /// How many VFs a PF has. One of the two numbers is 0: the kernel takes no other step.
    SetVfCount {
        /// The PF.
        pf: PciAddress,
        /// As it is.
        from: u16,
        /// As it is to be.
        to: u16,
    },
    /// Whether a PF's interface is up; VFs do not answer below one that is down.
    SetLink {
        /// The PF.
        pf: PciAddress,
        /// Its interface, for people; it is looked up again by the PF.
        netdev: String,
        /// As it is.
        from: bool,
        /// As it is to be.
        to: bool,
    },
    /// Whether a PF's interface takes addresses and routes that routers advertise: the host is not to
    /// join a network only because its VFs need the interface up.
    SetAcceptRa {
        /// The PF.
        pf: PciAddress,
        /// Its interface, for people; it is looked up again by the PF.
        netdev: String,
        /// As it is: 0 no, 1 unless the host forwards, 2 yes.
        from: u8,
        /// As it is to be.
        to: u8,
    },
    /// The administrative address of a VF.
    SetVfMac {
        /// The VF.
        vf: VfRef,
        /// As it is; all zero for none.
        from: MacAddress,
        /// As it is to be.
        to: MacAddress,
    },
    /// What an NVMe PF has of the pool of queues and interrupts that it shares with its VFs. Its
    /// function is reset for it: what it carries waits for that long.
    SetNvmePrimary {
        /// The PF.
        pf: PciAddress,
        /// As it is.
        from: Share,
        /// As it is to be.
        to: Share,
        /// What the host uses it for, for people: "nvme0n1 → /". What is in use is asked about.
        used: Option<String>,
    },
    /// The controller of an NVMe VF: its queues and interrupts, and whether it is online.
    SetNvmeSecondary {
        /// The VF, which need not exist now.
        vf: VfRef,
        /// Its controller's identifier within the drive.
        controller: u16,
        /// As it is.
        from: SecondaryState,
        /// As it is to be.
        to: SecondaryState,
    },
    /// One setting of a VF that is not its address.
    SetVf {
        /// The VF.
        vf: VfRef,
        /// Which setting, as it is and as it is to be.
        setting: VfSetting,
    },
    /// Remembers what a VF has before it goes away with all VFs of its PF. Nothing is changed by it;
    /// taking it back is what makes the VF as it was.
    RememberVf {
        /// The VF.
        vf: VfRef,
        /// What it has.
        had: VfState,
    },
    /// Gives a VF that was made anew what it had before.
    RemakeVf {
        /// The VF.
        vf: VfRef,
        /// What it had.
        had: VfState,
    },
    /// Gives a device to a driver by an override, and to no other.
    Bind {
        /// The device.
        device: Target,
        /// As it is.
        from: Binding,
        /// The driver that gets it.
        driver: String,
    },
    /// Puts a device's driver and override back.
    Restore {
        /// The device.
        device: Target,
        /// As it is.
        from: Binding,
        /// As it is to be.
        to: Binding,
    },
    /// Lets the host's own drivers have a device: whichever the kernel finds for it, or none where the
    /// host is not to bind drivers to it.
    Yield {
        /// The device.
        device: Target,
        /// As it is.
        from: Binding,
    },
    /// The way back: takes a device from whichever driver of the host has it.
    Retake {
        /// The device.
        device: Target,
        /// As it is to be.
        to: Binding,
    },
    /// A step that takes devices from the host although it uses them, because a person said so for
    /// each of them.
    Forced {
        /// The step.
        step: Box<Change>,
        /// The devices that were named.
        devices: Vec<PciAddress>,
        /// What the host loses, as chains: "0000:01:00.0 → eth0 → default route".
        lost: Vec<String>,
        /// Why that is right, in the words of whoever said so in a policy.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        because: Option<String>,
    },
}

/// How to take a step back.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Undo {
    /// It was as wanted before: there is nothing to take back.
    Nothing,
    /// By this step.
    Change(Change),
    /// It cannot be taken back, for this reason.
    Impossible(String),
}

impl Change {
    /// The device it changes.
    pub fn device(&self) -> Target {
        match self {
            Change::SetAutoprobe { pf, .. }
            | Change::SetVfCount { pf, .. }
            | Change::SetAcceptRa { pf, .. }
            | Change::SetLink { pf, .. } => Target::Function(*pf),
            Change::SetNvmePrimary { pf, .. } => Target::Function(*pf),
            Change::SetVfMac { vf, .. }
            | Change::SetNvmeSecondary { vf, .. }
            | Change::SetVf { vf, .. }
            | Change::RememberVf { vf, .. }
            | Change::RemakeVf { vf, .. } => Target::Vf(*vf),
            Change::Bind { device, .. }
            | Change::Restore { device, .. }
            | Change::Yield { device, .. }
            | Change::Retake { device, .. } => *device,
            Change::Forced { step, .. } => step.device(),
        }
    }

    /// The step itself, whether or not it is forced.
    pub fn plain(&self) -> &Change {
        match self {
            // A forced step is not forced again; what a file says of it is no loop either.
            Change::Forced { step, .. } => step,
            step => step,
        }
    }

    /// What it does, for a sentence that names the device elsewhere: "destroy its 4 VFs".
    pub fn action(&self) -> Action<'_> {
        Action(self)
    }

    /// The reverse, known beforehand.
    ///
    /// Destroyed VFs come back by number only: what they had is remembered in steps of its own.
    pub fn undo(&self) -> Undo {
        Undo::Change(match self.clone() {
            Change::SetAutoprobe { pf, from, to } => {
                Change::SetAutoprobe { pf, from: to, to: from }
            }
            Change::SetVfCount { pf, from, to } => Change::SetVfCount { pf, from: to, to: from },
            Change::SetLink { pf, netdev, from, to } => {
                Change::SetLink { pf, netdev, from: to, to: from }
            }
            Change::SetAcceptRa { pf, netdev, from, to } => {
                Change::SetAcceptRa { pf, netdev, from: to, to: from }
            }
            Change::SetVfMac { vf, from, to } => Change::SetVfMac { vf, from: to, to: from },
            Change::SetNvmePrimary { pf, from, to, used } => {
                Change::SetNvmePrimary { pf, from: to, to: from, used }
            }
            Change::SetNvmeSecondary { vf, controller, from, to } => {
                Change::SetNvmeSecondary { vf, controller, from: to, to: from }
            }
            Change::SetVf { vf, setting } => Change::SetVf { vf, setting: setting.back() },
            Change::RememberVf { vf, had } => Change::RemakeVf { vf, had },
            Change::RemakeVf { vf, had } => Change::RememberVf { vf, had },
            Change::Bind { device, from, driver } => {
                Change::Restore { device, from: Binding::forced(&driver), to: from }
            }
            Change::Restore { device, from, to } => Change::Restore { device, from: to, to: from },
            Change::Yield { device, from } => Change::Retake { device, to: from },
            Change::Retake { device, to } => Change::Yield { device, from: to },
            // The way back takes nothing from the host.
            Change::Forced { step, .. } => return step.undo(),
        })
    }

    /// Whether somebody may notice: VFs disappear, or a device changes hands under its user.
    pub fn is_disruptive(&self) -> bool {
        match self {
            Change::SetVfCount { from, .. } => *from > 0,
            Change::SetLink { to, .. } => !to,
            Change::SetNvmePrimary { used, .. } => used.is_some(),
            Change::Forced { .. } => true,
            _ => false,
        }
    }

    /// Does it: reads its precondition, acts, reads the result. A device that is already as wanted
    /// is left alone, and [`Undo::Nothing`] says so.
    ///
    /// # Errors
    /// Says what was in the way; the device is then as before, or the message says how it is.
    pub fn perform(&self, root: &HostRoot) -> Result<Undo, ChangeError> {
        let (step, forced): (&Change, &[PciAddress]) = match self {
            Change::Forced { step, devices, .. } => (step, devices),
            step => (step, &[]),
        };
        let done = match step {
            Change::SetAutoprobe { pf, from, to } => act::vfs::set_autoprobe(root, *pf, *from, *to),
            Change::SetVfCount { pf, from, to } => {
                act::vfs::set_count(root, *pf, *from, *to, forced)
            }
            Change::SetLink { pf, from, to, .. } => act::link::set_up(root, *pf, *from, *to),
            Change::SetAcceptRa { pf, from, to, .. } => {
                act::link::set_accept_ra(root, *pf, *from, *to)
            }
            Change::SetVfMac { vf, to, .. } => act::link::set_vf_mac(root, *vf, *to),
            Change::SetNvmePrimary { pf, from, to, .. } => {
                act::nvme::set_primary(root, *pf, *from, *to)
            }
            Change::SetNvmeSecondary { vf, controller, from, to } => {
                act::nvme::set_secondary(root, *vf, *controller, *from, *to)
            }
            Change::SetVf { vf, setting } => act::vf_settings::set(root, *vf, *setting),
            Change::RememberVf { vf, had } => act::vf_settings::remember(root, *vf, had),
            Change::RemakeVf { vf, had } => act::vf_settings::remake(root, *vf, had),
            Change::Bind { device, from, driver } => {
                act::bind::bind(root, *device, from, driver, !forced.is_empty())
            }
            Change::Restore { device, from, to } => {
                act::bind::restore(root, *device, from, to, !forced.is_empty())
            }
            Change::Yield { device, from } => act::bind::give_up(root, *device, from),
            Change::Retake { device, to } => act::bind::retake(root, *device, to),
            Change::Forced { step, .. } => {
                let message = "this step is forced twice, which no command does";
                Err(ChangeError::new(Reason::Stale, step.device(), message))
            }
        }?;
        Ok(match done {
            act::Done::Already => Undo::Nothing,
            act::Done::Changed => self.undo(),
        })
    }
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.device(), self.action())
    }
}

/// What a step does, without the device it does it to.
#[derive(Debug, Clone, Copy)]
pub struct Action<'a>(&'a Change);

impl fmt::Display for Action<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Change::SetAutoprobe { to: true, .. } => {
                f.write_str("let the host bind drivers to new VFs")
            }
            Change::SetAutoprobe { to: false, .. } => {
                f.write_str("keep the host's drivers off new VFs")
            }
            Change::SetVfCount { from, to: 0, .. } => write!(f, "destroy its {}", vfs(*from)),
            Change::SetVfCount { to, .. } => write!(f, "create {}", vfs(*to)),
            Change::SetLink { netdev, to: true, .. } => write!(f, "set {netdev} up"),
            Change::SetLink { netdev, to: false, .. } => write!(f, "set {netdev} down"),
            Change::SetAcceptRa { netdev, to: 0, .. } => {
                write!(f, "let {netdev} ignore router advertisements")
            }
            Change::SetAcceptRa { netdev, .. } => {
                write!(f, "let {netdev} heed router advertisements")
            }
            Change::SetVfMac { to, .. } if to.is_zero() => f.write_str("clear its address"),
            Change::SetVfMac { to, .. } => write!(f, "set its address to {to}"),
            Change::SetNvmePrimary { to, used, .. } => {
                write!(f, "reset it, for it to have {to} of the pool")?;
                match used {
                    Some(used) => write!(f, " ({used} waits for that long)"),
                    None => Ok(()),
                }
            }
            Change::SetNvmeSecondary { to, .. } => {
                match (to.online, *to == SecondaryState::default()) {
                    (true, _) => write!(f, "give it {} and set it online", to.share()),
                    (false, true) => f.write_str("set it offline and take its share back"),
                    (false, false) => write!(f, "give it {} and leave it offline", to.share()),
                }
            }
            Change::SetVf { setting, .. } => setting.fmt(f),
            Change::RememberVf { had, .. } => write!(f, "remember what it has: {had}"),
            Change::RemakeVf { had, .. } => write!(f, "give it what it had: {had}"),
            Change::Bind { from, driver, .. } => {
                write!(f, "bind to {driver}")?;
                if driver != "vfio-pci" && is_vfio_driver(driver) {
                    f.write_str(" (the variant of vfio-pci for this device)")?;
                }
                from.driver.as_ref().map_or(Ok(()), |old| write!(f, " instead of {old}"))
            }
            Change::Restore { from, to, .. } if from.driver == to.driver => {
                match (&to.driver_override, &to.driver, to.mac) {
                    (_, Some(driver), Some(mac)) if from.same_hands(to) => {
                        write!(f, "have {driver} begin anew as {mac}")
                    }
                    (Some(name), ..) => write!(f, "keep it for {name} by its override"),
                    (None, ..) => f.write_str("let any driver have it next"),
                }
            }
            Change::Restore { from, to, .. } => match (&to.driver, to.mac) {
                (Some(driver), None) if *from == Binding::default() => {
                    write!(f, "give to {driver}")
                }
                (Some(driver), Some(mac)) if !is_vfio_driver(driver) => {
                    write!(f, "give back to {driver} as {mac}")
                }
                (Some(driver), _) => write!(f, "give back to {driver}"),
                (None, _) => f.write_str("give back without a driver"),
            },
            Change::Yield { from, .. } => match &from.driver {
                Some(driver) => write!(f, "give back from {driver} to the host's driver"),
                None => f.write_str("let the host's driver have it"),
            },
            Change::Retake { to, .. } => match (&to.driver, to.mac) {
                (Some(driver), Some(mac)) if !is_vfio_driver(driver) => {
                    write!(f, "leave it to {driver} as {mac}")
                }
                (Some(driver), _) => write!(f, "take it from the host's driver for {driver}"),
                (None, _) => f.write_str("take it from the host's driver"),
            },
            Change::Forced { step, lost, because, .. } => {
                write!(f, "{}, by force: the host loses {}", step.action(), lost.join(", "))?;
                because.as_ref().map_or(Ok(()), |because| write!(f, " (allowed: {because})"))
            }
        }
    }
}

fn vfs(count: u16) -> String {
    if count == 1 { "1 VF".to_owned() } else { format!("{count} VFs") }
}
