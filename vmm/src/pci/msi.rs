//! MSI (PCIe base spec 6.0, 7.7.1): up to 32 vectors whose messages differ in the lowest bits of the
//! data, described by registers in configuration space.
//!
//! The registers are ours alone. What the guest writes into them becomes routes in KVM: on enabling,
//! all vectors that it enabled are attached to the device at once, since the kernel cannot add any
//! later; those it masks are disconnected, and pending while they are.

use std::ops::Range;
use std::sync::Arc;

use crate::error::Result;
use crate::machine::interrupts::{Delivery, Message};
use crate::pci::vector::{Source, Vector};
use crate::warnings::Warnings;

/// Most vectors of a function.
pub const VECTORS_MAX: u8 = 32;

const ENABLE: u16 = 1;
const CAPABLE_SHIFT: u16 = 1;
const ENABLED_SHIFT: u16 = 4;
const WIDE: u16 = 1 << 7;
const MASKS: u16 = 1 << 8;
/// Most of the capability's bytes: the form with an address of 64 bits and masks.
const SIZE_MAX: usize = 24;

/// An MSI capability as a device describes it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MsiLayout {
    /// Offset of the capability.
    pub capability: usize,
    /// Vectors the device can send: 1, 2, 4, 8, 16 or 32.
    pub vectors: u8,
    /// The address has 64 bits.
    pub wide: bool,
    /// Vectors can be masked one by one.
    pub masks: bool,
}

impl MsiLayout {
    /// From the offset of the capability and its message control. A count that the specification
    /// reserves is taken as 1.
    pub fn new(capability: usize, control: u16) -> Self {
        let exponent = control >> CAPABLE_SHIFT & 7;
        let vectors = if exponent > 5 { 1 } else { 1 << exponent };
        MsiLayout { capability, vectors, wide: control & WIDE != 0, masks: control & MASKS != 0 }
    }

    /// Bytes of the capability.
    pub fn size(&self) -> usize {
        match (self.wide, self.masks) {
            (false, false) => 10,
            (true, false) => 14,
            (false, true) => 20,
            (true, true) => SIZE_MAX,
        }
    }

    /// Message control as a guest sees it before it writes: no extended message data.
    pub fn control(&self) -> u16 {
        let exponent = self.vectors.trailing_zeros() as u16;
        let flag = |yes: bool, bit: u16| if yes { bit } else { 0 };
        exponent << CAPABLE_SHIFT | flag(self.wide, WIDE) | flag(self.masks, MASKS)
    }

    /// Which bits of the capability's bytes a guest may change.
    pub fn writable(&self) -> Vec<u8> {
        let mut bits = vec![0; self.size()];
        bits[2] = (7 << ENABLED_SHIFT | ENABLE) as u8;
        bits[4..8].copy_from_slice(&[0xfc, 0xff, 0xff, 0xff]);
        let data = self.data();
        bits[8..data.end].fill(0xff);
        if self.masks {
            let all = ((1u64 << self.vectors) - 1) as u32;
            bits[data.start + 4..data.start + 8].copy_from_slice(&all.to_le_bytes());
        }
        bits
    }

    /// Where the pending bits are within the capability, if it has any.
    pub fn pending(&self) -> Option<Range<usize>> {
        let start = self.data().start + 8;
        self.masks.then_some(start..start + 4)
    }

    fn data(&self) -> Range<usize> {
        let start = if self.wide { 12 } else { 8 };
        start..start + 2
    }
}

/// The MSI state of one function.
pub struct Msi {
    layout: MsiLayout,
    vectors: Vec<Vector>,
    enabled: bool,
    delivery: Arc<dyn Delivery>,
    source: Box<dyn Source>,
    warnings: Arc<Warnings>,
}

impl Msi {
    /// Not enabled.
    pub fn new(
        layout: MsiLayout,
        delivery: Arc<dyn Delivery>,
        source: Box<dyn Source>,
        warnings: Arc<Warnings>,
    ) -> Self {
        let vectors = (0..layout.vectors.clamp(1, VECTORS_MAX)).map(|_| Vector::default());
        let vectors = vectors.collect();
        Msi { layout, vectors, enabled: false, delivery, source, warnings }
    }

