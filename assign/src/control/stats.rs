//! What is counted and timed of a running guest: the answer to `GET /v1/stats`.

use std::fmt;

use policies::Pages;
use serde::{Deserialize, Serialize};
use sriov::PciAddress;
use sriov::facts::interrupts::Interrupt;
use vmm::spec::{self, Exits, KvmStats};

/// All of it. Counters begin with the guest's present life: its start, or its last reboot.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Stats {
    /// The guest's name.
    pub guest: String,
    /// Id of its process, `assign-vmm`.
    pub pid: u32,
    /// How often its vCPUs stopped running guest code.
    pub exits: ExitStats,
    /// The devices on its bus, by slot.
    pub devices: Vec<Device>,
    /// Its memory.
    pub memory: Memory,
    /// Its balloon; none where it has none.
    #[serde(default)]
    pub balloon: Option<Balloon>,
    /// Its ports, in the order of its document.
    #[serde(default)]
    pub ports: Vec<Port>,
    /// What its process uses of the host, and may use; none where it has no control group.
    pub usage: Option<Usage>,
    /// Its start, by the beginning of each phase.
    pub timeline: Vec<Entry>,
}

/// Exits of the vCPUs. What leaves the kernel for `assign-vmm` costs most; what goes from device to
/// guest directly costs neither.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExitStats {
    /// To user space, all vCPUs.
    pub user_space: u64,
    /// Handled by KVM in the kernel; none where the kernel does not count (Linux before 5.14).
    pub kernel: Option<u64>,
    /// Those to user space by reason, for each vCPU.
    pub vcpus: Vec<Exits>,
    /// What KVM counts, under its own names.
    pub kvm: Option<KvmStats>,
}

/// A device on the guest's bus.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Device {
    /// Its address in the guest.
    pub guest_address: PciAddress,
    /// Its address on the host, if it is passed through; virtio otherwise.
    pub address: Option<PciAddress>,
    /// Interrupts, of all its vectors. None where nobody counts them: those of a virtio card whose frames
    /// the kernel moves, or where `/proc/interrupts` cannot be read.
    pub interrupts: Option<u64>,
    /// The vectors of a passed-through device as the host counts them: those enabled now, each since
    /// it was enabled.
    pub vectors: Vec<Interrupt>,
    /// Accesses to its BARs that were exits to user space.
    pub exits: u64,
}

/// The guest's memory, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Memory {
    /// Its RAM.
    pub ram_bytes: u64,
    /// The host's pages that it is made of.
    pub pages: Pages,
    /// As much of it as the host keeps once for several who have the same (KSM). None where its kernel
    /// does not tell.
    pub ram_merged_bytes: Option<u64>,
    /// As much of it as is pinned for devices.
    pub ram_pinned_bytes: u64,
    /// What the kernel says that its process has locked (`VmLck`), as type1 accounts for pins.
    pub locked_bytes: Option<u64>,
    /// What the kernel says that its process has pinned (`VmPin`), as iommufd accounts for pins.
    pub pinned_bytes: Option<u64>,
    /// What its process has beside RAM: its share of its mappings (Pss).
    pub vmm_bytes: Option<u64>,
}

/// What a guest gives back of its memory, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Balloon {
    /// Whether a driver of the guest's uses it.
    pub driven: bool,
    /// How much it is to give.
    pub target_bytes: u64,
    /// How much it says that it has given.
    pub given_bytes: u64,
    /// What the host got back of pages that it gave, since its present life began; of those that it took
    /// back and gave again, again.
    pub inflated_bytes: u64,
    /// The same of pages that it told are free, without having given them (free page reporting).
    pub reported_bytes: u64,
    /// What it says of its memory; none where it has not said anything.
    pub said: Option<Said>,
}

/// What a guest says of its memory, in bytes; a number is none that it does not say. Nobody else can tell
/// whether it is true.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Said {
    /// How long ago it said so, in milliseconds.
    pub age_ms: u64,
    /// What its kernel has to do with; Linux counts what it has given.
    pub total_bytes: Option<u64>,
    /// What it uses for nothing.
    pub free_bytes: Option<u64>,
    /// What a new program of its could have without swapping.
    pub available_bytes: Option<u64>,
    /// What it uses to keep files at hand.
    pub caches_bytes: Option<u64>,
}

impl From<spec::BalloonStats> for Balloon {
    fn from(told: spec::BalloonStats) -> Self {
        let spec::BalloonStats { driven, target, actual, inflated, reported, said } = told;
        Balloon {
            driven,
            target_bytes: target,
            given_bytes: actual,
            inflated_bytes: inflated,
            reported_bytes: reported,
            said: said.map(|said| Said {
                age_ms: said.age_ms,
                total_bytes: said.total,
                free_bytes: said.free,
                available_bytes: said.available,
                caches_bytes: said.caches,
            }),
        }
    }
}

/// How a port of a guest is. Bytes are counted since its present life began.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Port {
    /// Its name.
    pub name: String,
    /// Whether a program of the host is connected to it.
    pub client: bool,
    /// Whether somebody in the guest uses it, as the guest says.
    pub open: bool,
    /// Bytes that went to the guest.
    pub to_guest_bytes: u64,
    /// Bytes that programs of the host got from it.
    pub from_guest_bytes: u64,
    /// Bytes of the guest that nobody took: there was no program, or, of a console, it did not keep up.
    pub lost_bytes: u64,
}

