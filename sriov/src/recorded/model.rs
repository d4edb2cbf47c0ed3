//! What each change does to a host, in memory: a second opinion on plans, written from what the kernel
//! does (facts and rules of sysfs, rtnetlink and vfio) and not from what a planner thinks of it.
//!
//! Like the kernel it refuses: a step whose precondition does not hold is an error, and so is one that
//! takes from the host what the host uses, unless it is forced.

use std::collections::BTreeMap;

use crate::address::{PciAddress, VfRef};
use crate::change::{Binding, Change, Target};
use crate::facts::iommu::IommuGroup;
use crate::facts::net::Netdev;
use crate::facts::pci::{PciFunction, VfSettings};
use crate::isolation::is_vfio_driver;
use crate::mac::MacAddress;
use crate::snapshot::HostSnapshot;
use crate::usage;
use crate::vf_settings::VfSetting;

/// A host that changes.
#[derive(Debug, Clone)]
pub struct Model {
    /// As it is now.
    pub host: HostSnapshot,
    /// The driver that the host has for VFs of a PF's driver; none for others.
    pub vf_drivers: BTreeMap<String, String>,
    /// What the drivers of PFs preset for the spoof check.
    pub spoof_check: Option<bool>,
    /// What the drivers of PFs preset for trust.
    pub trust: Option<bool>,
    /// Drivers of the host that functions had.
    drivers: BTreeMap<PciAddress, String>,
    /// Interfaces of functions that lost their driver.
    lost: BTreeMap<PciAddress, Vec<Netdev>>,
}

impl Model {
    /// A host whose PFs report all settings.
    pub fn new(host: HostSnapshot) -> Model {
        Model {
            host,
            vf_drivers: BTreeMap::new(),
            spoof_check: Some(true),
            trust: Some(false),
            drivers: BTreeMap::new(),
            lost: BTreeMap::new(),
        }
    }

    /// Makes one change.
    ///
    /// # Errors
    /// Its precondition does not hold, or it takes what the host uses.
    pub fn make(&mut self, change: &Change) -> Result<(), String> {
        match change {
            Change::Forced { step, devices, .. } => self.step(step, devices),
            step => self.step(step, &[]),
        }
        .map_err(|error| format!("{change}: {error}"))
    }

    fn step(&mut self, change: &Change, forced: &[PciAddress]) -> Result<(), String> {
        match change {
            Change::SetAutoprobe { pf, from, to } => {
                let facts = self.pf(*pf)?;
                same("autoprobe", &facts.autoprobe, from)?;
                facts.autoprobe = *to;
                Ok(())
            }
            Change::SetVfCount { pf, from, to } => self.set_count(*pf, *from, *to, forced),
            Change::SetLink { pf, from, to, .. } => {
                let port = self.port(*pf)?;
                same("link", &port.up, from)?;
                port.up = *to;
                Ok(())
            }
            Change::SetAcceptRa { pf, from, to, .. } => {
                let port = self.port(*pf)?;
                same("accept_ra", &port.accept_ra, &Some(*from))?;
                port.accept_ra = Some(*to);
                Ok(())
            }
            Change::SetVfMac { vf, from, to } => {
                let settings = self.settings(*vf)?;
                same("address", &settings.mac, from)?;
                settings.mac = *to;
                Ok(())
            }
            Change::SetVf { vf, setting } => self.set(*vf, *setting),
            Change::RememberVf { vf, had } => {
                let function = self.vf(*vf)?;
                match hands(function).same_hands(&had.binding) {
                    true => Ok(()),
                    false => Err(format!("it has {}, not {}", hands(function), had.binding)),
                }
            }
            Change::RemakeVf { vf, had } => {
                if let Some(settings) = had.settings {
                    *self.settings(*vf)? = settings;
                }
                let address = self.vf(*vf)?.address;
                self.hand_over(address, &had.binding)
            }
            Change::Bind { device, from, driver } => {
                let address = self.locate(*device)?;
                let function = self.function(address)?;
                if function.driver.as_deref() == Some(driver) {
                    return Ok(());
                }
                let present = hands(function);
                if !present.same_hands(from) {
                    return Err(format!("it has {present}, not {from}"));
                }
                if function.sriov.as_ref().is_some_and(|facts| facts.present > 0) {
                    return Err("it has VFs, and the kernel says EBUSY".to_owned());
                }
                self.check_use(address, forced)?;
                self.hand_over(address, &Binding::forced(driver))
            }
            Change::Restore { device, from, to } => {
                let address = self.locate(*device)?;
                let present = hands(self.function(address)?);
                if present.same_hands(to) {
                    return Ok(());
                }
                if !present.same_hands(from) {
                    return Err(format!("it has {present}, not {from}"));
                }
                if !present.driver.as_deref().is_some_and(is_vfio_driver) {
                    self.check_use(address, forced)?;
                }
                self.hand_over(address, to)
            }
            Change::Yield { device, from } => {
                let address = self.locate(*device)?;
                let present = hands(self.function(address)?);
                if !present.same_hands(from) {
                    return Err(format!("it has {present}, not {from}"));
                }
                let driver = self.driver_of_host(address)?;
                self.hand_over(address, &Binding { driver, ..Binding::default() })
            }
            Change::Retake { device, to } => {
                let address = self.locate(*device)?;
                self.check_use(address, forced)?;
                self.hand_over(address, to)
            }
            Change::SetNvmePrimary { .. } | Change::SetNvmeSecondary { .. } => {
                Err("the model has no drives".to_owned())
            }
            Change::Forced { .. } => Err("it is forced twice".to_owned()),
        }
    }