    /// Whether these registers enable it: the bytes of the capability as the guest has written
    /// them.
    pub fn enables(registers: &[u8]) -> bool {
        word(registers, 2) & ENABLE != 0
    }

    /// Does what the capability's bytes say, as the guest has written them.
    pub fn set(&mut self, registers: &[u8]) {
        let control = word(registers, 2);
        if !Self::enables(registers) {
            if std::mem::take(&mut self.enabled) {
                self.turn_off();
            }
            return;
        }
        let exponent = (control >> ENABLED_SHIFT & 7).min(5);
        // More than the device can send is undefined; here it is what it can.
        let count = (1usize << exponent).min(self.vectors.len());
        let attached = self.vectors.iter().filter(|vector| vector.attached).count();
        if self.enabled && attached != count {
            self.turn_off();
        }
        self.enabled = true;
        for number in 0..count {
            let result = match self.is_masked(registers, number) {
                true => self.vectors[number].silence(&*self.delivery),
                false => {
                    let message = self.message(registers, number, count);
                    self.vectors[number].enliven(&*self.delivery, message)
                }
            };
            self.warn(number, result);
        }
        if attached != count {
            let result = self.attach(count);
            self.warn(0, result);
        }
    }

    /// The pending bits, one a vector.
    pub fn pending(&self) -> u32 {
        let bits = self
            .vectors
            .iter()
            .zip(0..)
            .map(|(vector, number)| u32::from(self.enabled && vector.is_pending()) << number);
        bits.fold(0, |all, bit| all | bit)
    }

    /// The description it was made from.
    pub fn layout(&self) -> &MsiLayout {
        &self.layout
    }

    fn attach(&mut self, count: usize) -> Result<()> {
        let vectors = &mut self.vectors[..count];
        let events: Result<Vec<_>> =
            vectors.iter_mut().map(|vector| vector.event().cloned()).collect();
        self.source.attach(0, &events?)?;
        vectors.iter_mut().for_each(|vector| vector.attached = true);
        Ok(())
    }

    fn turn_off(&mut self) {
        for number in 0..self.vectors.len() {
            let result = self.vectors[number].silence(&*self.delivery);
            self.warn(number, result);
        }
        self.source.detach_all();
        self.vectors.iter_mut().for_each(Vector::forget);
    }

    fn is_masked(&self, registers: &[u8], number: usize) -> bool {
        let at = self.layout.data().start + 4;
        self.layout.masks && double(registers, at) >> number & 1 != 0
    }

    fn message(&self, registers: &[u8], number: usize, count: usize) -> Message {
        let high = if self.layout.wide { double(registers, 8) } else { 0 };
        let address = u64::from(high) << 32 | u64::from(double(registers, 4) & !3);
        let data = u32::from(word(registers, self.layout.data().start));
        Message { address, data: data & !(count as u32 - 1) | number as u32 }
    }

    fn warn(&self, number: usize, result: Result<()>) {
        if let Err(error) = result {
            self.warnings.say(format_args!("interrupt vector {number}: {error}"));
        }
    }
}

impl Drop for Msi {
    /// Silences the vectors before their source, and gives up what they hold of the machine.
    fn drop(&mut self) {
        if self.enabled {
            self.turn_off();
        }
        self.vectors.iter_mut().for_each(|vector| vector.release(&*self.delivery));
    }
}

fn word(bytes: &[u8], at: usize) -> u16 {
    let two = bytes.get(at..at + 2).and_then(|two| two.try_into().ok());
    two.map_or(0, u16::from_le_bytes)
}

