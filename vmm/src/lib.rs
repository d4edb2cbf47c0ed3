//! A KVM virtual machine monitor for passed-through PCI devices.

pub mod spec;
