//! Passing a host's PCI device through to the guest, by VFIO.
//!
//! The order, each step of which the next one needs (Linux Documentation/driver-api/vfio.rst):
//! ```text
//! KVM's VFIO device ─ I/O address space ─ device, or its group, let in
//!   ─┬─ device opened, which resets it ─ infos ─ shadow config space
//!    │    ─ (guest enables memory) BARs into KVM slots ────────────────────┬─►
//!    └─ guest RAM populated ─ mapped, which pins it ───────────────────────┘
//!   ─ (guest enables bus master) DMA ─ (guest unmasks vectors) events into KVM
//! ```
//! The two branches, of which the first has a thread a device, and the start of the guest go on side
//! by side.
//!
//! [`sys`] is the system interface, one safe method an ioctl; [`arrival`] sets out on both branches;
//! [`dma`] is the address space, by either of the kernel's interfaces; [`filter`] decides what of the
//! configuration space a guest sees; [`region`] and [`rom`] show BARs and the ROM to the guest; [`vectors`] and [`intx`] tie
//! interrupts to events; [`notices`] hears what the host says of a device; [`device`] is the PCI
//! function made of these. [`probe`] is beside all that: a device that no guest has. For tests,
//! `simulated` stands in for KVM, the kernel and devices.

pub mod arrival;
pub mod device;
#[allow(unsafe_code)]
pub mod dma;
pub mod filter;
pub mod intx;
pub mod notices;
#[allow(unsafe_code)]
pub mod probe;
#[allow(unsafe_code)]
pub mod region;
pub mod rom;
#[cfg(any(test, feature = "simulated"))]
#[allow(unsafe_code)]
pub mod simulated;
#[allow(unsafe_code)]
pub mod sys;
pub mod vectors;
