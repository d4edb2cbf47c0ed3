//! What the machine counts, put together when somebody asks.
//!
//! Counting itself costs a running guest an increment an exit to us, in a cache line of its vCPU;
//! everything else is read here, and from the kernel's files.

use std::collections::BTreeMap;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use kvm_ioctls::{VcpuFd, VmFd};
use vm_memory::{GuestMemoryBackend, GuestMemoryRegion};

use super::exits::ExitCounters;
use super::hotplug::Hotplug;
use super::memory::GuestMemory;
use super::{kvm, kvm_stats};
use crate::pci::root::RootComplex;
use crate::spec::{AddressRange, KvmStats, Stats};
use crate::timeline::Timeline;
use crate::virtio::balloon::Balloon;
use crate::virtio::console::VirtioConsole;

/// The counters of the vCPUs, and the files with KVM's own. These have to be opened before a vCPU
/// runs: as long as it does, KVM answers no other call on it.
pub struct Counters {
    exits: Vec<Arc<ExitCounters>>,
    vcpus: Vec<File>,
    vm: Option<File>,
}

impl Counters {
    /// Of a VM without vCPUs.
    pub fn new(vm: &VmFd) -> Self {
        Counters { exits: Vec::new(), vcpus: Vec::new(), vm: kvm::stats_file(vm) }
    }

    /// Adds the next vCPU, which does not run yet, and returns its counters.
    pub fn add(&mut self, vcpu: &VcpuFd) -> Arc<ExitCounters> {
        self.vcpus.extend(kvm::stats_file(vcpu));
        let counters = Arc::<ExitCounters>::default();
        self.exits.push(counters.clone());
        counters
    }

    /// KVM's own, as far as they can be read.
    fn kvm(&self) -> Option<KvmStats> {
        let read = |file: &File| {
            kvm_stats::read(|bytes, offset| file.read_exact_at(bytes, offset)).unwrap_or_default()
        };
        let mut vcpus: BTreeMap<String, u64> = BTreeMap::new();
        for (name, count) in self.vcpus.iter().flat_map(read) {
            let sum = vcpus.entry(name).or_default();
            *sum = sum.saturating_add(count);
        }
        let vm = self.vm.as_ref().map(read).unwrap_or_default();
        (!vcpus.is_empty()).then_some(KvmStats { vcpus, vm })
    }
}

/// Where everything that is counted is to be found.
pub struct Statistics {
    /// Of the vCPUs.
    pub counters: Counters,
    /// The devices.
    pub root: Arc<RootComplex>,
    /// Knows the devices' I/O address space.
    pub hotplug: Arc<Hotplug>,
    /// Its balloon, where it has one.
    pub balloon: Option<Arc<Balloon>>,
    /// Its ports, where it has any.
    pub ports: Option<Arc<VirtioConsole>>,
    /// Guest RAM. It is kept until the process ends, once vCPUs run: these, slots and pinned mappings
    /// refer to it.
    pub memory: GuestMemory,
    /// The machine's start.
    pub timeline: Arc<Timeline>,
}

impl Statistics {
    /// All of it, now. Each number is right for itself; the guest goes on while they are read.
    pub fn read(&self) -> Stats {
        let ram = self.memory.iter().map(|region| {
            let first = region.as_ptr() as u64;
            AddressRange { first, last: first + (region.len() - 1) }
        });
        Stats {
            exits: self.counters.exits.iter().map(|counters| counters.read()).collect(),
            kvm: self.counters.kvm(),
            devices: self.root.stats(),
            pinned_bytes: self.hotplug.pinned_bytes(),
            balloon: self.balloon.as_ref().map(|balloon| balloon.stats()),
            ports: self.ports.as_ref().map(|ports| ports.stats()).unwrap_or_default(),
            ram: ram.collect(),
            timeline: self.timeline.spans(),
        }
    }
}
