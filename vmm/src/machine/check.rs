//! Whether a spec describes a machine that can be built, as far as the spec alone tells.

mod cpus;

use std::collections::HashSet;

use crate::boot::check_command_line;
use crate::error::{Error, Result};
use crate::pci::root::SLOTS;
use crate::spec::{
    DeviceSource, Disk, FIRST_CID, GuestSpec, Iommu, LAST_CID, LAST_HOST_NODE, MAX_DISK_QUEUES,
    MAX_NAME, MAX_NETWORK_QUEUES, MAX_NODES, MAX_PORT_NAME, MAX_PORTS, MIN_MEMORY, Memory,
    MemoryNode, NODE_GRAIN, Port, Vfio, VfioGroup, VirtioNet, Vsock,
};
use crate::virtio::balloon::check_target;

/// Refuses what cannot be, before anything is opened or pinned for it.
///
/// # Errors
/// [`Error::Spec`] or [`Error::Boot`] naming what is wrong.
pub fn check(spec: &GuestSpec) -> Result<()> {
    if !is_name(&spec.name) {
        return refuse(format!(
            "its name must have 1 to {MAX_NAME} bytes and no control characters"
        ));
    }
    cpus::check(&spec.cpus).or_else(refuse)?;
    check_memory(&spec.memory)?;
    check_nodes(spec)?;
    check_command_line(&spec.boot.cmdline)?;
    let passed = spec.vfio.as_ref().map_or(0, |vfio| vfio.devices.len());
    let single = [spec.rng, spec.vsock.is_some(), spec.balloon.is_some(), !spec.ports.is_empty()];
    let single = single.into_iter().filter(|has| *has).count();
    let devices = spec.networks.len() + spec.disks.len() + single + passed;
    // The host bridge takes one.
    if devices > SLOTS - 1 {
        return refuse(format!("{devices} devices; at most {} are possible", SLOTS - 1));
    }
    spec.networks.iter().try_for_each(check_network)?;
    spec.disks.iter().try_for_each(check_disk)?;
    spec.vsock.as_ref().map_or(Ok(()), check_vsock)?;
    check_balloon(spec)?;
    check_ports(&spec.ports)?;
    let Some(vfio) = &spec.vfio else { return Ok(()) };
    check_vfio(vfio)?;
    let unopened = groups(vfio).iter().find(|group| group.descriptor.is_none());
    unopened.map_or(Ok(()), |group| refuse(format!("IOMMU group {} is not open", group.number)))
}

fn refuse(text: String) -> Result<()> {
    Err(Error::Spec(text))
}

fn is_name(name: &str) -> bool {
    (1..=MAX_NAME).contains(&name.len()) && !name.contains(char::is_control)
}

fn check_memory(memory: &Memory) -> Result<()> {
    let Memory { bytes, pages, merge, .. } = memory;
    let bytes = *bytes;
    let page = pages.huge().unwrap_or(4096);
    if bytes < MIN_MEMORY || !bytes.is_multiple_of(page) {
        return refuse(format!(
            "{bytes} bytes of memory; at least {MIN_MEMORY} and whole pages of {page} bytes are possible"
        ));
    }
    if *merge && pages.huge().is_some() {
        return refuse("huge pages are not merged".to_owned());
    }
    Ok(())
}

/// Refuses nodes that are not all of the guest.
fn check_nodes(spec: &GuestSpec) -> Result<()> {
    let GuestSpec { memory: Memory { bytes, pages, nodes, .. }, cpus, .. } = spec;
    if nodes.is_empty() {
        return Ok(());
    }
    if nodes.len() > MAX_NODES {
        return refuse(format!("{} NUMA nodes; at most {MAX_NODES} are possible", nodes.len()));
    }
    let grain = pages.huge().unwrap_or(NODE_GRAIN);
    let mut near = HashSet::new();
    for (number, MemoryNode { bytes, vcpus, host }) in nodes.iter().enumerate() {
        if *bytes < MIN_MEMORY || !bytes.is_multiple_of(grain) {
            return refuse(format!(
                "node {number}: {bytes} bytes of memory; at least {MIN_MEMORY} and a multiple of {grain} \
                 are possible"
            ));
        }
        if let Some(vcpu) = vcpus.iter().find(|vcpu| **vcpu >= cpus.count || !near.insert(**vcpu)) {
            return refuse(format!("node {number}: vCPU {vcpu} is not there, or in another node"));
        }
        if let Some(host) = host.filter(|host| *host > LAST_HOST_NODE) {
            return refuse(format!("node {number}: no host has a node {host}"));
        }
    }
    let sum = nodes.iter().try_fold(0u64, |sum, node| sum.checked_add(node.bytes));
    if sum != Some(*bytes) || near.len() != usize::from(cpus.count) {
        return refuse("its NUMA nodes are not all of its memory and its vCPUs".to_owned());
    }
    Ok(())
}

