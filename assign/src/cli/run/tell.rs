//! What `assign run` says of its guest: on standard error as long as there is a terminal, and always in
//! the guest's events.log.

use std::io::{self, IsTerminal};
use std::sync::{Mutex, PoisonError};
use std::time::SystemTime;

use serde::Serialize;
use sriov::PciAddress;
use sriov::dma_fault::{Blocked, DmaFault};

use crate::choose::{Choice, Connection, DeviceChoice};
use crate::cli::{Context, Format, output, stats};
use crate::control::Detached;
use crate::control::stats::Entry;
use crate::detach::Behind;
use crate::failure::Failure;
use crate::launch::log::{self, Log};
use crate::launch::{Ended, Interface, Told};
use crate::{overcommit, terminal, time};

/// Says what happens to one guest.
pub struct Teller<'a> {
    guest: &'a str,
    format: Format,
    /// What the end of a line is on the terminal, which does not begin the next one by itself while it
    /// is the guest's console.
    line_end: &'static str,
    log: Mutex<Option<Log>>,
    stage: Mutex<Stage>,
}

enum Stage {
    /// The terminal is there.
    InFront,
    /// It is, until the guest has started.
    Leaves(Behind),
    /// It is there no more.
    Left,
}

impl<'a> Teller<'a> {
    /// Of the guest with this name, which lets go of the terminal on the way where it is to be
    /// `behind` it.
    pub fn new(context: &Context, guest: &'a str, behind: Option<Behind>) -> Teller<'a> {
        let is_raw = behind.is_none() && terminal::is_ours() && io::stderr().is_terminal();
        // Where nothing can be written, `Told::Unwritten` says so for both files.
        let log = Log::open(context.state.guest(guest).join(log::EVENTS)).ok();
        Teller {
            guest,
            format: context.format,
            line_end: if is_raw { "\r\n" } else { "\n" },
            log: Mutex::new(log),
            stage: Mutex::new(behind.map_or(Stage::InFront, Stage::Leaves)),
        }
    }

    /// Says what happened.
    pub fn tell(&self, told: &Told<'_>) {
        if !matches!(told, Told::Console | Told::Timeline(_)) {
            self.write(&text(self.guest, told, None));
        }
        if !self.has_left() {
            let program = (self.format == Format::Json).then(|| json(self.guest, told)).flatten();
            let width = output::width(io::stderr()).map(usize::from);
            match (told, program) {
                (_, Some(line)) => self.say(&[line]),
                (Told::Started, None) => {}
                (Told::Console, None) if self.format == Format::Json => {}
                (_, None) => self.say(&text(self.guest, told, width)),
            }
        }
        if matches!(told, Told::Started) {
            self.leave();
        }
    }

    /// Says how it ended, beside what the command itself says of a failure.
    pub fn ended(&self, ended: &Result<Ended, Failure>) {
        let how = match ended {
            Ok(Ended::PoweredOff) => "powered off",
            Ok(Ended::Stopped) => "stopped",
            Err(failure) => return self.write(&[format!("assign: {failure}")]),
        };
        let line = format!("{}: {how}", self.guest);
        self.write(std::slice::from_ref(&line));
        if self.format == Format::Table && !self.has_left() {
            self.say(&[line]);
        }
    }

    fn leave(&self) {
        let mut stage = self.stage();
        if !matches!(*stage, Stage::Leaves(_)) {
            return;
        }
        let Stage::Leaves(behind) = std::mem::replace(&mut *stage, Stage::Left) else { return };
        let guest = self.guest;
        if self.format == Format::Table {
            self.say(&[format!("{guest}: runs; `assign console {guest}` shows its console")]);
        }
        if let Err(error) = behind.leave() {
            self.write(&[format!("assign: {guest}: the terminal is not let go of: {error}")]);
        }
    }

    fn say(&self, lines: &[String]) {
        for line in lines {
            anstream::eprint!("{line}{}", self.line_end);
        }
    }

    fn write(&self, lines: &[String]) {
        let mut log = self.log.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(log) = log.as_mut() else { return };
        let time = time::utc(SystemTime::now());
        for line in lines {
            // A disk that is full now may have room again later.
            log.write(format!("{time} {line}\n").as_bytes()).ok();
        }
    }

    fn has_left(&self) -> bool {
        matches!(*self.stage(), Stage::Left)
    }

    fn stage(&self) -> std::sync::MutexGuard<'_, Stage> {
        self.stage.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What happened, for a program: one object in a line. Standard output is the guest's console.
fn json(guest: &str, told: &Told<'_>) -> Option<String> {
    let happened = match told {
        Told::Connected { choice, iommu } => {
            let decided = Decided { guest, choice, iommu: *iommu };
            return serde_json::to_string(&decided).ok();
        }
        Told::Started => Happened::Started { guest },
        Told::Attached(devices) => Happened::Attached { guest, devices },
        Told::Detached(detached) => Happened::Detached { guest, detached },
        Told::Wanted(device) => Happened::Wanted { guest, device: *device },
        Told::DeviceError(device) => Happened::DeviceError { guest, device },
        Told::DiskError { disk, detail } => Happened::DiskError { guest, disk, detail },
        Told::DmaFault(DmaFault { device, blocked }) => {
            Happened::DmaFault { guest, device: *device, blocked }
        }
        Told::Trouble(error) => Happened::Trouble { guest, error },
        Told::Timeline(timeline) => Happened::Timeline { guest, timeline },
        Told::NoDevices(because) => Happened::NoDevices { guest, because },
        Told::Rebooting => Happened::Rebooting { guest },
        Told::Overcommitted { vcpus, host_cpus } => {
            Happened::Overcommitted { guest, vcpus: *vcpus, host_cpus: *host_cpus }
        }
        Told::Memory(_)
        | Told::Packed(_)
        | Told::FaultsUnheard(_)
        | Told::Unwritten(_)
        | Told::NoSandbox
        | Told::Console => return None,
    };
    serde_json::to_string(&happened).ok()
}

/// The decisions for a program.
#[derive(Debug, Serialize)]
struct Decided<'a> {
    guest: &'a str,
    #[serde(flatten)]
    choice: &'a Choice,
    #[serde(skip_serializing_if = "Option::is_none")]
    iommu: Option<Interface>,
}

/// What happens to a running guest, for a program, beside [`Decided`].
#[derive(Debug, Serialize)]
#[serde(tag = "event", rename_all = "kebab-case")]
enum Happened<'a> {
    Started {
        guest: &'a str,
    },
    Attached {
        guest: &'a str,
        devices: &'a [PciAddress],
    },
    Detached {
        guest: &'a str,
        #[serde(flatten)]
        detached: &'a Detached,
    },
    Wanted {
        guest: &'a str,
        device: PciAddress,
    },
    DeviceError {
        guest: &'a str,
        device: &'a str,
    },
    DiskError {
        guest: &'a str,
        disk: &'a str,
        detail: &'a str,
    },
    DmaFault {
        guest: &'a str,
        device: PciAddress,
        #[serde(flatten)]
        blocked: &'a Blocked,
    },
    Trouble {
        guest: &'a str,
        error: &'a Failure,
    },
    Timeline {
        guest: &'a str,
        timeline: &'a [Entry],
    },
    NoDevices {
        guest: &'a str,
        because: &'a str,
    },
    Rebooting {
        guest: &'a str,
    },
    Overcommitted {
        guest: &'a str,
        vcpus: u8,
        host_cpus: u32,
    },
}

