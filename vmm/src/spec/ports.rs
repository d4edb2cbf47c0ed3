//! Ports of a virtio-console, and how they are.

use serde::{Deserialize, Serialize};

use super::Descriptor;

/// Most ports of a guest.
pub const MAX_PORTS: usize = 16;
/// Longest name of one, in bytes.
pub const MAX_PORT_NAME: usize = 63;

/// A stream of bytes between a program of the guest and one of its host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Port {
    /// Its name, by which the guest finds it, of no other port: 1 to [`MAX_PORT_NAME`] bytes without control
    /// characters.
    pub name: String,
    /// Whether it is a terminal in the guest.
    #[serde(default)]
    pub console: bool,
    /// A Unix socket of type `SOCK_STREAM` that listens: programs of the host connect to it, and one at a time
    /// is let in.
    pub socket: Descriptor,
}

/// How a port is.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PortStats {
    /// Its name.
    pub name: String,
    /// Whether a program of the host is connected to it.
    pub client: bool,
    /// Whether somebody in the guest uses it, as the guest says: a program that has opened it, or of a console
    /// the driver.
    pub open: bool,
    /// Bytes that went to the guest.
    pub to_guest: u64,
    /// Bytes that went to clients.
    pub from_guest: u64,
    /// Bytes of the guest that nobody took: there was no client, or, of a console, it did not keep up.
    pub lost: u64,
}
