//! Scenarios: what must work on a whole host. Each test boots one (or two) and says what it does
//! there. `cargo lab test` runs them.

mod bad_input;
mod binding;
mod boot;
mod console;
mod control;
mod cpus;
mod device_errors;
mod devices;
mod disks;
mod documents;
mod events;
mod examples;
mod fallback;
mod faults;
mod guests;
mod host_and_doctor;
mod hostile;
mod hotplug;
mod iommufd;
mod isolation;
mod large_bar;
mod leases;
mod lifecycle;
mod limits;
mod looking;
mod machine;
mod nvme;
mod policy;
mod protection;
mod sandbox;
mod snapshot;
mod stats;
mod type1;
mod vf_settings;
mod virtual_functions;
