//! What CPUID tells a guest: what KVM supports, made right for each vCPU.
//!
//! ```text
//! KVM_GET_SUPPORTED_CPUID ─► what every guest has ─► model ─► topology ─► KVM_SET_CPUID2
//!                            once                             each vCPU
//! ```

mod model;
mod topology;

use kvm_bindings::{CpuId, kvm_cpuid_entry2};

use self::topology::Layout;
use crate::error::{Error, Result};
use crate::spec::Cpus;

/// Bits of CPUID by (function, index, register), as far as we change them.
mod leaf {
    pub const FEATURES: u32 = 0x1;
    pub const EXTENDED_FEATURES: u32 = 0x8000_0001;
    pub const SIZES: u32 = 0x8000_0008;

    pub const ECX_VMX: u32 = 1 << 5;
    pub const ECX_TSC_DEADLINE: u32 = 1 << 24;
    pub const ECX_HYPERVISOR: u32 = 1 << 31;
    pub const EXTENDED_ECX_SVM: u32 = 1 << 2;
}

/// CPUID of all vCPUs of a guest.
#[derive(Debug)]
pub struct Cpuid {
    /// What they have in common.
    entries: Vec<kvm_cpuid_entry2>,
    layout: Layout,
    amd: bool,
}

impl Cpuid {
    /// Of a guest with these CPUs, of what KVM supports. Nested virtualization is not passed on, and
    /// the timer is the TSC deadline, so that no guest looks for a PIT or HPET to calibrate by.
    ///
    /// # Errors
    /// [`Error::Features`] where KVM does not support what their model has.
    pub fn new(supported: &CpuId, cpus: &Cpus) -> Result<Cpuid> {
        let mut entries = supported.as_slice().to_vec();
        let missing = model::missing(&entries, cpus.model);
        if !missing.is_empty() {
            return Err(Error::Features { model: cpus.model.name(), missing: missing.join(", ") });
        }
        for entry in &mut entries {
            match entry.function {
                leaf::FEATURES => {
                    entry.ecx &= !leaf::ECX_VMX;
                    entry.ecx |= leaf::ECX_TSC_DEADLINE | leaf::ECX_HYPERVISOR;
                }
                leaf::EXTENDED_FEATURES => entry.ecx &= !leaf::EXTENDED_ECX_SVM,
                _ => {}
            }
        }
        model::mask(&mut entries, cpus.model);
        Ok(Cpuid { entries, layout: Layout::of(cpus), amd: is_amd(supported) })
    }

    /// The id of a vCPU's APIC, by which KVM and the ACPI tables know the vCPU too.
    pub fn apic_id(&self, vcpu: u8) -> u8 {
        self.layout.apic_id(vcpu)
    }

    /// That of one vCPU.
    ///
    /// # Errors
    /// [`Error::Kvm`] where there are more leaves than KVM takes.
    pub fn of(&self, vcpu: u8) -> Result<CpuId> {
        let mut entries = self.entries.clone();
        self.layout.apply(&mut entries, vcpu, self.amd);
        CpuId::from_entries(&entries).map_err(|error| Error::Kvm {
            action: "build a vCPU's features",
            source: std::io::Error::other(format!("{error:?}")),
        })
    }
}

/// Physical address bits that `supported` announces (CPUID 8000_0008h, EAX bits 7 to 0).
pub fn physical_bits(supported: &CpuId) -> u8 {
    supported
        .as_slice()
        .iter()
        .find(|entry| entry.function == leaf::SIZES)
        .map_or(36, |entry| (entry.eax & 0xff) as u8)
}

/// Whether `supported` is AMD's, or of its licensee Hygon (CPUID 0, EBX: the first word of the name).
pub fn is_amd(supported: &CpuId) -> bool {
    const NAMES: [u32; 2] = [u32::from_le_bytes(*b"Auth"), u32::from_le_bytes(*b"Hygo")];
    let vendor = supported.as_slice().iter().find(|entry| entry.function == 0);
    vendor.is_some_and(|vendor| NAMES.contains(&vendor.ebx))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spec::Model;

    #[test]
    fn no_guest_is_a_host_and_all_have_the_timer() {
        let ones = |function| kvm_cpuid_entry2 {
            function,
            eax: u32::MAX,
            ebx: u32::MAX,
            ecx: !leaf::ECX_TSC_DEADLINE & !leaf::ECX_HYPERVISOR,
            edx: u32::MAX,
            ..Default::default()
        };
        let supported = CpuId::from_entries(&[ones(1), ones(0x8000_0001)]).unwrap();
        let cpuid = Cpuid::new(&supported, &Cpus::count(1)).unwrap().of(0).unwrap();
        let [first, second] = cpuid.as_slice() else { panic!("{cpuid:?}") };
        assert_eq!(first.ecx & leaf::ECX_VMX, 0);
        assert_ne!(first.ecx & leaf::ECX_TSC_DEADLINE, 0);
        assert_ne!(first.ecx & leaf::ECX_HYPERVISOR, 0);
        assert_eq!(second.ecx & leaf::EXTENDED_ECX_SVM, 0);
    }

    #[test]
    fn what_kvm_does_not_support_is_refused_by_name() {
        let supported = CpuId::from_entries(&[]).unwrap();
        let cpus = Cpus { model: Model::V2, ..Cpus::count(1) };
        let refused = Cpuid::new(&supported, &cpus).unwrap_err().to_string();
        assert!(refused.contains("x86-64-v2") && refused.contains("cx16, sse4_1"), "{refused}");
    }
}
