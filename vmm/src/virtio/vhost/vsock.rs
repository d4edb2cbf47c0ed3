//! virtio-vsock (virtio 1.3, section 5.10) by vhost-vsock: sockets between programs of the guest and of the
//! host, which need no network.
//!
//! The kernel passes on what the guest sends from its own CID to the host's, and nothing else, so guests do
//! not reach each other. The queue for events is the device's own: it would tell a driver that its
//! connections are lost because the guest was moved to another host, which does not happen here.

use std::os::fd::OwnedFd;
use std::sync::Arc;

use vmm_sys_util::eventfd::EventFd;

use super::sys::{Sockets, Vhost};
use super::{Engine, Queues};
use crate::error::Result;
use crate::machine::event_loop::EventLoop;
use crate::machine::memory::GuestMemory;
use crate::pci::vector::Source;
use crate::virtio::{Activation, VirtioDevice, read_bytes};

/// A socket device (virtio 1.3, section 5).
const KIND_SOCKET: u16 = 19;
/// The same as a PCI class: it communicates, in none of the ways that have a number.
const CLASS_COMMUNICATION: u32 = 0x07_80_00;
/// Feature bit: sockets that keep messages apart, beside streams (virtio 1.3, 5.10.3).
const F_SEQPACKET: u64 = 1 << 1;

/// Packets to the guest, packets from it, and events.
const QUEUE_SIZES: [u16; 3] = [256, 256, 16];
/// The first ones are the kernel's.
const OF_KERNEL: usize = 2;

/// The guest's end of sockets between it and its host.
pub struct Vsock {
    cid: u32,
    pub(in crate::virtio) queues: Arc<Queues>,
}

impl Vsock {
    /// That of the guest with this CID, served through `vhost`, an open `/dev/vhost-vsock` with that CID,
    /// which reaches `memory`.
    ///
    /// # Errors
    /// Where the descriptor is not what it should be, or the kernel lacks virtio 1.0.
    pub fn new(vhost: OwnedFd, cid: u32, memory: &GuestMemory) -> Result<Self> {
        Vsock::over(Box::new(Vhost::new(vhost, memory, Sockets)?), cid)
    }

    /// The same, served by `engine`.
    pub(in crate::virtio) fn over(engine: Box<dyn Engine>, cid: u32) -> Result<Self> {
        let queues = Queues::new(engine, OF_KERNEL, F_SEQPACKET, name(cid))?;
        Ok(Vsock { cid, queues: Arc::new(queues) })
    }

    /// Adds its descriptor to the event loop.
    ///
    /// # Errors
    /// Where it cannot be watched.
    pub fn listen(&self, events: &EventLoop) -> Result<()> {
        self.queues.listen(events)
    }
}

fn name(cid: u32) -> String {
    format!("virtio-vsock of CID {cid}")
}

impl VirtioDevice for Vsock {
    fn name(&self) -> String {
        name(self.cid)
    }

    fn kind(&self) -> u16 {
        KIND_SOCKET
    }

    fn class(&self) -> u32 {
        CLASS_COMMUNICATION
    }

    fn features(&self) -> u64 {
        self.queues.features()
    }

    fn queue_sizes(&self) -> &[u16] {
        &QUEUE_SIZES
    }

    fn kick(&self, index: u16) -> Option<&EventFd> {
        self.queues.kick(index)
    }

    /// It is the CID, of which the upper half is reserved (virtio 1.3, 5.10.4).
    fn read_config(&self, offset: u64, data: &mut [u8]) {
        read_bytes(&u64::from(self.cid).to_le_bytes(), offset, data);
    }

    fn source(&self) -> Box<dyn Source> {
        self.queues.source()
    }

    fn is_counted(&self) -> bool {
        false
    }

    fn activate(&self, activation: Activation) {
        self.queues.start(activation);
    }

    fn reset(&self) {
        self.queues.stop();
    }
}