    fn set(&mut self, vf: VfRef, setting: VfSetting) -> Result<(), String> {
        let settings = self.settings(vf)?;
        let now = setting.from_now(settings);
        let now = now.ok_or_else(|| format!("the {} is not reported", setting.name()))?;
        if now.is_nothing() {
            return Ok(());
        }
        if now != setting {
            let (now, before) = (now.before(), setting.before());
            return Err(format!("the {} is {now}, not {before}", setting.name()));
        }
        match setting {
            VfSetting::Vlan(step) => settings.vlan = step.to,
            VfSetting::Trust(step) => settings.trust = Some(step.to),
            VfSetting::SpoofCheck(step) => settings.spoof_check = Some(step.to),
            VfSetting::LinkState(step) => settings.link_state = step.to,
            VfSetting::Rate(step) => settings.rate = step.to,
            VfSetting::Msix(_) => return Err("the model has no vectors".to_owned()),
        }
        Ok(())
    }

    fn set_count(
        &mut self,
        pf: PciAddress,
        from: u16,
        to: u16,
        forced: &[PciAddress],
    ) -> Result<(), String> {
        let facts = self.pf(pf)?.clone();
        same("number of VFs", &facts.present, &from)?;
        match (from, to) {
            (0, 0) => return Err("from none to none".to_owned()),
            (0, to) if to > facts.total => return Err("ERANGE".to_owned()),
            (0, to) => {
                for index in 0..to {
                    self.add_vf(VfRef { pf, index })?;
                }
            }
            (_, 0) => {
                for address in facts.vfs.values() {
                    self.check_use(*address, forced)?;
                    self.remove(*address);
                }
                let facts = self.pf(pf)?;
                facts.vfs.clear();
                facts.vf_settings.clear();
            }
            _ => return Err("EBUSY: the kernel goes by way of none".to_owned()),
        }
        self.pf(pf)?.present = to;
        Ok(())
    }

