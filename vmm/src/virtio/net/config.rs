//! A card's configuration (virtio 1.3, 5.1.4): its address, and whether its link is up, and how
//! many pairs of queues it has.

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};

use crate::virtio::{Changed, read_bytes};

/// The link is up, as the status says it (`VIRTIO_NET_S_LINK_UP`).
const LINK_UP: u16 = 1;
/// A change of the link in [`Config::link`], above the bit that says whether it is up.
const GENERATION: u32 = 1;

/// What a driver reads of its card.
pub struct Config {
    mac: [u8; 6],
    pairs: u16,
    /// Whether the link is up (bit 0), and how often that has changed (above), so that nobody sees one
    /// without the other.
    link: AtomicU32,
    /// How a driver that wants to hear of it is told.
    changed: Mutex<Option<Changed>>,
}

impl Config {
    /// Of a card with this address and so many pairs of queues, whose link is up.
    pub fn new(mac: [u8; 6], pairs: u16) -> Arc<Config> {
        Arc::new(Config { mac, pairs, link: AtomicU32::new(1), changed: Mutex::default() })
    }

    /// How many pairs of queues it has.
    pub fn pairs(&self) -> u16 {
        self.pairs
    }

    /// What messages call the card.
    pub fn name(&self) -> String {
        format!("virtio-net {}", self.mac.map(|byte| format!("{byte:02x}")).join(":"))
    }

    /// Takes the link up or down, and tells the driver where that is news.
    pub fn set_link(&self, up: bool) {
        let change = |link: u32| {
            let count = (link >> GENERATION).wrapping_add(1);
            (link & 1 != u32::from(up)).then_some(count << GENERATION | u32::from(up))
        };
        let is_new = self.link.fetch_update(Ordering::AcqRel, Ordering::Acquire, change).is_ok();
        if let Some(changed) = crate::lock(&self.changed).as_ref().filter(|_| is_new) {
            changed.tell();
        }
    }

    /// Reads what is at `offset`.
    pub(in crate::virtio) fn read(&self, offset: u64, data: &mut [u8]) {
        let is_up = self.link.load(Ordering::Acquire) & 1 != 0;
        let mut bytes = [0; 10];
        bytes[..6].copy_from_slice(&self.mac);
        bytes[6..8].copy_from_slice(&(if is_up { LINK_UP } else { 0 }).to_le_bytes());
        if self.pairs > 1 {
            bytes[8..].copy_from_slice(&self.pairs.to_le_bytes());
        }
        read_bytes(&bytes, offset, data);
    }

    /// As [`VirtioDevice::config_generation`](crate::virtio::VirtioDevice::config_generation).
    pub(in crate::virtio) fn generation(&self) -> u8 {
        (self.link.load(Ordering::Acquire) >> GENERATION) as u8
    }

    /// Who is to be told of changes from now on: a driver that agreed on [`super::feature::STATUS`].
    pub(in crate::virtio) fn tells(&self, driver: Option<Changed>) {
        *crate::lock(&self.changed) = driver;
    }
}
