//! `kind: Guest`: one machine, what it boots and what it is connected to.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::document::{Node, Span};
use crate::error::{Report, quote};
use crate::read::{Fields, Taken, boolean, choice, list, name, number, text};
use crate::scalar;
use crate::selector::numa_node_number;

/// Most vCPUs of a guest; the VMM's own limit.
pub const MAX_CPUS: u8 = 64;
/// Least memory of a guest in bytes; the VMM's own limit.
pub const MIN_MEMORY: u64 = 64 << 20;
/// Most memory of a guest in bytes: 16 TiB, what 44 address bits reach.
const MAX_MEMORY: u64 = 16 << 40;
/// Longest kernel command line in bytes, the Linux x86 limit (`COMMAND_LINE_SIZE`) less its NUL.
const MAX_CMDLINE: usize = 2047;
/// Most networks of a guest.
const MAX_NETWORKS: usize = 16;
/// Most other devices of a guest.
const MAX_DEVICES: usize = 16;

/// One guest machine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Guest {
    /// Its name, unique among the guests given together.
    pub name: String,
    /// Number of vCPUs, 1 to [`MAX_CPUS`].
    pub cpus: u8,
    /// Its memory.
    pub memory: Memory,
    /// What it boots.
    pub boot: Boot,
    /// Its network interfaces, in the order of the text.
    pub networks: Vec<GuestNetwork>,
    /// Other devices it gets as they are, in the order of the text.
    pub devices: Vec<GuestDevice>,
}

/// The memory of a guest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Memory {
    /// In bytes, at least [`MIN_MEMORY`], a multiple of 1 MiB.
    pub size: u64,
    /// The host's NUMA node it comes from; `None` leaves that to the kernel.
    pub numa: Option<u32>,
}

/// What a guest boots. Relative paths of the text are joined to the folder of its file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Boot {
    /// The kernel: a bzImage or a vmlinux with a PVH entry.
    pub kernel: PathBuf,
    /// The initial RAM disk.
    pub initrd: Option<PathBuf>,
    /// The kernel's command line, at most 2,047 bytes, possibly empty.
    pub cmdline: String,
}

/// One network interface of a guest: a claim, a virtio device, or the one with the other to fall
/// back on. At least one of the two is there.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct GuestNetwork {
    /// Its name, unique within the guest.
    pub name: String,
    /// The pool a VF is taken from.
    pub claim: Option<Claim>,
    /// The virtio device where there is no claim or no VF for it. `None`: no VF means no start.
    pub fallback: Option<Virtio>,
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
    /// Whether it has to be near the guest's memory; only with [`Memory::numa`] other than ignored.
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

/// A virtio network device.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Virtio {
    /// Name of the host's bridge its TAP interface is put on.
    pub bridge: String,
}

const NETWORK_FORM: &str = "claim: {pool: lan}, or virtio: {bridge: br0}";
const DEVICE_FORM: &str = "- {name: gpu0, claim: {pool: gpu}}";
const BOOT_FORM: &str = "boot: {kernel: vmlinuz, initrd: initrd.img, cmdline: console=ttyS0}";

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
    let known = ["cpus", "memory", "boot", "networks", "devices"];
    let spec = Fields::of(spec?, "a guest's `spec`", &known, report)?;
    let cpus = match spec.get("cpus", report) {
        Some(node) => cpu_count(node, report),
        None => Some(1),
    };
    let memory_node = spec.need("memory", "memory: {size: 512MiB}", report);
    let memory = memory_node.and_then(|node| read_memory(node, report));
    let boot = spec.need("boot", BOOT_FORM, report);
    let boot = boot.and_then(|node| read_boot(node, folder, report));
    // A node that was given and is wrong is no reason to complain that it is missing.
    let near = memory.is_none_or(|memory| memory.numa.is_some());
    let mut claims = Claims { near, taken: Taken::default() };
    let mut networks = Vec::new();
    if let Some(node) = spec.get("networks", report) {
        let form = "- {name: net0, claim: {pool: lan}}";
        for item in list(node, "`networks`", MAX_NETWORKS, form, report) {
            networks.extend(network(item, &mut claims, report));
        }
    }
    let mut devices = Vec::new();
    if let Some(node) = spec.get("devices", report) {
        for item in list(node, "`devices`", MAX_DEVICES, DEVICE_FORM, report) {
            devices.extend(device(item, &mut claims, report));
        }
    }
    if report.count() != before {
        return None;
    }
    let (name, _) = named?;
    Some(Guest { name, cpus: cpus?, memory: memory?, boot: boot?, networks, devices })
}

