//! A guest that runs: devices that it gets and gives back, and what is done when the host wants one.
//!
//! ```text
//! attach     chosen ─ leased, bound if lent ─ opened ─► its process: on its bus ─► the guest is told
//! detach     ─► its process: the guest is asked ─► it lets go ─► closed, reset ─► lease ends
//!                 └─ not in time: refused, or taken all the same
//! wanted     the host's own wish: as detach, and taken when the time is over
//! ```
//! The lease on a device lives as long as the guest's process has its group open. A device that left
//! alone of its group stays leased with the others, since nobody else could have it.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use policies::{GuestPort, OnDeviceError};
use rustix::event::EventfdFlags;
use sriov::dma_fault::DmaFault;
use sriov::facts::iommu::group_of;
use sriov::{HostSnapshot, PciAddress, isolation, vfio};
use vmm::spec::{Departure, GuestEvent, Request};

use super::lease::Taken;
use super::link::Link;
use super::links::{Links, News};
use super::vfio::{Has, NotOpened};
use super::{Connected, Launch, Told, balloon, error, lease, pages, process, spec, stats};
use crate::apply::leases::Used;
use crate::choose::{self, Device, World};
use crate::control::stats::Stats;
use crate::control::{
    self, Attach, Attached, Balloon, Ballooned, Detach, Detached, Doing, Nothing, Port,
    Running as Listed, Stop, Stopped,
};
use crate::failure::{Failure, OwnReason};

/// How long a guest gets for a device that the host wants back, or that has failed.
const WANTED_WITHIN: Duration = Duration::from_secs(10);
/// Why a device that is to be taken away need not be any more.
const ELSEWHERE: [OwnReason; 3] =
    [OwnReason::NotWithGuest, OwnReason::NoSuchGuest, OwnReason::Locked];
