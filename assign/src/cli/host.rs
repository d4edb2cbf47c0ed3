//! `assign host`: what this machine is, and what it can do for guests.

use clap::Args;
use serde::Serialize;
use sriov::facts::iommu::IommuKind;
use sriov::facts::platform::memory::{Ksm, KsmState, Overcommit};
use sriov::facts::platform::{Extension, Feature, HugePages, Kind, Module, Platform};
use sriov::{HostSnapshot, Scope};

use super::output::text::counted;
use super::page::{Page, bytes};
use super::{Context, Format, output};
use crate::failure::Failure;

/// Arguments of `assign host`.
#[derive(Debug, Args)]
pub struct Host {}

/// What is written for programs.
#[derive(Debug, Serialize)]
struct View<'a> {
    platform: &'a Platform,
    iommu: IommuView,
}

#[derive(Debug, Serialize)]
struct IommuView {
    present: bool,
    firmware: Option<IommuKind>,
    groups: usize,
}

impl Host {
    pub fn run(&self, context: &Context) -> Result<u8, Failure> {
        let snapshot = context.snapshot(Scope::Whole);
        let iommu = IommuView {
            present: snapshot.iommu.present,
            firmware: snapshot.iommu.firmware,
            groups: snapshot.iommu.groups.len(),
        };
        output::value(context.format, &View { platform: &snapshot.platform, iommu })?;
        if context.format == Format::Table {
            page(&snapshot).print()?;
        }
        Ok(0)
    }
}

/// The page for people. What is not known is left out, or said to be unknown where it matters.
pub(super) fn page(snapshot: &HostSnapshot) -> Page {
    let mut page = Page::default();
    platform(&mut page, &snapshot.platform);
    cpu(&mut page, &snapshot.platform);
    kvm(&mut page, &snapshot.platform);
    memory(&mut page, &snapshot.platform);
    io(&mut page, snapshot);
    numa(&mut page, &snapshot.platform);
    page
}

fn platform(page: &mut Page, platform: &Platform) {
    page.section("Platform");
    for found in &platform.runs_on {
        let what = match found.kind {
            Kind::Qemu => "qemu (software emulation)",
            kind => kind.word(),
        };
        page.fact("runs on", format!("{what}: {}", found.evidence));
    }
    if platform.runs_on.is_empty() {
        page.fact("runs on", "unknown: nothing here tells");
    }
    let dmi = &platform.evidence.dmi;
    page.fact("machine", list([dmi.system_vendor.as_str(), &dmi.product_name], ", "));
    page.fact("firmware", list([dmi.bios_vendor.as_str(), &dmi.bios_version], ", "));
    page.fact("kernel", platform.kernel.as_str());
    page.fact("command line", platform.command_line.as_str());
    page.fact("lockdown", platform.lockdown.as_deref().unwrap_or_default());
}

fn cpu(page: &mut Page, platform: &Platform) {
    let (cpu, topology) = (&platform.cpu, &platform.topology);
    page.section("CPU");
    page.fact("model", cpu.model.as_str());
    if !topology.online.is_empty() {
        let parts = [
            Some(format!("{} ({})", topology.online.count(), topology.online)),
            topology.sockets.map(|count| counted(count.into(), "socket")),
            topology.cores.map(|count| counted(count.into(), "core")),
            topology.threads_per_core().map(|count| counted(count.into(), "thread") + " a core"),
        ];
        page.fact("CPUs", list(parts.into_iter().flatten(), ", "));
    }
    page.fact("offline", topology.offline.to_string());
    page.fact("isolated", topology.isolated.to_string());
    let virtualization = match (cpu.extension, cpu.hardware) {
        (Some(extension), _) => extension.name().to_owned(),
        (None, Some(extension)) => format!("none: firmware has switched {} off", extension.name()),
        (None, None) => "none".to_owned(),
    };
    page.fact("virtualization", virtualization);
    let Some(extension) = cpu.extension else { return };
    let (paging, interrupts) = match extension {
        Extension::Vmx => ("nested paging (EPT)", "posted interrupts"),
        Extension::Svm => ("nested paging (NPT)", "AVIC"),
    };
    let pages = match cpu.gib_pages {
        Some(true) => ", 1 GiB pages",
        Some(false) => ", no 1 GiB pages",
        None => "",
    };
    page.fact(paging, feature(cpu.paging) + pages);
    match extension {
        Extension::Vmx => page.fact("VPID", feature(cpu.tags)),
        Extension::Svm => {
            page.fact("ASIDs", cpu.asids.map_or("yes".to_owned(), |count| count.to_string()));
        }
    }
    page.fact(interrupts, feature(cpu.interrupts));
    page.fact("nested guests", nested(cpu.nested));
}

