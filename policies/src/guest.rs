//! `kind: Guest`: one machine, what it boots and what it is connected to.

mod boot;
mod cloud_init;
mod cpus;
mod disks;
mod memory;
mod networks;
mod nodes;
mod ports;
mod virtio;
mod vsock;

use std::collections::HashSet;
use std::path::Path;

use serde::{Deserialize, Serialize};

pub use self::boot::{Boot, MAX_CMDLINE};
pub use self::cloud_init::{CloudInit, MAX_SEED_FILE, SEED, SeedFile};
pub use self::cpus::{CpuModel, CpuTopology, Cpus, LAST_HOST_CPU, MAX_CPUS};
pub use self::disks::{DiskFormat, GuestDisk};
pub use self::memory::{MIN_MEMORY, Memory, Pages};
pub use self::networks::{GuestNetwork, Virtio};
pub use self::nodes::{GuestNode, MAX_NODES};
pub use self::ports::{GuestPort, MAX_PORTS};
pub use self::virtio::Rings;
pub use self::vsock::{FIRST_CID, LAST_CID, Vsock};
use crate::document::{Node, Span};
use crate::error::Report;
use crate::fields::Fields;
use crate::grammar::{Field, Form, Mapping, word};
use crate::limits::{self, LIMITS, Limits};
use crate::names;
use crate::read::Taken;

/// Most networks of a guest.
const MAX_NETWORKS: usize = 16;
/// Most other devices of a guest.
const MAX_DEVICES: usize = 16;

/// One guest machine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Guest {
    /// Its name, unique among the guests given together.
    pub name: String,
    /// Its CPUs.
    pub cpus: Cpus,
    /// Its memory.
    pub memory: Memory,
    /// What it boots.
    pub boot: Boot,
    /// Its disks, in the order of the text.
    pub disks: Vec<GuestDisk>,
    /// Its network interfaces, in the order of the text.
    pub networks: Vec<GuestNetwork>,
    /// Other devices it gets as they are, in the order of the text.
    pub devices: Vec<GuestDevice>,
    /// Whether it has a source of random numbers (virtio-rng).
    pub rng: bool,
    /// The rings that drivers of its virtio devices find.
    #[serde(default)]
    pub rings: Rings,
    /// Its end of sockets between it and its host (virtio-vsock), where it has one.
    #[serde(default)]
    pub vsock: Option<Vsock>,
    /// Its ports (virtio-console), in the order of the text.
    #[serde(default)]
    pub ports: Vec<GuestPort>,
    /// What its cloud-init is told, on a disk of its own behind all others.
    pub cloud_init: Option<CloudInit>,
    /// What happens where one of its devices fails.
    pub on_device_error: OnDeviceError,
    /// What its process may use of the host.
    pub limits: Limits,
}

/// What happens to a guest of which a device meets an error that it cannot recover from: an
/// uncorrectable one, as PCI Express Advanced Error Reporting calls it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, Default)]
#[serde(rename_all = "kebab-case")]
pub enum OnDeviceError {
    /// The device is taken out of the running guest and reset.
    #[default]
    Eject,
    /// The guest is stopped.
    Stop,
    /// It is told, and nothing is done.
    Report,
}

/// A device of a guest that is no network card to us, such as a GPU or a drive's controller.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct GuestDevice {
    /// Its name, unique among the devices and networks of the guest.
    pub name: String,
    /// The pool it is taken from.
    pub claim: Claim,
    /// Whether the guest starts without it where none is to be had.
    pub optional: bool,
}

/// A wish for a device.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Claim {
    /// Name of the pool.
    pub pool: String,
    /// Whether it has to be near the guest's memory; [`NumaChoice::Required`] only with
    /// [`Memory::numa`].
    pub numa: NumaChoice,
}

/// Whether a device has to be on the NUMA node that the guest's memory comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, Default)]
#[serde(rename_all = "kebab-case")]
pub enum NumaChoice {
    /// Any will do.
    #[default]
    Ignore,
    /// One that is, if one is free.
    Preferred,
    /// No other.
    Required,
}