    fn add_vf(&mut self, vf: VfRef) -> Result<(), String> {
        let pf = self.function(vf.pf)?.clone();
        let facts = pf.sriov.as_ref().ok_or("no SR-IOV")?;
        let routing = u32::from(facts.offset) + u32::from(facts.stride) * u32::from(vf.index);
        let at = pf.address.routing_id() + routing;
        let byte = |shift: u32, mask: u32| u8::try_from(at >> shift & mask).unwrap_or(0);
        let address =
            PciAddress::new(pf.address.domain(), byte(8, 0xff), byte(3, 0x1f), byte(0, 7));
        let address = address.ok_or("no address for a VF")?;
        // Without access control on the way, all of a card is one group.
        let group = match pf.iommu_group {
            Some(own) if self.host.iommu.groups.get(&own).is_some_and(|g| g.members.len() > 1) => {
                Some(own)
            }
            Some(_) => (0..).find(|number| !self.host.iommu.groups.contains_key(number)),
            None => None,
        };
        if let Some(group) = group {
            let fresh = IommuGroup { isolates: true, ..IommuGroup::default() };
            let group = self.host.iommu.groups.entry(group).or_insert(fresh);
            group.members.push(address);
            group.members.sort();
        }
        let function = PciFunction {
            vendor: pf.vendor,
            device: facts.vf_device,
            class: pf.class,
            iommu_group: group,
            numa_node: pf.numa_node,
            parent: pf.parent,
            vf_of: Some(vf),
            ..PciFunction::new(address)
        };
        let autoprobe = facts.autoprobe;
        let has_port = self.host.port_of(&pf).is_some();
        let at = self.host.functions.partition_point(|other| other.address < address);
        self.host.functions.insert(at, function);
        let settings = VfSettings {
            trust: self.trust,
            spoof_check: self.spoof_check,
            ..VfSettings::default()
        };
        let facts = self.pf(vf.pf)?;
        facts.vfs.insert(vf.index, address);
        if has_port {
            facts.vf_settings.insert(vf.index, settings);
        }
        let driver = pf.driver.as_ref().and_then(|driver| self.vf_drivers.get(driver)).cloned();
        if let (true, Some(driver)) = (autoprobe, driver) {
            let to = Binding { driver: Some(driver), ..Binding::default() };
            self.hand_over(address, &to)?;
        }
        Ok(())
    }

    fn remove(&mut self, address: PciAddress) {
        self.host.functions.retain(|function| function.address != address);
        self.host.netdevs.retain(|netdev| netdev.pci != Some(address));
        self.lost.remove(&address);
        self.drivers.remove(&address);
        for group in self.host.iommu.groups.values_mut() {
            group.members.retain(|member| *member != address);
        }
        self.host.iommu.groups.retain(|_, group| !group.members.is_empty());
    }

    /// The driver that the kernel finds for a function without an override.
    fn driver_of_host(&mut self, address: PciAddress) -> Result<Option<String>, String> {
        let Some(vf) = self.function(address)?.vf_of else {
            return Ok(self.drivers.get(&address).cloned());
        };
        let pf = self.function(vf.pf)?;
        let autoprobe = pf.sriov.as_ref().is_some_and(|facts| facts.autoprobe);
        let driver = pf.driver.clone().filter(|_| autoprobe);
        Ok(driver.and_then(|driver| self.vf_drivers.get(&driver).cloned()))
    }

    /// Gives a function to a driver. A driver of the host brings the function's interfaces, and takes
    /// them with it.
    fn hand_over(&mut self, address: PciAddress, to: &Binding) -> Result<(), String> {
        let (before, after) = (hands(self.function(address)?), to);
        if before.driver != after.driver {
            let by_host = |driver: &&String| !is_vfio_driver(driver);
            if let Some(driver) = before.driver.as_ref().filter(by_host) {
                self.drivers.insert(address, driver.clone());
            }
            let mut gone: Vec<Netdev> = Vec::new();
            self.host.netdevs.retain(|netdev| {
                let own = netdev.pci == Some(address);
                if own {
                    gone.push(netdev.clone());
                }
                !own
            });
            if !gone.is_empty() {
                self.lost.insert(address, gone);
            }
            let by_host = after.driver.as_deref().is_some_and(|driver| !is_vfio_driver(driver));
            let netdevs = match by_host {
                true => self.interfaces(address)?,
                false => Vec::new(),
            };
            let mut names: Vec<String> = netdevs.iter().map(|netdev| netdev.name.clone()).collect();
            names.sort();
            self.host.netdevs.extend(netdevs);
            self.host.netdevs.sort_by(|one, other| one.name.cmp(&other.name));
            self.function(address)?.netdevs = names;
        }
        let function = self.function(address)?;
        function.driver.clone_from(&after.driver);
        function.driver_override.clone_from(&after.driver_override);
        Ok(())
    }

