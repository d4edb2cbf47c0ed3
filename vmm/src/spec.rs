//! What the VMM is told, and what it answers: plain data, no behaviour.
//!
//! The launcher opens everything that needs privilege and hands the open descriptors to a new
//! `assign-vmm` process, which inherits them under the numbers named here. The spec arrives as one
//! JSON document on the descriptor given by `--spec FD`; events leave as JSON lines on
//! [`GuestSpec::events`]. The VMM opens no path of its own, so this file is its whole input.

use std::os::fd::RawFd;

use serde::{Deserialize, Serialize};

mod balloon;
mod cpus;
mod image;
mod memory;
mod ports;
mod stats;

pub use balloon::{BALLOON_PAGE, Balloon, BalloonStats, GuestSays};
pub use cpus::{Bound, Cpus, HostCpus, LAST_HOST_CPU, MAX_CPUS, Model, Topology};
pub use image::{
    FoundEntry, ImageAnswer, ImageSpec, MAX_ANSWER, MAX_DISK_INITRD, MAX_DISK_KERNEL, Unbootable,
};
pub use memory::{LAST_HOST_NODE, MAX_NODES, MIN_MEMORY, Memory, MemoryNode, NODE_GRAIN, Pages};
pub use ports::{MAX_PORT_NAME, MAX_PORTS, Port, PortStats};
pub use stats::{DeviceStats, Exits, KvmStats, Phase, Span, Stats};

/// An inherited descriptor, by its number in the VMM process. It must be open, and is owned by the
/// VMM from the start on: each number may appear once.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Descriptor(pub RawFd);

/// One guest machine, complete.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GuestSpec {
    /// The guest's name, for messages only: 1 to [`MAX_NAME`] bytes without control characters.
    pub name: String,
    /// Its CPUs.
    pub cpus: Cpus,
    /// Its RAM.
    pub memory: Memory,
    /// An open `/dev/kvm`.
    pub kvm: Descriptor,
    /// What is booted.
    pub boot: Boot,
    /// Where the serial console (COM1) goes.
    pub console: Console,
    /// The write end of a pipe for [`GuestEvent`] lines.
    pub events: Option<Descriptor>,
    /// One end of a pair of `SOCK_SEQPACKET` sockets, on which [`Request`]s come.
    pub control: Option<Descriptor>,
    /// virtio-net devices, in slot order: at most 31 devices together with the passed-through ones, the
    /// disks, the source of random numbers, the sockets, the balloon and the ports, which are one device.
    pub networks: Vec<VirtioNet>,
    /// Disks, in the order in which the guest finds them.
    #[serde(default)]
    pub disks: Vec<Disk>,
    /// Whether it has a source of random numbers (virtio-rng).
    #[serde(default)]
    pub rng: bool,
    /// Whether drivers of its virtio devices may choose packed rings (virtio 1.3, 2.8), where no vhost of
    /// the kernel, which has none, works them off.
    #[serde(default)]
    pub packed_rings: bool,
    /// Its end of sockets between it and its host (virtio-vsock).
    #[serde(default)]
    pub vsock: Option<Vsock>,
    /// Its balloon, where it has one.
    #[serde(default)]
    pub balloon: Option<Balloon>,
    /// Its ports (virtio-console): at most [`MAX_PORTS`]. The first console is hvc0 in a Linux guest.
    #[serde(default)]
    pub ports: Vec<Port>,
    /// Passed-through devices and what they reach memory by.
    pub vfio: Option<Vfio>,
    /// How the VMM shuts itself in before it looks at anything of the guest; without it, it does not.
    #[serde(default)]
    pub sandbox: Option<Sandbox>,
}

/// Whom the VMM becomes. It must be root when it starts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Sandbox {
    /// The user: not root, and best nobody else's.
    pub user: u32,
    /// The group: the same.
    pub group: u32,
}

/// Longest name of a guest, in bytes.
pub const MAX_NAME: usize = 255;

/// Kernel image, initial RAM disk and command line.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Boot {
    /// A regular file open for reading: a bzImage, or a 64-bit ELF vmlinux with a PVH entry note.
    pub kernel: Descriptor,
    /// A regular file open for reading, placed in guest RAM as it is.
    pub initrd: Option<Descriptor>,
    /// Kernel command line, without NUL, at most 2,047 bytes.
    pub cmdline: String,
}

/// Both ends of the guest's serial line.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Console {
    /// Bytes typed to the guest; end of file is not an error, the guest merely hears no more.
    pub input: Option<Descriptor>,
    /// Bytes the guest prints.
    pub output: Descriptor,
}

