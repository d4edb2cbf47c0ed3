//! How vCPUs lie in sockets and cores, and the leaves of CPUID that tell of it.
//!
//! An APIC id has a field of bits for the thread within its core, one for the core within its socket,
//! and the socket above (Intel SDM volume 3, "Hierarchical mapping of shared resources"). A field is as
//! wide as its count takes, so that ids have gaps where a count is no power of two. vCPUs are numbered
//! without gaps in the same order: the threads of a core follow each other.

use kvm_bindings::{KVM_CPUID_FLAG_SIGNIFCANT_INDEX, kvm_cpuid_entry2};

use crate::spec::{Cpus, Topology};

const BASICS: u32 = 0x0;
const FEATURES: u32 = 0x1;
const CACHES: u32 = 0x4;
const TOPOLOGY: u32 = 0xb;
const TOPOLOGY_V2: u32 = 0x1f;
const SIZES: u32 = 0x8000_0008;
const AMD_CACHES: u32 = 0x8000_001d;
const AMD_TOPOLOGY: u32 = 0x8000_001e;
const AMD_TOPOLOGY_V2: u32 = 0x8000_0026;

/// More than one logical processor in a package (leaf 1).
const EDX_HTT: u32 = 1 << 28;

/// Where each vCPU of a guest lies.
#[derive(Debug, Clone, Copy)]
pub struct Layout {
    topology: Topology,
}

impl Layout {
    /// Of a guest with these CPUs: where nothing is said, each is a core, and all are in one socket.
    pub fn of(cpus: &Cpus) -> Layout {
        let one_socket = Topology { sockets: 1, cores: cpus.count, threads: 1 };
        Layout { topology: cpus.topology.unwrap_or(one_socket) }
    }

    fn cores(self) -> u32 {
        self.topology.cores.max(1).into()
    }

    fn threads(self) -> u32 {
        self.topology.threads.max(1).into()
    }

    fn per_socket(self) -> u32 {
        self.cores() * self.threads()
    }

    fn thread_bits(self) -> u32 {
        self.threads().next_power_of_two().trailing_zeros()
    }

    fn core_bits(self) -> u32 {
        self.cores().next_power_of_two().trailing_zeros()
    }

    fn socket_shift(self) -> u32 {
        self.thread_bits() + self.core_bits()
    }

    fn core(self, vcpu: u8) -> u32 {
        u32::from(vcpu) / self.threads() % self.cores()
    }

    fn socket(self, vcpu: u8) -> u32 {
        u32::from(vcpu) / self.per_socket()
    }

    /// The id of a vCPU's APIC, by which KVM and the ACPI tables know the vCPU too.
    pub fn apic_id(self, vcpu: u8) -> u8 {
        let thread = u32::from(vcpu) % self.threads();
        let id = self.socket(vcpu) << self.socket_shift()
            | self.core(vcpu) << self.thread_bits()
            | thread;
        // Each field is less than twice as large as its count, so for 64 vCPUs ids are below 255,
        // which stands for all: `ids_are_unique_and_short` tries every topology.
        id as u8
    }

    /// Makes the leaves right for this vCPU.
    pub fn apply(self, entries: &mut Vec<kvm_cpuid_entry2>, vcpu: u8, amd: bool) {
        // KVM tells of the host's topology, or, since Linux 6.2, of none.
        let others = [TOPOLOGY, TOPOLOGY_V2, AMD_TOPOLOGY_V2];
        entries.retain(|entry| !others.contains(&entry.function));
        let id = u32::from(self.apic_id(vcpu));
        for entry in entries.iter_mut() {
            match entry.function {
                FEATURES => {
                    // Intel counts ids and AMD processors.
                    let count = if amd { self.per_socket() } else { 1 << self.socket_shift() };
                    entry.ebx = entry.ebx & 0xffff | id << 24 | (count & 0xff) << 16;
                    match self.per_socket() {
                        1 => entry.edx &= !EDX_HTT,
                        _ => entry.edx |= EDX_HTT,
                    }
                }
                CACHES if entry.eax & 0x1f != 0 => {
                    // Ids of cores in a package, less one, above those of processors at the cache.
                    let cores = ((1 << self.core_bits()) - 1).min(63);
                    entry.eax = self.shared(entry.eax) & 0x03ff_ffff | cores << 26;
                }
                AMD_CACHES if entry.eax & 0x1f != 0 => entry.eax = self.shared(entry.eax),
                SIZES if amd => {
                    let sizes = self.socket_shift() << 12 | (self.per_socket() - 1);
                    entry.ecx = entry.ecx & !0xf0ff | sizes;
                }
                AMD_TOPOLOGY => {
                    entry.eax = id;
                    entry.ebx = (self.threads() - 1) << 8 | self.core(vcpu);
                    // The node, and one of them a socket.
                    entry.ecx = self.socket(vcpu);
                }
                _ => {}
            }
        }
        let basics = entries.iter().find(|entry| entry.function == BASICS);
        let last = basics.map_or(0, |basics| basics.eax);
        for function in [TOPOLOGY, TOPOLOGY_V2].into_iter().filter(|leaf| *leaf <= last) {
            let levels = [
                (self.thread_bits(), self.threads(), 1),
                (self.socket_shift(), self.per_socket(), 2),
                (0, 0, 0),
            ];
            entries.extend((0..).zip(levels).map(|(index, (eax, ebx, kind))| kvm_cpuid_entry2 {
                function,
                index,
                flags: KVM_CPUID_FLAG_SIGNIFCANT_INDEX,
                eax,
                ebx,
                ecx: kind << 8 | index,
                edx: id,
                ..Default::default()
            }));
        }
    }

