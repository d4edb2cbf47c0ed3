//! Faults of the IOMMU among the events: whose device it was.

use std::io;
use std::time::{Duration, Instant};

use sriov::dma_fault::Faults;
use sriov::facts::iommu::group_of;
use sriov::watch::{HostEvent, Source, What};
use sriov::{HostRoot, PciAddress};

use crate::cli::Context;

/// The guest that has the device, or one of its group: what lies behind a bridge to conventional PCI
/// carries the bridge's id.
pub fn guest_of(context: &Context, device: PciAddress) -> Option<String> {
    // Where the state cannot be read the fault is told all the same.
    let leases = context.leases().ok()?;
    let group = group_of(&context.root, device);
    let has_it = leases.iter().find(|lease| lease.device == device);
    let has_group = || leases.iter().find(|lease| group.is_some() && lease.group == group);
    has_it.or_else(has_group).map(|lease| lease.guest.clone())
}

/// Follows faults, or says why they are not among the events; the others are followed all the same.
pub fn follow(root: &HostRoot) -> Option<Faults> {
    match Faults::open(root) {
        Ok(faults) => Some(faults),
        Err(error) => {
            anstream::eprintln!(
                "assign: faults of the IOMMU are not told: {}: {error}",
                root.dev("kmsg").display()
            );
            None
        }
    }
}

/// The faults to tell of now, as events.
///
/// # Errors
/// The kernel's, from reading its log.
pub fn take(faults: &mut Option<Faults>, root: &HostRoot) -> io::Result<Vec<HostEvent>> {
    let Some(faults) = faults else { return Ok(Vec::new()) };
    let news = faults.take(Instant::now())?;
    let mut events: Vec<HostEvent> = news.faults.into_iter().map(|one| one.event(root)).collect();
    if news.lost {
        let cause = "the kernel's log was written over before it was read".to_owned();
        let what = What::EventsLost { cause };
        events.push(HostEvent { source: Source::KernelLog, device: None, vf_of: None, what });
    }
    Ok(events)
}

/// How long until there are faults to tell of though nothing comes.
pub fn wait(faults: &Option<Faults>) -> Option<Duration> {
    faults.as_ref().and_then(|faults| faults.wait(Instant::now()))
}
