//! `kind: Guest`: one machine, what it boots and what it is connected to.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::document::{Node, Span};
use crate::error::{Report, quote};
use crate::read::{Fields, Taken, list, name, number, text};
use crate::scalar;

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

/// One guest machine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Guest {
    /// Its name, unique among the guests given together.
    pub name: String,
    /// Number of vCPUs, 1 to [`MAX_CPUS`].
    pub cpus: u8,
    /// Memory in bytes, at least [`MIN_MEMORY`], a multiple of 1 MiB.
    pub memory_bytes: u64,
    /// What it boots.
    pub boot: Boot,
    /// Its network interfaces, in the order of the text.
    pub networks: Vec<GuestNetwork>,
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

/// A wish for a VF.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Claim {
    /// Name of the pool.
    pub pool: String,
}

/// A virtio network device.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Virtio {
    /// Name of the host's bridge its TAP interface is put on.
    pub bridge: String,
}

const NETWORK_FORM: &str = "claim: {pool: lan}, or virtio: {bridge: br0}";
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
    let known = ["cpus", "memory", "boot", "networks"];
    let spec = Fields::of(spec?, "a guest's `spec`", &known, report)?;
    let cpus = match spec.get("cpus", report) {
        Some(node) => cpu_count(node, report),
        None => Some(1),
    };
    let memory = spec.need("memory", "memory: {size: 512MiB}", report);
    let memory_bytes = memory.and_then(|node| memory_size(node, report));
    let boot = spec.need("boot", BOOT_FORM, report);
    let boot = boot.and_then(|node| read_boot(node, folder, report));
    let mut networks = Vec::new();
    if let Some(node) = spec.get("networks", report) {
        let mut taken = Taken::default();
        let form = "- {name: net0, claim: {pool: lan}}";
        for item in list(node, "`networks`", MAX_NETWORKS, form, report) {
            networks.extend(network(item, &mut taken, report));
        }
    }
    if report.count() != before {
        return None;
    }
    let (name, _) = named?;
    Some(Guest { name, cpus: cpus?, memory_bytes: memory_bytes?, boot: boot?, networks })
}

fn cpu_count(node: &Node, report: &mut Report<'_>) -> Option<u8> {
    let fields = Fields::of(node, "`cpus`", &["count"], report)?;
    let node = fields.need("count", "count: 1", report)?;
    let count = number(node, "`count`", 1..=u64::from(MAX_CPUS), report)?;
    u8::try_from(count).ok()
}

fn memory_size(node: &Node, report: &mut Report<'_>) -> Option<u64> {
    let fields = Fields::of(node, "`memory`", &["size"], report)?;
    let node = fields.need("size", "size: 512MiB", report)?;
    let bytes = scalar::size(node, "`size`", report)?;
    let ok = (MIN_MEMORY..=MAX_MEMORY).contains(&bytes);
    if !ok {
        let message = format!("a guest cannot have {} MiB of memory", bytes >> 20);
        report.error(node.span, message, Some("64MiB to 16384GiB"));
    }
    ok.then_some(bytes)
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

fn network(node: &Node, taken: &mut Taken, report: &mut Report<'_>) -> Option<GuestNetwork> {
    let before = report.count();
    let known = ["name", "claim", "fallback", "virtio"];
    let fields = Fields::of(node, "a network", &known, report)?;
    let name_node = fields.need("name", "name: net0", report);
    let name = name_node.and_then(|node| name(node, "a network's `name`", report));
    if let (Some(node), Some(name)) = (name_node, &name) {
        taken.take(name, node.span, "network of this guest", report);
    }
    let claim = fields.get("claim", report).and_then(|node| claim(node, report));
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

fn claim(node: &Node, report: &mut Report<'_>) -> Option<Claim> {
    let fields = Fields::of(node, "`claim`", &["pool"], report)?;
    let node = fields.need("pool", "pool: lan", report)?;
    Some(Claim { pool: name(node, "`pool`", report)? })
}

fn virtio(node: &Node, report: &mut Report<'_>) -> Option<Virtio> {
    let fields = Fields::of(node, "`virtio`", &["bridge"], report)?;
    let node = fields.need("bridge", "bridge: br0", report)?;
    Some(Virtio { bridge: scalar::interface(node, "`bridge`", report)? })
}