    /// The first word about a cache with those in it that share it: the threads of a core up to level 2,
    /// all of a socket above.
    fn shared(self, eax: u32) -> u32 {
        let bits = match eax >> 5 & 7 {
            0..=2 => self.thread_bits(),
            _ => self.socket_shift(),
        };
        eax & !(0xfff << 14) | ((1 << bits) - 1) << 14
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;
    use crate::spec::MAX_CPUS;

    fn layout(sockets: u8, cores: u8, threads: u8) -> Layout {
        Layout { topology: Topology { sockets, cores, threads } }
    }

    fn entry(function: u32, index: u32, [eax, ebx, ecx, edx]: [u32; 4]) -> kvm_cpuid_entry2 {
        kvm_cpuid_entry2 { function, index, eax, ebx, ecx, edx, ..Default::default() }
    }

    /// These leaves as KVM tells them of a server of Intel's, before Linux 6.2; put together by hand.
    fn intels() -> Vec<kvm_cpuid_entry2> {
        vec![
            entry(0, 0, [0x1b, 0x756e_6547, 0x6c65_746e, 0x4965_6e69]),
            entry(1, 0, [0x606a6, 0x3540_0800, 0xfffa_3203, 0x1f8b_fbff]),
            entry(4, 0, [0x7c00_4121, 0x02c0_003f, 0x3f, 0]),
            entry(4, 1, [0x7c00_4122, 0x01c0_003f, 0x3f, 0]),
            entry(4, 2, [0x7c00_4143, 0x04c0_003f, 0x3ff, 0]),
            entry(4, 3, [0x7c0f_c163, 0x02c0_003f, 0xffff, 4]),
            entry(4, 4, [0; 4]),
            entry(0xb, 0, [1, 2, 0x100, 0x35]),
            entry(0xb, 1, [7, 64, 0x201, 0x35]),
            entry(0x8000_0008, 0, [0x302e, 0x200, 0, 0]),
        ]
    }

    /// The same of one of AMD's, since: there is no topology in leaf 0xb.
    fn amds() -> Vec<kvm_cpuid_entry2> {
        vec![
            entry(0, 0, [0x10, 0x6874_7541, 0x444d_4163, 0x6974_6e65]),
            entry(1, 0, [0xa00f11, 0x0080_0800, 0xfed8_3203, 0x178b_fbff]),
            entry(0xb, 0, [0, 0, 0, 0]),
            entry(0x8000_0008, 0, [0x3030, 0x111e_d205, 0x707f, 0]),
            entry(0x8000_001d, 0, [0x4121, 0x01c0_003f, 0x3f, 0]),
            entry(0x8000_001d, 2, [0x4143, 0x01c0_003f, 0x3ff, 2]),
            entry(0x8000_001d, 3, [0x3c163, 0x03c0_003f, 0x7fff, 1]),
            entry(0x8000_001e, 0, [0x35, 0x11a, 0x100, 0]),
        ]
    }

    fn applied(mut entries: Vec<kvm_cpuid_entry2>, layout: Layout, vcpu: u8) -> Vec<[u32; 6]> {
        let amd = entries[0].ebx == 0x6874_7541;
        layout.apply(&mut entries, vcpu, amd);
        let words = |e: &kvm_cpuid_entry2| [e.function, e.index, e.eax, e.ebx, e.ecx, e.edx];
        entries.iter().map(words).collect()
    }

    fn at(words: &[[u32; 6]], function: u32, index: u32) -> [u32; 4] {
        let mut found = words.iter().filter(|[f, i, ..]| (*f, *i) == (function, index));
        let (Some([_, _, eax, ebx, ecx, edx]), None) = (found.next(), found.next()) else {
            panic!("{function:#x} {index} is not there once: {words:x?}")
        };
        [*eax, *ebx, *ecx, *edx]
    }

    #[test]
    fn ids_are_unique_and_short() {
        let pairs = (1..=MAX_CPUS).flat_map(|one| (1..=MAX_CPUS).map(move |two| (one, two)));
        for (sockets, cores) in pairs {
            for threads in 1..=MAX_CPUS {
                let count = u32::from(sockets) * u32::from(cores) * u32::from(threads);
                let Some(count) = u8::try_from(count).ok().filter(|count| *count <= MAX_CPUS)
                else {
                    break;
                };
                let layout = layout(sockets, cores, threads);
                let ids: HashSet<u8> = (0..count).map(|vcpu| layout.apic_id(vcpu)).collect();
                assert!(
                    ids.len() == usize::from(count) && !ids.contains(&255),
                    "{layout:?}: {ids:?}"
                );
                let greatest = layout.socket(count - 1) << layout.socket_shift();
                assert!(greatest < 255, "{layout:?}");
            }
        }
    }

    #[test]
    fn cpus_of_which_nothing_is_said_are_cores_of_one_socket() {
        let layout = Layout::of(&Cpus::count(3));
        assert_eq!([0, 1, 2].map(|vcpu| layout.apic_id(vcpu)), [0, 1, 2]);
        let words = applied(intels(), layout, 2);
        assert_eq!(at(&words, 1, 0)[1], 0x0204_0800);
        assert_eq!(at(&words, 0xb, 0), [0, 1, 0x100, 2]);
        assert_eq!(at(&words, 0xb, 1), [2, 3, 0x201, 2]);
        let single = applied(intels(), Layout::of(&Cpus::count(1)), 0);
        assert_eq!((at(&single, 1, 0)[1], at(&single, 1, 0)[3] & EDX_HTT), (0x0001_0800, 0));
    }

    #[test]
    fn intels_leaves_tell_of_threads_cores_and_sockets() {
        // Two sockets of three cores of two threads: ids 0 to 5 and 8 to 13.
        let layout = layout(2, 3, 2);
        let ids: Vec<u8> = (0..12).map(|vcpu| layout.apic_id(vcpu)).collect();
        assert_eq!(ids, [0, 1, 2, 3, 4, 5, 8, 9, 10, 11, 12, 13]);
        let words = applied(intels(), layout, 11);
        assert_eq!(at(&words, 1, 0)[1], 0x0d08_0800);
        assert_ne!(at(&words, 1, 0)[3] & EDX_HTT, 0);
        // Two threads at the first levels, all ids of a socket at the third, four ids of cores.
        assert_eq!(at(&words, 4, 0)[0], 3 << 26 | 1 << 14 | 0x121);
        assert_eq!(at(&words, 4, 2)[0], 3 << 26 | 1 << 14 | 0x143);
        assert_eq!(at(&words, 4, 3)[0], 3 << 26 | 7 << 14 | 0x163);
        assert_eq!(at(&words, 4, 4), [0; 4]);
        assert_eq!(at(&words, TOPOLOGY, 0), [1, 2, 0x100, 13]);
        assert_eq!(at(&words, TOPOLOGY, 1), [3, 6, 0x201, 13]);
        assert_eq!(at(&words, TOPOLOGY, 2), [0, 0, 2, 13]);
        assert!(
            words.iter().all(|[function, ..]| *function != TOPOLOGY_V2),
            "0x1b is the last leaf"
        );
        assert_eq!(
            at(&words, SIZES, 0),
            [0x302e, 0x200, 0, 0],
            "what is not Intel's is left alone"
        );
    }

    #[test]
    fn amds_leaves_tell_the_same() {
        let words = applied(amds(), layout(2, 3, 2), 11);
        assert_eq!(at(&words, 1, 0)[1], 0x0d06_0800);
        assert_eq!(at(&words, SIZES, 0), [0x3030, 0x111e_d205, 0x3005, 0]);
        assert_eq!(at(&words, AMD_CACHES, 0)[0], 1 << 14 | 0x121);
        assert_eq!(at(&words, AMD_CACHES, 3)[0], 7 << 14 | 0x163);
        assert_eq!(at(&words, AMD_TOPOLOGY, 0), [13, 0x102, 1, 0]);
        assert_eq!(at(&words, TOPOLOGY, 1), [3, 6, 0x201, 13]);
    }
}
