//! What speaks against a device, whoever asks for it.

use std::collections::{HashMap, HashSet};

use policies::{Acs, Driver, Exception, Pool, PoolDevices, Protection};
use sriov::isolation::{self, is_vfio_driver};
use sriov::{HostSnapshot, PciAddress, PciFunction, usage};

use super::reason::{Unmet, Why};
use super::{ByForce, Offer, World};
use crate::plan::mac::Macs;
use crate::plan::{acs, candidates};

/// A device's cause and remedy, where its group cannot be given away.
type NotIsolated = Option<(String, String)>;

/// Looks at devices one by one, and at what they share once.
pub(super) struct Examiner<'a> {
    world: World<'a>,
    uses: Option<usage::Index<'a>>,
    /// By whether what the host lends leaves it together, and whose VFs they are: a PF that a guest
    /// has keeps its own VFs only.
    groups: HashMap<(u32, bool, Option<PciAddress>), NotIsolated>,
    lendable: Option<HashSet<PciAddress>>,
    paths: HashMap<PciAddress, NotIsolated>,
}

impl<'a> Examiner<'a> {
    pub fn new(world: World<'a>) -> Examiner<'a> {
        let (groups, paths) = (HashMap::new(), HashMap::new());
        Examiner { world, uses: None, groups, lendable: None, paths }
    }

    /// Why nobody gets anything of a pool.
    pub fn closed(&self, offer: &Offer, is_empty: bool) -> Option<Unmet> {
        let (host, pool) = (self.world.host, &offer.pool);
        let name = || pool.name.clone();
        if !host.iommu.present {
            // Also where the policy allows devices without one: our VMM has no use for these.
            return Some(Unmet::NoIommu { remedy: host.iommu_remedy().to_owned() });
        }
        if offer.planned.is_none()
            && let Some(cause) = candidates::unexpected(host, pool)
        {
            return Some(Unmet::Unexpected { pool: name(), cause });
        }
        is_empty.then(|| Unmet::NoDevice { pool: name(), from: pool.from.to_string() })
    }

    /// What speaks against one device: a VF of `card`, or the card itself. `function` is the device as
    /// it is, if it is there.
    pub fn against(
        &mut self,
        offer: &Offer,
        card: &'a PciFunction,
        function: Option<&'a PciFunction>,
    ) -> Option<Why> {
        if let Some(cause) = function.and_then(|one| self.world.failed.get(&one.address)) {
            return Some(Why::NotOpened { cause: cause.clone() });
        }
        if offer.planned.is_some() {
            // The plan has looked at it, and makes it what it has to be; what the host lends it may be
            // using, or others of its group.
            let lent = function.filter(|_| offer.pool.driver == Driver::Host)?;
            return self.host_uses(offer, lent).or_else(|| self.not_isolated(&offer.pool, lent));
        }
        let Some(function) = function else { return Some(Why::Missing) };
        // Before its driver: somebody may have lent it to a guest by another way.
        self.other_driver(&offer.pool, function)
            .or_else(|| self.host_uses(offer, function))
            .or_else(|| self.not_isolated(&offer.pool, function))
            .or_else(|| match offer.isolation.acs {
                Acs::Required => self.no_acs(card, function),
                Acs::Kernel => None,
            })
    }

    fn other_driver(&self, pool: &Pool, function: &PciFunction) -> Option<Why> {
        let has = function.driver.as_deref();
        let (fits, wanted) = match pool.driver {
            Driver::VfioPci => (has == Some("vfio-pci"), "vfio-pci"),
            Driver::Auto => (has.is_some_and(is_vfio_driver), "vfio-pci or a variant of it"),
            // Whoever has it now, it is bound for the guest when it gets it.
            Driver::Host => (true, ""),
        };
        (!fits).then(|| Why::OtherDriver {
            driver: function.driver.clone(),
            wanted: wanted.to_owned(),
        })
    }

    /// A device that is left with the host's driver may be in use there. One that its policy makes an
    /// exception for is lent all the same.
    fn host_uses(&mut self, offer: &Offer, function: &PciFunction) -> Option<Why> {
        if offer.pool.driver != Driver::Host
            || function.driver.as_deref().is_some_and(is_vfio_driver)
        {
            return None;
        }
        let host = self.world.host;
        let uses = self.uses.get_or_insert_with(|| usage::Index::of(host));
        let used = uses.uses(function).into_iter().next()?;
        let excepted = exception(host, &offer.protection, function).is_some();
        (!excepted).then(|| Why::HostUses { used: used.to_string() })
    }

    fn not_isolated(&mut self, pool: &Pool, function: &PciFunction) -> Option<Why> {
        let host = self.world.host;
        let is_lent = pool.driver == Driver::Host;
        let mates = isolation::in_the_way(host, function, &[]);
        let together: Vec<PciAddress> = match is_lent && !mates.is_empty() {
            true => {
                let lendable = self.lendable();
                mates.iter().map(|mate| mate.address).filter(|at| lendable.contains(at)).collect()
            }
            false => Vec::new(),
        };
        let judge = || {
            isolation::viability(host, function, &together)
                .err()
                .map(|error| (error.to_string(), error.remedy()))
        };
        let judged = match function.iommu_group {
            // What is against one device of a group is against all that a vfio driver has.
            Some(group) if function.driver.as_deref().is_some_and(is_vfio_driver) => {
                let pf = function.vf_of.map(|vf| vf.pf);
                self.groups.entry((group, is_lent, pf)).or_insert_with(judge).clone()
            }
            _ => judge(),
        };
        judged.map(|(cause, remedy)| Why::NotIsolated { cause, remedy })
    }

    /// What leaves the host's drivers when another device of its group is lent.
    fn lendable(&mut self) -> &HashSet<PciAddress> {
        let World { host, offers, failed, .. } = self.world;
        let uses = self.uses.get_or_insert_with(|| usage::Index::of(host));
        self.lendable.get_or_insert_with(|| {
            let lenders = offers.iter().map(|offer| Lender {
                pool: &offer.pool,
                protection: &offer.protection,
                is_planned: offer.planned.is_some(),
            });
            let mut lendable = lendable(host, lenders, uses);
            lendable.retain(|device| !failed.contains_key(device));
            lendable
        })
    }

    fn no_acs(&mut self, card: &PciFunction, function: &PciFunction) -> Option<Why> {
        let host = self.world.host;
        let judge = || acs::gaps(host, function).map(|cause| (cause, acs::REMEDY.to_owned()));
        let judged = self.paths.entry(card.address).or_insert_with(judge).clone();
        judged.map(|(cause, remedy)| Why::NotIsolated { cause, remedy })
    }
}

/// The exception that a policy makes for a device. A bridge is a way to others, and is nobody's to take.
fn exception<'a>(
    host: &HostSnapshot,
    protection: &'a Protection,
    function: &PciFunction,
) -> Option<&'a Exception> {
    protection.exception(host, function).filter(|_| !function.is_bridge())
}

