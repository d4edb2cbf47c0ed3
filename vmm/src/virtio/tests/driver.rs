//! The driver of a device: of one of its queues at a time, the first one where nothing else is said. Its rings
//! are split, or packed.

use std::cell::RefCell;

use super::packed_driver::Piece;
use super::packed_queues::PackedQueues;
use super::*;
use crate::virtio::{F_EVENT_IDX, F_RING_PACKED};

/// A device behind its BAR, and the memory of the guest that drives it.
pub struct Driver {
    pub bar: Structures,
    pub memory: GuestMemory,
    /// How many buffers were offered in the queue since the last start.
    pub offered: u16,
    /// Which queues it sets up: all that the device has, at first.
    pub queues: Vec<u16>,
    queue: u16,
    offered_in: Vec<u16>,
    /// Where it has packed rings.
    packed: Option<RefCell<PackedQueues>>,
}

impl Driver {
    /// Of `device`, which was just reset.
    pub fn new(device: Arc<dyn VirtioDevice>) -> Driver {
        Driver::with(device, false)
    }

    /// The same with packed rings.
    pub fn packed(device: Arc<dyn VirtioDevice>) -> Driver {
        Driver { packed: Some(RefCell::default()), ..Driver::with(device, true) }
    }

    fn with(device: Arc<dyn VirtioDevice>, packed_rings: bool) -> Driver {
        let memory =
            allocate(&Layout::new(MIN_MEMORY, 40, &[]).unwrap(), &Memory::bytes(0)).unwrap();
        let warnings = Arc::new(Warnings::new("test"));
        let queues = device.queue_sizes().len() as u16;
        let mut msix = Msix::new(queues + 1, Arc::new(Nowhere), Box::new(Emulated), warnings);
        msix.set_control(MSIX_ON_ALL_MASKED);
        let bar = Structures::new(device, msix, memory.clone(), packed_rings);
        let offered_in = vec![0; queues.into()];
        let (queues, packed) = ((0..queues).collect(), None);
        Driver { bar, memory, offered: 0, queues, queue: 0, offered_in, packed }
    }

    /// From now on it is about this queue.
    pub fn choose(&mut self, queue: u16) {
        self.offered_in[usize::from(self.queue)] = self.offered;
        self.queue = queue;
        self.offered = self.offered_in[usize::from(queue)];
    }

    pub fn write(&self, offset: u64, data: &[u8]) {
        self.bar.write(COMMON + offset, data);
    }

    pub fn status(&self) -> u8 {
        let mut data = [0];
        self.bar.read(COMMON + 0x14, &mut data);
        data[0]
    }

    pub fn features(&self) -> u64 {
        let half = |select: u32| {
            self.write(0x00, &select.to_le_bytes());
            let mut data = [0; 4];
            self.bar.read(COMMON + 0x04, &mut data);
            u64::from(u32::from_le_bytes(data)) << (32 * select)
        };
        half(0) | half(1)
    }

    /// Resets the device, and begins with those of `wanted` features that it offers.
    pub fn start(&mut self, wanted: u64) {
        self.begin(wanted);
        assert_eq!(self.status(), ACKNOWLEDGE_DRIVER | FEATURES_OK | DRIVER_OK);
    }

