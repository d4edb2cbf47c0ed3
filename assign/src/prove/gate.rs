//! What stands before memory on this host: the IOMMU as VFIO sets it, and the kernel that tells of
//! faults.

use std::sync::Arc;
use std::time::Instant;

use sriov::dma_fault::{DmaFault, Faults};
use vmm::vfio::probe::{Pages, Probe};

use super::proof::Gate;

/// An open device, and the kernel's log.
pub struct Vfio {
    /// The device.
    pub probe: Probe,
    /// Faults of all devices.
    pub faults: Faults,
}

impl Gate for Vfio {
    fn map(&mut self, iova: u64, pages: &Arc<Pages>, page: usize) -> Result<(), String> {
        self.probe.map(iova, pages, page).map_err(|error| error.to_string())
    }

    fn unmap(&mut self, iova: u64) -> Result<(), String> {
        self.probe.unmap(iova).map_err(|error| error.to_string())
    }

    fn physical(&self, pages: &Pages, page: usize) -> Option<u64> {
        pages.physical(page)
    }

    fn faults(&mut self) -> Result<Vec<DmaFault>, String> {
        let news = self.faults.take(Instant::now());
        let news = news.map_err(|error| format!("the kernel's log cannot be read: {error}"))?;
        Ok(news.faults)
    }

    fn close(&mut self) -> Result<(), String> {
        self.probe.disable().map_err(|error| error.to_string())
    }
}
