//! From a guest's claims to devices that are its own and open: chosen, leased, opened, and where one of
//! these fails, chosen anew without it.

use std::collections::{BTreeMap, BTreeSet};

use policies::{Acs, Driver, Isolation};
use sriov::{HostSnapshot, PciAddress, Scope};

use super::lease::{self, Lease, Taken, Unused};
use super::timeline::Moment;
use super::vfio::{Has, Interface, NotOpened, VfioFiles};
use super::{Launch, Told, error};
use crate::choose::{self, Choice, Device, Offer, Previous, World};
use crate::control::stats::Launching;
use crate::failure::{Failure, OwnReason};
use crate::plan::mac::Macs;

/// Other launchers that may take the chosen VF before we do, until we give up.
const MOST_RACES: usize = 64;

/// Devices that were tried and are of no use, with the reasons.
pub(super) type Reasons = BTreeMap<PciAddress, String>;

/// A guest's networks with everything behind them that is open.
pub(super) struct Connected<'a> {
    pub choice: Choice,
    pub devices: Vec<Device>,
    /// By which interface it has devices, once it has any: as long as its process lives.
    pub interface: Option<Interface>,
    /// Dropped before the lease: what is open cannot be given back.
    pub vfio: Option<VfioFiles>,
    pub lease: Lease<'a>,
}

impl<'c> Connected<'c> {
    /// The groups of which the guest has a device.
    pub fn groups(&self) -> BTreeSet<u32> {
        self.devices.iter().map(|device| device.group).collect()
    }

    /// What it holds of groups that the guest has no more.
    pub fn unused(&self) -> Result<Unused<'c>, Failure> {
        self.lease.unused(&self.groups())
    }
}