fn check_balloon(spec: &GuestSpec) -> Result<()> {
    let Some(balloon) = &spec.balloon else { return Ok(()) };
    if spec.vfio.is_some() {
        return refuse("a guest with passed-through devices can have no balloon".to_owned());
    }
    if spec.memory.pages.huge().is_some() {
        return refuse("of huge pages no part goes into a balloon".to_owned());
    }
    check_target(spec.memory.bytes, balloon.target).map_or_else(refuse, |_| Ok(()))
}

fn check_ports(ports: &[Port]) -> Result<()> {
    if ports.len() > MAX_PORTS {
        return refuse(format!("{} ports; at most {MAX_PORTS} are possible", ports.len()));
    }
    let mut names = HashSet::new();
    for Port { name, .. } in ports {
        if !is_name(name) || name.len() > MAX_PORT_NAME {
            return refuse(format!(
                "a port's name must have 1 to {MAX_PORT_NAME} bytes and no control characters"
            ));
        }
        if !names.insert(name) {
            return refuse(format!("port {name} is named twice"));
        }
    }
    Ok(())
}

fn check_disk(disk: &Disk) -> Result<()> {
    let Disk { name, serial, queues, .. } = disk;
    if !is_name(name) {
        return refuse(format!(
            "a disk's name must have 1 to {MAX_NAME} bytes and no control characters"
        ));
    }
    if serial.len() > 20 || !serial.bytes().all(|byte| byte.is_ascii_graphic()) {
        return refuse(format!("disk {name}: {serial:?} is no serial number of 20 characters"));
    }
    if !(1..=MAX_DISK_QUEUES).contains(queues) {
        let range = format!("1 to {MAX_DISK_QUEUES} are possible");
        return refuse(format!("disk {name}: {queues} queues; {range}"));
    }
    Ok(())
}

fn check_network(network: &VirtioNet) -> Result<()> {
    let (queues, vhosts) = (network.taps.len(), network.vhosts.len());
    if !(1..=MAX_NETWORK_QUEUES).contains(&queues) || ![0, queues].contains(&vhosts) {
        return refuse(format!(
            "a network card with {queues} TAPs and {vhosts} of vhost; 1 to {MAX_NETWORK_QUEUES} and as many, \
             or none, are possible"
        ));
    }
    if network.mac[0] & 1 != 0 || network.mac == [0; 6] {
        let mac = network.mac.map(|byte| format!("{byte:02x}")).join(":");
        return refuse(format!("{mac} is no address of a single network card"));
    }
    Ok(())
}

fn check_vsock(Vsock { cid, .. }: &Vsock) -> Result<()> {
    if !(FIRST_CID..=LAST_CID).contains(cid) {
        return refuse(format!("{cid} is no guest's CID"));
    }
    Ok(())
}

fn groups(vfio: &Vfio) -> &[VfioGroup] {
    match &vfio.iommu {
        Iommu::Type1 { groups, .. } => groups,
        Iommu::Iommufd { .. } => &[],
    }
}

