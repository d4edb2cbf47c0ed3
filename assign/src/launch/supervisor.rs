//! A guest that runs: what is told of it, what is asked of it, and what is done when the host wants one of its
//! devices (`hotplug`).

mod hotplug;

use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use policies::{GuestPort, OnDeviceError};
use rustix::event::EventfdFlags;
use sriov::PciAddress;
use sriov::dma_fault::DmaFault;
use sriov::facts::iommu::group_of;
use vmm::spec::{Departure, GuestEvent, Request};

use super::link::Link;
use super::links::{Links, News};
use super::{Connected, Launch, Told, balloon, stats};
use crate::control::stats::Stats;
use crate::control::{
    self, Balloon, Ballooned, Doing, Nothing, Port, Running as Listed, Stop, Stopped,
};
use crate::failure::{Failure, OwnReason};

/// How long a guest gets for a device that the host wants back, or that has failed.
const WANTED_WITHIN: Duration = Duration::from_secs(10);
/// Why a device that is to be taken away need not be any more.
const ELSEWHERE: [OwnReason; 3] =
    [OwnReason::NotWithGuest, OwnReason::NoSuchGuest, OwnReason::Locked];
/// How long a guest's process may take to end once it has been told to: its devices are reset.
const ENDS_WITHIN: Duration = Duration::from_secs(30);

/// A guest that runs, for those who ask something of it.
pub struct Supervisor<'a, 'l, 'c> {
    launch: &'a Launch<'l>,
    link: &'a Link,
    pid: u32,
    /// By which the host's programs reach it over vsock.
    cid: Option<u32>,
    /// What it is to give of its memory, in bytes: in its next lives too.
    target: &'a AtomicU64,
    began: Instant,
    /// Written to where the guest's process is to be ended.
    ends: OwnedFd,
    running: Mutex<Running<'a, 'c>>,
    changed: Condvar,
    /// Held by whoever changes what the guest has leased: one at a time. Others change the host
    /// meanwhile, which is waited for, so `running` is not held then.
    leasing: Mutex<()>,
}

struct Running<'a, 'c> {
    connected: &'a mut Connected<'c>,
    /// Devices that somebody is taking away, and how each left once it has.
    leaving: BTreeMap<PciAddress, Option<Departure>>,
    /// Events without which it has not started yet.
    awaited: Vec<GuestEvent>,
    paused: bool,
    /// Somebody wants the guest to end, so that it is not started again.
    unwanted: bool,
    ended: bool,
}

impl<'a, 'l, 'c> Supervisor<'a, 'l, 'c> {
    /// Of a guest with these devices and this CID, whose process has this id, and which was asked to give
    /// `target` bytes of its memory.
    ///
    /// # Errors
    /// The kernel's.
    pub fn new(
        launch: &'a Launch<'l>,
        connected: &'a mut Connected<'c>,
        link: &'a Link,
        pid: u32,
        cid: Option<u32>,
        target: &'a AtomicU64,
    ) -> io::Result<Self> {
        let mut awaited = vec![GuestEvent::Started];
        if !connected.devices.is_empty() {
            awaited.push(GuestEvent::Pinned);
        }
        let running = Running {
            connected,
            leaving: BTreeMap::new(),
            awaited,
            paused: false,
            unwanted: false,
            ended: false,
        };
        let (running, changed) = (Mutex::new(running), Condvar::new());
        let ends = rustix::event::eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        let (began, leasing) = (Instant::now(), Mutex::default());
        Ok(Supervisor { launch, link, pid, cid, target, began, ends, running, changed, leasing })
    }

