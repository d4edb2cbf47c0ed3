//! The expansion ROM of a passed-through device.
//!
//! A guest reads it a few bytes at a time, and each read of VFIO's region has the kernel enable the ROM,
//! look through its headers and disable it again. So it is read once as a whole, when a guest first
//! wants to see it, and answered from that.

use std::sync::{Arc, OnceLock};

use super::sys::{Device, RegionInfo};
use crate::bus::{Access, Bus};

/// Bytes read at a time: the kernel copies them while it keeps the device's memory from being disabled.
const CHUNK: usize = 64 << 10;

/// A ROM and its place in the guest.
pub struct RomRegion {
    image: Arc<Image>,
    bus: Arc<Bus>,
}

impl RomRegion {
    /// Of the device's region `info`, of at most 16 MiB, for the memory `bus`.
    pub fn new(device: Arc<Device>, info: RegionInfo, bus: Arc<Bus>) -> Self {
        RomRegion { image: Arc::new(Image { device, info, bytes: OnceLock::new() }), bus }
    }

    /// Makes it appear at `address` of the guest. Returns whether there was room.
    pub fn show(&self, address: u64) -> bool {
        self.bus.insert(address, self.image.info.size, self.image.clone()).is_ok()
    }

    /// Takes it away from where [`RomRegion::show`] put it.
    pub fn hide(&self, address: u64) {
        self.bus.remove(address);
    }
}

struct Image {
    device: Arc<Device>,
    info: RegionInfo,
    bytes: OnceLock<Vec<u8>>,
}

impl Image {
    /// What can be read of it; what the device does not answer for reads as ones.
    fn bytes(&self) -> &[u8] {
        self.bytes.get_or_init(|| {
            let mut bytes = vec![0xff; self.info.size as usize];
            for (chunk, at) in bytes.chunks_mut(CHUNK).zip((self.info.offset..).step_by(CHUNK)) {
                // A region may be larger than the images in it, and the kernel then reads less.
                if self.device.read(at, chunk).is_err() {
                    break;
                }
            }
            bytes
        })
    }
}

impl Access for Image {
    fn read(&self, offset: u64, data: &mut [u8]) {
        let bytes = usize::try_from(offset).ok().and_then(|at| self.bytes().get(at..));
        data.fill(0xff);
        for (to, from) in data.iter_mut().zip(bytes.unwrap_or_default()) {
            *to = *from;
        }
    }

    fn write(&self, _offset: u64, _data: &[u8]) {
        // For reading only.
    }
}
