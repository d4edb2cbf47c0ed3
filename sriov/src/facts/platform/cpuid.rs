//! What the CPU that runs this process says of itself by the CPUID instruction: it works without
//! privilege, in containers too, and nothing of it can be read from a file.

use serde::{Deserialize, Serialize};

use super::cpu::Extension;

/// The few facts of CPUID that no file tells.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Cpuid {
    /// Signatures of the hypervisors above this machine, as [`signatures`] finds them: none on
    /// bare metal.
    pub signatures: Vec<String>,
    /// The hypervisor bit (leaf 1, ECX bit 31), which every hypervisor sets that does not hide.
    pub hypervisor: bool,
    /// What the CPU has for guests, also where firmware has switched it off.
    pub extension: Option<Extension>,
    /// Address-space identifiers for guests, the host's own among them (AMD, leaf 0x8000000a EBX).
    pub asids: Option<u32>,
}

/// First leaf of the range that is left to hypervisors.
const HYPERVISOR: u32 = 0x4000_0000;
/// A hypervisor that speaks another one's language too puts its own signature at the next multiple
/// of this (as KVM does behind Hyper-V's, and Xen).
const STEP: u32 = 0x100;
/// As many languages as are looked for.
const LANGUAGES: u32 = 4;
/// First of the extended leaves.
const EXTENDED: u32 = 0x8000_0000;
/// SVM's own leaf (AMD APM volume 3, E.4.9).
const SVM: u32 = 0x8000_000a;

/// EAX, EBX, ECX and EDX of a leaf.
type Registers = [u32; 4];

/// What this CPU says; nothing where it is no x86.
pub fn of_this_cpu() -> Option<Cpuid> {
    #[cfg(target_arch = "x86_64")]
    return Some(read(|leaf| {
        let found = core::arch::x86_64::__cpuid(leaf);
        [found.eax, found.ebx, found.ecx, found.edx]
    }));
    #[cfg(not(target_arch = "x86_64"))]
    None
}

fn read(leaf: impl Fn(u32) -> Registers) -> Cpuid {
    let [_, _, features, _] = leaf(1);
    let [highest, ..] = leaf(EXTENDED);
    let has = |number| (EXTENDED..=EXTENDED + 0xffff).contains(&highest) && highest >= number;
    let extended = if has(EXTENDED + 1) { leaf(EXTENDED + 1) } else { Registers::default() };
    let extension = match (features & (1 << 5) != 0, extended[2] & (1 << 2) != 0) {
        (true, _) => Some(Extension::Vmx),
        (_, true) => Some(Extension::Svm),
        _ => None,
    };
    let asids = (extension == Some(Extension::Svm) && has(SVM)).then(|| leaf(SVM)[1]);
    let hypervisor = features & (1 << 31) != 0;
    let signatures = if hypervisor { signatures(leaf) } else { Vec::new() };
    Cpuid { signatures, hypervisor, extension, asids }
}

/// Every signature once. Without the hypervisor bit the range may not be read: a CPU answers there
/// with what it has for its last leaf.
fn signatures(leaf: impl Fn(u32) -> Registers) -> Vec<String> {
    let mut found = Vec::new();
    for language in 0..LANGUAGES {
        let [_, b, c, d] = leaf(HYPERVISOR + language * STEP);
        let bytes: Vec<u8> = [b, c, d].into_iter().flat_map(u32::to_le_bytes).collect();
        let text: String = bytes
            .iter()
            .map(|byte| if byte.is_ascii_graphic() || *byte == b' ' { *byte as char } else { '.' })
            .collect();
        // KVM fills its signature up with zeros.
        let text = text.trim_end_matches('.');
        if text.chars().filter(char::is_ascii_alphabetic).count() >= 4
            && !found.iter().any(|known| known == text)
        {
            found.push(text.to_owned());
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn registers(eax: u32, signature: &[u8; 12]) -> Registers {
        let word = |at: usize| {
            let mut bytes = [0; 4];
            bytes.copy_from_slice(&signature[at..at + 4]);
            u32::from_le_bytes(bytes)
        };
        [eax, word(0), word(4), word(8)]
    }

    #[test]
    fn kvm_behind_the_language_of_hyper_v() {
        let found = read(|leaf| match leaf {
            1 => [0, 0, 1 << 31 | 1 << 5, 0],
            0x4000_0000 => registers(0x4000_000b, b"Microsoft Hv"),
            0x4000_0100 => registers(0x4000_0101, b"KVMKVMKVM\0\0\0"),
            _ => Registers::default(),
        });
        assert_eq!(found.signatures, ["Microsoft Hv", "KVMKVMKVM"]);
        assert_eq!((found.extension, found.asids), (Some(Extension::Vmx), None));
    }

    #[test]
    fn bare_metal_is_not_asked_for_a_signature() {
        let found = read(|leaf| match leaf {
            1 => [0; 4],
            0x8000_0000 => [0x8000_0020, 0, 0, 0],
            0x8000_0001 => [0, 0, 1 << 2, 0],
            0x8000_000a => [1, 32768, 0, 0],
            // What an Intel CPU answers beyond its last leaf.
            _ => registers(7, b"GenuineIntel"),
        });
        assert_eq!(found.signatures, [""; 0]);
        assert_eq!((found.extension, found.asids), (Some(Extension::Svm), Some(32768)));
    }

    #[test]
    fn what_is_no_text_is_no_signature() {
        let found = read(|leaf| [0xffff_ffff; 4].map(|word: u32| word.rotate_left(leaf)));
        assert_eq!((found.hypervisor, found.signatures.len()), (true, 0));
    }
}
