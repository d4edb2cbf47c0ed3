//! What a driver says in the buffers of a balloon's queues, and how much is done about it at a time: the
//! event loop has other devices to serve.

use std::io::{self, Read};

use vm_memory::{Address, GuestMemoryBackend};

use super::give_back::give_back;
use crate::machine::memory::GuestMemory;
use crate::spec::{BALLOON_PAGE, GuestSays};
use crate::virtio::queue::{Broken, Chain, Fate};

/// Pages of an inflated buffer that are given back in a turn: as many as Linux offers in one.
const MOST_PAGES: usize = 256;
/// Bytes of reported pages that are given back in a turn. The host may have a page for each 4 KiB of them.
const MOST_BYTES: u64 = 16 << 20;

/// Bytes of a statistic: what it is, and its value (virtio 1.3, 5.5.6.3).
const STATISTIC: usize = 10;
/// Statistics of a buffer that are read. There are 16 so far.
const MOST_STATISTICS: usize = 64;

/// What a statistic is (virtio 1.3, 5.5.6.4).
mod tag {
    pub const FREE: u16 = 4;
    pub const TOTAL: u16 = 5;
    pub const AVAILABLE: u16 = 6;
    pub const CACHES: u16 = 7;
}

/// How far a queue's first buffer is done, and what came of all of them.
#[derive(Debug, Default)]
pub struct Giving {
    /// Pages, or bytes, of the first buffer.
    done: u64,
    /// Bytes that the host got back, since the machine's start.
    pub given: u64,
}

impl Giving {
    /// The first buffer is another one.
    pub fn begin_anew(&mut self) {
        self.done = 0;
    }

    /// Gives back the next of the pages whose numbers are in `chain`, as 32 bits each. Where there is no
    /// RAM there is nothing to be given, and the guest may have the number in its balloon all the same.
    ///
    /// # Errors
    /// [`Broken`] where the buffer is not in memory.
    pub fn inflate(
        &mut self,
        memory: &GuestMemory,
        chain: Chain<'_>,
        warn: impl Fn(io::Error),
    ) -> Result<Fate, Broken> {
        let mut reader = chain.reader(memory)?;
        let all = reader.available_bytes() / size_of::<u32>();
        // A driver may have made the buffer shorter meanwhile.
        let done = usize::try_from(self.done).map_or(all, |done| done.min(all));
        let mut reader = reader.split_at(done * size_of::<u32>())?;
        let count = (all - done).min(MOST_PAGES);
        let mut numbers = [[0; size_of::<u32>()]; MOST_PAGES];
        let numbers = &mut numbers[..count];
        reader.read_exact(numbers.as_flattened_mut()).map_err(|_| Broken)?;
        let mut pages = numbers.iter().map(|bytes| u32::from_le_bytes(*bytes)).collect::<Vec<_>>();
        pages.sort_unstable();
        // Neighbours together: it is one call for all of them, and a huge page goes as a whole.
        for run in pages.chunk_by(|page, next| next - page <= 1) {
            let (first, last) = (u64::from(run[0]), u64::from(run[run.len() - 1]));
            let length = (last - first + 1) * BALLOON_PAGE;
            match give_back(memory, first * BALLOON_PAGE, length) {
                Ok(given) => self.given = self.given.saturating_add(given),
                Err(error) => warn(error),
            }
        }
        self.done = (done + count) as u64;
        Ok(self.end_of(all as u64))
    }

    /// Gives back the next of the pages that `chain` consists of, which the guest uses for nothing. It
    /// waits until it has the buffer back before it uses them.
    ///
    /// # Errors
    /// [`Broken`] where they are not in memory.
    pub fn report(
        &mut self,
        memory: &GuestMemory,
        chain: Chain<'_>,
        warn: impl Fn(io::Error),
    ) -> Result<Fate, Broken> {
        let (mut before, mut room) = (0, MOST_BYTES);
        for descriptor in chain.writable() {
            let (start, length) = (descriptor.address, u64::from(descriptor.length));
            if !memory.check_range(start, length as usize) {
                return Err(Broken);
            }
            let skipped = self.done.saturating_sub(before).min(length);
            before += length;
            let part = (length - skipped).min(room);
            if part > 0 {
                match give_back(memory, start.raw_value() + skipped, part) {
                    Ok(given) => self.given = self.given.saturating_add(given),
                    Err(error) => warn(error),
                }
                room -= part;
                self.done += part;
            }
        }
        Ok(self.end_of(before))
    }

    /// What becomes of a buffer of so many pages or bytes.
    fn end_of(&mut self, all: u64) -> Fate {
        if self.done < all {
            return Fate::Kept;
        }
        self.begin_anew();
        Fate::Used(0)
    }
}

/// What a driver says in a buffer of the statistics' queue. It says what it likes: of a statistic that comes
/// twice the last one counts, and unknown ones are left out.
///
/// # Errors
/// [`Broken`] where the buffer is not in memory.
pub fn hear(memory: &GuestMemory, chain: Chain<'_>) -> Result<GuestSays, Broken> {
    let mut reader = chain.reader(memory)?;
    let count = (reader.available_bytes() / STATISTIC).min(MOST_STATISTICS);
    let mut says = GuestSays::default();
    for _ in 0..count {
        let (mut tag, mut value) = ([0; 2], [0; 8]);
        reader
            .read_exact(&mut tag)
            .and_then(|()| reader.read_exact(&mut value))
            .map_err(|_| Broken)?;
        let place = match u16::from_le_bytes(tag) {
            tag::FREE => &mut says.free,
            tag::TOTAL => &mut says.total,
            tag::AVAILABLE => &mut says.available,
            tag::CACHES => &mut says.caches,
            _ => continue,
        };
        *place = Some(u64::from_le_bytes(value));
    }
    Ok(says)
}
