//! The IOMMU and its groups: what can only be given away together.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::pci::PciFunction;
use super::reader::{Reader, hexadecimal};
use crate::address::PciAddress;
use crate::attribute;
use crate::directory::Directory;
use crate::root::HostRoot;
use crate::snapshot::Scope;

/// The host's I/O virtualization.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Iommu {
    /// Whether the kernel translates DMA, so that a device can be given away in isolation.
    pub present: bool,
    /// What firmware offers, whether or not the kernel uses it.
    pub firmware: Option<IommuKind>,
    /// Groups by number. Numbers change between boots.
    pub groups: BTreeMap<u32, IommuGroup>,
}

/// Kinds of IOMMU on x86, by the ACPI table that announces them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum IommuKind {
    /// Intel VT-d (table DMAR).
    Intel,
    /// AMD-Vi (table IVRS).
    Amd,
}

/// Devices that the IOMMU cannot tell apart, or that reach each other behind its back.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct IommuGroup {
    /// PCI functions, sorted.
    pub members: Vec<PciAddress>,
    /// Other members by the kernel's name: devices of other buses, and functions that do not say
    /// what they are.
    pub others: Vec<String>,
    /// Whether there is an IOMMU behind it.
    pub isolates: bool,
    /// What its default domain is, such as `DMA`, `DMA-FQ` or `identity`; only in a snapshot that
    /// was read whole, and where the kernel tells (from 5.11 on).
    pub kind: Option<String>,
    /// Addresses that the IOMMU does not translate freely, sorted; only where a decision is to be
    /// made, since a list of devices has no use for them.
    #[serde(default)]
    pub reserved: Vec<Region>,
}

/// A range of I/O addresses that a group's devices cannot use as others.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Region {
    /// Its first address.
    pub start: u64,
    /// Its last address.
    pub end: u64,
    /// Why.
    pub kind: RegionKind,
}

/// Kinds of reserved regions (drivers/iommu/iommu.c, `iommu_group_resv_type_string`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RegionKind {
    /// Firmware wants it mapped one to one: a device with one cannot be given away.
    Direct,
    /// The same, but only until a driver takes the device.
    DirectRelaxable,
    /// Nothing may be mapped there.
    Reserved,
    /// Interrupts are written there.
    Msi,
    /// A kind of a newer kernel.
    Unknown,
}

/// The name of vfio's "no-IOMMU" groups, which isolate nothing (drivers/vfio/group.c).
const STAND_IN: &str = "vfio-noiommu";

/// The IOMMU facts, with the groups that the functions name.
pub fn read(reader: &mut Reader, functions: &[PciFunction], scope: Scope) -> Iommu {
    let mut groups: BTreeMap<u32, IommuGroup> = BTreeMap::new();
    for function in functions {
        if let Some(number) = function.iommu_group {
            groups.entry(number).or_default().members.push(function.address);
        }
    }
    // What else is in a group matters to those who want to give it away.
    if scope >= Scope::Functions {
        // A group that is named and has no directory is no stand-in.
        groups.values_mut().for_each(|group| group.isolates = true);
        let directory = Directory::open(&reader.root.iommu_groups());
        if let Some(directory) = reader.accept(directory) {
            for (number, group) in &mut groups {
                complete(reader, &directory, *number, group, scope);
            }
        }
    }
    let class = reader.root.iommu_class();
    let in_use = !reader.entries(&class).is_empty();
    let present = in_use || groups.values().any(|group| group.isolates);
    Iommu { present, firmware: firmware(reader), groups }
}

/// What the functions do not tell of their group.
fn complete(
    reader: &mut Reader,
    groups: &Directory,
    number: u32,
    group: &mut IommuGroup,
    scope: Scope,
) {
    let Some(directory) = reader.accept(groups.below(&number.to_string())) else { return };
    if let Some(devices) = reader.accept(directory.below("devices")) {
        // Sorted, as the functions are.
        let read = |name: &String| {
            name.parse().is_ok_and(|member| group.members.binary_search(&member).is_ok())
        };
        let mut names = reader.accept(devices.names());
        names.retain(|name| !read(name));
        names.sort();
        group.others = names;
    }
    group.isolates = reader.text_in(&directory, "name").as_deref() != Some(STAND_IN);
    if scope >= Scope::Vfs {
        group.reserved = reserved(reader, &directory);
    }
    if scope >= Scope::Whole {
        group.kind = reader.text_in(&directory, "type");
    }
}

/// Lines of first address, last address, kind.
fn reserved(reader: &mut Reader, directory: &Directory) -> Vec<Region> {
    let name = "reserved_regions";
    let Some(text) = reader.text_in(directory, name) else { return Vec::new() };
    let mut regions = Vec::new();
    for line in text.lines() {
        match region(line) {
            Some(region) => regions.push(region),
            None => reader.note(&directory.at(name), format!("{line:?} is not a reserved region")),
        }
    }
    regions.sort();
    regions
}

/// The IOMMU group that a function is in now; `None` where it has none.
pub fn group_of(root: &HostRoot, device: PciAddress) -> Option<u32> {
    let group = attribute::link_name(&root.pci_attribute(device, "iommu_group")).ok().flatten();
    group.and_then(|group| group.parse().ok())
}

/// The reserved regions of one group as they are now, in the kernel's order; none where it does not
/// tell (before Linux 4.11).
pub fn reserved_regions(root: &HostRoot, group: u32) -> Vec<Region> {
    let path = root.iommu_groups().join(group.to_string()).join("reserved_regions");
    let text = attribute::read(&path).ok().flatten().unwrap_or_default();
    text.lines().filter_map(region).collect()
}

fn region(line: &str) -> Option<Region> {
    let mut words = line.split_whitespace();
    let (start, end) = (hexadecimal(words.next()?)?, hexadecimal(words.next()?)?);
    let kind = match words.next()? {
        "direct" => RegionKind::Direct,
        "direct-relaxable" => RegionKind::DirectRelaxable,
        "reserved" => RegionKind::Reserved,
        "msi" => RegionKind::Msi,
        _ => RegionKind::Unknown,
    };
    (start <= end).then_some(Region { start, end, kind })
}

fn firmware(reader: &Reader) -> Option<IommuKind> {
    let offers = |table| reader.root.acpi_table(table).exists();
    if offers("DMAR") {
        Some(IommuKind::Intel)
    } else if offers("IVRS") {
        Some(IommuKind::Amd)
    } else {
        None
    }
}

impl Iommu {
    /// How to get an IOMMU where there is none.
    pub fn remedy(&self) -> &'static str {
        match self.firmware {
            Some(IommuKind::Intel) => {
                "Boot the host with intel_iommu=on on its kernel command line."
            }
            Some(IommuKind::Amd) => {
                "Boot the host without amd_iommu=off and iommu=off on its kernel command line."
            }
            None => {
                "Enable VT-d or AMD-Vi in the firmware's settings, and on Intel boot the host \
                 with intel_iommu=on on its kernel command line."
            }
        }
    }
}
