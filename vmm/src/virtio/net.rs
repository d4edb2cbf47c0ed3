//! virtio-net over a TAP (virtio 1.3, section 5.1): one pair of queues, no offloads.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Arc, Mutex};

use vmm_sys_util::eventfd::{EFD_CLOEXEC, EFD_NONBLOCK, EventFd};

use super::queue::{self, Broken, Fate, Progress, work_off};
use super::{Activation, VirtioDevice, read_bytes, tap};
use crate::descriptor::borrow;
use crate::error::{Result, Trying};
use crate::machine::event_loop::{EventLoop, Ready, Trigger};
use crate::spec;

/// A network card (virtio 1.3, section 5).
pub(super) const KIND_NET: u16 = 1;
/// The same as a PCI class.
pub(super) const CLASS_ETHERNET: u32 = 0x02_00_00;
/// The device has a MAC address in its configuration.
pub(super) const F_MAC: u64 = 1 << 5;

/// Of a card's queues: frames to the guest, and from it.
pub(super) const QUEUE_SIZES: [u16; 2] = [256, 256];
const RECEIVE: usize = 0;
const TRANSMIT: usize = 1;

/// `struct virtio_net_hdr_v1`, of which only `num_buffers` at offset 10 is ever not 0 here.
pub(super) const HEADER: usize = 12;
const NUM_BUFFERS: usize = 10;
/// Header and the largest frame a TAP hands out.
const FRAME_MAX: usize = HEADER + (64 << 10);
/// Frames moved before other devices get their turn.
const BATCH: usize = 256;

/// By which the event loop says that there are frames.
pub(super) const TOKEN_TAP: u32 = 2;

/// A network card.
pub struct Net {
    tap: File,
    mac: [u8; 6],
    kicks: [EventFd; 2],
    work: Mutex<Work>,
}

struct Work {
    active: Option<Activation>,
    frame: Box<[u8]>,
}

impl Net {
    /// A card on `tap`.
    ///
    /// # Errors
    /// Where the descriptor is not a TAP with `IFF_VNET_HDR`.
    pub fn new(tap: OwnedFd, spec: &spec::VirtioNet) -> Result<Self> {
        tap::prepare(&tap, HEADER as i32)?;
        Self::over(File::from(tap), spec.mac)
    }

    /// A card on something that gives and takes a frame with its header at each call, and does not
    /// block.
    pub(super) fn over(tap: File, mac: [u8; 6]) -> Result<Self> {
        let event = || EventFd::new(EFD_CLOEXEC | EFD_NONBLOCK).system("create an event");
        Ok(Net {
            tap,
            mac,
            kicks: [event()?, event()?],
            work: Mutex::new(Work { active: None, frame: vec![0; FRAME_MAX].into_boxed_slice() }),
        })
    }

    /// Adds its descriptors to the event loop.
    ///
    /// # Errors
    /// Where they cannot be watched.
    pub fn listen(self: &Arc<Self>, events: &EventLoop) -> Result<()> {
        for (token, kick) in self.kicks.iter().enumerate() {
            events.add(borrow(kick), Trigger::Level, self.clone(), token as u32)?;
        }
        // Frames stay in the TAP while the guest has no buffers for them: edge-triggered, or they
        // would keep the loop awake.
        events.add(self.tap.as_fd(), Trigger::Edge, self.clone(), TOKEN_TAP)?;
        Ok(())
    }

    fn receive(&self) {
        let Work { active, frame } = &mut *crate::lock(&self.work);
        queue::turn(active, &self.kicks[RECEIVE], |active| receive(active, &self.tap, frame));
    }

    fn transmit(&self) {
        let Work { active, frame } = &mut *crate::lock(&self.work);
        queue::turn(active, &self.kicks[TRANSMIT], |active| transmit(active, &self.tap, frame));
    }
}

/// What messages call a card.
pub(super) fn name(mac: [u8; 6]) -> String {
    format!("virtio-net {}", mac.map(|byte| format!("{byte:02x}")).join(":"))
}

/// Reads a card's configuration, which is its address.
pub(super) fn read_config(mac: [u8; 6], offset: u64, data: &mut [u8]) {
    read_bytes(&mac, offset, data);
}

/// Moves frames from the TAP into the guest's buffers.
fn receive(active: &mut Activation, mut tap: &File, frame: &mut [u8]) -> Result<Progress, Broken> {
    work_off(active, RECEIVE, BATCH, |memory, chain| {
        let length = match tap.read(frame) {
            Ok(length) if length >= HEADER => length,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => return Ok(Fate::Kept),
            _ => return Ok(Fate::Idle),
        };
        frame[..HEADER].fill(0);
        frame[NUM_BUFFERS] = 1;
        let mut writer = chain.writer(memory)?;
        if writer.available_bytes() < length {
            // Too small a buffer for this frame: the frame is lost, the buffer is not.
            return Ok(Fate::Kept);
        }
        writer.write_all(&frame[..length]).map_err(|_| Broken)?;
        Ok(Fate::Used(length as u32))
    })
}

/// Moves frames from the guest's buffers into the TAP.
fn transmit(active: &mut Activation, mut tap: &File, frame: &mut [u8]) -> Result<Progress, Broken> {
    work_off(active, TRANSMIT, BATCH, |memory, chain| {
        let mut reader = chain.reader(memory)?;
        let length = reader.available_bytes();
        if (HEADER + 1..=FRAME_MAX).contains(&length) {
            reader.read_exact(&mut frame[..length]).map_err(|_| Broken)?;
            // No offload was agreed on, so the header says nothing; the TAP must not be told
            // otherwise by a guest that sets it all the same.
            frame[..HEADER].fill(0);
            // A full or downed TAP drops the frame, as a wire would.
            let _ = tap.write(&frame[..length]);
        }
        Ok(Fate::Used(0))
    })
}

impl Ready for Net {
    fn ready(&self, token: u32) {
        if let Some(kick) = self.kicks.get(token as usize) {
            let _ = kick.read();
        }
        match token as usize {
            TRANSMIT => self.transmit(),
            _ => self.receive(),
        }
    }
}

impl VirtioDevice for Net {
    fn name(&self) -> String {
        name(self.mac)
    }

    fn kind(&self) -> u16 {
        KIND_NET
    }

    fn class(&self) -> u32 {
        CLASS_ETHERNET
    }

    fn features(&self) -> u64 {
        F_MAC | queue::FEATURES
    }

    fn queue_sizes(&self) -> &[u16] {
        &QUEUE_SIZES
    }

    fn kick(&self, index: u16) -> Option<&EventFd> {
        self.kicks.get(usize::from(index))
    }

    fn read_config(&self, offset: u64, data: &mut [u8]) {
        read_config(self.mac, offset, data);
    }

    fn activate(&self, activation: Activation) {
        crate::lock(&self.work).active = Some(activation);
        // Frames may wait already, whose edge has passed.
        let _ = self.kicks[RECEIVE].write(1);
        let _ = self.kicks[TRANSMIT].write(1);
    }

    fn reset(&self) {
        crate::lock(&self.work).active = None;
    }
}
