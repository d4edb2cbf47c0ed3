//! The guest's PCI Express root complex: one segment, bus 0, every device an endpoint on it.
//!
//! [`root`] finds the function a configuration access is for, and [`gate`] has it wait for them;
//! [`config`] holds the registers of a function that is all ours; [`bar`] decides where BARs decode;
//! [`msix`] and [`msi`] turn what a guest writes into kernel-delivered interrupts, one [`vector`] each.
//! Register numbers follow the PCI Express base specification 6.0, chapter 7, under the names of
//! Linux's `pci_regs.h`.

pub mod bar;
pub mod config;
pub mod gate;
pub mod msi;
pub mod msix;
pub mod root;
pub mod vector;

/// Offsets and bits within configuration space.
pub mod register {
    /// Vendor and device id.
    pub const ID: usize = 0x00;
    /// Command, 16 bits.
    pub const COMMAND: usize = 0x04;
    /// Status, 16 bits.
    pub const STATUS: usize = 0x06;
    /// Revision, then the class code in three bytes.
    pub const REVISION: usize = 0x08;
    /// Header type, 8 bits.
    pub const HEADER_TYPE: usize = 0x0e;
    /// First of six BARs of 32 bits.
    pub const BARS: usize = 0x10;
    /// First byte after the BARs.
    pub const BARS_END: usize = 0x28;
    /// Subsystem vendor and id.
    pub const SUBSYSTEM: usize = 0x2c;
    /// Expansion ROM BAR.
    pub const ROM: usize = 0x30;
    /// First byte after it.
    pub const ROM_END: usize = 0x34;
    /// Offset of the first capability, 8 bits.
    pub const CAPABILITIES: usize = 0x34;
    /// Interrupt line and pin.
    pub const INTERRUPT: usize = 0x3c;
    /// First byte after the standard header.
    pub const HEADER_END: usize = 0x40;
    /// End of conventional configuration space, start of the extended capabilities.
    pub const EXTENDED: usize = 0x100;
    /// End of configuration space.
    pub const END: usize = 0x1000;

    /// Command: decode I/O BARs.
    pub const COMMAND_IO: u16 = 1;
    /// Command: decode memory BARs.
    pub const COMMAND_MEMORY: u16 = 2;
    /// Command: may access memory by itself.
    pub const COMMAND_MASTER: u16 = 4;
    /// Command: may not raise INTx.
    pub const COMMAND_INTX_DISABLE: u16 = 1 << 10;
    /// Status: there is a list of capabilities.
    pub const STATUS_CAPABILITIES: u16 = 1 << 4;
    /// Header type: more than one function.
    pub const MULTIFUNCTION: u8 = 0x80;
}

/// Ids of capabilities in conventional configuration space.
pub mod capability {
    /// Power management.
    pub const POWER_MANAGEMENT: u8 = 0x01;
    /// Vendor-specific.
    pub const VENDOR: u8 = 0x09;
    /// Message-signalled interrupts.
    pub const MSI: u8 = 0x05;
    /// PCI Express.
    pub const EXPRESS: u8 = 0x10;
    /// MSI-X.
    pub const MSIX: u8 = 0x11;
}