    /// Readable where the guest's process is to be ended.
    pub fn ends(&self) -> BorrowedFd<'_> {
        self.ends.as_fd()
    }

    /// Whether somebody wants the guest to end.
    pub fn is_unwanted(&self) -> bool {
        self.running().unwanted
    }

    fn running(&self) -> MutexGuard<'_, Running<'a, 'c>> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn name(&self) -> &str {
        &self.launch.guest.name
    }

    /// Whether the guest's process has ended.
    pub fn has_gone(&self) -> bool {
        self.running().ended
    }

    /// The guest's process has ended: nobody waits for its devices any more.
    pub fn end(&self) {
        self.running().ended = true;
        self.changed.notify_all();
    }

    /// Takes in what the guest's process tells, and says whether there is more to be done about it,
    /// which takes long: see [`Supervisor::attend_to`].
    pub fn hear(&self, event: &GuestEvent) -> bool {
        let (device, by) = match event {
            GuestEvent::Started | GuestEvent::Pinned => {
                let mut running = self.running();
                let awaited = &mut running.awaited;
                let before = awaited.len();
                awaited.retain(|one| one != event);
                let has_started = before > 0 && awaited.is_empty();
                drop(running);
                if has_started {
                    (self.launch.tell)(Told::Started);
                }
                return has_started && self.launch.show_timeline;
            }
            GuestEvent::Detached { device, by } => (device, by),
            _ => return true,
        };
        let Ok(device) = device.parse() else { return false };
        let mut running = self.running();
        running.connected.devices.retain(|one| one.address != device);
        let Some(left) = running.leaving.get_mut(&device) else { return true };
        *left = Some(*by);
        drop(running);
        self.changed.notify_all();
        false
    }

    /// The device for which the guest must not go on after this event, as its document says.
    pub fn ends_with(&self, event: &GuestEvent) -> Option<String> {
        let stops = self.launch.guest.on_device_error == OnDeviceError::Stop;
        let GuestEvent::DeviceError { device } = event else { return None };
        stops.then(|| {
            (self.launch.tell)(Told::DeviceError(device));
            device.clone()
        })
    }

    /// A device was kept from memory that is not its guest's: tells of it where it, or its group, is
    /// this guest's.
    pub fn blocked(&self, fault: &DmaFault) {
        let group = group_of(self.launch.root, fault.device);
        let running = self.running();
        let mut devices = running.connected.devices.iter();
        let ours = devices.any(|one| one.address == fault.device || Some(one.group) == group);
        drop(running);
        if ours {
            (self.launch.tell)(Told::DmaFault(fault));
        }
    }

    /// Looks at the links of its virtio networks, and has its drivers know of those that went down or came
    /// up again.
    pub fn look_at(&self, links: &Links) {
        let trouble = |cause: String| {
            // A process that is about to end answers nobody.
            if self.has_gone() {
                return;
            }
            let message = format!("the state of its links is not known to it: {cause}");
            let failure = Failure::failed(OwnReason::Guest, self.name(), message);
            (self.launch.tell)(Told::Trouble(&failure));
        };
        let tell = |News { place, network, down }: News| {
            let request = Request::SetLink { network: place, up: down.is_none() };
            if let Err(cause) = self.link.ask(&request, &[]) {
                return trouble(cause);
            }
            (self.launch.tell)(match &down {
                Some(reason) => Told::NetworkDown { network: &network, reason },
                None => Told::NetworkUp { network: &network },
            });
        };
        if let Err(error) = links.look(tell) {
            trouble(error.to_string());
        }
    }

    /// Does what an event calls for.
    pub fn attend_to(&self, event: &GuestEvent) {
        match event {
            GuestEvent::Wanted { device } => {
                let Ok(device) = device.parse() else { return };
                (self.launch.tell)(Told::Wanted(device));
                self.give_up(device);
            }
            GuestEvent::DeviceError { device } => {
                (self.launch.tell)(Told::DeviceError(device));
                let Ok(device) = device.parse() else { return };
                if self.launch.guest.on_device_error == OnDeviceError::Eject {
                    self.give_up(device);
                }
            }
            GuestEvent::DiskError { disk, detail } => {
                (self.launch.tell)(Told::DiskError { disk, detail });
            }
            // The guest has ejected it by itself.
            GuestEvent::Detached { device, by } => {
                let Ok(device) = device.parse() else { return };
                let detached = self.given_back(device, *by);
                (self.launch.tell)(Told::Detached(&detached));
            }
            GuestEvent::Started | GuestEvent::Pinned => {
                // A guest may have ended by now, and its process taken its part along.
                let vmm = self.link.stats().unwrap_or_default();
                (self.launch.tell)(Told::Timeline(&self.launch.timeline.with(&vmm.timeline)));
            }
            GuestEvent::Stopped { .. } => {}
        }
    }

    /// Takes a device from the guest, which is asked first, and tells of it.
    fn give_up(&self, device: PciAddress) {
        match self.take_away(device, WANTED_WITHIN, true) {
            Ok(detached) => (self.launch.tell)(Told::Detached(&detached)),
            // It has left by itself or with its guest, or somebody is taking it already.
            Err(failure) if ELSEWHERE.iter().any(|reason| failure.reason == (*reason).into()) => {}
            Err(failure) => (self.launch.tell)(Told::Trouble(&failure)),
        }
    }

    /// What is counted and timed of the guest.
    ///
    /// # Errors
    /// Its process does not answer.
    pub fn stats(&self) -> Result<Stats, Failure> {
        let counted = self.link.stats().map_err(|cause| {
            let message = format!("its counters cannot be read: {cause}");
            Failure::failed(OwnReason::Guest, self.name(), message)
                .with_remedy("It may just have ended: see `assign status`.")
        })?;
        let Launch { root, timeline, .. } = self.launch;
        Ok(stats::gather(root, self.launch.guest, self.pid, counted, timeline))
    }

    /// How the guest is.
    ///
    /// # Errors
    /// It has ended.
    pub fn state(&self) -> Result<Listed, Failure> {
        let running = self.running();
        if running.ended {
            return Err(self.has_ended());
        }
        let starts = running.awaited.contains(&GuestEvent::Started);
        let state = match (running.paused, starts) {
            (true, _) => Doing::Paused,
            (false, true) => Doing::Starting,
            (false, false) => Doing::Running,
        };
        let guest = self.launch.guest;
        Ok(Listed {
            guest: guest.name.clone(),
            state,
            up_s: self.began.elapsed().as_secs(),
            cpus: guest.cpus.count.into(),
            pin: guest.cpus.pin.clone(),
            emulator: guest.cpus.emulator.clone(),
            memory_bytes: guest.memory.size,
            merge: guest.memory.merge,
            balloon: guest.memory.balloon,
            devices: running.connected.devices.iter().map(|device| device.address).collect(),
            cid: self.cid,
            ports: guest.ports.iter().map(|port| self.port(port)).collect(),
            pid: self.pid,
            launcher_pid: std::process::id(),
        })
    }

    fn port(&self, port: &GuestPort) -> Port {
        let GuestPort { name, console } = port;
        let path = control::port(self.launch.root, self.name(), name);
        Port { name: name.clone(), console: *console, path }
    }

    /// Holds the guest's vCPUs; its devices go on.
    ///
    /// # Errors
    /// They do not stop, and go on then.
    pub fn pause(&self) -> Result<Nothing, Failure> {
        self.hold(&Request::Pause, true)
    }

    /// Lets them go on.
    ///
    /// # Errors
    /// Its process does not answer.
    pub fn resume(&self) -> Result<Nothing, Failure> {
        self.hold(&Request::Resume, false)
    }

    fn hold(&self, request: &Request, paused: bool) -> Result<Nothing, Failure> {
        self.asked(request)?;
        let before = std::mem::replace(&mut self.running().paused, paused);
        if before != paused {
            (self.launch.tell)(if paused { Told::Paused } else { Told::Resumed });
        }
        Ok(Nothing {})
    }

    /// Asks the guest to keep so much of its memory, and to give the rest, which it does over time.
    ///
    /// # Errors
    /// It cannot, or its process does not answer.
    pub fn balloon(&self, wanted: &Balloon) -> Result<Ballooned, Failure> {
        let Balloon { keep_bytes } = *wanted;
        let target = balloon::target(self.launch.guest, keep_bytes)?;
        self.asked(&Request::Balloon { target })?;
        // The next life begins after whoever asks now is answered.
        self.target.store(target, Ordering::Relaxed);
        let told = self.stats()?.balloon;
        Ok(Ballooned {
            keep_bytes,
            target_bytes: target,
            given_bytes: told.map_or(0, |told| told.given_bytes),
            driven: told.is_some_and(|told| told.driven),
        })
    }

    fn asked(&self, request: &Request) -> Result<(), Failure> {
        self.link.ask(request, &[]).map_err(|cause| {
            if self.has_gone() {
                return self.has_ended();
            }
            Failure::failed(OwnReason::Guest, self.name(), cause).with_remedy("Try again.")
        })
    }

    /// Has the guest end: by its power button, or, when it has not in time, by ending its process.
    ///
    /// # Errors
    /// Its process does not end.
    pub fn stop(&self, wanted: &Stop) -> Result<Stopped, Failure> {
        self.running().unwanted = true;
        let limit = Duration::from_secs(wanted.timeout.min(3600));
        if !limit.is_zero() {
            // Held, it would not notice. Where neither is heard, time decides.
            self.resume().ok();
            self.asked(&Request::PowerButton).ok();
            if self.await_end(limit) {
                return Ok(Stopped { by: Departure::Guest });
            }
        }
        // Fails only where it is readable already.
        rustix::io::write(&self.ends, &1u64.to_ne_bytes()).ok();
        if self.await_end(ENDS_WITHIN) {
            return Ok(Stopped { by: Departure::Forced });
        }
        Err(self.lasts())
    }

    fn lasts(&self) -> Failure {
        let message = format!("its process {} does not end", self.pid);
        Failure::failed(OwnReason::TimedOut, self.name(), message)
            .with_remedy("The kernel's log (dmesg) may say what it waits for.")
    }

    /// Resets the guest: its process ends, and its next life begins with the devices that it has.
    ///
    /// # Errors
    /// Its process does not end.
    pub fn reset(&self) -> Result<Nothing, Failure> {
        // It may be gone before it has answered.
        let asked = self.asked(&Request::Reset);
        if self.await_end(ENDS_WITHIN) {
            return Ok(Nothing {});
        }
        asked.and_then(|()| Err(self.lasts()))
    }

    /// Whether the guest has ended within this time.
    fn await_end(&self, limit: Duration) -> bool {
        let running = self.running();
        let waited = self.changed.wait_timeout_while(running, limit, |running| !running.ended);
        waited.unwrap_or_else(PoisonError::into_inner).0.ended
    }

    fn has_ended(&self) -> Failure {
        Failure::failed(OwnReason::NoSuchGuest, self.name(), "has just ended")
            .with_remedy("Its devices are given back.")
    }
}