impl From<spec::PortStats> for Port {
    fn from(told: spec::PortStats) -> Self {
        let spec::PortStats { name, client, open, to_guest, from_guest, lost } = told;
        let (to_guest_bytes, from_guest_bytes, lost_bytes) = (to_guest, from_guest, lost);
        Port { name, client, open, to_guest_bytes, from_guest_bytes, lost_bytes }
    }
}

/// What a guest's process uses of the host, as its control group counts it since the guest was run, over
/// reboots too. A limit that is none is not set; a number that is none, not counted on this host.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, Default)]
pub struct Usage {
    /// CPU time, in microseconds, of all its threads.
    pub cpu_us: u64,
    /// How long it was held back because of its limit, in microseconds.
    pub held_back_us: Option<u64>,
    /// How much it may use, in percent of one CPU.
    pub cpu_percent_limit: Option<u64>,
    /// Memory that is charged to it, in bytes: RAM, its own, and the kernel's for it.
    pub memory_bytes: Option<u64>,
    /// How much that may be, in bytes.
    pub memory_bytes_limit: Option<u64>,
    /// Its threads.
    pub tasks: Option<u64>,
    /// How many these may be.
    pub tasks_limit: Option<u64>,
}

/// A phase of the start.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Entry {
    /// Which of the two did it.
    pub process: Process,
    /// What.
    pub phase: Phase,
    /// Address on the host of the device that it is about.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub device: Option<String>,
    /// Milliseconds from the beginning of all to that of the phase.
    pub start_ms: f64,
    /// Milliseconds that it took; none while it lasts.
    pub took_ms: Option<f64>,
}

/// Who works at a start.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Process {
    /// The launcher.
    Assign,
    /// The guest's process.
    AssignVmm,
}

impl fmt::Display for Process {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Process::Assign => "assign",
            Process::AssignVmm => "assign-vmm",
        })
    }
}

/// A phase of either.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Phase {
    /// Of the launcher.
    Assign(Launching),
    /// Of the guest's process.
    Vmm(spec::Phase),
}

/// What the launcher does to start a guest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Launching {
    /// Documents and applied policies.
    ReadDocuments,
    /// Kernel, initial RAM disk and `/dev/kvm`.
    OpenBootFiles,
    /// What the boot loader on one of the guest's disks has.
    ReadBootLoader,
    /// What dead guests had, back to the host or their pools.
    ReturnLeftovers,
    /// The kernel is no bzImage, or cannot be taken out of it.
    KernelAsIs,
    /// The kernel was taken out of its bzImage at an earlier start.
    KernelFromCache,
    /// The kernel, taken out of its bzImage now.
    UnpackKernel,
    /// The snapshot that is chosen from.
    ReadHost,
    /// Which device for which claim.
    ChooseDevices,
    /// The devices' owner, written down; those the host lends bound.
    LeaseDevices,
    /// The devices' VFIO files.
    OpenDevices,
    /// TAP interfaces of virtio networks.
    ConnectNetworks,
    /// `assign-vmm`, up to the first instruction of its own.
    StartVmm,
}

impl fmt::Display for Phase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Phase::Assign(Launching::ReadDocuments) => "documents read",
            Phase::Assign(Launching::OpenBootFiles) => "kernel, initrd and KVM opened",
            Phase::Assign(Launching::ReadBootLoader) => "boot loader's entry read",
            Phase::Assign(Launching::ReturnLeftovers) => "leftovers of dead guests returned",
            Phase::Assign(Launching::KernelAsIs) => "kernel used as it is",
            Phase::Assign(Launching::KernelFromCache) => "kernel found in the cache",
            Phase::Assign(Launching::UnpackKernel) => "kernel unpacked, and kept",
            Phase::Assign(Launching::ReadHost) => "host read",
            Phase::Assign(Launching::ChooseDevices) => "devices chosen",
            Phase::Assign(Launching::LeaseDevices) => "devices leased",
            Phase::Assign(Launching::OpenDevices) => "VFIO files opened",
            Phase::Assign(Launching::ConnectNetworks) => "virtio networks connected",
            Phase::Assign(Launching::StartVmm) => "assign-vmm started",
            Phase::Vmm(spec::Phase::CreateVm) => "VM created",
            Phase::Vmm(spec::Phase::LoadKernel) => "kernel and initrd loaded",
            Phase::Vmm(spec::Phase::OpenDevice) => "device opened and reset",
            Phase::Vmm(spec::Phase::PopulateMemory) => "memory populated",
            Phase::Vmm(spec::Phase::PinMemory) => "memory pinned",
            Phase::Vmm(spec::Phase::CreateVcpus) => "vCPUs created",
            Phase::Vmm(spec::Phase::AddDevices) => "devices on the bus",
            Phase::Vmm(spec::Phase::HoldEnumeration) => "vCPU held until devices are there",
            Phase::Vmm(spec::Phase::RunVcpus) => "first vCPU runs",
            Phase::Vmm(spec::Phase::HoldBusMaster) => "vCPU held until memory is pinned",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_phase_of_either_process_is_one_word_and_read_again() {
        for (phase, word) in [
            (Phase::Assign(Launching::KernelFromCache), "\"kernel-from-cache\""),
            (Phase::Vmm(spec::Phase::HoldBusMaster), "\"hold-bus-master\""),
        ] {
            assert_eq!(serde_json::to_string(&phase).expect("plain data"), word);
            assert_eq!(serde_json::from_str::<Phase>(word).expect("a phase"), phase);
        }
    }
}
