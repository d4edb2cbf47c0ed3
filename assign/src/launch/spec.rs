//! From what was decided and opened to the VMM's [`GuestSpec`].
//!
//! Descriptors keep their numbers: what is number 7 here is number 7 in the child, which inherits
//! it. So nothing has to be moved, and nothing can be moved onto something else.

use std::collections::BTreeSet;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};

use policies::{CpuModel, CpuTopology, Guest, GuestDisk, GuestPort, Rings};
use sriov::PciAddress;
use vmm::spec::{
    AddressRange, Balloon, Boot, Bound, Console, Cpus, Descriptor, DeviceSource, Disk, DiskFormat,
    GuestSpec, Iommu, Memory, MemoryNode, Model, Pages, Port, Sandbox, Topology, Vfio, VfioDevice,
    VfioGroup, VirtioNet,
};

use super::console::Ends;
use super::handles::{BootFiles, Card};
use super::seed;
use super::tap::Tap;
use super::vfio::{Files, VfioFiles};
use super::vsock::Vsock;

/// All that a guest is made of, open.
#[derive(Debug)]
pub struct Parts {
    /// `/dev/kvm`.
    pub kvm: OwnedFd,
    /// Kernel, initial RAM disk and command line.
    pub boot: BootFiles,
    /// The guest's ends of its serial console.
    pub console: Ends,
    /// The write end of the pipe for events.
    pub events: OwnedFd,
    /// The VMM's end of the sockets for requests.
    pub control: OwnedFd,
    /// Its disks, in the order of its document.
    pub disks: Vec<OwnedFd>,
    /// The disk that its cloud-init reads, behind the others.
    pub seed: Option<OwnedFd>,
    /// What each virtio network is made of.
    pub cards: Vec<Card>,
    /// Its sockets with the host.
    pub vsock: Option<Vsock>,
    /// The sockets of its ports, in the order of its document.
    pub ports: Vec<OwnedFd>,
    /// The passed-through devices.
    pub vfio: Option<VfioFiles>,
    /// Whom its process becomes, where it is shut in.
    pub sandbox: Option<Sandbox>,
    /// vCPUs that do not run where its process does.
    pub bound: Vec<Bound>,
    /// Nodes that its document names and this host has.
    pub nodes: BTreeSet<u32>,
    /// How much it is to give by its balloon at first, if it has one, in bytes.
    pub target: u64,
}

impl Parts {
    /// The specification of `guest` made of these parts.
    pub fn spec(&self, guest: &Guest) -> GuestSpec {
        GuestSpec {
            name: guest.name.clone(),
            cpus: self.cpus(&guest.cpus),
            memory: memory(&guest.memory, &self.nodes),
            kvm: number(&self.kvm),
            boot: Boot {
                kernel: number(&self.boot.kernel),
                initrd: self.boot.initrd.as_ref().map(number),
                cmdline: self.boot.cmdline.clone(),
            },
            console: Console {
                input: Some(number(&self.console.input)),
                output: number(&self.console.output),
            },
            events: Some(number(&self.events)),
            networks: self.cards.iter().map(network).collect(),
            disks: guest
                .disks
                .iter()
                .zip(&self.disks)
                .map(|(disk, file)| described(disk, file, guest.cpus.count))
                .chain(self.seed.as_ref().map(seed::described))
                .collect(),
            rng: guest.rng,
            packed_rings: guest.rings == Rings::Packed,
            vsock: self.vsock.as_ref().map(sockets),
            balloon: guest.memory.balloon.then_some(Balloon { target: self.target }),
            ports: guest.ports.iter().zip(&self.ports).map(port).collect(),
            control: Some(number(&self.control)),
            vfio: self.vfio.as_ref().map(|files| vfio(files, &mut number)),
            sandbox: self.sandbox,
        }
    }

    fn cpus(&self, cpus: &policies::Cpus) -> Cpus {
        let topology = cpus.topology.map(|CpuTopology { sockets, cores, threads }| Topology {
            sockets,
            cores,
            threads,
        });
        let model = model(cpus.model);
        Cpus { count: cpus.count, model, topology, bound: self.bound.clone() }
    }