fn kvm(page: &mut Page, platform: &Platform) {
    page.section("KVM");
    let Some(interface) = &platform.kvm_interface else {
        let there = if platform.kvm { "is there, and was not asked" } else { "is not there" };
        page.fact("/dev/kvm", there);
        return;
    };
    if let Some(error) = &interface.error {
        page.fact("/dev/kvm", format!("cannot be opened: {error}"));
        return;
    }
    page.fact("/dev/kvm", "opens");
    page.fact("version", interface.version.map(|version| version.to_string()).unwrap_or_default());
    let shown = |(name, value): (&String, &i32)| match value {
        0 => None,
        1 => Some(name.clone()),
        count => Some(format!("{name} {count}")),
    };
    page.fact("capabilities", list(interface.capabilities.iter().filter_map(shown), ", "));
    page.fact("lacking", interface.lacking().join(", "));
}

fn memory(page: &mut Page, platform: &Platform) {
    let memory = &platform.memory;
    page.section("Memory");
    let parts = [
        memory.total.map(bytes),
        memory.available.map(|available| format!("{} available", bytes(available))),
    ];
    page.fact("total", list(parts.into_iter().flatten(), ", "));
    let mode = memory.transparent_huge_pages.as_deref();
    page.fact("transparent huge pages", mode.unwrap_or_default());
    for pool in memory.pools() {
        let mut texts = vec![pool_text(pool)];
        let nodes = memory.huge_pages.iter().filter(|of| of.node.is_some() && of.size == pool.size);
        if pool.total > 0 {
            texts.extend(
                nodes.map(|of| format!("node {}: {}", of.node.unwrap_or_default(), pool_text(of))),
            );
        }
        page.fact(&format!("pages of {}", bytes(pool.size)), texts.join("; "));
    }
    page.fact("samepage merging", memory.ksm.map(ksm).unwrap_or_default());
    let swap = match (memory.swap_total, memory.swap_free) {
        (Some(0), _) => "none".to_owned(),
        (Some(total), Some(free)) => format!("{}, {} free", bytes(total), bytes(free)),
        _ => String::new(),
    };
    page.fact("swap", swap);
    let overcommit = match memory.overcommit {
        Some(Overcommit::Heuristic) => "heuristic: unless it is obviously too much".to_owned(),
        Some(Overcommit::Always) => "always, however much".to_owned(),
        Some(Overcommit::Never) => match (memory.commit_limit, memory.committed) {
            (Some(limit), Some(committed)) => {
                format!("never: {} of {} are promised", bytes(committed), bytes(limit))
            }
            _ => "never".to_owned(),
        },
        None => String::new(),
    };
    page.fact("overcommit", overcommit);
    if let Some(process) = platform.process {
        let limit = process.memlock.map_or("none".to_owned(), bytes);
        let held = if process.is_root() { ", to which root is not held" } else { "" };
        page.fact(
            "limit of locking",
            format!("{limit}{}", if limit == "none" { "" } else { held }),
        );
    }
}

fn pool_text(pool: &HugePages) -> String {
    if pool.total == 0 {
        return "none".to_owned();
    }
    let reserved = match pool.reserved {
        Some(reserved) if reserved > 0 => format!(", {reserved} of them promised"),
        _ => String::new(),
    };
    let all = bytes(pool.size.saturating_mul(pool.total));
    format!("{} ({all}), {} free{reserved}", pool.total, pool.free)
}

fn ksm(ksm: Ksm) -> String {
    let state = match ksm.state {
        KsmState::Stopped => "stopped",
        KsmState::Running => "running",
        KsmState::Unmerged => "stopped, and taken apart",
    };
    match ksm.pages_shared {
        0 => state.to_owned(),
        shared => {
            format!("{state}; {} stand for {} more", counted(shared, "page"), ksm.pages_sharing)
        }
    }
}

