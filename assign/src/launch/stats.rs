//! What is known of a running guest in numbers: what its process counts, and what the host's kernel
//! does, which its process cannot see.

use std::ops::RangeInclusive;

use policies::{Guest, GuestPort};
use sriov::facts::interrupts;
use sriov::facts::process::ProcessMemory;
use sriov::{HostRoot, PciAddress};
use vmm::spec::{self, DeviceStats};

use super::timeline::Timeline;
use crate::cgroup::{self, usage};
use crate::control::stats::{Device, ExitStats, Memory, Stats};

/// Puts together what the guest's process says and what the host's kernel does.
pub fn gather(
    root: &HostRoot,
    guest: &Guest,
    pid: u32,
    vmm: spec::Stats,
    timeline: &Timeline,
) -> Stats {
    let timeline = timeline.with(&vmm.timeline);
    let ram: Vec<RangeInclusive<u64>> =
        vmm.ram.iter().map(|range| range.first..=range.last).collect();
    let bytes = ram.iter().map(|range| range.end().saturating_sub(*range.start()));
    let process = ProcessMemory::read(root, pid, &ram);
    let memory = Memory {
        ram_bytes: bytes.fold(0, |sum, bytes| sum.saturating_add(bytes).saturating_add(1)),
        pages: guest.memory.pages,
        ram_merged_bytes: process.merged_bytes,
        ram_pinned_bytes: vmm.pinned_bytes,
        locked_bytes: process.locked_bytes,
        pinned_bytes: process.pinned_bytes,
        vmm_bytes: process.other_bytes,
    };
    let user_space = vmm.exits.iter().map(spec::Exits::total).fold(0, u64::saturating_add);
    let all = vmm.kvm.as_ref().and_then(|kvm| kvm.vcpus.get("exits"));
    let kernel = all.map(|all| all.saturating_sub(user_space));
    let exits = ExitStats { user_space, kernel, vcpus: vmm.exits, kvm: vmm.kvm };
    let devices = devices(root, vmm.devices);
    let balloon = vmm.balloon.map(Into::into);
    // The VMM is not trusted: it tells of no port but the guest's.
    let told = |port: &GuestPort| vmm.ports.iter().find(|told| told.name == port.name).cloned();
    let ports = guest.ports.iter().filter_map(told).map(Into::into).collect();
    let usage = usage::read(&cgroup::directory(root, &guest.name));
    let guest = guest.name.clone();
    Stats { guest, pid, exits, devices, memory, balloon, ports, usage, timeline }
}

fn devices(root: &HostRoot, counted: Vec<DeviceStats>) -> Vec<Device> {
    // Without it what the process counts is shown all the same.
    let mut host = interrupts::of_vfio(root).ok();
    let device = |DeviceStats { slot, host: address, exits, interrupts }: DeviceStats| {
        // The VMM is not trusted: what names no slot is no device.
        let guest_address = format!("0000:00:{slot:02x}.0").parse().ok()?;
        let address: Option<PciAddress> = address.and_then(|address| address.parse().ok());
        let Some(passed) = address else {
            return Some(Device { guest_address, address, interrupts, vectors: Vec::new(), exits });
        };
        let vectors = host.as_mut().map(|host| host.remove(&passed).unwrap_or_default());
        let sum = |vectors: &Vec<interrupts::Interrupt>| {
            vectors.iter().map(|vector| vector.count).fold(0, u64::saturating_add)
        };
        let interrupts = vectors.as_ref().map(sum);
        let vectors = vectors.unwrap_or_default();
        Some(Device { guest_address, address, interrupts, vectors, exits })
    };
    counted.into_iter().filter_map(device).collect()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use vmm::spec::{AddressRange, Exits, KvmStats};

    use super::*;

    #[test]
    fn the_hosts_interrupts_come_to_the_devices_and_exits_are_told_apart() {
        let folder = tempfile::tempdir().expect("a folder");
        let table = "           CPU0       CPU1\n\
            \x2045:  30  12  IR-PCI-MSIX-0000:01:10.0  0-edge  vfio-msix[0](0000:01:10.0)\n\
            \x2046:   5   0  IR-PCI-MSIX-0000:01:10.0  1-edge  vfio-msix[1](0000:01:10.0)\n";
        std::fs::create_dir(folder.path().join("proc")).expect("room");
        std::fs::write(folder.path().join("proc/interrupts"), table).expect("room");
        let device = |slot, host: Option<&str>, interrupts| {
            let host = host.map(str::to_owned);
            DeviceStats { slot, host, exits: 3, interrupts }
        };
        let vmm = spec::Stats {
            exits: vec![
                Exits { mmio_read: 5, ..Exits::default() },
                Exits { port_out: 2, ..Exits::default() },
            ],
            kvm: Some(KvmStats {
                vcpus: BTreeMap::from([("exits".to_owned(), 107)]),
                vm: BTreeMap::new(),
            }),
            devices: vec![
                device(1, Some("0000:01:10.0"), None),
                device(2, Some("0000:01:10.2"), None),
                device(3, None, Some(17)),
                device(9999, None, Some(1)),
            ],
            pinned_bytes: 1 << 20,
            balloon: Some(spec::BalloonStats { actual: 7, ..spec::BalloonStats::default() }),
            ports: ["log", "no such", "agent"]
                .map(|name| spec::PortStats {
                    name: name.to_owned(),
                    lost: 7,
                    ..Default::default()
                })
                .into(),
            ram: vec![AddressRange { first: 0x1000, last: 0x10_0fff }],
            timeline: Vec::new(),
        };
        let root = HostRoot::at(folder.path());
        let text = "apiVersion: assign/v1\nkind: Guest\nmetadata: {name: web-1}\nspec: {memory: {size: \
                    64MiB, pages: 4KiB}, boot: {kernel: k}, ports: [{name: agent}, {name: log}]}\n";
        let source = policies::Source { name: "guest.yaml".to_owned(), text: text.to_owned() };
        let guest = policies::parse(&[source]).expect("a valid guest").guests.remove(0);
        let stats = gather(&root, &guest, 7, vmm, &Timeline::begin());
        assert_eq!((stats.exits.user_space, stats.exits.kernel), (7, Some(100)));
        let memory = &stats.memory;
        assert_eq!((memory.ram_bytes, memory.ram_pinned_bytes), (1 << 20, 1 << 20));
        assert_eq!((memory.locked_bytes, memory.vmm_bytes), (None, None));
        assert_eq!((memory.pages, memory.ram_merged_bytes), (policies::Pages::Small, None));
        assert_eq!(stats.balloon.map(|balloon| balloon.given_bytes), Some(7));
        let ports = stats.ports.iter().map(|port| (port.name.as_str(), port.lost_bytes));
        assert_eq!(ports.collect::<Vec<_>>(), [("agent", 7), ("log", 7)]);
        let counts = stats.devices.iter().map(|device| (device.interrupts, device.vectors.len()));
        assert_eq!(counts.collect::<Vec<_>>(), [(Some(47), 2), (Some(0), 0), (Some(17), 0)]);
        assert_eq!(stats.devices[2].guest_address.to_string(), "0000:00:03.0");
    }
}
