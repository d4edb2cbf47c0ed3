//! A device's MSI or MSI-X vectors and the events the kernel signals for them.

use std::io;
use std::sync::Arc;

use vmm_sys_util::eventfd::EventFd;

use super::sys::{Device, InterruptInfo};
use crate::error::{Error, Result};
use crate::pci::vector::Source;
use crate::warnings::Warnings;

/// The kernel's side of it.
pub trait Vectors: Send {
    /// Signals `events` for the vectors from `start` on. The first call turns them on.
    ///
    /// # Errors
    /// The kernel's.
    fn enable(&self, start: u32, events: &[Option<&EventFd>]) -> io::Result<()>;
    /// Turns all of them off. The kernel refuses while it is off.
    ///
    /// # Errors
    /// The kernel's.
    fn disable(&self) -> io::Result<()>;
}

/// One kind of interrupts of a device: `VFIO_PCI_MSI_IRQ_INDEX` or `VFIO_PCI_MSIX_IRQ_INDEX`.
pub struct Kind {
    /// The device.
    pub device: Arc<Device>,
    /// The kind's index.
    pub index: u32,
}

impl Vectors for Kind {
    fn enable(&self, start: u32, events: &[Option<&EventFd>]) -> io::Result<()> {
        self.device.enable_interrupts(self.index, start, events)
    }

    fn disable(&self) -> io::Result<()> {
        self.device.disable_interrupts(self.index)
    }
}

/// The device as the source of its vectors' signals.
pub struct VfioVectors<V> {
    device: V,
    info: InterruptInfo,
    /// Events by vector. The kernel holds vectors up to its length, and they are off while it is
    /// empty.
    attached: Vec<Option<Arc<EventFd>>>,
    warnings: Arc<Warnings>,
}

impl<V: Vectors> VfioVectors<V> {
    /// With nothing attached yet.
    pub fn new(device: V, info: InterruptInfo, warnings: Arc<Warnings>) -> Self {
        VfioVectors { device, info, attached: Vec::new(), warnings }
    }

    fn enable_all(&self) -> io::Result<()> {
        let events: Vec<_> = self.attached.iter().map(Option::as_deref).collect();
        self.device.enable(0, &events)
    }

    fn put(&mut self, first: usize, events: &[Arc<EventFd>]) {
        let length = self.attached.len().max(first + events.len());
        self.attached.resize(length, None);
        for (place, event) in self.attached[first..].iter_mut().zip(events) {
            *place = Some(event.clone());
        }
    }

    /// Attaches vectors beyond those the kernel holds, where it cannot add to them while they are
    /// on: all anew, or, where that fails, those there were.
    fn regrow(&mut self, first: usize, events: &[Arc<EventFd>]) -> io::Result<()> {
        let before = self.attached.len();
        if before > 0 {
            self.device.disable()?;
        }
        self.put(first, events);
        let enabled = self.enable_all();
        if enabled.is_err() {
            self.attached.truncate(before);
            if before > 0
                && let Err(error) = self.enable_all()
            {
                self.attached.clear();
                self.warnings.say(format_args!("its interrupts are lost: {error}"));
            }
        }
        enabled
    }
}

impl<V: Vectors> Source for VfioVectors<V> {
    fn turn_on(&mut self) -> Result<()> {
        if self.attached.is_empty() {
            let enabled = match self.info.count {
                // A device may claim vectors that its host's driver has none of.
                0 => Err(io::Error::other("the host has no vectors for it")),
                _ => self.device.enable(0, &[None]),
            };
            let trying = |source| Error::System { action: "turn the device's messages on", source };
            enabled.map_err(trying)?;
            self.attached.push(None);
        }
        Ok(())
    }

    fn attach(&mut self, first: u16, events: &[Arc<EventFd>]) -> Result<()> {
        let trying = |source: io::Error| Error::System {
            action: "let the device signal an interrupt vector",
            source,
        };
        let first = usize::from(first);
        let end = first + events.len();
        if end > self.info.count as usize || events.is_empty() {
            return Err(trying(io::Error::from(io::ErrorKind::InvalidInput)));
        }
        if end > self.attached.len() && !self.info.dynamic {
            return self.regrow(first, events).map_err(trying);
        }
        let given: Vec<_> = events.iter().map(|event| Some(&**event)).collect();
        self.device.enable(first as u32, &given).map_err(trying)?;
        self.put(first, events);
        Ok(())
    }