/// Refuses devices that cannot be given together.
///
/// # Errors
/// [`Error::Spec`] naming what is wrong.
pub fn check_vfio(vfio: &Vfio) -> Result<()> {
    let groups = groups(vfio);
    let mut numbers = HashSet::new();
    for group in groups {
        if !numbers.insert(group.number) {
            return refuse(format!("IOMMU group {} is named twice", group.number));
        }
    }
    let mut addresses = HashSet::new();
    for device in &vfio.devices {
        let address = &device.address;
        if !is_address(address) {
            return refuse(format!(
                "{address:?} is not a PCI address in full, such as 0000:01:10.0"
            ));
        }
        // The kernel would open it once more, for two functions that undo each other.
        if !addresses.insert(address) {
            return refuse(format!("{address} is named twice"));
        }
        match (&vfio.iommu, device.from) {
            (Iommu::Type1 { .. }, DeviceSource::Group(index)) if index >= groups.len() => {
                return refuse(format!("{address}: there is no group with index {index}"));
            }
            (Iommu::Type1 { .. }, DeviceSource::Group(_))
            | (Iommu::Iommufd { .. }, DeviceSource::Cdev(_)) => {}
            (Iommu::Type1 { .. }, DeviceSource::Cdev(_)) => {
                return refuse(format!("{address}: a container holds groups, not devices"));
            }
            (Iommu::Iommufd { .. }, DeviceSource::Group(_)) => {
                return refuse(format!("{address}: iommufd takes devices, not groups"));
            }
        }
    }
    Ok(())
}