fn cpu_count(node: &Node, report: &mut Report<'_>) -> Option<u8> {
    let fields = Fields::of(node, "`cpus`", &["count"], report)?;
    let node = fields.need("count", "count: 1", report)?;
    let count = number(node, "`count`", 1..=u64::from(MAX_CPUS), report)?;
    u8::try_from(count).ok()
}

fn read_memory(node: &Node, report: &mut Report<'_>) -> Option<Memory> {
    let fields = Fields::of(node, "`memory`", &["size", "numa"], report)?;
    let before = report.count();
    let numa = fields.get("numa", report);
    let numa = numa.and_then(|node| numa_node_number(node, "`numa`", report));
    let node = fields.need("size", "size: 512MiB", report)?;
    let size = scalar::size(node, "`size`", report)?;
    if !(MIN_MEMORY..=MAX_MEMORY).contains(&size) {
        let message = format!("a guest cannot have {} MiB of memory", size >> 20);
        report.error(node.span, message, Some("64MiB to 16384GiB"));
    }
    (report.count() == before).then_some(Memory { size, numa })
}

fn read_boot(node: &Node, folder: &Path, report: &mut Report<'_>) -> Option<Boot> {
    let fields = Fields::of(node, "`boot`", &["kernel", "initrd", "cmdline"], report)?;
    let kernel = fields.need("kernel", "kernel: vmlinuz", report);
    let kernel = kernel.and_then(|node| path(node, "`kernel`", folder, report));
    let initrd = fields.get("initrd", report);
    let initrd = initrd.and_then(|node| path(node, "`initrd`", folder, report));
    let cmdline = match fields.get("cmdline", report) {
        Some(node) => cmdline(node, report)?,
        None => String::new(),
    };
    Some(Boot { kernel: kernel?, initrd, cmdline })
}

fn path(node: &Node, what: &str, folder: &Path, report: &mut Report<'_>) -> Option<PathBuf> {
    let form = "a path; a relative one starts from the folder of this file";
    let text = text(node, what, form, report)?;
    if text.is_empty() || text.len() > 4095 || text.contains(char::is_control) {
        report.error(node.span, format!("{what} cannot be {}", quote(text)), Some(form));
        return None;
    }
    Some(folder.join(text))
}

fn cmdline(node: &Node, report: &mut Report<'_>) -> Option<String> {
    let form = r#"one line of at most 2,047 bytes, such as "console=ttyS0 quiet""#;
    let text = text(node, "`cmdline`", form, report)?;
    // Folded and literal blocks end in a line break that nobody means.
    let text = text.trim_end_matches('\n');
    if text.contains(char::is_control) {
        report.error(node.span, "`cmdline` has a line break or control character", Some(form));
        return None;
    }
    if text.len() > MAX_CMDLINE {
        let message = format!("`cmdline` is {} bytes long", text.len());
        report.error(node.span, message, Some(form));
        return None;
    }
    Some(text.to_owned())
}

/// What the claims of a guest are checked against.
struct Claims {
    /// Whether the guest's memory has a NUMA node to be near to.
    near: bool,
    taken: Taken,
}

