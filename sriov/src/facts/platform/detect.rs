//! From the signs to the platform. Pure, and in the words of virt-what(1) where it has one.
//!
//! ```text
//! the machine    bare-metal, or the one hypervisor (xen says which of its three kinds of guest)
//! the cloud      aws, google, azure: beside bare-metal too, which clouds sell
//! the container  any number: docker in lxc is both
//! ```

use serde::{Deserialize, Serialize};

use super::evidence::Evidence;

/// One thing that is known of where this kernel, and this process, runs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Finding {
    /// What it is.
    pub kind: Kind,
    /// The sign that tells it.
    pub evidence: String,
}

/// Platforms by name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// No hypervisor.
    BareMetal,
    /// KVM, with the CPU's help.
    Kvm,
    /// QEMU, emulating the CPU in software.
    Qemu,
    /// Xen, in whatever role.
    Xen,
    /// Xen's privileged domain: the host.
    XenDom0,
    /// A paravirtualized guest of Xen.
    #[serde(rename = "xen-domU")]
    XenDomU,
    /// A fully virtualized guest of Xen.
    XenHvm,
    /// VMware.
    Vmware,
    /// Microsoft Hyper-V.
    Hyperv,
    /// Oracle VirtualBox.
    Virtualbox,
    /// Parallels Desktop or Server.
    Parallels,
    /// User-mode Linux.
    Uml,
    /// A hypervisor that is not known here.
    Virt,
    /// Windows Subsystem for Linux.
    Wsl,
    /// Amazon Web Services.
    Aws,
    /// Google Compute Engine.
    Google,
    /// Microsoft Azure.
    Azure,
    /// A container of OpenVZ or Virtuozzo.
    Openvz,
    /// A container of LXC or Incus.
    Lxc,
    /// A container of Docker.
    Docker,
    /// A container of Podman.
    Podman,
    /// A container of systemd-nspawn.
    SystemdNspawn,
    /// A container of another manager.
    Container,
}

/// What a platform is to somebody who gives devices away.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Category {
    /// The machine itself, or the part of it that has the devices.
    Metal,
    /// A virtual machine: it has the devices its host gives it.
    Virtual,
    /// Somebody else's building.
    Cloud,
    /// A part of a system that shares its kernel.
    Container,
}

impl Kind {
    /// Every kind.
    pub const ALL: [Kind; 23] = [
        Kind::BareMetal,
        Kind::Kvm,
        Kind::Qemu,
        Kind::Xen,
        Kind::XenDom0,
        Kind::XenDomU,
        Kind::XenHvm,
        Kind::Vmware,
        Kind::Hyperv,
        Kind::Virtualbox,
        Kind::Parallels,
        Kind::Uml,
        Kind::Virt,
        Kind::Wsl,
        Kind::Aws,
        Kind::Google,
        Kind::Azure,
        Kind::Openvz,
        Kind::Lxc,
        Kind::Docker,
        Kind::Podman,
        Kind::SystemdNspawn,
        Kind::Container,
    ];

    /// The word for it.
    pub fn word(self) -> &'static str {
        match self {
            Kind::BareMetal => "bare-metal",
            Kind::Kvm => "kvm",
            Kind::Qemu => "qemu",
            Kind::Xen => "xen",
            Kind::XenDom0 => "xen-dom0",
            Kind::XenDomU => "xen-domU",
            Kind::XenHvm => "xen-hvm",
            Kind::Vmware => "vmware",
            Kind::Hyperv => "hyperv",
            Kind::Virtualbox => "virtualbox",
            Kind::Parallels => "parallels",
            Kind::Uml => "uml",
            Kind::Virt => "virt",
            Kind::Wsl => "wsl",
            Kind::Aws => "aws",
            Kind::Google => "google",
            Kind::Azure => "azure",
            Kind::Openvz => "openvz",
            Kind::Lxc => "lxc",
            Kind::Docker => "docker",
            Kind::Podman => "podman",
            Kind::SystemdNspawn => "systemd-nspawn",
            Kind::Container => "container",
        }
    }

    /// What it is to somebody who gives devices away.
    pub fn category(self) -> Category {
        match self {
            Kind::BareMetal | Kind::Xen | Kind::XenDom0 => Category::Metal,
            Kind::Aws | Kind::Google | Kind::Azure => Category::Cloud,
            Kind::Openvz
            | Kind::Lxc
            | Kind::Docker
            | Kind::Podman
            | Kind::SystemdNspawn
            | Kind::Container => Category::Container,
            _ => Category::Virtual,
        }
    }
}

