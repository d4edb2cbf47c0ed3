//! Named baselines: the same instructions for programs on unlike hosts.
//!
//! A level of the x86-64 psABI (section 3.1.1, "Processor Architecture") says which instructions there
//! are at least; here it says which there are, and no others. What a kernel has for itself stays as
//! the host has it: it makes a guest safe and fast (defences against speculation, PCID, SMEP, the
//! timers, random numbers), and no program was compiled for it.

use kvm_bindings::kvm_cpuid_entry2;

use crate::spec::Model;

/// A register that CPUID answers in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Register {
    Eax,
    Ebx,
    Ecx,
    Edx,
}

use Register::{Eax, Ebx, Ecx, Edx};

/// Where a bit is: function, index, register.
type Place = (u32, u32, Register);

const BASIC: Place = (1, 0, Ecx);
const STRUCTURED: Place = (7, 0, Ebx);
const EXTENDED: Place = (0x8000_0001, 0, Ecx);
const STATE: Place = (0xd, 0, Eax);

/// What the levels add, by the kernel's names: level, name, place, bit.
const FEATURES: &[(u8, &str, Place, u32)] = &[
    (2, "pni", BASIC, 0),
    (2, "ssse3", BASIC, 9),
    (2, "cx16", BASIC, 13),
    (2, "sse4_1", BASIC, 19),
    (2, "sse4_2", BASIC, 20),
    (2, "popcnt", BASIC, 23),
    (2, "lahf_lm", EXTENDED, 0),
    (3, "fma", BASIC, 12),
    (3, "movbe", BASIC, 22),
    (3, "xsave", BASIC, 26),
    (3, "avx", BASIC, 28),
    (3, "f16c", BASIC, 29),
    (3, "bmi1", STRUCTURED, 3),
    (3, "avx2", STRUCTURED, 5),
    (3, "bmi2", STRUCTURED, 8),
    (3, "abm", EXTENDED, 5),
    (4, "avx512f", STRUCTURED, 16),
    (4, "avx512dq", STRUCTURED, 17),
    (4, "avx512cd", STRUCTURED, 28),
    (4, "avx512bw", STRUCTURED, 30),
    (4, "avx512vl", STRUCTURED, 31),
];

/// What of a register is left where it tells of instructions, beside what the level has.
const KEPT: &[(Place, u32)] = &[
    // PDCM, PCID, x2APIC, TSC deadline, RDRAND, hypervisor.
    (BASIC, 1 << 15 | 1 << 17 | 1 << 21 | 1 << 24 | 1 << 30 | 1 << 31),
    // FSGSBASE, TSC_ADJUST, FDP_EXCPTN_ONLY, SMEP, ERMS, INVPCID, ZERO_FCS_FDS, RDSEED, SMAP.
    (STRUCTURED, 1 | 1 << 1 | 1 << 6 | 1 << 7 | 1 << 9 | 1 << 10 | 1 << 13 | 1 << 18 | 1 << 20),
    // UMIP.
    ((7, 0, Ecx), 1 << 2),
    // FSRM, and what defends against speculation: SRBDS_CTRL, MD_CLEAR, SPEC_CTRL, STIBP, FLUSH_L1D,
    // ARCH_CAPABILITIES, CORE_CAPABILITIES, SSBD.
    ((7, 0, Edx), 1 << 4 | 1 << 9 | 1 << 10 | 0x3f << 26),
    ((7, 1, Eax), 0),
    ((7, 1, Ebx), 0),
    ((7, 1, Ecx), 0),
    ((7, 1, Edx), 0),
    // CMP_LEGACY, CR8_LEGACY, OSVW, TOPOEXT, the counters of events.
    (EXTENDED, 1 << 1 | 1 << 4 | 1 << 9 | 1 << 22 | 1 << 23 | 1 << 24 | 1 << 28),
    // All but MMXEXT, 3DNOWEXT and 3DNOW.
    ((0x8000_0001, 0, Edx), !(1 << 22 | 1 << 30 | 1 << 31)),
    // All but CLZERO, INVLPGB, RDPRU, MCOMMIT and WBNOINVD.
    ((0x8000_0008, 0, Ebx), !(1 | 1 << 3 | 1 << 4 | 1 << 8 | 1 << 9)),
    // XSAVEOPT, XSAVEC, XGETBV with 1, XSAVES; no state of supervisors.
    ((0xd, 1, Eax), 0xf),
    ((0xd, 1, Ecx), 0),
    ((0xd, 1, Edx), 0),
    ((0xd, 0, Edx), 0),
];