/// What the host loses when a device is lent for which a policy makes an exception; `None` where it
/// loses nothing, or there is no exception.
pub fn by_force(
    host: &HostSnapshot,
    uses: &usage::Index<'_>,
    protection: &Protection,
    function: &PciFunction,
) -> Option<ByForce> {
    let because = exception(host, protection, function)?.because.clone();
    let lost: Vec<String> = uses.uses(function).iter().map(ToString::to_string).collect();
    (!lost.is_empty()).then_some(ByForce { lost, because })
}

/// Whether a device is one of a pool's.
pub fn holds(host: &HostSnapshot, pool: &Pool, function: &PciFunction) -> bool {
    match function.vf_of {
        None => !are_vfs(pool) && candidates::is_meant(host, pool, function),
        Some(vf) => {
            let pf = host.function(vf.pf);
            are_vfs(pool)
                && pool.indexes().any(|index| index == vf.index)
                && pf.is_some_and(|pf| candidates::is_meant(host, pool, pf))
        }
    }
}

/// A pool that may lend.
#[derive(Debug, Clone, Copy)]
pub struct Lender<'a> {
    /// The pool.
    pub pool: &'a Pool,
    /// The exceptions of its policy.
    pub protection: &'a Protection,
    /// Whether its plan is made, so that it has what is bound by it.
    pub is_planned: bool,
}

/// The devices that the host lends, and does not use now or can do without: those of one IOMMU group
/// leave its drivers together. Of a pool whose plan is made also those that are bound by it.
pub fn lendable<'a>(
    host: &HostSnapshot,
    lenders: impl Iterator<Item = Lender<'a>>,
    uses: &usage::Index<'_>,
) -> HashSet<PciAddress> {
    let mut lendable = HashSet::new();
    let lends = |lender: &Lender<'_>| lender.is_planned || lender.pool.driver == Driver::Host;
    for Lender { pool, protection, is_planned } in lenders.filter(lends) {
        let cards = host.functions.iter().filter(|one| candidates::is_meant(host, pool, one));
        for card in cards {
            let vfs = card.sriov.as_ref().map(|facts| &facts.vfs);
            let devices: Vec<PciAddress> = match are_vfs(pool) {
                true => pool.indexes().filter_map(|index| vfs?.get(&index).copied()).collect(),
                false => vec![card.address],
            };
            lendable.extend(devices.into_iter().filter(|device| {
                let function = host.function(*device);
                let is_bound = is_planned && pool.driver != Driver::Host;
                let is_free = |function: &PciFunction| {
                    uses.uses(function).is_empty()
                        || exception(host, protection, function).is_some()
                };
                is_bound || function.is_some_and(is_free)
            }));
        }
    }
    lendable
}

/// What tells a device from others wherever it sits: the permanent address of its port, the serial
/// number of a drive, or else only what kind of device it is.
pub fn identity(macs: &Macs<'_>, function: &PciFunction) -> String {
    if let Some(mac) = macs.permanent(function) {
        return format!("mac {mac}");
    }
    let drive = function.sriov.as_ref().and_then(|facts| facts.nvme.as_ref());
    let serial = drive.map(|drive| &drive.serial).or(function.serial.as_ref());
    match serial.map(|serial| serial.trim()).filter(|serial| !serial.is_empty()) {
        // All functions of a card may have one number.
        Some(serial) => format!("serial {serial} function {}", function.address.function()),
        // A card of this kind in this place: elsewhere it may be another one.
        None => format!("{} {:04x}:{:04x}", function.address, function.vendor, function.device),
    }
}

/// Whether a pool's devices are VFs.
pub fn are_vfs(pool: &Pool) -> bool {
    matches!(pool.devices, PoolDevices::Vfs { .. })
}