impl std::fmt::Display for Kind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.word())
    }
}

/// Azure's chassis label, the same on every virtual machine there.
const AZURE_TAG: &str = "7783-7084-3265-9085-8269-3286-77";
/// `XENFEAT_dom0` (xen/interface/features.h).
const XEN_DOM0: u32 = 11;

/// What the signs say, the machine first, then the cloud, then containers; empty where they say
/// nothing.
pub fn detect(evidence: &Evidence) -> Vec<Finding> {
    let mut found = machine(evidence);
    found.extend(cloud(evidence));
    found.extend(containers(evidence));
    found
}

fn finding(kind: Kind, evidence: impl Into<String>) -> Finding {
    Finding { kind, evidence: evidence.into() }
}

impl Evidence {
    /// The sign, where a hypervisor signs with one of these.
    fn signed(&self, signatures: &[&str]) -> Option<String> {
        let found = self.cpuid.as_ref()?.signatures.iter();
        let mut found = found.filter(|found| signatures.contains(&found.as_str()));
        found.next().map(|text| format!("CPUID leaf 0x40000000 says {}", text.trim()))
    }

    /// The sign, where a field of DMI begins so.
    fn dmi(&self, field: DmiField, beginning: &str) -> Option<String> {
        let (name, text) = match field {
            DmiField::System => ("system vendor", &self.dmi.system_vendor),
            DmiField::Product => ("product name", &self.dmi.product_name),
            DmiField::Board => ("board vendor", &self.dmi.board_vendor),
            DmiField::Bios => ("BIOS vendor", &self.dmi.bios_vendor),
            DmiField::BiosVersion => ("BIOS version", &self.dmi.bios_version),
            DmiField::Chassis => ("chassis asset tag", &self.dmi.chassis_tag),
        };
        text.starts_with(beginning).then(|| format!("DMI {name} '{text}'"))
    }
}

#[derive(Clone, Copy)]
enum DmiField {
    System,
    Product,
    Board,
    Bios,
    BiosVersion,
    Chassis,
}

/// The order matters: VirtualBox and Parallels can sign as KVM, KVM as Hyper-V, and Xen's guests
/// have QEMU's firmware.
fn machine(evidence: &Evidence) -> Vec<Finding> {
    use DmiField::{Bios, BiosVersion, Board, Product, System};

    if evidence.cpu_vendor == "User Mode Linux" {
        return vec![finding(Kind::Uml, "/proc/cpuinfo has vendor_id 'User Mode Linux'")];
    }
    let xen = xen(evidence);
    if !xen.is_empty() {
        return xen;
    }
    let dmi = |field, beginning| evidence.dmi(field, beginning);
    let signed = |signatures: &[&str]| evidence.signed(signatures);
    let mut found: Vec<Finding> = wsl(evidence).into_iter().collect();
    let vm = [
        (Kind::Vmware, signed(&["VMwareVMware"]).or_else(|| dmi(System, "VMware"))),
        (
            Kind::Virtualbox,
            dmi(System, "innotek GmbH")
                .or_else(|| dmi(Product, "VirtualBox"))
                .or_else(|| dmi(BiosVersion, "VirtualBox"))
                .or_else(|| signed(&["VBoxVBoxVBox"])),
        ),
        (
            Kind::Parallels,
            dmi(Bios, "Parallels")
                .or_else(|| dmi(System, "Parallels"))
                .or_else(|| signed(&[" lrpepyh  vr", "prl hyperv  ", " prl hyperv "])),
        ),
        (Kind::Kvm, signed(&["KVMKVMKVM", "Linux KVM Hv", "LKVMLKVMLKVM"])),
        (Kind::Qemu, signed(&["TCGTCGTCGTCG"])),
        (
            Kind::Hyperv,
            signed(&["Microsoft Hv"]).or_else(|| {
                let vendor = dmi(System, "Microsoft Corporation")?;
                let product = dmi(Product, "Virtual Machine")?;
                Some(format!("{vendor}, {}", product.trim_start_matches("DMI ")))
            }),
        ),
        // From here on there is no signature: the CPU was not asked, or it hides.
        (Kind::Kvm, clock(evidence, "kvm-clock")),
        (Kind::Hyperv, clock(evidence, "hyperv_clocksource_tsc_page")),
        (Kind::Kvm, dmi(Product, "KVM").or_else(|| dmi(System, "KVM"))),
        (
            Kind::Qemu,
            dmi(System, "QEMU").or_else(|| dmi(Bios, "QEMU")).or_else(|| dmi(Board, "QEMU")),
        ),
        (Kind::Virt, unknown(evidence)),
    ];
    let vm = vm.into_iter().find_map(|(kind, sign)| Some(finding(kind, sign?)));
    match vm {
        Some(vm) => found.insert(0, vm),
        None if found.is_empty() => found.extend(bare_metal(evidence)),
        None => {}
    }
    found
}

