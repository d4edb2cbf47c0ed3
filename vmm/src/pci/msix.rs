//! MSI-X (PCIe base spec 6.0, 7.7.2): a guest's vector table becomes routes in KVM.
//!
//! A vector is live while MSI-X is enabled, the function is not masked and the vector is not masked.
//! Turning MSI-X off forgets what is pending.

use std::sync::Arc;

use vmm_sys_util::eventfd::EventFd;

use crate::error::Result;
use crate::machine::interrupts::{Delivery, Message};
use crate::pci::vector::{Source, Vector};
use crate::warnings::Warnings;

/// Bytes of a table entry.
pub const ENTRY_SIZE: usize = 16;
/// Most vectors of a function.
pub const VECTORS_MAX: u16 = 2048;

/// Message control: MSI-X is enabled.
pub const CONTROL_ENABLE: u16 = 1 << 15;
const CONTROL_MASK_ALL: u16 = 1 << 14;
const ENTRY_MASKED: u8 = 1;

/// The MSI-X state of one function.
pub struct Msix {
    table: Vec<u8>,
    vectors: Vec<Vector>,
    control: u16,
    delivery: Arc<dyn Delivery>,
    source: Box<dyn Source>,
    warnings: Arc<Warnings>,
    raised: u64,
}

impl Msix {
    /// A table of `count` vectors, 1 to [`VECTORS_MAX`], all masked.
    pub fn new(
        count: u16,
        delivery: Arc<dyn Delivery>,
        source: Box<dyn Source>,
        warnings: Arc<Warnings>,
    ) -> Self {
        let count = usize::from(count.clamp(1, VECTORS_MAX));
        let mut table = vec![0; count * ENTRY_SIZE];
        for entry in table.chunks_mut(ENTRY_SIZE) {
            entry[12] = ENTRY_MASKED;
        }
        let vectors = (0..count).map(|_| Vector::default()).collect();
        Msix { table, vectors, control: 0, delivery, source, warnings, raised: 0 }
    }

    /// Bytes of the table.
    pub fn table_size(&self) -> usize {
        self.table.len()
    }

    /// Bytes of the pending bit array: one bit a vector, in quadwords.
    pub fn pending_size(&self) -> usize {
        self.vectors.len().div_ceil(64) * 8
    }

    /// Takes the message control register's new value, of which bits 15 and 14 count.
    pub fn set_control(&mut self, value: u16) {
        let changed = (self.control ^ value) & (CONTROL_ENABLE | CONTROL_MASK_ALL);
        if changed == 0 {
            return;
        }
        self.control = value;
        for number in 0..self.vectors.len() {
            self.refresh(number);
        }
        if changed & CONTROL_ENABLE == 0 {
            return;
        }
        if value & CONTROL_ENABLE == 0 {
            self.source.detach_all();
            self.vectors.iter_mut().for_each(Vector::forget);
        } else if !self.vectors.iter().any(|vector| vector.attached)
            && let Err(error) = self.source.turn_on()
        {
            self.warnings.say(format_args!("{error}"));
        }
    }

    /// Reads the table at `offset` bytes. What lies beyond it reads as zero.
    pub fn read_table(&self, offset: usize, data: &mut [u8]) {
        for (at, byte) in (offset..).zip(data) {
            *byte = self.table.get(at).copied().unwrap_or(0);
        }
    }

    /// Writes the table at `offset` bytes, in any width.
    pub fn write_table(&mut self, offset: usize, data: &[u8]) {
        let end = offset.saturating_add(data.len()).min(self.table.len());
        let Some(target) = self.table.get_mut(offset..end) else { return };
        target.copy_from_slice(&data[..end - offset]);
        if end > offset {
            for number in offset / ENTRY_SIZE..=(end - 1) / ENTRY_SIZE {
                self.refresh(number);
            }
        }
    }

