//! Reading PCI functions.
//!
//! A function can leave at any moment, with its attributes one after the other. What is read
//! without ids, or of which nothing is there any more afterwards, is gone: it is told as that, and
//! what was odd about it meanwhile means nothing. What is there and not as the kernel writes it is
//! a problem of this function.

use super::capabilities::{Capabilities, Extent};
use super::config_space::ConfigFile;
use super::link::{self, Link};
use super::names;
use super::pci::PciFunction;
use super::reader::Reader;
use super::{bars, iov, serial};
use crate::address::PciAddress;
use crate::directory::Directory;
use crate::snapshot::Scope;

/// What became of reading a function.
#[derive(Debug)]
pub enum Found {
    /// It is there.
    Function(Box<PciFunction>),
    /// It went while it was read.
    Gone,
    /// It does not say what it is (noted).
    Unclear,
}

/// Every function, sorted by address, and those that went meanwhile; network interfaces and `vf_of`
/// still to be filled in.
pub fn read_all(reader: &mut Reader, scope: Scope) -> (Vec<PciFunction>, Vec<PciAddress>) {
    let (mut functions, mut gone) = (Vec::new(), Vec::new());
    let devices = Directory::open(&reader.root.pci_devices());
    let Some(devices) = reader.accept(devices) else { return (functions, gone) };
    let names = reader.accept(devices.names());
    functions.reserve(names.len());
    for name in names {
        // The kernel writes addresses in one way only; a recorded tree may have others beside.
        let address = name.parse::<PciAddress>().ok();
        let Some(address) = address.filter(|address| address.to_string() == name) else { continue };
        match find(reader, &devices, &name, address, scope) {
            Found::Function(function) => functions.push(*function),
            Found::Gone => gone.push(address),
            Found::Unclear => {}
        }
    }
    functions.sort_unstable_by_key(|function| function.address);
    gone.sort_unstable();
    (functions, gone)
}

/// One function, as far as a plan needs it; `None` where it is not there, or does not say what it
/// is (noted).
pub fn read(reader: &mut Reader, address: PciAddress) -> Option<PciFunction> {
    read_within(reader, address, Scope::Planning)
}

/// The same, as far as `scope` says.
pub fn read_within(reader: &mut Reader, address: PciAddress, scope: Scope) -> Option<PciFunction> {
    let devices = Directory::open(&reader.root.pci_devices());
    let devices = reader.accept(devices)?;
    match find(reader, &devices, &address.to_string(), address, scope) {
        Found::Function(function) => Some(*function),
        Found::Gone | Found::Unclear => None,
    }
}

fn find(
    reader: &mut Reader,
    devices: &Directory,
    name: &str,
    address: PciAddress,
    scope: Scope,
) -> Found {
    let problems = reader.problems.len();
    let opened = devices.below(name);
    let noted = opened.is_err();
    let Some(device) = reader.accept(opened) else {
        return if noted { Found::Unclear } else { Found::Gone };
    };
    let function = read_device(reader, (devices, name), &device, address, scope);
    if !device.has("vendor") {
        reader.problems.truncate(problems);
        return Found::Gone;
    }
    match function {
        Some(function) => Found::Function(Box::new(function)),
        None => {
            if reader.problems.len() == problems {
                // Half of its ids are there: the kernel never does that.
                reader.note(&device.at("class"), "it does not say what it is");
            }
            Found::Unclear
        }
    }
}

fn read_device(
    reader: &mut Reader,
    (devices, name): (&Directory, &str),
    device: &Directory,
    address: PciAddress,
    scope: Scope,
) -> Option<PciFunction> {
    let mut function = identify(reader, device, address, scope)?;
    function.iommu_group = iommu_group(reader, device);
    // -1 stands for "none".
    let numa_node = reader.number_in::<i64>(device, "numa_node");
    function.numa_node = numa_node.and_then(|node| node.try_into().ok());
    function.sriov = iov::read(reader, device, scope);
    if function.class >> 16 == DISPLAY {
        function.boot_vga = reader.flag_in(device, "boot_vga").unwrap_or(false);
    }
    if scope >= Scope::Functions {
        function.revision = reader.number_in(device, "revision").unwrap_or(0);
        let driver_override = reader.text_in(device, "driver_override");
        function.driver_override = driver_override.filter(|text| is_override(text));
        function.parent = parent(reader, devices, name);
        function.reset_methods = reader
            .text_in(device, "reset_method")
            .map(|text| text.split_whitespace().map(str::to_owned).collect())
            .unwrap_or_default();
    }
    if scope >= Scope::Whole {
        function.names = Some(names::of(&function));
        // Before anything wakes it.
        function.power_state = reader.text_in(device, "power_state");
        function.bars = bars::read(reader, device);
    }
    if scope >= Scope::Whole || (scope >= Scope::Pools && function.is_bridge()) {
        function.capabilities = capabilities(reader, device);
    }
    // Neither a bridge nor a virtual function, of which there may be hundreds, feeds a pool.
    let may_feed = match scope {
        Scope::Listing | Scope::Functions => false,
        Scope::Vfs => function.sriov.is_some(),
        _ => !function.is_bridge() && !device.has("physfn"),
    };
    if may_feed {
        function.serial = serial::read(reader, device, &function);
        function.link = link::possible(reader, device);
    }
    if scope >= Scope::Whole {
        let known = function.capabilities.as_ref().filter(|known| known.extent > Extent::Header);
        function.link = match known.map(|known| &known.pcie) {
            Some(pcie) => pcie.as_ref().and_then(Link::of),
            None => link::read(reader, device),
        };
    }
    Some(function)
}

