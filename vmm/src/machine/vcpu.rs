//! One virtual CPU: its identity, its registers at the kernel's entry, and its run loop.

use std::sync::Arc;

use kvm_bindings::{CpuId, Msrs, kvm_fpu, kvm_msr_entry, kvm_regs, kvm_segment, kvm_sregs};
use kvm_ioctls::{VcpuExit, VcpuFd};
use rustix::io::Errno;

use crate::boot::{Entry, EntryMode};
use crate::bus::Bus;
use crate::error::{Error, Result, Trying};
use crate::machine::exits::ExitCounters;
use crate::machine::kvm::{self, PortAccess};
use crate::machine::pause::Pause;
use crate::spec::StopReason;

const CR0_PE: u64 = 1 << 0;
const CR0_ET: u64 = 1 << 4;
const CR0_PG: u64 = 1 << 31;
const CR4_PAE: u64 = 1 << 5;
const EFER_LME: u64 = 1 << 8;
const EFER_LMA: u64 = 1 << 10;

const MSR_MTRR_DEF_TYPE: u32 = 0x2ff;
const MSR_MISC_ENABLE: u32 = 0x1a0;
/// MTRRs on, everything write-back: without it a kernel turns its page attribute table off.
const MTRR_ENABLED_WRITE_BACK: u64 = 1 << 11 | 6;
const MISC_ENABLE_FAST_STRINGS: u64 = 1;

/// Bits of CPUID by (function, index, register), as far as we change them.
mod leaf {
    pub const FEATURES: u32 = 0x1;
    pub const CACHES: u32 = 0x4;
    pub const TOPOLOGY: u32 = 0xb;
    pub const TOPOLOGY_V2: u32 = 0x1f;
    pub const EXTENDED_FEATURES: u32 = 0x8000_0001;
    pub const SIZES: u32 = 0x8000_0008;
    pub const AMD_TOPOLOGY: u32 = 0x8000_001e;

    pub const ECX_VMX: u32 = 1 << 5;
    pub const ECX_TSC_DEADLINE: u32 = 1 << 24;
    pub const ECX_HYPERVISOR: u32 = 1 << 31;
    pub const EDX_HTT: u32 = 1 << 28;
    pub const EXTENDED_ECX_SVM: u32 = 1 << 2;
}