    /// Reads the pending bit array at `offset` bytes.
    pub fn read_pending(&self, offset: usize, data: &mut [u8]) {
        for (at, byte) in (offset..).zip(data) {
            *byte = (0..8).fold(0, |bits, bit| {
                let pending = at
                    .checked_mul(8)
                    .and_then(|first| self.vectors.get(first + bit))
                    .is_some_and(Vector::is_pending);
                bits | u8::from(pending) << bit
            });
        }
    }

    /// Raises vector `number`, or leaves it pending while it is masked. A number the table does
    /// not have is nobody's.
    pub fn signal(&mut self, number: u16) {
        if self.control & CONTROL_ENABLE == 0 {
            return;
        }
        if let Some(vector) = self.vectors.get_mut(usize::from(number))
            && let Ok(event) = vector.event()
        {
            // A full counter means that it is pending already.
            let _ = event.write(1);
            self.raised += 1;
        }
    }

    /// The event of vector `number`, for whoever signals it without us. None where there is no such
    /// vector, or events are short.
    pub fn event(&mut self, number: u16) -> Option<Arc<EventFd>> {
        self.vectors.get_mut(usize::from(number))?.event().ok().cloned()
    }

    /// How many interrupts [`Msix::signal`] has raised, those that were left pending too.
    pub fn raised(&self) -> u64 {
        self.raised
    }

    fn message(&self, number: usize) -> Message {
        let entry = &self.table[number * ENTRY_SIZE..][..ENTRY_SIZE];
        let word = |at: usize| u32::from_le_bytes([0, 1, 2, 3].map(|byte| entry[at + byte]));
        Message { address: u64::from(word(4)) << 32 | u64::from(word(0) & !3), data: word(8) }
    }

    /// Makes vector `number` live or not, as table and control say.
    fn refresh(&mut self, number: usize) {
        let masked = self.table[number * ENTRY_SIZE + 12] & ENTRY_MASKED != 0;
        let wanted =
            self.control & (CONTROL_ENABLE | CONTROL_MASK_ALL) == CONTROL_ENABLE && !masked;
        let result = if wanted {
            self.enliven(number)
        } else {
            self.vectors[number].silence(&*self.delivery)
        };
        if let Err(error) = result {
            self.warnings.say(format_args!("interrupt vector {number}: {error}"));
        }
    }

    fn enliven(&mut self, number: usize) -> Result<()> {
        let message = self.message(number);
        let vector = &mut self.vectors[number];
        vector.enliven(&*self.delivery, message)?;
        if !vector.attached {
            let event = vector.event()?.clone();
            self.source.attach(number as u16, &[event])?;
            vector.attached = true;
        }
        Ok(())
    }
}

