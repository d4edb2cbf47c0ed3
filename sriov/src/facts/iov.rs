//! SR-IOV: what a physical function says of its virtual ones.

use std::collections::BTreeMap;

use super::pci::{PciFunction, PfFacts, VfSettings};
use super::reader::Reader;
use crate::address::{PciAddress, VfRef};
use crate::attribute;
use crate::directory::Directory;
use crate::netlink::Rtnetlink;
use crate::snapshot::Scope;

/// The SR-IOV attributes of one function; `None` where it has no such capability. `vf_settings`
/// stays empty: see [`read_settings`]; and `nvme` too: see [`crate::nvme::read`].
pub fn read(reader: &mut Reader, device: &Directory, scope: Scope) -> Option<PfFacts> {
    let total = reader.number_in(device, "sriov_totalvfs")?;
    let mut facts = PfFacts {
        total,
        present: reader.number_in(device, "sriov_numvfs").unwrap_or(0),
        vfs: links(reader, device),
        ..PfFacts::default()
    };
    if scope >= Scope::Functions {
        facts.autoprobe = reader.flag_in(device, "sriov_drivers_autoprobe").unwrap_or(true);
        facts.vf_device = vf_device(reader, device);
        facts.offset = reader.number_in(device, "sriov_offset").unwrap_or(0);
        facts.stride = reader.number_in(device, "sriov_stride").unwrap_or(0);
    }
    Some(facts)
}

/// The SR-IOV attributes of a function that is not read otherwise.
pub fn of(reader: &mut Reader, pf: PciAddress) -> Option<PfFacts> {
    let device = Directory::open(&reader.root.pci_device(pf));
    let device = reader.accept(device)?;
    read(reader, &device, Scope::Functions)
}

/// Written in hexadecimal without `0x`.
fn vf_device(reader: &mut Reader, device: &Directory) -> u16 {
    let number = |text: &str| u16::from_str_radix(text.trim_start_matches("0x"), 16).ok();
    reader.value_in(device, "sriov_vf_device", "a device ID", number).unwrap_or(0)
}

/// The VFs a PF has now: its `virtfnN` links, N in numeric order.
pub fn vfs(reader: &mut Reader, pf: PciAddress) -> BTreeMap<u16, PciAddress> {
    let device = Directory::open(&reader.root.pci_device(pf));
    reader.accept(device).map(|device| links(reader, &device)).unwrap_or_default()
}

fn links(reader: &mut Reader, device: &Directory) -> BTreeMap<u16, PciAddress> {
    let mut vfs = BTreeMap::new();
    for name in reader.accept(device.names()) {
        let Some(index) = name.strip_prefix("virtfn") else { continue };
        // None where it went with its VF.
        let Some(target) = reader.accept(device.link_name(&name)) else { continue };
        match (index.parse(), target.parse()) {
            (Ok(index), Ok(address)) => {
                vfs.insert(index, address);
            }
            _ => reader.note(&device.at(&name), "is not a link from a VF index to a PCI address"),
        }
    }
    vfs
}

/// Where one VF is now.
pub fn vf_address(reader: &mut Reader, vf: VfRef) -> Option<PciAddress> {
    let link = reader.root.pci_attribute(vf.pf, &format!("virtfn{}", vf.index));
    reader.link_name(&link)?.parse().ok()
}

/// Fills in `vf_of` from what the PFs list.
pub fn relate(functions: &mut [PciFunction]) {
    let mut parents = BTreeMap::new();
    for function in functions.iter() {
        for (index, vf) in function.sriov.iter().flat_map(|pf| &pf.vfs) {
            parents.insert(*vf, VfRef { pf: function.address, index: *index });
        }
    }
    for function in functions {
        // A VF has none itself, whatever a recorded tree may say.
        let own = parents.get(&function.address).copied();
        function.vf_of = own.filter(|vf| !parents.contains_key(&vf.pf));
    }
}

/// Whose VF a function is, and which, from its `physfn` link; for one function on its own.
pub fn vf_of(reader: &mut Reader, vf: PciAddress) -> Option<VfRef> {
    let result = attribute::link_name(&reader.root.pci_attribute(vf, "physfn"));
    let pf: PciAddress = reader.accept(result)?.parse().ok()?;
    let index = vfs(reader, pf).into_iter().find(|(_, address)| *address == vf)?.0;
    Some(VfRef { pf, index })
}

/// Which VF of `pf` a function of this address would be, from the PF's offset and stride.
pub fn vf_by_routing_id(reader: &mut Reader, pf: PciAddress, vf: PciAddress) -> Option<VfRef> {
    let device = reader.root.pci_device(pf);
    let total: u32 = reader.number(&device.join("sriov_totalvfs"))?;
    let offset: u32 = reader.number(&device.join("sriov_offset"))?;
    let stride: u32 = reader.number(&device.join("sriov_stride"))?;
    let distance = vf.routing_id().checked_sub(pf.routing_id())?.checked_sub(offset)?;
    // With one VF only, the stride means nothing and may be 0.
    let index = if distance == 0 { 0 } else { distance.checked_div(stride)? };
    let is_one = pf.domain() == vf.domain() && index < total && index * stride == distance;
    let index = u16::try_from(index).ok().filter(|_| is_one)?;
    Some(VfRef { pf, index })
}

/// What a PF with this interface has set for its VFs, as the kernel tells over rtnetlink.
pub fn read_settings(
    reader: &mut Reader,
    netlink: &mut Rtnetlink,
    netdev: &str,
    interface_index: u32,
) -> BTreeMap<u16, VfSettings> {
    let path = reader.root.netdev(netdev);
    match netlink.vf_list(interface_index) {
        Ok(list) => {
            if !list.is_complete() {
                let told = list.settings.len();
                reader.note(&path, format!("the kernel tells the settings of {told} VFs only"));
            }
            list.settings
        }
        Err(error) => {
            reader.note(&path, format!("its VFs' settings cannot be read: {error}"));
            BTreeMap::new()
        }
    }
}
