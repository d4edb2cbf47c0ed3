//! What the CPUs have for guests, and what of it KVM uses.
//!
//! Offered is what the kernel shows in `/proc/cpuinfo` (the line "vmx flags" since Linux 5.8); used
//! is what the parameters of `kvm_intel` or `kvm_amd` say. Each may be unknown, and says so.

use serde::{Deserialize, Serialize};

use super::cpuid::Cpuid;
use super::evidence::{CpuInfo, first_cpu};
use crate::facts::reader::Reader;

/// The CPUs, as far as guests are concerned.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Cpu {
    /// Who made it (`GenuineIntel`, `AuthenticAMD`).
    pub vendor: String,
    /// Its name.
    pub model: String,
    /// What it has for guests and firmware has left on.
    pub extension: Option<Extension>,
    /// What it has, also where firmware has switched it off; `None` where CPUID was not asked.
    pub hardware: Option<Extension>,
    /// Second-level address translation: EPT or nested paging (NPT).
    pub paging: Feature,
    /// Whether that can map 1 GiB at once.
    pub gib_pages: Option<bool>,
    /// Tags that spare a flush of translations at each exit: VPID; AMD always has ASIDs.
    pub tags: Feature,
    /// How many ASIDs there are, the host's among them (AMD; live only).
    pub asids: Option<u32>,
    /// Interrupts that reach a running guest without an exit: posted interrupts or AVIC.
    pub interrupts: Feature,
    /// Whether guests may be hosts themselves.
    pub nested: Feature,
}

/// What a CPU has for guests.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Extension {
    /// Intel VT-x.
    Vmx,
    /// AMD-V.
    Svm,
}

impl Extension {
    /// The name that kernel and manuals use.
    pub fn name(self) -> &'static str {
        match self {
            Extension::Vmx => "VMX",
            Extension::Svm => "SVM",
        }
    }

    /// The names that firmware's settings use.
    pub fn firmware_names(self) -> &'static str {
        match self {
            Extension::Vmx => "Intel Virtualization Technology, VT-x or VMX",
            Extension::Svm => "SVM Mode, AMD-V or Secure Virtual Machine",
        }
    }

    /// The module of KVM for it.
    pub fn module(self) -> &'static str {
        match self {
            Extension::Vmx => "kvm_intel",
            Extension::Svm => "kvm_amd",
        }
    }
}

/// Something that the CPU offers and KVM uses, or not; `None` where it cannot be told.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Feature {
    /// Whether the CPU has it.
    pub offered: Option<bool>,
    /// Whether KVM, as it is loaded, uses it.
    pub used: Option<bool>,
}

impl Cpu {
    /// Reads the facts; `cpuid` adds what no file tells.
    pub fn read(reader: &mut Reader, cpuid: Option<&Cpuid>) -> Cpu {
        let info = first_cpu(reader);
        let flags = info.flags("flags");
        let has = |flag: &str| flags.as_ref().map(|flags| flags.contains(&flag));
        let extension = match (has("vmx"), has("svm")) {
            (Some(true), _) => Some(Extension::Vmx),
            (_, Some(true)) => Some(Extension::Svm),
            _ => None,
        };
        let limited = |field| info.field(field).unwrap_or_default().chars().take(128).collect();
        let cpu = Cpu {
            vendor: limited("vendor_id"),
            model: limited("model name"),
            extension,
            hardware: cpuid.and_then(|cpuid| cpuid.extension),
            asids: cpuid.and_then(|cpuid| cpuid.asids),
            ..Cpu::default()
        };
        match extension {
            Some(Extension::Vmx) => cpu.intel(reader, &info),
            Some(Extension::Svm) => cpu.amd(reader, &info),
            None => cpu,
        }
    }

    fn intel(self, reader: &mut Reader, info: &CpuInfo) -> Cpu {
        let general = info.flags("flags");
        let vmx = info.flags("vmx flags");
        // EPT and VPID are among the general flags too, also where "vmx flags" is not written.
        let general = |flag: &str| general.as_ref().map(|flags| flags.contains(&flag));
        let has = |flag: &str| vmx.as_ref().map(|flags| flags.contains(&flag));
        let mut used = |parameter| parameter_of(reader, "kvm_intel", parameter);
        Cpu {
            paging: Feature { offered: general("ept"), used: used("ept") },
            gib_pages: has("ept_1gb"),
            tags: Feature { offered: general("vpid"), used: used("vpid") },
            // KVM's parameter is on only where the CPU has all it takes (arch/x86/kvm/vmx).
            interrupts: Feature { offered: has("posted_intr"), used: used("enable_apicv") },
            nested: Feature { offered: Some(true), used: used("nested") },
            ..self
        }
    }

    fn amd(self, reader: &mut Reader, info: &CpuInfo) -> Cpu {
        let flags = info.flags("flags");
        let has = |flag: &str| flags.as_ref().map(|flags| flags.contains(&flag));
        let mut used = |parameter| parameter_of(reader, "kvm_amd", parameter);
        Cpu {
            paging: Feature { offered: has("npt"), used: used("npt") },
            // Nested page tables have the format of the host's own (AMD APM volume 2, 15.25).
            gib_pages: has("pdpe1gb"),
            tags: Feature { offered: Some(true), used: Some(true) },
            interrupts: Feature { offered: has("avic"), used: used("avic") },
            nested: Feature { offered: Some(true), used: used("nested") },
            ..self
        }
    }
}

/// A switch among a module's parameters: `Y`, `N`, or a number; `None` where it is not loaded or
/// has no such parameter.
pub fn parameter_of(reader: &mut Reader, module: &str, parameter: &str) -> Option<bool> {
    let path = reader.root.sys("module").join(module).join("parameters").join(parameter);
    let text = reader.text(&path)?;
    match text.trim() {
        "Y" | "y" => Some(true),
        "N" | "n" => Some(false),
        number => match number.parse::<i64>() {
            Ok(number) => Some(number != 0),
            Err(_) => {
                reader.note(&path, format!("{text:?} is neither Y nor N"));
                None
            }
        },
    }
}