    /// Every descriptor the child inherits.
    pub fn descriptors(&self) -> Vec<RawFd> {
        let vfio = self.vfio.iter().flat_map(VfioFiles::descriptors);
        [&self.kvm, &self.boot.kernel, &self.console.input, &self.console.output]
            .into_iter()
            .chain([&self.events, &self.control])
            .chain(self.boot.initrd.as_ref())
            .chain(&self.disks)
            .chain(&self.seed)
            .chain(self.cards.iter().flat_map(|card| card.tap.files.iter().chain(&card.vhosts)))
            .chain(self.vsock.as_ref().map(|vsock| &vsock.vhost))
            .chain(&self.ports)
            .chain(vfio)
            .map(AsRawFd::as_raw_fd)
            .collect()
    }
}

fn network(card: &Card) -> VirtioNet {
    let Card { tap: Tap { files: taps, .. }, mac, vhosts, .. } = card;
    let all = |descriptors: &[OwnedFd]| descriptors.iter().map(number).collect();
    VirtioNet { taps: all(taps), vhosts: all(vhosts), mac: *mac }
}

fn sockets(Vsock { vhost, cid }: &Vsock) -> vmm::spec::Vsock {
    vmm::spec::Vsock { vhost: number(vhost), cid: *cid }
}

fn port((port, socket): (&GuestPort, &OwnedFd)) -> Port {
    let GuestPort { name, console } = port;
    Port { name: name.clone(), console: *console, socket: number(socket) }
}

fn described(disk: &GuestDisk, file: &OwnedFd, cpus: u8) -> Disk {
    let GuestDisk { name, read_only, serial, .. } = disk;
    Disk {
        name: name.clone(),
        file: number(file),
        format: format(disk),
        read_only: *read_only,
        serial: serial.clone(),
        queues: disk.queues_of(cpus),
    }
}

/// How a disk is held, as the machine names it.
pub fn format(disk: &GuestDisk) -> DiskFormat {
    match disk.format {
        None | Some(policies::DiskFormat::Raw) => DiskFormat::Raw,
        Some(policies::DiskFormat::Qcow2) => DiskFormat::Qcow2,
    }
}

/// A model by its name in the machine.
pub fn model(model: CpuModel) -> Model {
    match model {
        CpuModel::Host => Model::Host,
        CpuModel::V2 => Model::V2,
        CpuModel::V3 => Model::V3,
        CpuModel::V4 => Model::V4,
    }
}

fn memory(memory: &policies::Memory, present: &BTreeSet<u32>) -> Memory {
    let policies::Memory { size, numa, pages, merge, balloon: _, nodes } = memory;
    let nodes = nodes.iter().map(|policies::GuestNode { size, cpus, numa }| MemoryNode {
        bytes: *size,
        vcpus: cpus.iter().filter_map(|cpu| u8::try_from(cpu).ok()).collect(),
        host: numa.filter(|node| present.contains(node)).and_then(|node| node.try_into().ok()),
    });
    let nodes: Vec<MemoryNode> = nodes.collect();
    // The kernel sets huge pages apart wherever they are, and would end a process that then finds none on
    // the one node that it may have them from.
    let bound = numa.is_some() || nodes.iter().any(|node| node.host.is_some());
    let at_once = pages.huge().is_some() && bound;
    Memory { bytes: *size, pages: self::pages(*pages), merge: *merge, at_once, nodes }
}

/// Pages by their name in the machine.
fn pages(pages: policies::Pages) -> Pages {
    match pages {
        policies::Pages::Transparent => Pages::Transparent,
        policies::Pages::Small => Pages::Small,
        policies::Pages::Huge2M => Pages::Huge2M,
        policies::Pages::Huge1G => Pages::Huge1G,
    }
}

pub(super) fn number(descriptor: &OwnedFd) -> Descriptor {
    Descriptor(descriptor.as_raw_fd())
}

