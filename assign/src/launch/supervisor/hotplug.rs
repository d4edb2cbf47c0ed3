//! Devices that a running guest gets and gives back.
//!
//! ```text
//! attach     chosen ─ leased, bound if lent ─ opened ─► its process: on its bus ─► the guest is told
//! detach     ─► its process: the guest is asked ─► it lets go ─► closed, reset ─► lease ends
//!                 └─ not in time: refused, or taken all the same
//! wanted     the host's own wish: as detach, and taken when the time is over
//! ```
//! The lease on a device lives as long as the guest's process has its group open. A device that left
//! alone of its group stays leased with the others, since nobody else could have it.

use std::os::fd::AsFd;
use std::sync::PoisonError;
use std::time::{Duration, Instant};

use sriov::{HostSnapshot, PciAddress, isolation, vfio};
use vmm::spec::{Departure, Request};

use super::Supervisor;
use crate::apply::leases::Used;
use crate::choose::{self, Device, World};
use crate::control::{Attach, Attached, Detach, Detached};
use crate::failure::{Failure, OwnReason};
use crate::launch::lease::{self, Taken};
use crate::launch::vfio::{Has, NotOpened};
use crate::launch::{Told, error, pages, process, spec};

/// How long closing a device may take once it is off the guest's bus: its reset, and memory unpinned.
const CLOSES_WITHIN: Duration = Duration::from_secs(60);

impl Supervisor<'_, '_, '_> {
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

    pub(super) fn take_away(
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
    pub(super) fn given_back(&self, device: PciAddress, by: Departure) -> Detached {
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