/// `dddd:bb:dd.f` as the kernel writes it: lower-case hexadecimal, device below 20, function below
/// 8. A domain may have more digits. VFIO reads options after a space, which are no guest's.
fn is_address(text: &str) -> bool {
    let hex = |text: &str, digits: std::ops::RangeInclusive<usize>| {
        digits.contains(&text.len())
            && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
    };
    let parts: Vec<&str> = text.split(':').collect();
    let [domain, bus, rest] = parts[..] else { return false };
    let Some((device, function)) = rest.split_once('.') else { return false };
    hex(domain, 4..=8)
        && hex(bus, 2..=2)
        && hex(device, 2..=2)
        && device < "20"
        && hex(function, 1..=1)
        && function < "8"
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spec::{
        Balloon, Boot, Console, Cpus, Descriptor, DiskFormat, Pages, Port, VfioDevice,
    };

    fn spec() -> GuestSpec {
        let device = |address: &str, index| VfioDevice {
            address: address.into(),
            from: DeviceSource::Group(index),
            resettable: true,
        };
        GuestSpec {
            name: "web-1".into(),
            cpus: Cpus::count(1),
            memory: Memory::bytes(MIN_MEMORY),
            kvm: Descriptor(3),
            boot: Boot { kernel: Descriptor(4), initrd: None, cmdline: String::new() },
            console: Console { input: None, output: Descriptor(5) },
            events: None,
            control: None,
            networks: vec![VirtioNet {
                taps: vec![Descriptor(6)],
                vhosts: vec![Descriptor(10)],
                mac: [2, 0, 0, 0, 0, 1],
            }],
            disks: vec![Disk {
                name: "root".into(),
                file: Descriptor(9),
                format: DiskFormat::Raw,
                read_only: false,
                serial: "root".into(),
                queues: 1,
            }],
            rng: false,
            packed_rings: false,
            vsock: Some(Vsock { vhost: Descriptor(11), cid: FIRST_CID }),
            balloon: None,
            ports: Vec::new(),
            sandbox: None,
            vfio: Some(Vfio {
                iommu: Iommu::Type1 {
                    container: Descriptor(7),
                    groups: vec![VfioGroup { number: 8, descriptor: Some(Descriptor(8)) }],
                },
                devices: vec![device("0000:01:10.0", 0), device("10000:01:1f.7", 0)],
                reserved: Vec::new(),
                peer_to_peer: false,
            }),
        }
    }

    fn refusal(change: impl FnOnce(&mut GuestSpec)) -> String {
        let mut spec = spec();
        change(&mut spec);
        check(&spec).unwrap_err().to_string()
    }

    #[test]
    fn a_machine_may_have_a_way_for_devices_that_are_yet_to_come() {
        let mut spec = spec();
        let vfio = spec.vfio.as_mut().unwrap();
        vfio.devices.clear();
        groups(vfio).clear();
        check(&spec).unwrap();
        spec.vfio.as_mut().unwrap().iommu = Iommu::Iommufd { descriptor: Descriptor(7) };
        check(&spec).unwrap();
    }

    fn balloon(change: impl FnOnce(&mut GuestSpec), target: u64) -> String {
        refusal(|spec| {
            (spec.vfio, spec.vsock) = (None, None);
            spec.memory.bytes = MIN_MEMORY * 2;
            spec.balloon = Some(Balloon { target });
            change(spec);
        })
    }

    #[test]
    fn a_balloon_is_for_memory_that_can_be_given_back() {
        let mut right = spec();
        right.vfio = None;
        right.memory.bytes = MIN_MEMORY * 2;
        right.balloon = Some(Balloon { target: MIN_MEMORY });
        check(&right).unwrap();
        for (text, expected) in [
            (refusal(|spec| spec.balloon = Some(Balloon { target: 0 })), "passed-through devices"),
            (balloon(|spec| spec.memory.pages = Pages::Huge2M, 0), "of huge pages no part"),
            (balloon(|_| {}, MIN_MEMORY + 4096), "would leave less than"),
            (balloon(|_| {}, u64::MAX), "would leave less than"),
            (balloon(|_| {}, 4095), "no pages of 4096"),
            (
                balloon(|spec| spec.disks = vec![spec.disks[0].clone(); 30], MIN_MEMORY),
                "32 devices; at most 31",
            ),
        ] {
            assert!(text.contains(expected), "{text}");
        }
    }

    fn ports(names: &[&str]) -> String {
        let port =
            |name: &&str| Port { name: (*name).to_owned(), console: false, socket: Descriptor(9) };
        refusal(|spec| spec.ports = names.iter().map(port).collect())
    }

    #[test]
    fn each_port_has_a_name_of_its_own() {
        let long = "x".repeat(MAX_PORT_NAME + 1);
        for (refused, expected) in [
            (ports(&["a", "b", "a"]), "port a is named twice"),
            (ports(&[""]), "1 to 63 bytes"),
            (ports(&["a\n"]), "no control characters"),
            (ports(&[&long]), "1 to 63 bytes"),
            (ports(&["a"; MAX_PORTS + 1]), "17 ports; at most 16"),
        ] {
            assert!(refused.contains(expected), "{refused}");
        }
        let mut right = spec();
        right.ports = vec![Port { name: "a".into(), console: true, socket: Descriptor(9) }];
        check(&right).unwrap();
    }

    fn vfio(change: impl FnOnce(&mut Vfio)) -> String {
        refusal(|spec| change(spec.vfio.as_mut().unwrap()))
    }

    fn groups(vfio: &mut Vfio) -> &mut Vec<VfioGroup> {
        match &mut vfio.iommu {
            Iommu::Type1 { groups, .. } => groups,
            Iommu::Iommufd { .. } => panic!("it has none"),
        }
    }

    /// Nodes of so many MiB with these vCPUs, in a guest that has 128 MiB and two of them.
    fn nodes<const N: usize>(nodes: [(u64, Vec<u8>); N]) -> String {
        refusal(|spec| {
            (spec.memory.bytes, spec.cpus.count) = (128 << 20, 2);
            let node = |(mib, vcpus)| MemoryNode { bytes: mib << 20, vcpus, host: None };
            spec.memory.nodes = nodes.map(node).into();
        })
    }

    #[test]
    fn what_cannot_be_is_refused_by_name() {
        check(&spec()).unwrap();
        for (text, expected) in [
            (refusal(|spec| spec.name.clear()), "name"),
            (refusal(|spec| spec.name = "x".repeat(MAX_NAME + 1)), "1 to 255 bytes"),
            (refusal(|spec| spec.name.push('\n')), "control characters"),
            (refusal(|spec| spec.cpus.count = 0), "0 CPUs"),
            (refusal(|spec| spec.memory.bytes += 1), "whole pages"),
            (refusal(|spec| spec.memory.bytes = 0), "0 bytes of memory"),
            (refusal(|spec| spec.memory.pages = Pages::Huge1G), "whole pages of 1073741824 bytes"),
            (
                refusal(|spec| {
                    (spec.memory.pages, spec.memory.merge) = (Pages::Huge2M, true);
                }),
                "huge pages are not merged",
            ),
            (nodes([(64, vec![0, 1]), (65, vec![])]), "node 1: 68157440 bytes of memory"),
            (nodes([(62, vec![0, 1]), (64, vec![])]), "node 0: 65011712 bytes of memory"),
            (nodes([(64, vec![0]), (64, vec![0])]), "node 1: vCPU 0 is not there, or in another"),
            (nodes([(64, vec![0, 2]), (64, vec![1])]), "node 0: vCPU 2 is not there"),
            (nodes([(64, vec![0]), (64, vec![])]), "are not all of its memory and its vCPUs"),
            (nodes([(64, vec![0]), (128, vec![1])]), "are not all of its memory and its vCPUs"),
            (refusal(|spec| spec.memory.nodes = vec![MemoryNode::default(); 17]), "17 NUMA nodes"),
            (
                refusal(|spec| {
                    let (bytes, vcpus) = (spec.memory.bytes, vec![0]);
                    spec.memory.nodes = vec![MemoryNode { bytes, vcpus, host: Some(1024) }];
                }),
                "node 0: no host has a node 1024",
            ),
            (refusal(|spec| spec.boot.cmdline = "a".repeat(2048)), "at most 2047"),
            (refusal(|spec| spec.boot.cmdline = "a\0b".into()), "NUL"),
            (
                refusal(|spec| spec.networks = vec![spec.networks[0].clone(); 28]),
                "32 devices; at most 31",
            ),
            (refusal(|spec| spec.networks[0].mac = [0xff; 6]), "ff:ff:ff:ff:ff:ff"),
            (
                refusal(|spec| spec.disks = vec![spec.disks[0].clone(); 28]),
                "32 devices; at most 31",
            ),
            (refusal(|spec| spec.disks[0].name = "\n".into()), "a disk's name"),
            (refusal(|spec| spec.disks[0].serial = "x".repeat(21)), "disk root: \"xxx"),
            (refusal(|spec| spec.disks[0].serial = "é".into()), "no serial number"),
            (refusal(|spec| spec.disks[0].queues = 0), "disk root: 0 queues; 1 to 16"),
            (refusal(|spec| spec.disks[0].queues = 17), "17 queues"),
            (refusal(|spec| spec.vsock.as_mut().unwrap().cid = 2), "2 is no guest's CID"),
            (refusal(|spec| spec.vsock.as_mut().unwrap().cid = u32::MAX), "no guest's CID"),
            (vfio(|vfio| groups(vfio).clear()), "no group with index 0"),
            (vfio(|vfio| groups(vfio).extend_from_within(..)), "IOMMU group 8 is named twice"),
            (vfio(|vfio| vfio.devices[1].from = DeviceSource::Group(1)), "no group with index 1"),
            (
                vfio(|vfio| vfio.devices[1].from = DeviceSource::Cdev(Descriptor(9))),
                "10000:01:1f.7: a container holds groups",
            ),
            (
                vfio(|vfio| vfio.iommu = Iommu::Iommufd { descriptor: Descriptor(7) }),
                "0000:01:10.0: iommufd takes devices",
            ),
            (
                vfio(|vfio| vfio.devices.push(vfio.devices[0].clone())),
                "0000:01:10.0 is named twice",
            ),
        ] {
            assert!(text.contains(expected), "{text}");
        }
    }

    #[test]
    fn an_address_is_an_address_and_nothing_more() {
        for address in [
            "",
            "01:10.0",
            "0000:01:10.8",
            "0000:01:20.0",
            "0000:01:10.0 vf_token=x",
            "0000:01:10.0\0",
            "0000:1:10.0",
            "0000:01:1F.0",
            "0000:01:10",
            "0000:01:10.0:",
        ] {
            let text = vfio(|vfio| vfio.devices[0].address = address.into());
            assert!(text.contains("not a PCI address"), "{text}");
        }
    }
}