fn double(bytes: &[u8], at: usize) -> u32 {
    u32::from(word(bytes, at)) | u32::from(word(bytes, at + 2)) << 16
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pci::vector::record::Call::{Attach, Connect, DetachAll, Disconnect, Route};
    use crate::pci::vector::record::{Device, Record};

    const ADDRESS: u64 = 0xfee0_1000;

    fn msi(control: u16) -> (Msi, Arc<Record>) {
        let record = Arc::new(Record::default());
        let warnings = Arc::new(Warnings::new("test"));
        let device = Box::new(Device(record.clone()));
        (Msi::new(MsiLayout::new(0x50, control), record.clone(), device, warnings), record)
    }

    /// Registers of the widest form: enabled with 2^`exponent` vectors and these masks.
    fn registers(enabled: bool, exponent: u8, masks: u32) -> Vec<u8> {
        let mut bytes = vec![5, 0, u8::from(enabled) | exponent << 4, 0x01];
        bytes.extend_from_slice(&ADDRESS.to_le_bytes());
        bytes.extend_from_slice(&0x4023u32.to_le_bytes());
        bytes.extend_from_slice(&masks.to_le_bytes());
        bytes.extend_from_slice(&[0; 4]);
        bytes
    }

    fn message(data: u32) -> Message {
        Message { address: ADDRESS, data }
    }

    #[test]
    fn each_form_has_its_size_and_places() {
        for (control, size, pending) in [
            (0x0000, 10, None),
            (0x0080, 14, None),
            (0x0100, 20, Some(16..20)),
            (0x0180, 24, Some(20..24)),
        ] {
            let layout = MsiLayout::new(0x50, control | 4 << 1);
            assert_eq!((layout.size(), layout.pending(), layout.vectors), (size, pending, 16));
            assert_eq!(layout.control(), control | 4 << 1);
            assert_eq!(layout.writable().len(), size);
        }
        let widest = MsiLayout::new(0x50, 0x0180 | 2 << 1).writable();
        assert_eq!(&widest[..8], [0, 0, 0x71, 0, 0xfc, 0xff, 0xff, 0xff]);
        assert_eq!(&widest[8..], [255, 255, 255, 255, 255, 255, 0, 0, 15, 0, 0, 0, 0, 0, 0, 0]);
        assert_eq!(MsiLayout::new(0x50, 0xffff).vectors, 1, "reserved counts");
        assert_eq!(MsiLayout::new(0x50, 5 << 1).vectors, 32);
    }

    #[test]
    fn messages_differ_in_their_lowest_bits_and_go_to_the_device_at_once() {
        let (mut msi, record) = msi(0x0180 | 3 << 1);
        msi.set(&registers(false, 1, 0));
        assert_eq!(record.take(), []);
        msi.set(&registers(true, 1, 0));
        let (first, second) = (Route(1, message(0x4022)), Route(2, message(0x4023)));
        assert_eq!(record.take(), [first, Connect(1), second, Connect(2), Attach(0, 2)]);
        msi.set(&registers(true, 1, 2));
        assert_eq!(record.take(), [first, Disconnect(2)], "the second one is masked");
        msi.set(&registers(true, 0, 0));
        let only = Route(1, message(0x4023));
        let expected = [Disconnect(1), DetachAll, only, Connect(1), Attach(0, 1)];
        assert_eq!(record.take(), expected, "another count");
        msi.set(&registers(false, 0, 0));
        assert_eq!(record.take(), [Disconnect(1), DetachAll]);
        msi.set(&registers(false, 0, 0));
        assert_eq!(record.take(), []);
    }

    #[test]
    fn a_masked_vector_that_signals_is_pending() {
        let (mut msi, _) = msi(0x0180 | 3 << 1);
        msi.set(&registers(true, 3, 0b100));
        msi.vectors[2].event().unwrap().write(1).unwrap();
        assert_eq!(msi.pending(), 0b100);
        msi.set(&registers(false, 3, 0b100));
        assert_eq!(msi.pending(), 0);
        msi.set(&registers(true, 3, 0b100));
        assert_eq!(msi.pending(), 0, "nothing old comes back");
    }

    #[test]
    fn more_vectors_than_the_device_has_are_as_many_as_it_has() {
        let (mut msi, record) = msi(0x0080 | 1 << 1);
        msi.set(&registers(true, 7, 0));
        assert_eq!(record.take().last(), Some(&Attach(0, 2)));
        msi.set(&[]);
        msi.set(&[0xff; 3]);
    }
}