/// Leaves of what no level has: SGX, processor trace, key locker, AMX, AVX10.
const BEYOND: &[u32] = &[0x12, 0x14, 0x19, 0x1d, 0x1e, 0x24];
/// Centaur's leaves, which tell of instructions of its own.
const CENTAUR: u32 = 0xc000_0000;
const XSAVE: u32 = 0xd;
/// Bytes of an XSAVE area with x87 and SSE state and its header (Intel SDM volume 1, 13.4).
const LEAST_AREA: u32 = 576;

/// The level of a baseline; `None` for all that the host has.
fn level(model: Model) -> Option<u8> {
    match model {
        Model::Host => None,
        Model::V2 => Some(2),
        Model::V3 => Some(3),
        Model::V4 => Some(4),
    }
}

/// The state of the processor that a level's instructions use (XCR0): x87, SSE and AVX; the masks and
/// the upper halves of AVX-512.
fn state(level: u8) -> u32 {
    match level {
        ..=2 => 0,
        3 => 0x7,
        _ => 0xe7,
    }
}

fn word((function, index, register): Place, entry: &mut kvm_cpuid_entry2) -> Option<&mut u32> {
    if (entry.function, entry.index) != (function, index) {
        return None;
    }
    Some(match register {
        Eax => &mut entry.eax,
        Ebx => &mut entry.ebx,
        Ecx => &mut entry.ecx,
        Edx => &mut entry.edx,
    })
}

fn read(place: Place, entries: &[kvm_cpuid_entry2]) -> u32 {
    let mut words = entries.iter().copied();
    words.find_map(|mut entry| word(place, &mut entry).copied()).unwrap_or(0)
}

/// What a host lacks for this model, by the kernel's names.
pub fn missing(entries: &[kvm_cpuid_entry2], model: Model) -> Vec<&'static str> {
    let Some(level) = level(model) else { return Vec::new() };
    let of_level = FEATURES.iter().filter(|(since, ..)| *since <= level);
    let lacks = |(_, name, place, bit): &(u8, &'static str, Place, u32)| {
        (read(*place, entries) >> bit & 1 == 0).then_some(*name)
    };
    let mut missing: Vec<&'static str> = of_level.filter_map(lacks).collect();
    let wanted = state(level);
    if missing.is_empty() && read(STATE, entries) & wanted != wanted {
        missing.push("the state that these use (XCR0)");
    }
    missing
}

