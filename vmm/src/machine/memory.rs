//! Guest RAM and the numbering of KVM memory slots.

use std::io;
use std::sync::Arc;
use std::sync::Mutex;

use kvm_bindings::kvm_userspace_memory_region;
use kvm_ioctls::VmFd;
use rustix::mm::{Advice, madvise};
use vm_memory::{GuestAddress, GuestMemoryBackend, GuestMemoryMmap, GuestMemoryRegion};

use crate::error::{Error, Result, Trying};
use crate::machine::layout::Layout;

/// Guest RAM, mapped in this process.
pub type GuestMemory = GuestMemoryMmap<()>;

/// Maps RAM for `layout`, untouched and with huge pages where the host has them.
///
/// # Errors
/// [`Error::Memory`] where the address space is short.
pub fn allocate(layout: &Layout) -> Result<GuestMemory> {
    let ranges: Vec<_> = layout
        .ram
        .iter()
        .map(|range| (GuestAddress(range.start), (range.end - range.start) as usize))
        .collect();
    let memory = GuestMemory::from_ranges(&ranges).map_err(|error| Error::Memory {
        action: "reserve address space for the guest's RAM",
        source: io::Error::other(error),
    })?;
    for region in memory.iter() {
        // SAFETY: the range is the region's own private anonymous mapping; the advice changes how
        // it will be backed, not what it holds. A host without huge pages refuses, which is fine.
        let _ = unsafe { madvise(region.as_ptr().cast(), region.size(), Advice::LinuxHugepage) };
    }
    Ok(memory)
}

/// The VM's memory slots: which number is free, and the call that fills it.
pub struct Slots {
    vm: Arc<VmFd>,
    numbers: Mutex<Numbers>,
}

struct Numbers {
    next: u32,
    free: Vec<u32>,
    limit: u32,
}

/// A number of a slot in use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Slot(u32);

impl Slots {
    /// All of `vm`'s slots, of which it has `limit`.
    pub fn new(vm: Arc<VmFd>, limit: u32) -> Self {
        Slots { vm, numbers: Mutex::new(Numbers { next: 0, free: Vec::new(), limit }) }
    }

    /// Shows `length` bytes at `host` to the guest at `guest`.
    ///
    /// # Safety
    /// `host..host+length` must stay mapped, and be memory that the guest may read and write at
    /// any time, until the slot is removed or the VM is gone.
    ///
    /// # Errors
    /// [`Error::Kvm`] where the slots are used up or KVM refuses the range.
    pub unsafe fn add(&self, guest: u64, host: *mut u8, length: u64) -> Result<Slot> {
        let number = self.take()?;
        let region = kvm_userspace_memory_region {
            slot: number,
            flags: 0,
            guest_phys_addr: guest,
            memory_size: length,
            userspace_addr: host as u64,
        };
        // SAFETY: the caller vouches for the range; the slot number is unused.
        let added = unsafe { self.vm.set_user_memory_region(region) };
        if added.is_err() {
            self.give_back(number);
        }
        added.kvm("add a memory slot")?;
        Ok(Slot(number))
    }

    /// Takes a slot away from the guest. Afterwards no vCPU reaches its memory.
    ///
    /// # Errors
    /// [`Error::Kvm`] where KVM refuses; the number is not used again then.
    pub fn remove(&self, slot: Slot) -> Result<()> {
        let region = kvm_userspace_memory_region { slot: slot.0, ..Default::default() };
        // SAFETY: a size of 0 deletes the slot and refers to no memory.
        unsafe { self.vm.set_user_memory_region(region) }.kvm("remove a memory slot")?;
        self.give_back(slot.0);
        Ok(())
    }

    fn take(&self) -> Result<u32> {
        let mut numbers = crate::lock(&self.numbers);
        if let Some(number) = numbers.free.pop() {
            return Ok(number);
        }
        if numbers.next >= numbers.limit {
            return Err(io::Error::from(io::ErrorKind::StorageFull)).kvm("find a memory slot");
        }
        numbers.next += 1;
        Ok(numbers.next - 1)
    }

    fn give_back(&self, number: u32) {
        crate::lock(&self.numbers).free.push(number);
    }
}

/// Gives all of `memory` to the guest.
///
/// # Errors
/// [`Error::Kvm`] where KVM refuses.
pub fn give_to_guest(slots: &Slots, memory: &GuestMemory) -> Result<()> {
    for region in memory.iter() {
        // SAFETY: the region is anonymous RAM that lives as long as `memory`, which the machine
        // keeps until the process ends once a vCPU runs; nothing in this process holds references
        // into it.
        unsafe { slots.add(region.start_addr().0, region.as_ptr(), region.len())? };
    }
    Ok(())
}