/// The clock of a hypervisor can be there only where it is (arch/x86/kernel/kvmclock.c,
/// drivers/clocksource/hyperv_timer.c).
fn clock(evidence: &Evidence, name: &str) -> Option<String> {
    let offered = evidence.clocks.iter().any(|clock| clock == name);
    offered.then(|| format!("the kernel has the clock {name}"))
}

fn unknown(evidence: &Evidence) -> Option<String> {
    match &evidence.cpuid {
        Some(cpuid) => cpuid.hypervisor.then(|| match cpuid.signatures.first() {
            Some(signature) => format!("CPUID leaf 0x40000000 says {signature}"),
            None => "CPUID leaf 1 has the hypervisor bit, and no hypervisor signs".to_owned(),
        }),
        None => (evidence.hypervisor_flag == Some(true))
            .then(|| "/proc/cpuinfo has the flag hypervisor".to_owned()),
    }
}

fn bare_metal(evidence: &Evidence) -> Option<Finding> {
    let sign = match (&evidence.cpuid, evidence.hypervisor_flag) {
        (Some(_), _) => "CPUID leaf 1 has no hypervisor bit",
        (None, Some(false)) => "/proc/cpuinfo has no flag hypervisor",
        _ => return None,
    };
    let dmi = &evidence.dmi;
    let named = [&dmi.system_vendor, &dmi.product_name].map(|text| text.as_str()).join(" ");
    let sign = match named.trim() {
        "" => sign.to_owned(),
        named => format!("{sign}, and DMI names a {named}"),
    };
    Some(finding(Kind::BareMetal, sign))
}

fn xen(evidence: &Evidence) -> Vec<Finding> {
    let xen = &evidence.xen;
    let in_files = if xen.hypervisor == "xen" {
        Some("/sys/hypervisor/type says xen".to_owned())
    } else {
        xen.directory.then(|| "there is /proc/xen".to_owned())
    };
    let signed = evidence.signed(&["XenVMMXenVMM"]);
    let Some(sign) = signed.clone().or(in_files) else { return Vec::new() };
    let features = u32::from_str_radix(xen.features.trim_start_matches("0x"), 16).unwrap_or(0);
    let role = if xen.capabilities.contains("control_d") {
        finding(Kind::XenDom0, "/proc/xen/capabilities says control_d")
    } else if features & (1 << XEN_DOM0) != 0 {
        let features = &xen.features;
        let sign = format!("/sys/hypervisor/properties/features is {features}, with bit 11 (dom0)");
        finding(Kind::XenDom0, sign)
    } else {
        match xen.guest_type.as_str() {
            "HVM" => finding(Kind::XenHvm, "/sys/hypervisor/guest_type says HVM"),
            kind @ ("PV" | "PVH") => {
                finding(Kind::XenDomU, format!("/sys/hypervisor/guest_type says {kind}"))
            }
            // A guest without a file for it (Linux before 4.13): only HVM has firmware.
            _ if signed.is_some() && !evidence.dmi.is_empty() => {
                finding(Kind::XenHvm, "Xen signs by CPUID, and there is firmware with DMI")
            }
            _ => finding(Kind::XenDomU, "/proc/xen/capabilities does not say control_d"),
        }
    };
    vec![finding(Kind::Xen, sign), role]
}