/// Base class of displays, of which one may be the boot's.
const DISPLAY: u32 = 0x03;

/// Its ids, class and driver. For a list they come from `uevent`, which has them all in one file.
fn identify(
    reader: &mut Reader,
    device: &Directory,
    address: PciAddress,
    scope: Scope,
) -> Option<PciFunction> {
    let event = reader.value_in(device, "uevent", "an event", |text| Some(event(text, address)));
    let event = event.flatten();
    if scope == Scope::Listing
        && let Some(function) = event
    {
        return Some(function);
    }
    let mut function = match event {
        Some(function) => function,
        None => PciFunction {
            vendor: reader.number_in(device, "vendor")?,
            device: reader.number_in(device, "device")?,
            class: reader.number_in::<u32>(device, "class")? & 0xff_ffff,
            subsystem_vendor: reader.number_in(device, "subsystem_vendor").unwrap_or(0),
            subsystem_device: reader.number_in(device, "subsystem_device").unwrap_or(0),
            ..PciFunction::new(address)
        },
    };
    function.driver = reader.accept(device.link_name("driver"));
    Some(function)
}

/// Lines of `KEY=value` (drivers/pci/pci-driver.c, `pci_uevent`); `None` where one is missing that
/// tells what it is.
fn event(text: &str, address: PciAddress) -> Option<PciFunction> {
    let mut function = PciFunction::new(address);
    let (mut class, mut ids) = (None, None);
    for line in text.lines() {
        let (key, value) = line.split_once('=')?;
        match key {
            "DRIVER" => function.driver = Some(value.to_owned()),
            "PCI_CLASS" => class = Some(u32::from_str_radix(value, 16).ok()?),
            "PCI_ID" => ids = Some(pair(value)?),
            "PCI_SUBSYS_ID" => {
                (function.subsystem_vendor, function.subsystem_device) = pair(value)?;
            }
            "PCI_SLOT_NAME" if value.parse() != Ok(address) => return None,
            _ => {}
        }
    }
    function.class = class? & 0xff_ffff;
    (function.vendor, function.device) = ids?;
    Some(function)
}

/// `8086:10C9`.
fn pair(text: &str) -> Option<(u16, u16)> {
    let (vendor, device) = text.split_once(':')?;
    Some((u16::from_str_radix(vendor, 16).ok()?, u16::from_str_radix(device, 16).ok()?))
}

/// What a function says of itself, that is not read otherwise; `None` where it is not there or its
/// configuration space cannot be read (noted).
pub fn capabilities_of(reader: &mut Reader, address: PciAddress) -> Option<Capabilities> {
    let device = Directory::open(&reader.root.pci_device(address));
    let device = reader.accept(device)?;
    capabilities(reader, &device)
}

/// What the function says of itself; `None` where its configuration space is not shown, or cannot
/// be read (noted).
fn capabilities(reader: &mut Reader, device: &Directory) -> Option<Capabilities> {
    let mut space = match device.file("config") {
        Ok(file) => ConfigFile::from(file),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return None,
        Err(error) => {
            let cause = format!("its configuration space cannot be opened: {error}");
            reader.note(&device.at("config"), cause);
            return None;
        }
    };
    let (capabilities, odd) = Capabilities::read(&mut space);
    let path = device.at("config");
    match space.into_failure() {
        Some(error) => {
            reader.note(&path, format!("its configuration space cannot be read: {error}"));
        }
        None => odd.into_iter().for_each(|text| reader.note(&path, text)),
    }
    Some(capabilities)
}

/// Whether a `driver_override` names a driver: the kernel shows an unset one as `(null)`.
pub(crate) fn is_override(text: &str) -> bool {
    !text.is_empty() && text != "(null)"
}

fn iommu_group(reader: &mut Reader, device: &Directory) -> Option<u32> {
    let name = reader.accept(device.link_name("iommu_group"))?;
    let number = name.parse().ok();
    if number.is_none() {
        let cause = format!("{name:?} is not an IOMMU group number");
        reader.note(&device.at("iommu_group"), cause);
    }
    number
}

/// The link of a function names every bridge on its way, the nearest last but one.
fn parent(reader: &mut Reader, devices: &Directory, name: &str) -> Option<PciAddress> {
    let target = reader.accept(devices.link_target(name))?;
    let above = target.parent()?;
    above.file_name()?.to_str()?.parse().ok()
}
