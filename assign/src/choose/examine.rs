//! What speaks against a device, whoever asks for it.

use std::collections::{HashMap, HashSet};

use policies::{Acs, Driver, Pool, PoolDevices};
use sriov::isolation::{self, is_vfio_driver};
use sriov::{HostSnapshot, PciAddress, PciFunction, usage};

use super::reason::{Unmet, Why};
use super::{Offer, World};
use crate::plan::mac::Macs;
use crate::plan::{acs, candidates};

/// A device's cause and remedy, where its group cannot be given away.
type NotIsolated = Option<(String, String)>;

/// Looks at devices one by one, and at what they share once.
pub(super) struct Examiner<'a> {
    world: World<'a>,
    uses: Option<usage::Index<'a>>,
    /// By whether what the host lends leaves it together.
    groups: HashMap<(u32, bool), NotIsolated>,
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
            return self
                .host_uses(&offer.pool, lent)
                .or_else(|| self.not_isolated(&offer.pool, lent));
        }
        let Some(function) = function else { return Some(Why::Missing) };
        // Before its driver: somebody may have lent it to a guest by another way.
        self.other_driver(&offer.pool, function)
            .or_else(|| self.host_uses(&offer.pool, function))
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

    /// A device that is left with the host's driver may be in use there.
    fn host_uses(&mut self, pool: &Pool, function: &PciFunction) -> Option<Why> {
        if pool.driver != Driver::Host || function.driver.as_deref().is_some_and(is_vfio_driver) {
            return None;
        }
        let host = self.world.host;
        let uses = self.uses.get_or_insert_with(|| usage::Index::of(host));
        let used = uses.uses(function).into_iter().next()?;
        Some(Why::HostUses { used: used.to_string() })
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
                self.groups.entry((group, is_lent)).or_insert_with(judge).clone()
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
            let pools = offers.iter().map(|offer| (&offer.pool, offer.planned.is_some()));
            let mut lendable = lendable(host, pools, uses);
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

/// The devices that the host lends and does not use now: those of one IOMMU group leave its drivers
/// together. Of a pool whose plan is made (`true` beside it) also those that are bound by it.
pub fn lendable<'a>(
    host: &HostSnapshot,
    pools: impl Iterator<Item = (&'a Pool, bool)>,
    uses: &usage::Index<'_>,
) -> HashSet<PciAddress> {
    let mut lendable = HashSet::new();
    for (pool, is_planned) in pools.filter(|(pool, made)| *made || pool.driver == Driver::Host) {
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
                is_bound || function.is_some_and(|function| uses.uses(function).is_empty())
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
pub(super) fn are_vfs(pool: &Pool) -> bool {
    matches!(pool.devices, PoolDevices::Vfs { .. })
}