/// The `spec` of a guest.
pub(crate) static GUEST: Mapping = Mapping {
    what: "a guest's `spec`",
    fields: &[
        Field::new("cpus", Form::Map(&cpus::CPUS), "{count: 2}", "Its vCPUs. Left out: one."),
        Field::new("memory", Form::Map(&memory::MEMORY), "{size: 512MiB}", "Its memory.").needed(),
        Field::new(
            "boot",
            Form::Map(&boot::BOOT),
            "{kernel: vmlinuz, initrd: initrd.img, cmdline: console=ttyS0}",
            "What it boots: a kernel of the host's, or the one that the boot loader on one of its disks \
             would boot.",
        )
        .needed(),
        Field::new(
            "disks",
            Form::List { of: &disks::DISK, most: disks::MOST },
            "[{name: root, path: root.raw}]",
            "Its disks, in the order in which it sees them: /dev/vda, /dev/vdb and so on.",
        ),
        Field::new(
            "networks",
            Form::List { of: &networks::NETWORK, most: MAX_NETWORKS },
            "[{name: net0, claim: {pool: lan}}]",
            "Its network interfaces, in the order in which it sees them.",
        ),
        Field::new(
            "devices",
            Form::List { of: &DEVICE, most: MAX_DEVICES },
            "[{name: gpu0, claim: {pool: gpu}}]",
            "Other devices that it gets: GPUs, NVMe controllers, anything that has a pool.",
        ),
        Field::new(
            "rng",
            Form::Truth,
            "true",
            "Whether it gets random numbers of the host's kernel (virtio-rng), for one that has just begun \
             and has none of its own.",
        )
        .or("false"),
        Field::new(
            "virtio",
            Form::Map(&virtio::QUEUES),
            "{rings: packed}",
            "How all of its virtio devices are. Left out: as most machines have them.",
        ),
        Field::new(
            "vsock",
            Form::TruthOr(&vsock::VSOCK),
            "true",
            "Whether programs of the guest and of its host can speak to each other without a network \
             (virtio-vsock). With true, the host's programs reach the guest by a CID that is chosen by its \
             name and is the same each time, unless another guest has it. Guests do not reach each other.",
        )
        .or("false"),
        Field::new(
            "ports",
            Form::List { of: &ports::PORT, most: MAX_PORTS },
            "[{name: org.qemu.guest_agent.0}]",
            "Streams of bytes between a program of the guest and one of its host (virtio-console), such as \
             guest agents use; no ports of a network.",
        ),
        Field::new(
            "cloudInit",
            Form::Map(&cloud_init::CLOUD_INIT),
            "{userData: {file: user-data.yaml}}",
            "What cloud-init in the guest is told: by a small read-only disk, behind all others, that it \
             finds by its label `cidata` (its data source NoCloud).",
        ),
        Field::new(
            "onDeviceError",
            Form::Words(&[
                word("eject", "the guest is asked to let the device go, and goes on without it; after 10 s it is taken all the same"),
                word("stop", "the guest is stopped, for those whose data must not be written by half"),
                word("report", "it is told, and the guest's driver is left to cope"),
            ]),
            "stop",
            "What happens where a device of the guest meets an error that it cannot recover from (an \
             uncorrectable one of PCI Express).",
        )
        .or("eject"),
        Field::new(
            "limits",
            Form::Map(&LIMITS),
            "{cpu: 150%, memory: 768MiB}",
            "What its process may use of the host, by a control group (cgroup v2). Left out: as much as \
             there is.",
        ),
    ],
    rules: &[],
    later: &[],
};

static DEVICE: Mapping = Mapping {
    what: "a device",
    fields: &[
        Field::new(
            "name",
            Form::Text(names::NAME),
            "gpu0",
            "Its name, unique among the networks and devices of the guest.",
        )
        .needed(),
        Field::new("claim", Form::Map(&CLAIM), "{pool: gpu}", "The pool it comes from.").needed(),
        Field::new(
            "optional",
            Form::Truth,
            "true",
            "Whether the guest starts without it where the pool has none for it.",
        )
        .or("false"),
    ],
    rules: &[],
    later: &[],
};

static CLAIM: Mapping = Mapping {
    what: "`claim`",
    fields: &[
        Field::new(
            "pool",
            Form::Text(names::NAME),
            "lan",
            "The name of a pool, of these files or of a policy applied before.",
        )
        .needed(),
        Field::new(
            "numa",
            Form::Words(&[
                word("ignore", "any will do"),
                word("preferred", "one that is, if one is free"),
                word("required", "no other"),
            ]),
            "preferred",
            "Whether it has to be on the NUMA node that the guest's memory comes from. Where the guest's \
             memory has no `numa`, its memory comes from the node of the first device that is \
             `preferred` there; `required` needs `numa` in the guest's memory, or in one of its nodes.",
        )
        .or("ignore"),
    ],
    rules: &[],
    later: &[],
};