/// Most pairs of queues of a network card.
pub const MAX_NETWORK_QUEUES: usize = 8;

/// A virtio-net device over a TAP.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct VirtioNet {
    /// Open `/dev/net/tun`s attached to its interface with `IFF_TAP | IFF_NO_PI | IFF_VNET_HDR`, one for each
    /// pair of its queues: 1 to [`MAX_NETWORK_QUEUES`]. With several, with `IFF_MULTI_QUEUE` as well.
    pub taps: Vec<Descriptor>,
    /// As many open `/dev/vhost-net`s, with nothing set on them yet: the kernel moves the frames then. Or
    /// none.
    #[serde(default)]
    pub vhosts: Vec<Descriptor>,
    /// The guest's address on it: of one card, not of several.
    pub mac: [u8; 6],
}

/// A virtio-blk device over a file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Disk {
    /// Its name, for messages: as [`GuestSpec::name`].
    pub name: String,
    /// A regular file or block device, open for reading, and for writing unless it is read-only.
    pub file: Descriptor,
    /// How it holds the disk.
    #[serde(default)]
    pub format: DiskFormat,
    /// Whether the guest cannot write to it.
    pub read_only: bool,
    /// What the guest reads as its serial number: 20 ASCII characters at most.
    pub serial: String,
    /// Number of its queues, 1 to [`MAX_DISK_QUEUES`].
    pub queues: u16,
}

/// A virtio-vsock device, by which programs of the guest and of its host speak to each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Vsock {
    /// An open `/dev/vhost-vsock`, with the guest's CID and nothing else set on it yet: a VMM that is shut
    /// in cannot set one.
    pub vhost: Descriptor,
    /// The guest's address (context identifier), [`FIRST_CID`] to [`LAST_CID`].
    pub cid: u32,
}

/// The first CID that a guest can have: lower ones are the hypervisor's, loopback's and the host's
/// (virtio 1.3, 5.10.4).
pub const FIRST_CID: u32 = 3;
/// The last one: the next means any.
pub const LAST_CID: u32 = 0xffff_fffe;

/// How a file holds a disk.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum DiskFormat {
    /// Byte by byte. Its size at the start is the disk's, less what is not a whole sector of 512 bytes.
    #[default]
    Raw,
    /// As an image of QEMU's format, which has nothing in other files.
    Qcow2,
}

/// Most queues of a disk, each with a thread.
pub const MAX_DISK_QUEUES: u16 = 16;

/// The devices to pass through, and the interface by which they reach guest memory.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Vfio {
    /// The devices' I/O address space.
    pub iommu: Iommu,
    /// Devices in slot order, each once.
    pub devices: Vec<VfioDevice>,
    /// I/O addresses at which one of the devices cannot reach memory: guest RAM is laid out around
    /// them.
    #[serde(default)]
    pub reserved: Vec<AddressRange>,
    /// Whether the devices are to reach each other's registers, as far as the interface can do that.
    #[serde(default)]
    pub peer_to_peer: bool,
}

/// A range of addresses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AddressRange {
    /// The first one.
    pub first: u64,
    /// The last one.
    pub last: u64,
}

/// One of the kernel's interfaces to the IOMMU.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "interface", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Iommu {
    /// A container with groups.
    Type1 {
        /// An open `/dev/vfio/vfio`, with nothing set on it yet.
        container: Descriptor,
        /// Open `/dev/vfio/GROUP` files, each once, not yet in a container.
        groups: Vec<VfioGroup>,
    },
    /// An address space with character devices.
    Iommufd {
        /// An open `/dev/iommu`, with nothing made in it yet.
        descriptor: Descriptor,
    },
}

/// One IOMMU group given to this guest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct VfioGroup {
    /// The group's number on this host, for messages.
    pub number: u32,
    /// The open group file; none where a running guest has it already, for another of its devices.
    pub descriptor: Option<Descriptor>,
}

/// One device.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct VfioDevice {
    /// Full PCI address, `dddd:bb:dd.f`: the name VFIO knows the device by.
    pub address: String,
    /// How it is opened.
    pub from: DeviceSource,
    /// Whether the host's kernel knows a way to reset it. Opening it does that; a device that then
    /// has not been reset holds what its last user left there, and is not used.
    #[serde(default)]
    pub resettable: bool,
}

/// How a device is opened, as the interface to the IOMMU has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum DeviceSource {
    /// Type1: through its group, an index into the container's groups.
    Group(usize),
    /// Iommufd: an open `/dev/vfio/devices/vfioN`, not yet bound.
    Cdev(Descriptor),
}