fn io(page: &mut Page, snapshot: &HostSnapshot) {
    let (platform, iommu) = (&snapshot.platform, &snapshot.iommu);
    let (io, modules) = (&platform.io, &platform.modules);
    page.section("I/O");
    let firmware = iommu.firmware.map(|kind| match kind {
        IommuKind::Intel => "VT-d (ACPI table DMAR)",
        IommuKind::Amd => "AMD-Vi (ACPI table IVRS)",
    });
    let groups = iommu.groups.values().filter(|group| group.isolates).count();
    let text = match (iommu.present, firmware) {
        (true, kind) => {
            let kind = kind.unwrap_or(if io.iommus.iter().any(|name| name.starts_with("dmar")) {
                "VT-d"
            } else if io.iommus.iter().any(|name| name.starts_with("ivhd")) {
                "AMD-Vi"
            } else {
                "yes"
            });
            let groups = counted(groups as u64, "group");
            let names = io.iommus.join(", ");
            let names = if names.is_empty() { names } else { format!(", {names}") };
            format!("{kind}, in use{names}, {groups}")
        }
        (false, Some(kind)) => format!("none in use, though firmware offers {kind}"),
        (false, None) => "none in use, and firmware offers none".to_owned(),
    };
    page.fact("IOMMU", text);
    let remapping = &io.interrupt_remapping;
    let used = match remapping.used {
        Some(true) => "yes",
        Some(false) => "no",
        None => "unknown",
    };
    let because = match remapping.evidence.as_str() {
        "" => String::new(),
        evidence => format!(": {evidence}"),
    };
    page.fact("interrupt remapping", format!("{used}{because}"));
    page.fact("vfio-pci", module(modules.vfio_pci));
    let container = if io.has_file("vfio/vfio") { ", /dev/vfio/vfio" } else { "" };
    page.fact("VFIO type1", module(modules.vfio_iommu_type1).to_owned() + container);
    let file = if io.has_file("iommu") { ", /dev/iommu" } else { "" };
    page.fact("iommufd", module(modules.iommufd).to_owned() + file);
    page.fact("no-IOMMU mode", switch(io.no_iommu, "on: devices are not kept from memory", "off"));
    page.fact("unsafe interrupts", switch(io.unsafe_interrupts, "allowed", "not allowed"));
    let limit = io.dma_entry_limit.map(|limit| format!("{limit} for each guest"));
    page.fact("DMA mappings", limit.unwrap_or_default());
    page.fact("vhost-net", module(modules.vhost_net));
    page.fact("tun", module(modules.tun));
}

fn numa(page: &mut Page, platform: &Platform) {
    page.section("NUMA");
    for node in &platform.topology.nodes {
        let cpus = node.cpus.to_string();
        let cpus = if cpus.is_empty() { "no CPUs".to_owned() } else { format!("CPUs {cpus}") };
        let distances: Vec<String> = node.distances.iter().map(u32::to_string).collect();
        let parts = [
            Some(cpus),
            node.memory.map(bytes),
            node.free.map(|free| format!("{} free", bytes(free))),
            (distances.len() > 1).then(|| format!("distances {}", distances.join(" "))),
        ];
        page.fact(&format!("node {}", node.number), list(parts.into_iter().flatten(), ", "));
    }
}

fn feature(feature: Feature) -> String {
    match (feature.offered, feature.used) {
        (Some(false), _) => "no",
        (_, Some(true)) => "used",
        (Some(true), Some(false)) => "offered, and switched off in KVM",
        (Some(true), None) => "offered; KVM is not loaded, or does not say",
        (None, Some(false)) => "switched off in KVM",
        (None, None) => "unknown",
    }
    .to_owned()
}

fn nested(feature: Feature) -> &'static str {
    match feature.used {
        Some(true) => "allowed",
        Some(false) => "switched off in KVM",
        None => "unknown: KVM is not loaded, or does not say",
    }
}

fn module(module: Module) -> &'static str {
    match module {
        Module::Present => "loaded",
        Module::Loadable => "not loaded",
        Module::Missing => "this kernel has none",
        Module::Unknown => "not loaded, and no list of modules to tell more",
    }
}

fn switch(state: Option<bool>, on: &'static str, off: &'static str) -> &'static str {
    match state {
        Some(true) => on,
        Some(false) => off,
        None => "",
    }
}

fn list<T: AsRef<str>>(parts: impl IntoIterator<Item = T>, between: &str) -> String {
    let parts: Vec<String> = parts.into_iter().map(|part| part.as_ref().to_owned()).collect();
    let parts: Vec<String> = parts.into_iter().filter(|part| !part.is_empty()).collect();
    parts.join(between)
}
