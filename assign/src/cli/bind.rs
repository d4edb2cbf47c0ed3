//! `assign bind`: gives devices to a driver, and remembers whose they were.

use clap::Args;
use sriov::{Change, HostSnapshot, PciAddress, PciFunction, Target, isolation};

use super::{Context, apply, device};
use crate::apply::Operation;
use crate::apply::policies::Report;
use crate::failure::Failure;
use crate::plan::vfs;
use crate::state::{Lease, Original};

/// Arguments of `assign bind`.
#[derive(Debug, Args)]
pub struct Bind {
    /// PCI addresses, or interface names.
    #[arg(value_name = "DEVICE", required = true)]
    devices: Vec<String>,
    /// The driver that gets them.
    #[arg(long, value_name = "DRIVER", default_value = "vfio-pci")]
    driver: String,
}

impl Bind {
    pub fn run(&self, context: &Context) -> Result<u8, Failure> {
        let found = device::find_all(&HostSnapshot::read(&context.root), &self.devices)?
            .into_iter()
            .map(|function| function.address)
            .collect::<Vec<PciAddress>>();
        let operation = Operation::begin(&context.root, &context.state, "bind")?;
        let snapshot = HostSnapshot::read(&context.root);
        let leases = context.state.leases(&context.root)?;
        let functions: Vec<&PciFunction> =
            found.iter().filter_map(|address| snapshot.function(*address)).collect();
        for function in &functions {
            check(&snapshot, function, &self.driver, &found, &leases)?;
        }
        let bind = |function: &&PciFunction| Change::Bind {
            device: Target::Function(function.address),
            from: sriov::act::bind::binding(function),
            driver: self.driver.clone(),
        };
        let changes: Vec<Change> = functions.iter().map(bind).collect();
        let operation = operation.perform_all(&changes)?;
        let report = Report { changes: operation.done(), notes: Vec::new() };
        let originals = originals(&report.changes, operation.boot_id(), context);
        operation.commit(|state| {
            originals.iter().try_for_each(|original| state.remember_original(original))
        })?;
        apply::show(context, &report, &format!("nothing to do: bound to {} already", self.driver))?;
        Ok(0)
    }
}

/// How the devices of the bindings among `changes` were before.
pub fn originals(changes: &[Change], boot_id: &str, context: &Context) -> Vec<Original> {
    let original = |change: &Change| match change {
        Change::Bind { device, from, driver } => Some(Original {
            device: sriov::act::locate(&context.root, *device).ok()?,
            binding: from.clone(),
            given_to: driver.clone(),
            boot_id: boot_id.to_owned(),
        }),
        _ => None,
    };
    changes.iter().filter_map(original).collect()
}

fn check(
    snapshot: &HostSnapshot,
    function: &PciFunction,
    driver: &str,
    together: &[PciAddress],
    leases: &[Lease],
) -> Result<(), Failure> {
    if function.driver.as_deref() == Some(driver) {
        return Ok(());
    }
    if let Some(lease) = leases.iter().find(|lease| lease.device == function.address) {
        return Err(vfs::leased(lease, &format!("bind it to {driver}")));
    }
    if let Some(failure) = vfs::carries(snapshot, function) {
        return Err(failure);
    }
    if isolation::is_vfio_driver(driver) {
        isolation::viability(snapshot, function, together)
            .map_err(|cause| Failure::not_viable(function.address, &cause))?;
    }
    Ok(())
}