/// What the VMM reports, one JSON object a line.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "kebab-case", deny_unknown_fields)]
pub enum GuestEvent {
    /// The vCPUs are about to run for the first time.
    Started,
    /// The devices that the guest started with reach its memory; before or after
    /// [`GuestEvent::Started`]. Without devices it never comes.
    Pinned,
    /// The guest has a device no more: it is closed, which reset it.
    Detached {
        /// Its address.
        device: String,
        /// Who let go of it.
        by: Departure,
    },
    /// The host wants a device back: somebody is taking it from its driver, and waits.
    Wanted {
        /// Its address.
        device: String,
    },
    /// A device met an uncorrectable error.
    DeviceError {
        /// Its address.
        device: String,
    },
    /// The file of a disk did not do what was asked of it, which the guest was told as an I/O error. Of
    /// several within 10 s only the first is told.
    DiskError {
        /// The disk's name.
        disk: String,
        /// What was tried, and the error.
        detail: String,
    },
    /// The guest runs no more; the last event.
    Stopped {
        /// Why.
        reason: StopReason,
    },
}

/// How a device left its guest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Departure {
    /// The guest let it go.
    Guest,
    /// It was taken away without the guest's consent.
    Forced,
}

/// What a running VMM can be asked: one JSON object a message, of at most [`MAX_REQUEST`] bytes. Each
/// is answered by one [`Reply`], in order.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "request", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Request {
    /// Give the guest devices. Descriptors are places among those that come with the message. The
    /// container is used only where the guest has no device so far.
    Attach {
        /// The devices.
        vfio: Vfio,
    },
    /// Ask the guest to let a device go: [`GuestEvent::Detached`] says when it has.
    Ask {
        /// Its address.
        device: String,
    },
    /// Take a device away now: [`GuestEvent::Detached`] says when it is closed.
    Force {
        /// Its address.
        device: String,
    },
    /// Tell what has been counted and timed, which [`Reply::Stats`] does.
    Stats,
    /// Ask the guest to give so much of its memory in all, by its balloon. [`Reply::Done`] comes at once,
    /// and [`Stats::balloon`] tells how far it is.
    Balloon {
        /// In bytes, as [`Balloon::target`].
        target: u64,
    },
    /// Take the link of a virtio network card up or down, as its driver sees it. At the start it is up.
    SetLink {
        /// A place in [`GuestSpec::networks`].
        network: usize,
        /// Whether it is up.
        up: bool,
    },
    /// Press the power button: a guest that heeds it powers off some time later.
    PowerButton,
    /// Reset the guest, as if it had asked for that itself: [`StopReason::Reboot`], which may come
    /// before the reply, or in its place.
    Reset,
    /// Hold all vCPUs; [`Reply::Done`] comes when none runs.
    Pause,
    /// Let them go on.
    Resume,
}

/// Longest request or reply, in bytes.
pub const MAX_REQUEST: usize = 64 << 10;
/// Most descriptors that come with a request.
pub const MAX_PASSED: usize = 64;

/// What became of a request.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "reply", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Reply {
    /// It is done.
    Done,
    /// What has been counted and timed.
    Stats(Box<Stats>),
    /// It is not, and everything is as before.
    Failed {
        /// The error with its causes, in one line.
        detail: String,
    },
}

/// Why a guest stopped.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case", deny_unknown_fields)]
pub enum StopReason {
    /// The guest powered off (ACPI S5).
    PowerOff,
    /// The guest asked for a reset: the launcher may start it again.
    Reboot,
    /// The guest's CPU stopped for good, by a triple fault or an unrecoverable exit.
    Crash {
        /// Whether it was a triple fault: the CPU met a fault, and two more in telling its system.
        triple_fault: bool,
        /// What KVM reported.
        detail: String,
    },
    /// The passed-through devices cannot be used: guest memory could not be pinned for them, or one
    /// of them did not open. Nothing went through any of them, and the launcher may start the guest
    /// again without.
    NoDevices {
        /// Address of the one that did not open; none where it concerns all.
        device: Option<String>,
        /// The error with its causes, in one line.
        detail: String,
    },
    /// The VMM could not start or go on.
    Failed {
        /// The error with its causes, in one line.
        detail: String,
    },
}

impl StopReason {
    /// Exit status of `assign-vmm`: 0 powered off, 1 failed, 5 crashed, 6 wants a reboot, 7 has no
    /// use of its devices.
    pub fn exit_status(&self) -> u8 {
        match self {
            StopReason::PowerOff => 0,
            StopReason::Failed { .. } => 1,
            StopReason::Crash { .. } => 5,
            StopReason::Reboot => 6,
            StopReason::NoDevices { .. } => 7,
        }
    }
}
