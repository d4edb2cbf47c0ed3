//! The machine: memory as devices see it, and the PCI bus.

use alloc::alloc::{Layout, alloc_zeroed};
use core::ptr::NonNull;

use virtio_drivers::transport::pci::PciTransport;
use virtio_drivers::transport::pci::bus::{
    BarInfo, Cam, Command, DeviceFunction, MemoryBarType, MmioCam, PciRoot,
};
use virtio_drivers::{BufferDirection, Hal, PAGE_SIZE, PhysAddr};

use crate::runtime::say;

/// Configuration space of bus 0, and the window of 32-bit BARs, as the machine's ACPI tables have them.
const ECAM: usize = 0xe000_0000;
const WINDOW: u64 = 0xc000_0000;

/// Memory that devices see where we see it.
pub struct Same;

// SAFETY: memory is mapped as it is, and what is allocated stays so.
unsafe impl Hal for Same {
    fn dma_alloc(pages: usize, _: BufferDirection) -> (PhysAddr, NonNull<u8>) {
        let layout = Layout::from_size_align(pages * PAGE_SIZE, PAGE_SIZE).expect("a layout");
        // SAFETY: nobody asks for no pages.
        let memory = NonNull::new(unsafe { alloc_zeroed(layout) }).expect("memory is left");
        (memory.addr().get() as PhysAddr, memory)
    }

    unsafe fn dma_dealloc(_: PhysAddr, _: NonNull<u8>, _: usize) -> i32 {
        0
    }

    unsafe fn mmio_phys_to_virt(at: PhysAddr, _: usize) -> NonNull<u8> {
        NonNull::new(at as *mut u8).expect("no BAR is at 0")
    }

    unsafe fn share(buffer: NonNull<[u8]>, _: BufferDirection) -> PhysAddr {
        buffer.addr().get() as PhysAddr
    }

    unsafe fn unshare(_: PhysAddr, _: NonNull<[u8]>, _: BufferDirection) {}
}

/// The bus.
pub struct Bus {
    root: PciRoot<MmioCam<'static>>,
    /// From where on there is no BAR of ours.
    free: u64,
}

impl Bus {
    pub fn new() -> Self {
        // SAFETY: that is mapped, and used by this alone. Beyond bus 0 nothing is asked for.
        let access = unsafe { MmioCam::new(ECAM as *mut u8, Cam::Ecam) };
        Bus { root: PciRoot::new(access), free: WINDOW }
    }

    /// The device with this PCI id that comes first, if there is one. Its BARs are moved to where we can
    /// reach them, as firmware would place them.
    pub fn transport(&mut self, id: u16) -> Option<PciTransport> {
        let (function, info) = self
            .root
            .enumerate_bus(0)
            .find(|(_, info)| (info.vendor_id, info.device_id) == (0x1af4, id))?;
        self.root.set_command(function, Command::empty());
        let mut index = 0;
        while index < 6 {
            let bar = self.root.bar_info(function, index).expect("a BAR, or none");
            if let Some(BarInfo::Memory { address_type, size, address, .. }) = bar {
                self.place(function, index, address_type, size, address);
            }
            index += if bar.is_some_and(|bar| bar.takes_two_entries()) { 2 } else { 1 };
        }
        self.root.set_command(function, Command::MEMORY_SPACE | Command::BUS_MASTER);
        say!("{function}: {info}");
        Some(PciTransport::new::<Same, _>(&mut self.root, function).expect("a virtio device"))
    }

    fn place(
        &mut self,
        function: DeviceFunction,
        index: u8,
        kind: MemoryBarType,
        size: u64,
        was: u64,
    ) {
        let at = self.free.next_multiple_of(size.max(PAGE_SIZE as u64));
        match kind {
            MemoryBarType::Width64 => self.root.set_bar_64(function, index, at),
            _ => self.root.set_bar_32(function, index, at as u32),
        }
        self.free = at + size;
        say!("{function}: BAR {index} of {size:#x} bytes from {was:#x} to {at:#x}");
    }
}
