//! What a driver says of a queue before it is used (virtio 1.3, 4.1.4.3, the fields `queue_*`). Nothing of it
//! is believed: a ring is made of it only where all is right.

/// A queue as the driver sets it up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Setup {
    /// The most entries it can have: a power of two.
    pub most: u16,
    /// How many it has, 1 to `most`.
    pub size: u16,
    /// Whether the driver wants it to be used.
    pub is_ready: bool,
    /// Where its descriptor area is: of split rings, the descriptor table.
    pub descriptors: u64,
    /// Where its driver area is: of split rings, the available ring.
    pub driver: u64,
    /// Where its device area is: of split rings, the used ring.
    pub device: u64,
}

impl Setup {
    /// Of a queue of which the driver has said nothing yet.
    pub fn new(most: u16) -> Self {
        Setup { most, size: most, is_ready: false, descriptors: 0, driver: 0, device: 0 }
    }

    /// A size that is none leaves the one that is there, which the driver can read.
    pub fn set_size(&mut self, size: u16) {
        if (1..=self.most).contains(&size) && size.is_power_of_two() {
            self.size = size;
        }
    }
}

/// Replaces the low half of an address, the high one, or both.
pub fn set_address(address: &mut u64, low: Option<u32>, high: Option<u32>) {
    let low = low.unwrap_or(*address as u32);
    let high = high.unwrap_or((*address >> 32) as u32);
    *address = u64::from(high) << 32 | u64::from(low);
}