/// Reads the `spec` of a guest whose name is read already. `folder` is where its file lies.
pub(crate) fn read(
    named: Option<(String, Span)>,
    spec: Option<&Node>,
    folder: &Path,
    names: &mut Taken,
    report: &mut Report<'_>,
) -> Option<Guest> {
    let before = report.count();
    if let Some((name, at)) = &named {
        names.take(name, *at, "guest", report);
    }
    let spec = Fields::of(spec?, &GUEST, report)?;
    let cpus = match spec.map("cpus", report) {
        Some(fields) => cpus::read(&fields, report),
        None => Some(Cpus::count(1)),
    };
    let count = cpus.as_ref().map(|cpus| cpus.count);
    let of_memory = spec.map("memory", report);
    let memory = of_memory.as_ref().and_then(|fields| memory::read(fields, count, report));
    // A node that was given and is wrong is no reason to complain that it is missing.
    let near = memory.as_ref().is_none_or(|memory| memory.node().is_some());
    let mut claims = Claims { near, ..Claims::default() };
    let before_disks = report.count();
    let disks = disks::read(&spec, folder, report);
    let known = (report.count() == before_disks).then_some(disks.as_slice());
    let boot = spec.map("boot", report);
    let boot = boot.and_then(|fields| boot::read(&fields, folder, known, report));
    let mut networks = Vec::new();
    for fields in spec.list("networks", report) {
        networks.extend(networks::read(&fields, count, &mut claims, report));
    }
    let mut devices = Vec::new();
    for fields in spec.list("devices", report) {
        devices.extend(device(&fields, &mut claims, report));
    }
    let rng = spec.truth("rng", report).unwrap_or(false);
    let rings = spec.map("virtio", report).map(|fields| virtio::read(&fields, report));
    let vsock = vsock::read(&spec, report);
    let name_of = named.as_ref().map(|(name, _)| name.as_str());
    let ports = ports::read(&spec, name_of, report);
    let of_cloud_init = spec.map("cloudInit", report);
    let cloud_init =
        of_cloud_init.and_then(|fields| cloud_init::read(&fields, name_of?, folder, known, report));
    let on_device_error = spec.word("onDeviceError", report).unwrap_or_default();
    let claimed = networks.iter().filter(|network: &&GuestNetwork| network.claim.is_some()).count();
    let needs = limits::Needs {
        ram: memory.as_ref().map(|memory| memory.size),
        cpus: count,
        // A virtio card is one as well for each of its queues, and sockets are: each has a task of the
        // kernel's (vhost).
        devices: networks.iter().map(|network| usize::from(network.queues)).sum::<usize>()
            + devices.len()
            + usize::from(vsock.is_some()),
        queues: disks.iter().map(|disk| u64::from(disk.queues_of(count.unwrap_or(1)))).sum::<u64>()
            + u64::from(spec.has("cloudInit")),
    };
    if let Some(fields) = of_memory.filter(|_| claimed + devices.len() > 0) {
        memory::check_pinned(&fields, memory.as_ref(), report);
    }
    let limits = spec.map("limits", report);
    let limits = limits.map(|fields| limits::read(&fields, &needs, report)).unwrap_or_default();
    if report.count() != before {
        return None;
    }
    let (name, _) = named?;
    let (cpus, memory, boot) = (cpus?, memory?, boot?);
    Some(Guest {
        name,
        cpus,
        memory,
        boot,
        disks,
        networks,
        devices,
        rng,
        rings: rings.unwrap_or_default(),
        vsock,
        ports,
        cloud_init,
        on_device_error,
        limits,
    })
}

/// What the claims of a guest are checked against.
#[derive(Default)]
struct Claims {
    /// Whether the guest's memory has a NUMA node to be near to.
    near: bool,
    taken: Taken,
    /// TAP interfaces of the host that networks have.
    taps: HashSet<String>,
}

impl Claims {
    /// The name of a network or device.
    fn name(&mut self, fields: &Fields<'_>, report: &mut Report<'_>) -> Option<String> {
        let name = fields.parsed("name", names::name, report)?;
        let at = fields.get("name", report)?.node.span;
        self.taken.take(&name, at, "network or device of this guest", report);
        Some(name)
    }
}

fn device(
    fields: &Fields<'_>,
    claims: &mut Claims,
    report: &mut Report<'_>,
) -> Option<GuestDevice> {
    let name = claims.name(fields, report);
    let claim = fields.map("claim", report).and_then(|fields| claim(&fields, claims, report));
    let optional = fields.truth("optional", report).unwrap_or_default();
    Some(GuestDevice { name: name?, claim: claim?, optional })
}

fn claim(fields: &Fields<'_>, claims: &Claims, report: &mut Report<'_>) -> Option<Claim> {
    let numa: NumaChoice = fields.word("numa", report).unwrap_or_default();
    if let Some(given) = fields.get("numa", report).filter(|_| numa == NumaChoice::Required)
        && !claims.near
    {
        let message = "the claim demands a device near the guest's memory, which has no NUMA node";
        let form = "`numa` in the guest's memory as well, memory: {size: 512MiB, numa: 0}; or numa: \
                    preferred here, and the memory goes where the device is";
        report.error(given.node.span, message, Some(form));
    }
    Some(Claim { pool: fields.parsed("pool", names::name, report)?, numa })
}
