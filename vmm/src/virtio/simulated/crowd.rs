//! A machine with several devices on its bus, which meet nowhere else: their BARs are in one window, and
//! their configuration spaces behind one ECAM.

use std::sync::Arc;

use super::{Bells, Device, Kind, RAM_OF_THREAD, Ram};
use crate::bus::Bus;
use crate::error::Result;
use crate::machine::interrupts::Delivery;
use crate::machine::layout::{ECAM_BASE, ECAM_SIZE};
use crate::pci::bar::Allocator;
use crate::pci::gate::Gate;
use crate::pci::root::RootComplex;
use crate::timeline::Timeline;
use crate::vfio::simulated::{Host, WINDOWS};
use crate::virtio::transport::{Doorbells, Surroundings, VirtioFunction};

/// See the top of this file. The devices are in slots from 1 on.
pub struct Crowd {
    /// What stands for KVM's interrupts.
    pub host: Arc<Host>,
    /// The machine's memory, as far as it is trapped: BARs and the ECAM.
    pub bus: Arc<Bus>,
    root: Arc<RootComplex>,
    bells: Arc<Bells>,
    devices: Vec<Device>,
    ram: Ram,
}

impl Crowd {
    /// With RAM that is all zeroes, and devices that the guest has not found yet.
    ///
    /// # Errors
    /// The kernel's, where descriptors are short.
    ///
    /// # Panics
    /// Where the bus has fewer slots.
    pub fn new(kinds: &[Kind]) -> Result<Crowd> {
        let ram = RAM_OF_THREAD.with(Ram::clone);
        ram.clear();
        let (host, bus) = (Arc::new(Host::default()), Arc::new(Bus::default()));
        let bells = Arc::new(Bells::default());
        let (doorbells, interrupts): (Arc<dyn Doorbells>, Arc<dyn Delivery>) =
            (bells.clone(), host.clone());
        let root = Arc::new(RootComplex::new());
        let mut allocator = Allocator::new(WINDOWS);
        let mut devices = Vec::new();
        for kind in kinds {
            let device = Device::new(*kind, &ram.memory)?;
            let surroundings = Surroundings {
                doorbells: &doorbells,
                bus: &bus,
                interrupts: &interrupts,
                allocator: &mut allocator,
                memory: &ram.memory,
                packed_rings: true,
            };
            let function = VirtioFunction::new(device.as_virtio(), surroundings)?;
            root.put(root.free_slot().expect("a slot"), Arc::new(function));
            devices.push(device);
        }
        let gate = Gate::new(root.clone(), Arc::new(Timeline::default()));
        gate.open();
        bus.insert(ECAM_BASE, ECAM_SIZE, Arc::new(gate)).expect("nothing else is there");
        Ok(Crowd { host, bus, root, bells, devices, ram })
    }

    /// How many queues each device has.
    pub fn queues(&self) -> Vec<usize> {
        self.devices.iter().map(|device| device.as_virtio().queue_sizes().len()).collect()
    }

    /// How many addresses ring a bell of a device.
    pub fn bells(&self) -> usize {
        crate::lock(&self.bells.0).len()
    }

    /// Has all devices do what they were kicked for.
    pub fn turn(&self) {
        self.devices.iter().for_each(Device::turn);
    }

    /// Takes the devices off the bus, which none of them decodes on any more.
    ///
    /// # Panics
    /// Where they leave something behind, or have reached what is not RAM.
    pub fn end(self) {
        self.ram.check();
        assert_eq!(self.bells(), 0, "notifications are left");
        let Crowd { host, bus, root, devices, .. } = self;
        for device in &devices {
            device.as_virtio().reset();
        }
        // The bus has the ECAM, that the cards, and they the bus.
        bus.remove(ECAM_BASE);
        drop((bus, root, devices));
        assert_eq!((host.connected(), host.reserved()), (0, 0), "interrupts are left");
    }
}