/// Takes away what the model does not have.
pub fn mask(entries: &mut Vec<kvm_cpuid_entry2>, model: Model) {
    let Some(level) = level(model) else { return };
    let state = state(level);
    entries.retain(|entry| match entry.function {
        XSAVE if entry.index >= 2 => entry.index < 32 && state >> entry.index & 1 == 1,
        XSAVE => state != 0,
        function => !BEYOND.contains(&function) && function & CENTAUR != CENTAUR,
    });
    for (place, kept) in KEPT {
        let of_level = FEATURES.iter().filter(|(since, _, at, _)| *since <= level && at == place);
        let kept = of_level.fold(*kept, |kept, (_, _, _, bit)| kept | 1 << bit);
        entries.iter_mut().filter_map(|entry| word(*place, entry)).for_each(|word| *word &= kept);
    }
    // How long the area is with all of the state; KVM itself tells how long it is with what is enabled.
    let parts = entries.iter().filter(|entry| entry.function == XSAVE && entry.index >= 2);
    let ends = parts.map(|part| part.eax.saturating_add(part.ebx));
    let size = ends.max().unwrap_or(0).max(LEAST_AREA);
    for entry in entries.iter_mut().filter(|entry| (entry.function, entry.index) == (XSAVE, 0)) {
        entry.eax &= state;
        (entry.ebx, entry.ecx) = (LEAST_AREA, size);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(function: u32, index: u32, [eax, ebx, ecx, edx]: [u32; 4]) -> kvm_cpuid_entry2 {
        kvm_cpuid_entry2 { function, index, eax, ebx, ecx, edx, ..Default::default() }
    }

    /// A host that has everything, and more.
    fn full() -> Vec<kvm_cpuid_entry2> {
        let ones = [u32::MAX; 4];
        vec![
            entry(1, 0, ones),
            entry(7, 0, ones),
            entry(7, 1, ones),
            entry(0xd, 0, [0x602e7, 2696, 11008, 0]),
            entry(0xd, 1, [0x1f, 2568, 0x1900, 0]),
            entry(0xd, 2, [256, 576, 0, 0]),
            entry(0xd, 5, [64, 1088, 0, 0]),
            entry(0xd, 6, [512, 1152, 0, 0]),
            entry(0xd, 7, [1024, 1664, 0, 0]),
            entry(0xd, 9, [8, 2688, 0, 0]),
            entry(0xd, 18, [8192, 2816, 6, 0]),
            entry(0x14, 0, ones),
            entry(0x1d, 0, ones),
            entry(0x4000_0000, 0, ones),
            entry(0x8000_0001, 0, ones),
            entry(0x8000_0008, 0, ones),
            entry(0xc000_0001, 0, ones),
        ]
    }

    fn masked(model: Model) -> Vec<kvm_cpuid_entry2> {
        let mut entries = full();
        mask(&mut entries, model);
        entries
    }

    #[test]
    fn the_launcher_asks_for_the_same() {
        for model in [Model::V2, Model::V3, Model::V4] {
            let mut told: Vec<&str> = model.needs().collect();
            let mut lacked = missing(&[], model);
            told.sort_unstable();
            lacked.sort_unstable();
            assert_eq!(told, lacked, "{model:?}");
        }
        assert_eq!(Model::Host.needs().count(), 0);
    }

    #[test]
    fn a_host_is_left_as_it_is() {
        assert_eq!(masked(Model::Host), full());
        assert_eq!(missing(&[], Model::Host), Vec::<&str>::new());
    }

    #[test]
    fn a_level_has_its_own_and_no_more() {
        for (model, own) in [(Model::V2, 2), (Model::V3, 3), (Model::V4, 4)] {
            assert_eq!(missing(&full(), model), Vec::<&str>::new());
            let entries = masked(model);
            assert_eq!(missing(&entries, model), Vec::<&str>::new());
            for (since, name, place, bit) in FEATURES {
                let has = read(*place, &entries) >> bit & 1 == 1;
                assert_eq!(has, *since <= own, "{name} in level {own}");
            }
            // VAES, GFNI, SHA, AES, RTM, PKU, AMX, AVX-VNNI, XOP, CLZERO: of no level.
            for (place, bit) in [
                ((7, 0, Ecx), 9),
                ((7, 0, Ecx), 8),
                (STRUCTURED, 29),
                (BASIC, 25),
                (STRUCTURED, 11),
                ((7, 0, Ecx), 3),
                ((7, 0, Edx), 24),
                ((7, 1, Eax), 4),
                (EXTENDED, 11),
                ((0x8000_0008, 0, Ebx), 0),
            ] {
                assert_eq!(read(place, &entries) >> bit & 1, 0, "{place:?} {bit}");
            }
            // x2APIC, TSC deadline, hypervisor, SMEP, ARCH_CAPABILITIES, SSBD, NX, RDTSCP stay.
            for (place, bit) in [
                (BASIC, 21),
                (BASIC, 24),
                (BASIC, 31),
                (STRUCTURED, 7),
                ((7, 0, Edx), 29),
                ((7, 0, Edx), 31),
                ((0x8000_0001, 0, Edx), 20),
                ((0x8000_0001, 0, Edx), 27),
            ] {
                assert_eq!(read(place, &entries) >> bit & 1, 1, "{place:?} {bit}");
            }
            let functions: Vec<u32> = entries.iter().map(|entry| entry.function).collect();
            assert!(functions.contains(&0x4000_0000), "KVM's own leaves stay");
            assert!([0x14, 0x1d, 0xc000_0001].iter().all(|gone| !functions.contains(gone)));
        }
    }

    #[test]
    fn state_is_that_of_the_instructions() {
        let state = |model| -> Vec<(u32, u32, u32)> {
            let entries = masked(model);
            let parts = entries.iter().filter(|entry| entry.function == XSAVE);
            parts.map(|part| (part.index, part.eax, part.ecx)).collect()
        };
        assert_eq!(state(Model::V2), []);
        assert_eq!(state(Model::V3), [(0, 7, 832), (1, 0xf, 0), (2, 256, 0)]);
        let parts =
            [(0, 0xe7, 2688), (1, 0xf, 0), (2, 256, 0), (5, 64, 0), (6, 512, 0), (7, 1024, 0)];
        assert_eq!(state(Model::V4), parts);
    }

    #[test]
    fn what_a_host_lacks_is_named() {
        // As an emulated CPU or one of 2013: no AVX-512.
        let mut entries = full();
        for entry in entries.iter_mut().filter(|entry| (entry.function, entry.index) == (7, 0)) {
            entry.ebx &= !(0xd003 << 16);
        }
        assert_eq!(missing(&entries, Model::V3), Vec::<&str>::new());
        assert_eq!(
            missing(&entries, Model::V4),
            ["avx512f", "avx512dq", "avx512cd", "avx512bw", "avx512vl"]
        );
        let mut without_state = full();
        without_state.retain(|entry| entry.function != XSAVE);
        assert_eq!(missing(&without_state, Model::V3), ["the state that these use (XCR0)"]);
    }
}
