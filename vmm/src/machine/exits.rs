//! How often a vCPU came out of KVM_RUN, by reason. What is counted here has left the kernel; what KVM
//! handles by itself it counts itself ([`super::kvm_stats`]).

use std::sync::atomic::{AtomicU64, Ordering};

use kvm_ioctls::VcpuExit;

use crate::machine::layout::{ECAM_BASE, ECAM_SIZE};
use crate::spec::Exits;

/// One vCPU's counters, written by its thread alone and read by whoever asks. They have cache lines of
/// their own (two, since CPUs fetch them in pairs), so that no vCPU waits for another's.
#[derive(Debug, Default)]
#[repr(align(128))]
pub struct ExitCounters {
    config_read: AtomicU64,
    config_write: AtomicU64,
    mmio_read: AtomicU64,
    mmio_write: AtomicU64,
    port_in: AtomicU64,
    port_out: AtomicU64,
    hlt: AtomicU64,
    intr: AtomicU64,
    shutdown: AtomicU64,
    other: AtomicU64,
}

impl ExitCounters {
    /// Counts what KVM_RUN has returned with.
    pub fn count(&self, exit: &VcpuExit<'_>) {
        let is_config = |address: u64| address.wrapping_sub(ECAM_BASE) < ECAM_SIZE;
        let counter = match exit {
            VcpuExit::MmioRead(address, _) if is_config(*address) => &self.config_read,
            VcpuExit::MmioWrite(address, _) if is_config(*address) => &self.config_write,
            VcpuExit::MmioRead(..) => &self.mmio_read,
            VcpuExit::MmioWrite(..) => &self.mmio_write,
            VcpuExit::IoIn(..) => &self.port_in,
            VcpuExit::IoOut(..) => &self.port_out,
            VcpuExit::Hlt => &self.hlt,
            VcpuExit::Intr => &self.intr,
            VcpuExit::Shutdown => &self.shutdown,
            _ => &self.other,
        };
        counter.fetch_add(1, Ordering::Relaxed);
    }

    /// Counts that KVM_RUN was interrupted.
    pub fn count_interruption(&self) {
        self.intr.fetch_add(1, Ordering::Relaxed);
    }

    /// The counts so far.
    pub fn read(&self) -> Exits {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Exits {
            config_read: read(&self.config_read),
            config_write: read(&self.config_write),
            mmio_read: read(&self.mmio_read),
            mmio_write: read(&self.mmio_write),
            port_in: read(&self.port_in),
            port_out: read(&self.port_out),
            hlt: read(&self.hlt),
            intr: read(&self.intr),
            shutdown: read(&self.shutdown),
            other: read(&self.other),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn configuration_space_is_told_from_other_registers() {
        let counters = ExitCounters::default();
        for address in [ECAM_BASE - 4, ECAM_BASE, ECAM_BASE + ECAM_SIZE - 4, ECAM_BASE + ECAM_SIZE]
        {
            counters.count(&VcpuExit::MmioRead(address, &mut [0; 4]));
            counters.count(&VcpuExit::MmioWrite(address, &[0; 4]));
        }
        counters.count(&VcpuExit::IoIn(0x3f8, &mut [0]));
        counters.count(&VcpuExit::Hlt);
        counters.count(&VcpuExit::Debug(Default::default()));
        counters.count_interruption();
        let exits = counters.read();
        let expected = Exits {
            config_read: 2,
            config_write: 2,
            mmio_read: 2,
            mmio_write: 2,
            port_in: 1,
            hlt: 1,
            intr: 1,
            other: 1,
            ..Exits::default()
        };
        assert_eq!(exits, expected);
        assert_eq!(exits.total(), 12);
    }
}