impl Launch<'_> {
    /// Chooses, leases and opens. A device that cannot be opened is given back, and the choice is made
    /// again without it.
    pub(super) fn connect(&self, failed: &mut Reasons) -> Result<Connected<'_>, Failure> {
        let mut races = 0;
        let claims = choose::claims(self.guest).count();
        let mut scope = self.scope();
        loop {
            let reading = Moment::now();
            let host = self.look(scope)?;
            let holders = lease::holders(self.state, self.root)?;
            let previous = self.state.choices()?;
            self.timeline.note(Launching::ReadHost, reading);
            let world = World {
                host: &host,
                offers: self.offers,
                holders: &holders,
                failed,
                previous: &previous,
                runs: false,
            };
            let choosing = || choose::choose(self.guest, world);
            let choice = self.timeline.time(Launching::ChooseDevices, choosing);
            let has_all = choice.as_ref().is_ok_and(|choice| choice.given().count() == claims);
            if !has_all && scope == Scope::Vfs {
                // Why not may have to do with what was not looked at.
                scope = Scope::Pools;
                continue;
            }
            let choice = choice.map_err(|error| error::unconnected(self.guest, &error))?;
            let devices = choice.devices();
            let (guest, host) = (&self.guest.name, &host);
            for (device, by_force) in lease::by_force(host, self.offers, &devices) {
                (self.confirm)(device, &by_force)?;
            }
            let taken = self.timeline.time(Launching::LeaseDevices, || {
                Lease::take(self.state, self.root, guest, host, self.offers, &devices)
            })?;
            let lease = match taken {
                Taken::All(lease) => lease,
                // Each round excludes one more device, so the rounds end.
                Taken::Not(device, failure) => {
                    failed.insert(device, failure.message);
                    continue;
                }
                Taken::TooLate => {
                    races += 1;
                    if races < MOST_RACES {
                        continue;
                    }
                    let message = "other launchers take every device before it can";
                    return Err(Failure::failed(OwnReason::Leased, guest, message)
                        .with_remedy("Try again."));
                }
            };
            match self.open(&devices) {
                Ok(vfio) => {
                    self.state.remember_choices(&self.remembered(host, &devices))?;
                    let iommu = vfio.as_ref().map(VfioFiles::interface);
                    (self.tell)(Told::Connected { choice: &choice, iommu });
                    return Ok(Connected { choice, devices, lease, interface: iommu, vfio });
                }
                // Each round excludes one more device, so the rounds end.
                Err(NotOpened { address, cause }) => {
                    lease.release()?;
                    failed.insert(address, cause);
                }
            }
        }
    }

    /// What this guest's devices depend on: what the host uses them for only where it may lend them, and
    /// the ways to them only where something is demanded of these.
    pub(super) fn scope(&self) -> Scope {
        let lends = |offer: &Offer| offer.pool.driver == Driver::Host;
        let is_simple =
            |offer: &Offer| choose::are_vfs(&offer.pool) && offer.isolation.acs != Acs::Required;
        match self.offers {
            offers if offers.iter().any(lends) => Scope::Planning,
            offers if offers.iter().all(is_simple) => Scope::Vfs,
            _ => Scope::Pools,
        }
    }

    /// The host within this scope; nothing of it for a guest that claims nothing.
    pub(super) fn look(&self, scope: Scope) -> Result<HostSnapshot, Failure> {
        match choose::claims(self.guest).next() {
            Some(_) => self.state.look_within(self.root, scope),
            None => Ok(HostSnapshot::default()),
        }
    }

    /// The same connections for the guest's next life; chosen anew where they were of no use, or
    /// somebody took a device in between.
    pub(super) fn connect_again<'a>(
        &'a self,
        before: Connected<'a>,
        failed: &mut Reasons,
    ) -> Result<Connected<'a>, Failure> {
        let Connected { choice, devices, mut lease, .. } = before;
        if devices.iter().any(|device| failed.contains_key(&device.address)) {
            lease.release()?;
            return self.connect(failed);
        }
        if !lease.take_back() {
            drop(lease);
            return self.connect(failed);
        }
        let vfio = self.open(&devices).map_err(|error| error::not_opened(self.guest, &error))?;
        let interface = vfio.as_ref().map(VfioFiles::interface);
        Ok(Connected { choice, devices, lease, interface, vfio })
    }

    /// Opens the VFIO files of devices, as the policies of their pools say.
    fn open(&self, devices: &[Device]) -> Result<Option<VfioFiles>, NotOpened> {
        self.timeline.time(Launching::OpenDevices, || self.open_more(devices, &Has::default()))
    }

    /// The same for a guest that runs.
    pub(super) fn open_more(
        &self,
        devices: &[Device],
        has: &Has,
    ) -> Result<Option<VfioFiles>, NotOpened> {
        let isolation = |device: &Device| {
            let offer =
                self.offers.iter().find(|offer| Some(&offer.pool.name) == device.pool.as_ref());
            offer.map_or_else(Isolation::default, |offer| offer.isolation)
        };
        VfioFiles::open(self.root, devices, isolation, has)
    }

    /// What is not to be tried again: the device among `used` that the VMM names, or else all devices
    /// of this host, since what keeps these from being used would keep others.
    pub(super) fn of_no_use(&self, used: &[Device], named: Option<&str>, cause: &str) -> Reasons {
        let is_named = |device: &&Device| named == Some(&device.address.to_string());
        match used.iter().find(is_named) {
            Some(device) => Reasons::from([(device.address, cause.to_owned())]),
            None => {
                let all = HostSnapshot::read(self.root).functions;
                let all = all.into_iter().map(|function| function.address);
                let all = all.chain(used.iter().map(|device| device.address));
                all.map(|address| (address, cause.to_owned())).collect()
            }
        }
    }

    /// What the guest's claims have, for them to have it again.
    fn remembered(&self, host: &HostSnapshot, devices: &[Device]) -> Vec<Previous> {
        let macs = Macs::of(host);
        let previous = |device: &Device| {
            // A VF is found again by its PF.
            let address = device.vf.map_or(device.address, |vf| vf.pf);
            Some(Previous {
                guest: self.guest.name.clone(),
                claim: device.claim.clone(),
                pool: device.pool.clone()?,
                vf: device.vf,
                address,
                identity: choose::identity(&macs, host.function(address)?),
            })
        };
        devices.iter().filter_map(previous).collect()
    }
}
