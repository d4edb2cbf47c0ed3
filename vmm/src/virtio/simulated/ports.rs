//! A console of two ports, and programs of the host at these.

use std::io::{Read, Write};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener, UnixStream};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use crate::error::{Result, Trying};
use crate::machine::event_loop::Ready;
use crate::spec::{Descriptor, Port};
use crate::virtio::console::{CLIENTS, LISTENERS, VirtioConsole};

/// The ports, by their numbers. The first one is a console.
pub const NAMES: [&str; 2] = ["hvc", "agent"];
/// Most that a client takes at a time.
const PIECE: usize = 1 << 16;

/// The console, and its clients.
pub struct Ports {
    /// The device.
    pub console: Arc<VirtioConsole>,
    addresses: [SocketAddr; NAMES.len()],
    clients: Mutex<[Vec<UnixStream>; NAMES.len()]>,
}

impl Ports {
    /// Without clients.
    pub fn new() -> Result<Ports> {
        static COUNT: AtomicU64 = AtomicU64::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let address = |name: &str| {
            let name = format!("assign-simulated-{}-{count}-{name}", std::process::id());
            SocketAddr::from_abstract_name(name).system("name a socket")
        };
        let addresses = [address(NAMES[0])?, address(NAMES[1])?];
        let ports = NAMES.iter().zip(&addresses).map(|(name, address)| {
            let listener = UnixListener::bind_addr(address).system("make a socket")?;
            let (name, console) = ((*name).to_owned(), *name == NAMES[0]);
            Ok((Port { name, console, socket: Descriptor(-1) }, listener.into()))
        });
        let console = Arc::new(VirtioConsole::new(ports.collect::<Result<_>>()?)?);
        Ok(Ports { console, addresses, clients: Mutex::default() })
    }

    /// Another client comes to a port.
    pub fn come(&self, port: usize) {
        // Where descriptors are short, nobody comes.
        let Ok(stream) = UnixStream::connect_addr(&self.addresses[port]) else { return };
        if stream.set_nonblocking(true).is_ok() {
            crate::lock(&self.clients)[port].push(stream);
        }
        self.console.ready(LISTENERS | port as u32);
        self.stir(port);
    }

    /// The oldest client of a port leaves.
    pub fn leave(&self, port: usize) {
        let clients = &mut crate::lock(&self.clients)[port];
        if !clients.is_empty() {
            clients.remove(0);
        }
        self.stir(port);
    }

    /// The oldest client of a port says something, as far as there is room for it.
    pub fn say(&self, port: usize, bytes: &[u8]) {
        if let Some(mut client) = crate::lock(&self.clients)[port].first() {
            let _ = client.write(bytes);
        }
        self.stir(port);
    }

    /// What the clients of a port take.
    pub fn take(&self, port: usize) -> Vec<u8> {
        let mut all = Vec::new();
        for mut client in &crate::lock(&self.clients)[port] {
            let mut bytes = vec![0; PIECE];
            let count = client.read(&mut bytes).unwrap_or(0);
            all.extend_from_slice(&bytes[..count]);
        }
        self.stir(port);
        all
    }

    /// All clients leave.
    pub fn clear(&self) {
        crate::lock(&self.clients).iter_mut().for_each(Vec::clear);
        (0..NAMES.len()).for_each(|port| self.stir(port));
    }

    /// What the event loop does where a client has done something.
    fn stir(&self, port: usize) {
        self.console.ready(CLIENTS | port as u32);
    }
}
