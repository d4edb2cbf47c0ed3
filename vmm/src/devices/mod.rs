//! The few devices of the machine that are not on its PCI bus.

pub mod hotplug;
pub mod power;
pub mod serial;
