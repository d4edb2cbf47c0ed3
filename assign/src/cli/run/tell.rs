//! What `assign run` says of its guest: on standard error as long as there is a terminal, and always in
//! the guest's history.

use std::io::{self, IsTerminal};
use std::sync::{Mutex, PoisonError};
use std::time::SystemTime;

use serde::Serialize;
use sriov::PciAddress;
use sriov::dma_fault::{Blocked, DmaFault};

use crate::choose::Choice;
use crate::cli::{Context, Format, output, stats};
use crate::control::Detached;
use crate::control::stats::Entry;
use crate::detach::Behind;
use crate::failure::Failure;
use crate::history::write::History;
use crate::history::{Event, How, What, happened};
use crate::launch::{Interface, Told};
use crate::terminal;

/// Says what happens to one guest.
pub struct Teller<'a> {
    guest: &'a str,
    format: Format,
    /// What the end of a line is on the terminal, which does not begin the next one by itself while it
    /// is the guest's console.
    line_end: &'static str,
    history: Mutex<History>,
    stage: Mutex<Stage>,
}

/// How far the guest and its launcher have come.
struct Stage {
    place: At,
    /// The guest has run.
    starts: bool,
    /// Its last end was told.
    ends: bool,
}

/// Where its launcher is.
enum At {
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
        let place = behind.map_or(At::InFront, At::Leaves);
        Teller {
            guest,
            format: context.format,
            line_end: if is_raw { "\r\n" } else { "\n" },
            history: Mutex::new(History::open(context.state.guest(guest))),
            stage: Mutex::new(Stage { place, starts: false, ends: false }),
        }
    }

    /// Says what happened.
    pub fn tell(&self, told: &Told<'_>) {
        let events = happened(told).into_iter().map(|what| self.write(what)).collect::<Vec<_>>();
        if !self.has_left() {
            self.show(told, &events);
        }
        match told {
            Told::Started => {
                self.stage().starts = true;
                self.leave();
            }
            Told::Ended { .. } => self.stage().ends = true,
            _ => {}
        }
    }

    /// Says it to whoever is there. What keeps a guest from going on is the command's to say.
    fn show(&self, told: &Told<'_>, events: &[String]) {
        let program = (self.format == Format::Json).then(|| json(self.guest, told)).flatten();
        match (told, program) {
            (_, Some(line)) => self.say(&[line]),
            (Told::Started | Told::Ended { failure: Some(_), .. }, None) => {}
            (Told::Ended { .. }, None) if self.format != Format::Table => {}
            (Told::Console, None) if self.format == Format::Json => {}
            (Told::Console, None) => {
                let guest = self.guest;
                self.say(&[format!("console of {guest}; Ctrl-] leaves it and stops the guest")]);
            }
            (Told::Timeline(entries), None) => {
                let width = output::width(io::stderr()).map(usize::from);
                self.say(&[format!("{}: what its start took:", self.guest)]);
                self.say(&stats::timeline(entries).lines(width));
            }
            (_, None) => self.say(events),
        }
    }

    /// Writes down why the guest did not start, or did not go on, where that was not told.
    pub fn failed(&self, failure: &Failure) {
        let Stage { starts, ends, .. } = *self.stage();
        match (starts, ends) {
            (_, true) => {}
            (true, false) => drop(self.write(What::broke(How::Failed, failure))),
            (false, false) => drop(self.write(What::not_started(failure))),
        }
    }

    fn leave(&self) {
        let mut stage = self.stage();
        if !matches!(stage.place, At::Leaves(_)) {
            return;
        }
        let At::Leaves(behind) = std::mem::replace(&mut stage.place, At::Left) else { return };
        let guest = self.guest;
        if self.format == Format::Table {
            self.say(&[format!("{guest}: runs; `assign console {guest}` shows its console")]);
        }
        if let Err(error) = behind.leave() {
            let note = format!("{guest}: the terminal is not let go of: {error}");
            self.write(What::note(&note));
        }
    }

    fn say(&self, lines: &[String]) {
        for line in lines {
            anstream::eprint!("{line}{}", self.line_end);
        }
    }

    /// Writes it down, and returns it for people.
    fn write(&self, what: What<'_>) -> String {
        // Several threads may tell: what is written first has happened first.
        let mut history = self.history.lock().unwrap_or_else(PoisonError::into_inner);
        let event = Event::new(SystemTime::now(), self.guest, what);
        history.write(&event);
        event.message().to_owned()
    }

    fn has_left(&self) -> bool {
        matches!(self.stage().place, At::Left)
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
        Told::NetworkDown { network, reason } => Happened::NetworkDown { guest, network, reason },
        Told::NetworkUp { network } => Happened::NetworkUp { guest, network },
        Told::DmaFault(DmaFault { device, blocked }) => {
            Happened::DmaFault { guest, device: *device, blocked }
        }
        Told::Trouble(error) => Happened::Trouble { guest, error },
        Told::Timeline(timeline) => Happened::Timeline { guest, timeline },
        Told::NoDevices(because) => Happened::NoDevices { guest, because },
        Told::Rebooting => Happened::Rebooting { guest },
        Told::Vsock { cid } => Happened::Vsock { guest, cid: *cid },
        Told::Boots { disk, entry } => Happened::Boots { guest, disk, entry },
        Told::Overcommitted { vcpus, host_cpus } => {
            Happened::Overcommitted { guest, vcpus: *vcpus, host_cpus: *host_cpus }
        }
        Told::Paused => Happened::Paused { guest },
        Told::Resumed => Happened::Resumed { guest },
        Told::Ended { .. }
        | Told::Memory(_)
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
    NetworkDown {
        guest: &'a str,
        network: &'a str,
        reason: &'a str,
    },
    NetworkUp {
        guest: &'a str,
        network: &'a str,
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
    Paused {
        guest: &'a str,
    },
    Resumed {
        guest: &'a str,
    },
    Vsock {
        guest: &'a str,
        cid: u32,
    },
    Boots {
        guest: &'a str,
        disk: &'a str,
        entry: &'a str,
    },
    Overcommitted {
        guest: &'a str,
        vcpus: u8,
        host_cpus: u32,
    },
}
