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
    /// Where its descriptor area is: of split rings the descriptor table, of packed ones the ring.
    pub descriptors: u64,
    /// Where its driver area is: of split rings the available ring, of packed ones what the driver wants
    /// to be told.
    pub driver: u64,
    /// Where its device area is: of split rings the used ring, of packed ones what the device wants to be
    /// told.
    pub device: u64,
}

impl Setup {
    /// Of a queue of which the driver has said nothing yet.
    pub fn new(most: u16) -> Self {
        Setup { most, size: most, is_ready: false, descriptors: 0, driver: 0, device: 0 }
    }

    /// A size that is none leaves the one that is there, which the driver can read.
    /// Only a packed ring can have one that is no power of two (virtio 1.3, 2.7 and 2.8.10.1).
    pub fn set_size(&mut self, size: u16, is_packed: bool) {
        if (1..=self.most).contains(&size) && (is_packed || size.is_power_of_two()) {
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