    fn detach_all(&mut self) {
        if !self.attached.is_empty()
            && let Err(error) = self.device.disable()
        {
            self.warnings.say(format_args!("cannot disable its interrupts: {error}"));
        }
        self.attached.clear();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;

    /// A kernel as strict as the real one: how many vectors are on, and how many it has room for.
    #[derive(Clone)]
    struct Kernel {
        on: Arc<Mutex<Vec<bool>>>,
        room: usize,
        dynamic: bool,
    }

    impl Vectors for Kernel {
        fn enable(&self, start: u32, events: &[Option<&EventFd>]) -> io::Result<()> {
            let mut on = crate::lock(&self.on);
            let end = start as usize + events.len();
            let grows = !on.is_empty() && end > on.len();
            if end > self.room || grows && !self.dynamic {
                return Err(io::Error::from(io::ErrorKind::InvalidInput));
            }
            let length = on.len().max(end);
            on.resize(length, false);
            for (at, event) in (start as usize..).zip(events) {
                on[at] = event.is_some();
            }
            Ok(())
        }

        fn disable(&self) -> io::Result<()> {
            let mut on = crate::lock(&self.on);
            if on.is_empty() {
                return Err(io::Error::from(io::ErrorKind::InvalidInput));
            }
            on.clear();
            Ok(())
        }
    }

    fn vectors(dynamic: bool, room: usize) -> (VfioVectors<Kernel>, Kernel, Arc<EventFd>) {
        let kernel = Kernel { on: Arc::default(), room, dynamic };
        let info = InterruptInfo { count: 5, dynamic };
        let vectors = VfioVectors::new(kernel.clone(), info, Arc::new(Warnings::new("test")));
        (vectors, kernel, Arc::new(EventFd::new(0).unwrap()))
    }

    #[test]
    fn vectors_are_added_one_after_the_other_whatever_the_kernel_can_do() {
        for dynamic in [true, false] {
            let (mut vectors, kernel, event) = vectors(dynamic, 5);
            for round in 0..2 {
                for number in [1, 0, 4] {
                    vectors.attach(number, std::slice::from_ref(&event)).unwrap();
                }
                let on = crate::lock(&kernel.on).clone();
                assert_eq!(on, [true, true, false, false, true], "{dynamic} {round}");
                vectors.detach_all();
                assert!(crate::lock(&kernel.on).is_empty());
            }
            vectors.detach_all();
        }
    }

    #[test]
    fn messages_are_on_before_there_is_one_to_signal() {
        for dynamic in [true, false] {
            let (mut vectors, kernel, event) = vectors(dynamic, 5);
            vectors.turn_on().unwrap();
            vectors.turn_on().unwrap();
            assert_eq!(*crate::lock(&kernel.on), [false]);
            vectors.attach(2, std::slice::from_ref(&event)).unwrap();
            assert_eq!(*crate::lock(&kernel.on), [false, false, true]);
            vectors.turn_on().unwrap();
            vectors.detach_all();
            assert!(crate::lock(&kernel.on).is_empty());
            vectors.turn_on().unwrap();
            vectors.detach_all();
            assert!(crate::lock(&kernel.on).is_empty());
        }
    }

    #[test]
    fn the_kernel_is_not_asked_for_vectors_that_it_does_not_have() {
        let (mut vectors, kernel, event) = vectors(true, 5);
        vectors.info.count = 0;
        let error = vectors.turn_on().unwrap_err().to_string();
        assert!(error.contains("no vectors"), "{error}");
        vectors.attach(0, std::slice::from_ref(&event)).unwrap_err();
        assert!(crate::lock(&kernel.on).is_empty());
    }

    #[test]
    fn a_vector_that_cannot_be_added_leaves_the_others() {
        for dynamic in [true, false] {
            let (mut vectors, kernel, event) = vectors(dynamic, 2);
            vectors.attach(1, std::slice::from_ref(&event)).unwrap();
            vectors.attach(3, std::slice::from_ref(&event)).unwrap_err();
            vectors.attach(5, std::slice::from_ref(&event)).unwrap_err();
            assert_eq!(*crate::lock(&kernel.on), [false, true]);
            vectors.attach(0, std::slice::from_ref(&event)).unwrap();
            assert_eq!(*crate::lock(&kernel.on), [true, true]);
        }
    }
}