/// What the VMM is told of `files`, which it knows by the descriptors that `named` gives them, each
/// once and in the order of [`VfioFiles::descriptors`].
fn vfio(files: &VfioFiles, named: &mut dyn FnMut(&OwnedFd) -> Descriptor) -> Vfio {
    let VfioFiles { files, reserved, peer_to_peer, resettable } = files;
    let device = |address: &PciAddress, from| VfioDevice {
        address: address.to_string(),
        from,
        resettable: resettable.contains(address),
    };
    let (iommu, devices) = match files {
        Files::Type1 { container, groups, devices } => {
            let container = named(container);
            let group = |(group, file): &(u32, Option<OwnedFd>)| VfioGroup {
                number: *group,
                descriptor: file.as_ref().map(&mut *named),
            };
            let groups = groups.iter().map(group).collect();
            let from = |(address, group): &(PciAddress, usize)| {
                device(address, DeviceSource::Group(*group))
            };
            (Iommu::Type1 { container, groups }, devices.iter().map(from).collect())
        }
        Files::Iommufd { iommu, devices } => {
            let descriptor = named(iommu);
            let from = |(address, file): &(PciAddress, OwnedFd)| {
                device(address, DeviceSource::Cdev(named(file)))
            };
            let devices = devices.iter().map(from).collect();
            (Iommu::Iommufd { descriptor }, devices)
        }
    };
    let reserved = reserved.iter().map(|&(first, last)| AddressRange { first, last }).collect();
    Vfio { iommu, devices, reserved, peer_to_peer: *peer_to_peer }
}

