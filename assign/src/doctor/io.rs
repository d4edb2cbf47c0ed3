//! Can devices be given away here: IOMMU, interrupt remapping, VFIO, cards, and what guests get
//! otherwise.

use sriov::facts::bars::{Bar, BarOwner};
use sriov::facts::iommu::IommuKind;
use sriov::facts::platform::{Category, Module};
use sriov::{PciFunction, isolation};

use super::{Facts, Finding, surroundings};

/// From the IOMMU to the cards.
pub fn findings(facts: Facts) -> Vec<Finding> {
    let mut found = vec![iommu(facts)];
    found.extend(interrupts(facts));
    found.extend(pretended(facts));
    found.push(vfio_pci(facts));
    found.push(dma_mapper(facts));
    found.extend(no_iommu_mode(facts));
    found.push(cards(facts));
    found.extend(addresses(facts));
    found.push(tun(facts));
    found.push(vhost_net(facts));
    found
}

/// The IOMMU, as the kernel has it and as firmware offers it.
pub fn iommu(facts: Facts) -> Finding {
    let id = "iommu";
    let snapshot = facts.snapshot;
    let iommu = &snapshot.iommu;
    let units = &snapshot.platform.io.iommus;
    if iommu.present {
        let groups = iommu.groups.values().filter(|group| group.isolates).count();
        let by = match units.is_empty() {
            true => String::new(),
            false => format!("/sys/class/iommu has {}; ", units.join(", ")),
        };
        return Finding::ok(id, "an IOMMU is in use", format!("{by}{groups} groups"));
    }
    let (offered, remedy) = match iommu.firmware {
        Some(kind) => {
            let (name, table) = match kind {
                IommuKind::Intel => ("VT-d", "DMAR"),
                IommuKind::Amd => ("AMD-Vi", "IVRS"),
            };
            let told = told(facts).map(|word| format!("; the kernel was booted with {word}"));
            let offered =
                format!("firmware offers {name} (ACPI table {table}){}", told.unwrap_or_default());
            (offered, iommu.remedy().to_owned())
        }
        None => (
            "firmware offers none".to_owned(),
            "In the firmware's settings enable VT-d (\"Intel VT for Directed I/O\") or AMD-Vi \
             (\"IOMMU\"), and on Intel boot with intel_iommu=on on the kernel command line."
                .to_owned(),
        ),
    };
    // Where firmware is a hypervisor's, there are no settings to enable.
    let remedy = match facts.runs_on(Category::Virtual).filter(|_| iommu.firmware.is_none()) {
        Some(machine) => surroundings::virtual_iommu(facts, machine),
        None => remedy,
    };
    Finding::problem(
        id,
        "no IOMMU is in use: no device can be given away safely",
        format!("/sys/class/iommu is empty, and {offered}"),
        remedy,
    )
}

/// What on the command line keeps the kernel from using an IOMMU.
fn told(facts: Facts) -> Option<&'static str> {
    let switches = ["intel_iommu=off", "amd_iommu=off", "iommu=off", "noiommu"];
    switches.into_iter().find(|word| facts.snapshot.platform.is_told(word))
}

/// Groups that only look apart.
fn pretended(facts: Facts) -> Option<Finding> {
    isolation::pretended(facts.snapshot).map(|what| {
        Finding::warning(
            "acs-override",
            "the kernel was told to take devices for apart that are not",
            what,
            "Remove pcie_acs_override, and give each guest whole groups.",
        )
    })
}

