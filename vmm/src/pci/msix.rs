//! MSI-X (PCIe base spec 6.0, 7.7.2): a guest's vector table becomes routes in KVM.
//!
//! A vector is *live* while MSI-X is enabled, the function is not masked and the vector is not
//! masked: then its event is tied to a GSI and the kernel delivers it without us. While it is not,
//! a signal stays in the event, which is the vector's pending bit, and is delivered by the kernel
//! at the moment the vector goes live.

use std::sync::Arc;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use vmm_sys_util::eventfd::{EFD_CLOEXEC, EFD_NONBLOCK, EventFd};

use crate::descriptor::borrow;
use crate::error::{Result, Trying};
use crate::machine::interrupts::{Gsi, Interrupts, Message};

/// Bytes of a table entry.
pub const ENTRY_SIZE: usize = 16;
/// Most vectors of a function.
pub const VECTORS_MAX: u16 = 2048;

const CONTROL_ENABLE: u16 = 1 << 15;
const CONTROL_MASK_ALL: u16 = 1 << 14;
const ENTRY_MASKED: u8 = 1;

/// Who signals the vectors' events.
pub trait Source: Send {
    /// From now on vector `number` is signalled by `event`.
    ///
    /// # Errors
    /// Where the device cannot do that; the vector stays silent then.
    fn attach(&mut self, number: u16, event: &EventFd) -> Result<()>;
    /// No vector is signalled any more.
    fn detach_all(&mut self);
}

/// A device of ours, which signals by [`Msix::signal`].
pub struct Emulated;

impl Source for Emulated {
    fn attach(&mut self, _: u16, _: &EventFd) -> Result<()> {
        Ok(())
    }

    fn detach_all(&mut self) {}
}

#[derive(Default)]
struct Vector {
    event: Option<EventFd>,
    gsi: Option<Gsi>,
    attached: bool,
    live: bool,
}

/// The MSI-X state of one function.
pub struct Msix {
    table: Vec<u8>,
    vectors: Vec<Vector>,
    control: u16,
    interrupts: Arc<Interrupts>,
    source: Box<dyn Source>,
}

impl Msix {
    /// A table of `count` vectors, 1 to [`VECTORS_MAX`], all masked.
    pub fn new(count: u16, interrupts: Arc<Interrupts>, source: Box<dyn Source>) -> Self {
        let count = usize::from(count.clamp(1, VECTORS_MAX));
        let mut table = vec![0; count * ENTRY_SIZE];
        for entry in table.chunks_mut(ENTRY_SIZE) {
            entry[12] = ENTRY_MASKED;
        }
        let vectors = (0..count).map(|_| Vector::default()).collect();
        Msix { table, vectors, control: 0, interrupts, source }
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
        if value & CONTROL_ENABLE == 0 && changed & CONTROL_ENABLE != 0 {
            self.source.detach_all();
            for vector in &mut self.vectors {
                vector.attached = false;
            }
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
                    .is_some_and(|vector| !vector.live && is_signalled(vector.event.as_ref()));
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
            && let Ok(event) = event_of(vector)
        {
            // A full counter means that it is pending already.
            let _ = event.write(1);
        }
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
        let result = if wanted { self.enliven(number) } else { self.silence(number) };
        if let Err(error) = result {
            eprintln!("assign-vmm: interrupt vector {number}: {error}");
        }
    }

    fn enliven(&mut self, number: usize) -> Result<()> {
        let message = self.message(number);
        let vector = &mut self.vectors[number];
        let gsi = match vector.gsi {
            Some(gsi) => gsi,
            None => *vector.gsi.insert(self.interrupts.reserve()?),
        };
        self.interrupts.route(gsi, message)?;
        if !vector.live {
            let event = event_of(vector)?;
            self.interrupts.connect(gsi, event)?;
            vector.live = true;
        }
        if !vector.attached {
            let event = event_of(vector)?;
            self.source.attach(number as u16, event)?;
            vector.attached = true;
        }
        Ok(())
    }

    fn silence(&mut self, number: usize) -> Result<()> {
        let vector = &mut self.vectors[number];
        if let (true, Some(gsi), Some(event)) = (vector.live, vector.gsi, &vector.event) {
            self.interrupts.disconnect(gsi, event)?;
            vector.live = false;
        }
        Ok(())
    }
}

fn event_of(vector: &mut Vector) -> Result<&EventFd> {
    match &mut vector.event {
        Some(event) => Ok(event),
        none => {
            let event = EventFd::new(EFD_CLOEXEC | EFD_NONBLOCK).system("create an event")?;
            Ok(none.insert(event))
        }
    }
}

fn is_signalled(event: Option<&EventFd>) -> bool {
    event.is_some_and(|event| {
        let mut wanted = [PollFd::from_borrowed_fd(borrow(event), PollFlags::IN)];
        matches!(poll(&mut wanted, Some(&Timespec::default())), Ok(1))
    })
}
