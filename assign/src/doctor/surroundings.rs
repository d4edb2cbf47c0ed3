//! Where all this runs: on the machine itself or in a part of it, as whom, and with what memory of
//! earlier commands.

use sriov::facts::platform::{Category, Finding as Sign, Kind};

use super::{Facts, Finding};

/// What a person would have to leave first.
pub fn platform(facts: Facts) -> Vec<Finding> {
    let mut found = Vec::new();
    if let Some(container) = facts.runs_on(Category::Container) {
        found.push(Finding::problem(
            "container",
            format!("this is a container ({})", container.kind),
            container.evidence.clone(),
            "Run assign on the host itself: devices, drivers and IOMMU groups are the host's, and \
             a container sees and changes them only in part.",
        ));
    }
    if let Some(wsl) = facts.runs_on_kind(Kind::Wsl) {
        found.push(Finding::problem(
            "platform",
            "this is Windows Subsystem for Linux (wsl)",
            wsl.evidence.clone(),
            "Windows keeps the devices to itself. Run assign on Linux.",
        ));
    } else if let Some(dom0) = facts.runs_on_kind(Kind::XenDom0) {
        found.push(Finding::problem(
            "platform",
            "this is Xen's privileged domain (xen-dom0)",
            dom0.evidence.clone(),
            "Xen has the CPU's virtualization and the IOMMU, so KVM cannot have them. Boot this \
             machine without Xen.",
        ));
    } else if let Some(machine) = facts.runs_on(Category::Virtual) {
        found.push(virtual_machine(facts, machine));
    } else if let Some(metal) = facts.runs_on(Category::Metal) {
        found.push(Finding::ok("platform", "this is a machine of its own", &*metal.evidence));
    }
    found
}

fn virtual_machine(facts: Facts, machine: &Sign) -> Finding {
    let cloud = facts.runs_on(Category::Cloud);
    let title = match cloud {
        Some(cloud) => format!("this is a virtual machine ({}, {})", machine.kind, cloud.kind),
        None => format!("this is a virtual machine ({})", machine.kind),
    };
    let signs = cloud.map(|cloud| format!("{}; {}", machine.evidence, cloud.evidence));
    Finding::ok("platform", title, signs.unwrap_or_else(|| machine.evidence.clone()))
}

/// How a virtual machine gets an IOMMU.
pub fn virtual_iommu(facts: Facts, machine: &Sign) -> String {
    if let Some(cloud) = facts.runs_on(Category::Cloud) {
        return format!(
            "Virtual machines of {} have none: guests get virtio here, and devices only by VFIO's \
             no-IOMMU mode, which keeps nothing apart. For devices choose {}.",
            cloud.kind,
            metal(cloud)
        );
    }
    let how = match machine.kind {
        Kind::Kvm | Kind::Qemu => {
            "with QEMU `-machine q35,kernel-irqchip=split -device intel-iommu,intremap=on,\
             caching-mode=on`, and intel_iommu=on on this kernel's command line"
        }
        Kind::Vmware => "the virtual machine's setting \"Expose IOMMU to the guest OS\"",
        _ => "where its hypervisor can",
    };
    format!(
        "Let the host of this virtual machine give it one: {how}. Without an IOMMU guests get \
         virtio only."
    )
}

/// What to rent instead of a virtual machine.
pub fn metal(cloud: &Sign) -> &'static str {
    match cloud.kind {
        Kind::Aws => "an instance type that ends in .metal",
        Kind::Google => "a bare-metal machine type",
        _ => "a bare-metal offer",
    }
}

/// As whom, where it is remembered, and what could not be seen.
pub fn findings(facts: Facts) -> Vec<Finding> {
    let snapshot = facts.snapshot;
    let mut found = Vec::new();
    if let Some(process) = snapshot.platform.process.filter(|process| !process.is_root()) {
        found.push(Finding::warning(
            "privilege",
            format!("this runs as user {}, not as root", process.user),
            "some facts are root's to see, and changes are root's to make",
            "Run it with sudo to see and do all of it.",
        ));
    }
    if let Some(state) = facts.state {
        found.push(match &state.error {
            None => Finding::ok("state", "what is done can be remembered", &*state.path),
            Some(error) => Finding::problem(
                "state",
                "what is done could not be remembered",
                format!("{}: {error}", state.path),
                "Run assign as root, or name another directory with --state.",
            ),
        });
    }
    if let Some(mode @ ("integrity" | "confidentiality")) = snapshot.platform.lockdown.as_deref() {
        found.push(Finding::ok(
            "lockdown",
            "the kernel is locked down: modules must be signed",
            format!("/sys/kernel/security/lockdown says {mode}; vfio-pci of the distribution is"),
        ));
    }
    if let Some(first) = snapshot.problems.first() {
        let count = snapshot.problems.len();
        let more = if count > 1 { format!(" (and {} more)", count - 1) } else { String::new() };
        let as_root = if facts.is_root() || snapshot.platform.process.is_none() {
            "`assign snapshot` shows all of them, in `problems`."
        } else {
            "Run it as root; `assign snapshot` shows all of them, in `problems`."
        };
        found.push(Finding::warning(
            "unread",
            "not everything could be read",
            format!("{}: {}{more}", first.path.display(), first.cause),
            as_root,
        ));
    }
    found
}
