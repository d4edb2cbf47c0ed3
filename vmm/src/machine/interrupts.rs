//! Global system interrupts (GSIs) and where each leads.
//!
//! Pins 0 to 23 are the I/O APIC's. From 24 on, a GSI stands for a message: KVM holds
//! one routing table for all of them, which is replaced as a whole. A message's route must stand
//! before an irqfd is tied to its GSI: the other way round has crashed hosts.

use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Mutex};

use kvm_bindings::{
    KVM_IRQ_ROUTING_IRQCHIP, KVM_IRQ_ROUTING_MSI, KVM_IRQCHIP_IOAPIC, KVM_MAX_IRQ_ROUTES,
    KvmIrqRouting, kvm_irq_routing_entry,
};
use kvm_ioctls::VmFd;
use vmm_sys_util::eventfd::EventFd;

use crate::error::{Error, Result, Trying};

/// Pins of the I/O APIC.
pub const IO_APIC_PINS: u32 = 24;
/// First GSI that is a message.
const FIRST_MSI: u32 = IO_APIC_PINS;

/// A message-signalled interrupt as the device would send it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Message {
    /// Where it is written.
    pub address: u64,
    /// What is written.
    pub data: u32,
}

/// A GSI reserved for one interrupt vector.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Gsi(pub(crate) u32);

/// Who brings message-signalled interrupts to the guest. An event may be connected only to a GSI
/// that is routed, and is disconnected before whoever signals it is silenced.
pub trait Delivery: Send + Sync {
    /// Reserves a GSI for a message.
    ///
    /// # Errors
    /// [`Error::Kvm`] where KVM's table is full.
    fn reserve(&self) -> Result<Gsi>;
    /// Lets `gsi` deliver `message` from now on. KVM takes the vector and the destination from
    /// the message and delivers it whatever its address: a message elsewhere than at the local
    /// APICs, which a device would write to memory, reaches no one's memory here.
    ///
    /// # Errors
    /// [`Error::Kvm`] where KVM refuses the table; the old route stands then.
    fn route(&self, gsi: Gsi, message: Message) -> Result<()>;
    /// Lets the kernel raise `gsi` whenever `event` is signalled, also if it already is.
    ///
    /// # Errors
    /// [`Error::Kvm`] where KVM refuses.
    fn connect(&self, gsi: Gsi, event: &EventFd) -> Result<()>;
    /// Ends what [`Delivery::connect`] began. Signals stay pending in `event`.
    ///
    /// # Errors
    /// [`Error::Kvm`] where it was not connected.
    fn disconnect(&self, gsi: Gsi, event: &EventFd) -> Result<()>;
    /// Gives up a reserved GSI, to which no event is connected any more.
    fn release(&self, gsi: Gsi);
}

/// Who brings level-triggered interrupt lines to the guest.
pub trait Lines: Send + Sync {
    /// Asserts `pin` of the I/O APIC whenever `asserted` is signalled, until the guest has handled
    /// it: then `ended` is signalled. Lines may share a pin.
    ///
    /// # Errors
    /// [`Error::Kvm`] where KVM refuses.
    fn connect(&self, pin: u32, asserted: &EventFd, ended: &EventFd) -> Result<()>;
    /// Ends that.
    ///
    /// # Errors
    /// [`Error::Kvm`] where it was not connected.
    fn disconnect(&self, pin: u32, asserted: &EventFd) -> Result<()>;
}

/// First of the eight pins that PCI devices' lines lead to, and how many there are: above those of
/// devices at fixed places.
pub const PCI_PINS: (u32, u32) = (16, 8);

/// The pin that the line of the device in this slot leads to; the ACPI tables say the same.
pub fn pin_of_slot(slot: usize) -> u32 {
    PCI_PINS.0 + slot as u32 % PCI_PINS.1
}

/// The VM's routing table.
pub struct Interrupts {
    vm: Arc<VmFd>,
    routes: Mutex<Routes>,
}

#[derive(Default)]
struct Routes {
    /// How many were ever reserved at a time.
    reserved: u32,
    /// Those of them that were given up.
    free: Vec<Gsi>,
    messages: BTreeMap<Gsi, Message>,
}

