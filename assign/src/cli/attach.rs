//! `assign attach`: gives a running guest devices.

use clap::Args;
use sriov::{HostSnapshot, PciAddress};

use super::{Context, Format, device, output};
use crate::control::route::Route;
use crate::control::{Attach as Wanted, Attached, client};
use crate::failure::Failure;

/// Arguments of `assign attach`.
#[derive(Debug, Args)]
pub struct Attach {
    /// The guest's name.
    #[arg(value_name = "GUEST")]
    guest: String,
    /// PCI addresses, or interface names; bound to vfio-pci (see `assign bind`). Devices of one IOMMU
    /// group are given together.
    #[arg(value_name = "DEVICE", required_unless_present = "pool", conflicts_with = "pool")]
    devices: Vec<String>,
    /// Instead, a free device of this pool.
    #[arg(long, value_name = "POOL")]
    pool: Option<String>,
}

impl Attach {
    pub fn run(&self, context: &Context) -> Result<u8, Failure> {
        let wanted = Wanted { devices: self.addresses(context)?, pool: self.pool.clone() };
        let attached: Attached =
            client::ask(&context.root, &self.guest, Route::Attach, Some(&wanted))?;
        output::value(context.format, &attached)?;
        if context.format == Format::Table {
            for device in &attached.devices {
                output::text_out(&format!("{} has {device} now", self.guest))?;
            }
        }
        Ok(0)
    }

    fn addresses(&self, context: &Context) -> Result<Vec<PciAddress>, Failure> {
        let snapshot = HostSnapshot::read(&context.root);
        let found = device::find_all(&snapshot, &self.devices)?;
        Ok(found.into_iter().map(|function| function.address).collect())
    }
}