fn network(node: &Node, claims: &mut Claims, report: &mut Report<'_>) -> Option<GuestNetwork> {
    let before = report.count();
    let known = ["name", "claim", "fallback", "virtio"];
    let fields = Fields::of(node, "a network", &known, report)?;
    let name_node = fields.need("name", "name: net0", report);
    let name = name_node.and_then(|node| name(node, "a network's `name`", report));
    if let (Some(node), Some(name)) = (name_node, &name) {
        claims.taken.take(name, node.span, "network or device of this guest", report);
    }
    let claim = fields.get("claim", report).and_then(|node| claim(node, claims, report));
    let plain = fields.get("virtio", report);
    let fallback = fields.get("fallback", report);
    let misplaced = match (fields.has("claim"), fields.has("fallback"), fields.has("virtio")) {
        (true, _, true) => {
            Some("virtio beside a claim is its fallback: write `fallback: {virtio: {bridge: …}}`")
        }
        (false, true, _) => Some(
            "`fallback` without a `claim` has nothing to stand in for: write `virtio: {bridge: …}`",
        ),
        (false, false, false) => Some("a network needs `claim` or `virtio`"),
        _ => None,
    };
    if let Some(message) = misplaced {
        let at = plain.or(fallback).map_or(node.span, |node| node.span);
        report.error(at, message, Some(NETWORK_FORM));
    }
    let virtio = match (plain, fallback) {
        (Some(node), _) => virtio(node, report),
        (None, Some(node)) => Fields::of(node, "`fallback`", &["virtio"], report)
            .and_then(|fields| fields.need("virtio", "virtio: {bridge: br0}", report))
            .and_then(|node| virtio(node, report)),
        (None, None) => None,
    };
    (report.count() == before).then_some(GuestNetwork { name: name?, claim, fallback: virtio })
}

fn device(node: &Node, claims: &mut Claims, report: &mut Report<'_>) -> Option<GuestDevice> {
    let fields = Fields::of(node, "a device", &["name", "claim", "optional"], report)?;
    let name_node = fields.need("name", "name: gpu0", report);
    let name = name_node.and_then(|node| name(node, "a device's `name`", report));
    if let (Some(node), Some(name)) = (name_node, &name) {
        claims.taken.take(name, node.span, "network or device of this guest", report);
    }
    let claim_node = fields.need("claim", "claim: {pool: gpu}", report);
    let claim = claim_node.and_then(|node| claim(node, claims, report));
    let optional = match fields.get("optional", report) {
        Some(node) => boolean(node, "`optional`", report)?,
        None => false,
    };
    Some(GuestDevice { name: name?, claim: claim?, optional })
}

fn claim(node: &Node, claims: &Claims, report: &mut Report<'_>) -> Option<Claim> {
    let fields = Fields::of(node, "`claim`", &["pool", "numa"], report)?;
    let choices = [
        ("ignore", NumaChoice::Ignore),
        ("preferred", NumaChoice::Preferred),
        ("required", NumaChoice::Required),
    ];
    let numa_node = fields.get("numa", report);
    let numa = numa_node.and_then(|node| choice(node, "`numa`", &choices, report));
    if let (Some(node), Some(NumaChoice::Preferred | NumaChoice::Required)) = (numa_node, numa)
        && !claims.near
    {
        let message = "the claim asks for a device near the guest's memory, which has no NUMA node";
        let form = "`numa` in the guest's memory as well: memory: {size: 512MiB, numa: 0}";
        report.error(node.span, message, Some(form));
    }
    let node = fields.need("pool", "pool: lan", report)?;
    Some(Claim { pool: name(node, "`pool`", report)?, numa: numa.unwrap_or_default() })
}

fn virtio(node: &Node, report: &mut Report<'_>) -> Option<Virtio> {
    let fields = Fields::of(node, "`virtio`", &["bridge"], report)?;
    let node = fields.need("bridge", "bridge: br0", report)?;
    Some(Virtio { bridge: scalar::interface(node, "`bridge`", report)? })
}