/// The same for a VMM that runs: descriptors are named by their places among those that are passed.
pub fn passed(files: &VfioFiles) -> (Vfio, Vec<&OwnedFd>) {
    let mut count = 0;
    let vfio = vfio(files, &mut |_| {
        count += 1;
        Descriptor(count - 1)
    });
    (vfio, files.descriptors())
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeSet, HashSet};
    use std::fs::File;

    use vmm::spec::HostCpus;

    use super::*;
    use crate::launch::tap::Kind;

    fn null() -> OwnedFd {
        File::open("/dev/null").expect("/dev/null is always there").into()
    }

    fn guest() -> Guest {
        let text = "apiVersion: assign/v1\nkind: Guest\nmetadata: {name: web-1}\nspec: {cpus: {count: 2, topology: {cores: 1, threads: 2}}, memory: {size: 64MiB, pages: 2MiB, numa: 0}, boot: {kernel: k, cmdline: quiet}, disks: [{name: a-name-of-more-than-20-bytes, path: d, readOnly: true}], rng: true, ports: [{name: agent}, {name: hvc, console: true}]}\n";
        let source = policies::Source { name: "guest.yaml".to_owned(), text: text.to_owned() };
        policies::parse(&[source]).expect("a valid guest").guests.remove(0)
    }

    fn card() -> Card {
        Card {
            network: "net0".to_owned(),
            tap: Tap {
                files: vec![null(), null()],
                name: "as-tap0".to_owned(),
                index: 7,
                kind: Kind::Bridged,
            },
            mac: [2, 0, 0, 0, 0, 1],
            vhosts: vec![null(), null()],
        }
    }

    fn parts(files: Files) -> Parts {
        let reserved = vec![(0xfee0_0000, 0xfeef_ffff)];
        Parts {
            kvm: null(),
            boot: BootFiles { kernel: null(), initrd: Some(null()), cmdline: "quiet".to_owned() },
            console: Ends { input: null(), output: null() },
            events: null(),
            control: null(),
            disks: vec![null()],
            seed: Some(null()),
            cards: vec![card()],
            vsock: Some(Vsock { vhost: null(), cid: 42 }),
            ports: vec![null(), null()],
            sandbox: Some(Sandbox { user: 1, group: 2 }),
            nodes: BTreeSet::new(),
            bound: vec![Bound { vcpu: 1, to: vec![HostCpus { first: 2, last: 3 }] }],
            target: 1 << 20,
            vfio: Some(VfioFiles {
                files,
                reserved,
                peer_to_peer: true,
                resettable: BTreeSet::from(["0000:01:10.0".parse().expect("an address")]),
            }),
        }
    }

    fn address() -> PciAddress {
        "0000:01:10.0".parse().expect("a valid address")
    }

    fn type1() -> Parts {
        let (groups, devices) = (vec![(9, Some(null()))], vec![(address(), 0)]);
        parts(Files::Type1 { container: null(), groups, devices })
    }

    fn iommufd() -> Parts {
        parts(Files::Iommufd { iommu: null(), devices: vec![(address(), null())] })
    }

    #[test]
    fn the_language_and_the_machine_have_the_same_limits() {
        for word in [CpuModel::Host, CpuModel::V2, CpuModel::V3, CpuModel::V4] {
            let written = serde_json::to_value(word).expect("a word");
            assert_eq!(written, model(word).name());
            assert_eq!(serde_json::to_value(model(word)).expect("a word"), written);
        }
        for huge in ["transparent", "4KiB", "2MiB", "1GiB"] {
            let written: policies::Pages = serde_json::from_value(huge.into()).expect("a word");
            assert_eq!(serde_json::to_value(pages(written)).expect("a word"), huge);
            assert_eq!((written.word(), written.huge()), (huge, pages(written).huge()));
        }
        assert_eq!(policies::MAX_CPUS, vmm::spec::MAX_CPUS);
        assert_eq!(policies::LAST_HOST_CPU, vmm::spec::LAST_HOST_CPU);
        assert_eq!(policies::MIN_MEMORY, vmm::spec::MIN_MEMORY);
    }

    #[test]
    fn every_descriptor_of_the_spec_is_inherited_and_named_once() {
        let type1_names = ["/vfio/iommu/container", "/vfio/iommu/groups/0/descriptor"];
        let iommufd_names = ["/vfio/iommu/descriptor", "/vfio/devices/0/from/cdev"];
        for (parts, names) in [(type1(), type1_names), (iommufd(), iommufd_names)] {
            let inherited: HashSet<RawFd> = parts.descriptors().into_iter().collect();
            let json = serde_json::to_value(parts.spec(&guest())).expect("plain data");
            let mut named = Vec::new();
            let pointers = [
                "/kvm",
                "/boot/kernel",
                "/boot/initrd",
                "/console/input",
                "/console/output",
                "/events",
                "/control",
                "/disks/0/file",
                "/disks/1/file",
                "/networks/0/taps/0",
                "/networks/0/taps/1",
                "/networks/0/vhosts/0",
                "/networks/0/vhosts/1",
                "/vsock/vhost",
                "/ports/0/socket",
                "/ports/1/socket",
            ];
            for pointer in pointers.into_iter().chain(names) {
                let number = json.pointer(pointer).and_then(serde_json::Value::as_i64);
                named.push(RawFd::try_from(number.expect(pointer)).expect("a descriptor"));
            }
            assert_eq!(named.iter().copied().collect::<HashSet<_>>(), inherited);
            assert_eq!(named.len(), inherited.len());
        }
    }

    #[test]
    fn the_guests_document_is_carried_over() {
        let spec = type1().spec(&guest());
        assert_eq!(
            (spec.name.as_str(), spec.cpus.count, spec.memory.bytes),
            ("web-1", 2, 64 << 20)
        );
        assert_eq!((spec.memory.pages, spec.memory.at_once), (Pages::Huge2M, true));
        assert_eq!(spec.vsock.map(|vsock| vsock.cid), Some(42));
        let ports = spec.ports.iter().map(|port| (port.name.as_str(), port.console));
        assert_eq!(ports.collect::<Vec<_>>(), [("agent", false), ("hvc", true)]);
        assert_eq!(spec.cpus.bound, type1().bound);
        assert!(!spec.packed_rings, "where nothing is said");
        let packed = Guest { rings: Rings::Packed, ..guest() };
        assert!(type1().spec(&packed).packed_rings);
        assert_eq!(spec.balloon, None);
        let mut gives = guest();
        gives.memory.balloon = true;
        assert_eq!(type1().spec(&gives).balloon, Some(Balloon { target: 1 << 20 }));
        assert_eq!(spec.cpus.topology, Some(Topology { sockets: 1, cores: 1, threads: 2 }));
        assert_eq!(spec.boot.cmdline, "quiet");
        let disk = &spec.disks[0];
        assert_eq!(
            (disk.serial.as_str(), disk.queues, disk.read_only),
            ("a-name-of-more-than-", 2, true)
        );
        let seed = &spec.disks[1];
        assert_eq!(
            (seed.name.as_str(), seed.serial.as_str(), seed.queues, seed.read_only),
            ("cidata", "cidata", 1, true)
        );
        let vfio = spec.vfio.expect("one device");
        assert_eq!(vfio.devices[0].address, "0000:01:10.0");
        assert_eq!(vfio.reserved, [AddressRange { first: 0xfee0_0000, last: 0xfeef_ffff }]);
        assert!(vfio.peer_to_peer && vfio.devices[0].resettable);
        let Iommu::Type1 { groups, .. } = &vfio.iommu else { panic!("{vfio:?}") };
        let DeviceSource::Group(group) = vfio.devices[0].from else { panic!("{vfio:?}") };
        assert_eq!(groups[group].number, 9);
    }
}
