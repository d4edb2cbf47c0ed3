//! What a VMM counts and times, as it answers [`super::Request::Stats`].

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{AddressRange, BalloonStats, PortStats};

/// Counters since the guest started, and how its start went.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Stats {
    /// Exits to this process, for each vCPU in order.
    pub exits: Vec<Exits>,
    /// KVM's own statistics; none where its kernel does not offer them (Linux before 5.14).
    pub kvm: Option<KvmStats>,
    /// The devices on the guest's PCI bus, by slot.
    pub devices: Vec<DeviceStats>,
    /// Bytes of guest RAM that passed-through devices can reach, which are pinned.
    pub pinned_bytes: u64,
    /// Its balloon, where it has one.
    #[serde(default)]
    pub balloon: Option<BalloonStats>,
    /// Its ports.
    #[serde(default)]
    pub ports: Vec<PortStats>,
    /// Where this process has guest RAM: its own addresses.
    pub ram: Vec<AddressRange>,
    /// The guest's start, in no particular order.
    pub timeline: Vec<Span>,
}

/// How often a vCPU left the kernel for the VMM, by reason.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Exits {
    /// Reads of PCI configuration space.
    pub config_read: u64,
    /// Writes of PCI configuration space.
    pub config_write: u64,
    /// Reads of other memory-mapped registers.
    pub mmio_read: u64,
    /// Writes of other memory-mapped registers.
    pub mmio_write: u64,
    /// Reads of I/O ports.
    pub port_in: u64,
    /// Writes of I/O ports.
    pub port_out: u64,
    /// The vCPU halted; the kernel handles that as a rule.
    pub hlt: u64,
    /// A signal, or KVM wants to be called again.
    pub intr: u64,
    /// A triple fault.
    pub shutdown: u64,
    /// Anything else.
    pub other: u64,
}

impl Exits {
    /// All of them.
    pub fn total(&self) -> u64 {
        let counts = [
            self.config_read,
            self.config_write,
            self.mmio_read,
            self.mmio_write,
            self.port_in,
            self.port_out,
            self.hlt,
            self.intr,
            self.shutdown,
            self.other,
        ];
        counts.into_iter().fold(0, u64::saturating_add)
    }
}

/// What KVM counts, under its own names (Linux `arch/x86/kvm/x86.c`, `kvm_vcpu_stats_desc` and
/// `kvm_vm_stats_desc`), which differ from kernel to kernel.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KvmStats {
    /// Events of all vCPUs together, such as `exits`, `halt_exits` and `irq_injections`.
    pub vcpus: BTreeMap<String, u64>,
    /// Of the VM as a whole, such as `pages_2m`: its memory's large pages in use.
    pub vm: BTreeMap<String, u64>,
}

/// A device on the guest's PCI bus.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DeviceStats {
    /// Its slot on the guest's bus 0.
    pub slot: usize,
    /// Address on the host of a passed-through device; none of a virtio device.
    pub host: Option<String>,
    /// Accesses to its BARs that left the kernel for the VMM.
    pub exits: u64,
    /// Interrupts that the VMM raised for it; none where the kernel does (vhost), and for a passed-through
    /// device, whose interrupts go from the host's kernel to the guest.
    pub interrupts: Option<u64>,
}

/// One phase of a guest's start.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Span {
    /// Which.
    pub phase: Phase,
    /// Address on the host of the device it is about.
    pub device: Option<String>,
    /// When it began, in nanoseconds of `CLOCK_MONOTONIC`, by which processes can be compared.
    pub start_ns: u64,
    /// When it ended, by the same clock; none while it lasts.
    pub end_ns: Option<u64>,
}

/// What a VMM does to start a guest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Phase {
    /// The VM with its interrupt controllers and memory slots.
    CreateVm,
    /// Kernel and initial RAM disk into RAM.
    LoadKernel,
    /// A device opened, which resets it.
    OpenDevice,
    /// Pages found for guest RAM.
    PopulateMemory,
    /// Guest RAM mapped for the devices, which pins it.
    PinMemory,
    /// The vCPUs.
    CreateVcpus,
    /// The first `KVM_RUN`: a moment.
    RunVcpus,
    /// Devices onto the bus, once they are open.
    AddDevices,
    /// A vCPU is held that looks for PCI devices, until they are on the bus.
    HoldEnumeration,
    /// A vCPU is held that makes a device a bus master, until memory is pinned.
    HoldBusMaster,
}

#[cfg(test)]
mod tests {
    use super::super::{
        GuestSays, MAX_CPUS, MAX_NAME, MAX_PORT_NAME, MAX_PORTS, MAX_REQUEST, Reply,
    };
    use super::*;

    #[test]
    fn the_largest_guests_statistics_fit_into_a_reply() {
        let most = u64::MAX;
        let exits = Exits {
            config_read: most,
            config_write: most,
            mmio_read: most,
            mmio_write: most,
            port_in: most,
            port_out: most,
            hlt: most,
            intr: most,
            shutdown: most,
            other: most,
        };
        assert_eq!(exits.total(), most, "a sum does not begin anew");
        let names = |count: usize| (0..count).map(|at| (format!("{at:047}"), most)).collect();
        let address = Some("0000:01:10.0".to_owned());
        let device =
            |slot| DeviceStats { slot, host: address.clone(), exits: most, interrupts: Some(most) };
        let span = Span {
            phase: Phase::HoldBusMaster,
            device: address.clone(),
            start_ns: most,
            end_ns: Some(most),
        };
        let port = PortStats {
            name: "x".repeat(MAX_PORT_NAME),
            client: false,
            open: false,
            to_guest: most,
            from_guest: most,
            lost: most,
        };
        let stats = Stats {
            exits: vec![exits; MAX_CPUS.into()],
            // Linux 6.12 has 60 and 26.
            kvm: Some(KvmStats { vcpus: names(80), vm: names(40) }),
            devices: (0..32).map(device).collect(),
            pinned_bytes: most,
            balloon: Some(BalloonStats {
                driven: true,
                target: most,
                actual: most,
                inflated: most,
                reported: most,
                said: Some(GuestSays {
                    age_ms: most,
                    total: Some(most),
                    free: Some(most),
                    available: Some(most),
                    caches: Some(most),
                }),
            }),
            ports: vec![port; MAX_PORTS],
            ram: vec![AddressRange { first: most, last: most }; 8],
            timeline: vec![span; 128],
        };
        let text = serde_json::to_vec(&Reply::Stats(Box::new(stats.clone()))).unwrap();
        assert!(text.len() + MAX_NAME < MAX_REQUEST, "{}", text.len());
        let Reply::Stats(again) = serde_json::from_slice(&text).unwrap() else { panic!() };
        assert_eq!(*again, stats);
    }
}
