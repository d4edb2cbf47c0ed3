//! What the kernel offers for giving devices away: IOMMUs, interrupt remapping, VFIO, vhost.

use serde::{Deserialize, Serialize};

use super::cpu::parameter_of;
use crate::attribute;
use crate::facts::reader::Reader;

/// I/O virtualization as the kernel has it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Io {
    /// IOMMUs in use by the kernel's names: `dmar0` is Intel's, `ivhd0` AMD's.
    pub iommus: Vec<String>,
    /// Whether the IOMMU also keeps interrupts apart.
    pub interrupt_remapping: InterruptRemapping,
    /// Files below `/dev` that are there, of those a launcher opens.
    pub files: Vec<String>,
    /// Whether VFIO gives devices away without an IOMMU (`enable_unsafe_noiommu_mode`).
    pub no_iommu: Option<bool>,
    /// Whether VFIO does without interrupt remapping (`allow_unsafe_interrupts`).
    pub unsafe_interrupts: Option<bool>,
    /// Mappings that VFIO allows a container (`dma_entry_limit`).
    pub dma_entry_limit: Option<u32>,
}

/// Whether a device could interrupt the host, or another guest, as it likes.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct InterruptRemapping {
    /// Whether the kernel remaps interrupts; `None` where it cannot be told.
    pub used: Option<bool>,
    /// What tells it.
    pub evidence: String,
}

/// What a launcher opens.
const FILES: [&str; 5] = ["kvm", "vfio/vfio", "iommu", "vhost-net", "net/tun"];
/// Enough of `/proc/interrupts`: the timer and the legacy interrupts come first.
const INTERRUPTS_BYTES: u64 = 256 << 10;
/// "IR" of the extended capabilities (VT-d section 11.4.3).
const ECAP_INTERRUPT_REMAPPING: u64 = 1 << 3;

impl Io {
    /// Reads the facts.
    pub fn read(reader: &mut Reader) -> Io {
        let class = reader.root.iommu_class();
        let iommus = reader.entries(&class);
        let files = FILES.iter().filter(|file| reader.root.dev(file).exists());
        let files = files.map(|file| (*file).to_owned()).collect();
        let limit = reader.root.sys("module/vfio_iommu_type1/parameters/dma_entry_limit");
        Io {
            interrupt_remapping: interrupt_remapping(reader, &iommus),
            iommus,
            files,
            no_iommu: parameter_of(reader, "vfio", "enable_unsafe_noiommu_mode"),
            unsafe_interrupts: parameter_of(reader, "vfio_iommu_type1", "allow_unsafe_interrupts"),
            dma_entry_limit: reader.number(&limit),
        }
    }

    /// Whether a file below `/dev` is there.
    pub fn has_file(&self, file: &str) -> bool {
        self.files.iter().any(|found| found == file)
    }
}

/// No file says it outright. Where interrupts are remapped their chips are named so in
/// `/proc/interrupts` (`IR-IO-APIC`, `IR-PCI-MSI`; drivers/iommu, both vendors); that none is, is
/// told by chips of the same kind without the prefix.
fn interrupt_remapping(reader: &mut Reader, iommus: &[String]) -> InterruptRemapping {
    let told = |used, evidence: String| InterruptRemapping { used: Some(used), evidence };
    let table = attribute::read_head(&reader.root.proc("interrupts"), INTERRUPTS_BYTES);
    let table = reader.accept(table);
    let chips = || table.lines().flat_map(str::split_ascii_whitespace);
    if let Some(chip) = chips().find(|word| word.starts_with("IR-")) {
        let chip: String = chip.chars().take(32).collect();
        return told(true, format!("/proc/interrupts names {chip}"));
    }
    let plain = |word: &&str| *word == "IO-APIC" || word.starts_with("PCI-MSI");
    if let Some(chip) = chips().find(plain) {
        let chip: String = chip.chars().take(32).collect();
        let why = without(reader, iommus);
        return told(false, format!("/proc/interrupts names {chip}, without IR-{why}"));
    }
    InterruptRemapping {
        used: None,
        evidence: "/proc/interrupts names no chip that would tell".to_owned(),
    }
}

/// Why interrupts are not remapped, where that can be seen.
fn without(reader: &mut Reader, iommus: &[String]) -> String {
    let told = reader.root.proc("cmdline");
    let told = reader.text(&told).unwrap_or_default();
    let switch = |word: &&str| matches!(*word, "intremap=off" | "nointremap" | "noapic");
    if let Some(word) = told.split_ascii_whitespace().find(switch) {
        return format!("; the kernel was booted with {word}");
    }
    for name in iommus {
        let path = reader.root.iommu_class().join(name).join("intel-iommu/ecap");
        let Some(text) = reader.text(&path) else { continue };
        match u64::from_str_radix(text.trim().trim_start_matches("0x"), 16) {
            Ok(ecap) if ecap & ECAP_INTERRUPT_REMAPPING == 0 => {
                return format!("; {name} cannot do it (ecap {})", text.trim());
            }
            Ok(_) => {}
            Err(_) => reader.note(&path, format!("{text:?} is not a hexadecimal number")),
        }
    }
    String::new()
}