impl Drop for Msix {
    /// Silences the vectors before their source, and gives up what they hold of the machine.
    fn drop(&mut self) {
        self.set_control(0);
        self.vectors.iter_mut().for_each(|vector| vector.release(&*self.delivery));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pci::vector::record::Call::{
        Attach, Connect, DetachAll, Disconnect, Release, Route, TurnOn,
    };
    use crate::pci::vector::record::{Device, Record};

    fn msix(count: u16) -> (Msix, Arc<Record>) {
        let record = Arc::new(Record::default());
        let warnings = Arc::new(Warnings::new("test"));
        let device = Box::new(Device(record.clone()));
        (Msix::new(count, record.clone(), device, warnings), record)
    }

    const MESSAGE: Message = Message { address: 0xfee0_1000, data: 0x4021 };

    fn unmask(msix: &mut Msix, number: usize) {
        let at = number * ENTRY_SIZE;
        msix.write_table(at, &MESSAGE.address.to_le_bytes());
        msix.write_table(at + 8, &u64::from(MESSAGE.data).to_le_bytes());
    }

    fn pending(msix: &Msix) -> u64 {
        let mut data = [0; 8];
        msix.read_pending(0, &mut data);
        u64::from_le_bytes(data)
    }

    #[test]
    fn a_vector_is_routed_before_it_is_connected_and_cut_off_before_the_device_is_silenced() {
        let (mut msix, record) = msix(3);
        unmask(&mut msix, 1);
        assert_eq!(record.take(), [], "MSI-X is off");
        msix.set_control(CONTROL_ENABLE);
        assert_eq!(record.take(), [Route(1, MESSAGE), Connect(1), Attach(1, 1)]);
        msix.write_table(ENTRY_SIZE + 12, &[1, 0, 0, 0]);
        assert_eq!(record.take(), [Disconnect(1)], "masked");
        msix.write_table(ENTRY_SIZE + 12, &[0, 0, 0, 0]);
        assert_eq!(record.take(), [Route(1, MESSAGE), Connect(1)], "attached all the while");
        msix.set_control(CONTROL_ENABLE | CONTROL_MASK_ALL);
        assert_eq!(record.take(), [Disconnect(1)]);
        msix.set_control(CONTROL_ENABLE);
        record.take();
        msix.set_control(0);
        assert_eq!(record.take(), [Disconnect(1), DetachAll]);
    }

    #[test]
    fn the_device_has_msix_on_when_the_guest_has_whatever_is_masked() {
        let (mut msix, record) = msix(2);
        msix.set_control(CONTROL_ENABLE | CONTROL_MASK_ALL);
        assert_eq!(record.take(), [TurnOn], "as Linux begins");
        unmask(&mut msix, 1);
        msix.set_control(CONTROL_ENABLE);
        assert_eq!(record.take(), [Route(1, MESSAGE), Connect(1), Attach(1, 1)]);
        msix.set_control(0);
        assert_eq!(record.take(), [Disconnect(1), DetachAll]);
    }

    #[test]
    fn a_signal_while_masked_is_pending_until_msix_is_turned_off() {
        let (mut msix, _) = msix(3);
        msix.signal(2);
        assert_eq!(pending(&msix), 0, "MSI-X is off");
        msix.set_control(CONTROL_ENABLE);
        msix.signal(2);
        msix.signal(3);
        msix.signal(u16::MAX);
        assert_eq!(pending(&msix), 1 << 2);
        assert_eq!(msix.raised(), 1, "the others reached nobody");
        msix.set_control(0);
        assert_eq!(pending(&msix), 0);
        msix.set_control(CONTROL_ENABLE);
        assert_eq!(pending(&msix), 0, "nothing old comes back");
    }

    #[test]
    fn turning_msix_on_and_off_uses_nothing_up() {
        let (mut msix, record) = msix(2);
        unmask(&mut msix, 0);
        unmask(&mut msix, 1);
        for _ in 0..10_000 {
            msix.set_control(CONTROL_ENABLE);
            msix.set_control(0);
        }
        assert_eq!(record.reserved(), 2);
        assert!(!msix.vectors.iter().any(Vector::has_event));
    }

    #[test]
    fn accesses_of_any_width_at_any_offset_are_harmless() {
        let (mut msix, _) = msix(3);
        msix.set_control(CONTROL_ENABLE);
        let ends = [1 << 20, 1 << 62];
        for offset in (0..4 * ENTRY_SIZE).chain(ends) {
            for width in 0..=8 {
                let mut data = [0; 8];
                msix.write_table(offset, &data[..width]);
                msix.read_table(offset, &mut data[..width]);
                msix.read_pending(offset, &mut data[..width]);
            }
        }
        let mut data = [0xff; 8];
        msix.write_table(3 * ENTRY_SIZE - 4, &[0xff; 8]);
        msix.read_table(3 * ENTRY_SIZE - 4, &mut data);
        assert_eq!(data, [0xff, 0xff, 0xff, 0xff, 0, 0, 0, 0]);
    }

    #[test]
    fn a_table_that_goes_gives_up_its_routes() {
        let (mut msix, record) = msix(3);
        msix.set_control(CONTROL_ENABLE);
        unmask(&mut msix, 1);
        record.take();
        drop(msix);
        assert_eq!(record.take(), [Disconnect(1), DetachAll, Release(1)]);
    }
}
