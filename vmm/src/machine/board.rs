//! What devices are attached to: buses, memory slots, interrupts and the PCI bus, as long as the
//! machine lives. Devices come here at the start and, by [`super::hotplug`], while the guest runs.

use std::os::fd::OwnedFd;
use std::sync::Arc;

use crate::error::{Error, Result};
use crate::machine::event_loop::EventLoop;
use crate::machine::interrupts::{Delivery, Lines};
use crate::machine::latch::Latch;
use crate::machine::memory::{GuestMemory, Slots};
use crate::machine::vcpu::Buses;
use crate::pci::bar::{Allocator, Windows};
use crate::pci::root::{Full, RootComplex};
use crate::spec::VfioDevice;
use crate::timeline::Timeline;
use crate::vfio::device::{Surroundings, VfioFunction};
use crate::vfio::dma::IoSpace;
use crate::vfio::sys::Device;
use crate::virtio::VirtioDevice;
use crate::virtio::net::{Config, Net};
use crate::virtio::rng::Rng;
use crate::virtio::transport::{self, Doorbells, VirtioFunction};
use crate::virtio::vhost::net::KernelNet;
use crate::virtio::vhost::vsock::Vsock;

/// The machine as devices see it.
pub struct Board {
    /// Numbers of KVM's memory slots.
    pub slots: Arc<Slots>,
    /// Guest RAM.
    pub memory: GuestMemory,
    /// Where accesses of vCPUs go.
    pub buses: Buses,
    /// Where message-signalled interrupts go.
    pub interrupts: Arc<dyn Delivery>,
    /// Where interrupt lines go.
    pub lines: Arc<dyn Lines>,
    /// Notifications that need no exit.
    pub doorbells: Arc<dyn Doorbells>,
    /// The PCI bus.
    pub root: Arc<RootComplex>,
    /// Whether drivers of virtio devices may choose packed rings.
    pub packed_rings: bool,
    /// Where BARs may decode.
    pub windows: Windows,
    /// Who waits for events.
    pub events: Arc<EventLoop>,
    /// How the machine's start goes.
    pub timeline: Arc<Timeline>,
}

/// A passed-through function on the bus.
pub struct Present {
    /// Where.
    pub slot: usize,
    /// What.
    pub function: Arc<VfioFunction>,
}

impl Board {
    /// Puts an opened device on the bus. Its BARs have no place yet; it reaches memory once `pinned`
    /// opens.
    ///
    /// # Errors
    /// The device's, or that the bus is full.
    pub fn add_passed(
        &self,
        space: &Arc<IoSpace>,
        pinned: &Arc<Latch>,
        device: Device,
        description: &VfioDevice,
        placed: impl FnOnce(&VfioFunction) -> Result<()>,
    ) -> Result<Present> {
        let slot = self.root.free_slot().map_err(full)?;
        let surroundings = Surroundings {
            slots: &self.slots,
            bus: &self.buses.memory,
            ports: &self.buses.ports,
            interrupts: &self.interrupts,
            lines: &self.lines,
            windows: &self.windows,
            pinned,
            timeline: &self.timeline,
            slot,
        };
        let function = VfioFunction::new(space.clone(), device, description, &surroundings)?;
        // It may decode already, and what a slot shows the guest must not go before the slot.
        placed(&function).inspect_err(|_| function.shut_down())?;
        let function = Arc::new(function);
        self.root.put(slot, function.clone());
        Ok(Present { slot, function })
    }

    /// Puts a virtio network card over the descriptors of a TAP on the bus, whose frames the kernel moves
    /// where it lends us a vhost for each.
    ///
    /// # Errors
    /// The device's, or that the bus or its window is full.
    pub fn add_network(
        &self,
        taps: Vec<OwnedFd>,
        vhosts: Vec<OwnedFd>,
        config: Arc<Config>,
        allocator: &mut Allocator,
    ) -> Result<()> {
        if !vhosts.is_empty() {
            let net = Arc::new(KernelNet::new(taps, vhosts, config, &self.memory)?);
            net.listen(&self.events)?;
            return self.add_virtio(net, allocator);
        }
        let net = Arc::new(Net::new(taps, config)?);
        net.listen(&self.events)?;
        self.add_virtio(net, allocator)
    }

    /// Puts a source of random numbers on the bus.
    ///
    /// # Errors
    /// That the bus or its window is full, or the kernel's.
    pub fn add_rng(&self, allocator: &mut Allocator) -> Result<()> {
        let rng = Arc::new(Rng::new()?);
        rng.listen(&self.events)?;
        self.add_virtio(rng, allocator)
    }

    /// Puts the guest's end of sockets between it and its host on the bus, which the kernel serves by its
    /// `vhost`.
    ///
    /// # Errors
    /// The device's, or that the bus or its window is full.
    pub fn add_vsock(&self, vhost: OwnedFd, cid: u32, allocator: &mut Allocator) -> Result<()> {
        let vsock = Arc::new(Vsock::new(vhost, cid, &self.memory)?);
        vsock.listen(&self.events)?;
        self.add_virtio(vsock, allocator)
    }

    /// Puts a virtio device on the bus.
    ///
    /// # Errors
    /// That the bus or its window is full.
    pub fn add_virtio(
        &self,
        device: Arc<dyn VirtioDevice>,
        allocator: &mut Allocator,
    ) -> Result<()> {
        let slot = self.root.free_slot().map_err(full)?;
        let surroundings = transport::Surroundings {
            doorbells: &self.doorbells,
            bus: &self.buses.memory,
            interrupts: &self.interrupts,
            allocator,
            memory: &self.memory,
            packed_rings: self.packed_rings,
        };
        self.root.put(slot, Arc::new(VirtioFunction::new(device, surroundings)?));
        Ok(())
    }
}

fn full(_: Full) -> Error {
    Error::Spec("more devices than the guest's PCI bus has slots".into())
}