fn interrupts(facts: Facts) -> Option<Finding> {
    let id = "interrupt-remapping";
    let io = &facts.snapshot.platform.io;
    if !facts.snapshot.iommu.present {
        return None;
    }
    let evidence = io.interrupt_remapping.evidence.clone();
    let firmware = "Let the kernel remap interrupts: remove intremap=off and nox2apic from its \
                    command line, and in the firmware's settings enable \"Interrupt Remapping\" \
                    (sometimes \"x2APIC\").";
    let finding = match (io.interrupt_remapping.used, io.unsafe_interrupts) {
        (Some(true), _) => Finding::ok(id, "interrupts are remapped", evidence),
        (Some(false), Some(true)) => Finding::warning(
            id,
            "interrupts are not remapped, and VFIO was told to do without",
            format!("{evidence}; vfio_iommu_type1.allow_unsafe_interrupts is on"),
            format!("A guest could raise interrupts of the host. {firmware}"),
        ),
        (Some(false), _) => Finding::problem(
            id,
            "interrupts are not remapped: VFIO refuses to give devices away",
            evidence,
            format!(
                "{firmware} Where guests are trusted, VFIO can be told to do without: \
                 `echo 1 > /sys/module/vfio_iommu_type1/parameters/allow_unsafe_interrupts`."
            ),
        ),
        (None, _) if evidence.is_empty() => return None,
        (None, _) => Finding::warning(
            id,
            "whether interrupts are remapped cannot be told",
            evidence,
            "The kernel's log says it at boot: `dmesg | grep -i remapping`.",
        ),
    };
    Some(finding)
}

/// The driver that hands devices out.
pub fn vfio_pci(facts: Facts) -> Finding {
    let id = "vfio-pci";
    match facts.snapshot.platform.modules.vfio_pci {
        Module::Present => Finding::ok(
            id,
            "devices can be bound to vfio-pci",
            "the driver is loaded (/sys/bus/pci/drivers/vfio-pci)",
        ),
        Module::Loadable => Finding::ok(
            id,
            "devices can be bound to vfio-pci",
            "the module is there, and is loaded when the first device is bound",
        ),
        Module::Missing => Finding::problem(
            id,
            "this kernel has no vfio-pci",
            "its list of modules does not name it",
            no_module("vfio-pci", "CONFIG_VFIO_PCI"),
        ),
        Module::Unknown => Finding::warning(
            id,
            "vfio-pci is not loaded, and may not be there",
            "there is no list of modules for this kernel in /lib/modules",
            "Try `modprobe vfio-pci`.",
        ),
    }
}

/// What maps a guest's memory for its devices.
pub fn dma_mapper(facts: Facts) -> Finding {
    let id = "vfio-type1";
    let platform = &facts.snapshot.platform;
    let has_file = platform.io.has_file("vfio/vfio");
    match (platform.modules.vfio_iommu_type1, has_file) {
        (Module::Present, true) => Finding::ok(
            id,
            "guests' memory can be mapped for devices",
            "vfio_iommu_type1 is loaded, and there is /dev/vfio/vfio",
        ),
        (Module::Present, false) => Finding::problem(
            id,
            "the file of VFIO is missing from /dev",
            "vfio_iommu_type1 is loaded, and there is no /dev/vfio/vfio",
            "Let udev make it, or `mkdir -p /dev/vfio && mknod /dev/vfio/vfio c 10 196`; in a \
             container, have it passed in.",
        ),
        (Module::Loadable, _) => Finding::ok(
            id,
            "guests' memory can be mapped for devices",
            "vfio_iommu_type1 is there, and comes with vfio-pci",
        ),
        (Module::Missing, _) => Finding::problem(
            id,
            "this kernel has no vfio_iommu_type1",
            "its list of modules does not name it",
            no_module("vfio_iommu_type1", "CONFIG_VFIO_IOMMU_TYPE1"),
        ),
        (Module::Unknown, _) => Finding::warning(
            id,
            "vfio_iommu_type1 is not loaded, and may not be there",
            "there is no list of modules for this kernel in /lib/modules",
            "Try `modprobe vfio_iommu_type1`.",
        ),
    }
}

fn no_module(name: &str, option: &str) -> String {
    format!(
        "Boot a kernel with {option}: the distribution's generic one has it (on Ubuntu {name} is \
         in the package linux-modules-extra of the kernel)."
    )
}

fn no_iommu_mode(facts: Facts) -> Option<Finding> {
    (facts.snapshot.platform.io.no_iommu == Some(true)).then(|| {
        Finding::warning(
            "no-iommu-mode",
            "VFIO may give devices away without an IOMMU",
            "/sys/module/vfio/parameters/enable_unsafe_noiommu_mode is on",
            "A device given so can reach all of the host's memory. Unless that is meant: `echo N > \
             /sys/module/vfio/parameters/enable_unsafe_noiommu_mode`, and remove the option from \
             /etc/modprobe.d and the kernel command line.",
        )
    })
}

