//! One virtual CPU: its identity, its registers at the kernel's entry, and its run loop.

use std::sync::Arc;

use kvm_bindings::{CpuId, Msrs, kvm_fpu, kvm_msr_entry, kvm_regs, kvm_segment, kvm_sregs};
use kvm_ioctls::{VcpuExit, VcpuFd};
use rustix::io::Errno;

use crate::boot::{Entry, EntryMode};
use crate::bus::Bus;
use crate::devices::power::Stop;
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
    ///
    /// A guest that powers off waits for its power to go, in a loop: a CPU that stops the machine by a
    /// register runs no instruction more, and leaves the host's CPU to those who clear up after it.
    pub fn run(&mut self, buses: &Buses, pause: &Pause, stop: &Stop) -> StopReason {
        let Buses { memory, ports } = buses;
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
                    if let Some(reason) = stop.reason() {
                        return reason;
                    }
                }
                Ok(VcpuExit::Intr | VcpuExit::Hlt | VcpuExit::IrqWindowOpen) => {}
                Ok(VcpuExit::Shutdown) => return self.crash(true, "triple fault".into()),
                Ok(other) => {
                    let exit = format!("{other:?}");
                    return self.crash(false, exit);
                }
                Err(error) if INTERRUPTED.contains(&error.errno()) => {}
                Err(error) => return self.crash(false, format!("KVM_RUN: {error}")),
            }
        }
    }

    fn crash(&self, triple_fault: bool, what: String) -> StopReason {
        let rip = self.descriptor.get_regs().map(|registers| registers.rip);
        let place = rip.map(|rip| format!(" at {rip:#x}")).unwrap_or_default();
        StopReason::Crash { triple_fault, detail: format!("CPU {}: {what}{place}", self.index) }
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