fn wsl(evidence: &Evidence) -> Option<Finding> {
    let kernel = &evidence.kernel;
    let named = kernel.contains("WSL") || kernel.to_lowercase().contains("microsoft");
    if named {
        return Some(finding(Kind::Wsl, format!("the kernel's release is {kernel}")));
    }
    let interop = "binfmt_misc has WSLInterop";
    evidence.wsl_interop.then(|| finding(Kind::Wsl, interop))
}

fn cloud(evidence: &Evidence) -> Option<Finding> {
    use DmiField::{Bios, Chassis, Product, System};

    let dmi = |field, beginning| evidence.dmi(field, beginning);
    // The older machines of AWS are Xen's, with a BIOS such as 4.11.amazon.
    let on_xen = || {
        let version = &evidence.dmi.bios_version;
        version.ends_with(".amazon").then(|| format!("DMI BIOS version '{version}'"))
    };
    let aws = dmi(System, "Amazon EC2").or_else(|| dmi(Bios, "Amazon EC2")).or_else(on_xen);
    let google = dmi(Product, "Google Compute Engine");
    let azure = dmi(Chassis, AZURE_TAG);
    [(Kind::Aws, aws), (Kind::Google, google), (Kind::Azure, azure)]
        .into_iter()
        .find_map(|(kind, sign)| Some(finding(kind, sign?)))
}

fn containers(evidence: &Evidence) -> Vec<Finding> {
    let named = named_container(evidence);
    let is_named = |kind| named.clone().filter(|found: &Finding| found.kind == kind);
    let in_group = |kind, parts: &[&str]| {
        let fits = |group: &&String| parts.iter().any(|part| group.contains(part));
        let group = evidence.cgroups.iter().find(fits)?;
        Some(finding(kind, format!("the first process is in control group {group}")))
    };
    let openvz = (evidence.vz && !evidence.bc)
        .then(|| finding(Kind::Openvz, "there is /proc/vz, and no /proc/bc as on its host"));
    let lxc = is_named(Kind::Lxc).or_else(|| in_group(Kind::Lxc, &["/lxc/", "/lxc."]));
    let docker_file = evidence.dockerenv.then(|| finding(Kind::Docker, "there is /.dockerenv"));
    let docker = docker_file
        .or_else(|| is_named(Kind::Docker))
        .or_else(|| in_group(Kind::Docker, &["/docker/", "/docker-"]));
    let podman_file =
        evidence.containerenv.then(|| finding(Kind::Podman, "there is /run/.containerenv"));
    let podman =
        is_named(Kind::Podman).or(podman_file).or_else(|| in_group(Kind::Podman, &["/libpod-"]));
    let nspawn = is_named(Kind::SystemdNspawn);
    let mut found: Vec<Finding> =
        [openvz, lxc, docker, podman, nspawn].into_iter().flatten().collect();
    if found.is_empty() {
        found.extend(is_named(Kind::Container));
    }
    found
}

/// What the container's manager has written into its environment, or systemd of it into a file.
fn named_container(evidence: &Evidence) -> Option<Finding> {
    let variable = evidence.container_variable.as_deref();
    let (name, place) = match (variable, evidence.container_file.as_deref()) {
        (Some(name), _) => (name, "the first process has container="),
        (None, Some(name)) => (name, "/run/systemd/container says "),
        (None, None) => return None,
    };
    let kind = match name {
        "docker" => Kind::Docker,
        "podman" => Kind::Podman,
        "systemd-nspawn" => Kind::SystemdNspawn,
        "openvz" => Kind::Openvz,
        // WSL sets it too, and is found by its kernel.
        "wsl" => return None,
        name if name.starts_with("lxc") => Kind::Lxc,
        _ => Kind::Container,
    };
    Some(finding(kind, format!("{place}{name}")))
}