fn cards(facts: Facts) -> Finding {
    let id = "sriov";
    let with = facts.snapshot.functions.iter().filter_map(|function| {
        let pf = function.sriov.as_ref().filter(|pf| pf.total > 0)?;
        let driver = function.driver.as_deref().unwrap_or("no driver");
        Some(format!("{}: {driver}, {} of {} VFs", function.address, pf.present, pf.total))
    });
    let with: Vec<String> = with.collect();
    let title = match with.len() {
        0 => "no card can have VFs: devices can be given away as a whole only".to_owned(),
        1 => "1 card can have VFs".to_owned(),
        count => format!("{count} cards can have VFs"),
    };
    let evidence = match with.len() {
        0 => "no function has an SR-IOV capability; some cards have it switched off in their \
              firmware"
            .to_owned(),
        1..=4 => with.join("; "),
        count => format!("{}; and {} more", with[..4].join("; "), count - 4),
    };
    Finding::ok(id, title, evidence)
}

/// BARs that were given no addresses: the kernel writes 0 where it found no room. Readers without
/// privilege see 0 for all.
pub fn unassigned<'a>(facts: Facts, function: &'a PciFunction) -> Vec<&'a Bar> {
    let hidden = facts.snapshot.platform.process.is_some_and(|process| !process.is_root());
    let bars = function.bars.iter().filter(|bar| bar.start == 0 && bar.size > 0);
    bars.filter(|bar| !hidden && matches!(bar.owner, BarOwner::Function | BarOwner::Vfs)).collect()
}

/// How to find room for BARs.
pub const REALLOC: &str = "Boot with pci=realloc on the kernel command line, and in the firmware's \
                           settings enable \"Above 4G Decoding\" and \"SR-IOV Support\".";

fn addresses(facts: Facts) -> Option<Finding> {
    let without = facts.snapshot.functions.iter();
    let without: Vec<String> = without
        .filter(|function| !function.is_bridge() && !unassigned(facts, function).is_empty())
        .map(|function| function.address.to_string())
        .collect();
    let (first, more) = (without.first()?, without.len() - 1);
    let more = if more > 0 { format!(" and {more} more") } else { String::new() };
    let evidence = format!("{first}{more} have a range of addresses that begins at 0");
    Some(Finding::warning("addresses", "not every device has its addresses", evidence, REALLOC))
}

fn tun(facts: Facts) -> Finding {
    let platform = &facts.snapshot.platform;
    let (id, title) = ("tun", "guests without a device can get virtio");
    match (platform.modules.tun, platform.io.has_file("net/tun")) {
        (Module::Present, true) => Finding::ok(id, title, "there is /dev/net/tun"),
        (Module::Present, false) => Finding::warning(
            id,
            "the file of TAP interfaces is missing from /dev",
            "tun is loaded, and there is no /dev/net/tun",
            "Let udev make it, or `mkdir -p /dev/net && mknod /dev/net/tun c 10 200`.",
        ),
        (Module::Loadable, _) => {
            Finding::ok(id, title, "the module tun is there, and is loaded when it is needed")
        }
        (Module::Missing, _) => Finding::warning(
            id,
            "guests without a device cannot get virtio",
            "this kernel has no tun",
            no_module("tun", "CONFIG_TUN"),
        ),
        (Module::Unknown, has_file) => {
            let file = if has_file { "there is /dev/net/tun" } else { "there is no /dev/net/tun" };
            Finding::warning(
                id,
                "whether guests can get virtio cannot be told",
                format!("{file}, and tun is not loaded"),
                "Try `modprobe tun`.",
            )
        }
    }
}

fn vhost_net(facts: Facts) -> Finding {
    let id = "vhost-net";
    match facts.snapshot.platform.modules.vhost_net {
        Module::Present => Finding::ok(id, "virtio can run in the kernel", "vhost_net is loaded"),
        Module::Loadable => {
            Finding::ok(id, "virtio can run in the kernel", "the module vhost_net is there")
        }
        Module::Missing | Module::Unknown => Finding::warning(
            id,
            "virtio cannot be sped up by the kernel",
            "vhost_net is not loaded, and no list of modules names it",
            "Try `modprobe vhost_net`; without it virtio works, and costs more CPU.",
        ),
    }
}
