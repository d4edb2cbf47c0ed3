//! A card's control queue (virtio 1.3, 5.1.6.5), by which a driver says how many pairs of queues it uses.

use std::io::{Read, Write};

use super::feature;
use crate::virtio::Activation;
use crate::virtio::queue::{Broken, Fate, Progress, Queue, work_off};

/// The one command that there is: its class, and its number there (`VIRTIO_NET_CTRL_MQ_VQ_PAIRS_SET`).
const MQ: u8 = 4;
const PAIRS_SET: u8 = 0;
/// Its bytes: those two, and the number of pairs.
const LENGTH: usize = 4;
/// How it went.
const OK: u8 = 0;
const ERROR: u8 = 1;
/// Commands before other devices get their turn: each may take a lock of the host's network.
const BATCH: usize = 2;

/// Does what the driver asks for in queue `index`; `set_pairs` says whether it has so many pairs now. The
/// driver has set up the queues of the first `ready` pairs.
///
/// # Errors
/// [`Broken`] where the rings or a buffer make no sense.
pub fn obey(
    active: &mut Activation,
    index: usize,
    ready: usize,
    mut set_pairs: impl FnMut(usize) -> bool,
) -> Result<Progress, Broken> {
    let agreed = active.features & feature::MQ != 0;
    work_off(active, index, BATCH, |memory, chain| {
        let mut reader = chain.reader(memory)?;
        let mut command = [0; LENGTH];
        let length = reader.available_bytes();
        reader.read_exact(&mut command[..length.min(LENGTH)]).map_err(|_| Broken)?;
        let pairs = match command {
            [MQ, PAIRS_SET, low, high] if length == LENGTH && agreed => {
                usize::from(u16::from_le_bytes([low, high]))
            }
            _ => 0,
        };
        let done = (1..=ready).contains(&pairs) && set_pairs(pairs);
        let mut writer = chain.writer(memory)?;
        if writer.available_bytes() == 0 {
            return Ok(Fate::Used(0));
        }
        writer.write_all(&[if done { OK } else { ERROR }]).map_err(|_| Broken)?;
        Ok(Fate::Used(1))
    })
}

/// The pairs, from the first one on, of which both queues are set up.
pub fn ready_pairs(queues: &[Queue], pairs: usize) -> usize {
    let is_ready = |pair: &&[Queue]| pair.iter().all(Queue::is_ready);
    queues.chunks_exact(2).take(pairs).take_while(is_ready).count()
}
