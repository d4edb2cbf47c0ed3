//! virtio-net whose frames the kernel moves (vhost-net), between the guest's rings and the TAP.
//!
//! The offloads of checksums and of segmentation are between the guest and whoever receives its frames:
//! TAP and vhost hand on what stands in each frame's header.

use std::os::fd::OwnedFd;
use std::sync::Arc;

use vmm_sys_util::eventfd::EventFd;

use super::sys::{Tap, Vhost};
use super::{Engine, Queues};
use crate::error::Result;
use crate::machine::event_loop::EventLoop;
use crate::machine::memory::GuestMemory;
use crate::pci::vector::Source;
use crate::spec;
use crate::virtio::net::{self, CLASS_ETHERNET, HEADER, KIND_NET, QUEUE_SIZES};
use crate::virtio::{Activation, VirtioDevice, tap};

/// Feature bits of a network card (virtio 1.3, 5.1.3).
mod feature {
    /// The device takes frames whose checksum is not filled in.
    pub const CSUM: u64 = 1 << 0;
    /// The driver takes such.
    pub const GUEST_CSUM: u64 = 1 << 1;
    /// The driver takes TCP segments over IPv4 that are larger than a frame.
    pub const GUEST_TSO4: u64 = 1 << 7;
    /// The same over IPv6.
    pub const GUEST_TSO6: u64 = 1 << 8;
    /// The same with ECN.
    pub const GUEST_ECN: u64 = 1 << 9;
    /// The device takes such.
    pub const HOST_TSO4: u64 = 1 << 11;
    /// The same over IPv6.
    pub const HOST_TSO6: u64 = 1 << 12;
    /// The same with ECN.
    pub const HOST_ECN: u64 = 1 << 13;
    /// A frame may be spread over several buffers.
    pub const MRG_RXBUF: u64 = 1 << 15;
}

/// What TAP and header can do, whoever moves the frames.
const OFFLOADS: u64 = feature::CSUM
    | feature::GUEST_CSUM
    | feature::GUEST_TSO4
    | feature::GUEST_TSO6
    | feature::GUEST_ECN
    | feature::HOST_TSO4
    | feature::HOST_TSO6
    | feature::HOST_ECN;

/// Offloads that the TAP may use towards the guest, by what its driver takes (uapi/linux/if_tun.h, `TUN_F`).
pub(super) fn offloads(features: u64) -> u64 {
    if features & feature::GUEST_CSUM == 0 {
        return 0;
    }
    let of = |bit, flag| if features & bit != 0 { flag } else { 0 };
    1 | of(feature::GUEST_TSO4, 2) | of(feature::GUEST_TSO6, 4) | of(feature::GUEST_ECN, 8)
}

/// A network card that the kernel serves.
pub struct KernelNet {
    mac: [u8; 6],
    pub(in crate::virtio) queues: Arc<Queues>,
}

impl KernelNet {
    /// A card on `tap`, served through `vhost`, an open `/dev/vhost-net`, which reaches `memory`.
    ///
    /// # Errors
    /// Where the descriptors are not what they should be, or the kernel lacks virtio 1.0.
    pub fn new(
        tap: OwnedFd,
        vhost: OwnedFd,
        spec: &spec::VirtioNet,
        memory: &GuestMemory,
    ) -> Result<Self> {
        tap::prepare(&tap, HEADER as i32)?;
        KernelNet::over(Box::new(Vhost::new(vhost, memory, Tap(tap))?), spec.mac)
    }

    /// A card that is served by `engine`.
    pub(in crate::virtio) fn over(engine: Box<dyn Engine>, mac: [u8; 6]) -> Result<Self> {
        let queues = Queues::new(engine, QUEUE_SIZES.len(), feature::MRG_RXBUF, net::name(mac))?;
        Ok(KernelNet { mac, queues: Arc::new(queues) })
    }

    /// Adds its descriptor to the event loop.
    ///
    /// # Errors
    /// Where it cannot be watched.
    pub fn listen(&self, events: &EventLoop) -> Result<()> {
        self.queues.listen(events)
    }
}

impl VirtioDevice for KernelNet {
    fn name(&self) -> String {
        net::name(self.mac)
    }

    fn kind(&self) -> u16 {
        KIND_NET
    }

    fn class(&self) -> u32 {
        CLASS_ETHERNET
    }

    fn features(&self) -> u64 {
        net::F_MAC | OFFLOADS | self.queues.features()
    }

    fn queue_sizes(&self) -> &[u16] {
        &QUEUE_SIZES
    }

    fn kick(&self, index: u16) -> Option<&EventFd> {
        self.queues.kick(index)
    }

    fn read_config(&self, offset: u64, data: &mut [u8]) {
        net::read_config(self.mac, offset, data);
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tap_does_what_the_driver_takes() {
        let tso = feature::GUEST_TSO4 | feature::GUEST_ECN;
        assert_eq!(offloads(0), 0);
        assert_eq!(offloads(tso), 0, "without checksums nothing");
        assert_eq!(offloads(tso | feature::GUEST_CSUM), 1 | 2 | 8);
        assert_eq!(offloads(u64::MAX), 15);
    }
}
