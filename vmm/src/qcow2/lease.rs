//! Clusters of the file that transfers reach which are under way: none of them is given to anything
//! else meanwhile, whatever the guest discards.

use std::sync::{Arc, Mutex};

/// All leases of an image.
#[derive(Debug, Default)]
pub struct Leases(Mutex<Slots>);

#[derive(Debug, Default)]
struct Slots {
    /// The first cluster and the last of each.
    taken: Vec<Option<(u64, u64)>>,
    free: Vec<usize>,
}

/// One of them; it ends when this is dropped.
#[derive(Debug)]
pub struct Lease {
    of: Arc<Leases>,
    slot: usize,
}

impl Leases {
    /// Takes the clusters from `first` to `last`, which others may have too.
    pub fn take(self: &Arc<Leases>, first: u64, last: u64) -> Lease {
        let slots = &mut *crate::lock(&self.0);
        let slot = slots.free.pop().unwrap_or_else(|| {
            slots.taken.push(None);
            slots.taken.len() - 1
        });
        slots.taken[slot] = Some((first, last));
        Lease { of: self.clone(), slot }
    }

    /// Whether anybody has this cluster.
    pub fn has(&self, cluster: u64) -> bool {
        let slots = crate::lock(&self.0);
        slots.taken.iter().flatten().any(|(first, last)| (*first..=*last).contains(&cluster))
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        let slots = &mut *crate::lock(&self.of.0);
        slots.taken[self.slot] = None;
        slots.free.push(self.slot);
    }
}
