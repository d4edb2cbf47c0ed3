//! A guest without an operating system, whose virtio drivers are another's than Linux' (the crate
//! virtio-drivers): what our devices do is held against a second reading of the standard. It has no
//! interrupts: it looks at the rings until something is there.
//!
//! ```text
//! disk      sees its size and serial number, copies its first half into the second, reads that again,
//!           flushes, and is refused what lies behind its end
//! random    asks twice
//! network   asks for the bridge's address (ARP, RFC 826) more often than its rings are long
//! socket    sends to port 7 of the host, and has it back
//! ```
//! Ends with a line, and powers off.

#![no_std]
#![no_main]
#![no_builtins]

extern crate alloc;

mod checks;
mod machine;
mod runtime;
mod start;

use machine::Bus;
use runtime::{power_off, say};

/// PCI device ids: 0x1040 and the device's type (virtio 1.2, 4.1.2.1).
const NET: u16 = 0x1041;
const BLOCK: u16 = 0x1042;
const ENTROPY: u16 = 0x1044;
const SOCKET: u16 = 0x1053;

/// Called in long mode with a stack.
#[unsafe(no_mangle)]
extern "C" fn run() -> ! {
    let mut bus = Bus::new();
    if let Some(transport) = bus.transport(BLOCK) {
        checks::disk(transport);
    }
    if let Some(transport) = bus.transport(ENTROPY) {
        checks::random(transport);
    }
    if let Some(transport) = bus.transport(NET) {
        checks::network(transport);
    }
    if let Some(transport) = bus.transport(SOCKET) {
        checks::socket(transport);
    }
    say!("all is as it should be");
    power_off()
}