/// Adapts what KVM supports to CPU `index` of `count`. Nested virtualization is not passed on, and
/// the timer is the TSC deadline, so that no guest looks for a PIT or HPET to calibrate by.
pub fn cpuid_for(supported: &CpuId, index: u8, count: u8) -> CpuId {
    let mut cpuid = supported.clone();
    let (index, count) = (u32::from(index), u32::from(count));
    let core_bits = count.next_power_of_two().trailing_zeros();
    for entry in cpuid.as_mut_slice() {
        match entry.function {
            leaf::FEATURES => {
                entry.ebx = entry.ebx & 0x0000_ffff | index << 24 | (count & 0xff) << 16;
                entry.ecx &= !leaf::ECX_VMX;
                entry.ecx |= leaf::ECX_TSC_DEADLINE | leaf::ECX_HYPERVISOR;
                if count > 1 {
                    entry.edx |= leaf::EDX_HTT;
                } else {
                    entry.edx &= !leaf::EDX_HTT;
                }
            }
            // Cores per package, less one, in bits 31 to 26. The caches are left as the host's.
            leaf::CACHES if entry.eax & 0x1f != 0 => {
                entry.eax = entry.eax & 0x03ff_ffff | (count - 1).min(63) << 26;
            }
            leaf::TOPOLOGY | leaf::TOPOLOGY_V2 => {
                let (shift, logical, kind) = match entry.index {
                    0 => (0, 1, 1),
                    1 => (core_bits, count, 2),
                    _ => (0, 0, 0),
                };
                entry.eax = shift;
                entry.ebx = logical;
                entry.ecx = entry.index | kind << 8;
                entry.edx = index;
            }
            leaf::EXTENDED_FEATURES => entry.ecx &= !leaf::EXTENDED_ECX_SVM,
            leaf::SIZES => entry.ecx = entry.ecx & !0xf0ff | core_bits << 12 | (count - 1),
            leaf::AMD_TOPOLOGY => {
                entry.eax = index;
                entry.ebx = index & 0xff;
                entry.ecx = 0;
            }
            _ => {}
        }
    }
    cpuid
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

/// A virtual CPU, ready to run on a thread of its own.
pub struct Vcpu {
    descriptor: VcpuFd,
    index: u8,
    exits: Arc<ExitCounters>,
}

impl Vcpu {
    /// Sets up CPU `index`, whose exits are counted in `exits`. All but the first wait for the guest
    /// to start them.
    ///
    /// # Errors
    /// [`Error::Kvm`] where KVM refuses the state.
    pub fn new(
        descriptor: VcpuFd,
        index: u8,
        cpuid: &CpuId,
        entry: &Entry,
        exits: Arc<ExitCounters>,
    ) -> Result<Self> {
        descriptor.set_cpuid2(cpuid).kvm("set a vCPU's features")?;
        let model_specific = [
            (MSR_MISC_ENABLE, MISC_ENABLE_FAST_STRINGS),
            (MSR_MTRR_DEF_TYPE, MTRR_ENABLED_WRITE_BACK),
        ]
        .map(|(index, data)| kvm_msr_entry { index, data, ..Default::default() });
        let msrs = Msrs::from_entries(&model_specific).map_err(|error| Error::Kvm {
            action: "build a vCPU's registers",
            source: std::io::Error::other(format!("{error:?}")),
        })?;
        descriptor.set_msrs(&msrs).kvm("set a vCPU's model-specific registers")?;
        if index == 0 {
            let fpu = kvm_fpu { fcw: 0x37f, mxcsr: 0x1f80, ..Default::default() };
            descriptor.set_fpu(&fpu).kvm("set a vCPU's FPU")?;
            let mut system = descriptor.get_sregs().kvm("read a vCPU's segments")?;
            prepare_segments(&mut system, entry);
            descriptor.set_sregs(&system).kvm("set a vCPU's segments")?;
            let mut registers = kvm_regs { rflags: 2, rip: entry.address, ..Default::default() };
            match entry.mode {
                EntryMode::Long { .. } => registers.rsi = entry.parameters,
                EntryMode::Protected => registers.rbx = entry.parameters,
            }
            descriptor.set_regs(&registers).kvm("set a vCPU's registers")?;
        }
        Ok(Vcpu { descriptor, index, exits })
    }

    /// Runs the CPU until the machine must stop, and says why. Never returns while the guest runs.
    /// While the guest is paused, it waits in `pause`.
    pub fn run(&mut self, memory: &Bus, ports: &Bus, pause: &Pause) -> StopReason {
        loop {
            if pause.pass() {
                // Else the guest's watchdogs would take the time for a CPU that was stuck. Refused by
                // KVM where the guest has another clock.
                let _ = self.descriptor.kvmclock_ctrl();
            }
            let exit = self.descriptor.run();
            match &exit {
                Ok(exit) => self.exits.count(exit),
                Err(_) => self.exits.count_interruption(),
            }
            match exit {
                Ok(VcpuExit::MmioRead(address, data)) => memory.read(address, data),
                Ok(VcpuExit::MmioWrite(address, data)) => memory.write(address, data),
                Ok(VcpuExit::IoIn(..)) => {
                    let PortAccess { port, size, data } = kvm::port_access(&mut self.descriptor);
                    data.chunks_mut(size).for_each(|one| ports.read(port.into(), one));
                }
                Ok(VcpuExit::IoOut(..)) => {
                    let PortAccess { port, size, data } = kvm::port_access(&mut self.descriptor);
                    data.chunks(size).for_each(|one| ports.write(port.into(), one));
                }
                Ok(VcpuExit::Intr | VcpuExit::Hlt | VcpuExit::IrqWindowOpen) => {}
                Ok(VcpuExit::Shutdown) => return self.crash("triple fault".into()),
                Ok(other) => {
                    let exit = format!("{other:?}");
                    return self.crash(exit);
                }
                Err(error) if INTERRUPTED.contains(&error.errno()) => {}
                Err(error) => return self.crash(format!("KVM_RUN: {error}")),
            }
        }
    }

    fn crash(&self, what: String) -> StopReason {
        let rip = self.descriptor.get_regs().map(|registers| registers.rip);
        let place = rip.map(|rip| format!(" at {rip:#x}")).unwrap_or_default();
        StopReason::Crash { detail: format!("CPU {}: {what}{place}", self.index) }
    }
}

/// KVM_RUN came back for a signal, or because it wants to be called again.
const INTERRUPTED: [i32; 2] = [Errno::INTR.raw_os_error(), Errno::AGAIN.raw_os_error()];

/// Flat segments and control registers as the entry's boot protocol demands.
fn prepare_segments(system: &mut kvm_sregs, entry: &Entry) {
    let long = matches!(entry.mode, EntryMode::Long { .. });
    let flat =
        kvm_segment { base: 0, limit: 0xffff_ffff, present: 1, s: 1, g: 1, ..Default::default() };
    let code =
        kvm_segment { selector: 0x10, type_: 0xb, l: u8::from(long), db: u8::from(!long), ..flat };
    let data = kvm_segment { selector: 0x18, type_: 0x3, db: 1, ..flat };
    let task = kvm_segment { selector: 0x20, type_: 0xb, s: 0, g: 0, limit: 0x67, ..flat };
    system.cs = code;
    (system.ds, system.es, system.ss) = (data, data, data);
    (system.fs, system.gs) = (data, data);
    system.tr = task;
    system.gdt.base = entry.gdt;
    system.gdt.limit = entry.gdt_limit;
    system.idt.base = 0;
    system.idt.limit = 0;
    system.cr0 = CR0_PE | CR0_ET;
    match entry.mode {
        EntryMode::Long { page_table } => {
            system.cr3 = page_table;
            system.cr4 = CR4_PAE;
            system.cr0 |= CR0_PG;
            system.efer = EFER_LME | EFER_LMA;
        }
        EntryMode::Protected => {
            system.cr4 = 0;
            system.efer = 0;
        }
    }
}

/// What a vCPU's thread needs besides the vCPU.
#[derive(Clone)]
pub struct Buses {
    /// Memory-mapped devices.
    pub memory: Arc<Bus>,
    /// Devices at I/O ports.
    pub ports: Arc<Bus>,
}

#[cfg(test)]
mod tests {
    use kvm_bindings::kvm_cpuid_entry2;

    use super::*;

    fn entry(function: u32, index: u32) -> kvm_cpuid_entry2 {
        let ones = u32::MAX;
        kvm_cpuid_entry2 {
            function,
            index,
            eax: ones,
            ebx: ones,
            ecx: ones,
            edx: ones,
            ..Default::default()
        }
    }

    #[test]
    fn each_cpu_knows_its_own_number_and_no_nested_virtualization() {
        let supported = CpuId::from_entries(&[
            entry(1, 0),
            entry(0xb, 0),
            entry(0xb, 1),
            entry(0x8000_0001, 0),
            entry(0x8000_0008, 0),
        ])
        .unwrap();
        let cpuid = cpuid_for(&supported, 2, 3);
        let leaves = cpuid.as_slice();
        assert_eq!(leaves[0].ebx >> 16, 2 << 8 | 3);
        assert_eq!(leaves[0].ecx & leaf::ECX_VMX, 0);
        assert_eq!((leaves[1].ebx, leaves[1].edx), (1, 2));
        assert_eq!((leaves[2].eax, leaves[2].ebx, leaves[2].ecx), (2, 3, 0x201));
        assert_eq!(leaves[3].ecx & leaf::EXTENDED_ECX_SVM, 0);
        assert_eq!(leaves[4].ecx & 0xf0ff, 2 << 12 | 2);
    }
}