impl Interrupts {
    /// The table of `vm`, whose interrupt controllers KVM emulates.
    ///
    /// # Errors
    /// [`Error::Kvm`] where the controllers cannot be created.
    pub fn new(vm: Arc<VmFd>) -> Result<Self> {
        vm.create_irq_chip().kvm("create the interrupt controllers")?;
        let interrupts = Interrupts { vm, routes: Mutex::default() };
        interrupts.install(&Routes::default())?;
        Ok(interrupts)
    }

    /// Ties `event` to a pin of the I/O APIC, edge-triggered.
    ///
    /// # Errors
    /// [`Error::Kvm`] where KVM refuses.
    pub fn connect_pin(&self, pin: u32, event: &EventFd) -> Result<()> {
        self.vm.register_irqfd(event, pin).kvm("tie an event to an interrupt pin")
    }

    fn install(&self, routes: &Routes) -> Result<()> {
        let pins = (0..IO_APIC_PINS).map(|pin| {
            let mut entry = kvm_irq_routing_entry {
                gsi: pin,
                type_: KVM_IRQ_ROUTING_IRQCHIP,
                ..Default::default()
            };
            entry.u.irqchip.irqchip = KVM_IRQCHIP_IOAPIC;
            entry.u.irqchip.pin = pin;
            entry
        });
        let messages = routes.messages.iter().map(|(gsi, message)| {
            let mut entry = kvm_irq_routing_entry {
                gsi: gsi.0,
                type_: KVM_IRQ_ROUTING_MSI,
                ..Default::default()
            };
            entry.u.msi.address_lo = message.address as u32;
            entry.u.msi.address_hi = (message.address >> 32) as u32;
            entry.u.msi.data = message.data;
            entry
        });
        let entries: Vec<_> = pins.chain(messages).collect();
        let table = KvmIrqRouting::from_entries(&entries)
            .map_err(|error| io::Error::other(format!("{error:?}")))
            .kvm("build the interrupt routing table")?;
        self.vm.set_gsi_routing(&table).kvm("install the interrupt routing table")
    }
}

impl Lines for Interrupts {
    fn connect(&self, pin: u32, asserted: &EventFd, ended: &EventFd) -> Result<()> {
        let tied = self.vm.register_irqfd_with_resample(asserted, ended, pin);
        tied.kvm("tie a device's interrupt line to a pin")
    }

    fn disconnect(&self, pin: u32, asserted: &EventFd) -> Result<()> {
        self.vm.unregister_irqfd(asserted, pin).kvm("untie a device's interrupt line from a pin")
    }
}

impl Delivery for Interrupts {
    fn reserve(&self) -> Result<Gsi> {
        let mut routes = crate::lock(&self.routes);
        if let Some(gsi) = routes.free.pop() {
            return Ok(gsi);
        }
        let number = FIRST_MSI + routes.reserved;
        if number as usize >= KVM_MAX_IRQ_ROUTES {
            let full = io::Error::from(io::ErrorKind::StorageFull);
            return Err(Error::Kvm { action: "route another interrupt", source: full });
        }
        routes.reserved += 1;
        Ok(Gsi(number))
    }

    fn route(&self, gsi: Gsi, message: Message) -> Result<()> {
        let mut routes = crate::lock(&self.routes);
        let before = routes.messages.insert(gsi, message);
        if before == Some(message) {
            return Ok(());
        }
        let installed = self.install(&routes);
        if installed.is_err() {
            match before {
                Some(message) => routes.messages.insert(gsi, message),
                None => routes.messages.remove(&gsi),
            };
        }
        installed
    }

    fn connect(&self, gsi: Gsi, event: &EventFd) -> Result<()> {
        self.vm.register_irqfd(event, gsi.0).kvm("tie an event to an interrupt")
    }

    fn disconnect(&self, gsi: Gsi, event: &EventFd) -> Result<()> {
        self.vm.unregister_irqfd(event, gsi.0).kvm("untie an event from an interrupt")
    }

    fn release(&self, gsi: Gsi) {
        let mut routes = crate::lock(&self.routes);
        // Its route is left in KVM's table until the next change: nothing leads there.
        routes.messages.remove(&gsi);
        routes.free.push(gsi);
    }
}