/// How long a guest's process may take to end once it has been told to: its devices are reset.
const ENDS_WITHIN: Duration = Duration::from_secs(30);
/// How long closing a device may take once it is off the guest's bus: its reset, and memory unpinned.
const CLOSES_WITHIN: Duration = Duration::from_secs(60);

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

    /// Gives the guest devices.
    ///
    /// # Errors
    /// Why it does not get them; it has none of them then.
    pub fn attach(&self, wanted: &Attach) -> Result<Attached, Failure> {
        pages::may_pin(self.launch.guest)?;
        let _one = self.leasing.lock().unwrap_or_else(PoisonError::into_inner);
        let host = self.launch.state.look(self.launch.root)?;
        let devices = match &wanted.pool {
            Some(pool) => self.of_pool(&host, pool)?,
            None => self.named(&host, &wanted.devices)?,
        };
        let addresses: Vec<PciAddress> = devices.iter().map(|device| device.address).collect();
        let offers = self.launch.offers;
        if let Some((device, by_force)) = lease::by_force(&host, offers, &devices).first() {
            let message = format!("would be taken from the host, {by_force}");
            return Err(Failure::refused(OwnReason::NotConfirmed, device, message)
                .with_remedy("Only `assign run` asks whether that may be."));
        }
        let running = self.running();
        if running.ended {
            return Err(self.has_ended());
        }
        let more = running.connected.lease.more(self.name(), &host, offers, &devices);
        drop(running);
        match more.take(&host)? {
            Taken::All(()) => {}
            Taken::Not(_, failure) => return Err(failure),
            Taken::TooLate => {
                let message = "another guest was faster";
                return Err(Failure::failed(OwnReason::Leased, self.name(), message)
                    .with_remedy("Try again."));
            }
        }
        let mut running = self.running();
        // Given back with the others, also where the guest has ended in between.
        running.connected.lease.hold(&more);
        let has =
            Has { interface: running.connected.interface, groups: running.connected.groups() };
        // Noted first: the guest may let go of one again before we hear that it came.
        running.connected.devices.extend(devices.iter().cloned());
        // The guest's process may answer with events, which need what is locked here.
        drop(running);
        if let Err(cause) = self.bring(&devices, &has) {
            self.running().connected.devices.retain(|one| !addresses.contains(&one.address));
            let mut failure = Failure::failed(OwnReason::Guest, self.name(), cause);
            if let Err(left) = self.give_back_unused(Used::No) {
                failure.message = format!("{}; and {}", failure.message, left.message);
            }
            return Err(failure);
        }
        (self.launch.tell)(Told::Attached(&addresses));
        Ok(Attached { devices: addresses })
    }

    /// Opens devices and hands them to the guest's process.
    fn bring(&self, devices: &[Device], has: &Has) -> Result<(), String> {
        let cannot = |what: &str| format!("cannot be given {}: {what}", list(devices));
        let opened = self.launch.open_more(devices, has);
        let files = opened.map_err(|NotOpened { address, cause }| format!("{address}: {cause}"))?;
        let Some(files) = files else { return Err(cannot("there is none")) };
        process::let_lock(self.pid, self.launch.guest.memory.size)
            .map_err(|error| cannot(&format!("its limit of locked memory stays: {error}")))?;
        let (vfio, passed) = spec::passed(&files);
        let passed: Vec<_> = passed.iter().map(|file| file.as_fd()).collect();
        self.link.ask(&Request::Attach { vfio }, &passed).map_err(|cause| cannot(&cause))?;
        self.running().connected.interface = Some(files.interface());
        Ok(())
    }

    /// A free device of a pool.
    fn of_pool(&self, host: &HostSnapshot, pool: &str) -> Result<Vec<Device>, Failure> {
        let launch = self.launch;
        let holders = lease::holders(launch.state, launch.root)?;
        let (failed, previous) = (Default::default(), launch.state.choices()?);
        let world = World {
            host,
            offers: launch.offers,
            holders: &holders,
            failed: &failed,
            previous: &previous,
            runs: false,
        };
        let asking = choose::asking_for(launch.guest, pool);
        let choice = choose::choose(&asking, world)
            .map_err(|unconnected| error::none_to_attach(launch.guest, &unconnected))?;
        Ok(choice.devices())
    }

    /// The devices at these addresses, which are ready for guests.
    fn named(&self, host: &HostSnapshot, addresses: &[PciAddress]) -> Result<Vec<Device>, Failure> {
        let mut devices = Vec::new();
        for address in addresses {
            let function = host.function(*address).ok_or_else(|| {
                Failure::bad_input(sriov::Reason::NoSuchDevice, address, "there is no such device")
                    .with_remedy("`assign devices` lists the devices of this host.")
            })?;
            let bound = function.driver.as_deref().is_some_and(isolation::is_vfio_driver);
            if !bound {
                let message = "is not bound to vfio-pci, so no guest can have it";
                return Err(Failure::refused(OwnReason::NotBound, address, message)
                    .with_remedy(format!("`assign bind {address}` does that.")));
            }
            isolation::viability(host, function, addresses)
                .map_err(|cause| Failure::not_viable(address, &cause))?;
            let has_it = |one: &Device| one.address == *address;
            if self.running().connected.devices.iter().any(has_it) {
                let message = format!("is with {} already", self.name());
                return Err(Failure::bad_input(OwnReason::Leased, address, message)
                    .with_remedy("Leave it out."));
            }
            let leased = self.launch.state.lease_on(*address)?;
            let leased = leased.is_some_and(|lease| lease.holds(self.launch.root));
            if let (false, Some(user)) = (leased, vfio::users(self.launch.root, *address).first()) {
                let message = format!("is in use by {user}");
                return Err(Failure::refused(sriov::Reason::DeviceOpen, address, message)
                    .with_remedy("Stop that first."));
            }
            let Some(group) = function.iommu_group else { continue };
            let (claim, pool) = (address.to_string(), None);
            devices.push(Device { claim, pool, address: *address, vf: function.vf_of, group });
        }
        Ok(devices)
    }

    /// Takes a device back.
    ///
    /// # Errors
    /// The guest does not have it, or did not let it go in time.
    pub fn detach(&self, wanted: &Detach) -> Result<Detached, Failure> {
        let limit = Duration::from_secs(wanted.timeout.min(3600));
        let detached = self.take_away(wanted.device, limit, wanted.force)?;
        (self.launch.tell)(Told::Detached(&detached));
        Ok(detached)
    }

    fn take_away(
        &self,
        device: PciAddress,
        limit: Duration,
        force: bool,
    ) -> Result<Detached, Failure> {
        let mut running = self.running();
        if !running.connected.devices.iter().any(|one| one.address == device) {
            return Err(self.not_with_guest(device));
        }
        if running.leaving.contains_key(&device) {
            let message = format!("is being taken from {} already", self.name());
            return Err(Failure::failed(OwnReason::Locked, device, message)
                .with_remedy("Wait for that to end."));
        }
        running.leaving.insert(device, None);
        drop(running);
        let taken = self.take_away_now(device, limit, force);
        let late = self.running().leaving.remove(&device).flatten();
        // It may have left just after the time was over.
        Ok(self.given_back(device, late.map_or(taken, Ok)?))
    }

    fn take_away_now(
        &self,
        device: PciAddress,
        limit: Duration,
        force: bool,
    ) -> Result<Departure, Failure> {
        let cannot = |cause: String| {
            let message = format!("cannot be taken from {}: {cause}", self.name());
            Failure::failed(OwnReason::Guest, device, message)
        };
        let name = device.to_string();
        self.link.ask(&Request::Ask { device: name.clone() }, &[]).map_err(cannot)?;
        match self.wait_for(device, limit)? {
            Some(by) => Ok(by),
            None if !force => Err(self.kept(device, limit)),
            None => {
                // The guest may have let go at the last moment: then there is nothing to be taken.
                let forced = self.link.ask(&Request::Force { device: name }, &[]);
                let left = self.wait_for(device, CLOSES_WITHIN)?;
                let late = || Err("it is not closed in time".to_owned());
                left.ok_or(()).or_else(|()| forced.and_then(|()| late())).map_err(cannot)
            }
        }
    }

    /// Ends the lease on a device that is closed, with those of its group that stayed for it.
    fn given_back(&self, device: PciAddress, by: Departure) -> Detached {
        let _one = self.leasing.lock().unwrap_or_else(PoisonError::into_inner);
        let notes = match self.give_back_unused(Used::Yes) {
            Ok(notes) => notes,
            // Its lease stays until the guest ends, and the next command tries again.
            Err(failure) => vec![failure.to_string()],
        };
        Detached { device, by, notes }
    }

    /// Ends the leases on devices of groups that the guest has no more. The caller holds `leasing`.
    fn give_back_unused(&self, used: Used) -> Result<Vec<String>, Failure> {
        let unused = self.running().connected.unused()?;
        let notes = unused.give_back(used)?;
        self.running().connected.lease.forget(&unused);
        Ok(notes)
    }

    /// How a device left, once it has; none where it has not in time.
    fn wait_for(&self, device: PciAddress, limit: Duration) -> Result<Option<Departure>, Failure> {
        let until = Instant::now() + limit;
        let mut running = self.running();
        loop {
            if let Some(Some(by)) = running.leaving.get(&device) {
                return Ok(Some(*by));
            }
            if running.ended {
                return Err(self.has_ended());
            }
            let Some(rest) = until.checked_duration_since(Instant::now()) else {
                return Ok(None);
            };
            let waited = self.changed.wait_timeout(running, rest);
            running = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    fn has_ended(&self) -> Failure {
        Failure::failed(OwnReason::NoSuchGuest, self.name(), "has just ended")
            .with_remedy("Its devices are given back.")
    }

    fn not_with_guest(&self, device: PciAddress) -> Failure {
        let message = format!("is not with {}", self.name());
        Failure::bad_input(OwnReason::NotWithGuest, device, message)
            .with_remedy("`assign status` shows who has which device.")
    }

    fn kept(&self, device: PciAddress, limit: Duration) -> Failure {
        let (name, seconds) = (self.name(), limit.as_secs());
        let message = format!("{name} did not let it go within {seconds} s");
        Failure::failed(OwnReason::TimedOut, device, message).with_remedy(
            "Its system may still boot, lack ACPI hot-plug, or use it (a mounted disk). `--timeout` \
             gives it longer; `--force` takes it all the same, and what its driver has under way \
             is lost.",
        )
    }
}

fn list(devices: &[Device]) -> String {
    let names: Vec<String> = devices.iter().map(|device| device.address.to_string()).collect();
    names.join(", ")
}