    /// The interfaces that a function has with the host's driver.
    fn interfaces(&mut self, address: PciAddress) -> Result<Vec<Netdev>, String> {
        let function = self.function(address)?.clone();
        let is_network = function.class >> 16 == 0x02;
        match (self.lost.remove(&address), function.vf_of) {
            (Some(lost), _) => Ok(lost),
            (None, Some(vf)) if is_network => {
                let pf = self.function(vf.pf)?.clone();
                let Some(port) = self.host.port_of(&pf) else { return Ok(Vec::new()) };
                let name = format!("{}v{}", port.name, vf.index);
                let admin = self.settings(vf)?.mac;
                let index = 1000 + address.routing_id();
                let own = MacAddress([2, 0xee, 0, 0, (index >> 8) as u8, index as u8]);
                let mac = if admin.is_zero() { own } else { admin };
                Ok(vec![netdev(&name, index, address, mac)])
            }
            (None, _) => Ok(Vec::new()),
        }
    }

    /// The host does not let go of what it uses.
    fn check_use(&self, address: PciAddress, forced: &[PciAddress]) -> Result<(), String> {
        let Some(function) = self.host.function(address) else { return Ok(()) };
        let uses = usage::of(&self.host, function);
        match uses.first().filter(|_| !forced.contains(&address)) {
            Some(used) => Err(format!("the host uses it: {used}")),
            None => Ok(()),
        }
    }

    fn locate(&mut self, device: Target) -> Result<PciAddress, String> {
        match device {
            Target::Function(address) => Ok(self.function(address)?.address),
            Target::Vf(vf) => Ok(self.vf(vf)?.address),
        }
    }

    fn function(&mut self, address: PciAddress) -> Result<&mut PciFunction, String> {
        let mut functions = self.host.functions.iter_mut();
        functions
            .find(|function| function.address == address)
            .ok_or_else(|| "it is gone".to_owned())
    }

    fn vf(&mut self, vf: VfRef) -> Result<&mut PciFunction, String> {
        let address = self.host.vf_address(vf).ok_or("there is no such VF")?;
        self.function(address)
    }

    fn pf(&mut self, pf: PciAddress) -> Result<&mut crate::PfFacts, String> {
        self.function(pf)?.sriov.as_mut().ok_or_else(|| "it has no SR-IOV".to_owned())
    }

    fn port(&mut self, pf: PciAddress) -> Result<&mut Netdev, String> {
        let function = self.function(pf)?.clone();
        let name = self.host.port_of(&function).map(|port| port.name.clone());
        let mut netdevs = self.host.netdevs.iter_mut();
        netdevs.find(|netdev| Some(&netdev.name) == name.as_ref()).ok_or("no interface".to_owned())
    }

    fn settings(&mut self, vf: VfRef) -> Result<&mut VfSettings, String> {
        self.pf(vf.pf)?
            .vf_settings
            .get_mut(&vf.index)
            .ok_or("its PF does not tell of it".to_owned())
    }
}

/// An interface that is up and carries nothing.
pub fn netdev(name: &str, index: u32, pci: PciAddress, mac: MacAddress) -> Netdev {
    Netdev {
        name: name.to_owned(),
        altnames: Vec::new(),
        index,
        mac: Some(mac),
        permanent_mac: Some(mac),
        up: true,
        carrier: Some(true),
        master: None,
        uppers: Vec::new(),
        pci: Some(pci),
        port_name: None,
        addresses: Vec::new(),
        routes: false,
        default_route: false,
        xdp: false,
        accept_ra: Some(1),
        autoconfigured: false,
    }
}

fn hands(function: &PciFunction) -> Binding {
    Binding {
        driver: function.driver.clone(),
        driver_override: function.driver_override.clone(),
        mac: None,
        shown: None,
    }
}

fn same<T: PartialEq + std::fmt::Debug>(what: &str, is: &T, expected: &T) -> Result<(), String> {
    match is == expected {
        true => Ok(()),
        false => Err(format!("the {what} is {is:?}, not {expected:?}")),
    }
}