    /// The same, whatever the device says to it.
    pub fn begin(&mut self, wanted: u64) {
        self.write(0x14, &[0]);
        self.offered = 0;
        self.offered_in.fill(0);
        let by_rings = if self.packed.is_some() { F_RING_PACKED } else { 0 };
        let features = self.features() & (wanted | by_rings);
        let size = self.packed.as_ref().map_or(QUEUE_SIZE, |_| PackedQueues::SIZE);
        self.write(0x14, &[ACKNOWLEDGE_DRIVER]);
        for select in 0..2u32 {
            self.write(0x08, &select.to_le_bytes());
            self.write(0x0c, &((features >> (32 * select)) as u32).to_le_bytes());
        }
        self.write(0x10, &0u16.to_le_bytes());
        for queue in self.queues.clone() {
            self.put(base(queue), &[0; 0x3000]);
            self.write(0x16, &queue.to_le_bytes());
            self.write(0x18, &size.to_le_bytes());
            self.write(0x1a, &(queue + 1).to_le_bytes());
            for (register, part) in [(0x20, 0), (0x28, 0x1000), (0x30, 0x2000)] {
                self.write(register, &(base(queue) + part).to_le_bytes());
            }
            self.write(0x1c, &1u16.to_le_bytes());
        }
        if let Some(packed) = &self.packed {
            assert_ne!(features & F_RING_PACKED, 0, "they are offered");
            let count = self.offered_in.len() as u16;
            *packed.borrow_mut() =
                PackedQueues::new(&self.memory, count, features & F_EVENT_IDX != 0);
        }
        self.write(0x14, &[ACKNOWLEDGE_DRIVER | FEATURES_OK | DRIVER_OK]);
    }

    /// Which vectors are pending: bit 0 for the configuration, then the queues.
    pub fn pending(&self) -> u8 {
        let mut data = [0];
        self.bar.read(MSIX_PENDING, &mut data);
        data[0]
    }

    pub fn put(&self, address: u64, bytes: &[u8]) {
        self.memory.write_slice(bytes, GuestAddress(address)).unwrap();
    }

    pub fn get(&self, address: u64, length: usize) -> Vec<u8> {
        let mut bytes = vec![0; length];
        self.memory.read_slice(&mut bytes, GuestAddress(address)).unwrap();
        bytes
    }

    /// Writes descriptor `index`, before the next one.
    pub fn describe(&self, index: u16, address: u64, length: u32, flags: u16) {
        if let Some(packed) = &self.packed {
            let piece: Piece = (address, length, flags);
            return packed.borrow_mut().describe(self.queue, index, piece);
        }
        let mut bytes = address.to_le_bytes().to_vec();
        bytes.extend(length.to_le_bytes());
        bytes.extend(flags.to_le_bytes());
        bytes.extend(((index + 1) % QUEUE_SIZE).to_le_bytes());
        self.put(base(self.queue) + 16 * u64::from(index), &bytes);
    }

    /// Offers the chains at `heads` and kicks.
    pub fn offer(&mut self, heads: &[u16]) {
        if let Some(packed) = &self.packed {
            heads.iter().for_each(|head| packed.borrow_mut().offer(self.queue, *head));
            self.offered = self.offered.wrapping_add(heads.len() as u16);
            return self.kick();
        }
        let ring = base(self.queue) + 0x1000;
        for head in heads {
            self.put(ring + 4 + u64::from(self.offered % QUEUE_SIZE) * 2, &head.to_le_bytes());
            self.offered = self.offered.wrapping_add(1);
        }
        self.put(ring + 2, &self.offered.to_le_bytes());
        self.kick();
    }

    fn kick(&self) {
        let at = NOTIFY + u64::from(self.queue) * NOTIFY_STEP;
        self.bar.write(at, &self.queue.to_le_bytes());
    }

    pub fn used(&self) -> u16 {
        if let Some(packed) = &self.packed {
            return packed.borrow_mut().used(self.queue);
        }
        u16::from_le_bytes(self.get(base(self.queue) + 0x2002, 2).try_into().unwrap())
    }

    /// How many bytes the device says that it has written for what was offered last, once it is used.
    pub fn written(&self) -> u32 {
        if let Some(packed) = &self.packed {
            return packed.borrow_mut().written(self.queue);
        }
        let entry =
            base(self.queue) + 0x2004 + u64::from(self.offered.wrapping_sub(1) % QUEUE_SIZE) * 8;
        u32::from_le_bytes(self.get(entry + 4, 4).try_into().unwrap())
    }
}