/// The same for people.
fn text(guest: &str, told: &Told<'_>, width: Option<usize>) -> Vec<String> {
    let line = match told {
        Told::Connected { choice, iommu } => return connected(guest, choice, *iommu),
        Told::Memory(cause) => format!("assign: {guest}: {cause}"),
        Told::Overcommitted { vcpus, host_cpus } => {
            format!("{guest}: overcommitted: {}", overcommit::told((*vcpus).into(), *host_cpus))
        }
        Told::Packed(why) => {
            format!("assign: {guest}: its kernel unpacks itself at each start: {why}")
        }
        Told::NoDevices(cause) => format!("assign: {guest}: starting again without: {cause}"),
        Told::Unwritten(error) => {
            format!(
                "assign: {guest}: its console and what happens to it are not written down: {error}"
            )
        }
        Told::Console => format!("console of {guest}; Ctrl-] leaves it and stops the guest"),
        Told::Timeline(entries) => {
            let mut lines = vec![format!("{guest}: what its start took:")];
            lines.extend(stats::timeline(entries).lines(width));
            return lines;
        }
        Told::NoSandbox => format!(
            "assign: {guest}: NO SANDBOX: whoever breaks out of this guest is root on this host"
        ),
        Told::Started => format!("{guest}: runs"),
        Told::Rebooting => format!("{guest}: rebooted, starting again"),
        Told::Attached(devices) => {
            return devices.iter().map(|device| format!("{guest}: has {device} now")).collect();
        }
        Told::Detached(detached) => {
            let mut lines = vec![format!("{guest}: {}", detached.told())];
            lines.extend(detached.notes.iter().map(|note| format!("assign: {note}")));
            return lines;
        }
        Told::Wanted(device) => format!("{guest}: the host wants {device} back"),
        Told::DeviceError(device) => {
            format!("{guest}: {device} met an error that it cannot recover from")
        }
        Told::DiskError { disk, detail } => {
            format!("{guest}: disk {disk}: {detail}; the guest was told of an I/O error")
        }
        Told::DmaFault(DmaFault { device, blocked }) => {
            format!("{guest}: {device} reached for memory that is not the guest's: {blocked}")
        }
        Told::FaultsUnheard(error) => {
            format!("assign: {guest}: faults of its devices are not told: /dev/kmsg: {error}")
        }
        Told::Trouble(failure) => format!("assign: {failure}"),
    };
    vec![line]
}

fn connected(guest: &str, choice: &Choice, iommu: Option<Interface>) -> Vec<String> {
    // "… through vfio (iommufd)"
    let by = iommu.map(|iommu| format!(" ({iommu})")).unwrap_or_default();
    let networks = choice.networks.iter().map(|connection| {
        let by = if matches!(connection, Connection::Vfio { .. }) { &*by } else { "" };
        format!("{guest}: {connection}{by}")
    });
    let devices = choice.devices.iter().map(|device| {
        let by = if matches!(device, DeviceChoice::Given { .. }) { &*by } else { "" };
        format!("{guest}: {device}{by}")
    });
    networks.chain(devices).collect()
}
